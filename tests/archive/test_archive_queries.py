"""The index is shared fairly, and nobody waits for a statement that is not wanted any more."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asyncdicom.archive import Archive, IdentifierError, Problem
from asyncdicom.archive.dimse import find, matching_instances
from asyncdicom.archive.index.opening import open_index
from asyncdicom.archive.index.queries import Queries, QueriesClosed
from asyncdicom.archive.index.query import find_query
from asyncdicom.archive.index.reader import Execute, Statements, matches
from asyncdicom.data.elements import Element, encode
from asyncdicom.uid import DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN, STUDY_ROOT

ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"


@pytest.fixture
def queries(tmp_path: Path) -> Iterator[Queries]:
    engine = open_index(str(tmp_path / "index.sqlite"), durability="none", readers=4)
    queries = Queries(engine, threads=4, share=2)
    yield queries
    queries.close()
    engine.dispose()


def endless(begun: threading.Semaphore) -> Any:
    def work(execute: Execute) -> None:
        begun.release()
        list(execute(ENDLESS, ()))

    return work


def one(execute: Execute) -> Any:
    return list(execute("SELECT 1", ()))


async def until(semaphore: threading.Semaphore) -> None:
    while not semaphore.acquire(blocking=False):
        await asyncio.sleep(0)


async def test_one_peer_has_its_share_and_others_are_served_meanwhile(queries: Queries) -> None:
    begun = threading.Semaphore(0)
    tasks = [asyncio.create_task(queries.run("attacker", endless(begun))) for _ in range(50)]
    await until(begun)
    await until(begun)
    assert await queries.run("neighbour", one) == [(1,)]
    assert not begun.acquire(blocking=False), "a third one of the same peer runs"
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert await queries.run("attacker", one) == [(1,)]


async def test_a_cancelled_statement_is_interrupted_and_no_other(queries: Queries) -> None:
    begun = threading.Semaphore(0)
    task = asyncio.create_task(queries.run("a", endless(begun)))
    await until(begun)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    # All later statements, on whichever connection, come to their end.
    assert [await queries.run("a", one) for _ in range(50)] == [[(1,)]] * 50
    assert queries.interrupted >= 1


async def test_close_waits_for_no_statement(queries: Queries) -> None:
    begun = threading.Semaphore(0)
    running = asyncio.create_task(queries.run("a", endless(begun)))
    await until(begun)
    waiting = [asyncio.create_task(queries.run("a", endless(begun))) for _ in range(5)]
    await asyncio.sleep(0)
    await asyncio.to_thread(queries.close)
    for task in (running, *waiting):
        with pytest.raises(QueriesClosed):
            await task
    with pytest.raises(QueriesClosed):
        await queries.run("a", one)


def test_statements_are_kept_up_to_so_many_bytes() -> None:
    statements = Statements(maximum_bytes=20_000)
    shapes: set[str] = set()

    def execute(sql: str, parameters: Any) -> Iterator[Any]:
        shapes.add(sql)
        return iter([(0,) * 3] if "EXISTS" in sql[:40] else [])

    tags = (0x00080020, 0x00080030, 0x00080050, 0x00081030, 0x00100020, 0x00100040, 0x00201206)
    for mask in range(1 << len(tags)):
        keys = [Element(tag, "LO", b"1") for number, tag in enumerate(tags) if mask >> number & 1]
        elements = [Element(0x00080052, "CS", b"STUDY"), *keys]
        try:
            query = find_query(elements, STUDY_ROOT, little_endian=True)
        except IdentifierError:
            continue
        list(matches(statements, query).page(execute, 0, 16))
    assert len(shapes) > 30
    assert statements.size <= 20_000


def test_values_make_no_shapes() -> None:
    statements, seen = Statements(), set[str]()

    def execute(sql: str, parameters: Any) -> Iterator[Any]:
        seen.add(sql)
        return iter([(0,)] if "max(" in sql or "EXISTS" in sql[:40] else [])

    for count in range(2, 64):
        for value in (b"\\".join(b"V%d" % n for n in range(count)), b"\\".join([b"*X*"] * count)):
            elements = [Element(0x00080052, "CS", b"STUDY"), Element(0x00081030, "LO", value)]
            elements.append(Element(0x0020000D, "UI", b"\\".join(b"1.%d" % n for n in range(count))))
            query = find_query(elements, STUDY_ROOT, little_endian=True)
            list(matches(statements, query).page(execute, 0, 16))
    assert len([sql for sql in seen if "LIMIT" in sql]) == 2


def identifier(count: int, syntax: str = EXPLICIT_VR_LITTLE_ENDIAN) -> bytes:
    unknown = [(0x00090000 + 2 * n + 1, "LO", b"") for n in range(count)]
    keys = [(0x00080052, "CS", b"STUDY"), *unknown, (0x0020000D, "UI", b"")]
    return encode(keys, syntax)


async def test_keys_are_bounded_and_unknown_ones_cost_once(archive: Archive, tools: Any) -> None:
    for n in range(3):
        data = tools.data_set(SOPInstanceUID=f"1.2.{n}", StudyInstanceUID=f"1.3.{n}")
        assert await tools.store(archive, data) == 0
    answers = [
        answer async for answer in find(archive, identifier(1000), EXPLICIT_VR_LITTLE_ENDIAN, STUDY_ROOT)
    ]
    assert len(answers) == 3
    for body, syntax in (
        (identifier(1100), EXPLICIT_VR_LITTLE_ENDIAN),
        (identifier(30_000), EXPLICIT_VR_LITTLE_ENDIAN),
        (identifier(30_000, DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN), DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN),
        (bytes(1 << 21), EXPLICIT_VR_LITTLE_ENDIAN),
    ):
        with pytest.raises(IdentifierError) as caught:
            await anext(find(archive, body, syntax, STUDY_ROOT))
        assert caught.value.problem in (Problem.TOO_MUCH, Problem.UNREADABLE)
        assert len(caught.value.comment) <= 64


async def test_an_instance_that_is_gone_meanwhile_is_told(archive: Archive, tools: Any) -> None:
    for n in range(3):
        assert await tools.store(archive, tools.data_set(SOPInstanceUID=f"1.2.{n}")) == 0
    wanted = tools.encode({"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "1.2.3.1"})
    found = await matching_instances(archive, wanted, EXPLICIT_VR_LITTLE_ENDIAN, STUDY_ROOT)
    with archive._index._engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM instance WHERE sop_instance_uid = '1.2.1'")
    given = [instance and instance.sop_instance_uid async for instance in found]
    assert (len(found), given) == (3, ["1.2.0", None, "1.2.2"])
