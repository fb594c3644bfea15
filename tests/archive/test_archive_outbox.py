"""The outbox: work that instances lead to, in the transaction of their rows; claimed, settled, never lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing, closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from helpers.index_asking import lose_index, refuse, refuse_no_more
from helpers.outbox_counting import counting
from helpers.routing import To, done, routing, rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncdicom.archive import Archive
from asyncdicom.archive.errors import ArchiveError
from asyncdicom.archive.index import deliveries
from asyncdicom.archive.index.deliveries import Settlement
from asyncdicom.archive.index.enqueue import enqueue, enqueue_for_instances
from asyncdicom.archive.index.work import State, Which, Work, revision_of
from asyncdicom.archive.index.writer import Writer
from asyncdicom.archive.operations import METHODS
from asyncdicom.archive.origin import Origin

# with the instance


async def test_work_is_committed_with_its_instance(tmp_path: Path, tools: Any) -> None:
    router = To("PACS", "AI", tags=[0x00181030])
    async with routing(tmp_path, router) as archive:
        data = tools.data_set(ProtocolName="HEAD", Rows=512)
        assert await tools.store(archive, data, origin=Origin("CT1", "GATE", "10.0.0.1")) == 0
        (asked,) = router.asked
        assert asked.origin == Origin("CT1", "GATE", "10.0.0.1")
        assert (asked.sop_instance_uid, asked.size) == ("1.2.3.1.1.1", len(data))
        assert asked.elements[0x00181030].value.strip() == b"HEAD"
        (claimed,) = await archive.outbox.claim("store", "PACS", 10)
        assert claimed.sop_instance_uid == "1.2.3.1.1.1"
        assert claimed.study_instance_uid == "1.2.3.1"
        assert claimed.data_set_length == len(data)
        assert claimed.digest is not None
        assert claimed.revision == revision_of(claimed.digest)
        with closing(archive.reading(claimed)) as blob:
            assert blob.read(1 << 16).endswith(data)
        async with aclosing(archive.source_of(claimed).open()) as batches:
            assert b"".join([bytes(view) async for batch in batches for view in batch]) == data
        assert await archive.outbox.claim("store", "PACS", 10) == []
        assert len(await archive.outbox.claim("store", "AI", 10)) == 1


async def test_the_same_again_leads_to_nothing_more(tmp_path: Path, tools: Any) -> None:
    async with routing(tmp_path, To("PACS")) as archive:
        for _ in range(3):
            assert await tools.store(archive, tools.data_set()) == 0
            await archive.outbox.settle(done(await archive.outbox.claim("store", "PACS", 10)))
    assert rows(tmp_path) == [(1,)]


async def test_one_that_came_before_it_had_its_work_gets_it_when_it_comes_again(
    tmp_path: Path, tools: Any
) -> None:
    """A crash between file and row: the sweep indexes the file, and the sender was told nothing."""
    async with routing(tmp_path, To("PACS")) as archive:
        archive.route(None)
        await tools.store(archive, tools.data_set())
        assert rows(tmp_path) == [(0,)]
        archive.route(To("PACS"))
        await tools.store(archive, tools.data_set())
    assert rows(tmp_path, "state") == [(State.READY,)]


@pytest.mark.parametrize("uid", ["1.2.1", "1.2.2"], ids=["an old row", "the newest row"])
async def test_other_bytes_in_its_place_are_other_work(tmp_path: Path, tools: Any, uid: str) -> None:
    async with routing(tmp_path, To("PACS"), on_conflict="replace") as archive:
        for number in ("1.2.1", "1.2.2"):
            await tools.store(archive, tools.data_set(SOPInstanceUID=number))
        await tools.store(archive, tools.data_set(SOPInstanceUID=uid, PatientName="ROE^JANE"))
        claimed = await archive.outbox.claim("store", "PACS", 10)
        assert len(claimed) == 2  # what was owed of the first bytes went with them
        for each in claimed:
            assert revision_of(each.digest or "0" * 15) == each.revision


async def test_what_goes_to_quarantine_leads_to_nothing(tmp_path: Path, tools: Any) -> None:
    async with routing(tmp_path, To("PACS")) as archive:
        await tools.store(archive, tools.data_set())
        assert await tools.store(archive, tools.data_set(PatientName="ROE^JANE")) == 0xB007
    assert rows(tmp_path) == [(1,)]


async def test_what_is_accepted_from_quarantine_leads_to_its_work(tmp_path: Path, tools: Any) -> None:
    router = To("PACS", tags=[0x00181030])
    async with routing(tmp_path, router) as archive:
        await tools.store(archive, tools.data_set())
        other = tools.data_set(PatientName="ROE^JANE", ProtocolName="HEAD")
        assert await tools.store(archive, other) == 0xB007
        (first,) = await archive.outbox.claim("store", "PACS", 10)
        await archive.outbox.settle(done([first]))
        told: list[Any] = []
        archive.outbox.subscribe(told.append)
        ((aside,),) = archive.care.quarantine.pages()
        await archive.upkeep(archive.care.quarantine.accept, aside.file.removesuffix(".dcm"))
        (claimed,) = await archive.outbox.claim("store", "PACS", 10)
        assert revision_of(claimed.digest or "0" * 15) == claimed.revision != first.revision
        assert router.asked[-1].elements[0x00181030].value.strip() == b"HEAD"
        assert router.asked[-1].origin.calling == claimed.calling_ae_title == "MODALITY"
        assert told == [{"PACS": 0}] or told == [{"PACS": 1}]


async def test_what_is_indexed_again_leads_to_its_work(tmp_path: Path, tools: Any) -> None:
    """By the sweep of the start, too, which begins behind whoever routes."""
    async with Archive(tmp_path, durability="none", scrub=0) as archive:
        await tools.store(archive, tools.data_set(ProtocolName="HEAD"))
    lose_index(tmp_path)
    router = To("PACS", tags=[0x00181030])
    async with routing(tmp_path, router) as archive:
        assert (await archive.reindex()).indexed == 0  # behind that of the start
        (claimed,) = await archive.outbox.claim("store", "PACS", 10)
        assert claimed.sop_instance_uid == "1.2.3.1.1.1"
        (asked,) = router.asked
        assert asked.elements[0x00181030].value.strip() == b"HEAD"
        assert asked.origin.calling == claimed.calling_ae_title == "MODALITY"  # as the file tells


async def test_a_transaction_that_fails_leaves_neither(tmp_path: Path, tools: Any) -> None:
    async with routing(tmp_path, To("PACS")) as archive:
        refuse(tmp_path, "INSERT", "delivery")
        assert await tools.store(archive, tools.data_set()) == 0xA700
        assert (await archive.counts())["instance"] == 0
        refuse_no_more(tmp_path, "delivery")
        assert await tools.store(archive, tools.data_set()) == 0
    assert rows(tmp_path) == [(1,)]


async def test_what_cannot_be_written_fails_alone_and_is_told(
    archive: Archive, caplog: pytest.LogCaptureFixture
) -> None:
    refuse(Path(archive.directory), "INSERT", "delivery", "NEW.destination = 'BAD'")
    asked = [archive.outbox.enqueue([Work("report", name)]) for name in ("A", "BAD", "B")]
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert [isinstance(result, ArchiveError) for result in results] == [False, True, False]
    assert len(rows(Path(archive.directory), "id")) == 2
    assert len([each for each in caplog.messages if "the outbox could not be written: " in each]) == 1


async def test_who_listens_is_told_after_the_commit(tmp_path: Path, tools: Any) -> None:
    async with routing(tmp_path, To("PACS", "AI", priority=0)) as archive:
        told: asyncio.Queue[Any] = asyncio.Queue()
        stop = archive.outbox.subscribe(told.put_nowait)
        await tools.store(archive, tools.data_set())
        assert await asyncio.wait_for(told.get(), 30) == {"PACS": 0, "AI": 0}
        assert len(rows(tmp_path, "id")) == 2
        stop()
        archive.outbox.tell()
        assert told.empty()


# claiming and settling


async def test_urgent_work_is_claimed_first_then_what_came_first(archive: Archive) -> None:
    for priority in (2, 1, 0, 1):
        await archive.outbox.enqueue([Work("report", "A", priority, payload=f"{priority}")])
    claimed = await archive.outbox.claim("report", "A", 3)
    assert [each.payload for each in claimed] == ["0", "1", "1"]
    assert claimed[1].id < claimed[2].id
    assert [each.payload for each in await archive.outbox.claim("report", "A", 3)] == ["2"]


async def test_the_newest_work_is_what_would_be_claimed_last_and_the_urgent_alone(archive: Archive) -> None:
    for payload, priority in (("a", 1), ("b", 1), ("c", 0), ("d", 1)):
        await archive.outbox.enqueue([Work("report", "A", priority, payload=payload)])
    claimed = await archive.outbox.claim("report", "A", 2, Which.NEWEST)
    assert [each.payload for each in claimed] == ["b", "d"]
    claimed = await archive.outbox.claim("report", "A", 9, Which.URGENT)
    assert [each.payload for each in claimed] == ["c"]
    await archive.outbox.settle(done(claimed, State.READY))
    claimed = await archive.outbox.claim("report", "A", 9, Which.NEWEST)
    assert [each.payload for each in claimed] == ["c", "a"]


async def test_kinds_and_destinations_are_apart(archive: Archive) -> None:
    await archive.outbox.enqueue([Work("report", "A"), Work("other", "A"), Work("report", "B")])
    assert len(await archive.outbox.claim("report", "A", 10)) == 1


async def test_work_of_one_key_is_claimed_in_its_order(archive: Archive) -> None:
    outbox = archive.outbox
    await outbox.enqueue(
        [Work("report", "A", order_key=key, payload=p) for key, p in ("x1", "y2", "x3", "x4")]
    )
    first = await outbox.claim("report", "A", 1, Which.IN_ORDER)
    assert [each.payload for each in first] == ["1"]
    assert [e.payload for e in await outbox.claim("report", "A", 9, Which.IN_ORDER)] == ["2"]
    await outbox.settle(done(first, State.WAITING, outbox.clock() + 1000))
    assert await outbox.claim("report", "A", 9, Which.IN_ORDER) == []
    await outbox.retry()
    claimed = await outbox.claim("report", "A", 9, Which.IN_ORDER)
    assert [each.payload for each in claimed] == ["1", "3", "4"]


async def test_what_waits_is_ready_when_it_is_due(archive: Archive) -> None:
    outbox = archive.outbox
    told: asyncio.Queue[Any] = asyncio.Queue()
    outbox.subscribe(told.put_nowait)
    await outbox.enqueue([Work("report", "A")])
    assert await told.get() == {"A": 1}
    claimed = await outbox.claim("report", "A", 1)
    await outbox.settle(done(claimed, State.WAITING, outbox.clock() + 0.5))
    assert await outbox.claim("report", "A", 1) == []
    assert await asyncio.wait_for(told.get(), 30) is None
    (again,) = await outbox.claim("report", "A", 1)
    assert (again.id, again.attempts) == (claimed[0].id, 1)


async def test_what_waits_is_tried_at_once_when_the_clock_was_put_back(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would wait for hours longer, and the delay of a retry is minutes at most."""
    outbox = archive.outbox
    await outbox.enqueue([Work("report", "A")])
    await outbox.settle(done(await outbox.claim("report", "A", 1), State.WAITING, outbox.clock() + 300))
    for earlier, found in ((0, 0), (30, 0), (3 * 3600, 1)):
        now = time.time() - earlier
        monkeypatch.setattr(outbox, "clock", lambda now=now: now)
        await outbox._look()
        assert len(await outbox.claim("report", "A", 1)) == found


