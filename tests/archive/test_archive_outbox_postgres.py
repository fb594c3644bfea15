"""Very many deliveries wait in PostgreSQL: each statement goes by an index, and reads the rows that it needs.

Also before the server has counted the rows that came, and when a plan is made for any parameters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from helpers.postgres import Server
from sqlalchemy import event, text

from asyncdicom.archive.index import deliveries
from asyncdicom.archive.index.deliveries import PAGE
from asyncdicom.archive.index.delivery_reader import DeliveryReader
from asyncdicom.archive.index.enqueue import enqueue
from asyncdicom.archive.index.postgres import PostgresIndex
from asyncdicom.archive.index.prepared import Prepared
from asyncdicom.archive.index.work import State, Work
from asyncdicom.archive.index.writer import Writer

MANY = 10_000
EXPLAIN = "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) "

VALUES: dict[str, Any] = {
    "kind": "store", "destination": "DOWN", "limit": 64, "most": 64, "ids": "[5, 6]", "until": 9e9, "now": 2,
    "never": 9e9, "state": 4, "due": 1.0, "attempts": 1, "status": 0, "comment": "", "failed_at": None,
    "before": 9e9, "study": "1.2.3",
}  # fmt: skip


class _UndoneError(Exception):
    pass


def _enqueue(work: list[Work], writer: Writer) -> None:
    enqueue(writer.execute_all, work, 1.0)


@pytest.fixture(scope="module")
def index(postgres: Server) -> Iterator[PostgresIndex]:
    opened = PostgresIndex(postgres.url(), durability="none", readers=2)
    writer = opened.writer()
    for state, name, number in (
        (State.DONE, "DOWN", MANY),
        (State.READY, "DOWN", MANY),
        (State.READY, "UP", 100),
        (State.WAITING, "DOWN", MANY),
        (State.FAILED, "DOWN", MANY),
    ):
        work = [Work("store", name, state=state)] * number
        writer.change(partial(_enqueue, work))
    writer.close()
    yield opened
    opened.close()


def statements() -> dict[str, Prepared]:
    """All of the outbox that are prepared, by their names."""
    found: dict[str, Prepared] = {}
    for name, value in vars(deliveries).items():
        each: Any = (
            [value] if isinstance(value, Prepared | dict) else value if isinstance(value, list) else []
        )
        for number, one in enumerate(each):
            if isinstance(one, Prepared):
                found[name] = one
            elif isinstance(one, dict) and name.startswith(("_RETRY", "_DROP")):
                found |= {f"{name} {number} {meant}": prepared for meant, prepared in one.items()}
    del found["_PAUSE"]  # it writes a row of another table
    return found


def read_by(plan: list[str]) -> int:
    """The largest number of rows that a step of a plan has read, those thrown away with them."""
    kept = [
        int(rows) * int(loops) for line in plan for rows, loops in re.findall(r"rows=(\d+) loops=(\d+)", line)
    ]
    thrown = [int(rows) for line in plan for rows in re.findall(r"Rows Removed by \w[\w ]*: (\d+)", line)]
    return max(kept + thrown)


def check(name: str, plan: list[str]) -> None:
    told = "\n".join([name, *plan])
    assert not re.search(r"Seq Scan on delivery", told), told
    assert read_by(plan) <= 2 * PAGE, told


@pytest.mark.parametrize("counted", [False, True], ids=["not counted", "counted"])
@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
def test_what_is_written_goes_by_an_index(index: PostgresIndex, mode: str, counted: bool) -> None:
    if counted:
        with index._engine.connect() as connection:
            connection.execute(text("ANALYZE delivery"))
    found = statements()
    assert len(found) >= 8 + 2 * 4 + 3 * 4
    writer = index.writer()
    try:
        for name, prepared in found.items():
            plan: list[str] = []

            def explain(writer: Any, prepared: Prepared = prepared, plan: list[str] = plan) -> None:
                connection = writer._fairy.driver_connection
                connection.execute(f"SET LOCAL plan_cache_mode = {mode}")
                values = {key: VALUES[key] for key in prepared._compiled.names if key in VALUES}
                rows = connection.execute(
                    EXPLAIN + prepared.named.sql, prepared.named.bind(prepared.bind(values)), prepare=True
                )
                plan += [row[0] for row in rows]
                raise _UndoneError

            with pytest.raises(_UndoneError):
                writer.change(explain)
            check(name, plan)
    finally:
        writer.close()


LOOKS: dict[str, Callable[[DeliveryReader], Any]] = {
    "ready of": lambda read: read.ready_of("store", ["UP", "DOWN", "NOBODY"]),
    "next due": lambda read: read.next_due(),
    "look": lambda read: read.look(2.0),
    "paused": lambda read: read.paused(),
    "failed": lambda read: read.page(State.FAILED),
    "failed, behind": lambda read: read.page(State.FAILED, name="DOWN", after=MANY),
    "ready": lambda read: read.page(State.READY),
    "ready, behind": lambda read: read.page(State.READY, name="DOWN", after=MANY),
}


@pytest.mark.parametrize("name", LOOKS)
def test_what_is_read_goes_by_an_index(index: PostgresIndex, name: str) -> None:
    asked: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, sql: str, values: Any, *_: Any) -> None:
        if not sql.startswith(("BEGIN", "SELECT set_config")):
            asked.append((sql, values))

    event.listen(index._engine, "before_cursor_execute", note)
    try:
        LOOKS[name](index.deliveries)
    finally:
        event.remove(index._engine, "before_cursor_execute", note)
    assert asked
    for sql, values in asked:
        with index.deliveries._looking() as connection:
            check(name, [row[0] for row in connection.exec_driver_sql(EXPLAIN + sql, values)])


def test_indexes_without_the_number_of_a_row_are_made_anew(postgres: Server) -> None:
    def names(index: PostgresIndex) -> set[str]:
        asked = (
            "SELECT indexname FROM pg_indexes WHERE tablename = 'delivery' AND schemaname = current_schema()"
        )
        with index._engine.connect() as connection:
            return set(connection.scalars(text(asked)))

    url = postgres.url()
    index = PostgresIndex(url, durability="none", readers=1)
    as_it_is = names(index)
    with index._engine.connect() as connection:  # as an earlier version has made it
        for name, columns, state in (
            ("ready", "destination, kind, priority", 0),
            ("failed", "destination, kind", 3),
        ):
            connection.execute(text(f"DROP INDEX delivery_{name}_in_order_index"))
            made = f"CREATE INDEX delivery_{name}_index ON delivery ({columns}) WHERE state = {state}"
            connection.execute(text(made))
        connection.execute(text("UPDATE schema_version SET shape = ''"))
    index.close()
    index = PostgresIndex(url, durability="none", readers=1)
    assert names(index) == as_it_is
    index.close()
