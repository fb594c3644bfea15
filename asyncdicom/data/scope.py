"""The data sets, items and sequences that are open while one is re-encoded, and what VRs depend on there."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from asyncdicom.data.elements import ReadHeader

__all__ = ["NOTED", "NO_END", "Choice", "Patch", "Scope", "are_words", "one_vr"]

NO_END = 1 << 62
"""Behind every byte, and every tag, that can come."""

_PIXEL_REPRESENTATION = 0x00280103
_BITS_ALLOCATED = 0x00280100
_LUT_DESCRIPTOR = 0x00283002
_WAVEFORM_BITS_ALLOCATED = 0x54001004
_PIXEL_DATA = 0x7FE00010

NOTED = frozenset([_PIXEL_REPRESENTATION, _BITS_ALLOCATED, _LUT_DESCRIPTOR, _WAVEFORM_BITS_ALLOCATED])
"""The elements (US) whose first value decides about the VR of others."""


class Choice(NamedTuple):
    """A VR that follows from the first value of another element, None where there is no such element."""

    decider: int
    choose: Callable[[int | None], bytes]


def _us_or_ss(pixel_representation: int | None) -> bytes:  # PS3.3 C.7.6.3.1
    return b"SS" if pixel_representation else b"US"


def _ob_or_ow(bits_allocated: int | None) -> bytes:  # PS3.5 A.2: up to 8 bits, it may be either
    return b"OW" if bits_allocated is None or bits_allocated > 8 else b"OB"


_BY_PIXEL_REPRESENTATION = Choice(_PIXEL_REPRESENTATION, _us_or_ss)
# OB or OW by the bits of a sample; the others (overlays, curves) are OW, as in Implicit VR (PS3.5 A.1).
_BY_BITS = {_PIXEL_DATA: Choice(_BITS_ALLOCATED, _ob_or_ow)} | dict.fromkeys(
    (0x54000110, 0x54000112, 0x5400100A, 0x54001010), Choice(_WAVEFORM_BITS_ALLOCATED, _ob_or_ow)
)


class Patch(NamedTuple):
    """A VR that was written before what decides about it was there."""

    buffer: bytearray
    offset: int
    choice: Choice

    def settle(self, value: int | None) -> None:
        """Write the VR that follows from the first value of the deciding element."""
        self.buffer[self.offset : self.offset + 2] = self.choice.choose(value)


class Scope:
    """A data set, an item or a sequence that is open.

    `end`: where it ends, -1 where a delimiter tells. `limit`: what nothing in it may exceed. `implicit`:
    whether it leaves in Implicit VR. `tag`: of the sequence that it is or belongs to. `outer`: what it lies
    in.
    """

    __slots__ = ("_noted", "_waiting", "end", "implicit", "is_sequence", "limit", "outer", "read", "tag")

    def __init__(
        self,
        outer: Scope | None,
        read: ReadHeader,
        *,
        implicit: bool,
        is_sequence: bool = False,
        tag: int = 0,
        end: int = -1,
        limit: int = NO_END,
    ) -> None:
        self.outer = outer
        self.read = read
        self.implicit = implicit
        self.is_sequence = is_sequence
        self.tag = tag
        self.end = end
        self.limit = limit
        self._noted: dict[int, int] = {}
        self._waiting: list[Patch] = []

    def first_value(self, tag: int) -> int | None:
        """The first value of a deciding element of this data set or item."""
        return self._noted.get(tag)

    def wait(self, tag: int, patch: Patch) -> bool:
        """Settle the VR of element `tag`, or keep it until what decides has come; tells whether it waits.

        The nearest data set around that has the deciding element decides; for one that begins with
        higher tags, or was read beyond, it is not there.
        """
        scope: Scope | None = self
        while scope is not None:
            value = scope._noted.get(patch.choice.decider)
            if value is not None:
                break
            if tag <= patch.choice.decider:
                scope._waiting.append(patch)
                return True
            tag = scope.tag
            scope = None if scope.outer is None else scope.outer.outer  # an item lies in a sequence
        else:
            value = None
        patch.settle(value)
        return False

    def note(self, tag: int, value: int) -> int:
        """Keep the first value of a deciding element; how many VRs were settled by it."""
        self._noted.setdefault(tag, value)
        return self._again(0)

    def passed(self, tag: int) -> int:
        """Element `tag` begins, or (`NO_END`) the scope ends; how many VRs were settled by it."""
        return self._again(tag) if self._waiting else 0

    def forget(self) -> int:
        """Leave all as it was written, here and around; how many VRs there were."""
        count = len(self._waiting) + (0 if self.outer is None else self.outer.forget())
        self._waiting = []
        return count

    def _again(self, tag: int) -> int:
        waiting, self._waiting = self._waiting, []
        return sum(not self.wait(tag, patch) for patch in waiting)


def are_words(tag: int, scope: Scope) -> bool:
    """Whether the value is Pixel Data with more than 8 bits a sample."""
    return tag == _PIXEL_DATA and (scope.first_value(_BITS_ALLOCATED) or 16) > 8


def one_vr(tag: int, vr: str, scope: Scope) -> tuple[str, Choice | None]:
    """The VR to write for an element where PS3.6 has several, and what it depends on as well."""
    if vr == "US or SS":
        return "US", _BY_PIXEL_REPRESENTATION
    if vr == "US or OW" and scope.first_value(_LUT_DESCRIPTOR) == 1:  # PS3.3 C.11.1.1.1: one entry
        return "US", None
    return "OW", _BY_BITS.get(tag) if vr == "OB or OW" else None