async def test_what_is_given_back_is_told(archive: Archive) -> None:
    await archive.outbox.enqueue([Work("report", "A", 2)])
    claimed = await archive.outbox.claim("report", "A", 1)
    told: list[Any] = []
    archive.outbox.subscribe(told.append)
    await archive.outbox.settle(done(claimed, State.READY))
    assert told == [{"A": 2}]


async def test_a_failure_is_a_row_a_count_and_a_line(
    archive: Archive, caplog: pytest.LogCaptureFixture
) -> None:
    await archive.outbox.enqueue([Work("report", "A")])
    (claimed,) = await archive.outbox.claim("report", "A", 1)
    comment = "0xC000: DOE^JOHN is unknown"
    await archive.outbox.settle([Settlement(claimed.id, State.FAILED, 0, 3, 0xC000, comment, 5.0)])
    assert archive.outbox.happened["failed"] == 1
    (row,) = await archive.read(archive.deliveries.page, State.FAILED)
    assert (row.status, row.comment, row.attempts, row.first_error_at) == (0xC000, comment, 3, 5.0)
    assert "to A is given up after 3 attempt(s): status 0xC000" in caplog.text
    assert "DOE" not in caplog.text  # a peer's words may name a patient
    assert await archive.outbox.retry(destination="B") == 0
    assert await archive.outbox.retry(destination="A") == 1
    (again,) = await archive.outbox.claim("report", "A", 1)
    assert (again.attempts, again.first_error_at) == (0, None)


