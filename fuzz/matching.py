"""Identifiers of C-FIND, C-GET and C-MOVE: `archive.query` and `archive.matching`, down to SQLite.

An identifier is answered or refused with `IdentifierError`. No SQL fails, no text of the peer becomes SQL,
every answer has the keys that were asked for, and no pattern takes long.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import create_engine
from sqlalchemy.pool import StaticPool

from asyncdicom.archive.answers import Answers
from asyncdicom.archive.index.base import Changes, FileEntry, Insertion
from asyncdicom.archive.index.matching import IdentifierError
from asyncdicom.archive.index.query import Query, find_query, key_at, retrieve_query
from asyncdicom.archive.index.reader import Row, Statement, Statements, instance_ids, matches
from asyncdicom.archive.index.record import Record
from asyncdicom.archive.index.schema import BY_TAG, METADATA
from asyncdicom.archive.index.writer import Writer
from asyncdicom.data.elements import Element, decode
from asyncdicom.exceptions import DataSetError
from asyncdicom.uid import PATIENT_ROOT, PATIENT_STUDY_ONLY, STUDY_ROOT, transfer_syntax
from fuzz.check import Head, check, check_equal, words

HEAD = 2
LAYOUT = "identifier"
MAXIMUM = 8192
LINES = (10000, 20)
MEMORY = (2 << 20, 60)
SECONDS = 1.0

SYNTAXES = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99")
_MODELS = (PATIENT_ROOT, STUDY_ROOT, PATIENT_STUDY_ONLY)
_CONSTANTS = {0x00080052: ("CS", "LEVEL"), 0x00080054: ("AE", "ARCHIVE"), 0x00080056: ("CS", "ONLINE")}

# keyword: value of what is in the archive, one instance a row.
_STORED: tuple[dict[str, bytes], ...] = (
    {
        "PatientName": b"DOE^JOHN^^",
        "PatientID": b"P1",
        "Modality": b"CT",
        "StudyDate": b"20040826",
        "Rows": b"\2\1",
    },
    {
        "PatientName": "Yamada^Tarou=山田^太郎=やまだ^たろう".encode(),
        "PatientID": b"P2",
        "SpecificCharacterSet": b"ISO_IR 192",
    },
    {"PatientID": b"P1", "Modality": b"MR", "StudyTime": b"1030", "ImageType": b"ORIGINAL\\PRIMARY\\AXIAL "},
    {"PatientID": b"P%_[]*?'\"--", "StudyDescription": b"a" * 1024, "PatientComments": b"ab" * 512},
)


def _archive() -> Any:
    tags = {attribute.keyword: (tag, attribute.vr) for tag, (_, attribute) in BY_TAG.items()}
    tags["SpecificCharacterSet"] = (0x00080005, "CS")
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    METADATA.create_all(engine)
    changes = Changes()
    for number, values in enumerate(_STORED):
        uids = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "StudyInstanceUID": f"1.2.{number}"}
        uids |= {"SeriesInstanceUID": f"1.2.{number}.1", "SOPInstanceUID": f"1.2.{number}.1.1"}
        both = {**{keyword: uid.encode() for keyword, uid in uids.items()}, **values}
        elements = {tags[k][0]: Element(*tags[k], value) for k, value in both.items()}
        record = Record(elements, little_endian=True)
        entry = FileEntry(SYNTAXES[1], f"{number}.dcm", 400, 10, "", 0, "SCU")
        changes.instances.append(Insertion(record, entry))
    Writer(engine).change(lambda writer: writer.apply(changes))
    return engine.raw_connection().driver_connection


_CONNECTION = _archive()
_STATEMENTS = Statements()


def _rows(statement: Statement) -> list[Row]:
    return list(statement.page(_CONNECTION.execute, 0, 1000))


def _read(head: Head) -> tuple[list[Element], str, Query, bool]:
    model, flags = head.choose(_MODELS), head.byte()
    uid = SYNTAXES[flags & 3]
    elements = decode(head.body, uid)
    make = retrieve_query if flags & 4 else find_query
    query = make(
        elements, model, little_endian=transfer_syntax(uid).little_endian, relational=bool(flags & 8)
    )
    return elements, uid, query, bool(flags & 4)


def _answers(elements: list[Element], uid: str, query: Query) -> list[bytes]:
    with_set = any(element.tag == 0x00080005 for element in elements)
    answers = Answers(query, uid, _CONSTANTS, with_set=with_set)
    return [answers.encode(row[1:]) for row in _rows(matches(_STATEMENTS, query))]


def once(data: bytes) -> None:
    """What is measured."""
    try:
        elements, uid, query, is_retrieval = _read(Head(data, HEAD))
        if not is_retrieval:
            _answers(elements, uid, query)
    except (DataSetError, IdentifierError):
        return


def run(data: bytes) -> object:
    """All checks."""
    try:
        elements, uid, query, is_retrieval = _read(Head(data, HEAD))
    except DataSetError as error:
        return "unreadable", words(error)
    except IdentifierError as error:
        check(0 < len(error.comment) <= 64 and error.comment.isascii(), "a comment that cannot be sent")
        return error.comment
    if is_retrieval:
        found = _rows(instance_ids(_STATEMENTS, query))
        check(len(found) <= len(_STORED), "more than there is")
        return query.level, "retrieve", len(found)
    encoded = _answers(elements, uid, query)
    check(len(encoded) <= len(_STORED), "more than there is")
    asked = {element.tag for element in elements if element.tag & 0xFFFF} - {0x00080005}
    for answer in encoded:
        given = {element.tag for element in decode(answer, uid)}
        check_equal(asked - given, set(), "keys without an answer")
    known = tuple(sorted(tag for tag in asked if key_at(query.level, tag)))[:4]
    return query.level, len(query.conditions), len(encoded), known
