"""Retrieve: C-GET and C-MOVE (PS3.4 Annex C.4.2 and C.4.3), one engine for both.

They differ in how the instances leave: C-GET sends them back on the same association, C-MOVE on
another one, to a destination that the provider knows.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import NamedTuple

from asyncdicom.data.elements import decode as decode_elements
from asyncdicom.data.elements import encode as encode_elements
from asyncdicom.destination import Destination
from asyncdicom.dimse.messages import Command, CommandField, Priority, response_to
from asyncdicom.dimse.suboperations import SubOperations
from asyncdicom.exceptions import AssociationError, DicomNetworkError, PresentationContextError
from asyncdicom.net.channel import Channel
from asyncdicom.net.operation import IncomingRequest, Interrupted, Reply
from asyncdicom.net.payload import Source, reading_ahead
from asyncdicom.net.reasons import in_short
from asyncdicom.services import storage
from asyncdicom.services.classes import C_GET_CLASSES, C_MOVE_CLASSES
from asyncdicom.services.contexts import find_context, groups_for_contexts, storage_contexts
from asyncdicom.services.failures import Failures
from asyncdicom.services.request import OpenAssociation, Request, Retrieval, RetrieveHandler, StoreHandler
from asyncdicom.services.responses import (
    Answer,
    Identifier,
    Response,
    ResponseStream,
    encode_identifier,
    response_of,
)
from asyncdicom.services.service import Service
from asyncdicom.status import Status
from asyncdicom.uid import PATIENT_ROOT, PATIENT_STUDY_ONLY, SOP_CLASSES, STORAGE, STUDY_ROOT
from asyncdicom.ul.negotiation import ANY_TRANSFER_SYNTAX

__all__ = ["GetService", "MoveService", "Progress", "RetrieveOperation", "RetrieveResult", "retrieve"]

_FAILED_SOP_INSTANCE_UID_LIST = 0x00080058
_MAXIMUM_LOSSES = 10  # associations to a destination that one C-MOVE loses before it gives up


class Progress(NamedTuple):
    """The counters of one Pending response; -1 where the peer did not tell."""

    remaining: int
    completed: int
    failed: int
    warning: int

    @property
    def total(self) -> int:
        """All sub-operations, done or not."""
        return sum(count for count in self if count > 0)


class RetrieveResult(NamedTuple):
    """How a C-GET or C-MOVE ended."""

    status: Status
    completed: int
    failed: int
    warning: int
    failed_sop_instance_uids: tuple[str, ...]


# As SCU.


class RetrieveOperation(ResponseStream[Progress, RetrieveResult]):
    """A C-GET or C-MOVE: iterate over its `Progress`, or await its `RetrieveResult`."""

    failed_sop_instance_uids: tuple[str, ...] = ()
    """The Failed SOP Instance UID List of the final response."""

    def _pending(self, reply: Reply) -> Progress:
        return _progress(reply.command)

    def _final(self, reply: Reply) -> None:
        if reply.data:
            self.failed_sop_instance_uids = _read_failed(reply.data, self._context.transfer_syntax)

    @property
    def result(self) -> RetrieveResult:
        """How it ended; only when it has."""
        if self.response is None or self.response.command is None:
            raise DicomNetworkError("the retrieval has not ended yet")
        counters = _progress(self.response.command)
        return RetrieveResult(
            self.response.status,
            max(counters.completed, 0),
            max(counters.failed, 0),
            max(counters.warning, 0),
            self.failed_sop_instance_uids,
        )

    async def _whole(self) -> RetrieveResult:
        async with self:
            pass  # leaving the block waits for the end
        return self.result


def _progress(command: Command) -> Progress:
    counts = (
        command.number_of_remaining_sub_operations,
        command.number_of_completed_sub_operations,
        command.number_of_failed_sub_operations,
        command.number_of_warning_sub_operations,
    )
    return Progress(*(-1 if count is None else count for count in counts))


def _read_failed(data: bytes, transfer_syntax_uid: str) -> tuple[str, ...]:
    for element in decode_elements(data, transfer_syntax_uid):
        if element.tag == _FAILED_SOP_INSTANCE_UID_LIST:
            text = bytes(element.value).decode("ascii", "replace")
            return tuple(uid for uid in (part.strip("\0 ") for part in text.split("\\")) if uid)
    return ()


def retrieve(
    channel: Channel,
    command_field: CommandField,
    sop_class_uid: str,
    identifier: Identifier,
    *,
    move_destination: str | None = None,
    priority: int = Priority.MEDIUM,
    timeout: float | None = None,
    receiver: StoreHandler | None = None,
) -> RetrieveOperation:
    """Prepare a C-GET or C-MOVE; it starts with ``async with`` or ``await``."""
    context = find_context(channel, sop_class_uid)
    command = Command(
        command_field,
        affected_sop_class_uid=sop_class_uid,
        priority=Priority(priority),
        move_destination=move_destination,
    )
    data = encode_identifier(identifier, context.transfer_syntax)
    return RetrieveOperation(channel, context, command, data, timeout, receiver)


# As SCP.

StoreOne = Callable[[Source], Awaitable[Response]]
FindDestination = Callable[[Request], Destination | None]
_MODELS = (PATIENT_ROOT, STUDY_ROOT, PATIENT_STUDY_ONLY)


class GetService(Service):
    """Performs C-GET: `handler`, a coroutine function, says what is sent on the same association."""

    name = "retrieval by C-GET"
    permission = "get"
    sop_classes = tuple(model.get for model in _MODELS)
    commands = frozenset({CommandField.C_GET_RQ})

    def __init__(self, handler: RetrieveHandler) -> None:
        self.c_get = handler

    def invoked(self) -> Mapping[str, tuple[str, ...]]:
        """The C-STOREs go the other way: we are their SCU."""
        return dict.fromkeys(STORAGE, ANY_TRANSFER_SYNTAX)

    def takes(self, abstract_syntax: str) -> bool:
        """Every SOP class that has C-GET, and what the standard does not know."""
        return abstract_syntax in C_GET_CLASSES or abstract_syntax not in SOP_CLASSES

    async def perform(self, request: Request) -> Answer:
        """Send what the handler wants sent (PS3.4 C.4.3.3)."""
        return await provide_get(request.incoming, request, self)


class MoveService(Service):
    """Performs C-MOVE: `handler`, a coroutine function, says what is sent to the Move Destination.

    `destination` finds the `Destination` for the request that names it (None: unknown), `open_association`
    opens the association that the instances are sent on.
    """

    name = "retrieval by C-MOVE"
    permission = "move"
    sop_classes = tuple(model.move for model in _MODELS)
    commands = frozenset({CommandField.C_MOVE_RQ})

    def __init__(
        self, handler: RetrieveHandler, destination: FindDestination, open_association: OpenAssociation
    ) -> None:
        self.c_move = handler
        self.destination = destination
        self.open_association = open_association

    def takes(self, abstract_syntax: str) -> bool:
        """Every SOP class that has C-MOVE, and what the standard does not know."""
        return abstract_syntax in C_MOVE_CLASSES or abstract_syntax not in SOP_CLASSES

    async def perform(self, request: Request) -> Answer:
        """Send what the handler wants sent (PS3.4 C.4.2.3)."""
        return await provide_move(request.incoming, request, self)


async def provide_get(incoming: IncomingRequest, request: Request, handlers: GetService) -> Response:
    """Send what the handler wants sent on this association (PS3.4 C.4.3.3)."""
    retrieval = await incoming.guard(handlers.c_get(request))
    if not isinstance(retrieval, Retrieval):
        return response_of(retrieval)
    priority = incoming.command.priority or Priority.MEDIUM

    async def store(source: Source) -> Response:
        return await storage.store(incoming.channel, source, priority=priority)

    operations = SubOperations(len(retrieval.sources))
    failures = Failures(f"{incoming.channel}: C-GET")
    await _perform(incoming, operations, retrieval.sources, store, failures)
    return _final(incoming, operations, failures)


async def provide_move(incoming: IncomingRequest, request: Request, handlers: MoveService) -> Response:
    """Send what the handler wants sent to the Move Destination (PS3.4 C.4.2.3)."""
    destination = handlers.destination(request)
    if destination is None:
        incoming.remark = "refused: an unknown destination"
        return Response(Status.MOVE_DESTINATION_UNKNOWN)
    retrieval = await incoming.guard(handlers.c_move(request))
    if not isinstance(retrieval, Retrieval):
        return response_of(retrieval)
    operations = SubOperations(len(retrieval.sources))
    failures = Failures(f"{incoming.channel}: C-MOVE to {destination.where}")
    groups = groups_for_contexts(retrieval.sources)
    losses = 0
    while groups and not incoming.is_interrupted:
        try:
            left = await _move(incoming, request, handlers, destination, groups[0], operations, failures)
        except Interrupted:
            break
        except AssociationError as error:  # that it could not be opened
            incoming.channel.check_open()
            failures.add(f"destination: {in_short(error)}", str(error))
            _give_up(operations, groups)
            break
        if not left:
            del groups[0]
            continue
        groups[0] = left
        losses += 1
        if losses == _MAXIMUM_LOSSES:
            failures.add(f"destination: {losses} associations were lost")
            _give_up(operations, groups)
            break
    return _final(incoming, operations, failures)


def _give_up(operations: SubOperations, groups: Sequence[Sequence[Source]]) -> None:
    for group in groups:
        for source in group:
            operations.failed(source.sop_instance_uid)


async def _move(
    incoming: IncomingRequest,
    request: Request,
    handlers: MoveService,
    destination: Destination,
    sources: Sequence[Source],
    operations: SubOperations,
    failures: Failures,
) -> list[Source]:
    """Send over one association to the destination; gives what is left when that is lost.

    Raises `AssociationError` if it cannot be opened, `Interrupted` if that is not wanted any more.
    """
    originator = (request.calling_ae_title, request.message_id)
    priority = incoming.command.priority or Priority.MEDIUM
    async with AsyncExitStack() as stack:
        opening = handlers.open_association(destination, storage_contexts(sources))
        association = await incoming.guard(stack.enter_async_context(opening))

        async def store(source: Source) -> Response:
            return await association.c_store(source, priority=priority, move_originator=originator)

        return await _perform(incoming, operations, sources, store, failures)


async def _perform(
    incoming: IncomingRequest,
    operations: SubOperations,
    sources: Sequence[Source],
    store: StoreOne,
    failures: Failures,
) -> list[Source]:
    """Send one after another, telling the peer after each; gives what a lost association left over."""
    for index, source in enumerate(reading_ahead(sources)):
        if incoming.is_interrupted:
            break
        lost = await _store_one(incoming, operations, source, store, failures)
        pending = response_to(incoming.command, Status.PENDING, **operations.counters())
        if operations.number_of_remaining:
            await incoming.channel.performer.respond(incoming, pending)
        if lost:
            return list(sources[index + 1 :])
    return []


async def _store_one(
    incoming: IncomingRequest,
    operations: SubOperations,
    source: Source,
    store: StoreOne,
    failures: Failures,
) -> bool:
    """Do one sub-operation and count it; True if its association was lost."""
    uid = source.sop_instance_uid
    try:
        status = (await store(source)).status
    except AssociationError as error:
        incoming.channel.check_open()
        operations.failed(uid)
        failures.add(f"destination: {in_short(error)}", f"{uid}: {error}")
        return True
    except (DicomNetworkError, OSError) as error:
        incoming.channel.check_open()
        operations.failed(uid)
        _explain(failures, uid, error)
        return False
    if status.is_success:
        operations.completed()
    elif status.is_warning:
        operations.warned(uid)
    else:
        operations.failed(uid)
        failures.add(f"an instance was refused with 0x{status:04X}", f"{uid} was refused with {status}")
    return False


def _explain(failures: Failures, uid: str, error: DicomNetworkError | OSError) -> None:
    if isinstance(error, PresentationContextError):
        failures.add("an instance has no presentation context", f"{uid}: {error}")
    elif isinstance(error, OSError):
        failures.add(f"an instance cannot be read: {in_short(error)}", f"{uid}: {error}", is_ours=True)
    else:
        failures.add("an instance cannot be sent", f"{uid}: {error}", is_ours=True)


def _final(incoming: IncomingRequest, operations: SubOperations, failures: Failures) -> Response:
    status = Status(operations.final_status(incoming.is_cancelled))
    data = None
    if operations.failed_uids and not status.is_success:
        value = _backslashed(operations.failed_uids)
        element = (_FAILED_SOP_INSTANCE_UID_LIST, "UI", value)
        data = encode_elements([element], incoming.context.transfer_syntax)
    return Response(
        status,
        error_comment=failures.comment,
        counters=operations.counters(remaining=incoming.is_cancelled),
        data=data,
    )


def _backslashed(uids: list[str]) -> bytes:
    # An explicit UI holds at most 65,534 bytes: what does not fit can only be counted.
    value = "\\".join(uids).encode("ascii", "replace")
    return value if len(value) <= 65534 else value[: value.rindex(b"\\", 0, 65534)]