async def test_what_several_may_take_is_that_of_each(archive: Archive) -> None:
    """An operator knows destinations by their names, and not the line that a `first_of` makes of them."""
    both = [Work("store", "A|B", state=State.FAILED), Work("store", "AA|B", state=State.FAILED)]
    await archive.outbox.enqueue([*both, Work("store", "A", state=State.FAILED), Work("report", "A")])

    async def said(method: str, **arguments: Any) -> list[Any]:
        return [line async for line in METHODS[method](archive, arguments)]

    *rows, counts = await said("outbox list", destination="A")
    assert [each["destination"] for each in rows] == ["A", "A|B", "A"]
    assert counts == {"outbox": {"A": {"failed": 1, "ready": 1}, "A|B": {"failed": 1}}}
    assert len(await said("outbox list", destination="A", limit=1, state="failed")) == 2
    assert await said("outbox retry", destination="A") == [{"retried": 2}]
    assert await said("outbox drop", destination="A") == [{"dropped": 2}]  # B still owes the other one
    assert await said("outbox retry", destination="B") == [{"retried": 1}]


async def test_work_of_several_kinds_for_one_name_is_counted_together(archive: Archive) -> None:
    await archive.outbox.enqueue([Work("store", "A"), Work("store", "A"), Work("report", "A")])
    *_, counts = [line async for line in METHODS["outbox list"](archive, {})]
    assert counts == {"outbox": {"A": {"ready": 3}}}


