"""Very many deliveries to one destination: what they cost, counted."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from helpers.gateway import EVERYTHING, Pacs, config, gateway, instance, pacs, send, settled
from helpers.outbox_counting import counting

from asyncdicom import AssociationPool, Limits
from asyncdicom.archive.index.enqueue import enqueue_for_instances
from asyncdicom.archive.index.work import State, Work
from asyncdicom.archive.index.writer import Writer
from asyncdicom.gateway.gateway import Gateway
from asyncdicom.gateway.link import Link
from asyncdicom.net import sources

UIDS = [f"1.{number}" for number in range(40)]
REVISIONS = 25
TOTAL = len(UIDS) * REVISIONS


def owe(running: Gateway) -> None:
    """Let instances that are stored be owed many times, when what has failed is tried again."""
    work = Work("store", "A", state=State.FAILED, on_duplicate="resend")

    def enqueue(writer: Writer) -> None:
        found = writer.find_all(UIDS).values()
        for second in range(REVISIONS):
            rows = [(each.sop_instance_uid, each.digest, work) for each in found]
            enqueue_for_instances(writer.execute_all, rows, 1.7e9 + second)

    running._archive._ingest.change(enqueue)


@pytest.fixture
def spent(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The tasks that send, the places that are taken, and the hops to a thread that reads: counted."""
    counts: Counter[str] = Counter()

    def watch(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def counted(*arguments: Any, **options: Any) -> Any:
            counts[name] += 1
            return real(*arguments, **options)

        monkeypatch.setattr(owner, name, counted)

    watch(Link, "_spawn")
    watch(AssociationPool, "acquire")
    watch(sources, "_read_each")
    return counts


async def sent(running: Gateway, node: Pacs) -> None:
    for uid in UIDS:
        node.received[uid] = 0
    owe(running)
    assert await running._archive.outbox.retry(destination="A") == TOTAL
    await settled(running)
    assert node.received == dict.fromkeys(UIDS, REVISIONS)


async def test_one_that_follows_another_costs_no_task_no_place_and_no_statement(
    tmp_path: Path, spent: Counter[str]
) -> None:
    async with pacs() as node:
        async with gateway(tmp_path, config(EVERYTHING.format('"A"'), A=node.server.port)) as (
            running,
            where,
        ):
            await send(where, *map(instance, UIDS))
            await settled(running)
            spent.clear()
            with counting(running._archive) as statements:
                await sent(running, node)
    print(f"{TOTAL} deliveries: {dict(spent)}, {dict(statements)}")
    assert spent["_spawn"] <= TOTAL // 2
    assert spent["acquire"] <= TOTAL // 2
    assert spent["_read_each"] <= TOTAL // 10
    assert statements["SELECT"] <= TOTAL // 32  # claims
    # Each claim leases, each commit has a settlement or a claim; and all are retried by one, in two pages.
    assert statements["UPDATE"] <= statements["COMMIT"] + statements["SELECT"] + 4


async def test_a_place_is_given_to_those_who_wait_after_each_instance(
    tmp_path: Path, spent: Counter[str]
) -> None:
    """A peer that takes one association and one operation: all that are begun have their turn."""
    async with pacs(limits=Limits(operations_performed=1)) as node:
        more = "maximum_associations = 1\noperations_invoked = 4\n"
        async with gateway(tmp_path, config(EVERYTHING.format('"A"'), more, A=node.server.port)) as (
            running,
            where,
        ):
            await send(where, *map(instance, UIDS))
            await settled(running)
            spent.clear()
            await sent(running, node)
    assert len(node.studies) == 1  # associations
    assert spent["acquire"] >= TOTAL // 2  # nobody keeps it from the others
