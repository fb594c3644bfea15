"""`Retrieving`: instances by C-GET, or by C-MOVE to the client itself."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator
from contextlib import aclosing, suppress

from asyncdicom.association import Association, Request
from asyncdicom.exceptions import (
    AssociationAborted,
    AssociationError,
    DataSetError,
    DicomNetworkError,
    LocalProtocolError,
    PresentationContextError,
    StatusError,
)
from asyncdicom.scu.handover import Handover, all_of
from asyncdicom.scu.identifiers import Wanted
from asyncdicom.scu.peering import Method, Peering
from asyncdicom.scu.placing import differs_in
from asyncdicom.scu.planning import Found, divide, find_instances
from asyncdicom.scu.receiver import Kept, Receiver, asked_by
from asyncdicom.scu.results import Instance, Retrieved
from asyncdicom.services.contexts import expand, retrieval_contexts
from asyncdicom.services.responses import Response
from asyncdicom.services.retrieve import Progress, RetrieveOperation, RetrieveResult
from asyncdicom.status import Status
from asyncdicom.telemetry.log import Log

__all__ = ["Retrieving", "Wants"]

log = Log("asyncdicom.scu")

Wants = Callable[[], AsyncGenerator[Wanted, None]]
"""What is to be retrieved: it may have to be found first."""

_IN_MEMORY = 64 << 20  # bytes of instances that wait for who iterates
_LARGEST_IN_MEMORY = 512 << 20
_RECONNECTIONS = 10
_REMEMBERED = 10_000  # instances that were refused
_STRAGGLERS = 10.0  # seconds after the end of a C-MOVE for what its peer says it has sent

# How a peer says that it has no C-GET after all.
_NO_GET = {Status.SOP_CLASS_NOT_SUPPORTED, Status.UNRECOGNIZED_OPERATION}


class Retrieving:
    """A retrieval: `async for` gives each `Instance` as it comes, `await` all at the end (`Retrieved`).

    `result` is what has come of it so far. Leaving the loop early, or a cancellation, ends the retrieval:
    C-CANCEL is sent, and no part of a file stays behind.
    """

    def __init__(
        self,
        peering: Peering,
        wants: Wants,
        *,
        to: str | os.PathLike[str] | None,
        on_progress: Callable[[Progress], None] | None,
        maximum_instances: int,
    ) -> None:
        self.result = Retrieved()
        self._peering = peering
        self._wants = wants
        self._to = to
        self._on_progress = on_progress
        self._room = maximum_instances
        self._handover: Handover[Instance] = Handover(_IN_MEMORY, lambda one: len(one.data or b""))
        self._is_started = False
        self._failure: StatusError | None = None

    def __await__(self) -> Generator[object, None, Retrieved]:
        return self._whole().__await__()

    async def _whole(self) -> Retrieved:
        if self._to is None:
            raise ValueError("say where to retrieve to: retrieve(..., to=FOLDER), or iterate: async for")
        async with aclosing(aiter(self)) as outcomes:
            async for _ in outcomes:
                pass
        return self.result

    def __aiter__(self) -> AsyncGenerator[Instance, None]:
        self._peering.check_open()
        if self._is_started:
            raise LocalProtocolError("this retrieval was started before; ask for a new one")
        self._is_started = True
        return self._handover.taken(self._run, self._peering.running)

    async def _run(self) -> None:
        next_one = asyncio.Lock()
        try:
            # As many at a time as there are associations; one C-GET is alone on its association.
            async with aclosing(self._wants()) as wants:
                await all_of(self._work(wants, next_one) for _ in range(self._peering.associations))
        except DicomNetworkError as error:
            raise error.having(self.result) from error.__cause__
        if self._failure is not None:
            raise self._failure.having(self.result)

    async def _work(self, wants: AsyncIterator[Wanted], next_one: asyncio.Lock) -> None:
        while True:
            async with next_one:
                wanted = await anext(wants, None)
            if wanted is None:
                return
            await _One(self, wanted).retrieve()

    # what the parts report

    def take(self, instance: Instance) -> Awaitable[bool]:
        """Count an instance and hand it over."""
        self.result.instances.append(instance._replace(data=None))
        return self._handover.put(instance)

    def reserve(self) -> bool:
        """Whether one more may come."""
        self._room -= 1
        return self._room >= 0

    @property
    def is_over(self) -> bool:
        """Whether nobody wants more."""
        return self._handover.is_closed

    def tell_progress(self, progress: Progress) -> None:
        """Tell who wants to know."""
        if self._on_progress is not None:
            self._on_progress(progress)

    def ended(self, told: RetrieveResult, failed: dict[str, str], number_failed: int, method: Method) -> None:
        """Add up how one retrieval ended."""
        result = self.result
        result.methods.add(method)
        result.failed |= failed
        result.number_failed += number_failed
        if _severity(told.status) > _severity(result.status):
            result.status = told.status
        result.error_comment = result.error_comment or told.error_comment
        if told.status.is_failure and self._failure is None:
            self._failure = StatusError(Response(told.status, error_comment=told.error_comment))

    @property
    def to(self) -> str | os.PathLike[str] | None:
        """The folder."""
        return self._to

    @property
    def peering(self) -> Peering:
        """The peer."""
        return self._peering


def _severity(status: Status) -> tuple[bool, bool]:
    return not status.is_success, status.is_failure


class _Arriving:
    """The handler of one retrieval's C-STORE requests."""

    def __init__(self, whole: Retrieving, wanted: Wanted) -> None:
        self.got: set[str] = set()
        self.refused: dict[str, str] = {}
        self.more = asyncio.Event()
        self._whole = whole
        self._asked = asked_by(wanted.identifier)
        peering = whole.peering
        # A C-MOVE originator should be our AE title (PS3.7 9.1.1.1.8); some peers name their own.
        originators = (peering.calling_ae_title, peering.address.ae_title)
        self._receiver = (
            None
            if whole.to is None
            else Receiver(whole.to, asked=wanted.identifier, move_originators=originators)
        )

    async def __call__(self, request: Request) -> Response:
        uid = request.affected_sop_instance_uid
        if self._whole.is_over:
            return self._no(request, Status.OUT_OF_RESOURCES, "the retrieval was cancelled")
        if not self._whole.reserve():  # one that comes again counts, too: it may be another file each time
            return self._no(request, Status.OUT_OF_RESOURCES, "more instances than maximum_instances")
        response, kept, data = await self._taken(request)
        if kept is None:
            self._refuse(uid, response.error_comment or str(response.status))
        elif uid not in self.got:
            self.got.add(uid)
            self.refused.pop(uid, None)
            await self._whole.take(
                Instance(
                    uid,
                    request.affected_sop_class_uid,
                    request.transfer_syntax_uid,
                    kept.size,
                    kept.path,
                    data,
                )
            )
        self.more.set()
        return response

    async def _taken(self, request: Request) -> tuple[Response, Kept | None, bytes | None]:
        if self._receiver is not None:
            return *await self._receiver.take(request), None
        try:
            data = await request.data.read(_LARGEST_IN_MEMORY)
        except DataSetError as error:
            return self._no(request, Status.OUT_OF_RESOURCES, f"{error}; retrieve to a folder"), None, None
        why = differs_in(data, request.transfer_syntax_uid, self._asked)
        if why is not None:
            return self._no(request, Status.NOT_AUTHORIZED, why), None, None
        return Response(Status.SUCCESS), Kept(None, len(data)), data

    def _refuse(self, uid: str, why: str) -> None:
        if len(self.refused) < _REMEMBERED:  # a peer may send any number that nobody asked for
            self.refused.setdefault(uid, why)

    def _no(self, request: Request, status: Status, why: str) -> Response:
        uid = request.affected_sop_instance_uid
        self._refuse(uid, why)
        log.warning("%s: refused %s: %s", request.incoming.channel, uid, why)
        request.incoming.is_told = True
        return Response(status, error_comment=why.partition(": ")[0])


