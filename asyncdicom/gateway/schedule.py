"""Hours and weekdays in which a destination is sent to: "mon-fri 19:00-06:00", in a named time zone."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta, tzinfo
from typing import NamedTuple

__all__ = ["Schedule"]

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_WINDOW = re.compile(r"(?:(\w{3})(?:-(\w{3}))?\s+)?(\d\d):(\d\d)-(\d\d):(\d\d)").fullmatch
_WHOLE_DAY = 24 * 60


class _Window(NamedTuple):
    days: frozenset[int]
    start: int  # minutes of the day
    end: int  # not after the start: on the next day

    def has(self, local: datetime) -> bool:
        minute, day = local.hour * 60 + local.minute, local.weekday()
        if self.start < self.end:
            return day in self.days and self.start <= minute < self.end
        return (day in self.days and minute >= self.start) or (
            (day - 1) % 7 in self.days and minute < self.end
        )


class Schedule:
    """The windows in which something may be done; with none, it always may.

    A window is "[DAY[-DAY]] HH:MM-HH:MM", the days as mon, tue ... sun. One that ends before it begins goes
    on after midnight, and belongs to the day on which it began. The clock is that of `zone`: when it is put
    forward an hour is missing from the window, when it is put back there is one more.

    Raises ValueError for what is no window.
    """

    def __init__(self, windows: Iterable[str] = (), zone: tzinfo = UTC) -> None:
        self._windows = tuple(_parse(window) for window in windows)
        self._zone = zone

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schedule) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[object, ...]:
        return self._windows, str(self._zone)

    def is_open(self, when: datetime) -> bool:
        """Tell whether a time, which knows its zone, is in one of the windows."""
        if not self._windows:
            return True
        local = when.astimezone(self._zone)
        return any(window.has(local) for window in self._windows)

    def seconds_until_open(self, when: datetime) -> float:
        """Give how long it is until a window begins; 0 in one."""
        if self.is_open(when):
            return 0.0
        local = when.astimezone(self._zone)
        begins = [
            (
                local.replace(hour=0, minute=0, second=0, microsecond=0, fold=fold) + timedelta(days=day)
            ).replace(hour=window.start // 60, minute=window.start % 60, fold=fold)
            for window in self._windows
            for day in range(9)
            for fold in (0, 1)
        ]
        waits = (
            begin.timestamp() - when.timestamp() for begin in begins if self.is_open(begin.astimezone(UTC))
        )
        return min((wait for wait in waits if wait > 0), default=float(_WHOLE_DAY * 60))


def _parse(text: str) -> _Window:
    found = _WINDOW(text.strip().lower())
    if found is None:
        raise ValueError(
            f'{text!r} is no window: write "mon-fri 19:00-06:00", or "19:00-06:00" for every day'
        )
    first, last, *clock = found.groups()
    for day in (first, last):
        if day is not None and day not in _DAYS:
            raise ValueError(f"{text!r}: {day} is none of {', '.join(_DAYS)}")
    start_hour, start_minute, end_hour, end_minute = map(int, clock)
    start, end = start_hour * 60 + start_minute, end_hour * 60 + end_minute
    if max(start_minute, end_minute) > 59 or start >= _WHOLE_DAY or end > _WHOLE_DAY:
        raise ValueError(f"{text!r}: the day goes from 00:00 to 24:00")
    if start == end:
        raise ValueError(f"{text!r} begins when it ends; the whole day is 00:00-24:00")
    if first is None:
        return _Window(frozenset(range(7)), start, end)
    begin, finish = _DAYS.index(first), _DAYS.index(last or first)
    return _Window(frozenset((begin + n) % 7 for n in range((finish - begin) % 7 + 1)), start, end)
