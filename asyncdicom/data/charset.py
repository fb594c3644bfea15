"""Text of data sets by Specific Character Set (PS3.5 6.1, PS3.3 C.12.1.1.2); nothing here ever raises.

The one rule for all text: the declared set, else valid UTF-8, else Latin-1, so that nothing is lost.
"""

from __future__ import annotations

import codecs
import re
from functools import lru_cache

# The default repertoire (ISO_IR 6) is ASCII; what is found outside it is nearly always Latin-1. The codec has
# another name here than that of ISO_IR 100, which does define G1.
_DEFAULT = "iso8859-1"

# Defined Terms by their number or name, as Python codecs. Katakana in the upper half of JIS X 0201 (13) and
# the single-byte half of Shift JIS are the same.
_CODECS = {
    "6": _DEFAULT,
    "13": "shift_jis",
    "58": "gb2312",
    "87": "iso2022_jp",
    "100": "latin-1",
    "101": "iso8859-2",
    "109": "iso8859-3",
    "110": "iso8859-4",
    "126": "iso8859-7",
    "127": "iso8859-6",
    "138": "iso8859-8",
    "144": "iso8859-5",
    "148": "iso8859-9",
    "149": "euc_kr",
    "159": "iso2022_jp_2",
    "166": "tis-620",
    "192": "utf-8",
    "203": "iso8859-15",
    "GB18030": "gb18030",
    "GBK": "gbk",
}
# These have bytes below 80H within characters, or no code extensions at all (PS3.5 6.1.2.4).
_WHOLE = frozenset(["utf-8", "gb18030", "gbk"])

# PS3.3 Tables C.12-3 and C.12-4. G0 codecs are for bytes below 80H, G1 codecs for those above.
_G0_ESCAPES = {
    b"(B": "ascii",
    b"(J": "ascii",
    b"$B": "iso2022_jp",
    b"$@": "iso2022_jp",
    b"$(D": "iso2022_jp_2",
}
_G1_ESCAPES = {
    b")I": "shift_jis",
    b"-A": "latin-1",
    b"-B": "iso8859-2",
    b"-C": "iso8859-3",
    b"-D": "iso8859-4",
    b"-F": "iso8859-7",
    b"-G": "iso8859-6",
    b"-H": "iso8859-8",
    b"-L": "iso8859-5",
    b"-M": "iso8859-9",
    b"-T": "tis-620",
    b"-b": "iso8859-15",
    b"$)C": "euc_kr",
    b"$)A": "gb2312",
}
_ESCAPE = b"\x1b"
# PS3.5 6.1.2.3: the VRs that Specific Character Set governs.
TEXT_VRS = frozenset(["LO", "LT", "PN", "SH", "ST", "UC", "UT"])
# PS3.5 6.1.2.5.3: after these the character sets are the initial ones again.
_RESET = {"PN": b"\\^=\r\n\f\t", "LT": b"\r\n\f\t", "ST": b"\r\n\f\t", "UT": b"\r\n\f\t"}


def decode_text(value: bytes, specific_character_set: str, vr: str) -> str:
    """The text of a raw value, without trailing padding.

    ``specific_character_set`` is the value of (0008,0005), with backslashes when there are several. It
    matters only to the VRs it governs. What is not text in that set is taken for UTF-8, or else for Latin-1.
    """
    value = value.rstrip(b"\0 ")
    if value.isascii() and _ESCAPE not in value:
        return value.decode("ascii")
    text = decode_declared(value, specific_character_set, vr)
    return guess(value) if text is None else text


def decode_declared(value: bytes, specific_character_set: str, vr: str) -> str | None:
    """The text of a value by the declared set alone; None where it is no text in it, or none is declared.

    Nothing is stripped, replaced or guessed.
    """
    codec = codec_of(specific_character_set)
    if vr not in TEXT_VRS or (codec == _DEFAULT and "\\" not in specific_character_set):
        codec = "ascii"
    try:
        if codec in _WHOLE or _ESCAPE not in value:
            return value.decode("ascii" if codec == _DEFAULT else codec)
        if codec == "ascii":
            return None
        return _decode_extended(value, codec, _RESET.get(vr, b"\\\r\n\f\t"))
    except ValueError:
        return None


