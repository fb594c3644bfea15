"""`Breaker`: when to try again what has failed several times."""

from __future__ import annotations

__all__ = ["Breaker"]

_THRESHOLD = 3
_FIRST_PAUSE = 5.0
_LONGEST_PAUSE = 300.0


class Breaker:
    """Counts failures in a row; after `threshold` of them attempts are refused for a growing time.

    The first pause is `first` seconds, each further one is twice as long, at most `longest`. After a pause
    one attempt is let through, the probe, and no other until it has ended. A success ends it all. Time is an
    argument, in seconds.
    """

    __slots__ = ("_attempts", "_failures", "_first", "_longest", "_probe", "_threshold", "_until")

    def __init__(
        self, threshold: int = _THRESHOLD, first: float = _FIRST_PAUSE, longest: float = _LONGEST_PAUSE
    ) -> None:
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

    def begin(self, now: float) -> int | None:
        """Begin an attempt: gives what to tell its end by, or None if it must not begin."""
        if self._until is not None:
            if now < self._until or self._probe is not None:
                return None
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
            doublings = min(self._failures - self._threshold, 60)
            self._until = now + min(self._first * 2.0**doublings, self._longest)

    def abandoned(self, attempt: int) -> None:
        """This attempt ended without a verdict; the next one is the probe instead."""
        if attempt == self._probe:
            self._probe = None
