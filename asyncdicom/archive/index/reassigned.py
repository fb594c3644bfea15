"""Studies of one patient that an operator has put under another one: what is noted of each."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, Protocol

from sqlalchemy import bindparam, select

from asyncdicom.archive.index.prepared import Prepared
from asyncdicom.archive.index.record import Identity, patient_row
from asyncdicom.archive.index.schema import LEVELS, instance, reassignment
from asyncdicom.archive.index.sql import numbers_of
from asyncdicom.data.amend import Amendment

__all__ = ["SENT", "Reassignment", "all_of_them", "in_force", "of_ids", "reassignment_of"]

_COLUMNS = tuple(column.name for column in reassignment.c if column.name != "id")
_SYSTEM = "asyncdicom"

SENT = ("patient_name", "patient_id", "issuer_of_patient_id", "patient_birth_date", "patient_sex")
"""The columns of a patient that are sent in place of what the files say."""


class Execute(Protocol):
    """Executes a statement of a transaction, and gives the driver's cursor."""

    def __call__(self, statement: Prepared, row: Mapping[str, Any], /) -> Any: ...


@dataclass(frozen=True)
class Reassignment:
    """A study that the files say is that of one patient is put under another one."""

    name: str
    study_instance_uid: str

    patient: tuple[str, str, str]
    """What the files say: Patient ID, issuer, what tells apart."""

    was: Mapping[str, str]
    """That patient, by column."""

    becomes: Mapping[str, str]
    """The other one."""

    made: str
    """When: UTC, ISO 8601."""

    undone: str = ""
    """The same; empty: it is in force."""

    id: int = 0
    """Its row."""

    @property
    def target(self) -> tuple[str, str, str]:
        """Whose the study is now: Patient ID, issuer, and nothing that tells apart."""
        return self.becomes["patient_id"], self.becomes.get("issuer_of_patient_id", ""), ""

    @property
    def key(self) -> Identity:
        """What the files say: patient and study."""
        return Identity(*self.patient, self.study_instance_uid, "")

    @cached_property
    def row(self) -> dict[str, str]:
        """The columns of the patient that it is put under."""
        return patient_row(self.becomes)

    def identity_of(self, identity: Identity) -> Identity:
        """Give the identity that an instance of this study has now."""
        patient_id, issuer, apart = self.target
        return identity._replace(patient_id=patient_id, issuer_of_patient_id=issuer, told_apart=apart)

    @property
    def amendment(self) -> Amendment:
        """What is sent in place of what the file says."""
        attributes = {each.column: each for each in LEVELS["PATIENT"]}
        made = datetime.fromisoformat(self.made)
        return Amendment(
            {
                attributes[column].tag: (attributes[column].vr, self.becomes.get(column, ""))
                for column in SENT
            },
            made.strftime("%Y%m%d%H%M%S.%f+0000"),
            _SYSTEM,
        )

    def values(self) -> dict[str, str]:
        """Give the columns of its row."""
        patient_id, issuer, apart = self.patient
        return {
            "name": self.name,
            "study_instance_uid": self.study_instance_uid,
            "patient_id": patient_id,
            "issuer_of_patient_id": issuer,
            "told_apart": apart,
            "was": json.dumps(self.was),
            "becomes": json.dumps(self.becomes),
            "made": self.made,
            "undone": self.undone,
        }


_ALL = Prepared(
    select(reassignment.c.id, *(reassignment.c[name] for name in _COLUMNS)).order_by(reassignment.c.id)
)
_OF_IDS = Prepared(
    select(reassignment.c.id, *(reassignment.c[name] for name in _COLUMNS)).where(
        reassignment.c.id.in_(select(numbers_of(bindparam("ids"))))
    )
)


_OF_INSTANCE = Prepared(
    select(instance.c.reassigned).where(instance.c.sop_instance_uid == bindparam("sop_instance_uid"))
)


def _read(row: Iterable[Any]) -> Reassignment:
    number, name, study, patient_id, issuer, apart, was, becomes, made, undone = row
    return Reassignment(
        name, study, (patient_id, issuer, apart), json.loads(was), json.loads(becomes), made, undone, number
    )


def all_of_them(execute: Execute) -> list[Reassignment]:
    """Give all that were ever made, in their order."""
    return [_read(row) for row in execute(_ALL, {})]


def in_force(execute: Execute) -> dict[Identity, Reassignment]:
    """Give those that were not undone, by what the files say."""
    return {each.key: each for each in all_of_them(execute) if not each.undone}


def of_ids(execute: Any, ids: Iterable[int]) -> dict[int, Reassignment]:
    """Give those of some rows, undone or not; ``execute`` takes SQL."""
    found = map(_read, execute(_OF_IDS.sql, (json.dumps(sorted(ids)),)))
    return {each.id: each for each in found}


def reassignment_of(execute: Any, sop_instance_uid: str) -> Reassignment | None:
    """Give what has put an instance under another patient; ``execute`` takes SQL."""
    for (number,) in list(execute(_OF_INSTANCE.sql, (sop_instance_uid,))):
        return of_ids(execute, [number]).get(number) if number else None
    return None
