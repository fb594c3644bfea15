"""Claims that stand: what comes is claimed by the transaction that enqueues it, for who waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers.index_asking import refuse, refuse_no_more
from helpers.routing import To, done, routing, rows

from asyncdicom.archive import Archive
from asyncdicom.archive.index.deliveries import Claimed
from asyncdicom.archive.index.work import LEASE, State, Work
from asyncdicom.archive.index.writer import Writer
from asyncdicom.archive.ingest import Ingest


class Waiting:
    """Takes what comes for a destination, as it comes; `told` has what listeners are told."""

    def __init__(self, archive: Archive, name: str = "PACS", room: int = 10) -> None:
        self.archive, self.name = archive, name
        self.taken: list[Claimed] = []
        self.told: list[Any] = []
        self.came = asyncio.Event()
        archive.outbox.subscribe(self.hear)
        self.stand(room)

    def stand(self, room: int) -> None:
        self.archive.outbox.stand("store", self.name, room, self.take)

    def hear(self, destinations: Any) -> None:
        self.told.append(destinations)
        self.came.set()

    def take(self, claimed: Sequence[Claimed]) -> None:
        self.taken += claimed
        self.came.set()

    async def until(self, taken: int, told: int = 0) -> None:
        async with asyncio.timeout(30):
            while len(self.taken) < taken or len(self.told) < told:
                self.came.clear()
                await self.came.wait()


async def store(archive: Archive, tools: Any, *numbers: int, **elements: Any) -> None:
    for number in numbers:
        data = tools.data_set(SOPInstanceUID=f"1.2.3.{number}", **elements)
        assert await tools.store(archive, data) == 0


async def test_what_comes_is_given_to_who_waits_by_the_transaction_that_brings_it(
    tmp_path: Path, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with routing(tmp_path, To("PACS")) as archive:
        commits = 0
        commit = archive._ingest._writer._commit

        def counted() -> None:
            nonlocal commits
            commits += 1
            commit()

        waiting = Waiting(archive)
        monkeypatch.setattr(archive._ingest._writer, "_commit", counted)
        await store(archive, tools, 1, 2)
        await waiting.until(2)
        assert commits == 2
        assert [each.sop_instance_uid for each in waiting.taken] == ["1.2.3.1", "1.2.3.2"]
        assert waiting.told == [], "there is nothing that anybody else might do"
        assert rows(tmp_path, "state") == [(State.LEASED,)] * 2
        await archive.outbox.settle(done(waiting.taken))
    assert rows(tmp_path, "state") == [(State.DONE,)] * 2


async def test_no_more_is_given_than_there_is_room_for_and_of_the_rest_everybody_is_told(
    tmp_path: Path, tools: Any
) -> None:
    async with routing(tmp_path, To("PACS")) as archive:
        waiting = Waiting(archive, room=2)
        await store(archive, tools, 1)
        await waiting.until(1)
        assert waiting.told == []
        await store(archive, tools, 2)
        await waiting.until(2, told=1)  # perhaps there is more: nobody has looked
        await store(archive, tools, 3)
        await waiting.until(2, told=2)
        assert [each.sop_instance_uid for each in waiting.taken] == ["1.2.3.1", "1.2.3.2"]
        assert waiting.told == [{"PACS": 1}] * 2
        waiting.stand(5)
        await store(archive, tools, 4)  # what was there before comes first
        await waiting.until(4)
        assert [each.sop_instance_uid for each in waiting.taken[2:]] == ["1.2.3.3", "1.2.3.4"]


async def test_who_waits_gets_nothing_of_others_and_others_are_told(tmp_path: Path, tools: Any) -> None:
    async with routing(tmp_path, To("PACS", "AI", priority=0)) as archive:
        waiting = Waiting(archive)
        await store(archive, tools, 1)
        await waiting.until(1, told=1)
        assert [each.destination for each in waiting.taken] == ["PACS"]
        assert waiting.told == [{"AI": 0}]
        await archive.outbox.enqueue([Work("report", "PACS")])  # of no instance
        assert len(waiting.taken) == 1


async def test_work_of_another_kind_for_the_same_name_is_told(tmp_path: Path, tools: Any) -> None:
    router = To("PACS")
    router._work.append(Work("report", "PACS", 2))
    async with routing(tmp_path, router) as archive:
        waiting = Waiting(archive)
        await store(archive, tools, 1)
        await waiting.until(1, told=1)
        assert [each.destination for each in waiting.taken] == ["PACS"]
        assert waiting.told == [{"PACS": 2}]
        assert len(await archive.outbox.claim("report", "PACS", 5)) == 1


async def test_what_comes_again_is_given_to_nobody_again(tmp_path: Path, tools: Any) -> None:
    async with routing(tmp_path, To("PACS")) as archive:
        waiting = Waiting(archive)
        await store(archive, tools, 1, 1, 2)
        await waiting.until(2)
        assert [each.sop_instance_uid for each in waiting.taken] == ["1.2.3.1", "1.2.3.2"]


async def test_a_transaction_that_fails_gives_nothing_and_takes_no_room(tmp_path: Path, tools: Any) -> None:
    async with routing(tmp_path, To("PACS")) as archive:
        waiting = Waiting(archive, room=2)
        refuse(tmp_path, "INSERT", "delivery")
        assert await tools.store(archive, tools.data_set()) == 0xA700
        refuse_no_more(tmp_path, "delivery")
        assert (await archive.counts())["instance"] == 0
        assert (waiting.taken, waiting.told) == ([], [])
        await store(archive, tools, 1)
        await waiting.until(1)
        assert waiting.told == []


async def test_a_claim_that_fails_keeps_nothing_from_being_stored(tmp_path: Path, tools: Any) -> None:
    async with routing(tmp_path, To("PACS")) as archive:
        waiting = Waiting(archive)
        refuse(tmp_path, "UPDATE", "delivery")
        await store(archive, tools, 1, 2)
        await waiting.until(0, told=2)
        refuse_no_more(tmp_path, "delivery")
        assert (waiting.taken, waiting.told) == ([], [{"PACS": 1}] * 2)
        assert rows(tmp_path, "state") == [(State.READY,)] * 2
        await store(archive, tools, 3)
        await waiting.until(3)
        assert [each.sop_instance_uid for each in waiting.taken] == ["1.2.3.1", "1.2.3.2", "1.2.3.3"]


async def test_what_fails_after_the_commit_does_not_make_it_look_failed(
    tmp_path: Path, tools: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with routing(tmp_path, To("PACS")) as archive:
        waiting = Waiting(archive)

        def no_memory(*_: Any) -> None:
            raise MemoryError

        on_work = archive._ingest._on_work
        archive._ingest._on_work = no_memory
        await store(archive, tools, 1)
        assert "nobody could be told of new work: MemoryError" in caplog.text
        assert (await archive.counts())["instance"] == 1
        (verified,) = await archive.read(lambda: list(archive.care.verify(lambda size: None)))
        assert verified.state == "as its row says"
        archive._ingest._on_work = on_work
        await store(archive, tools, 2)
        await waiting.until(1)


async def test_one_who_cannot_take_it_keeps_nobody_else_from_it(
    tmp_path: Path, tools: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with routing(tmp_path, To("BAD", "PACS", "AI")) as archive:

        def fail(claimed: Sequence[Claimed]) -> None:
            raise RuntimeError("can't start new thread")

        archive.outbox.stand("store", "BAD", 5, fail)
        waiting = Waiting(archive)
        await store(archive, tools, 1)
        await waiting.until(1, told=1)
        assert [each.destination for each in waiting.taken] == ["PACS"]
        assert waiting.told == [{"AI": 1}]
        assert "what has come for BAD is not sent at once: RuntimeError" in caplog.text


async def test_what_nobody_takes_any_more_is_ready_again_and_told(tmp_path: Path, tools: Any) -> None:
    async with routing(tmp_path, To("PACS")) as archive:
        waiting = Waiting(archive)
        outbox = archive.outbox
        outbox._takers.clear()  # as if it had been between the commit and the turn of the event loop
        await store(archive, tools, 1)
        await waiting.until(0, told=1)
        assert (waiting.taken, waiting.told) == ([], [{"PACS": 1}])
        outbox.stand("store", "PACS", 0, None)
        (claimed,) = await outbox.claim("store", "PACS", 5)
        assert claimed.attempts == 0
        await outbox.settle(done([claimed]))
        await store(archive, tools, 2)
        await waiting.until(0, told=2)
        assert rows(tmp_path, "state") == [(State.DONE,), (State.READY,)]


async def test_what_is_given_while_the_archive_closes_is_taken_back_at_the_next_start(
    tmp_path: Path, tools: Any
) -> None:
    async with routing(tmp_path, To("PACS")) as archive:
        Waiting(archive)
        archive.outbox._is_closing = True
        await store(archive, tools, 1)
    assert rows(tmp_path, "state") == [(State.LEASED,)]
    async with routing(tmp_path, To("PACS")) as archive:
        assert len(await archive.outbox.claim("store", "PACS", 5)) == 1


@pytest.mark.parametrize("how", ["cancelled", "given to nobody"])
async def test_what_was_claimed_and_not_heard_of_is_free_after_its_lease(
    tmp_path: Path, tools: Any, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with routing(tmp_path, To("PACS")) as archive:
        outbox = archive.outbox
        if how == "cancelled":
            await store(archive, tools, 1)
            asking = asyncio.ensure_future(outbox.claim("store", "PACS", 5))
            while not outbox._pending:
                await asyncio.sleep(0)
            asking.cancel()
        else:  # the writer broke off when it had committed
            outbox.stand("store", "PACS", 5, lambda claimed: None)
            outbox._hand = lambda *given: None  # type: ignore[method-assign]
            await store(archive, tools, 1)
        async with asyncio.timeout(30):
            while rows(tmp_path, "state") != [(State.LEASED,)]:
                await asyncio.sleep(0.01)
        await outbox._look()
        assert rows(tmp_path, "state") == [(State.LEASED,)]
        later = outbox.clock() + LEASE + 1
        monkeypatch.setattr(outbox, "clock", lambda: later)
        await (outbox._look_at_others() if outbox.is_shared else outbox._look())
        assert rows(tmp_path, "state") == [(State.READY,)]


async def test_a_group_that_is_tried_one_by_one_gives_what_was_stored(
    tmp_path: Path, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One bad instance does not cost the others their place, nor their work."""
    submitted: list[Any] = []
    submit, submit_all = Ingest.submit, Ingest.submit_all

    def one(self: Ingest, arrival: Any) -> None:
        submitted.append(arrival)
        submit(self, arrival)

    def some(self: Ingest, arrivals: Any) -> None:
        submitted.extend(arrivals)
        submit_all(self, arrivals)

    monkeypatch.setattr(Ingest, "submit", one)
    monkeypatch.setattr(Ingest, "submit_all", some)
    async with routing(tmp_path, To("PACS")) as archive:
        waiting = Waiting(archive)
        refuse(tmp_path, "INSERT", "instance", "NEW.sop_instance_uid = '1.2.3.2'")
        blocked, go = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def block(writer: Writer) -> None:  # so that all of them are in one group
            loop.call_soon_threadsafe(blocked.set)
            asyncio.run_coroutine_threadsafe(go.wait(), loop).result(30)

        archive._ingest.begin_change(block, lambda *_: None)
        await blocked.wait()
        data = [tools.data_set(SOPInstanceUID=f"1.2.3.{number}") for number in (1, 2, 3)]
        storing = [asyncio.ensure_future(tools.store(archive, each)) for each in data]
        async with asyncio.timeout(30):
            while len(submitted) < 3:
                await asyncio.sleep(0.01)
        go.set()
        assert [status == 0 for status in await asyncio.gather(*storing)] == [True, False, True]
        await waiting.until(2)
        assert {each.sop_instance_uid for each in waiting.taken} == {"1.2.3.1", "1.2.3.3"}
        refuse_no_more(tmp_path, "instance")
