"""Folders that received files are put into, named by what the instances say of themselves.

A template is `{PatientID}/{StudyInstanceUID}/{SeriesNumber:04}-{Modality}`. What a peer sends never leads
out of its folder, and values that differ never share one: what cannot be a name as it is gets a part of its
SHA-256 digest at its end.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import NamedTuple

from asyncdicom.naming import is_plain_name, marked_name

__all__ = ["NAMES", "FolderTemplate"]

NAMES = ("calling", "called")
"""What a template can name beside elements: the AE titles."""

_DEEPEST = 8  # folders in one another
_LONGEST = 512  # characters of a template
_FIELD = re.compile(r"\{([^{}]*)\}")
_OWN_TEXT = re.compile(r"[A-Za-z0-9._-]*").fullmatch
_FORMAT = re.compile(r"0[1-9]").fullmatch
_TEXTS = frozenset({"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "PN", "SH", "TM", "UI"})
_LAST_TAG = 0x7FE00000  # Pixel Data, before which everything is that describes it
_STUDY = 0x0020000D
# Capitals, and no small letters: there are file systems for which CT and ct are one folder.
_KEPT = re.compile(r"(?!NO-)[A-Z0-9._-]+").fullmatch
_NUMBER = re.compile(r"[+-]?[0-9]{1,18}").fullmatch


class _Field(NamedTuple):
    """A value in a name: an AE title (tag 0) or an element; `width`: digits that a number has at least."""

    name: str
    tag: int = 0
    width: int = 0

    def value(self, values: Mapping[int, str], titles: Mapping[str, str]) -> str | None:
        """Give it; None where there is none."""
        text = (values.get(self.tag, "") if self.tag else titles.get(self.name, "")).strip("\0 ")
        if self.width and _NUMBER(text):
            return format(int(text), f"0{self.width}")
        return text or None


class _Folder(NamedTuple):
    """The name of one folder: fields, and the text around them."""

    texts: tuple[str, ...]
    """One before each field, and one behind the last."""
    fields: tuple[_Field, ...]

    def name(self, values: Mapping[int, str], titles: Mapping[str, str]) -> str:
        """Give the name: other values make another one, on file systems without capitals, too."""
        found = [field.value(values, titles) for field in self.fields]
        words = [
            f"no-{field.name}" if value is None else value
            for field, value in zip(self.fields, found, strict=True)
        ]
        text = self.texts[0] + "".join(
            word + after for word, after in zip(words, self.texts[1:], strict=True)
        )
        if self._is_clear(found) and is_plain_name(text):
            return text
        return marked_name(text, repr(found))

    def _is_clear(self, found: list[str | None]) -> bool:
        """Whether the name tells the values: each may stand in it, and it is seen where it ends."""
        if not all(value is None or _KEPT(value) for value in found):
            return False
        ends = zip(found, self.texts[1:-1], strict=False)  # the last one ends with the name
        return not any(value is not None and end[0] in value for value, end in ends)


class FolderTemplate:
    """How the folders are named. Raises ValueError, with what is wrong, for what is no template.

    Elements are named by keyword (PS3.6), AE titles by `calling` and `called`. `{SeriesNumber:04}` is a
    number with at least four digits. Own text is letters, digits, ".", "_" and "-". A value that is missing,
    empty or longer than 65,536 bytes is "no-" and its keyword.
    """

    def __init__(self, text: str) -> None:
        if len(text) > _LONGEST:
            raise ValueError(f"it is longer than {_LONGEST} characters")
        self._folders = tuple(_folder_of(part) for part in text.split("/"))
        if len(self._folders) > _DEEPEST:
            raise ValueError(f"more than {_DEEPEST} folders in one another")

    @classmethod
    def of_study(cls, prefix: str) -> FolderTemplate:
        """Give the one that makes a folder for each study, whose name begins so."""
        template = cls.__new__(cls)
        field = _Field("StudyInstanceUID", _STUDY)
        template._folders = (_Folder((f"{prefix}_" if prefix else "", ""), (field,)),)
        return template

    @property
    def tags(self) -> frozenset[int]:
        """The elements that have to be known."""
        return frozenset(field.tag for folder in self._folders for field in folder.fields if field.tag)

    @property
    def depth_of_study(self) -> int:
        """How many folders lead to one that has no other study in it; 0: none does."""
        for depth, folder in enumerate(self._folders, 1):
            if any(field.tag == _STUDY for field in folder.fields):
                return depth
        return 0

    def names(self, values: Mapping[int, str], titles: Mapping[str, str]) -> list[str]:
        """Give the names of the folders, from the outer one, of what the elements and AE titles are.

        The values of elements are their bytes, read as Latin-1: so what differs stays different.
        """
        return [folder.name(values, titles) for folder in self._folders]


def _folder_of(part: str) -> _Folder:
    pieces = _FIELD.split(part)
    texts, fields = tuple(pieces[::2]), tuple(_field_of(name) for name in pieces[1::2])
    for text in texts:
        if "{" in text or "}" in text:
            raise ValueError(f"{part!r} has a brace without its other one")
        if not _OWN_TEXT(text):
            raise ValueError(
                f"{text!r}: beside {{...}} there are letters, digits, . _ -, and / between folders"
            )
    if not fields and not is_plain_name(part):
        raise ValueError(f"{part!r} is no name for a folder")
    if part.startswith("."):
        raise ValueError(f"{part!r}: the name of a folder does not begin with a dot")
    if not all(texts[1:-1]):
        raise ValueError(f"{part!r}: something has to be between two values: {{A}}-{{B}}")
    return _Folder(texts, fields)


def _field_of(text: str) -> _Field:
    from pydicom.datadict import dictionary_VR, keyword_dict

    name, colon, how = text.partition(":")
    if name in NAMES:
        tag, vr = 0, "AE"
    elif name in keyword_dict:
        tag = keyword_dict[name]
        vr = dictionary_VR(tag)
    else:
        known = {each.lower(): each for each in (*NAMES, *keyword_dict)}
        near = [known[each] for each in get_close_matches(name.lower(), known, 3)]
        meant = f"; did you mean {', '.join(near)}?" if near else f", nor one of {', '.join(NAMES)}"
        raise ValueError(f"{name!r} is no keyword of an element{meant}")
    if vr not in _TEXTS or not tag < _LAST_TAG:
        raise ValueError(
            f"{name} has the VR {vr}: a folder is named by text, dates, UIDs and numbers as text"
        )
    if colon and not (vr == "IS" and _FORMAT(how)):
        known_formats = "04 is, for numbers such as SeriesNumber (IS): at least four digits"
        raise ValueError(f"{{{text}}}: {how!r} is no format here; {known_formats}")
    return _Field(name, tag, int(how or 0))
