"""`PeerMemory`: what is learned of the peers that are called survives a restart of the archive."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from asyncdicom.address import Address
from asyncdicom.archive.errors import reason
from asyncdicom.archive.index.peers import MINDS_WINDOW, Learned, note_learned
from asyncdicom.archive.index.writer import Writer
from asyncdicom.telemetry.log import Log
from asyncdicom.windows import MINDS, WINDOWS, WindowMemory

__all__ = ["PeerMemory"]

_LOG = Log("asyncdicom.archive")


class PeerMemory:
    """Tells this process what the index has of peers, and the index what this process learns.

    `known`: what the index has. `change`: makes a change in the index, and blocks; `submit` has a thread
    make a call. A row is never needed: if it cannot be kept, that is told, and the peer costs one request
    more after the next start.
    """

    def __init__(
        self,
        known: Sequence[Learned],
        change: Callable[[Callable[[Writer], None]], object],
        submit: Callable[[Callable[[], None]], object],
        *,
        memory: WindowMemory = WINDOWS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._known = known
        self._change = change
        self._submit = submit
        self._memory = memory
        self._clock = clock

    def start(self) -> None:
        """Tell this process, and be told; in the event loop."""
        now, clock = asyncio.get_running_loop().time(), self._clock()
        for what, peer, until in self._known:
            if what == MINDS_WINDOW:  # a clock that was set back makes nothing hold for longer
                self._memory.learn(peer, now + min(until - clock, MINDS))
        self._memory.on_minds.append(self._learned)

    def stop(self) -> None:
        """Be told no more."""
        self._memory.on_minds.remove(self._learned)

    def _learned(self, peer: Address) -> None:
        now = self._clock()
        learned = [Learned(MINDS_WINDOW, peer, now + MINDS)]

        def keep() -> None:
            try:
                self._change(lambda writer: note_learned(writer, learned, now))
            except Exception as error:
                _LOG.warning("what was learned of %s is not kept: %s", peer, reason(error))

        self._submit(keep)
