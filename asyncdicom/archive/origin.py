"""Where an instance has come from, and what is known of it when it is decided what else to do with it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

from asyncdicom.archive.index.work import Work
from asyncdicom.data.elements import Element

__all__ = ["Origin", "Passing", "Received", "Router"]


class Origin(NamedTuple):
    """The association that an instance came on: AE titles, the peer's host, the names of its certificate.

    `move_originator`: AE title and Message ID of the C-MOVE that has led to it, if it says one. `is_partial`:
    it came a while ago, and the rest is not known any more.
    """

    calling: str = ""
    called: str = ""
    address: str = ""
    certificate: tuple[str, ...] = ()
    move_originator: tuple[str, int] | None = None
    is_partial: bool = False


Passing: TypeAlias = Callable[[Any, Origin], Awaitable[Any | None]]
"""Gives the answer to a C-STORE request that came from there, or None: then the archive stores it."""


class Received(NamedTuple):
    """A received instance, whole and written; `size` of its data set in bytes."""

    origin: Origin
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    size: int
    elements: Mapping[int, Element]


class Router(Protocol):
    """What says which work an instance leads to. It is asked in threads, several at a time."""

    @property
    def tags(self) -> frozenset[int]:
        """The elements that it wants to see, besides the indexed ones; none behind Pixel Data."""

    def work_for(self, received: Received) -> Sequence[Work]:
        """Give the work: it is committed together with the instance. Must not raise."""
