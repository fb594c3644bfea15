"""What the index holds: the attributes of each level, and the SQL tables made from them.

``LEVELS`` is the one list of indexed attributes (PS3.4 C.6.1.1 and C.6.2.1: the unique, the required and the
optional keys that people ask for). Tables, matching, ingest and answers all follow it; an attribute is added
by adding a row.

Every attribute is a text column named as its keyword in snake_case, empty where the data set has no value.
Beside it, for matching:

* a person name has its three component groups, casefolded (``patient_name_alphabetic`` ...);
* an attribute of many values has them as a JSON list (``image_type_values``): of names, the folded groups.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from sqlalchemy import (
    Column,
    ColumnElement,
    Float,
    ForeignKey,
    Index,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    literal_column,
)

from asyncdicom.archive.index.sql import Integer, has_backslash

__all__ = [
    "BY_TAG",
    "LEVELS",
    "METADATA",
    "NAME_GROUPS",
    "SCHEMA_VERSION",
    "SPARSE_INDEXES",
    "UNIQUE_KEYS",
    "Attribute",
    "archive",
    "deletion",
    "deletion_log",
    "delivery",
    "destination",
    "instance",
    "patient",
    "peer",
    "quarantine",
    "reassignment",
    "scrub",
    "series",
    "stability",
    "study",
    "tombstone",
]

SCHEMA_VERSION = 7  # 1 had other digests; `migrations` knows the way from 2

NAME_GROUPS = ("alphabetic", "ideographic", "phonetic")
"""The component groups of a person name, in the order of PS3.5 6.2.1."""


class Attribute(NamedTuple):
    """One indexed attribute."""

    tag: int
    keyword: str
    vr: str
    many: bool = False
    column: str = ""

    @property
    def companions(self) -> tuple[str, ...]:
        """The names of the columns that exist only for matching."""
        if self.many:
            return (self.column + "_values",)
        if self.vr == "PN":
            return tuple(f"{self.column}_{group}" for group in NAME_GROUPS)
        return ()


_TABLE = {
    "PATIENT": """
        0010,0010 PN PatientName
        0010,0020 LO PatientID
        0010,0021 LO IssuerOfPatientID
        0010,0030 DA PatientBirthDate
        0010,0032 TM PatientBirthTime
        0010,0040 CS PatientSex
        0010,1000 LO OtherPatientIDs              many
        0010,1001 PN OtherPatientNames            many
        0010,2160 SH EthnicGroup
        0010,4000 LT PatientComments
    """,
    "STUDY": """
        0008,0020 DA StudyDate
        0008,0030 TM StudyTime
        0008,0050 SH AccessionNumber
        0008,0090 PN ReferringPhysicianName
        0008,1030 LO StudyDescription
        0008,1060 PN NameOfPhysiciansReadingStudy many
        0008,1080 LO AdmittingDiagnosesDescription many
        0010,1010 AS PatientAge
        0010,1020 DS PatientSize
        0010,1030 DS PatientWeight
        0010,2180 SH Occupation
        0010,21B0 LT AdditionalPatientHistory
        0020,000D UI StudyInstanceUID
        0020,0010 SH StudyID
    """,
    "SERIES": """
        0008,0021 DA SeriesDate
        0008,0031 TM SeriesTime
        0008,0060 CS Modality
        0008,0070 LO Manufacturer
        0008,0080 LO InstitutionName
        0008,1010 SH StationName
        0008,103E LO SeriesDescription
        0008,1050 PN PerformingPhysicianName      many
        0008,1070 PN OperatorsName                many
        0008,1090 LO ManufacturerModelName
        0018,0015 CS BodyPartExamined
        0018,1030 LO ProtocolName
        0018,5100 CS PatientPosition
        0020,000E UI SeriesInstanceUID
        0020,0011 IS SeriesNumber
        0020,0060 CS Laterality
        0040,0244 DA PerformedProcedureStepStartDate
        0040,0245 TM PerformedProcedureStepStartTime
    """,
    "IMAGE": """
        0008,0008 CS ImageType                    many
        0008,0016 UI SOPClassUID
        0008,0018 UI SOPInstanceUID
        0008,0022 DA AcquisitionDate
        0008,0023 DA ContentDate
        0008,0032 TM AcquisitionTime
        0008,0033 TM ContentTime
        0020,0012 IS AcquisitionNumber
        0020,0013 IS InstanceNumber
        0028,0008 IS NumberOfFrames
        0028,0010 US Rows
        0028,0011 US Columns
        0028,0100 US BitsAllocated
    """,
}


def _snake_case(keyword: str) -> str:
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", keyword.replace("IDs", "Ids"))
    return words.lower()


def _parse(row: str) -> Attribute:
    tag, vr, keyword, *many = row.split()
    return Attribute(int(tag.replace(",", ""), 16), keyword, vr, bool(many), _snake_case(keyword))


LEVELS: dict[str, tuple[Attribute, ...]] = {
    level: tuple(_parse(row) for row in rows.strip().splitlines()) for level, rows in _TABLE.items()
}
"""The indexed attributes of each Query/Retrieve Level, from the top."""

BY_TAG: dict[int, tuple[str, Attribute]] = {
    attribute.tag: (level, attribute) for level, attributes in LEVELS.items() for attribute in attributes
}

UNIQUE_KEYS = {"PATIENT": 0x00100020, "STUDY": 0x0020000D, "SERIES": 0x0020000E, "IMAGE": 0x00080018}
"""The Unique Key of each level (PS3.4 C.6.1.1)."""


METADATA = MetaData()


def _columns(level: str) -> list[Column[str]]:
    names = [name for a in LEVELS[level] for name in (a.column, *a.companions)]
    return [Column(name, Text, nullable=False) for name in names]


def _parent(table: str) -> Column[int]:
    return Column("parent", ForeignKey(f"{table}.id"), nullable=False)


# Which archive this is, and how many times it was started: one row, the same as in `archive.json`.
archive = Table(
    "archive",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("archive_id", Text, nullable=False),
    Column("generation", Integer, nullable=False),
)

# `told_apart`: of a patient without Patient ID the study, since two unnamed patients are never taken for one;
# of one whose Patient ID is not known for sure as text, its bytes. Else it is empty.
patient = Table(
    "patient",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("told_apart", Text, nullable=False),
    *_columns("PATIENT"),
    UniqueConstraint("patient_id", "issuer_of_patient_id", "told_apart"),
    *(Index(f"patient_name_{group}_index", f"patient_name_{group}") for group in NAME_GROUPS),
    Index("patient_birth_date_index", "patient_birth_date"),
)

# A Study Instance UID that comes with two Patient IDs makes two studies: an image is never shown under the
# name of a patient whose identifier it does not carry. The same holds for series.
study = Table(
    "study",
    METADATA,
    Column("id", Integer, primary_key=True),
    _parent("patient"),
    *_columns("STUDY"),
    UniqueConstraint("parent", "study_instance_uid"),
    Index("study_instance_uid_index", "study_instance_uid"),
    Index("study_date_index", "study_date"),
    Index("accession_number_index", "accession_number"),
)

series = Table(
    "series",
    METADATA,
    Column("id", Integer, primary_key=True),
    _parent("study"),
    *_columns("SERIES"),
    UniqueConstraint("parent", "series_instance_uid"),
    Index("series_instance_uid_index", "series_instance_uid"),
)


def _file_columns() -> list[Column[str] | Column[int]]:
    return [
        Column("transfer_syntax_uid", Text, nullable=False),
        Column("file", Text, nullable=False, unique=True),  # below objects/ or quarantine/
        Column("data_set_offset", Integer, nullable=False),
        Column("data_set_length", Integer, nullable=False),
        Column("digest", Text, nullable=False),  # of the data set: 16 bytes of SHA-256, in hexadecimal
        # 1: it ends within an element
        Column("incomplete", Integer, nullable=False, server_default=literal_column("0")),
        Column("received", Text, nullable=False),  # UTC, ISO 8601
        Column("calling_ae_title", Text, nullable=False),
    ]


instance = Table(
    "instance",
    METADATA,
    Column("id", Integer, primary_key=True),
    _parent("series"),
    *_columns("IMAGE"),
    *_file_columns(),
    # the row of `reassignment` that has put it under another patient than that of its file; 0: none
    Column("reassigned", Integer, nullable=False, server_default=literal_column("0")),
    UniqueConstraint("sop_instance_uid"),
    Index("instance_parent_index", "parent"),
)

quarantine = Table(
    "quarantine",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("sop_class_uid", Text, nullable=False),
    Column("sop_instance_uid", Text, nullable=False, index=True),
    Column("reason", Text, nullable=False),
    *_file_columns(),
)


# A study of one patient that an operator has put under another one, see `reassigned`. Patient ID, issuer and
# `told_apart` are what the files say. `reassigned.json` has the same.
reassignment = Table(
    "reassignment",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("study_instance_uid", Text, nullable=False),
    Column("patient_id", Text, nullable=False),
    Column("issuer_of_patient_id", Text, nullable=False),
    Column("told_apart", Text, nullable=False),
    Column("was", Text, nullable=False),  # JSON: what was known of that patient, by column
    Column("becomes", Text, nullable=False),  # JSON: the other one, by column
    Column("made", Text, nullable=False),  # UTC, ISO 8601
    Column("undone", Text, nullable=False),  # the same; empty: it is in force
)


# A file of the quarantine that an operator has removed: what it was stays known. (A table that is only added
# needs no step of `migrations`: it is made when it is not there, and an earlier version leaves it alone.)
tombstone = Table(
    "tombstone",
    METADATA,
    Column("id", Integer, primary_key=True),
    *(
        Column(
            column.name,
            column.type,
            nullable=False,
            server_default=literal_column("0") if column.server_default is not None else None,
        )
        for column in quarantine.c
        if column.name != "id"
    ),
    Column("purged", Text, nullable=False),  # UTC, ISO 8601
    Index("tombstone_file_index", "file"),
)

# The file of an instance that was deleted: it is never indexed again under this name. `deleted.jsonl` has the
# same. A row stays when the same instance comes again, which gets a file of another name.
deletion = Table(
    "deletion",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("sop_instance_uid", Text, nullable=False),
    Column("sop_class_uid", Text, nullable=False),
    Column("study_instance_uid", Text, nullable=False),
    Column("series_instance_uid", Text, nullable=False),
    Column("file", Text, nullable=False, unique=True),
    Column("data_set_offset", Integer, nullable=False),
    Column("data_set_length", Integer, nullable=False),
    Column("digest", Text, nullable=False),
    Column("received", Text, nullable=False),  # UTC, ISO 8601, as all times here
    Column("calling_ae_title", Text, nullable=False),
    Column("deleted", Text, nullable=False),
    Column("why", Text, nullable=False),
    Column("lifted", Text, nullable=False),  # when the instance was stored again; empty: it was not
    Index("deletion_instance_index", "sop_instance_uid"),
)

# How far `deleted.jsonl` was written, and the highest number that a row of a deleted instance had: one row.
deletion_log = Table(
    "deletion_log",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("size", Integer, nullable=False),  # bytes
    Column("last", Text, nullable=False),  # the name of its last entry
    Column("highest", Integer, nullable=False),
)

# Who has been told that a study is stable, and with which of its instances as the last one; of study 0: how
# far all was looked through for them. (A table that is only added, as above.)
stability = Table(
    "stability",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("study", Integer, primary_key=True),
    Column("last", Integer, nullable=False),
    Column("received", Text, nullable=False),  # of that one: a row's number may be given again
)

# How far the slow look at all files has come: one row.
scrub = Table(
    "scrub",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False),  # the table that it is in; empty between two times round
    Column("after", Integer, nullable=False),  # the last row it has looked at
    Column("missing", Integer, nullable=False),  # of this time round
    Column("damaged", Integer, nullable=False),
    Column("last_missing", Integer, nullable=False),  # of the last time round
    Column("last_damaged", Integer, nullable=False),
    Column("ended", Text, nullable=False),  # that one: UTC, ISO 8601; empty before
)

# What was learned of the peers that are called: see `peers`. (This table needs no step either.)
peer = Table(
    "peer",
    METADATA,
    Column("what", Text, primary_key=True),
    Column("ae_title", Text, primary_key=True),
    Column("host", Text, primary_key=True),
    Column("port", Integer, primary_key=True),
    Column("until", Float, nullable=False),  # seconds since 1970; it does not hold any more then
)


# Work that is owed to others: see `deliveries`. Times are in seconds since 1970. A row stays when it has come
# to its end, so that the same is not done again, until its instance is deleted or another takes its place.
delivery = Table(
    "delivery",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("destination", Text, nullable=False),
    Column("instance", Integer),  # the row it is about, if any
    Column("revision", Integer, nullable=False),  # of the instance: a part of its digest
    Column("order_key", Text),  # work with the same one is done in its order
    Column("payload", Text),
    Column("priority", Integer, nullable=False),  # the smallest is the first
    Column("due", Float, nullable=False),  # of one that has come to its end: when that was
    Column("attempts", Integer, nullable=False),
    Column("state", Integer, nullable=False),  # see `deliveries.State`
    Column("leased_until", Float),
    Column("status", Integer),  # what was answered last
    Column("comment", Text, nullable=False),
    Column("first_error_at", Float),
)
_STATE = delivery.c.state


def _is_state(number: int) -> ColumnElement[bool]:
    return literal_column(str(number)) == _STATE


_KEY = (delivery.c.destination, delivery.c.kind)
Index(
    "delivery_once_index", delivery.c.instance, *reversed(_KEY), delivery.c.revision, unique=True,
    sqlite_where=delivery.c.instance.isnot(None),
)  # fmt: skip
Index("delivery_ready_index", *_KEY, delivery.c.priority, sqlite_where=_is_state(0))
Index("delivery_waiting_index", delivery.c.due, sqlite_where=_is_state(1))
Index("delivery_leased_index", delivery.c.leased_until, sqlite_where=_is_state(2))
Index("delivery_failed_index", *_KEY, sqlite_where=_is_state(3))
Index(
    "delivery_order_index", *_KEY, delivery.c.order_key, _STATE,
    sqlite_where=delivery.c.order_key.isnot(None),
)  # fmt: skip

# What an operator has said about a destination of deliveries.
destination = Table(
    "destination",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("paused", Integer, nullable=False),
)


# The few texts with several values have an index of their own, so that to look into them costs nothing.
SPARSE_INDEXES = tuple(
    Index(f"{column.name}_several_index", column, sqlite_where=has_backslash(column))
    for column in (
        *(patient.c[f"patient_name_{group}"] for group in NAME_GROUPS),
        patient.c.patient_id,
        patient.c.patient_birth_date,
        study.c.study_date,
        study.c.accession_number,
    )
)