def encode_text(text: str, specific_character_set: str, vr: str) -> bytes | None:
    """The raw value for a text in a set; None where the set cannot hold it, or nobody knows how.

    Nothing is replaced, and what it gives reads as `text` again.
    """
    if text.isascii():
        return text.encode("ascii")
    codecs_of_set = [codec_of(specific_character_set)]
    codecs_of_set += [_CODECS[term] for term in ("87", "159") if f" {term}" in specific_character_set]
    for codec in codecs_of_set:
        try:
            value = text.encode(codec)
        except ValueError:
            continue
        if decode_declared(value, specific_character_set, vr) == text:
            return value
    return None


def guess(value: bytes) -> str:
    """Read text whose character set nobody knows: valid UTF-8 as such, else as Latin-1."""
    try:
        return value.decode("utf-8")
    except ValueError:
        return value.decode("latin-1")


def codec_of(specific_character_set: str) -> str:
    """The Python codec of the (first) character set; UTF-8 for a term that nobody knows.

    Takes the spellings that are seen: "ISO-IR 100", "ISO 2022 IR 100", "iso_ir_100", and the names that
    others have for character sets: "LATIN1", "ISO8859-1", "WINDOWS-1251", "GB2312".
    """
    term = specific_character_set.partition("\\")[0].strip("\0 ").upper()
    words = term.replace("_", " ").replace("-", " ").split()
    number = words[-1].removeprefix("IR") if words else "6"
    codec = _CODECS.get(number) if number != "6" or "8859" not in term else None
    if codec is None:
        codec = _codec_named(term)
    return _DEFAULT if codec in ("iso2022_jp", "iso2022_jp_2") else codec  # those two are never initial


_WINDOWS = re.compile(r"(?:WINDOWS|WIN|CP|MS)[ _-]?(\d{3,4})")
_NO_CHARACTER_SETS = frozenset({"idna", "punycode", "unicode-escape", "raw-unicode-escape", "undefined"})
_EVERY_ASCII = bytes(range(0x20, 0x7F)) + b"~{+AAE-"  # what has states reads it otherwise


@lru_cache(maxsize=64)
def _codec_named(term: str) -> str:
    """The codec that Python has under a name, where ASCII is ASCII in it; else UTF-8."""
    windows = _WINDOWS.fullmatch(term)
    name = f"cp{windows[1]}" if windows else term.removeprefix("X-").replace(" ", "_")
    try:
        found = codecs.lookup(name).name if len(term) <= 20 else "idna"
        if found in _NO_CHARACTER_SETS or _EVERY_ASCII.decode(name) != _EVERY_ASCII.decode("ascii"):
            return "utf-8"
    except (LookupError, ValueError):
        return "utf-8"
    return "latin-1" if found == _DEFAULT else found


def _decode_extended(value: bytes, initial: str, reset: bytes) -> str:
    """PS3.5 6.1.2.5: code extensions. ``initial`` is the codec in G1, ASCII is in G0."""
    g0, g1 = "ascii", initial
    text: list[str] = []
    for number, run in enumerate(value.split(_ESCAPE)):
        if number:
            length = 3 if run[:3] in _G0_ESCAPES or run[:3] in _G1_ESCAPES else 2
            escape, run = run[:length], run[length:]
            if escape in _G0_ESCAPES:
                g0 = _G0_ESCAPES[escape]
            elif escape in _G1_ESCAPES:
                g1 = _G1_ESCAPES[escape]
            else:
                raise ValueError("no escape sequence of PS3.3 C.12.1.1.2")
        if g0 == "ascii":
            g1 = _decode_run(run, g1, initial, reset, text)
        else:
            # Two bytes a character until the next escape; the codec wants to see the escape itself.
            shift = b"\x1b$B" if g0 == "iso2022_jp" else b"\x1b$(D"
            text.append((shift + run).decode(g0))
    return "".join(text)


def _decode_run(run: bytes, g1: str, initial: str, reset: bytes, text: list[str]) -> str:
    """Decode what has no escapes in it, with ASCII in G0; the codec that is in G1 at its end."""
    start = 0
    for position, byte in enumerate(run):
        # With nothing in G1 initially there is nothing to go back to: lenient with who forgets to announce.
        if byte in reset and g1 != initial and initial != _DEFAULT:
            text.append(run[start:position].decode(g1))
            start, g1 = position, initial
    text.append(run[start:].decode(g1))
    return g1
