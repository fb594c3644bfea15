"""What goes by itself: what rules say of it, slowly, and nothing that is owed to somebody."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from helpers.index_asking import ask

from asyncdicom.archive import Archive, ArchiveError, Retention, RetentionRule
from asyncdicom.archive.index.work import State, Work
from asyncdicom.archive.operations import METHODS
from asyncdicom.archive.retention import parse_retention, tables_of

DAY = 86400.0
SIZE = 140  # bytes of each data set, see `three`


class Clock:
    """The time, in seconds since 1970: that of the archive, and so many days later."""

    days = 0.0

    def __call__(self) -> float:
        return time.time() + self.days * DAY


async def keep(archive: Archive, tools: Any, number: int, caller: str = "CT1") -> str:
    uid = f"1.2.3.1.1.{number}"
    data = tools.data_set(SOPInstanceUID=uid)
    stored = await archive.receive(
        sop_class_uid=tools.ct,
        sop_instance_uid=uid,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        batches=tools.in_batches(data, 1000),
        calling_ae_title=caller,
    )
    assert stored.is_here
    return uid


async def work(archive: Archive, number: int, state: State, name: str = "PACS", kind: str = "store") -> None:
    uid = f"1.2.3.1.1.{number}"
    await archive.outbox.enqueue_for_instance(uid, f"{number}" * 32, [Work(kind, name, state=state)])


async def here(archive: Archive) -> set[int]:
    keys = {"SOPInstanceUID": ""}
    found = [str(match["SOPInstanceUID"]) async for match in archive.search(keys, level="IMAGE")]
    return {int(uid.rpartition(".")[2]) for uid in found}


async def once_round(archive: Archive, *rules: RetentionRule, days: float = 0.0) -> set[int]:
    """Let the rules be applied once, and give what is there then."""
    clock = Clock()
    clock.days = days
    async with (
        Retention(archive, rules, first=0, turn=0, round=0, clock=clock) as retention,
        asyncio.timeout(120),
    ):
        while not retention.rounds:
            await asyncio.sleep(0.001)
    return await here(archive)


@pytest.fixture
async def three(tmp_path: Path, tools: Any) -> AsyncIterator[Archive]:
    async with Archive(tmp_path, durability="none", scrub=0) as archive:
        for number, caller in ((1, "CT1"), (2, "CT2"), (3, "CT1")):
            await keep(archive, tools, number, caller)
        yield archive


async def test_without_a_rule_nothing_goes(three: Archive) -> None:
    async with Retention(three, []) as retention:
        await asyncio.sleep(0)
    assert retention.rounds == 0
    assert await here(three) == {1, 2, 3}


async def test_by_age_and_ae_title(three: Archive, tools: Any) -> None:
    rule = RetentionRule(days=30, calling=("CT1", "CT9"), name="old CT")
    assert await once_round(three, rule, days=29) == {1, 2, 3}
    assert await once_round(three, rule, days=31) == {2}
    assert await once_round(three, RetentionRule(days=30), days=31) == set()
    assert tools.files_below(Path(three.directory)) == []
    assert (await three.counts())["patient"] == 0
    assert (three.happened["expired"], three.happened["deleted"]) == (3, 3)
    assert (await three.reindex()).told() == ""
    whys = {why for (why,) in ask(three.directory, "SELECT why FROM deletion")}
    assert whys == {"by the retention rule old CT", "by the retention rule days=30"}


async def test_only_what_was_delivered(three: Archive) -> None:
    """As a gateway without a copy: days = 0."""
    rule = RetentionRule(only="delivered")
    assert await once_round(three, rule) == {1, 2, 3}
    await work(three, 1, State.DONE)
    await work(three, 2, State.DONE)
    await work(three, 2, State.READY, "AI")
    await work(three, 3, State.DROPPED)
    assert await once_round(three, rule) == {2, 3}
    [claimed] = await three.outbox.claim("store", "AI", 1)
    assert await once_round(three, rule) == {2, 3}
    from asyncdicom.archive.index.deliveries import Settlement

    await three.outbox.settle([Settlement(claimed.id, State.FAILED, 1.0, 1, failed_at=1.0)])
    assert await once_round(three, rule) == {2, 3}
    assert await once_round(three, RetentionRule(days=1), days=2) == {2}  # nor by any other rule
    assert await once_round(three, RetentionRule(only="delivered", even_failed=True)) == set()


async def test_to_certain_destinations(three: Archive) -> None:
    for number, names in ((1, ("PACS",)), (2, ("PACS", "AI")), (3, ("AI",))):
        for name in names:
            await work(three, number, State.DONE, name)
    assert await once_round(three, RetentionRule(only="delivered", to=("PACS", "AI"))) == {1, 3}
    assert await once_round(three, RetentionRule(only="delivered", to=("PACS",))) == {3}


async def test_only_what_a_peer_has_committed(three: Archive) -> None:
    rule = RetentionRule(only="committed", to=("PACS",))
    await work(three, 1, State.DONE)
    assert await once_round(three, rule) == {1, 2, 3}
    await three.note_committed(["1.2.3.1.1.1", "1.9"], "PACS")
    await three.note_committed(["1.2.3.1.1.2"], "OTHER")
    assert await once_round(three, rule) == {2, 3}


@pytest.mark.parametrize(
    ("room", "left"), [(1000, {1, 2, 3}), (2 * SIZE, {2, 3}), (SIZE + 1, {3}), (0, set())]
)
async def test_by_size_the_oldest_go(three: Archive, room: int, left: set[int]) -> None:
    assert await once_round(three, RetentionRule(maximum_gib=room / (1 << 30))) == left


async def test_by_size_it_is_what_the_rule_means(three: Archive) -> None:
    rule = RetentionRule(maximum_gib=SIZE / (1 << 30), calling=("CT2",), days=1)
    assert await once_round(three, rule) == {1, 2, 3}
    assert await once_round(three, rule, days=2) == {1, 3}


async def test_what_is_promised_right_now_stays(three: Archive) -> None:
    release = three.deleting.holds.take(["1.2.3.1.1.2"])
    assert await once_round(three, RetentionRule(days=1), days=2) == {2}
    release()
    assert await once_round(three, RetentionRule(days=1), days=2) == set()


def names_told(root: Path) -> list[str]:
    """The names that it is noted of up to where they were told everything."""
    return [name for (name,) in ask(root, "SELECT name FROM stability WHERE study = 0")]


async def test_who_waits_for_stable_studies_is_told_first(tmp_path: Path, tools: Any) -> None:
    rule = RetentionRule(days=1)
    async with Archive(tmp_path, durability="none", scrub=0) as archive:
        studies = archive.stable_studies(quiet=0.01, name="AI")
        waiting = asyncio.ensure_future(anext(studies))
        async with asyncio.timeout(60):
            while not names_told(tmp_path):
                await asyncio.sleep(0.01)
            for number in (1, 2):
                await keep(archive, tools, number)
            assert (await waiting).study_instance_uid == "1.2.3.1"
        assert await once_round(archive, rule, days=2) == {1, 2}  # he has it in his hands

        async def take_all() -> None:
            async for _ in studies:
                pass

        taking = asyncio.ensure_future(take_all())
        async with asyncio.timeout(60):
            while await once_round(archive, rule, days=2):
                await asyncio.sleep(0.01)
        taking.cancel()
        await asyncio.wait((taking,))
        await studies.aclose()


async def test_who_was_told_of_one_was_not_of_another_in_its_place(three: Archive) -> None:
    """The newest one's number is given again."""
    rule = RetentionRule(days=1)
    three.stability.asked.add("AI")
    told = "SELECT 'AI', 0, max(id), max(received) FROM instance"
    ask(three.directory, f"INSERT INTO stability (name, study, last, received) {told}")
    came(three, 3, datetime.fromtimestamp(time.time() + 1, UTC).isoformat(timespec="milliseconds"))
    assert await once_round(three, rule, days=2) == {3}
    three.stability.asked.discard("AI")
    assert await once_round(three, rule, days=2) == set()


