"""One received instance as the index sees it: from scanned elements to the rows of its four levels."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from asyncdicom.archive.index.schema import BY_TAG, LEVELS, NAME_GROUPS, UNIQUE_KEYS, Attribute
from asyncdicom.archive.index.text import fold_name, normalise, text_of, told_apart, uid_of, values_of
from asyncdicom.data.elements import Element
from asyncdicom.exceptions import DataSetError
from asyncdicom.uid import is_usable_uid

__all__ = [
    "SPECIFIC_CHARACTER_SET",
    "WANTED_TAGS",
    "Identity",
    "Record",
    "character_set_of",
    "patient_row",
    "usable_record",
]

SPECIFIC_CHARACTER_SET = 0x00080005
WANTED_TAGS = frozenset(BY_TAG) | {SPECIFIC_CHARACTER_SET}
"""What the scanner picks out of a data set."""

_BYTES = "bytes "  # how what tells identifiers apart begins, where it is no study
_SOP_CLASS_UID = 0x00080016
_ISSUER_OF_PATIENT_ID = 0x00100021


class Identity(NamedTuple):
    """What places an instance in the tree: equal identities share patient, study and series."""

    patient_id: str
    issuer_of_patient_id: str
    told_apart: str
    study_instance_uid: str
    series_instance_uid: str

    def contradicts(self, patient: Sequence[str]) -> bool:
        """Tell whether another patient is meant: Patient ID, issuer and `told_apart` of that one are given.

        A missing Patient ID or issuer contradicts nothing, nor does letter case.
        """
        patient_id, issuer, apart = patient
        if not (self.patient_id or self._has_bytes) or not (patient_id or apart.startswith(_BYTES)):
            return False
        if self.patient_id.casefold() != patient_id.casefold():
            return True
        if self._has_bytes != apart.startswith(_BYTES) or (self._has_bytes and apart != self.told_apart):
            return True
        mine = self.issuer_of_patient_id.casefold()
        return bool(mine and issuer) and mine != issuer.casefold()

    @property
    def _has_bytes(self) -> bool:
        return self.told_apart.startswith(_BYTES)

    def of_patient(self) -> dict[str, str]:
        """Give the columns that tell a patient apart."""
        return {
            "patient_id": self.patient_id,
            "issuer_of_patient_id": self.issuer_of_patient_id,
            "told_apart": self.told_apart,
        }


class Record:
    """The indexed attributes of one instance; rows of upper levels are made when they are asked for."""

    __slots__ = (
        "_character_set",
        "_elements",
        "_little_endian",
        "contradiction",
        "identity",
        "sop_class_uid",
        "sop_instance_uid",
    )

    def __init__(self, elements: Mapping[int, Element], *, little_endian: bool) -> None:
        self._elements = elements
        self._little_endian = little_endian
        self._character_set = character_set_of(elements)
        self.contradiction = ""
        """What its identity contradicts: itself, or that of another instance."""
        self.sop_class_uid = uid_of(elements.get(_SOP_CLASS_UID))
        self.sop_instance_uid = uid_of(elements.get(UNIQUE_KEYS["IMAGE"]))
        placing = [elements.get(tag) for tag in _PLACING]
        length = len(self._character_set)
        for element in placing:
            if element is not None:
                length += len(element.value)
        identity = _identity if length <= _REMEMBERED else _identity.__wrapped__
        self.identity = identity(self._character_set, *placing)

    def row(self, level: str) -> dict[str, str]:
        """Give the columns of one level (PATIENT, STUDY, SERIES, IMAGE) that come from the data set."""
        row = dict(_EMPTY_ROWS[level])
        elements, attributes = self._elements, _ATTRIBUTES[level]
        for tag in elements.keys() & attributes.keys():
            value = elements[tag].value
            if value:
                # Of a SOP Instance UID nobody sees another one; a size or a number comes again and again.
                is_remembered = len(value) <= _SHORT and tag != _SOP_INSTANCE_UID
                columns = _columns if is_remembered else _columns.__wrapped__
                row.update(columns(tag, value, self._character_set, self._little_endian))
        return row


_SOP_INSTANCE_UID = UNIQUE_KEYS["IMAGE"]
_SHORT = 32  # bytes: longer than the UID of a SOP class


@lru_cache(4096)
def _columns(tag: int, value: bytes, character_set: str, little_endian: bool) -> Mapping[str, str]:
    """Give the columns of one attribute."""
    _, attribute = BY_TAG[tag]
    element = Element(tag, attribute.vr, value)
    columns: dict[str, str] = {}
    _fill(columns, attribute, text_of(element, attribute.vr, character_set, little_endian=little_endian))
    return columns


_PLACING = (UNIQUE_KEYS["PATIENT"], _ISSUER_OF_PATIENT_ID, UNIQUE_KEYS["STUDY"], UNIQUE_KEYS["SERIES"])
_REMEMBERED = 512  # bytes: nobody makes us remember long ones


@lru_cache(1024)
def _identity(
    character_set: str,
    patient_id: Element | None,
    issuer: Element | None,
    study: Element | None,
    series: Element | None,
) -> Identity:
    """Read what places an instance: the same elements come with every instance of a series."""
    texts = [
        "" if element is None else normalise(text_of(element, "LO", character_set, little_endian=True), "LO")
        for element in (patient_id, issuer)
    ]
    if bytes_of_issuer := told_apart(issuer, character_set):
        texts[1] = f"{texts[1]} ({bytes_of_issuer})"
    study_uid = uid_of(study)
    apart = told_apart(patient_id, character_set) or ("" if texts[0] else study_uid)
    return Identity(texts[0], texts[1], apart, study_uid, uid_of(series))


def usable_record(
    elements: Mapping[int, Element], *, little_endian: bool, repeated: Collection[int] = ()
) -> Record:
    """Give the record of an instance; `repeated` are tags that came with different values.

    Raises `DataSetError` if a UID that places it is not usable.
    """
    record = Record(elements, little_endian=little_endian)
    if UNIQUE_KEYS["PATIENT"] in repeated or _ISSUER_OF_PATIENT_ID in repeated:
        record.contradiction = "the Patient ID is there twice"
    identity = record.identity
    for name, uid in (
        ("SOP Class UID", record.sop_class_uid),
        ("SOP Instance UID", record.sop_instance_uid),
        ("Study Instance UID", identity.study_instance_uid),
        ("Series Instance UID", identity.series_instance_uid),
    ):
        if not is_usable_uid(uid):
            raise DataSetError(f"no usable {name} in the data set")
    return record


def character_set_of(elements: Mapping[int, Element]) -> str:
    """Give the value of Specific Character Set (0008,0005), empty if there is none."""
    element = elements.get(SPECIFIC_CHARACTER_SET)
    return element.value.decode("ascii", "replace").strip(" \0") if element is not None else ""


_ATTRIBUTES = {
    level: {attribute.tag: attribute for attribute in attributes} for level, attributes in LEVELS.items()
}
_EMPTY_ROWS = {
    level: {name: "" for a in attributes for name in (a.column, *a.companions)}
    | {name: "[]" for a in attributes if a.many for name in a.companions}
    for level, attributes in LEVELS.items()
}


def patient_row(texts: Mapping[str, str]) -> dict[str, str]:
    """Give the columns of a patient from their texts, by column; those that are not given are empty."""
    row = dict(_EMPTY_ROWS["PATIENT"])
    for attribute in LEVELS["PATIENT"]:
        if text := texts.get(attribute.column):
            _fill(row, attribute, text)
    return row


def _fill(row: dict[str, str], attribute: Attribute, text: str) -> None:
    column, vr = attribute.column, attribute.vr
    if attribute.many:
        values = [normalise(value, vr) for value in values_of(text, vr)]
        row[column] = normalise("\\".join(values), vr)
        if vr == "PN":
            values = [group for value in values for group in fold_name(value) if group]
        row[column + "_values"] = json.dumps(values, ensure_ascii=False)
        return
    row[column] = normalise(text, vr)
    if vr == "PN":
        for group, folded in zip(NAME_GROUPS, fold_name(row[column]), strict=True):
            row[f"{column}_{group}"] = folded