async def test_what_fails_again_at_once_is_not_tried_for_ever(archive: Archive) -> None:
    outbox = archive.outbox
    await outbox.enqueue([Work("report", "A") for _ in range(1500)])
    while claimed := await outbox.claim("report", "A", 1000):
        await outbox.settle(done(claimed, State.FAILED, outbox.clock()))

    def fail_again(writer: Writer) -> int:
        """What is tried again fails between one page and the next."""
        retried = deliveries.retry_failed(writer, None, None, before)
        for each in deliveries.claim(writer, "report", "A", 2000, 0):
            deliveries.settle(writer, [Settlement(each.id, State.FAILED, before + 1, 1)])
        return retried

    before = outbox.clock()
    assert [archive._ingest.change(fail_again) for _ in range(3)] == [1000, 500, 0]


async def test_an_operator_drops_what_nobody_is_doing(archive: Archive) -> None:
    outbox = archive.outbox
    await outbox.enqueue([Work("report", "A") for _ in range(2500)] + [Work("report", "B")])
    (leased,) = await outbox.claim("report", "A", 1)
    assert await outbox.drop(destination="A") == 2499
    assert await outbox.drop(destination="A") == 0
    assert await archive.read(archive.deliveries.counts) == [
        ("report", "B", State.READY, 1),
        ("report", "A", State.LEASED, 1),
    ]
    assert await outbox.drop([leased.id]) == 0
    await outbox.settle(done([leased]))
    assert outbox.happened == {"dropped": 2499, "done": 1}


async def test_a_pause_is_kept(tmp_path: Path) -> None:
    async with routing(tmp_path, To()) as archive:
        await archive.outbox.pause("A", paused=True)
        await archive.outbox.pause("B", paused=True)
        await archive.outbox.pause("B", paused=False)
    async with routing(tmp_path, To()) as archive:
        assert archive.outbox.paused == {"A"}


async def test_leases_are_taken_back_at_the_next_start(tmp_path: Path) -> None:
    async with routing(tmp_path, To()) as archive:
        await archive.outbox.enqueue([Work("report", "A")])
        assert len(await archive.outbox.claim("report", "A", 1)) == 1
    async with routing(tmp_path, To()) as archive:
        assert len(await archive.outbox.claim("report", "A", 1)) == 1


