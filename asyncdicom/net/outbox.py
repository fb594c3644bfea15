"""The one gate for all messages that are sent on an association."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Any

from asyncdicom.dimse.association import AssociationCore
from asyncdicom.dimse.fragmenter import Fragmenter
from asyncdicom.dimse.messages import Command
from asyncdicom.exceptions import AssociationAborted
from asyncdicom.net.disk import Batch, Buffer, LastBatch
from asyncdicom.net.flow import WriteGate
from asyncdicom.net.sources import Source
from asyncdicom.net.transport import Transport
from asyncdicom.ul.protocol import MINIMUM_PROGRESS

__all__ = ["Outbox"]


class Outbox:
    """Sends messages: those of several tasks take turns, their fragments never mix (PS3.8 E.1).

    `name` is how the association is called in exceptions; `abort` aborts it, `spawn` runs something that ends
    with it, `note` is called with each command that is sent, if it is given.
    """

    __slots__ = (
        "_abort",
        "_answers",
        "_core",
        "_fetching",
        "_gate",
        "_has_begun",
        "_name",
        "_note",
        "_spawn",
        "_stalled_at",
        "_transport",
        "_unsent",
        "write_timeout",
    )

    def __init__(
        self,
        core: AssociationCore,
        transport: Transport,
        write_timeout: float | None,
        *,
        name: object,
        abort: Callable[[str], None],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        note: Callable[[str, object], None] | None,
    ) -> None:
        self.write_timeout = write_timeout
        self._core = core
        self._transport = transport
        self._name = name
        self._abort = abort
        self._spawn = spawn
        self._note = note
        self._gate = WriteGate()
        self._answers: list[tuple[int, Command]] = []  # wait for the gate; few, or the peer is aborted
        self._has_begun = False  # some of the message that holds the gate is on its way
        self._fetching: asyncio.Task[object] | None = None  # who waits for a source to give more
        self._stalled_at: float | None = None
        self._unsent = 0

    async def send(
        self, context_id: int, command: Command, data: bytes | None = None, *, soon: bool = False
    ) -> None:
        """Send a message that is small. `soon`: others are about to follow; it may leave together with them.

        Cancelled: nothing was sent; if the data set takes more than 1024 fragments, as `send_instance`.
        """
        if not self._gate.try_acquire():
            await self._gate.acquire(small=True)
        try:
            fragmenter, out = self._begin(context_id, command)
            if data is not None:
                if len(data) > fragmenter.most:
                    await self._stream(fragmenter, out, data)
                    return
                out += fragmenter.data([data], final=True)
            if self._transport.is_writing_paused:
                await self._drain()
            message = b"".join(out)  # one small buffer costs less than four
            if soon:
                self._transport.write_soon(message)
            else:
                self._transport.write([message])
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
        begun = self._core.begin(context_id, command)
        if self._note is not None:
            self._note("sent", command)
        return begun

    def send_at_once(self, context_id: int, command: Command) -> bool:
        """Send a message without a data set if nothing has to be waited for; tells whether it was."""
        if (
            self._transport.is_writing_paused
            or self._core.failure is not None
            or not self._gate.try_acquire()
        ):
            return False
        try:
            _, out = self._begin(context_id, command)
            self._transport.write([b"".join(out)])
        finally:
            self._gate.release()
        return True

    def answer(self, context_id: int, command: Command) -> None:
        """Send a response that no handler gives, at once or behind what is being sent."""
        if self._answers or not self.send_at_once(context_id, command):
            self._answers.append((context_id, command))
            if len(self._answers) == 1:
                self._spawn(self._send_answers())

    async def _send_answers(self) -> None:
        while self._answers:
            await self.send(*self._answers[0])
            del self._answers[0]

    async def _stream(
        self, fragmenter: Fragmenter, out: list[bytes | memoryview], source: Source | bytes
    ) -> None:
        self._has_begun = False
        try:
            whole: Buffer | None
            if isinstance(source, bytes):
                whole = source
            else:
                whole = source.at_hand() if hasattr(source, "at_hand") else None
            if whole is not None:
                await self._write_batch(fragmenter, out, (whole,), final=True)
            elif not isinstance(source, bytes):
                await self._write_batches(fragmenter, out, source)
            if self._transport.is_writing_paused:
                await self._drain()  # the peer's time to respond runs from here
        except BaseException as error:
            if self._has_begun and self._core.failure is None:
                self._abort("a message was not completed")  # the rest of it can never follow
                if isinstance(error, Exception):
                    what = f"{self._name}: aborted in the middle of a message: {error}"
                    raise AssociationAborted(0, 0, what) from error
            raise

    async def _write_batches(
        self, fragmenter: Fragmenter, out: list[bytes | memoryview], source: Source
    ) -> None:
        """Send a data set while its source gives it."""
        is_ended = False
        async with aclosing(source.open()) as batches:
            while not is_ended and (batch := await self._fetch(batches)) is not None:
                if type(batch) is LastBatch:
                    more = await self._fetch(batches)  # a source around this one may have more
                    is_ended = more is None
                    batch = [*batch, *(more or ())]
                self._core.check_open()
                out = await self._write_batch(fragmenter, out, batch, final=is_ended)
        if not is_ended:
            self._core.check_open()
            await self._write_batch(fragmenter, out, (), final=True)

    async def _write_batch(
        self, fragmenter: Fragmenter, out: list[bytes | memoryview], batch: Batch, *, final: bool
    ) -> list[bytes | memoryview]:
        """Send some of a data set behind `out`; gives what was not worth to be sent alone."""
        if sum(map(len, batch)) <= fragmenter.most:
            fragments = fragmenter.data(batch, final=final)
            out += fragments
            if fragments:  # the command alone would wake the peer for nothing
                if self._transport.is_writing_paused:
                    await self._drain()
                self._transport.write(out)
                self._has_begun = True
                out = []
            return out
        for fragments in fragmenter.pieces(batch, final=final):
            out += fragments
            await self._write(out)
            out = []
            await asyncio.sleep(0)  # thousands of fragments: it is the turn of the others
            self._core.check_open()
        return out

    async def _fetch(self, batches: AsyncGenerator[Batch, None]) -> Batch | None:
        """Wait for the source, but no longer than there is an association to send on."""
        task = self._fetching = asyncio.current_task()
        try:
            return await anext(batches, None)
        except asyncio.CancelledError:
            if self._fetching is None and task is not None and task.uncancel() == 0:
                self._core.check_open()  # it was `fail` that cancelled it
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
        self._transport.write(out)
        self._has_begun = True

    async def _drain(self) -> None:
        if self._transport.is_writing_paused:
            await self._transport.drain()
            self._core.check_open()

    # the peer has to take what is sent

    def stalled(self, now: float) -> None:
        """The transport takes no more for now."""
        self._stalled_at = now
        self._unsent = self._transport.unsent

    def deadline(self) -> float | None:
        """When the peer must have taken something."""
        if self._stalled_at is None or self.write_timeout is None:
            return None
        if not self._transport.is_writing_paused:
            self._stalled_at = None
            return None
        return self._stalled_at + self.write_timeout

    def is_stuck(self, now: float) -> bool:
        """Whether the deadline passed with hardly a byte taken; otherwise it begins anew."""
        deadline = self.deadline()
        if deadline is None or now < deadline:
            return False
        if self._unsent - self._transport.unsent >= MINIMUM_PROGRESS:
            self.stalled(now)
            return False
        return True
