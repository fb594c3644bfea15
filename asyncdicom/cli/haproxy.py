"""``asyncdicom haproxy``: the configuration of HAProxy for the nodes of one archive."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click

from asyncdicom.access import ANYBODY, AccessPolicy
from asyncdicom.address import Address
from asyncdicom.cli.config import ConfigError, read_config
from asyncdicom.cli.run import EXIT_CODES, FAILED, OK, complain
from asyncdicom.options import of_role
from asyncdicom.ul.negotiation import PresentationContext, propose
from asyncdicom.ul.pdu import AReleaseRP, AReleaseRQ

__all__ = ["CHECKER", "command", "configuration"]

CHECKER = "HAPROXY"  # the calling AE title of the checks
_VERIFICATION = "1.2.840.10008.1.1"
_IMPLICIT = "1.2.840.10008.1.2"
_TIMES = "inter 2s fastinter 500ms downinter 1s fall 2 rise 1"
_NOTICED = 3  # seconds until a node that fails the checks gets nobody any more, by these times
_LONGER = 30  # seconds that HAProxy waits longer than the nodes: they know what a connection waits for
_A_DAY = 86_400
_A_ASSOCIATE_AC = b"\x02"  # the type of the PDU (PS3.8 9.3.3)


@click.command(epilog=EXIT_CODES)
@click.argument("config", type=click.Path(exists=True, dir_okay=False), metavar="CONFIG")
@click.option(
    "--node", "nodes", multiple=True, metavar="HOST:PORT", help="Where a node listens; may be repeated."
)
@click.option("--listen", default="*:104", metavar="HOST:PORT", show_default=True, help="Where callers call.")
@click.option(
    "--admin",
    default="/run/haproxy/admin.sock",
    metavar="FILE",
    show_default=True,
    help="The socket by which HAProxy is administered.",
)
def command(config: str, nodes: tuple[str, ...], listen: str, admin: str) -> int:
    """Write the configuration of HAProxy (2.4 or later) for the nodes that serve CONFIG.

    \b
    asyncdicom haproxy archive.toml --node 10.0.0.1:11112 --node 10.0.0.2:11112 > haproxy.cfg
    haproxy -c -f haproxy.cfg

    A new association goes to the node with the fewest. Each node is asked for an association with
    Verification every two seconds, and is told who calls (PROXY protocol, version 2). A node that gets
    SIGTERM fails that before it takes nobody any more, and lets its associations end. To take one out that
    goes on: echo "set server dicom/node1 state drain" | socat stdio /run/haproxy/admin.sock
    """
    try:
        read = read_config(config)
    except ConfigError as error:
        return complain("asyncdicom haproxy", str(error), FAILED)
    try:
        text = configuration(read, nodes or [_own(read)], listen, admin, made_from=config)
    except ValueError as error:
        return complain("asyncdicom haproxy", f"{config}: {error}", FAILED)
    for warning in _missing(read):
        complain("asyncdicom haproxy", f"{config}: {warning}", OK)
    print(text, end="")
    return OK


def _own(config: dict[str, Any]) -> str:
    if "port" not in config:
        raise ConfigError("it names no port; say where the nodes listen: --node HOST:PORT")
    return Address("", config.get("host", "127.0.0.1"), config["port"]).place


def configuration(
    config: dict[str, Any], nodes: Iterable[str], listen: str, admin: str, *, made_from: str
) -> str:
    """Give the text of ``haproxy.cfg`` for a configuration as `read_config` gives it.

    Raises ValueError for a node that is no "host:port", and `ConfigError` where no AE title is named.
    """
    if "ae_title" not in config:
        raise ConfigError("it names no ae_title, by which the checks have to call")
    places = [Address.parse(f"NODE@{node}").place for node in nodes]
    seconds = _seconds(config)
    lines = [
        f"# Made by asyncdicom haproxy from {made_from}.",
        "global",
        "    log stdout format raw local0 notice",
        f"    stats socket {admin} mode 660 level admin",
        "",
        "defaults",
        "    mode tcp",
        "    log global",
        "    timeout connect 5s",
        "    timeout check 5s",
        f"    timeout client {seconds}s",
        f"    timeout server {seconds}s",
        "    option redispatch 1",
        "    option clitcpka",
        "    option srvtcpka",
        "",
        "frontend callers",
        f"    bind {listen}",
        "    default_backend dicom",
        "",
        "# No maxconn: HAProxy would close callers without a word, where a node says 'local limit exceeded'.",
        "backend dicom",
        "    balance leastconn",
        *_check(config),
        f"    default-server {_TIMES} send-proxy-v2 check-send-proxy{_of_tls(config)}",
        *(f"    server node{number} {place} check" for number, place in enumerate(places, 1)),
    ]
    return "".join(f"{line}\n" for line in lines)


def _seconds(config: dict[str, Any]) -> int:
    """How long a connection may be silent: longer than the nodes let it be."""
    times = config["timeouts"]
    waits = (of_role(times.idle, requestor=False), times.handler, times.handler_deadline or 0)
    return _A_DAY if None in waits else int(max(waits)) + _LONGER


def _check(config: dict[str, Any]) -> list[str]:
    """What a node is asked: for an association and its release, where no certificate has to be shown."""
    lines = [
        "    option tcp-check",
        "    tcp-check connect default",
    ]  # as the server says: behind a header, by TLS
    if config.get("tls", {}).get("trusted"):
        return lines  # more would take a certificate
    request = propose(
        [PresentationContext(_VERIFICATION, (_IMPLICIT,))],
        called_ae_title=config["ae_title"],
        calling_ae_title=CHECKER,
    ).encode()
    return [
        *lines,
        f"    tcp-check send-binary {request.hex()}",
        f"    tcp-check expect binary {_A_ASSOCIATE_AC.hex()}",
        f"    tcp-check send-binary {AReleaseRQ().encode().hex()}",
        f"    tcp-check expect binary {AReleaseRP().encode()[:1].hex()}",
    ]


def _of_tls(config: dict[str, Any]) -> str:
    """The checks speak TLS themselves; callers' TLS passes through."""
    tls = config.get("tls", {})
    return " check-ssl verify none" if tls and not tls.get("trusted") else ""


def _missing(config: dict[str, Any]) -> Iterable[str]:
    """Say what the nodes' configuration lacks for a balancer."""
    access = config["access"]
    if not access.get("proxies"):
        yield "it has no proxies = [...]: add the balancer's address, or nobody gets in who comes through it"
    policy = AccessPolicy(peers=access["peers"] or None)
    if not config.get("tls", {}).get("trusted") and not {CHECKER, ANYBODY} & policy.peers.keys():
        yield f'the checks call as {CHECKER}, who is no peer: add {CHECKER} = "" to [peers]'
    times = config["timeouts"]
    if min(times.drain, times.drain_notice) < _NOTICED:
        yield (
            f"the balancer notices after {_NOTICED} s that a node is about to end: "
            f"drain_notice and drain of [timeouts] are {times.drain_notice:g} and {times.drain:g} s"
        )
