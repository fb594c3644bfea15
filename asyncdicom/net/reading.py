"""What one association may take of a turn of the event loop, and when it is read no more.

What is left of what it has received waits for its next turn, or until its handlers have taken enough.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Protocol

from asyncdicom.dimse.association import AssociationCore
from asyncdicom.dimse.events import Event
from asyncdicom.net.blocks import undelivered
from asyncdicom.net.flow import ReadBudget
from asyncdicom.net.inbox import Inbox
from asyncdicom.net.transport import Transport
from asyncdicom.options import Limits, Timeouts

__all__ = ["Reading"]

_SLICE = 512  # fragments, or an eighth of it of messages, that are handled before the clock is looked at
_TURN = 0.002  # seconds
_TURN_BYTES = 4 << 20  # libuv reads up to 32 times before it turns to another connection
_NOTHING = memoryview(b"")


class ArmTimer(Protocol):
    """See `net.channel.Channel.arm_timer`."""

    def __call__(self, *, anew: bool = False) -> None: ...


class Reading:
    """Takes what the transport has received to the core and the inbox, a turn at a time.

    `handle` handles what the core reports; `carry_out` and `arm_timer` are called when the core may have
    something to be done and when a deadline may have changed. For `unstick` and `too_much` see `net.inbox`.
    """

    __slots__ = (
        "_arm_timer",
        "_awaits_turn",
        "_budget",
        "_carry_out",
        "_core",
        "_handle",
        "_loop",
        "_time",
        "_transport",
        "_turn_began",
        "_turn_bytes",
        "inbox",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        core: AssociationCore,
        transport: Transport,
        *,
        timeouts: Timeouts,
        limits: Limits,
        handle: Callable[[list[Event], float], None],
        carry_out: Callable[[], None],
        arm_timer: ArmTimer,
        unstick: Callable[[], bool],
        too_much: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._time = loop.time
        self._core = core
        self._transport = transport
        self._handle = handle
        self._carry_out = carry_out
        self._arm_timer = arm_timer
        self._budget = ReadBudget(limits.read_budget, timeouts.handler, undelivered(loop))
        self.inbox = Inbox(
            self._budget,
            maximum_discarded=limits.maximum_discarded,
            time=self._time,
            pause=self._pause,
            resume=self._resume,
            unstick=unstick,
            too_much=too_much,
        )
        self._turn_began = 0.0  # by the loop's clock, which uvloop sets once a turn
        self._turn_bytes = 0
        self._awaits_turn = False

    def bytes_received(self, view: memoryview) -> None:
        """See `net.transport.Receiver`."""
        now = self._time()
        length = len(view)
        if now != self._turn_began:
            self._turn_began, self._turn_bytes = now, 0
        self._turn_bytes += length
        core = self._core
        if core.continues(length, now):
            self.inbox.feed([view], length, False, now)
            self._transport.acknowledge_now()
            if self._turn_bytes > _TURN_BYTES:
                self._await_turn()
            return
        self._handle(core.receive_data(view, now, _SLICE), now)
        if core.has_more or self._turn_bytes > _TURN_BYTES:
            self._go_on(now)
        if core.is_owed:
            self._transport.acknowledge_now()
        self._carry_out()

    def _go_on(self, now: float) -> None:
        """Handle what was received before, but no more than this turn of the event loop has room for."""
        core, budget = self._core, self._budget
        until = monotonic() + _TURN
        while core.has_more and not budget.paused and monotonic() < until:
            self._handle(core.receive_data(_NOTHING, now, _SLICE), now)
        self._await_turn()

    def _await_turn(self) -> None:
        """Read no more before the others had their turn."""
        if not (self._awaits_turn or self._budget.paused):
            self._awaits_turn = True
            self._transport.pause_reading()
            self._loop.call_soon(self._take_turn)

    def _take_turn(self) -> None:
        self._awaits_turn = False
        if self._budget.paused or self._transport.is_lost:
            return
        if self._core.has_more:
            now = self._time()
            self._handle(self._core.receive_data(_NOTHING, now, _SLICE), now)
            self._go_on(now)
            self._carry_out()
        else:
            self._transport.resume_reading()

    def _pause(self, now: float) -> None:
        """Too much waits for its handlers: the peer is held back, and its deadlines are suspended."""
        if not self._awaits_turn:
            self._transport.pause_reading()
        self._core.pause(now)
        self._arm_timer()

    def _resume(self, now: float) -> None:
        """Enough was taken."""
        self._core.resume(now)
        if self._core.has_more:
            self._await_turn()
        elif not self._awaits_turn:
            self._transport.resume_reading()
        self._arm_timer(anew=True)  # of a deadline that was suspended little may be left
