"""Retrieve: C-GET and C-MOVE (PS3.4 Annex C.4.2 and C.4.3), one engine for both.

They differ in how the instances leave: C-GET sends them back on the same association, C-MOVE on
another one, to a destination that the provider knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from asyncdicom.data.elements import decode as decode_elements
from asyncdicom.dimse.messages import Command, CommandField, Priority
from asyncdicom.exceptions import AssociationError, DataSetError, DicomNetworkError
from asyncdicom.net.channel import Channel, IncomingRequest
from asyncdicom.net.operation import Interrupted, Reply
from asyncdicom.net.reasons import in_short
from asyncdicom.net.sources import Source
from asyncdicom.net.turns import turns
from asyncdicom.services import storage
from asyncdicom.services.arrivals import Arrivals, RetrieveResult, corrected
from asyncdicom.services.classes import C_GET_CLASSES, C_MOVE_CLASSES
from asyncdicom.services.contexts import (
    Kind,
    contexts_for,
    find_context,
    groups_of_kinds,
    in_order,
    sendable_kinds,
)
from asyncdicom.services.request import (
    LazySources,
    OpenAssociation,
    Request,
    Retrieval,
    RetrieveHandler,
    StoreHandler,
    Storer,
)
from asyncdicom.services.responses import (
    Answer,
    Identifier,
    Response,
    ResponseStream,
    encode_identifier,
    response_of,
)
from asyncdicom.services.service import Service
from asyncdicom.services.suboperations import FAILED_SOP_INSTANCE_UID_LIST, SubOperationSender
from asyncdicom.status import Status
from asyncdicom.telemetry.log import Log
from asyncdicom.uid import (
    NON_PATIENT_OBJECT_STORAGE,
    PATIENT_ROOT,
    PATIENT_STUDY_ONLY,
    SOP_CLASSES,
    STORAGE,
    STUDY_ROOT,
)
from asyncdicom.ul.negotiation import ANY_TRANSFER_SYNTAX

if TYPE_CHECKING:
    from asyncdicom.destination import Destination

__all__ = ["GetService", "MoveService", "Progress", "RetrieveOperation", "RetrieveResult", "retrieve"]

log = Log("asyncdicom.services")

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


# As SCU.


class RetrieveOperation(ResponseStream[Progress, RetrieveResult]):
    """A C-GET or C-MOVE: iterate over its `Progress`, or await its `RetrieveResult`.

    `response` and `failed_sop_instance_uids` are what the peer tells, `result` is what is known here.
    """

    failed_sop_instance_uids: tuple[str, ...] = ()
    """The Failed SOP Instance UID List of the final response."""
    progress: Progress | None = None
    """The counters of the last Pending response."""

    @property
    def status(self) -> Status | None:
        """The final status (that of `result`), once the operation has ended."""
        return None if self.response is None else self.result.status

    async def _next(self) -> Reply | None:
        reply = await super()._next()
        if reply is not None:
            self.progress = _progress(reply.command)
        return reply

    def _pending(self, reply: Reply) -> Progress | None:
        return self.progress

    def _so_far(self) -> RetrieveResult | Progress | None:
        return self.progress if self.response is None else self.result

    def _final(self, reply: Reply) -> None:
        if reply.data:
            try:
                self.failed_sop_instance_uids = _read_failed(reply.data, self._context.transfer_syntax)
            except DataSetError as error:  # how it ended is in the counters
                log.warning("%s: the list of failed instances cannot be read: %s", self._channel, error)

    @property
    def result(self) -> RetrieveResult:
        """How it ended; only when it has."""
        if self.response is None or self.response.command is None:
            raise DicomNetworkError("the retrieval has not ended yet")
        counters = _progress(self.response.command)
        told = RetrieveResult(
            self.response.status,
            max(counters.completed, 0),
            max(counters.failed, 0),
            max(counters.warning, 0),
            self.failed_sop_instance_uids,
            self.response.error_comment,
        )
        return told if self._receiver is None else corrected(told, self._receiver, self._under_way())

    def _under_way(self) -> int:
        """C-STOREs that the peer did not wait for."""
        performing = self._channel.performer.performing
        return sum(
            request.command.command_field is CommandField.C_STORE_RQ and not request.answered
            for request in performing
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
    for element in decode_elements(data, transfer_syntax_uid, strict=False):
        if element.tag == FAILED_SOP_INSTANCE_UID_LIST:
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
    """Prepare a C-GET or C-MOVE; it starts with `async with` or `await`."""
    context = find_context(channel, sop_class_uid)
    command = Command(
        command_field,
        affected_sop_class_uid=sop_class_uid,
        priority=Priority(priority),
        move_destination=move_destination,
    )
    data = encode_identifier(identifier, context.transfer_syntax)
    arrivals = Arrivals(receiver) if command_field is CommandField.C_GET_RQ else None
    return RetrieveOperation(channel, context, command, data, timeout, arrivals)


# As SCP.

FindDestination: TypeAlias = Callable[[Request], "Destination | None"]

_SENT = dict.fromkeys((*STORAGE, *NON_PATIENT_OBJECT_STORAGE), ANY_TRANSFER_SYNTAX)
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
        return _SENT

    def prefer(self, sop_class_uid: str, transfer_syntaxes: tuple[str, ...]) -> Sequence[str]:
        """First what most can be sent as."""
        return in_order(transfer_syntaxes, {})

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
    await turns().take(incoming.channel)
    retrieval = await incoming.guard(handlers.c_get(request))
    if not isinstance(retrieval, Retrieval):
        return response_of(retrieval)
    channel, priority = incoming.channel, incoming.command.priority or Priority.MEDIUM

    async def store(source: Source, on_sent: Callable[[], None]) -> Response:
        return await storage.store(channel, source, priority=priority, on_sent=on_sent)

    work = SubOperationSender(incoming, len(retrieval.sources), "C-GET")
    negotiated = channel.negotiated
    work.add(1 if negotiated is None else negotiated.operations_invoked, store)
    accepted = sendable_kinds(channel)
    try:
        async with aclosing(_each(retrieval.sources)) as sources:
            await work.perform(sources, accepted)
    finally:
        retrieval.ended()
    return work.final(retrieval.comment)


async def provide_move(incoming: IncomingRequest, request: Request, handlers: MoveService) -> Response:
    """Send what the handler wants sent to the Move Destination (PS3.4 C.4.2.3)."""
    destination = handlers.destination(request)
    if destination is None:
        incoming.remark = "refused: an unknown destination"
        return Response(Status.MOVE_DESTINATION_UNKNOWN)
    await turns().take(incoming.channel)
    retrieval = await incoming.guard(handlers.c_move(request))
    if not isinstance(retrieval, Retrieval):
        return response_of(retrieval)
    work = SubOperationSender(incoming, len(retrieval.sources), f"C-MOVE to {destination.where}")
    try:
        for kinds in groups_of_kinds(_kinds(retrieval.sources)):
            # One pass over the sources for each group: one, unless more than 128 contexts are needed.
            async with aclosing(_each(retrieval.sources, kinds)) as sources:
                is_lost = True
                while is_lost and not incoming.is_interrupted:
                    is_lost = await _move(incoming, request, handlers, destination, sources, kinds, work)
    finally:
        retrieval.ended()
    return work.final(retrieval.comment)


async def _move(
    incoming: IncomingRequest,
    request: Request,
    handlers: MoveService,
    destination: Destination,
    sources: AsyncIterator[Source | None],
    kinds: Collection[Kind],
    work: SubOperationSender,
) -> bool:
    """Send over one association to the destination; True if it was lost and may be tried again."""
    originator = (request.calling_ae_title, request.message_id)
    priority = incoming.command.priority or Priority.MEDIUM
    contexts = contexts_for(kinds)
    if work.losses >= _MAXIMUM_LOSSES:
        await work.fail(sources, f"destination: {work.losses} associations were lost")
        return False

    def use(association: Storer) -> None:
        async def store(source: Source, on_sent: Callable[[], None]) -> Response:
            return await association.c_store(
                source, priority=priority, move_originator=originator, on_sent=on_sent
            )

        work.add(association.operations_invoked, store)

    def opening() -> AbstractAsyncContextManager[Storer]:
        return handlers.open_association(destination, contexts)

    more = min(destination.associations, destination.maximum_associations, work.number_of_remaining) - 1
    try:
        async with AsyncExitStack() as stack:
            use(await incoming.guard(stack.enter_async_context(opening())))
            async with _further(more, opening, use):
                return await work.perform(sources, kinds)
    except Interrupted:
        return False
    except AssociationError as error:  # that it could not be opened
        incoming.channel.check_open()
        await work.fail(sources, f"destination: {in_short(error)}", str(error))
        return False


@asynccontextmanager
async def _further(
    number: int, opening: Callable[[], AbstractAsyncContextManager[Storer]], use: Callable[[Storer], None]
) -> AsyncGenerator[None, None]:
    """Open more associations while the first one is at work; those that fail are done without."""
    opened: set[asyncio.Task[None] | None] = set()
    is_done = asyncio.Event()

    async def keep() -> None:
        try:
            async with opening() as association:
                opened.add(asyncio.current_task())
                use(association)
                await is_done.wait()
        except AssociationError as error:
            log.info("a C-MOVE goes on without one more association: %s", error)

    tasks = [asyncio.create_task(keep()) for _ in range(number)]
    try:
        yield
        is_done.set()  # these are released
    finally:
        for task in tasks:
            if not is_done.is_set() or task not in opened:
                task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def _kinds(sources: Sequence[Source] | LazySources) -> list[Kind]:
    if not isinstance(sources, Sequence):
        return sorted(sources.kinds)
    return list(dict.fromkeys((source.sop_class_uid, source.transfer_syntax_uid) for source in sources))


async def _each(
    sources: Sequence[Source] | LazySources, kinds: Collection[Kind] | None = None
) -> AsyncGenerator[Source | None, None]:
    """Give the sources (those of some kinds) while the next one is being read, if it is a small file."""
    previous: list[Source | None] = []
    async for source in _one_by_one(sources):
        if source is not None:
            if kinds is not None and (source.sop_class_uid, source.transfer_syntax_uid) not in kinds:
                continue
            if (read_ahead := getattr(source, "read_ahead", None)) is not None:
                read_ahead()
        if previous:
            yield previous.pop()
        previous.append(source)
    if previous:
        yield previous.pop()


async def _one_by_one(sources: Sequence[Source] | LazySources) -> AsyncGenerator[Source | None, None]:
    if isinstance(sources, Sequence):
        for source in sources:
            yield source
        return
    async for lazy in sources:
        yield lazy
