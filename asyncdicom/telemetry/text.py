"""Received text, made safe to show."""

from __future__ import annotations

__all__ = ["printable"]


def printable(text: str) -> str:
    r"""Give text as it can be shown on one line of a log or a terminal.

    Control characters, line ends, terminal escapes, direction marks and lone surrogates become Python's
    escapes (`\x1b`, `\u202e`). Text that is already so is given back as it is.
    """
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
