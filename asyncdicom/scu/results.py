"""What the methods of a `Client` give."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from asyncdicom.exceptions import DicomNetworkError
from asyncdicom.status import Status
from asyncdicom.telemetry.text import printable

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = [
    "Instance",
    "Matches",
    "ReceivedInstance",
    "ReceivedStudy",
    "Retrieved",
    "StoreResult",
    "Stored",
]

_SHOWN = 100  # matches in a notebook
_LONGEST = 120  # characters of a value there


class Matches(list["Dataset"]):
    """The matches of a C-FIND: a list of pydicom Datasets. A notebook shows it as a table."""

    optional_keys_supported = True
    """False when the peer said that it does not match by all of the keys (status FF01H)."""
    number_unreadable = 0
    """How many more there were that could not be read."""
    repeated = 0
    """How often the query was asked again, because an association that had been idle was gone."""

    def _repr_html_(self) -> str:
        """Give a table of the first matches; what peers sent is escaped."""
        names = list(dict.fromkeys(_name(e) for match in self[:_SHOWN] for e in _elements(match)))
        head = "".join(f"<th>{escape(name)}</th>" for name in names)
        rows = "".join(f"<tr>{_cells(match, names)}</tr>" for match in self[:_SHOWN])
        more = f"<p>{len(self)} matches, {_SHOWN} shown</p>" if len(self) > _SHOWN else ""
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{more}"


def _elements(match: Dataset) -> list[Any]:
    found = []
    for tag in sorted(match.keys()):
        try:
            found.append(match[tag])
        except Exception:  # pydicom converts now, and raises whatever comes of a wrong value
            continue
    return [element for element in found if element.keyword != "SpecificCharacterSet"]


def _name(element: Any) -> str:
    return element.keyword or str(element.tag)


def _cells(match: Dataset, names: Sequence[str]) -> str:
    values = {_name(element): element for element in _elements(match)}
    return "".join(f"<td>{escape(_shown(values.get(name)))}</td>" for name in names)


def _shown(element: Any) -> str:
    if element is None or element.value is None:
        return ""
    text = f"{len(element.value)} items" if element.VR == "SQ" else printable(str(element.value))
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


class Instance(NamedTuple):
    """An instance that was retrieved: in a file (`path`), or in memory (`data`, the encoded data set)."""

    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    size: int
    """Bytes of its data set."""
    path: Path | None = None
    data: bytes | None = None

    def dataset(self) -> Dataset:
        """Give it as a pydicom Dataset; reads the file, if it is in one (blocking).

        Raises `DataSetError` if it cannot be decoded, OSError if its file is gone.
        """
        if self.data is None:
            from pydicom import dcmread

            return dcmread(str(self.path))
        from asyncdicom.data.steps import finish
        from asyncdicom.dataset import decoding

        return finish(
            decoding(
                self.data,
                self.transfer_syntax_uid,
                sop_class_uid=self.sop_class_uid,
                sop_instance_uid=self.sop_instance_uid,
            )
        )

    def __repr__(self) -> str:
        where = f"path={str(self.path)!r}" if self.path is not None else f"{self.size} bytes"
        return f"Instance({self.sop_instance_uid!r}, {where})"


class ReceivedInstance(NamedTuple):
    """An instance that was received into a file: `storescp --on-stored` calls a function with it."""

    path: Path
    """Its file, which is complete."""
    folder: Path | None
    """That of its study, if there is one."""
    study_instance_uid: str
    """Its Study Instance UID; empty where it has none."""
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    size: int
    """Bytes of its data set."""
    calling_ae_title: str
    called_ae_title: str
    address: str
    """The host that it came from."""


class ReceivedStudy(NamedTuple):
    """A study for which nothing more has come: `storescp --on-stable` calls a function with it."""

    folder: Path
    """Where its files are; others that came before may be there, too."""
    study_instance_uid: str
    instances: int
    """How many have come since it was told last: files may be fewer, as what comes again is kept once."""
    calling_ae_title: str
    """Who has sent the last one."""
    called_ae_title: str
    address: str


def _failures(failed: Iterable[tuple[str, str]], number: int, what: str) -> str:
    first = next(iter(failed), ("", ""))
    return f"{number} instances were not {what}: {': '.join(filter(None, first))}"


@dataclass(slots=True)
class Retrieved:
    """What came of a retrieval."""

    instances: list[Instance] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """Why instances did not come, or were not taken, by their SOP Instance UIDs."""
    number_failed: int = 0
    """How many failed, with those that the peer counted without naming them."""
    status: Status = Status.SUCCESS
    """The worst final status."""
    error_comment: str | None = None
    """What the peer, or this side, said about it."""
    methods: set[Literal["get", "move"]] = field(default_factory=set)
    """How they came: by C-GET, or by C-MOVE to the client."""
    reconnected: int = 0
    """How often an association was lost, and what had not come was asked for again on another one."""

    def raise_for_failures(self) -> Retrieved:
        """Raise `DicomNetworkError`, with this as its `result`, if an instance failed; else give it."""
        if self.number_failed:
            named = list(self.failed.items()) or [("", self.error_comment or str(self.status))]
            raise DicomNetworkError(_failures(named, self.number_failed, "retrieved")).having(self)
        return self


class Stored(NamedTuple):
    """What became of one instance or file that was to be sent."""

    path: Path | None
    sop_instance_uid: str
    status: Status | None
    """The answer of the peer; None if there is none."""
    error: str = ""
    """Why it was not stored, or what the peer warns of."""
    repeated: bool = False
    """Whether it was sent more than once, because an association was lost before it was answered."""

    @property
    def is_stored(self) -> bool:
        """Whether the peer has taken it."""
        return self.status is not None and (self.status.is_success or self.status.is_warning)


@dataclass(slots=True)
class StoreResult:
    """What came of sending instances."""

    sent: int = 0
    """How many were answered with Success, or with a Warning."""
    warned: list[Stored] = field(default_factory=list)
    """Those with a Warning."""
    failed: list[Stored] = field(default_factory=list)
    """What was not stored, and why."""
    skipped: int = 0
    """Files in folders that are no instances: a DICOMDIR, a viewer."""
    repeated: int = 0
    """How many were sent more than once: see `Stored.repeated`."""

    def raise_for_failures(self) -> StoreResult:
        """Raise `DicomNetworkError`, with this as its `result`, if an instance failed; else give it."""
        if self.failed:
            named = [(str(each.path or each.sop_instance_uid), each.error) for each in self.failed[:1]]
            raise DicomNetworkError(_failures(named, len(self.failed), "stored")).having(self)
        return self

    def add(self, stored: Stored) -> None:
        """Count one more."""
        self.repeated += stored.repeated
        if not stored.is_stored:
            self.failed.append(stored)
            return
        self.sent += 1
        if stored.status is not None and stored.status.is_warning:
            self.warned.append(stored)
