"""Finding: what C-FIND, C-GET and C-MOVE ask for, page by page, without holding up or filling anything."""

from __future__ import annotations

from array import array
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Hashable
from functools import partial
from typing import NamedTuple, TypeVar

from asyncdicom.archive.answer import Answers
from asyncdicom.archive.index.matching import IdentifierError, match
from asyncdicom.archive.index.queries import Queries
from asyncdicom.archive.index.query import (
    QUERY_RETRIEVE_LEVEL,
    RETRIEVE_AE_TITLE,
    TOLD_APART,
    Condition,
    Query,
    find_query,
    reading,
    retrieve_query,
)
from asyncdicom.archive.index.reader import (
    Execute,
    Row,
    Statement,
    Statements,
    instance_ids,
    instance_kinds,
    instances_of,
    matches,
    of_other_patients,
    told_apart_by,
)
from asyncdicom.archive.index.record import SPECIFIC_CHARACTER_SET
from asyncdicom.data.elements import Element
from asyncdicom.data.steps import Steps, finish
from asyncdicom.net.lane import lane
from asyncdicom.status import Status
from asyncdicom.uid import InformationModel, transfer_syntax

__all__ = ["Finder", "MatchingInstances", "StoredInstance"]

_T = TypeVar("_T")

_INSTANCE_AVAILABILITY = 0x00080056

PAGES = (16, 64)
"""Rows of the first page, and of all others: the first match comes soon, and little waits to be read."""
MAXIMUM_PAGE = 1 << 16
"""Characters of a page: one more row than that ends it."""
MAXIMUM_INSTANCES = 500_000
"""Instances of one retrieval: 8 bytes each are kept."""
_IDS = 10_000  # ids that one short transaction reads
_FILES = 128  # instances that one short transaction looks up
_AT_ONCE = 8192  # bytes of an identifier that are decoded in the event loop


