"""Finding: what queries and retrievals ask for, page by page, without holding up or filling anything."""

from __future__ import annotations

from array import array
from collections.abc import AsyncGenerator, AsyncIterator, Hashable
from contextlib import aclosing
from typing import NamedTuple

from asyncdicom.archive.blobs.base import Blobs
from asyncdicom.archive.index.finding import Finding
from asyncdicom.archive.index.matching import IdentifierError, Problem, match
from asyncdicom.archive.index.query import TOLD_APART, Condition, Query
from asyncdicom.archive.index.reader import Row
from asyncdicom.data.amend import Amendment
from asyncdicom.net.reencoding import AmendedSource
from asyncdicom.net.sources import Source

__all__ = ["Finder", "MatchingInstances", "SourcesOf", "StoredInstance"]

PAGES = (16, 64)
"""Rows of the first page, and of all others: the first match comes soon, and little waits to be read."""
MAXIMUM_INSTANCES = 500_000
"""Instances of one retrieval: 8 bytes each are kept."""
_FILES = 128  # instances that one short transaction looks up


class StoredInstance(NamedTuple):
    """Where an instance lies: a Part 10 file with the data set from an offset on (bytes)."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    path: str
    data_set_offset: int
    data_set_length: int
    amendment: Amendment | None = None
    """What is to be sent in place of what the file says, if it was put under another patient."""


class Finder:
    """Answers queries from the index, and opens what was found among the blobs."""

    def __init__(self, index: Finding, blobs: Blobs) -> None:
        self.index = index
        self.blobs = blobs

    async def rows(self, query: Query, peer: Hashable) -> AsyncGenerator[Row, None]:
        """See `Archive.rows`."""
        after, number = 0, 0
        pages = self.index.matches(query, peer)
        while True:
            rows, is_last = await pages.page(after, PAGES[min(number, len(PAGES) - 1)])
            if rows:
                after = rows[-1][0]
            rows.reverse()
            while rows:
                yield rows.pop()  # what was given is not kept
            if is_last:
                return
            number += 1

    async def instances(self, query: Query, peer: Hashable) -> MatchingInstances:
        """See `Archive.instances`."""
        query = await self._read_as_stored(query, peer)
        ids = array("q")
        pages = self.index.instances(query, peer)
        is_last = False
        while not is_last:
            more, is_last = await pages.ids(ids[-1] if ids else 0)
            ids.extend(more)
            if len(ids) > MAXIMUM_INSTANCES:
                raise IdentifierError(
                    f"more than {MAXIMUM_INSTANCES} instances: ask for less at a time", Problem.TOO_MANY
                )
        others: set[int] = set()
        if studies := _studies_alone(query):
            others = await self.index.of_other_patients(studies, peer)
        left = array("q", (number for number in ids if number not in others)) if others else ids
        kinds = await self.index.kinds(query, peer)
        return MatchingInstances(self, left, kinds, peer, leaves_out=len(ids) - len(left))

    async def assigned(self, source: Source, peer: Hashable) -> Source:
        """See `Archive.assigned`."""
        found = await self.index.reassignment_of(source.sop_instance_uid, peer)
        return source if found is None else AmendedSource(source, found.amendment)

    async def _read_as_stored(self, query: Query, peer: Hashable) -> Query:
        """Let a Patient ID beyond ASCII name the one patient whose ID reads so, whatever its bytes are."""
        wanted = {each.key.column: each for each in query.conditions if each.key.level == "PATIENT"}
        apart, patient = wanted.get(TOLD_APART.column), wanted.get("patient_id")
        if apart is None or patient is None or _values_of(apart) != ("",):
            return query
        [text, *more] = _values_of(patient)
        if more or text.isascii():
            return query
        found = await self.index.told_apart_by(text, peer)
        if len(found) != 1:
            return query
        other = Condition(TOLD_APART, match("UI", found))
        return query._replace(conditions=tuple(other if c is apart else c for c in query.conditions))


def _values_of(condition: Condition) -> tuple[str, ...]:
    [[test]] = condition.alternatives
    return test.values


def _studies_alone(query: Query) -> tuple[str, ...]:
    """Give the Study Instance UIDs of a retrieval that names no Patient ID."""
    columns = {condition.key.column: condition for condition in query.conditions}
    if "patient_id" in columns or "study_instance_uid" not in columns:
        return ()
    return _values_of(columns["study_instance_uid"])


class MatchingInstances:
    """The instances that a retrieval asks for: how many they are, of which kinds, and where each one lies.

    Iterate (`async for`) for a `StoredInstance` each, or None for one that was removed meanwhile: they are
    looked up by pages, in short transactions.
    """

    def __init__(
        self,
        finder: Finder,
        ids: array[int],
        kinds: frozenset[tuple[str, str]],
        peer: Hashable,
        leaves_out: int = 0,
    ) -> None:
        self.kinds = kinds
        """Every SOP Class UID and Transfer Syntax UID that occurs together."""
        self.leaves_out = leaves_out
        """How many are not given: of the same study, and of another patient than the first one."""
        self._finder = finder
        self._ids = ids
        self._peer = peer

    def __len__(self) -> int:
        return len(self._ids)

    def source(self, instance: StoredInstance) -> Source:
        """Give one of them as something that C-STORE can send; it is read in threads."""
        source = self._finder.blobs.source(
            instance.path,
            sop_class_uid=instance.sop_class_uid,
            sop_instance_uid=instance.sop_instance_uid,
            transfer_syntax_uid=instance.transfer_syntax_uid,
            offset=instance.data_set_offset,
            length=instance.data_set_length,
        )
        return source if instance.amendment is None else AmendedSource(source, instance.amendment)

    def __aiter__(self) -> AsyncIterator[StoredInstance | None]:
        return self.each()

    async def each(self) -> AsyncGenerator[StoredInstance | None, None]:
        """Give one after another, from the beginning."""
        for start in range(0, len(self._ids), _FILES):
            ids = self._ids[start : start + _FILES]
            rows = await self._finder.index.look_up(ids, self._peer)
            for number in ids:
                row = rows.get(number)
                yield (
                    None
                    if row is None
                    else StoredInstance(
                        row.sop_class_uid,
                        row.sop_instance_uid,
                        row.transfer_syntax_uid,
                        self._finder.blobs.path(row.file),
                        row.data_set_offset,
                        row.data_set_length,
                        row.reassignment.amendment if row.reassignment is not None else None,
                    )
                )


class SourcesOf:
    """The sources of instances, as they are looked up: what a retrieval sends (`LazySources`)."""

    def __init__(self, found: MatchingInstances) -> None:
        self._found = found

    @property
    def kinds(self) -> frozenset[tuple[str, str]]:
        """See `MatchingInstances`."""
        return self._found.kinds

    def __len__(self) -> int:
        return len(self._found)

    async def __aiter__(self) -> AsyncIterator[Source | None]:
        async with aclosing(self._found.each()) as found:
            async for instance in found:
                yield None if instance is None else self._found.source(instance)