async def test_what_waits_over_a_restart_is_ready_when_it_is_due(tmp_path: Path) -> None:
    async with routing(tmp_path, To()) as archive:
        await archive.outbox.enqueue([Work("report", "A")])
        claimed = await archive.outbox.claim("report", "A", 1)
        archive._ingest.change(lambda writer: deliveries.settle(writer, done(claimed, State.WAITING, 1.0)))
    async with routing(tmp_path, To()) as archive:
        told: asyncio.Queue[Any] = asyncio.Queue()
        archive.outbox.subscribe(told.put_nowait)
        assert await asyncio.wait_for(told.get(), 30) is None
        assert len(await archive.outbox.claim("report", "A", 1)) == 1


async def test_a_settlement_is_made_though_who_asked_for_it_is_gone(archive: Archive) -> None:
    await archive.outbox.enqueue([Work("report", "A")])
    claimed = await archive.outbox.claim("report", "A", 1)
    settling = asyncio.ensure_future(archive.outbox.settle(done(claimed)))
    await asyncio.sleep(0)
    settling.cancel()
    await asyncio.wait((settling,))
    await archive.outbox.close()
    assert await archive.read(archive.deliveries.counts) == []


async def test_who_asks_at_the_same_time_shares_a_transaction(archive: Archive) -> None:
    with counting(archive) as statements:
        await asyncio.gather(*(archive.outbox.enqueue([Work("report", "A")]) for _ in range(100)))
    assert statements["COMMIT"] <= 3
    assert statements["INSERT"] == 100


# what it costs


async def test_only_what_has_to_be_durable_is_synced(tmp_path: Path, tools: Any) -> None:
    """A claim and a settlement are not: they are synced together with what is committed next."""
    async with routing(tmp_path, To("A"), durability="power") as archive:
        said: list[str] = []
        connection = archive._ingest._writer._fairy.driver_connection
        connection.set_trace_callback(said.append)
        syncs = "FULL"

        def committed() -> list[str]:
            nonlocal syncs
            found = []
            for sql in said:
                if sql.startswith("PRAGMA synchronous = "):
                    syncs = sql.rpartition(" ")[2]
                elif sql == "COMMIT":
                    found.append(syncs)
            said.clear()
            return found

        await tools.store(archive, tools.data_set())
        assert set(committed()) == {"FULL"}
        claimed = await archive.outbox.claim("store", "A", 1)
        await archive.outbox.renew([each.id for each in claimed])
        await archive.outbox.settle(done(claimed))
        assert committed() == ["NORMAL"] * 3
        await archive.outbox.enqueue([Work("report", "A")])
        assert committed() == ["FULL"]
        claiming = archive.outbox.claim("report", "A", 1)  # together with what is durable
        await asyncio.gather(claiming, archive.outbox.enqueue([Work("report", "B")]))
        await tools.store(archive, tools.data_set(SOPInstanceUID="1.2.3.9"))
        assert committed() == ["FULL"] * 2


async def test_settlements_wait_for_others_and_for_nothing_else(archive: Archive) -> None:
    await archive.outbox.enqueue([Work("k", "A") for _ in range(300)])
    claimed = await archive.outbox.claim("k", "A", 300)
    with counting(archive) as statements:
        await asyncio.gather(*(archive.outbox.settle(done([each])) for each in claimed[:200]))
        assert statements["COMMIT"] <= 200 / 64 + 1
        before = statements["COMMIT"]
        settling = asyncio.ensure_future(archive.outbox.settle(done(claimed[200:])))
        await asyncio.sleep(0)
        assert await archive.outbox.claim("k", "A", 9) == []  # which does not wait: both are made
        await settling
        assert statements["COMMIT"] == before + 1


FILES, REVISIONS = 100, 200


def fill(writer: Writer, uids: Sequence[str], revisions: int) -> None:
    """Enqueue many revisions of some instances for one destination: a backlog."""
    for revision in range(revisions):
        digest = f"{revision:032x}"[::-1]
        enqueue_for_instances(writer.execute_all, [(uid, digest, Work("store", "DOWN")) for uid in uids], 1.0)


