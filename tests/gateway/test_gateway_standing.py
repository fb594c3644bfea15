"""What comes while nothing waits is claimed as it comes: the sender asks for nothing, and loses nothing."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.gateway import (
    BULK_OR_URGENT,
    EVERYTHING,
    ONE_AT_A_TIME,
    config,
    gateway,
    instance,
    pacs,
    send,
    settled,
)
from helpers.index_asking import ask
from helpers.outbox_counting import counting

from asyncdicom.archive.index.work import State
from asyncdicom.archive.outbox import Outbox
from asyncdicom.gateway.courier import Courier
from asyncdicom.gateway.gateway import Gateway
from asyncdicom.gateway.routing import delivery


@pytest.fixture
def claims(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many times each destination's work was asked for."""
    counts: Counter[str] = Counter()
    claim = Outbox.claim

    async def counted(self: Outbox, kind: str, destination: str, *more: Any, **options: Any) -> Any:
        counts[destination] += 1
        return await claim(self, kind, destination, *more, **options)

    monkeypatch.setattr(Outbox, "claim", counted)
    return counts


@pytest.fixture(autouse=True)
def never_both(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Who asks for work has none claimed as it comes meanwhile: it would be more than there is room for."""
    both: list[str] = []
    claim = Outbox.claim

    async def watched(self: Outbox, kind: str, destination: str, *more: Any, **options: Any) -> Any:
        if (kind, destination) in self._standing._claims:
            both.append(destination)
        return await claim(self, kind, destination, *more, **options)

    monkeypatch.setattr(Outbox, "claim", watched)
    yield
    assert not both


async def stands(running: Gateway, name: str, *, room: bool = True) -> None:
    """Wait until a destination takes what comes, or does not any more."""
    async with asyncio.timeout(30):
        while (("store", name) in running._archive.outbox._standing._claims) is not room:
            await asyncio.sleep(0.002)


async def test_one_that_comes_to_who_keeps_up_costs_no_transaction_but_its_own_and_its_end(
    tmp_path: Path, claims: Counter[str]
) -> None:
    async with pacs() as a, pacs() as b:
        setting = config(EVERYTHING.format('"A", "B"'), A=a.server.port, B=b.server.port)
        async with gateway(tmp_path, setting) as (running, where):
            await stands(running, "A")
            await stands(running, "B")
            claims.clear()
            with counting(running._archive) as statements:
                for number in range(20):
                    await send(where, instance(f"1.{number}"))
                    await a.has(f"1.{number}")
                    await b.has(f"1.{number}")
                await settled(running)
    assert a.received == b.received == Counter({f"1.{number}": 1 for number in range(20)})
    assert not claims
    assert statements["COMMIT"] <= 20 + 2 * 20  # the instance, and at most a settlement for each destination


@pytest.mark.parametrize(
    "more", ["ordered = true\n", 'group_by = "study"\n', "maximum_associations = 1\nrate = 50\n"]
)
async def test_each_way_of_sending_delivers_what_comes_once(tmp_path: Path, more: str) -> None:
    async with pacs() as node:
        async with gateway(tmp_path, config(EVERYTHING.format('"A"'), more, A=node.server.port)) as (
            running,
            where,
        ):
            uids = [f"1.{number}" for number in range(60)]
            for first in range(0, 60, 20):
                await asyncio.gather(*(send(where, instance(uid)) for uid in uids[first : first + 20]))
            await settled(running)
    assert node.received == Counter(dict.fromkeys(uids, 1))


async def test_what_comes_as_a_destination_is_paused_waits_and_goes_when_it_goes_on(
    tmp_path: Path, claims: Counter[str]
) -> None:
    async with pacs() as node:
        async with gateway(tmp_path, config(EVERYTHING.format('"A"'), A=node.server.port)) as (
            running,
            where,
        ):
            await stands(running, "A")
            pausing = asyncio.ensure_future(running.pause("A", paused=True))
            await asyncio.gather(pausing, *(send(where, instance(f"1.{number}")) for number in range(10)))
            await stands(running, "A", room=False)
            before = node.received.total()
            await settled(running, **({"ready": 10 - before} if before < 10 else {}))
            await send(where, instance("2.1"))
            await settled(running, ready=11 - before)
            await running.pause("A", paused=False)
            await settled(running)
            await stands(running, "A")
    assert node.received == Counter({f"1.{number}": 1 for number in range(10)} | {"2.1": 1})


async def test_one_that_is_down_takes_nothing_as_it_comes_until_it_is_up(tmp_path: Path) -> None:
    async with pacs() as node:
        port = node.server.port
    async with gateway(tmp_path, config(EVERYTHING.format('"A"'), A=port)) as (running, where):
        await stands(running, "A")
        for number in range(5):  # each one that is taken in vain is another failure
            await send(where, instance(f"1.{number}"))
            await asyncio.sleep(0.02)
        await stands(running, "A", room=False)
        async with pacs(port) as node:
            await node.has(*(f"1.{number}" for number in range(5)))
            await settled(running)
            await stands(running, "A")
            await send(where, instance("2.1"))
            await node.has("2.1")


async def test_a_destination_that_is_taken_out_leaves_nothing_claimed(tmp_path: Path) -> None:
    async with pacs() as node:
        setting = config(EVERYTHING.format('"A"'), A=node.server.port)
        async with gateway(tmp_path, setting) as (running, where):
            await stands(running, "A")
            running.renew(config(EVERYTHING.format('"B"'), B=node.server.port))
            sending = [send(where, instance(f"1.{number}")) for number in range(20)]
            await asyncio.gather(*sending)
            await stands(running, "A", room=False)
            await stands(running, "B")
            counts = Counter[str]()
            async with asyncio.timeout(30):
                while counts["delivered"] + counts["left"] < 20 or counts["leased"]:
                    (status, *lost) = await running.status()
                    counts = Counter(leased=status["leased"], delivered=node.received.total())
                    counts["left"] = sum(each["ready"] for each in lost)
                    counts["leased"] += sum(each["leased"] for each in lost)
                    await asyncio.sleep(0.01)
            running.renew(setting)
            await settled(running)
    assert node.received == Counter({f"1.{number}": 1 for number in range(20)})


async def test_what_is_urgent_overtakes_what_was_taken_as_it_came(
    tmp_path: Path, claims: Counter[str]
) -> None:
    async with pacs() as node:
        node.goes_on.clear()
        async with gateway(tmp_path, config(BULK_OR_URGENT, ONE_AT_A_TIME, A=node.server.port)) as (
            running,
            where,
        ):
            await stands(running, "A")
            claims.clear()
            bulk, urgent = [f"1.{n}" for n in range(30)], [f"2.{n}" for n in range(10)]
            await send(where, *map(instance, bulk))
            await send(where, *map(instance, urgent), calling="ER")
            assert not claims
            node.goes_on.set()
            await node.has(*bulk, *urgent)
            await settled(running)
    order = [each.affected_sop_instance_uid for each in node.requests]
    assert max(map(order.index, urgent)) < len(urgent) + 4  # those that were under way already


async def test_what_cannot_be_read_ahead_is_sent_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(self: Courier, claimed: Any) -> None:
        raise RuntimeError("can't start new thread")

    async with pacs() as a, pacs() as b:
        setting = config(EVERYTHING.format('"A", "B"'), A=a.server.port, B=b.server.port)
        async with gateway(tmp_path, setting) as (running, where):
            await stands(running, "A")
            await stands(running, "B")
            monkeypatch.setattr(Courier, "expect", no_thread)
            await send(where, instance("1.1"))
            await a.has("1.1")
            await b.has("1.1")
            await settled(running)


async def test_a_study_keeps_its_association_while_more_of_it_is_claimed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes of another study meanwhile waits for its turn."""
    async with pacs() as node:
        more = 'group_by = "study"\nmaximum_associations = 1\n'
        async with gateway(tmp_path, config(EVERYTHING.format('"A"'), more, A=node.server.port)) as (
            running,
            where,
        ):
            outbox, claim = running._archive.outbox, Outbox.claim
            claimed, goes_on = asyncio.Event(), asyncio.Event()
            await send(where, instance("1.1", study="1"))
            await settled(running)
            await stands(running, "A")

            async def slow(self: Outbox, *arguments: Any, **options: Any) -> Any:
                found = await claim(self, *arguments, **options)
                if found:
                    claimed.set()
                    await goes_on.wait()
                return found

            monkeypatch.setattr(Outbox, "claim", slow)
            (row,) = running._archive.deliveries.of_instance("1.1")
            assert row.state == State.DONE
            (digest,) = ask(tmp_path, "SELECT digest FROM instance")[0]
            again = delivery(["A"], 1, on_duplicate="resend")
            await outbox.enqueue_for_instance("1.1", digest, [again])
            await asyncio.wait_for(claimed.wait(), 60)
            await send(where, instance("2.1", study="2"))
            goes_on.set()
            await node.has("1.1", "2.1")
            await settled(running)
    assert list(node.studies.values()) == [["1.1", "1.1"], ["2.1"]]