class StoredInstance(NamedTuple):
    """Where an instance lies: a Part 10 file with the data set from an offset on (bytes)."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    path: str
    data_set_offset: int
    data_set_length: int


class Finder:
    """Answers queries from the index; ``path_of`` gives the path of a file by its name."""

    def __init__(self, queries: Queries, path_of: Callable[[str], str]) -> None:
        self.queries = queries
        self.path_of = path_of
        self._statements = Statements()

    async def find(
        self,
        identifier: bytes,
        transfer_syntax_uid: str,
        information_model: InformationModel,
        *,
        retrieve_ae_title: str,
        relational: bool,
        peer: Hashable,
    ) -> AsyncIterator[bytes]:
        """See `Archive.find`."""

        def read() -> Steps[tuple[Query, bool]]:
            elements = yield from reading(identifier, transfer_syntax_uid)
            yield
            query = find_query(
                elements, information_model, little_endian=syntax.little_endian, relational=relational
            )
            return query, any(element.tag == SPECIFIC_CHARACTER_SET for element in elements)

        syntax = transfer_syntax(transfer_syntax_uid)
        query, with_set = await _in_turn(identifier, transfer_syntax_uid, peer, read())
        constants = {
            QUERY_RETRIEVE_LEVEL: ("CS", query.level),
            RETRIEVE_AE_TITLE: ("AE", retrieve_ae_title),
            _INSTANCE_AVAILABILITY: ("CS", "ONLINE"),
        }
        answers = Answers(query, transfer_syntax_uid, constants, with_set=with_set)
        async for row in self._rows(matches(self._statements, query), peer):
            yield answers.encode(row[1:])

    async def _rows(self, statement: Statement, peer: Hashable) -> AsyncIterator[Row]:
        after, number = 0, 0
        while True:
            limit = PAGES[min(number, len(PAGES) - 1)]
            rows, is_last = await self.queries.run(peer, partial(_page, statement, after, limit))
            if rows:
                after = rows[-1][0]
            rows.reverse()
            while rows:
                yield rows.pop()  # what was given is not kept
            if is_last:
                return
            number += 1

    async def instances(
        self,
        identifier: bytes,
        transfer_syntax_uid: str,
        information_model: InformationModel,
        *,
        relational: bool,
        peer: Hashable,
    ) -> MatchingInstances:
        """See `Archive.matching_instances`."""

        def read() -> Steps[Query]:
            elements: list[Element] = yield from reading(identifier, transfer_syntax_uid)
            yield
            return retrieve_query(
                elements, information_model, little_endian=syntax.little_endian, relational=relational
            )

        syntax = transfer_syntax(transfer_syntax_uid)
        query = await _in_turn(identifier, transfer_syntax_uid, peer, read())
        query = await self._read_as_stored(query, peer)
        ids = array("q")
        statement = instance_ids(self._statements, query)
        while True:
            after = ids[-1] if ids else 0
            more = await self.queries.run(peer, partial(_ids, statement, after))
            ids.extend(more)
            if len(ids) > MAXIMUM_INSTANCES:
                raise IdentifierError(
                    f"more than {MAXIMUM_INSTANCES} instances: ask for less at a time",
                    Status.UNABLE_TO_CALCULATE_NUMBER_OF_MATCHES,
                )
            if len(more) < _IDS:
                break
        others: set[int] = set()
        if studies := _studies_alone(query):
            others = await self.queries.run(peer, partial(of_other_patients, study_instance_uids=studies))
        left = array("q", (number for number in ids if number not in others)) if others else ids
        kinds = instance_kinds(self._statements, query)
        found = await self.queries.run(peer, lambda execute: frozenset(map(tuple, kinds.distinct(execute))))
        return MatchingInstances(self, left, found, peer, leaves_out=len(ids) - len(left))

    async def _read_as_stored(self, query: Query, peer: Hashable) -> Query:
        """Let a Patient ID beyond ASCII name the one patient whose ID reads so, whatever its bytes are."""
        wanted = {each.key.column: each for each in query.conditions if each.key.level == "PATIENT"}
        apart, patient = wanted.get(TOLD_APART.column), wanted.get("patient_id")
        if apart is None or patient is None or _values_of(apart) != ("",):
            return query
        [text, *more] = _values_of(patient)
        if more or text.isascii():
            return query
        found = await self.queries.run(peer, partial(told_apart_by, patient_id=text))
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


async def _in_turn(identifier: bytes, transfer_syntax_uid: str, peer: Hashable, steps: Steps[_T]) -> _T:
    """Do work on an identifier: at once if it is short, else in the lane."""
    if len(identifier) <= _AT_ONCE and not transfer_syntax(transfer_syntax_uid).deflated:
        return finish(steps)
    return await lane().run(peer, steps)


def _page(statement: Statement, after: int, limit: int, execute: Execute) -> tuple[list[Row], bool]:
    """Read the next rows: at most ``limit``, and not much more than a page has characters; is it the last?"""
    rows: list[Row] = []
    size = 0
    for row in statement.page(execute, after, limit):
        rows.append(row)
        size += sum(len(value) for value in row if type(value) is str)
        if size > MAXIMUM_PAGE:
            return rows, False
    return rows, len(rows) < limit


def _ids(statement: Statement, after: int, execute: Execute) -> array[int]:
    """Read the next ids of a retrieval."""
    return array("q", (row[0] for row in statement.page(execute, after, _IDS)))


class MatchingInstances:
    """The instances that a retrieval asks for: how many they are, of which kinds, and where each one lies.

    Iterate (`async for`) for a `StoredInstance` each, or None for one that was removed meanwhile: they are
    looked up by pages, in short transactions.
    """

    def __init__(
        self,
        finder: Finder,
        ids: array[int],
        kinds: frozenset[tuple[str, ...]],
        peer: Hashable,
        leaves_out: int = 0,
    ) -> None:
        self.kinds = frozenset((sop_class, syntax) for sop_class, syntax in kinds)
        """Every SOP Class UID and Transfer Syntax UID that occurs together."""
        self.leaves_out = leaves_out
        """How many are not given: of the same study, and of another patient than the first one."""
        self._finder = finder
        self._ids = ids
        self._peer = peer

    def __len__(self) -> int:
        return len(self._ids)

    def __aiter__(self) -> AsyncIterator[StoredInstance | None]:
        return self.each()

    async def each(self) -> AsyncGenerator[StoredInstance | None, None]:
        """Give one after another, from the beginning."""
        for start in range(0, len(self._ids), _FILES):
            ids = self._ids[start : start + _FILES]
            rows = await self._finder.queries.run(self._peer, partial(instances_of, ids=ids))
            for number in ids:
                row = rows.get(number)
                yield (
                    None
                    if row is None
                    else StoredInstance(
                        row.sop_class_uid,
                        row.sop_instance_uid,
                        row.transfer_syntax_uid,
                        self._finder.path_of(row.file),
                        row.data_set_offset,
                        row.data_set_length,
                    )
                )
