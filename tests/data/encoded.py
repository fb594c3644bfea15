"""Writes data sets by the letter of PS3.5 7, one function a rule, independent of the package."""

from __future__ import annotations

from struct import pack

LONG = ["OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"]
SYNTAXES = {
    "implicit": "1.2.840.10008.1.2",
    "explicit": "1.2.840.10008.1.2.1",
    "big": "1.2.840.10008.1.2.2",
}
UNDEFINED = 0xFFFFFFFF


def header(tag, vr, length, how):
    order = ">" if how == "big" else "<"
    group, element = tag >> 16, tag & 0xFFFF
    if how == "implicit" or group == 0xFFFE:
        return pack(order + "HHL", group, element, length)
    if vr in LONG:
        return pack(order + "HH2sHL", group, element, vr.encode(), 0, length)
    return pack(order + "HH2sH", group, element, vr.encode(), length)


def item(elements, how, undefined):
    body = dataset(elements, how)
    if undefined:
        return header(0xFFFEE000, "", UNDEFINED, how) + body + header(0xFFFEE00D, "", 0, how)
    return header(0xFFFEE000, "", len(body), how) + body


def sequence(tag, vr, items, how, undefined):
    """``items``: (elements, of undefined length). A UN of undefined length holds Implicit VR."""
    inside = "implicit" if vr == "UN" and undefined else how
    body = b"".join(item(elements, inside, open_item) for elements, open_item in items)
    if undefined:
        return header(tag, vr, UNDEFINED, how) + body + header(0xFFFEE0DD, "", 0, inside)
    return header(tag, vr, len(body), how) + body


def dataset(elements, how):
    """``elements``: (tag, vr, bytes) or (tag, vr, (items, of undefined length))."""
    return b"".join(
        header(tag, vr, len(value), how) + value
        if isinstance(value, bytes)
        else sequence(tag, vr, value[0], how, value[1])
        for tag, vr, value in elements
    )
