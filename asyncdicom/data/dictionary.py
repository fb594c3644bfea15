"""The VR of an element that a data set does not tell (PS3.6 6 and 7): Implicit VR has none."""

from __future__ import annotations

from functools import cache

from asyncdicom.data._dictionary import REPEATING, TAGS

__all__ = ["vr_of"]

_PRIVATE = 0x00010000  # odd groups


def vr_of(tag: int) -> str:
    """The VR of `tag`: "UN" where PS3.6 does not know it, "OB or OW" where it depends on other elements.

    Private elements are UN, private creators LO (PS3.5 7.8.1), group lengths UL.
    """
    vr = _public().get(tag)
    if vr is not None:
        return vr
    if tag & _PRIVATE:
        return "LO" if 0x10 <= tag & 0xFFFF <= 0xFF else "UN" if tag & 0xFFFF else "UL"
    for mask, vrs in _repeating():
        vr = vrs.get(tag & mask)
        if vr is not None:
            return vr
    return "UN" if tag & 0xFFFF else "UL"


@cache
def _public() -> dict[int, str]:
    found = {}
    for vr, words in _rows(TAGS):
        group = 0
        for word in words:
            if word.endswith(":"):
                group = int(word[:-1], 16) << 16
            else:
                found[group | int(word, 16)] = vr
    return found


@cache
def _repeating() -> list[tuple[int, dict[int, str]]]:
    """Masks of the digits that are given, and the VRs by what is left of a tag."""
    found: dict[int, dict[int, str]] = {}
    for vr, words in _rows(REPEATING):
        for word in words:
            mask = int("".join("0" if digit == "x" else "F" for digit in word), 16)
            found.setdefault(mask, {})[int(word.replace("x", "0"), 16)] = vr
    return list(found.items())


def _rows(text: str) -> list[tuple[str, list[str]]]:
    rows = []
    for line in text.splitlines():
        if line.endswith(" ="):
            words: list[str] = []
            rows.append((line[:-2], words))
        else:
            words += line.split()
    return rows
