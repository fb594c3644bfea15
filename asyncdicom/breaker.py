"""`Breaker`: when to try again what has failed several times."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Breaker", "pause_after"]

_THRESHOLD = 3
_FIRST_PAUSE = 5.0
_LONGEST_PAUSE = 300.0


def pause_after(failures: int, first: float, longest: float) -> float:
    """Give the seconds to wait after so many failures: `first`, then twice as long each time."""
    return min(first * 2.0 ** min(max(failures - 1, 0), 60), longest)


class Breaker:
    """Counts failures in a row; after `threshold` of them attempts are refused for a growing time.

    The first pause is `first` seconds, each further one is twice as long, at most `longest`; `jitter` gives
    the pause that is made of each, not to have all that wait for one peer call it at the same time. After a
    pause one attempt is let through, the probe, and no other until it has ended. A success ends it all. Time
    is an argument, in seconds.
    """

    __slots__ = ("_attempts", "_failures", "_first", "_jitter", "_longest", "_probe", "_threshold", "_until")

    def __init__(
        self,
        threshold: int = _THRESHOLD,
        first: float = _FIRST_PAUSE,
        longest: float = _LONGEST_PAUSE,
        *,
        jitter: Callable[[float], float] = float,
    ) -> None:
        self._jitter = jitter
        self._threshold = threshold
        self._first = first
        self._longest = longest
        self._failures = 0
        self._attempts = 0
        self._until: float | None = None
        self._probe: int | None = None

    @property
    def is_closed(self) -> bool:
        """Whether attempts are let through."""
        return self._until is None

    @property
    def failures(self) -> int:
        """How many attempts have failed since the last success."""
        return self._failures

    def lets_through(self, now: float) -> bool:
        """Tell whether an attempt may begin now."""
        return self._until is None or (now >= self._until and self._probe is None)

    def begin(self, now: float) -> int | None:
        """Begin an attempt: gives what to tell its end by, or None if it must not begin."""
        if not self.lets_through(now):
            return None
        if self._until is not None:
            self._probe = self._attempts + 1
        self._attempts += 1
        return self._attempts

    def wait(self, now: float) -> float:
        """Seconds until the next attempt may begin; 0 when it depends on the probe, or may begin now."""
        return 0.0 if self._until is None else max(self._until - now, 0.0)

    def succeeded(self) -> None:
        """Something went well: everything is let through again."""
        self._failures = 0
        self._until = None
        self._probe = None

    def failed(self, attempt: int, now: float) -> None:
        """This attempt has failed. Of those that began before a pause, none makes it longer."""
        if self._until is not None and attempt != self._probe:
            return
        self._failures += 1
        self._probe = None
        if self._failures >= self._threshold:
            pause = pause_after(self._failures - self._threshold + 1, self._first, self._longest)
            self._until = now + self._jitter(pause)

    def abandoned(self, attempt: int) -> None:
        """This attempt ended without a verdict; the next one is the probe instead."""
        if attempt == self._probe:
            self._probe = None
