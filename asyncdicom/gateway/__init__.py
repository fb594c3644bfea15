"""Store and forward by rules: what comes is kept in the archive, and sent on from there."""

from __future__ import annotations

from asyncdicom.gateway.config import GatewayConfig, GatewayConfigError, parse_gateway, read_gateway
from asyncdicom.gateway.facts import Facts
from asyncdicom.gateway.gateway import Gateway

__all__ = ["Facts", "Gateway", "GatewayConfig", "GatewayConfigError", "parse_gateway", "read_gateway"]