async def test_page_after_page(three: Archive, tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from asyncdicom.archive.index import expired

    monkeypatch.setattr(expired, "PAGE", 1)
    monkeypatch.setattr(expired, "_ADDED_UP", 2)
    for number in (4, 5):
        await keep(three, tools, number, "CT3")
    rules = [RetentionRule(days=1, calling=("CT3",)), RetentionRule(maximum_gib=SIZE * 2 / (1 << 30))]
    assert await once_round(three, *rules, days=2) == {2, 3}


def came(archive: Archive, number: int, when: str) -> None:
    """Let it have come at another time."""
    ask(
        archive.directory,
        f"UPDATE instance SET received = '{when}' WHERE sop_instance_uid = '1.2.3.1.1.{number}'",
    )


FUTURE, PAST = "2099-01-01T00:00:00.000+00:00", "2000-01-01T00:00:00.000+00:00"


@pytest.mark.parametrize("size", [1, 500])
async def test_what_came_by_a_clock_that_went_ahead_holds_up_nothing(
    three: Archive, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    from asyncdicom.archive.index import expired

    monkeypatch.setattr(expired, "PAGE", size)
    for number in (1, 2):
        came(three, number, FUTURE)
    assert await once_round(three, RetentionRule(days=30), days=31) == {1, 2}
    await work(three, 1, State.DONE)
    assert await once_round(three, RetentionRule(only="delivered")) == {2}  # days do not count
    assert await once_round(three, RetentionRule(maximum_gib=0.0)) == set()


@pytest.mark.parametrize("size", [1, 500])
async def test_what_came_by_a_clock_that_was_put_back_is_not_old(
    three: Archive, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    from asyncdicom.archive.index import expired

    monkeypatch.setattr(expired, "PAGE", size)
    came(three, 2, PAST)
    assert await once_round(three, RetentionRule(days=30), days=29) == {1, 2, 3}
    assert await once_round(three, RetentionRule(days=30), days=31) == set()


async def test_a_number_that_another_one_has_now(three: Archive, tools: Any) -> None:
    """Who has come after the look is not meant."""
    step = await three.upkeep(three.deleting.chosen, [1, 2], "2000-01-01T00:00:00.000+00:00", "by a test")
    assert (step.instances, step.is_last) == (0, True)
    assert await here(three) == {1, 2, 3}


async def test_a_disk_that_fails_is_told_and_tried_again(
    three: Archive, monkeypatch: Any, caplog: Any
) -> None:
    chosen = three.deleting.chosen
    failures = iter([ArchiveError("disk or index failed")])

    def fail(*arguments: Any, **options: Any) -> Any:
        if (error := next(failures, None)) is not None:
            raise error
        return chosen(*arguments, **options)

    monkeypatch.setattr(three.deleting, "chosen", fail)
    assert await once_round(three, RetentionRule(days=1), days=2) == set()
    assert "stays for now: disk or index failed" in caplog.text


async def test_what_would_go_is_listed(three: Archive, tools: Any) -> None:
    await work(three, 1, State.READY)
    rules = tables_of([RetentionRule(maximum_gib=0.0), RetentionRule(maximum_gib=0.0, calling=("CT2",))])
    *listed, total = [line async for line in METHODS["retention"](three, {"rules": rules})]
    assert [line["sop_instance_uid"][-1] for line in listed] == ["2", "3"]
    assert {line["rule"] for line in listed} == {"maximum_gib=0.0"}
    assert total == {"would_delete": 2, "size": 2 * SIZE, "held": 1}
    assert await here(three) == {1, 2, 3}
    with pytest.raises(ArchiveError, match="tables in an order"):
        [line async for line in METHODS["retention"](three, {})]


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ("x", "tables in an order"),
        ({}, "without any of them all would go"),
        ({"calling": ["CT1"]}, "all would go"),
        ({"days": -1}, "days is a number"),
        ({"days": float("nan")}, "days is a number"),
        ({"days": "1"}, "days must be int or float"),
        ({"days": True}, "days must be int or float"),
        ({"calling": ["CT1", 1], "days": 1}, "calling must be a list of texts"),
        ({"only": "sent"}, "only is"),
        ({"to": ["PACS"], "days": 1}, "to goes with only"),
        ({"maximum_gib": -1}, "maximum_gib is a number"),
        ({"age": 1}, "unknown key 'age'"),
    ],
)
def test_a_rule_that_is_wrong(table: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_retention([{"days": 1}, table])


def test_rules_are_read_as_they_are_written() -> None:
    rules = (RetentionRule(days=1, calling=("A",)), RetentionRule(only="delivered", to=("P",), name="x"))
    assert parse_retention(tables_of(rules)) == rules
