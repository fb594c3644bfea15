"""DIMSE-N: N-CREATE, N-SET, N-GET, N-ACTION, N-DELETE and N-EVENT-REPORT for any SOP class (PS3.7 10.1)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from asyncdicom.dimse.messages import Command, CommandField
from asyncdicom.net.channel import Channel
from asyncdicom.services import account
from asyncdicom.services.classes import (
    COMPOSITE_ONLY,
    SPEAKS_FOR,
    permission_of,
    service_class_of,
)
from asyncdicom.services.contexts import find_normalized_context
from asyncdicom.services.request import NormalizedHandler, Request
from asyncdicom.services.responses import (
    Answer,
    Identifier,
    Response,
    encode_identifier,
    final_response,
    response_of,
)
from asyncdicom.services.service import Service
from asyncdicom.status import Status
from asyncdicom.uid import is_valid_uid, new_uid
from asyncdicom.ul.negotiation import AcceptedContext

__all__ = ["NORMALIZED_HANDLERS", "NormalizedService", "invoke"]

NORMALIZED_HANDLERS = {
    "n_create": CommandField.N_CREATE_RQ,
    "n_set": CommandField.N_SET_RQ,
    "n_get": CommandField.N_GET_RQ,
    "n_action": CommandField.N_ACTION_RQ,
    "n_delete": CommandField.N_DELETE_RQ,
    "n_event_report": CommandField.N_EVENT_REPORT_RQ,
}
"""The name of a handler -> the request that it answers."""


# As the invoker.


async def invoke(
    channel: Channel,
    command_field: CommandField,
    sop_class_uid: str,
    data_set: Identifier | None = None,
    *,
    context: str | AcceptedContext | None = None,
    timeout: float | None = None,
    sop_instance_uid: str | None = None,
    **fields: Any,
) -> Response:
    """Send a DIMSE-N request and wait for its response; `fields` are those that only this request has."""
    accepted = find_normalized_context(
        channel,
        sop_class_uid,
        command_field,
        action_type_id=fields.get("action_type_id"),
        context=context,
    )
    named = SPEAKS_FOR.get(sop_class_uid, sop_class_uid)
    which = "affected" if command_field in _AFFECTED else "requested"
    data = None if data_set is None else encode_identifier(data_set, accepted.transfer_syntax)
    command = Command(
        command_field,
        has_data_set=data is not None,
        **{f"{which}_sop_class_uid": named, f"{which}_sop_instance_uid": sop_instance_uid},
        **fields,
    )
    operation = await channel.invoker.invoke(accepted, command, data, timeout=timeout)
    response = await final_response(channel, operation)
    if response.sop_instance_uid is None:
        response.sop_instance_uid = sop_instance_uid
    return response


_AFFECTED = (CommandField.N_CREATE_RQ, CommandField.N_EVENT_REPORT_RQ)


# As the performer.


class NormalizedService(Service):
    """Gives DIMSE-N requests to handlers: coroutine functions of the request, one an operation.

    A handler reads `request.attributes()`, and answers with a status, with the data set of the response (a
    pydicom Dataset, a mapping of keywords, or encoded bytes: then the status is Success), or with a
    `Response`. What an N-CREATE creates without a UID of the peer's gets one before the handler is asked
    (`request.sop_instance_uid`).

    `sop_classes`: what is offered; any SOP class that `contexts=` of `serve` names is taken, too. An access
    policy calls it as the service class ("mpps", "ups", "print", "commitment", "ian"), or else "normalized".
    """

    name = "normalized"

    def __init__(
        self,
        *,
        sop_classes: Iterable[str] = (),
        n_create: NormalizedHandler | None = None,
        n_set: NormalizedHandler | None = None,
        n_get: NormalizedHandler | None = None,
        n_action: NormalizedHandler | None = None,
        n_delete: NormalizedHandler | None = None,
        n_event_report: NormalizedHandler | None = None,
    ) -> None:
        handlers = (n_create, n_set, n_get, n_action, n_delete, n_event_report)
        self._handlers: dict[CommandField, NormalizedHandler] = {
            field: handler
            for field, handler in zip(NORMALIZED_HANDLERS.values(), handlers, strict=True)
            if handler is not None
        }
        self.sop_classes = tuple(sop_classes)
        self.commands = frozenset(self._handlers)
        # An event report comes from the SCP. Some SCPs that open an association for it do not negotiate
        # roles.
        self.as_scu = CommandField.N_EVENT_REPORT_RQ in self.commands

    def takes(self, abstract_syntax: str) -> bool:
        """Every SOP class that is not of Verification, storage, query and retrieval alone."""
        return abstract_syntax not in COMPOSITE_ONLY and service_class_of(abstract_syntax) not in _COMPOSITE

    def permission_for(self, abstract_syntax: str) -> str:
        """Give the name of the service class, where it has one."""
        return permission_of(abstract_syntax, self.name)

    async def perform(self, request: Request) -> Answer:
        """Ask the handler."""
        command = request.command
        missing = _what_is_missing(request.incoming.channel, command)
        if missing is not None:
            return missing
        assigned = None
        if command.command_field is CommandField.N_CREATE_RQ and command.affected_sop_instance_uid is None:
            assigned = command.affected_sop_instance_uid = new_uid()
        result = await request.incoming.guard(self._handlers[command.command_field](request))
        response = _response_of(result, command.command_field)
        if assigned is not None and response.status.is_failure:
            command.affected_sop_instance_uid = None  # nothing was created under it
        return response


_COMPOSITE = (
    "verification",
    "storage",
    "non-patient-object-storage",
    "media-storage",
    "real-time-communication",
)


def _what_is_missing(channel: Channel, command: Command) -> Response | None:
    """Why a request cannot be meant, by PS3.7 10.3; the SOP class may be left out, the context has it."""
    field = command.command_field
    if field in _AFFECTED:
        uid, is_needed = command.affected_sop_instance_uid, field is not CommandField.N_CREATE_RQ
    else:
        uid, is_needed = command.requested_sop_instance_uid, True
    if uid is None and is_needed:
        return Response(Status.INVALID_SOP_INSTANCE, error_comment="no SOP Instance UID")
    if uid is not None and not is_valid_uid(uid) and not account.takes(channel, uid):
        return Response(Status.INVALID_SOP_INSTANCE, error_comment="invalid SOP Instance UID")
    if field is CommandField.N_ACTION_RQ and command.action_type_id is None:
        return Response(Status.NO_SUCH_ACTION, error_comment="no Action Type ID")
    if field is CommandField.N_EVENT_REPORT_RQ and command.event_type_id is None:
        return Response(Status.NO_SUCH_EVENT_TYPE, error_comment="no Event Type ID")
    if field is CommandField.N_SET_RQ and not command.has_data_set:
        return Response(Status.MISSING_ATTRIBUTE, error_comment="no Modification List")
    return None


def _response_of(result: Any, command_field: CommandField) -> Response:
    """Make a response of what a handler returned."""
    is_data_set = hasattr(result, "keys") or isinstance(result, bytes)
    if not is_data_set:
        return response_of(result)
    if command_field is CommandField.N_DELETE_RQ:
        raise TypeError("PS3.7 gives the response to N-DELETE no data set")
    return Response(Status.SUCCESS, attributes=result)
