"""Verification: C-ECHO (PS3.4 Annex A)."""

from __future__ import annotations

from asyncdicom.dimse.messages import Command, CommandField
from asyncdicom.net.channel import Channel
from asyncdicom.net.operation import IncomingRequest
from asyncdicom.services.contexts import find_context
from asyncdicom.services.handlers import Handlers, Request, Response
from asyncdicom.services.single import final_response, outcome
from asyncdicom.status import Status
from asyncdicom.uid import VERIFICATION

__all__ = ["echo", "provide"]


async def echo(channel: Channel, *, timeout: float | None = None) -> Response:
    """Ask the peer whether it is there."""
    context = find_context(channel, VERIFICATION)
    command = Command(CommandField.C_ECHO_RQ, affected_sop_class_uid=VERIFICATION)
    return await final_response(channel, await channel.invoker.invoke(context, command, timeout=timeout))


async def provide(incoming: IncomingRequest, request: Request, handlers: Handlers) -> Response:
    """Answer a C-ECHO: Success unless a handler says otherwise."""
    if handlers.c_echo is None:
        return Response(Status.SUCCESS)
    return outcome(await incoming.guard(handlers.c_echo(request)))
