"""The operations that we invoke on an association: their window, their responses, their end."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from typing import Any

from asyncdicom.dimse.association import AssociationCore
from asyncdicom.dimse.events import CommandDropped, OperationFailed, ResponseReceived
from asyncdicom.dimse.messages import MESSAGES, Command, CommandField
from asyncdicom.exceptions import AssociationError, LocalProtocolError
from asyncdicom.net.inbox import Inbox
from asyncdicom.net.operation import Operation, Reply
from asyncdicom.net.outbox import Outbox
from asyncdicom.net.sources import Source
from asyncdicom.ul.negotiation import AcceptedContext

__all__ = ["Invoker"]


class Invoker:
    """Sends requests and hands the responses to who waits for them.

    `carry_out` is called when the core may have something to be done, `arm_timer` when there can only be a
    new deadline; `create_future` is the event loop's; `shorten_timeout` hears of time-outs that may be
    shorter than all others.
    """

    __slots__ = (
        "_arm_timer",
        "_bulky",
        "_carry_out",
        "_core",
        "_create_future",
        "_inbox",
        "_outbox",
        "_room",
        "_shorten_timeout",
        "_time",
        "operations",
    )

    def __init__(
        self,
        core: AssociationCore,
        inbox: Inbox,
        outbox: Outbox,
        *,
        time: Callable[[], float],
        carry_out: Callable[[], None],
        arm_timer: Callable[[], None],
        create_future: Callable[[], asyncio.Future[None]],
        shorten_timeout: Callable[[float], None],
    ) -> None:
        self.operations: dict[int, Operation] = {}
        self._core = core
        self._inbox = inbox
        self._outbox = outbox
        self._time = time
        self._carry_out = carry_out
        self._arm_timer = arm_timer
        self._create_future = create_future
        self._shorten_timeout = shorten_timeout
        self._room: list[asyncio.Future[None]] = []
        self._bulky: asyncio.Task[Any] | None = None  # it is the next with a data set, when there is room

    async def invoke(
        self,
        context: AcceptedContext,
        command: Command,
        payload: bytes | Source | None = None,
        *,
        timeout: float | None = None,
        held: bool = False,
        receiver: Any = None,
    ) -> Operation:
        """Send a request and give the operation whose responses will come.

        Waits for room in the operations window, and in `Limits.maximum_outstanding`. `timeout`: seconds to
        wait for each response (None: the association's). `held`: the calling task keeps the operation open
        between responses. `receiver`: what knows about the C-STORE sub-operations of a C-GET
        (`Operation.receiver`).
        Cancelled while waiting for room: nothing was sent. Cancelled while sending: A-ABORT.
        """
        length = 0 if payload is None else getattr(payload, "length", 0)
        core = self._core
        if self._in_the_way(command.command_field, length):
            await self._wait_for_turn(command.command_field, length)
        if timeout is not None:
            self._shorten_timeout(timeout)
        invoked = core.invoke(context.context_id, command, self._time(), timeout=timeout, length=length)
        operation = Operation(self._inbox.taken, self._create_future, context, invoked)
        operation.receiver = receiver
        if held:
            operation.held_by = asyncio.current_task()
        self.operations[invoked.message_id] = operation
        try:
            if payload is None or isinstance(payload, bytes):
                await self._outbox.send(context.context_id, command, payload)
            else:
                await self._outbox.send_instance(context.context_id, command, payload)
        except BaseException:
            core.unsent(invoked, self._time())
            self._forget(invoked.message_id)
            self._carry_out()
            raise
        core.sent(invoked, self._time())
        if invoked.closed:
            self._forget(invoked.message_id)
            self._carry_out()
        else:
            self._arm_timer()
        return operation

    async def _wait_for_turn(self, command_field: CommandField, length: int) -> None:
        self._core.check_invocable()
        while in_the_way := self._in_the_way(command_field, length):
            me = asyncio.current_task()
            if all(operation.held_by is me for operation in in_the_way):
                invoked = in_the_way[0].invoked
                name = MESSAGES[invoked.command_field].name.removesuffix("-RQ")
                raise LocalProtocolError(
                    f"{name} {invoked.message_id} is still open on this association; "
                    "collect it first or use a second association"
                )
            if length and self._bulky is None and self._core.has_room:
                self._bulky = me
            try:
                await self._end_of_another()
            finally:
                if self._bulky is me:
                    self._bulky = None
                    self.wake()

    async def _end_of_another(self) -> None:
        core = self._core
        turn = self._create_future()
        self._room.append(turn)
        core.queued += 1
        try:
            await turn
        except BaseException:
            core.queued -= 1
            core.reconsider(self._time())
            self._carry_out()
            raise
        core.queued -= 1
        core.check_invocable()

    def _in_the_way(self, command_field: CommandField, length: int) -> list[Operation]:
        """The operations one of which has to end before this request may be sent."""
        is_overtaking = length and self._bulky is not None and self._bulky is not asyncio.current_task()
        if is_overtaking or not self._core.has_room_for(length):
            # Small ones must not keep the one waiting that waits until enough bytes were answered.
            return list(self.operations.values())
        if command_field is not CommandField.C_GET_RQ:
            return []
        # The C-STORE sub-operations of a C-GET do not tell which one they belong to.
        return [o for o in self.operations.values() if o.invoked.command_field is command_field]

    @property
    def receiver(self) -> Any:
        """What knows about the C-STOREs of the C-GET that is under way; None if there is none."""
        if not self.operations:
            return None
        receivers = (operation.receiver for operation in self.operations.values())
        return next((receiver for receiver in receivers if receiver is not None), None)

    def _forget(self, message_id: int) -> None:
        self.operations.pop(message_id, None)
        if self._room:
            self.wake()

    def wake(self) -> None:
        """Let those who wait for room look again, first come, first served."""
        waiting, self._room = self._room, []
        for turn in waiting:
            if not turn.done():
                turn.set_result(None)

    # what the core reports

    def responded(self, event: ResponseReceived, now: float) -> None:
        """Hand a response to whoever invoked the operation."""
        invoked = event.operation
        operation = self.operations[invoked.message_id]
        if event.is_final and not invoked.sending:
            self._forget(invoked.message_id)
        weight = operation.deliver(Reply(event.command, event.data), event.is_final)
        self._inbox.added(weight, now)

    def dropped(self, event: CommandDropped) -> None:
        """A response came that nobody waits for; an abandoned operation may have ended with it."""
        message_id = event.command.message_id_being_responded_to or 0
        operation = self.operations.get(message_id)
        if operation is not None and operation.invoked.closed and not operation.invoked.sending:
            self._forget(message_id)

    def failed(self, event: OperationFailed) -> None:
        """A response did not come in time."""
        operation = self.operations.get(event.operation.message_id)
        if operation is not None:
            operation.fail(event.error)

    def fail(self, error: AssociationError) -> None:
        """End all operations with `error`."""
        for operation in self.operations.values():
            operation.fail(copy.copy(error))
        self.wake()

    # what our user does with an operation

    async def cancel(self, operation: Operation) -> None:
        """Send C-CANCEL-RQ for an operation that has not ended (PS3.7 9.3.2.3)."""
        if operation.is_final:
            return
        command = self._core.cancel(operation.invoked, self._time())
        if command is not None:
            self._carry_out()
            await self._outbox.send(operation.context.context_id, command)

    async def cancel_receiving(self) -> None:
        """Send C-CANCEL-RQ for the C-GET that is under way, if it has not been sent."""
        for operation in list(self.operations.values()):
            if operation.receiver is not None and not operation.invoked.cancelled:
                await self.cancel(operation)

    def abandon(self, operation: Operation) -> None:
        """Nobody waits for the response any more: drop it when it comes."""
        operation.drop_replies()
        if not operation.is_final:
            self._core.abandon(operation.invoked)
