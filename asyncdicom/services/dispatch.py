"""Incoming requests: which service performs them, and what an error is answered with."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from asyncdicom.access import EVERYTHING, Grant, refused_operation
from asyncdicom.dimse.messages import Command, CommandField, response_to
from asyncdicom.exceptions import AssociationError, StatusError
from asyncdicom.net.operation import IncomingRequest, Interrupted
from asyncdicom.services import account, query, retrieve, storage, verification
from asyncdicom.services.handlers import Handlers, Request, Response
from asyncdicom.status import Status
from asyncdicom.telemetry.log import Log
from asyncdicom.ul.negotiation import AcceptedContext

__all__ = ["Dispatcher"]

log = Log("asyncdicom.services")

Provider = Callable[[IncomingRequest, Request, Handlers], Awaitable[Response]]

_PROVIDERS: dict[CommandField, Provider] = {
    CommandField.C_ECHO_RQ: verification.provide,
    CommandField.C_STORE_RQ: storage.provide,
    CommandField.C_FIND_RQ: query.provide,
    CommandField.C_GET_RQ: retrieve.provide_get,
    CommandField.C_MOVE_RQ: retrieve.provide_move,
}

# What a handler that raised is answered with (the rest: 0110H, PS3.7 Annex C.5.15).
_CANNOT_UNDERSTAND = frozenset(
    {CommandField.C_STORE_RQ, CommandField.C_FIND_RQ, CommandField.C_GET_RQ, CommandField.C_MOVE_RQ}
)


class Dispatcher:
    """Performs the requests of an association with the handlers it was given, as far as it may."""

    __slots__ = ("grant", "handlers")

    def __init__(self, handlers: Handlers) -> None:
        self.handlers = handlers
        self.grant: Grant = EVERYTHING

    async def __call__(self, incoming: IncomingRequest) -> None:
        """Perform one request and send its final response."""
        response = await self._perform(incoming)
        final = response_to(incoming.command, response.status, **response.fields())
        try:
            await incoming.channel.performer.respond(incoming, final, response.data)
        finally:
            account.tell(incoming, response)

    def at_once(self, context: AcceptedContext, command: Command) -> Command | None:
        """Give the response to a request that needs no handler's work."""
        if command.command_field is not CommandField.C_ECHO_RQ or self.handlers.c_echo is not None:
            return None
        if not context.as_scp or command.affected_sop_class_uid not in (None, context.abstract_syntax):
            return None
        if refused_operation(self.grant, command) is not None:
            return None
        return response_to(command, Status.SUCCESS)

    async def _perform(self, incoming: IncomingRequest) -> Response:
        command = incoming.command
        provider = _PROVIDERS.get(command.command_field)
        if provider is None:
            return Response(Status.UNRECOGNIZED_OPERATION)
        refused = refused_operation(self.grant, command)
        if refused is not None:
            incoming.remark = "refused: no permission"
            return Response(refused)
        sop_class = command.affected_sop_class_uid
        if not incoming.context.as_scp or sop_class not in (None, incoming.context.abstract_syntax):
            return Response(Status.SOP_CLASS_NOT_SUPPORTED)
        try:
            return await provider(incoming, Request(incoming), self.handlers)
        except Interrupted:
            return Response(Status.OUT_OF_RESOURCES if incoming.is_stalled else Status.CANCEL)
        except StatusError as error:
            return error.response if isinstance(error.response, Response) else Response(error.status)
        except asyncio.CancelledError:
            if asyncio.current_task().cancelling():  # type: ignore[union-attr]
                raise  # the association is lost
            return self._failed(incoming)
        except AssociationError:
            if incoming.channel.failure is not None:
                raise  # there is nobody to answer
            return self._failed(incoming)
        except Exception:
            return self._failed(incoming)

    def _failed(self, incoming: IncomingRequest) -> Response:
        command = incoming.command
        log.exception("%s: the handler of %s %s failed", incoming.channel, command.name, command.message_id)
        understood = command.command_field not in _CANNOT_UNDERSTAND
        status = Status.PROCESSING_FAILURE if understood else Status.CANNOT_UNDERSTAND
        return Response(status, error_comment="internal error")
