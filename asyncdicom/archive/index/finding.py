"""What peers ask of the index: pages of matches, the instances of a retrieval. Short transactions, no more.

Who asks (`peer`) takes turns with others, see `Queries`. Cancelled: the statement that runs is interrupted.
All raise `QueriesClosed`, `IndexFailed`, and `IdentifierError` for what is too expensive.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Hashable, Sequence
from functools import partial

from asyncdicom.archive.index.kinds import recent_kinds
from asyncdicom.archive.index.queries import Queries
from asyncdicom.archive.index.query import Query
from asyncdicom.archive.index.reader import (
    Execute,
    InstanceRow,
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
from asyncdicom.archive.index.reassigned import Reassignment, reassignment_of

__all__ = ["MAXIMUM_PAGE", "Finding", "Pages"]

MAXIMUM_PAGE = 1 << 16
"""Characters of a page: one more row than that ends it."""
_IDS = 10_000  # ids that one short transaction reads


class Pages:
    """The matches of one query, for one who asks."""

    def __init__(self, queries: Queries, statement: Statement, peer: Hashable) -> None:
        self._queries = queries
        self._statement = statement
        self._peer = peer

    async def page(self, after: int, limit: int) -> tuple[list[Row], bool]:
        """Give the next rows after an id, at most `limit`; and whether they are the last."""
        return await self._queries.run(self._peer, partial(_page, self._statement, after, limit))

    async def ids(self, after: int) -> tuple[array[int], bool]:
        """Give the next ids alone; and whether they are the last."""
        found = await self._queries.run(self._peer, partial(_ids, self._statement, after))
        return found, len(found) < _IDS


class Finding:
    """Reads the index for peers."""

    def __init__(self, queries: Queries) -> None:
        self._queries = queries
        self._statements = Statements()

    def matches(self, query: Query, peer: Hashable) -> Pages:
        """Look for the values of ``query.keys``."""
        return Pages(self._queries, matches(self._statements, query), peer)

    def instances(self, query: Query, peer: Hashable) -> Pages:
        """Look for the instances that a retrieval asks for."""
        return Pages(self._queries, instance_ids(self._statements, query), peer)

    async def kinds(self, query: Query, peer: Hashable) -> frozenset[tuple[str, str]]:
        """Give every SOP Class UID and Transfer Syntax UID that occurs together in a retrieval."""
        return await self._queries.run(peer, partial(_kinds, instance_kinds(self._statements, query)))

    async def recent_kinds(self) -> Counter[tuple[str, str]]:
        """Count the newest instances by their SOP Class UID and Transfer Syntax UID."""
        return await self._queries.run(None, recent_kinds)

    async def of_other_patients(self, studies: Sequence[str], peer: Hashable) -> set[int]:
        """Give the ids of instances that share their study's UID with another patient, who came first."""
        return await self._queries.run(peer, partial(of_other_patients, study_instance_uids=studies))

    async def told_apart_by(self, patient_id: str, peer: Hashable) -> list[str]:
        """Give what tells the patients apart whose Patient ID reads so: at most two of them."""
        return await self._queries.run(peer, partial(told_apart_by, patient_id=patient_id))

    async def reassignment_of(self, sop_instance_uid: str, peer: Hashable) -> Reassignment | None:
        """Give what has put an instance under another patient, if anything has."""
        return await self._queries.run(peer, partial(reassignment_of, sop_instance_uid=sop_instance_uid))

    async def look_up(self, ids: Sequence[int], peer: Hashable) -> dict[int, InstanceRow]:
        """Give what is known of some instances; what is gone meanwhile is not there."""
        return await self._queries.run(peer, partial(instances_of, ids=ids))


def _page(statement: Statement, after: int, limit: int, execute: Execute) -> tuple[list[Row], bool]:
    rows: list[Row] = []
    size = 0
    for row in statement.page(execute, after, limit):
        rows.append(row)
        size += sum(len(value) for value in row if type(value) is str)
        if size > MAXIMUM_PAGE:
            return rows, False
    return rows, len(rows) < limit


def _ids(statement: Statement, after: int, execute: Execute) -> array[int]:
    return array("q", (row[0] for row in statement.page(execute, after, _IDS)))


def _kinds(statement: Statement, execute: Execute) -> frozenset[tuple[str, str]]:
    return frozenset((sop_class, syntax) for sop_class, syntax in statement.distinct(execute))
