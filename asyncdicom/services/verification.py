"""Verification: C-ECHO (PS3.4 Annex A)."""

from __future__ import annotations

from asyncdicom.dimse.messages import Command, CommandField
from asyncdicom.net.channel import Channel
from asyncdicom.services.contexts import find_context
from asyncdicom.services.request import EchoHandler, Request
from asyncdicom.services.responses import Answer, Response, final_response
from asyncdicom.services.service import Service
from asyncdicom.status import Status
from asyncdicom.uid import VERIFICATION

__all__ = ["Verification", "echo"]


async def echo(channel: Channel, *, timeout: float | None = None) -> Response:
    """Ask the peer whether it is there."""
    context = find_context(channel, VERIFICATION)
    command = Command(CommandField.C_ECHO_RQ, affected_sop_class_uid=VERIFICATION)
    return await final_response(channel, await channel.invoker.invoke(context, command, timeout=timeout))


class Verification(Service):
    """Answers C-ECHO: with Success, or as `handler` says, a coroutine function of the request."""

    name = "verification"
    permission = "echo"
    sop_classes = (VERIFICATION,)
    commands = frozenset({CommandField.C_ECHO_RQ})

    def __init__(self, handler: EchoHandler | None = None) -> None:
        self.handler = handler
        self.at_once = Status.SUCCESS if handler is None else None

    async def perform(self, request: Request) -> Answer:
        """Ask the handler."""
        if self.handler is None:
            return Status.SUCCESS
        return await request.incoming.guard(self.handler(request))
