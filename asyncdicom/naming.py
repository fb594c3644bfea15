"""The one place where something received becomes a part of a file name (`safe_name`) or of a folder's."""

from __future__ import annotations

import hashlib
import re

__all__ = ["is_plain_name", "marked_name", "safe_name"]

_LONGEST = 64  # bytes
_DIGITS = 32  # of the hash: 128 bits, so that nobody finds two texts with the same ones

# What keeps its name. Without capitals: there are file systems for which "1.A" and "1.a" are one file.
# Windows takes a dot at the end away.
_SAFE = re.compile(r"(?![.-])[a-z0-9._-]{1,64}(?<![.])").fullmatch
_MADE = re.compile(r".*_(?i:[0-9a-f]{32})").fullmatch  # so it may not look like a name that was made here
_PLAIN = re.compile(r"(?![.-])[A-Za-z0-9._-]{1,160}(?<![.])").fullmatch
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]").sub
# On Windows these are devices, in any folder and with any ending.
_DEVICE = re.compile(r"(?i:con|prn|aux|nul|com[0-9]|lpt[0-9])(?![^.])").match


def safe_name(original: str) -> str:
    """Give a name for a file, made of text that was received: a UID, an AE title.

    It has 1 to 64 of the characters A-Z, a-z, 0-9, ".", "_" and "-", does not begin with a dot or a hyphen,
    does not end with a dot, and is no device on Windows. UIDs as PS3.5 9.1 defines them stay what they are.
    What had to be changed gets a part of its SHA-256 digest at its end, so that different texts have
    different names, on file systems that do not tell capitals from small letters, too. An ending (".dcm")
    may be added.
    """
    if _SAFE(original) and not _DEVICE(original) and not _MADE(original):
        return original
    return marked_name(original, original)


def is_plain_name(text: str) -> bool:
    """Whether this may be the name of a folder as it is: `safe_name` without its care for capitals.

    It has up to 160 characters.
    """
    return bool(_PLAIN(text)) and not _DEVICE(text) and not _MADE(text)


def marked_name(text: str, identity: str) -> str:
    """Give the beginning of a text, made safe, with a part of the digest of `identity` at its end."""
    digest = hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]
    readable = _UNSAFE("_", text[: _LONGEST - _DIGITS - 2])
    if not readable or readable[0] in ".-" or _DEVICE(readable):
        readable = f"_{readable}"
    return f"{readable}_{digest}"
