"""Who sends to an archive: how many instances have come from whom, and when the last one has."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Any

__all__ = ["OTHERS", "Senders"]

OTHERS = "other"
"""What all are called together that the configuration does not name."""

_ANYBODY = "*"  # among the names it stands for all others


class Senders:
    """Counts what is stored, by the AE title of whoever has sent it.

    Those that one of the servers of the archive knows (`know`) are counted each by itself. Strangers can take
    any name, and are counted together: no peer makes more to keep, or to show. `clock` gives the seconds
    since 1970.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._known: list[Callable[[], Collection[str]]] = []
        self._clock = clock
        self._came: dict[str, tuple[int, float]] = {}

    def know(self, names: Callable[[], Collection[str]]) -> Callable[[], None]:
        """Count by itself who is among the AE titles that `names` gives now; gives what ends that."""
        self._known.append(names)
        return lambda: self._known.remove(names)

    def _names(self) -> set[str]:
        return {name for names in self._known for name in names()} - {_ANYBODY}

    def note(self, calling_ae_title: str | None) -> None:
        """Count an instance that is stored."""
        name = calling_ae_title
        if not name or name == _ANYBODY or not any(name in names() for names in self._known):
            name = OTHERS
        number, _ = self._came.get(name, (0, 0.0))
        self._came[name] = number + 1, self._clock()

    def state(self) -> list[dict[str, Any]]:
        """Give, by name, how many instances have come since the start, and when the last one has, if one has.

        Who is named and has sent nothing has none; who is named no more is not told.
        """
        came = {name: self._came.get(name, (0, None)) for name in sorted({*self._names(), OTHERS})}
        return [{"calling": name, "instances": number, "last": last} for name, (number, last) in came.items()]
