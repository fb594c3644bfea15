"""A queue in which those who ask take turns, so that nobody waits behind all that another one wants."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

__all__ = ["FairQueue"]

_T = TypeVar("_T")

_NOBODY = object()


class FairQueue(Generic[_T]):
    """First come, first served among the items of one key; the keys take turns. Not for many threads."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: OrderedDict[Hashable, deque[_T]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def put(self, key: Hashable, item: _T) -> None:
        """Add an item behind those of its key."""
        self._waiting.setdefault(key, deque()).append(item)

    def put_back(self, key: Hashable, item: _T) -> None:
        """Add an item before those of its key; it is still the turn of the others."""
        self._waiting.setdefault(key, deque()).appendleft(item)

    def take(self, may: Callable[[Hashable], bool] = lambda key: True) -> tuple[Hashable, _T] | None:
        """Take the next item of the first key that `may` have a turn; that key is the last one then."""
        key = next(filter(may, self._waiting), _NOBODY)
        if key is _NOBODY:
            return None
        items = self._waiting[key]
        item = items.popleft()
        if items:
            self._waiting.move_to_end(key)
        else:
            del self._waiting[key]
        return key, item

    def remove(self, key: Hashable, item: _T) -> bool:
        """Take an item out, if it still waits."""
        items = self._waiting.get(key)
        if items is None or item not in items:
            return False
        items.remove(item)
        if not items:
            del self._waiting[key]
        return True

    def clear(self) -> list[_T]:
        """Take all items."""
        items = [item for each in self._waiting.values() for item in each]
        self._waiting.clear()
        return items
