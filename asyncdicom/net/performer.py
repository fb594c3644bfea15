"""The operations that the peer invokes and that we perform: one task each."""

from __future__ import annotations

import asyncio
import copy
import logging
from functools import partial
from typing import TYPE_CHECKING

from asyncdicom.dimse.messages import Command, response_to
from asyncdicom.dimse.operations import DuplicateInvocation, PerformedOperations
from asyncdicom.exceptions import AssociationError
from asyncdicom.net.operation import IncomingRequest
from asyncdicom.net.payload import DataStream
from asyncdicom.status import Status

if TYPE_CHECKING:
    from asyncdicom.net.channel import Channel
    from asyncdicom.ul.negotiation import AcceptedContext

__all__ = ["Performer"]

log = logging.getLogger("asyncdicom.association")


class Performer:
    """Runs the dispatcher for each request, and sends what it answers."""

    __slots__ = ("_channel", "_open", "book", "performing")

    def __init__(self, channel: Channel) -> None:
        self.book = PerformedOperations(1)
        self.performing: set[IncomingRequest] = set()  # until their task has ended
        self._open: dict[int, IncomingRequest] = {}  # until their final response, by Message ID
        self._channel = channel

    @property
    def tasks(self) -> set[asyncio.Task[None]]:
        """What performs the requests that are under way."""
        return {request.task for request in self.performing if request.task is not None}

    def start(self, context: AcceptedContext, command: Command) -> DataStream | None:
        """Begin to perform a request; gives the stream that its data set has to be fed to."""
        channel = self._channel
        if self._answer_at_once(context, command):
            return None
        data = None
        if command.has_data_set:
            data = DataStream(
                context.transfer_syntax,
                command.affected_sop_class_uid or context.abstract_syntax,
                command.affected_sop_instance_uid or "",
                taken=channel.inbox.taken,
                is_held_back=channel.inbox.is_held_back,
            )
        request = IncomingRequest(channel, context, command, data)
        try:
            self.book.open(command)
        except DuplicateInvocation:
            log.warning("%s: message ID %s is already in use", channel, command.message_id)
            channel.spawn(self.respond(request, response_to(command, Status.DUPLICATE_INVOCATION)))
            return data
        self._open[command.message_id or 0] = request
        self.performing.add(request)
        channel.operations_changed()
        request.task = asyncio.create_task(self._perform(request))
        return data

    def _answer_at_once(self, context: AcceptedContext, command: Command) -> bool:
        # A C-ECHO that no handler asked for costs no task.
        if command.has_data_set or command.message_id in self._open:
            return False
        answer = self._channel.dispatcher.at_once(context, command)
        return answer is not None and self._channel.outbox.send_at_once(context.context_id, answer)

    async def _perform(self, request: IncomingRequest) -> None:
        channel = self._channel
        try:
            await channel.dispatcher(request)
        except AssociationError as error:
            log.debug("%s: message %s was not answered: %s", channel, request.command.message_id, error)
        except Exception:
            log.exception("%s: message %s cannot be answered; aborting", channel, request.command.message_id)
            channel.abort()
        finally:
            self._end(request)

    def _end(self, request: IncomingRequest, task: asyncio.Task[None] | None = None) -> None:
        if request in self.performing:
            if request.data is not None:
                request.data.discard()
            self._close(request)
            self.performing.discard(request)
            self._channel.operations_changed()

    def _close(self, request: IncomingRequest) -> None:
        message_id = request.command.message_id or 0
        if self._open.get(message_id) is request:
            del self._open[message_id]
            self.book.close(request.command)

    async def respond(self, request: IncomingRequest, command: Command, data: bytes | None = None) -> None:
        """Send a response to a request; what follows a final one is ignored.

        The rest of the request's data set is thrown away first: a peer that still sends does not read.
        """
        if request.answered:
            return
        request.answered = not Status(command.status or 0).is_pending
        if request.answered:
            self._close(request)  # the peer may use the Message ID again as soon as it sees the response
        if request.data is not None and not request.data.is_complete:
            request.data.discard()
            await request.data.finished()
        others = not request.answered or len(self.performing) > 1
        await self._channel.outbox.send(request.context.context_id, command, data, soon=others)

    def cancel(self, command: Command) -> None:
        """A C-CANCEL-RQ came: stop the handler, or answer without it if it does not stop."""
        message_id = command.message_id_being_responded_to or 0
        if self.book.cancel(message_id) is None:
            return  # it has ended meanwhile (PS3.7 9.3.2.3)
        self._interrupt(self._open[message_id])

    def _interrupt(self, request: IncomingRequest, *, stalled: bool = False) -> None:
        request.interrupt(stalled=stalled)
        loop = asyncio.get_running_loop()
        loop.call_later(self._channel.settings.cancel_timeout, self._give_up, request)

    def _give_up(self, request: IncomingRequest) -> None:
        if request.answered or self._channel.failure is not None or request not in self.performing:
            return
        message_id = request.command.message_id
        log.warning("%s: the handler of message %s ignores its cancellation", self._channel, message_id)
        status = Status.OUT_OF_RESOURCES if request.is_stalled else Status.CANCEL
        self._channel.spawn(self.respond(request, response_to(request.command, status)))

    def unstick(self) -> bool:
        """Give up the handlers that have left data waiting for too long; False if there is none."""
        stuck = [request for request in self.performing if request.data is not None and request.data.waiting]
        for request in stuck:
            message_id = request.command.message_id
            log.warning("%s: the handler of message %s makes no progress", self._channel, message_id)
            self._interrupt(request, stalled=True)
            if request.data is not None:
                request.data.discard()
        return bool(stuck)

    def fail(self, error: Exception) -> None:
        """The association has ended: tell whoever reads a data set, and cancel the handlers."""
        for request in self.performing:
            if request.data is not None:
                request.data.fail(copy.copy(error))
            if request.task is not None:
                request.task.cancel()
                # A task that is cancelled before its first step runs nothing, not even `finally`.
                request.task.add_done_callback(partial(self._end, request))
