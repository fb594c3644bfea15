"""Work and memory of one input, counted: lines of the library that ran, bytes that were allocated.

Counting does not depend on the machine, so a bound can be tight and a test never flickers.
"""

from __future__ import annotations

import sys
import time
import tracemalloc
from collections.abc import Callable
from types import FrameType
from typing import Any

from fuzz.check import Finding

SECONDS = 0.5  # of processor time for all checks of one input, which read it a dozen times
_LIBRARY = "asyncdicom"


class TooMuch(Finding):
    """More work, memory or time than is allowed for so long an input."""


def lines(work: Callable[[bytes], object], data: bytes) -> int:
    """How many lines of the library ran."""
    count = 0

    def within(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return within

    def entered(frame: FrameType, event: str, argument: Any) -> Any:
        return within if _LIBRARY in frame.f_code.co_filename else None

    before = sys.gettrace()
    sys.settrace(entered)
    try:
        work(data)
    finally:
        sys.settrace(before)
    return count


def peak(work: Callable[[bytes], object], data: bytes) -> int:
    """How many bytes were allocated at once, at most."""
    was_tracing = tracemalloc.is_tracing()
    if not was_tracing:
        tracemalloc.start()
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    try:
        work(data)
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        if not was_tracing:
            tracemalloc.stop()


def _least(
    measure: Callable[[Callable[[bytes], object], bytes], int],
    work: Callable[[bytes], object],
    data: bytes,
    allowed: int,
) -> int:
    """Measured again where it is too much: the first time something may have filled a cache."""
    return min(measured := measure(work, data), measured if measured <= allowed else measure(work, data))


def check_bounds(target: Any, data: bytes) -> None:
    """Raise `TooMuch` if `target.once` needs more than its `LINES` and `MEMORY` (base, per byte)."""
    base, each = target.LINES
    ran = _least(lines, target.once, data, base + each * len(data))
    if ran > base + each * len(data):
        raise TooMuch(f"{ran} lines ran for {len(data)} bytes (allowed: {base} + {each} a byte)")
    base, each = target.MEMORY
    taken = _least(peak, target.once, data, base + each * len(data))
    if taken > base + each * len(data):
        raise TooMuch(f"{taken} bytes allocated for {len(data)} bytes (allowed: {base} + {each} a byte)")


def timed(target: Any, data: bytes) -> object:
    """Run all checks; raise `TooMuch` if that takes too much processor time, three times in a row."""
    allowed = getattr(target, "SECONDS", SECONDS)
    for _ in range(3):
        start = time.process_time()
        outcome = target.run(data)
        taken = time.process_time() - start
        if taken <= allowed:
            return outcome
    raise TooMuch(f"{taken:.2f} s of processor time for {len(data)} bytes (allowed: {allowed})")
