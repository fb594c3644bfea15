"""What is true of an index in PostgreSQL alone: its server goes and comes, and several write at once."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from helpers import index_writing
from helpers.index_writing import commit, insertion
from helpers.postgres import Server
from sqlalchemy import Column, text

from asyncdicom.__main__ import main
from asyncdicom.archive import Archive, ArchiveError
from asyncdicom.archive.index import postgres_writer
from asyncdicom.archive.index.base import Changes, IndexFailed, Overtaken, Uncertain
from asyncdicom.archive.index.enqueue import enqueue
from asyncdicom.archive.index.postgres import PostgresIndex
from asyncdicom.archive.index.postgres_schema import TABLES
from asyncdicom.archive.index.queries import Queries
from asyncdicom.archive.index.reader import Execute
from asyncdicom.archive.index.schema import SCHEMA_VERSION
from asyncdicom.archive.index.sql import Integer
from asyncdicom.archive.index.work import Work
from asyncdicom.archive.index.writer import Writer
from asyncdicom.cli.asking import result_of
from asyncdicom.uid import PATIENT_ROOT

BUSY = 0xA700


@pytest.fixture
def index(postgres: Server) -> Iterator[PostgresIndex]:
    opened = PostgresIndex(postgres.url(), durability="power", readers=4)
    yield opened
    opened.close()


@pytest.fixture
def writer(index: PostgresIndex) -> Iterator[Writer]:
    opened = index.writer()
    yield opened
    opened.close()


# what is written


def _executed(writer: Any) -> list[str]:
    """The statements that it executes from now on."""
    executed: list[str] = []
    run = writer._cursor._run

    def counting(call: Any, *arguments: Any) -> None:
        executed.append(str(arguments[0]))
        run(call, *arguments)

    writer._cursor._run = counting
    return executed


def test_a_group_is_inserted_by_one_statement_whatever_its_texts(writer: Writer) -> None:
    """As they are, but for a NUL, which PostgreSQL has not got."""
    texts = [
        "plain",
        'a "quoted" \\ one',
        r"no NUL: \u0000",
        "a\0b",
        "Yamada^\N{CJK UNIFIED IDEOGRAPH-592A}",
        "%s %(rows)s",
    ]
    executed = _executed(writer)
    work = [Work("test", "PACS", comment=text) for text in texts]
    writer.change(lambda writer: enqueue(writer.execute_all, work, 0.0))
    assert sum(sql.startswith("INSERT INTO delivery") for sql in executed) == 1
    found = writer._cursor.execute("SELECT comment FROM delivery ORDER BY id").fetchall()
    assert [text for (text,) in found] == [each.replace("\0", "\N{SYMBOL FOR NULL}") for each in texts]


def test_a_group_of_instances_is_inserted_by_one_statement(writer: Writer) -> None:
    executed = _executed(writer)
    commit(writer, insertion("1.2.3.0"))  # makes patient, study and series
    executed.clear()
    writer.change(lambda writer: writer.apply(Changes([insertion(f"1.2.3.{n}") for n in range(1, 65)])))
    assert len(executed) == 3, "it begins, inserts and commits"


# several at once


def test_those_who_open_it_first_at_the_same_time_make_it_once(postgres: Server) -> None:
    url = postgres.url()
    with ThreadPoolExecutor(4) as pool:
        opened = list(pool.map(lambda _: PostgresIndex(url, durability="none", readers=1), range(4)))
    assert [each.identity() for each in opened] == [(None, False)] * 4
    for each in opened:
        each.close()


def test_four_processes_share_studies(postgres: Server) -> None:
    """No deadlock, nothing lost, nothing twice: also of what two of them have."""
    processes, count, studies = 4, 240, 100
    url = postgres.url()
    PostgresIndex(url, durability="none", readers=1).close()
    deadlocks = "SELECT sum(deadlocks) FROM pg_stat_database"
    before = postgres.run(deadlocks)
    program = [sys.executable, index_writing.__file__, url]
    running = [
        subprocess.Popen([*program, str(n + 1), str(count), str(studies)], stdout=subprocess.PIPE, text=True)
        for n in range(processes)
    ]
    new = 0
    try:
        for each in running:
            told, _ = each.communicate(timeout=100)
            assert each.returncode == 0
            new += int(told.split()[0])
    finally:
        for each in running:
            each.kill()
            each.wait()
    shared = count // 8
    expected = processes * (count - shared) + shared
    index = PostgresIndex(url, durability="none", readers=1)
    counts = index.upkeep.counts()
    index.close()
    assert (new, counts["instance"]) == (expected, expected)
    assert (counts["patient"], counts["study"], counts["series"]) == (studies,) * 3
    assert postgres.run(deadlocks) == before


def test_where_an_earlier_version_is_alone_it_stays_alone(
    index: PostgresIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_writer, "_ONE_OF_US", postgres_writer._ONE_OF_US.replace("5s", "10ms"))
    with index._engine.connect() as earlier:
        earlier.exec_driver_sql("SELECT pg_advisory_lock(1145652045, hashtext(current_schema()))")
        with pytest.raises(IndexFailed, match="lock timeout"):
            index.writer()
        earlier.exec_driver_sql("SELECT pg_advisory_unlock(1145652045, hashtext(current_schema()))")
    index.writer().close()


def test_the_same_instance_of_two_writers_is_there_once(index: PostgresIndex) -> None:
    one, other = index.writer(), index.writer()
    taken = insertion("1.2.7")

    def between(group: Any) -> tuple[list[str], Changes]:
        assert one.find("1.2.7") is None
        assert commit(other, taken) == ["new"]
        return ["new"], Changes([taken])

    with pytest.raises(Overtaken):
        one.commit([taken], between)
    assert commit(one, taken) == ["here"]
    one.close()
    other.close()


def test_a_series_that_another_writer_has_removed_is_made_anew(index: PostgresIndex) -> None:
    one, other = index.writer(), index.writer()
    commit(one, insertion("1.2.7"))
    existing = other.find("1.2.7")
    replaced = insertion("1.2.7", series="1.2.9", study="1.9", instead_of=existing)
    other.change(lambda writer: writer.apply(Changes([replaced])))
    with pytest.raises(Overtaken):
        commit(one, insertion("1.2.8"))
    assert commit(one, insertion("1.2.8")) == ["new"]
    assert index.upkeep.counts()["study"] == 2
    one.close()
    other.close()


def test_a_number_that_was_given_is_given_to_no_other(writer: Writer) -> None:
    for highest, expected in ((500, 501), (3, 502)):
        writer.change(lambda writer, highest=highest: writer.never_again(highest))  # type: ignore[misc]
        commit(writer, insertion(f"1.2.{expected}"))
        existing = writer.find(f"1.2.{expected}")
        assert existing is not None
        assert existing.id == expected


# the schema


def test_the_schema_of_a_later_version_is_refused(postgres: Server, index: PostgresIndex) -> None:
    with index._engine.connect() as connection:
        connection.execute(text("UPDATE schema_version SET version = version + 1"))
        schema = connection.execute(text("SELECT current_schema()")).scalar_one()
    with pytest.raises(ArchiveError, match=f"schema {SCHEMA_VERSION + 1}, this version knows"):
        PostgresIndex(postgres.url(schema), durability="none", readers=1)


def test_what_an_earlier_version_lacks_is_added_while_it_runs(
    postgres: Server, index: PostgresIndex, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(writer, insertion("1.2.7"))
    with index._engine.connect() as connection:
        schema = connection.execute(text("SELECT current_schema()")).scalar_one()
        connection.execute(text("ALTER TABLE instance DROP COLUMN incomplete"))
        connection.execute(text("DROP INDEX study_date_index"))
        connection.execute(text("DROP TABLE scrub"))
        connection.execute(text("UPDATE schema_version SET version = version - 1, shape = ''"))
    later = PostgresIndex(postgres.url(schema), durability="none", readers=1)
    later.place()
    with later._engine.connect() as connection:
        found = connection.execute(text("SELECT incomplete FROM instance")).scalar_one()
        asked = "SELECT count(*) FROM pg_indexes WHERE indexname = 'study_date_index'"
        asked += " AND schemaname = current_schema()"
        assert (found, connection.execute(text(asked)).scalar_one()) == (0, 1)
        assert connection.execute(text("SELECT version FROM schema_version")).scalar_one() == SCHEMA_VERSION
    later.close()
    assert commit(writer, insertion("1.2.8")) == ["new"]


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("nonsense", "is no URL"),
        ("mysql://u@h/d", "a URL of mysql"),
        ("postgresql://u@127.0.0.1:1/d", "cannot be used"),
    ],
)
async def test_what_is_no_database_is_told(tmp_path: Path, url: str, told: str) -> None:
    with pytest.raises(ArchiveError, match=told):
        await Archive(tmp_path, index=url).open()


async def test_a_database_of_another_encoding_is_refused(tmp_path: Path, postgres: Server) -> None:
    name = postgres.url().rpartition("%3D")[2]
    made = f"CREATE DATABASE {name} ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
    await asyncio.to_thread(postgres.run, made)
    with pytest.raises(ArchiveError, match="encoding LATIN1"):
        await Archive(tmp_path, index=postgres.url().replace("/postgres?", f"/{name}?")).open()


async def test_without_psycopg_it_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ArchiveError, match=r"pip install asyncdicom\[postgres\]"):
        await Archive(tmp_path, index="postgresql://u@127.0.0.1:1/d").open()


# texts


async def test_texts_that_no_index_entry_can_hold(postgres: Server, tmp_path: Path, tools: Any) -> None:
    url = postgres.url()
    utf8 = {"SpecificCharacterSet": "ISO_IR 192"}
    noise = "".join(chr(0x4E00 + n * 7919 % 20000) for n in range(1024))
    long = dict.fromkeys(("PatientID", "PatientName", "AccessionNumber", "IssuerOfPatientID"), noise)
    async with Archive(tmp_path, durability="none", index=url) as archive:
        for n, end in enumerate("ab"):
            other = {name: value[:-1] + end for name, value in long.items()}
            data = tools.data_set(SOPInstanceUID=f"1.2.{n}", StudyInstanceUID=f"1.3.{n}", **utf8, **other)
            assert await tools.store(archive, data) == 0
        for name in ("PatientID", "PatientName"):
            for asked, expected in ((long[name][:-1] + "a", 1), (long[name][:300] + "*", 2)):
                found = await tools.find(archive, PATIENT_ROOT, "PATIENT", **utf8, **{name: asked})
                assert len(found) == expected
        assert (await archive.counts())["patient"] == 2


def test_no_text_has_a_nul(writer: Writer) -> None:
    assert commit(writer, insertion("1.2.7", x00081030="a\0b")) == ["new"]
    assert writer.find("1.2\0") is None
    assert writer.find("1.2.7") is not None


# queries


def endless(begun: threading.Event) -> Any:
    def work(execute: Execute) -> None:
        begun.set()
        list(execute("SELECT pg_sleep(600)", ()))

    return work


def one(execute: Execute) -> Any:
    return list(execute("SELECT 1", ()))


async def test_a_cancelled_statement_is_ended_and_no_other(index: PostgresIndex) -> None:
    queries: Queries = index.queries(4)
    for _ in range(3):
        begun = threading.Event()
        task = asyncio.create_task(queries.run("a", endless(begun)))
        await asyncio.to_thread(begun.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [await queries.run("a", one) for _ in range(20)] == [[(1,)]] * 20
    assert queries.interrupted >= 3
    await asyncio.to_thread(queries.close)


async def test_closing_waits_for_no_statement(index: PostgresIndex) -> None:
    queries: Queries = index.queries(4)
    begun = threading.Event()
    task = asyncio.create_task(queries.run("a", endless(begun)))
    await asyncio.to_thread(begun.wait)
    await asyncio.to_thread(queries.close)
    with pytest.raises(Exception, match="closed"):
        await task


# the server goes


class Cut:
    """A cursor whose connection is lost at a statement: before it, or when the server has done it."""

    def __init__(self, cursor: Any, at: str, *, is_done: bool) -> None:
        self._cursor = cursor
        self._at = at
        self._is_done = is_done

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)

    def execute(self, sql: str, *arguments: Any) -> Any:
        if sql.startswith(self._at):
            if self._is_done:
                self._cursor.execute(sql, *arguments)
            self._cursor._connection.close()
        return self._cursor.execute(sql, *arguments)


def test_a_commit_whose_answer_was_lost_is_asked_for(index: PostgresIndex, writer: Writer) -> None:
    inside: Any = writer
    inside.change(lambda writer: None)
    inside._cursor = Cut(inside._cursor, "COMMIT", is_done=True)
    assert commit(writer, insertion("1.2.7")) == ["new"]
    inside._cursor = Cut(inside._cursor, "COMMIT", is_done=False)
    with pytest.raises(IndexFailed):
        commit(writer, insertion("1.2.8"))
    assert commit(writer, insertion("1.2.7"), insertion("1.2.8")) == ["here", "new"]


def test_the_number_of_a_transaction_that_a_crash_took_is_given_to_another_one(own_server: Server) -> None:
    """That one has committed, and says nothing of the one that was lost."""
    own_server.run("ALTER SYSTEM SET wal_writer_delay = '10s'")
    own_server.run("SELECT pg_reload_conf()")
    index = PostgresIndex(own_server.url(), durability="power", readers=2)
    own_server.run("CREATE TABLE other (number xid8)")
    own_server.run("CHECKPOINT")
    writer: Any = index.writer()
    writer.change(lambda writer: None)
    cursor = writer._cursor

    class Crash:
        def __getattr__(self, name: str) -> Any:
            return getattr(cursor, name)

        def execute(self, sql: str, *arguments: Any) -> Any:
            if sql == "COMMIT":
                own_server.kill_9()
                own_server.start()
                lost = int(writer._transaction)
                own = "INSERT INTO other VALUES (pg_current_xact_id()) RETURNING number"
                while int(own_server.run(own)) < lost:
                    pass
            return cursor.execute(sql, *arguments)

    writer._cursor = Crash()
    with pytest.raises(Uncertain):
        commit(writer, insertion("1.2.7"))
    assert own_server.run(f"SELECT pg_xact_status(CAST('{writer._transaction}' AS xid8))") == "committed"
    assert writer.find("1.2.7") is None
    assert commit(writer, insertion("1.2.7")) == ["new"]
    writer.close()
    index.close()


def test_a_commit_that_nobody_can_be_asked_of_is_uncertain(index: PostgresIndex, writer: Writer) -> None:
    inside: Any = writer
    inside.change(lambda writer: None)
    reopen = inside._reopen

    def fail() -> None:
        raise IndexFailed("connection refused")

    inside._cursor, inside._reopen = Cut(inside._cursor, "COMMIT", is_done=True), fail
    with pytest.raises(Uncertain):
        commit(writer, insertion("1.2.7"))
    with pytest.raises(IndexFailed):
        commit(writer, insertion("1.2.8"))
    inside._reopen = reopen
    assert commit(writer, insertion("1.2.7"), insertion("1.2.8")) == ["here", "new"]


def test_a_transaction_that_has_not_ended_is_in_doubt(
    index: PostgresIndex, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_writer, "_LOOKS", 2)
    inside: Any = writer
    with index._engine.connect() as other:
        other.exec_driver_sql("BEGIN")
        number = other.exec_driver_sql("SELECT CAST(pg_current_xact_id() AS TEXT)").scalar_one()
        inside._doubt = number
        with pytest.raises(IndexFailed, match="not known yet"):
            commit(writer, insertion("1.2.7"))
        other.exec_driver_sql("COMMIT")
    assert commit(writer, insertion("1.2.7")) == ["new"]


def test_a_commit_that_rolls_back_is_none(writer: Writer) -> None:
    def apply(writer: Writer) -> None:
        inside: Any = writer
        writer.apply(Changes([insertion("1.2.7")]))
        with pytest.raises(IndexFailed):
            inside._cursor.execute("SELECT nothing")

    with pytest.raises(IndexFailed, match="rolled the transaction back"):
        writer.change(apply)
    assert writer.find("1.2.7") is None


def test_a_change_that_others_always_come_before_is_given_up(writer: Writer) -> None:
    tries = 0

    def apply(writer: Writer) -> None:
        nonlocal tries
        tries += 1
        raise Overtaken("again")

    with pytest.raises(Overtaken):
        writer.change(apply)
    assert tries == 3


def test_a_server_that_has_never_seen_a_transaction_has_not_committed_it(writer: Writer) -> None:
    inside: Any = writer
    assert inside._ended_committed(str(1 << 50)) is False


async def test_connections_that_are_lost_while_nothing_happens_cost_nothing(
    tmp_path: Path, postgres: Server, tools: Any
) -> None:
    async with Archive(tmp_path, durability="none", index=postgres.url()) as archive:
        for n in range(2):
            assert await tools.store(archive, tools.data_set(SOPInstanceUID=f"1.2.{n}")) == 0
            assert len(await tools.find(archive, StudyInstanceUID="1.2.3.1")) == 1
            ours = (
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'asyncdicom'"
            )
            await asyncio.to_thread(postgres.run, ours)
        assert (await archive.counts())["instance"] == 2


def test_a_connection_that_is_lost_before_the_commit_costs_nothing(writer: Writer) -> None:
    inside: Any = writer
    inside.change(lambda writer: None)
    inside._cursor = Cut(inside._cursor, "SELECT instance", is_done=False)
    with pytest.raises(Overtaken):
        commit(writer, insertion("1.2.7"))
    assert commit(writer, insertion("1.2.7")) == ["new"]
    inside._cursor = Cut(inside._cursor, "BEGIN", is_done=True)
    assert inside.change(lambda writer: writer.find("1.2.7")) is not None


async def test_a_server_that_is_away_costs_what_comes_meanwhile(
    tmp_path: Path, tools: Any, own_server: Server
) -> None:
    """It is restarted, then it crashes: what was answered with Success is there, and the archive goes on."""
    happens = {10: own_server.stop, 20: own_server.start, 30: own_server.kill, 40: own_server.start}
    stored: set[str] = set()
    async with Archive(tmp_path, index=own_server.url()) as archive:
        for n in range(50):
            if n in happens:
                await asyncio.to_thread(happens[n])
            status = int(await tools.store(archive, tools.data_set(SOPInstanceUID=f"1.2.{n}")))
            assert status == (BUSY if n // 10 in (1, 3) else 0)
            if status == 0:
                stored.add(f"1.2.{n}")
        upper = {"StudyInstanceUID": "1.2.3.1", "SeriesInstanceUID": "1.2.3.1.1"}
        found = await tools.find(archive, level="IMAGE", SOPInstanceUID="", **upper)
        assert {each["SOPInstanceUID"] for each in found} == stored
        assert len(tools.files_below(tmp_path)) == len(stored)


async def test_a_crash_of_the_server_takes_nothing_that_a_process_has_promised(
    tmp_path: Path, tools: Any, own_server: Server
) -> None:
    """What the server has acknowledged is not in its memory alone: its processes die as others do."""
    own_server.run("ALTER SYSTEM SET wal_writer_delay = '10s'")
    own_server.run("SELECT pg_reload_conf()")
    async with Archive(tmp_path, index=own_server.url(), durability="process") as archive:
        for n in range(5):
            assert int(await tools.store(archive, tools.data_set(SOPInstanceUID=f"1.2.{n}"))) == 0
        await asyncio.to_thread(own_server.kill)
        await asyncio.to_thread(own_server.start)
        upper = {"StudyInstanceUID": "1.2.3.1", "SeriesInstanceUID": "1.2.3.1.1"}
        assert len(await tools.find(archive, level="IMAGE", SOPInstanceUID="", **upper)) == 5


# which archive it is


async def test_the_folder_says_where_its_index_is(tmp_path: Path, postgres: Server, tools: Any) -> None:
    url = postgres.url()
    async with Archive(tmp_path, durability="none", index=url) as archive:
        assert await tools.store(archive, tools.data_set()) == 0
    with pytest.raises(ArchiveError, match="is in postgresql: say where"):
        await Archive(tmp_path, durability="none").open()
    async with Archive(tmp_path, durability="none", index=url, existing=True) as archive:
        assert (await archive.counts())["instance"] == 1


async def test_the_database_of_another_archive_is_refused(
    tmp_path: Path, postgres: Server, tools: Any
) -> None:
    urls = [postgres.url(), postgres.url()]
    for name, url in zip("ab", urls, strict=True):
        async with Archive(tmp_path / name, durability="none", index=url):
            pass
    with pytest.raises(ArchiveError, match="has the index of another archive"):
        await Archive(tmp_path / "a", durability="none", index=urls[1]).open()


async def test_an_empty_database_gets_what_the_folder_has(
    tmp_path: Path, postgres: Server, tools: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with Archive(tmp_path, durability="none") as archive:
        assert await tools.store(archive, tools.data_set()) == 0
    async with Archive(tmp_path, durability="none", index=postgres.url()) as archive:
        await archive.reindex()
        assert (await archive.counts())["instance"] == 1
    assert "had its index in index.sqlite" in caplog.text


async def test_an_older_copy_of_the_database_is_told_and_gets_the_rest(
    tmp_path: Path, postgres: Server, tools: Any, caplog: pytest.LogCaptureFixture
) -> None:
    url = postgres.url()
    for n in range(2):
        async with Archive(tmp_path, durability="none", index=url) as archive:
            assert await tools.store(archive, tools.data_set(SOPInstanceUID=f"1.2.{n}")) == 0
    older = PostgresIndex(url, durability="none", readers=1)
    with older._engine.connect() as connection:
        connection.execute(text("DELETE FROM instance WHERE sop_instance_uid = '1.2.1'"))
        connection.execute(text("UPDATE archive SET generation = 1"))
    older.close()
    async with Archive(tmp_path, durability="none", index=url) as archive:
        await archive.reindex()
        assert (await archive.counts())["instance"] == 2
    assert "is an older copy" in caplog.text


async def test_a_database_copies_itself(tmp_path: Path, postgres: Server) -> None:
    async with Archive(tmp_path, durability="none", index=postgres.url()) as archive:
        with pytest.raises(ArchiveError, match="pg_dump"):
            await asyncio.to_thread(archive.care.copy_index, str(tmp_path / "copy"))


async def test_tools_find_the_database_by_the_environment(
    tmp_path: Path, postgres: Server, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgres.url()
    async with Archive(tmp_path, durability="none", index=url) as archive:
        assert await tools.store(archive, tools.data_set()) == 0
    monkeypatch.setenv("ASYNCDICOM_INDEX", url)
    assert (await result_of(str(tmp_path), "stat"))["instance"] == 1
    called: list[str] = []
    await result_of(str(tmp_path), "reindex", before=called.append)  # which is for a file that is damaged
    assert called == []


@pytest.mark.parametrize("how", ["option", "file", "environment"])
def test_qrscp_has_its_index_where_it_is_told(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file.toml").write_text('index = "nonsense"\n' if how == "file" else "")
    arguments = ["--config", str(tmp_path / "file.toml"), "--data", str(tmp_path / "archive"), "--port", "0"]
    arguments += ["--index", "nonsense"] if how == "option" else []
    if how == "environment":
        monkeypatch.setenv("ASYNCDICOM_INDEX", "nonsense")
    assert main(["qrscp", *arguments]) == 1
    assert "the index is no URL" in capsys.readouterr().err


def test_all_columns_are_of_postgresql() -> None:
    number: Column[Any] = Column("n", Integer)
    assert "BIGINT" in str(number.type.compile())
    assert {table.name for table in TABLES.sorted_tables} >= {"instance", "delivery", "archive"}