async def test_20_000_deliveries_cost_three_statements_a_batch_and_no_scan(
    tmp_path: Path, tools: Any
) -> None:
    async with routing(tmp_path, To("UP")) as archive:
        uids = [f"1.2.3.1.1.{number}" for number in range(FILES)]
        await asyncio.gather(*(tools.store(archive, tools.data_set(SOPInstanceUID=uid)) for uid in uids))
        with counting(archive) as statements:
            archive._ingest.change(lambda writer: fill(writer, uids, REVISIONS))
        total = FILES * REVISIONS
        assert statements == {"BEGIN": 1, "INSERT": total, "COMMIT": 1}
        assert rows(tmp_path, where="destination = 'DOWN'") == [(total,)]
        with counting(archive) as statements:
            ended = 0
            while claimed := await archive.outbox.claim("store", "DOWN", 50):
                ended += len(claimed)
                await archive.outbox.settle(done(claimed))
        assert ended == total
        batches = total // 50 + 1
        assert statements["UPDATE"] == 2 * (batches - 1)  # each batch is leased, and settled
        assert statements["SELECT"] == batches
        assert statements["COMMIT"] == 2 * batches - 1


async def test_what_comes_to_different_ends_is_settled_as_each_has_ended(archive: Archive) -> None:
    archive._ingest.change(lambda writer: enqueue(writer.execute_all, [Work("store", "A")] * 6, 1.0))
    claimed = await archive.outbox.claim("store", "A", 6)
    one, two, three, four, five, six = (each.id for each in claimed)
    await archive.outbox.settle(
        [
            Settlement(one, State.DONE, 50.0, 1, 0),
            Settlement(two, State.WAITING, 60.0, 1, 0xA700, "full", 50.0),
            Settlement(three, State.DONE, 51.0, 1, 0),
            Settlement(four, State.WAITING, 70.0, 1, 0xA700, "full", 50.0),
            Settlement(five, State.DONE, 52.0, 2, 0xB000, "changed"),
            Settlement(six, State.DONE, 52.0, 1, 0, is_forgotten=True),
        ]
    )
    read = archive.deliveries
    waiting = [(row.id, row.due, row.comment) for row in read.page(State.WAITING)]
    assert waiting == [(two, 60.0, "full"), (four, 70.0, "full")]
    ended = [(row.id, row.due, row.status, row.comment) for row in read.page(State.DONE)]
    assert ended == [(one, 52.0, 0, ""), (three, 52.0, 0, ""), (five, 52.0, 0xB000, "changed")]


async def test_a_backlog_costs_others_no_row(tmp_path: Path, tools: Any) -> None:
    """With 20,000 waiting for one that is down, a claim for another looks at its own rows only."""
    async with routing(tmp_path, To("UP")) as archive:
        uids = [f"1.2.3.1.1.{number}" for number in range(FILES)]
        await asyncio.gather(*(tools.store(archive, tools.data_set(SOPInstanceUID=uid)) for uid in uids))
        steps: list[int] = []
        connection = archive._ingest._writer._fairy.driver_connection
        for backlog in (0, REVISIONS):
            archive._ingest.change(partial(fill, uids=uids, revisions=backlog))
            taken = 0

            def step() -> None:
                nonlocal taken
                taken += 1

            connection.set_progress_handler(step, 1)
            claimed = await archive.outbox.claim("store", "UP", 50)
            await archive.outbox.settle(done(claimed, State.READY))
            connection.set_progress_handler(None, 0)
            assert len(claimed) == 50
            steps.append(taken)
        assert steps[1] <= steps[0] * 1.02


def plans(archive: Archive) -> Iterator[tuple[str, str]]:
    """Every statement of the outbox that runs while work is done, and how SQLite would run it."""
    names = ("_CLAIM_OF_STUDY", "_LEASE", "_RENEW", "_RECLAIM", "_PROMOTE", "_SETTLE")
    statements = {name: getattr(deliveries, name) for name in names}
    statements |= {which.name: statement for which, statement in deliveries._CLAIM.items()}
    with archive._index._engine.connect() as connection:
        for name, statement in statements.items():
            sql = statement.sql
            found = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", (None,) * sql.count("?"))
            yield name, "\n".join(row[3] for row in found)


