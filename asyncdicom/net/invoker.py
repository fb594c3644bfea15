"""The operations that we invoke on an association: their window, their responses, their end."""

from __future__ import annotations

import asyncio
import copy
from collections import deque
from typing import TYPE_CHECKING, Any

from asyncdicom.dimse.messages import MESSAGES, Command, CommandField
from asyncdicom.dimse.operations import InvokedOperations
from asyncdicom.exceptions import AssociationTimeout, LocalProtocolError
from asyncdicom.net.operation import Operation
from asyncdicom.net.sources import Source

if TYPE_CHECKING:
    from asyncdicom.net.channel import Channel
    from asyncdicom.ul.negotiation import AcceptedContext

__all__ = ["Invoker"]


class Invoker:
    """Sends requests and matches the responses to them."""

    __slots__ = ("_channel", "_room", "book", "operations")

    def __init__(self, channel: Channel) -> None:
        self.book = InvokedOperations(1)
        self.operations: dict[int, Operation] = {}
        self._channel = channel
        self._room: deque[asyncio.Future[None]] = deque()

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

        Waits for room in the operations window. `timeout`: seconds to wait for each response (None:
        the association's). `held`: the calling task keeps the operation open between responses.
        `receiver`: the handler of the C-STORE sub-operations of a C-GET.
        Cancelled while waiting for room: nothing was sent. Cancelled while sending: A-ABORT.
        """
        await self._wait_for_turn(command.command_field)
        channel = self._channel
        channel.shorten_timeout(timeout)
        invoked = self.book.open(
            context.context_id,
            command.command_field,
            timeout=channel.timeouts.dimse if timeout is None else timeout,
            now=channel.time(),
        )
        command.message_id = invoked.message_id
        operation = Operation(channel.inbox.taken, context, invoked)
        operation.receiver = receiver
        if held:
            operation.held_by = asyncio.current_task()
        self.operations[operation.message_id] = operation
        channel.operations_changed()
        try:
            if payload is None or isinstance(payload, bytes):
                await channel.outbox.send(context.context_id, command, payload)
            else:
                await channel.outbox.send_instance(context.context_id, command, payload)
        except BaseException:
            self.book.close(operation.message_id)
            raise
        finally:
            operation.is_sending = False
            if not self.book.is_open(operation.message_id):
                self._remove(operation)
        self.book.sent(operation.message_id, channel.time())
        channel.arm_timer()
        return operation

    async def _wait_for_turn(self, command_field: CommandField) -> None:
        self._channel.check_invocable()
        while in_the_way := self._in_the_way(command_field):
            me = asyncio.current_task()
            if all(operation.held_by is me for operation in in_the_way):
                invoked = in_the_way[0].invoked
                name = MESSAGES[invoked.command_field].name.removesuffix("-RQ")
                raise LocalProtocolError(
                    f"{name} {invoked.message_id} is still open on this association; "
                    "collect it first or use a second association"
                )
            turn = asyncio.get_running_loop().create_future()
            self._room.append(turn)
            await turn
            self._channel.check_invocable()

    def _in_the_way(self, command_field: CommandField) -> list[Operation]:
        """The operations of which one has to end first."""
        if not self.book.has_room:
            return list(self.operations.values())
        if command_field is not CommandField.C_GET_RQ:
            return []
        # The C-STORE sub-operations of a C-GET do not tell which one they belong to.
        return [o for o in self.operations.values() if o.invoked.command_field is command_field]

    @property
    def receiver(self) -> Any:
        """The handler that the C-GET under way was given."""
        receivers = (operation.receiver for operation in self.operations.values())
        return next((receiver for receiver in receivers if receiver is not None), None)

    def _remove(self, operation: Operation) -> None:
        self.operations.pop(operation.message_id, None)
        self.wake()
        self._channel.operations_changed()

    def wake(self) -> None:
        """Let those who wait for room look again, first come, first served."""
        waiting, self._room = self._room, deque()
        for turn in waiting:
            if not turn.done():
                turn.set_result(None)

    def respond(self, command: Command, now: float) -> Operation | None:
        """Find the operation that a response belongs to, and close it if the response is final.

        None: nobody waits for it (it is late, or was never asked for).
        """
        invoked = self.book.receive(command, now)
        message_id = command.message_id_being_responded_to or 0
        operation = self.operations.get(message_id)
        if operation is not None and not (self.book.is_open(message_id) or operation.is_sending):
            self._remove(operation)
        return operation if invoked is not None else None

    async def cancel(self, operation: Operation) -> None:
        """Send C-CANCEL-RQ for an operation that has not ended (PS3.7 9.3.2.3)."""
        channel = self._channel
        if operation.is_final or channel.failure is not None:
            return
        self.book.cancel(operation.message_id, channel.timeouts.cancel, channel.time())
        channel.arm_timer()
        command = Command(CommandField.C_CANCEL_RQ, message_id_being_responded_to=operation.message_id)
        await channel.outbox.send(operation.context.context_id, command)

    def abandon(self, operation: Operation) -> None:
        """Nobody waits for the response any more: drop it when it comes."""
        operation.drop_replies()
        if not operation.is_final:
            self.book.abandon(operation.message_id)

    def expire(self, now: float) -> bool:
        """Fail the operations whose response did not come in time; True if there was one."""
        if self._channel.inbox.expecting_data:
            self.book.progressed(now)
        late = self.book.expired(now)
        for invoked in late:
            operation = self.operations.get(invoked.message_id)
            if operation is not None:
                what = f"{self._channel}: the response did not come in time"
                operation.fail(AssociationTimeout(what, which="dimse"))
        return bool(late)

    def fail(self, error: Exception) -> None:
        """End all operations with `error`."""
        for operation in self.operations.values():
            operation.fail(copy.copy(error))
        self.wake()
