"""Where to read on behind an element that cannot be read: for lenient readers, which lose only that element.

Nothing is guessed that could be something else: reading goes on only where a whole run of elements in
ascending order follows, and what is in the items of a sequence is never taken for elements beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Generator, Iterator
from struct import Struct
from typing import NamedTuple

from asyncdicom.data.inflation import Buffer

__all__ = ["Broken", "resuming"]

_UNDEFINED_LENGTH = 0xFFFFFFFF
_ITEM = 0xFFFEE000
# How many elements in ascending order are enough of a proof, unless the data set ends before: where the place
# is told by the element itself, where it is found by searching, and where headers have no VR.
_RUN_TOLD, _RUN_FOUND, _RUN_IMPLICIT = 1, 3, 16
_STEP = 1000  # places that are looked at before somebody else may have a turn
MAXIMUM_PLACES = 8192
"""Places that are looked at in one data set, all its unreadable elements together."""


class Broken(NamedTuple):
    """An element that cannot be read: its header is at ``at``, or its value begins at ``start`` (nested).

    ``previous`` is the last tag before it that could be read, whose value begins at ``start``. ``vrs``: the
    VRs as they are encoded; None where headers have none. ``looked_at``: how many places were, before.
    """

    data: Buffer
    read: Callable[[Buffer, int, int], tuple[int, str, int, int] | None]
    vrs: Container[bytes] | None
    little_endian: bool
    at: int
    start: int
    previous: int
    looked_at: int


def resuming(broken: Broken, *, is_nested: bool) -> Generator[None, None, tuple[int, int]]:
    """Give where to read on (the end, if nothing is left to read), and how many places were looked at.

    ``is_nested``: what cannot be read is within a sequence or an item of undefined length.
    """
    places = _behind_sequence(broken) if is_nested else _behind_element(broken)
    looked_at = broken.looked_at
    for place, run in places:
        looked_at += 1
        if looked_at > MAXIMUM_PLACES:
            break
        if looked_at % _STEP == 0:
            yield
        if _begins_a_run(broken, place, _RUN_IMPLICIT if broken.vrs is None else run):
            return place, looked_at
    return len(broken.data), looked_at


def _begins_a_run(broken: Broken, place: int, run: int) -> bool:
    data, end, previous = broken.data, len(broken.data), broken.previous
    for _ in range(run):
        if end - place < 8:
            return False
        if broken.vrs is not None and bytes(data[place + 4 : place + 6]) not in broken.vrs:
            return False
        header = broken.read(data, place, end - place)
        if header is None:
            return False
        tag, _, size, length = header
        if not previous < tag < 0xFFFE0000:
            return False
        if length == _UNDEFINED_LENGTH:
            return _is_item(broken, place + size)
        place, previous = place + size + length, tag
        if place >= end:
            return place == end
    return True


_Places = Iterator[tuple[int, int]]
"""Where reading may go on, and how many elements in a row have to prove it."""


def _behind_element(broken: Broken) -> _Places:
    data, at, end = broken.data, broken.at, len(broken.data)
    if end - at < 8:
        return
    for start in (broken.start, at + 8, at + 12):
        if _is_item(broken, start):  # a sequence, whose length is wrong; its items may be right
            place = _behind_items(broken, start)
            if place is not None and place > at:
                yield place, _RUN_TOLD
            return
    order = "<" if broken.little_endian else ">"
    short, long = Struct(order + "H").unpack_from, Struct(order + "L").unpack_from
    yield (
        at + 8 + short(data, at + 6)[0],
        _RUN_TOLD,
    )  # its VR means nothing, or should have had a short length
    if end - at >= 12:
        yield at + 12 + long(data, at + 8)[0], _RUN_TOLD  # a long length
    yield at + 8 + long(data, at + 4)[0], _RUN_TOLD  # it is Implicit VR
    for place in range(at + 8, end - 7):
        yield place, _RUN_FOUND


def _is_item(broken: Broken, place: int) -> bool:
    item = b"\xfe\xff\x00\xe0" if broken.little_endian else b"\xff\xfe\xe0\x00"
    return bytes(broken.data[place : place + 4]) == item


def _behind_items(broken: Broken, place: int) -> int | None:
    """The end of a sequence by its items; None where they do not tell it."""
    end = len(broken.data)
    unpack = Struct("<L" if broken.little_endian else ">L").unpack_from
    while end - place >= 8 and _is_item(broken, place):
        place += 8 + unpack(broken.data, place + 4)[0]
    return place if place <= end else None


def _behind_sequence(broken: Broken) -> _Places:
    """Behind each Sequence Delimitation Item: the first of them may be that of a sequence within."""
    delimiter = b"\xfe\xff\xdd\xe0" if broken.little_endian else b"\xff\xfe\xe0\xdd"
    data = bytes(broken.data)
    place = data.find(delimiter, broken.start)
    while place >= 0:
        yield place + 8, _RUN_IMPLICIT
        place = data.find(delimiter, place + 8)
