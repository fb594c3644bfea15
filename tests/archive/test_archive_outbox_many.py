"""Very many deliveries wait: what is done meanwhile reads few rows, and writes them page by page."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers.outbox_counting import counting
from sqlalchemy import event

from asyncdicom.archive import Archive, FileCalls
from asyncdicom.archive.index import deliveries, delivery_reader
from asyncdicom.archive.index.deliveries import PAGE, Settlement
from asyncdicom.archive.index.delivery_reader import DeliveryReader
from asyncdicom.archive.index.enqueue import enqueue
from asyncdicom.archive.index.sqlite import Index
from asyncdicom.archive.index.work import State, Which, Work
from asyncdicom.archive.index.writer import Writer

FEW, MANY = 200, 20_000


def owe(archive: Archive, number: int, work: Work) -> None:
    archive._ingest.change(lambda writer: enqueue(writer.execute_all, [work] * number, 1.0))


# what is read


class Measured:
    """An index in SQLite, and what SQLite does: in steps of its machine, some ten for a row that is read."""

    def __init__(self, path: Path) -> None:
        self._index = Index(str(path), durability="none", readers=1, calls=FileCalls())
        self.read = self._index.deliveries
        self.writer = self._index.writer()
        self.steps = 0

    def owe(self, number: int, work: Work) -> None:
        self.writer.change(lambda writer: enqueue(writer.execute_all, [work] * number, 1.0))

    def close(self) -> None:
        self.writer.close()
        self._index.close()

    @contextmanager
    def counting(self) -> Iterator[None]:
        def step() -> None:
            self.steps += 1

        def count(connection: Any, *_: object) -> None:
            connection.set_progress_handler(step, 1)
            driven.append(connection)

        driven: list[Any] = []
        count(self.writer._fairy.driver_connection)
        event.listen(self._index._engine, "checkout", count)
        self.steps = 0
        try:
            yield
        finally:
            event.remove(self._index._engine, "checkout", count)
            for connection in driven:
                connection.set_progress_handler(None, 0)


def change(apply: Callable[..., Any], *arguments: Any, **options: Any) -> Callable[[Measured], Any]:
    return lambda index: index.writer.change(lambda writer: apply(writer, *arguments, **options))


def look(name: str, /, *arguments: Any, **options: Any) -> Callable[[Measured], Any]:
    return lambda index: getattr(index.read, name)(*arguments, **options)


def claim_and_settle(writer: Writer, name: str, which: Which = Which.NEXT) -> None:
    claimed = deliveries.claim(writer, "store", name, 50, 9e9, which)
    assert claimed
    deliveries.settle(writer, [Settlement(each.id, State.READY, 1.0, 0) for each in claimed])


STEPS = {
    "enqueue": change(lambda writer: enqueue(writer.execute_all, [Work("store", "DOWN")] * 9, 1.0)),
    "claim for another": change(claim_and_settle, "UP"),
    "claim in order": change(claim_and_settle, "UP", Which.IN_ORDER),
    "promote": change(deliveries.promote, 2.0, 1e6),
    "reclaim": change(deliveries.reclaim, 2.0),
    "renew": change(deliveries.renew, [1, 2, 3], 9e9),
    "drop some by number": change(deliveries.drop, [1, 2], None),
    "drop some of a destination": change(deliveries.drop, [3, 4], "DOWN"),
    "drop what waits for another": change(deliveries.drop, None, "NOBODY"),
    "retry some by number": change(deliveries.retry_failed, [1, 2], None, 9e9),
    "retry some of a destination": change(deliveries.retry_failed, [1, 2], "DOWN", 9e9),
    "retry what waits for another": change(deliveries.retry_failed, None, "NOBODY", 9e9),
    "retry what is not due": change(deliveries.retry_waiting, [1, 2], "DOWN"),
    "when the next is due": look("next_due"),
    "what is paused": look("paused"),
    "what is ready": look("ready_of", "store", ["UP", "DOWN", "NOBODY"]),
    "which lines there are": look("lines", "store"),
    "how much of one line there is": look("number", "unrouted", ""),
    "how much of a kind there is": look("numbers", "report"),
    "since when": look("oldest"),
}
FOR_READY = {
    "claim for the one that waits": change(claim_and_settle, "DOWN"),
    "the first that failed": look("page", State.FAILED),
    "those that failed": look("page", State.FAILED, name="DOWN"),
    "the first that are ready": look("page", State.READY, limit=100),
    "those that are ready": look("page", State.READY, name="DOWN", limit=100, after=50),
}


@pytest.mark.parametrize("state", [State.READY, State.FAILED])
def test_what_is_done_reads_no_more_rows_because_many_wait(tmp_path: Path, state: State) -> None:
    wanted = STEPS | (FOR_READY if state is State.READY else {})
    taken: list[dict[str, int]] = []
    with closing(Measured(tmp_path)) as index:
        index.owe(60, Work("store", "UP"))
        for number in (FEW, MANY):
            index.owe(number, Work("store", "DOWN", state=state))
            found: dict[str, int] = {}
            for name, step in wanted.items():
                with index.counting():
                    step(index)
                found[name] = index.steps
            taken.append(found)
    few, many = taken
    assert all(few.values())
    assert {name: (few[name], many[name]) for name in few if many[name] > few[name] * 1.2 + 100} == {}


def test_a_delivery_is_written_by_two_statements_and_read_by_its_number(tmp_path: Path) -> None:
    with closing(Measured(tmp_path)) as index:
        index.owe(MANY, Work("store", "DOWN"))
        driver = index.writer._fairy.driver_connection
        before = driver.total_changes
        with index.counting():
            for _ in range(10):
                index.writer.change(lambda writer: claim_and_settle(writer, "DOWN"))
        assert driver.total_changes - before == 10 * 2 * 50  # each is leased, and settled
        assert index.steps <= 10 * 50 * 250


def test_all_is_counted_once_for_what_an_operator_looks_at(tmp_path: Path) -> None:
    """The one look that reads every row that waits; what else a status needs reads few."""
    with closing(Measured(tmp_path)) as index:
        index.owe(MANY, Work("store", "DOWN"))
        with index.counting():
            index.read.counts()
        alone = index.steps
        with index.counting():
            index.read.counts()
            index.read.oldest()
            index.read.number("unrouted", "")
        assert alone <= 20 * MANY
        assert index.steps <= alone + 2000


async def test_what_takes_long_to_count_is_given_again_for_a_while(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery_reader, "_MANY", 4)
    owe(archive, 3, Work("store", "A"))
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 1.0
        return now

    read = DeliveryReader(archive.deliveries._engine, clock=clock)
    assert read.counts() == [("store", "A", State.READY, 3)]
    owe(archive, 1, Work("store", "A"))
    assert read.counts() == [("store", "A", State.READY, 4)]  # they are few, however long that took
    owe(archive, 1, Work("store", "A"))
    read.counts()
    owe(archive, 1, Work("store", "A"))
    assert [read.counts()[0][3] for _ in range(4)] == [5] * 4
    read.count_again()
    assert read.counts()[0][3] == 6
    owe(archive, 1, Work("store", "A"))
    now += 20.0
    assert read.counts()[0][3] == 7


# what is found, with either engine


async def test_what_waits_is_found_by_its_lines(archive: Archive) -> None:
    for kind, name, priority, state in (
        ("store", "A", 1, State.READY),
        ("store", "A", 0, State.READY),
        ("store", "B|C", 2, State.READY),
        ("store", "D", 1, State.FAILED),
        ("store", "E", 1, State.WAITING),
        ("store", "F", 1, State.DONE),
        ("report", "", 1, State.READY),
        ("report", "B", 1, State.FAILED),
    ):
        owe(archive, 3, Work(kind, name, priority, state=state))
    read = archive.deliveries
    assert read.lines("store") == {"A", "B|C", "D", "E"}
    assert read.lines("report") == {"", "B"}
    assert read.lines("unrouted") == set()
    assert read.ready_of("store", ["D", "B|C", "A", "X"]) == ["B|C", "A"]
    assert read.ready_of("report", ["A", ""]) == [""]
    assert read.numbers("store") == {"A": 6, "B|C": 3, "D": 3, "E": 3}
    assert read.numbers("report") == {"": 3, "B": 3}
    assert [read.number("store", name) for name in "ADEFX"] == [6, 3, 3, 0, 0]
    assert read.oldest().keys() == {("store", "A"), ("store", "B|C"), ("store", "E"), ("report", "")}


@pytest.mark.parametrize("state", [State.READY, State.FAILED, State.WAITING])
async def test_pages_of_several_lines_are_in_the_order_of_their_numbers(
    archive: Archive, state: State
) -> None:
    for number in range(12):
        owe(archive, 1, Work("store" if number % 4 else "report", "AB"[number % 2], number % 3, state=state))
    found: list[int] = []
    while page := archive.deliveries.page(state, after=found[-1] if found else 0, limit=5):
        found += [row.id for row in page]
    assert found == list(range(1, 13))
    of_one = archive.deliveries.page(state, name="B", after=4, limit=3)
    assert [(row.id, row.destination) for row in of_one] == [(6, "B"), (8, "B"), (10, "B")]


async def test_no_lines_are_found_where_nothing_waits(archive: Archive) -> None:
    read = archive.deliveries
    assert (read.lines("store"), read.ready_of("store", ["A"]), read.oldest()) == (set(), [], {})


async def test_an_operator_means_numbers_a_destination_both_or_all(archive: Archive) -> None:
    def failed() -> list[int]:
        return [row.id for row in archive.deliveries.page(State.FAILED)]

    owe(archive, 2, Work("store", "A", state=State.FAILED))
    owe(archive, 2, Work("store", "B", state=State.FAILED))
    owe(archive, 2, Work("store", "A", state=State.WAITING))
    outbox = archive.outbox
    assert await outbox.retry([1, 3], "B") == 1
    assert failed() == [1, 2, 4]
    assert await outbox.drop([1, 4, 99]) == 2
    assert failed() == [2]
    assert await outbox.retry([5]) + await outbox.retry(destination="A") == 3
    assert await outbox.drop(destination="B") == 1
    assert await outbox.drop() == 3
    assert await outbox.retry() == await outbox.drop() == 0


@pytest.mark.parametrize("state", [State.FAILED, State.WAITING])
async def test_a_retry_of_very_many_is_made_page_by_page(archive: Archive, state: State) -> None:
    owe(archive, 2 * PAGE + 500, Work("store", "DOWN", state=state))
    with counting(archive) as statements:
        assert await archive.outbox.retry(destination="DOWN") == 2 * PAGE + 500
    assert 4 <= statements["COMMIT"] <= 6
    assert archive.deliveries.counts() == [("store", "DOWN", State.READY, 2 * PAGE + 500)]


async def test_what_is_due_all_at_once_is_made_ready_page_by_page(archive: Archive) -> None:
    owe(archive, PAGE + 500, Work("store", "DOWN", state=State.WAITING))
    made = [archive._ingest.change(lambda writer: deliveries.promote(writer, 2.0, 1e6)) for _ in range(3)]
    assert made == [PAGE, 500, 0]
    owe(archive, PAGE + 1, Work("store", "DOWN", state=State.WAITING))
    told = asyncio.Event()
    archive.outbox.subscribe(lambda _: told.set())
    with counting(archive) as statements:
        archive.outbox._expect(1.0)
        async with asyncio.timeout(60):
            await told.wait()
    assert statements["COMMIT"] == 2
    assert archive.deliveries.counts() == [("store", "DOWN", State.READY, 2 * PAGE + 501)]


async def test_what_a_clock_that_was_wrong_has_left_is_ready_page_by_page_too(archive: Archive) -> None:
    owe(archive, PAGE + 500, Work("store", "DOWN", state=State.WAITING))
    made = [archive._ingest.change(lambda writer: deliveries.promote(writer, -1e9, 1e6)) for _ in range(3)]
    assert made == [PAGE, 500, 0]
