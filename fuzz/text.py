"""Text: `data.charset` never raises, whatever the bytes, the character sets and the VR."""

from __future__ import annotations

from asyncdicom.data.charset import codec_of, decode_text
from fuzz.check import Head, check, check_equal

HEAD = 2
LAYOUT = "raw"
MAXIMUM = 8192
LINES = (2000, 20)
MEMORY = (262144, 24)  # astral characters take four bytes each, runs become lists

CHARACTER_SETS = (
    "",
    "ISO_IR 100",
    "ISO_IR 192",
    "GB18030",
    "GBK",
    "ISO_IR 13",
    "ISO_IR 166",
    "\\ISO 2022 IR 87",
    "ISO 2022 IR 13\\ISO 2022 IR 87\\ISO 2022 IR 159",
    "\\ISO 2022 IR 149",
    "\\ISO 2022 IR 58",
    "ISO 2022 IR 100\\ISO 2022 IR 144\\ISO 2022 IR 127",
    "ISO-IR_ir 1x",
    "own",  # the beginning of the body, up to a newline
)
VRS = ("PN", "LO", "SH", "LT", "ST", "UT", "UC", "CS", "UI", "DA", "AE", "UR", "")


def _set_up(data: bytes) -> tuple[bytes, str, str]:
    head = Head(data, HEAD)
    character_set, vr, body = head.choose(CHARACTER_SETS), head.choose(VRS), head.body
    if character_set == "own":
        first, _, body = body.partition(b"\n")
        character_set = first.decode("latin-1")
    return body, character_set, vr


def once(data: bytes) -> None:
    """What is measured."""
    decode_text(*_set_up(data))


def run(data: bytes) -> object:
    """All checks."""
    body, character_set, vr = _set_up(data)
    text = decode_text(body, character_set, vr)
    check(isinstance(text, str), "no text")
    check(len(text) <= len(body) + 1, "more characters than bytes")
    check_equal(decode_text(body + b" \0", character_set, vr), text, "padding changes the text")
    text.encode("utf-8", "replace")
    if body.isascii() and b"\x1b" not in body:
        check_equal(text, body.rstrip(b"\0 ").decode("ascii"), "ASCII is ASCII in every character set")
    check(isinstance(codec_of(character_set), str), "no codec")
    return character_set[:24], vr, text.isascii(), "\ufffd" in text
