"""Instances that somebody is being promised right now: they are not deleted meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

__all__ = ["Holds"]


class Holds:
    """Who looks at what is stored, to say that it is kept, takes it first; `lock` is that of a deletion.

    So a deletion either sees what is held, or is over before it is looked at.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._held: dict[object, frozenset[str]] = {}

    def take(self, sop_instance_uids: Iterable[str]) -> Callable[[], None]:
        """Hold instances, and give what ends that. Blocks while some are being deleted."""
        key, uids = object(), frozenset(sop_instance_uids)
        with self.lock:
            self._held[key] = uids

        def release() -> None:
            self._held.pop(key, None)

        return release

    def all(self) -> set[str]:
        """Give the instances that are held."""
        return set().union(*list(self._held.values()))
