"""The one gate for all messages that are sent on an association."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

from asyncdicom.dimse.fragmenter import Fragmenter
from asyncdicom.dimse.messages import Command, encode
from asyncdicom.exceptions import AssociationAborted
from asyncdicom.net.disk import Batch
from asyncdicom.net.flow import WriteGate
from asyncdicom.net.sources import Source
from asyncdicom.ul.protocol import MINIMUM_PROGRESS

if TYPE_CHECKING:
    from asyncdicom.net.channel import Channel

__all__ = ["Outbox"]


class Outbox:
    """Sends messages: those of several tasks take turns, their fragments never mix (PS3.8 E.1)."""

    __slots__ = (
        "_channel",
        "_encoded",
        "_encoded_command",
        "_fetching",
        "_gate",
        "_stalled_at",
        "_unsent",
        "maximum_length",
        "write_timeout",
    )

    def __init__(self, channel: Channel, write_timeout: float | None) -> None:
        self.maximum_length = 0  # of a P-DATA-TF, as the peer announced; 0: unlimited
        self.write_timeout = write_timeout
        self._channel = channel
        self._gate = WriteGate()
        self._encoded_command: Command | None = None
        self._encoded = b""
        self._fetching: asyncio.Task[object] | None = None  # who waits for a source to give more
        self._stalled_at: float | None = None
        self._unsent = 0

    async def send(
        self, context_id: int, command: Command, data: bytes | None = None, *, soon: bool = False
    ) -> None:
        """Send a message that is small. `soon`: others are about to follow; it may leave together with them.

        Cancelled: nothing was sent.
        """
        if not self._gate.try_acquire():
            await self._gate.acquire(small=True)
        try:
            fragmenter, out = self._begin(context_id, command)
            if data is not None:
                out += fragmenter.data([data], final=True)
            await self._drain()
            message = b"".join(out)  # one small buffer costs less than four
            if soon:
                self._channel.transport.write_soon(message)
            else:
                self._channel.transport.write([message])
        finally:
            self._gate.release()

    async def send_instance(self, context_id: int, command: Command, source: Source) -> None:
        """Send a message whose data set is that of a source.

        Cancelled, or failed, after its first byte was written and before its last: A-ABORT, because
        the rest of the message can never follow.
        """
        if not self._gate.try_acquire():
            await self._gate.acquire(small=False)
        try:
            await self._stream(*self._begin(context_id, command), source)
        finally:
            self._gate.release()

    def _begin(self, context_id: int, command: Command) -> tuple[Fragmenter, list[bytes | memoryview]]:
        self._channel.check_open()
        self._channel.upper_layer.check_p_data()
        self._channel.note("sent", command)
        fragmenter = Fragmenter(context_id, self.maximum_length)
        return fragmenter, [*fragmenter.command(self._encode(command))]

    def send_at_once(self, context_id: int, command: Command) -> bool:
        """Send a message without a data set if nothing has to be waited for; tells whether it was."""
        channel = self._channel
        if channel.transport.is_writing_paused or not self._gate.try_acquire():
            return False
        try:
            _, out = self._begin(context_id, command)
            channel.transport.write([b"".join(out)])
        finally:
            self._gate.release()
        return True

    def _encode(self, command: Command) -> bytes:
        # A C-FIND provider sends one and the same Pending response with each match.
        if command is not self._encoded_command:
            self._encoded_command, self._encoded = command, encode(command)
        return self._encoded

    async def _stream(self, fragmenter: Fragmenter, out: list[bytes | memoryview], source: Source) -> None:
        begun = False
        try:
            whole = source.at_hand() if hasattr(source, "at_hand") else None
            if whole is not None:
                out += fragmenter.data([whole], final=True)
            else:
                async with aclosing(source.open()) as batches:
                    while (batch := await self._fetch(batches)) is not None:
                        self._channel.check_open()
                        fragments = fragmenter.data(batch, final=False)
                        out += fragments
                        if fragments:  # the command alone would wake the peer for nothing
                            await self._write(out)
                            begun = True
                            out = []
                self._channel.check_open()
                out += fragmenter.data([], final=True)
            await self._write(out)
            begun = True
            await self._drain()  # the peer's time to respond runs from here
        except BaseException as error:
            if begun and self._channel.failure is None:
                self._channel.abort()  # the rest of the message can never follow
                if isinstance(error, Exception):
                    what = f"{self._channel}: aborted in the middle of a message: {error}"
                    raise AssociationAborted(0, 0, what) from error
            raise

    async def _fetch(self, batches: AsyncGenerator[Batch, None]) -> Batch | None:
        """Wait for the source, but no longer than there is an association to send on."""
        task = self._fetching = asyncio.current_task()
        try:
            return await anext(batches, None)
        except asyncio.CancelledError:
            if self._fetching is None and task is not None and task.uncancel() == 0:
                self._channel.check_open()  # it was `fail` that cancelled it
            raise
        finally:
            self._fetching = None

    def fail(self) -> None:
        """The association has ended: whoever waits for a source need not wait any longer."""
        if self._fetching is not None and self._fetching is not asyncio.current_task():
            self._fetching.cancel()
            self._fetching = None

    async def _write(self, out: list[bytes | memoryview]) -> None:
        """Write when what was written before is gone. Cancelled while waiting: nothing was written."""
        await self._drain()
        self._channel.transport.write(out)

    async def _drain(self) -> None:
        transport = self._channel.transport
        if transport.is_writing_paused:
            await transport.drain()
            self._channel.check_open()

    # the peer has to take what is sent

    def stalled(self, now: float) -> None:
        """The transport takes no more for now."""
        self._stalled_at = now
        self._unsent = self._channel.transport.unsent

    def deadline(self) -> float | None:
        """When the peer must have taken something."""
        if self._stalled_at is None or self.write_timeout is None:
            return None
        if not self._channel.transport.is_writing_paused:
            self._stalled_at = None
            return None
        return self._stalled_at + self.write_timeout

    def is_stuck(self, now: float) -> bool:
        """Whether the deadline passed with hardly a byte taken; otherwise it begins anew."""
        deadline = self.deadline()
        if deadline is None or now < deadline:
            return False
        if self._unsent - self._channel.transport.unsent >= MINIMUM_PROGRESS:
            self.stalled(now)
            return False
        return True
