"""The operations that the peer invokes and that we perform: one task each."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Protocol

from asyncdicom.dimse.association import AssociationCore
from asyncdicom.dimse.messages import Command, CommandField, response_to
from asyncdicom.exceptions import AssociationError
from asyncdicom.net.inbox import Inbox
from asyncdicom.net.operation import Performed
from asyncdicom.net.outbox import Outbox
from asyncdicom.net.stream import DataStream
from asyncdicom.status import Status
from asyncdicom.telemetry.log import Log
from asyncdicom.ul.negotiation import AcceptedContext
from asyncdicom.ul.statetable import State

__all__ = ["Dispatch", "Performer"]

log = Log("asyncdicom.association")


class Dispatch(Protocol):
    """What is done with requests (`services.dispatch.Dispatcher`)."""

    def at_once(self, context: AcceptedContext, command: Command) -> Command | None:
        """Give the response to a request that needs no work."""

    async def __call__(self, incoming: Performed[Any]) -> None:
        """Perform a request and respond to it."""

    def association_ended(self) -> None:
        """The association, which was established, is over."""


class Performer:
    """Runs the dispatcher for each request, and sends what it answers.

    `make` makes the request that the dispatcher gets; `carry_out` is called when the core may have something
    to be done; `create_task` is the event loop's; `spawn` runs something that ends with the association;
    `abort` aborts it for a reason.
    """

    __slots__ = (
        "_abort",
        "_cancel_timeout",
        "_carry_out",
        "_core",
        "_create_task",
        "_inbox",
        "_make",
        "_name",
        "_outbox",
        "_spawn",
        "_time",
        "_waiting",
        "dispatcher",
        "performing",
    )

    def __init__(
        self,
        core: AssociationCore,
        inbox: Inbox,
        outbox: Outbox,
        *,
        make: Callable[[AcceptedContext, Command, DataStream | None], Performed[Any]],
        name: object,
        cancel_timeout: float,
        time: Callable[[], float],
        carry_out: Callable[[], None],
        create_task: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        abort: Callable[[str], None],
    ) -> None:
        self.dispatcher: Dispatch | None = None  # until it is known who the peer is, nothing is performed
        self.performing: set[Performed[Any]] = set()  # until their task has ended
        self._core = core
        self._inbox = inbox
        self._outbox = outbox
        self._make = make
        self._name = name
        self._cancel_timeout = cancel_timeout
        self._time = time
        self._carry_out = carry_out
        self._create_task = create_task
        self._spawn = spawn
        self._abort = abort
        self._waiting: dict[Performed[Any], asyncio.Future[None]] = {}  # C-STOREs that came before their turn

    @property
    def tasks(self) -> set[asyncio.Task[None]]:
        """What performs the requests that are under way."""
        return {request.task for request in self.performing if request.task is not None}

    def start(self, context: AcceptedContext, command: Command, now: float) -> None:
        """Begin to perform a request; its data set is fed to the inbox."""
        data = None
        if command.has_data_set:
            inbox = self._inbox
            data = inbox.stream = DataStream(
                context.transfer_syntax,
                command.affected_sop_class_uid or context.abstract_syntax,
                command.affected_sop_instance_uid or "",
                taken=inbox.taken,
                is_held_back=inbox.is_held_back,
            )
        elif self._answer_at_once(context, command):
            self._core.performed(command, now)
            return
        request = self._make(context, command, data)
        request.began = now
        self.performing.add(request)
        request.task = self._create_task(self._perform(request))

    def _answer_at_once(self, context: AcceptedContext, command: Command) -> bool:
        # A C-ECHO that no handler asked for costs no task.
        dispatcher = self.dispatcher
        answer = dispatcher.at_once(context, command) if dispatcher is not None else None
        return answer is not None and self._outbox.send_at_once(context.context_id, answer)

    async def _perform(self, request: Performed[Any]) -> None:
        try:
            if self._comes_too_early(request):
                await self._turn(request)
            if self.dispatcher is not None:
                await self.dispatcher(request)
        except AssociationError as error:
            log.debug("%s: message %s was not answered: %s", self._name, request.command.message_id, error)
        except Exception:
            message_id = request.command.message_id
            log.exception("%s: message %s cannot be answered; aborting", self._name, message_id)
            self._abort("a request could not be answered")
        finally:
            self._end(request)

    def _comes_too_early(self, request: Performed[Any]) -> bool:
        """Whether the peer runs ahead of the window by this C-STORE: its handler may count on the window."""
        negotiated = self._core.negotiated
        window = negotiated.operations_performed if negotiated is not None else 0
        if not window or len(self.performing) <= window or not _is_store(request):
            return False
        return sum(_is_store(other) for other in self.performing) - len(self._waiting) > window

    async def _turn(self, request: Performed[Any]) -> None:
        """Wait until one of those before it has ended."""
        turn = self._waiting[request] = asyncio.get_running_loop().create_future()
        try:
            await turn
        finally:
            self._waiting.pop(request, None)

    def _end(self, request: Performed[Any], task: asyncio.Task[None] | None = None) -> None:
        if request in self.performing:
            if request.data is not None:
                request.data.discard()
            self.performing.discard(request)
            if self._waiting and _is_store(request):
                self._wake_next()
            self._core.performed(request.command, self._time())
            self._carry_out()

    def _wake_next(self) -> None:
        following = next(iter(self._waiting))
        turn = self._waiting.pop(following)  # from here on it counts as one that is performed
        if not turn.done():
            turn.set_result(None)

    async def respond(self, request: Performed[Any], command: Command, data: bytes | None = None) -> None:
        """Send a response to a request; what follows a final one is ignored.

        The rest of the request's data set is thrown away first: a peer that still sends does not read.
        """
        if request.answered:
            return
        request.answered = not Status(command.status or 0).is_pending
        if request.answered:
            self._core.responding(request.command)
        if request.data is not None and not request.data.is_complete:
            request.data.discard()
            await request.data.finished()
        is_report = request.command.command_field is CommandField.N_EVENT_REPORT_RQ
        if is_report and self._core.state is State.STA7:
            return  # our A-RELEASE-RQ has left: nothing may follow it (PS3.8 9.2.1)
        others = not request.answered or len(self.performing) > 1
        await self._outbox.send(request.context.context_id, command, data, soon=others)

    def cancel(self, command: Command) -> None:
        """C-CANCEL came for this request: stop the handler, or answer without it if it does not stop."""
        for request in self.performing:
            if request.command is command and not request.answered:
                self._interrupt(request)

    def _interrupt(self, request: Performed[Any], *, stalled: bool = False) -> None:
        request.interrupt(stalled=stalled)
        request.channel.call_later(self._cancel_timeout, self._give_up, request)

    def _give_up(self, request: Performed[Any]) -> None:
        if request.answered or self._core.failure is not None or request not in self.performing:
            return
        message_id = request.command.message_id
        log.warning("%s: the handler of message %s ignores its cancellation", self._name, message_id)
        self._spawn(self.respond(request, response_to(request.command, request.given_up_status)))

    def give_up(self, request: Performed[Any]) -> None:
        """A handler has worked for too long: stop it, and answer for it."""
        message_id = request.command.message_id
        log.warning("%s: the handler of message %s took too long", self._name, message_id)
        self._interrupt(request, stalled=True)

    def unstick(self) -> bool:
        """Give up the handlers that have left data waiting for too long; False if there is none."""
        stuck = [request for request in self.performing if request.data is not None and request.data.waiting]
        for request in stuck:
            message_id = request.command.message_id
            log.warning("%s: the handler of message %s makes no progress", self._name, message_id)
            self._interrupt(request, stalled=True)
            if request.data is not None:
                request.data.discard()
        return bool(stuck)

    def fail(self, error: AssociationError) -> None:
        """The association has ended: tell whoever reads a data set, and cancel the handlers."""
        for request in self.performing:
            if request.data is not None:
                request.data.fail(copy.copy(error))
            if request.task is not None:
                request.task.cancel()
                # A task that is cancelled before its first step runs nothing, not even `finally`.
                request.task.add_done_callback(partial(self._end, request))


def _is_store(request: Performed[Any]) -> bool:
    return request.command.command_field is CommandField.C_STORE_RQ