async def test_every_statement_goes_by_an_index(archive: Archive) -> None:
    for name, plan in plans(archive):
        steps = [line for line in plan.splitlines() if "VIRTUAL TABLE" not in line]  # the list of ids
        assert not [line for line in steps if line.startswith("SCAN")], (name, plan)
    by_name = dict(plans(archive))
    assert "USING INDEX delivery_ready_index (destination=? AND kind=?)" in by_name["NEXT"]
    assert "delivery_order_index (destination=? AND kind=? AND order_key=?" in by_name["IN_ORDER"]
    assert "delivery_leased_index (leased_until<?)" in by_name["_RECLAIM"]
    assert "delivery_waiting_index (due<?)" in by_name["_PROMOTE"]


# whatever happens


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["enqueue", "claim", "settle", "promote", "reclaim", "retry", "drop"]),
        st.integers(0, 9),
    ),
    max_size=30,
)
ENDS = [State.DONE, State.FAILED, State.WAITING, State.READY]


@pytest.fixture(scope="module")
def anything(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A function that runs steps against an archive's outbox, and against a model of it."""
    with asyncio.Runner() as runner:
        path = tmp_path_factory.mktemp("model")
        manager = routing(path, To())
        archive = runner.run(manager.__aenter__())
        yield lambda steps: compare(archive, steps)
        runner.run(manager.__aexit__(None, None, None))


def compare(archive: Archive, steps: Sequence[tuple[str, int]]) -> None:
    def change(apply: Callable[..., Any], *arguments: Any) -> Any:
        return archive._ingest.change(lambda writer: apply(writer, *arguments))

    def add(writer: Writer, work: Work, now: float) -> None:
        enqueue(writer.execute_all, [work], now)

    change(lambda writer: writer._cursor.execute("DELETE FROM delivery") and None)
    model: dict[int, tuple[State, float]] = {}  # and when it is due, or leased until
    now = 100.0
    for what, number in steps:
        now += 1
        if what == "enqueue":
            change(add, Work("k", "A", number % 3), now)
            model[len(model) + 1] = State.READY, now
        elif what == "claim":
            claimed = change(deliveries.claim, "k", "A", number, now + number)
            ready = [each for each, (state, _) in model.items() if state is State.READY]
            assert len(claimed) == min(number, len(ready))
            for each in claimed:
                assert model[each.id][0] is State.READY
                model[each.id] = State.LEASED, now + number
        elif what == "settle" and model:
            chosen, end = number % len(model) + 1, ENDS[number % 4]
            settlement = Settlement(chosen, end, now + number, 1)
            change(deliveries.settle, [settlement])
            if model[chosen][0] is State.LEASED:  # of what is not, nothing is noted
                model[chosen] = end, now + number
        elif what == "promote":
            change(deliveries.promote, now, 1e6)
            model = {
                each: (State.READY, due) if state is State.WAITING and due <= now else (state, due)
                for each, (state, due) in model.items()
            }
        elif what == "reclaim":
            change(deliveries.reclaim, now)
            model = {
                each: (State.READY, until) if state is State.LEASED and until <= now else (state, until)
                for each, (state, until) in model.items()
            }
        elif what == "retry":
            change(deliveries.retry_failed, None, "A", 1e9)
            change(deliveries.retry_waiting, None, "A")
            again = (State.FAILED, State.WAITING)
            model = {e: (State.READY, now) if s in again else (s, due) for e, (s, due) in model.items()}
        elif what == "drop" and model:
            chosen = number % len(model) + 1
            change(deliveries.drop, [chosen], None)
            if model[chosen][0] not in (State.LEASED, State.DONE):
                model[chosen] = State.DROPPED, now
    found = change(lambda writer: writer._cursor.execute("SELECT id, state FROM delivery").fetchall())
    assert dict(found) == {each: state for each, (state, _) in model.items()}


@given(STEPS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
def test_whatever_happens_each_is_in_the_state_it_should_be(anything: Any, steps: Any) -> None:
    anything(steps)


async def test_what_is_asked_for_when_the_archive_is_closed_is_refused(tmp_path: Path) -> None:
    """Nobody waits for an answer that nobody gives."""
    archive = Archive(tmp_path, durability="none", scrub=0)
    async with archive:
        pass
    with pytest.raises(RuntimeError, match="the index's writer has ended"):
        await asyncio.wait_for(archive.outbox.enqueue([Work("store", "A")]), 60)
    with pytest.raises(RuntimeError, match="the index's writer has ended"):
        await asyncio.wait_for(asyncio.to_thread(archive._ingest.change, lambda writer: None), 60)