class _One:
    """One study, series or instance that is retrieved."""

    def __init__(self, whole: Retrieving, wanted: Wanted) -> None:
        self._whole = whole
        self._peering = whole.peering
        self._wanted = wanted
        self._arriving = _Arriving(whole, wanted)
        self._found: list[Found] = []
        self._told: list[RetrieveResult] = []

    async def retrieve(self) -> None:
        """Retrieve it, on more than one association if need be."""
        method = await self._plan()
        for attempt in range(_RECONNECTIONS + 1):
            before = len(self._arriving.got)
            try:
                method = await self._retrieve(method, again=attempt > 0)
                break
            except AssociationError as error:
                if attempt == _RECONNECTIONS or len(self._arriving.got) == before:
                    raise
                log.warning("%s: %s; what has not come is asked for again", self._peering.address, error)
                self._whole.result.reconnected += 1
        self._account(method)

    # how

    async def _plan(self) -> Method:
        """Ask what there is, and find out whether the peer has C-GET."""
        peering, wanted = self._peering, self._wanted
        if peering.method == "move":
            return self._move_method()
        get = wanted.sop_class("get")

        async def plan(association: Association) -> bool:
            accepted = {context.abstract_syntax for context in association.contexts.values()}
            if get in accepted:
                self._found = await find_instances(association, wanted)
            return get in accepted

        try:
            has_get = await peering.ask([wanted.sop_class("find"), get], plan)
        except AssociationAborted as error:  # some abort what they do not answer
            log.info("the peer does not tell what there is (%s): usual contexts are proposed", error)
            has_get = True
        if has_get:
            return "get"
        log.info("%s has no C-GET", peering.address)
        return self._move_method()

    def _move_method(self) -> Method:
        if self._peering.listening is None:
            raise PresentationContextError(
                f"{self._peering.address} takes no C-GET; it may send by C-MOVE if it knows this client: "
                'Client(..., listen="AET@host:port"), the address that it has for the AE title'
            )
        return "move"

    async def _retrieve(self, method: Method, *, again: bool) -> Method:
        """Give the method that it was done by: the peer may have no C-GET after all."""
        if method == "get":
            can_move = self._peering.listening is not None and self._peering.method is None
            try:
                told = await self._get(again)
                is_done = not (told.status in _NO_GET and can_move)
            except (PresentationContextError, AssociationAborted) as error:
                if not can_move or self._arriving.got:
                    raise
                log.info("%s: no C-GET (%s): C-MOVE is tried", self._peering.address, error)
                is_done = False
            if is_done:
                self._peering.method = "get"
                return "get"
            self._told.clear()
        await self._move()
        self._peering.method = "move"
        return "move"

    async def _get(self, again: bool) -> RetrieveResult:
        wanted, arriving = self._wanted, self._arriving
        left = [found for found in self._found if found.sop_instance_uid not in arriving.got]
        shares = divide(left, wanted, one_by_one=again) if left or not again or not self._found else []
        self._told.clear()
        told = RetrieveResult(Status.SUCCESS, 0, 0, 0, ())
        for share in shares:
            contexts = [*expand([wanted.sop_class("get")]), *retrieval_contexts(share.pairs)]
            async with self._peering.pool.acquire(contexts, alone=True) as association:
                for identifier in share.identifiers:
                    told = await self._follow(
                        association.c_get(identifier, information_model=wanted.model, c_store=arriving)
                    )
                self._peering.used.add(association)
        return told

    async def _move(self) -> None:
        listening = self._peering.listening
        if listening is None:
            raise LocalProtocolError("C-MOVE needs an address to listen on")
        wanted = self._wanted
        self._told.clear()
        async with (
            listening.receiving(self._arriving) as title,
            self._peering.pool.acquire([wanted.sop_class("move")]) as association,
        ):
            operation = association.c_move(
                wanted.identifier, information_model=wanted.model, move_destination=title
            )
            told = await self._follow(operation)
            await self._stragglers(told)
            self._peering.used.add(association)
        if told.status == Status.MOVE_DESTINATION_UNKNOWN:
            log.warning(
                "%s has no address for the AE title %s: it has to be told", self._peering.address, title
            )

    async def _follow(self, operation: RetrieveOperation) -> RetrieveResult:
        """Run it to its end: a Failure is a result, too."""
        try:
            async with operation:
                async for progress in operation:
                    self._whole.tell_progress(progress)
        except StatusError:
            pass
        self._told.append(operation.result)
        return operation.result

    async def _stragglers(self, told: RetrieveResult) -> None:
        """Wait for what the peer says it has sent: its last response may overtake the instances."""
        arriving, listening = self._arriving, self._peering.listening
        with suppress(TimeoutError):
            async with asyncio.timeout(_STRAGGLERS):
                while (
                    len(arriving.got) + len(arriving.refused) < told.completed + told.warning
                    and listening is not None
                    and listening.is_receiving
                ):
                    arriving.more.clear()
                    with suppress(TimeoutError):  # to see whether it has left
                        async with asyncio.timeout(0.1):
                            await arriving.more.wait()

    # what came of it

    def _account(self, method: Method) -> None:
        arriving = self._arriving
        worst = max(self._told, key=lambda told: _severity(told.status), default=None)
        if worst is None:
            worst = RetrieveResult(Status.SUCCESS, 0, 0, 0, ())
        failed = dict(arriving.refused)
        for told in self._told:
            why = told.error_comment or f"the peer says {told.status}"
            failed |= {uid: failed.get(uid, why) for uid in told.failed_sop_instance_uids}
        for found in self._found:
            if found.sop_instance_uid not in arriving.got:
                failed.setdefault(found.sop_instance_uid, worst.error_comment or "the peer did not send it")
        failed = {uid: why for uid, why in failed.items() if uid not in arriving.got}
        number = sum(told.failed for told in self._told)
        if method == "move":
            claimed = sum(told.completed + told.warning for told in self._told)
            missing = max(claimed - len(arriving.got) - len(arriving.refused), 0)
            number = max(number, len(failed)) + missing
            if missing and worst.error_comment is None:
                worst = worst._replace(
                    error_comment=f"{missing} that the peer counts as sent did not come here: see "
                    "where it sends them to"
                )
        number = max(number, len(failed))
        if number and worst.status.is_success:
            worst = worst._replace(status=Status.SUB_OPERATIONS_WARNING)
        self._whole.ended(worst, failed, number, method)
