"""`group_by = "study"`: one association for a study, and none for an image."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from helpers.gateway import CT, EVERYTHING, QUICK, Pacs, config, gateway, instance, pacs, send, settled
from helpers.peer import eventually

from asyncdicom import associate

GROUPED = f'{QUICK}group_by = "study"\n'


def associations_of(node: Pacs) -> Counter[str]:
    """Count the associations of each study; none has instances of two."""
    counted = Counter[str]()
    for uids in node.studies.values():
        (study,) = {uid.rpartition(".")[0] for uid in uids}
        counted[study] += 1
    return counted


def of(study: int, number: int) -> Any:
    return instance(f"1.{study}.{number}", study=f"1.2.{study}")


@pytest.mark.parametrize("senders", [1, 3])
async def test_what_comes_one_after_the_other_goes_on_one_association(tmp_path: Path, senders: int) -> None:
    """Each is sent before the next one comes: nothing of the study waits meanwhile."""
    async with pacs() as node, pacs() as other:
        setting = config(EVERYTHING.format('"A", "B"'), GROUPED, A=node.server.port, B=other.server.port)

        async def scan(study: int, where: str) -> None:
            async with associate(where, contexts=[CT]) as association:
                for number in range(8):
                    assert (await association.c_store(of(study, number))).status == 0
                    await asyncio.gather(node.has(f"1.{study}.{number}"), other.has(f"1.{study}.{number}"))

        async with gateway(tmp_path, setting) as (running, where):
            await asyncio.gather(*(scan(study, where) for study in range(senders)))
            await settled(running)
        for each in (node, other):
            assert associations_of(each) == {f"1.{study}": 1 for study in range(senders)}
            assert len(each.received) == 8 * senders


@pytest.mark.parametrize("is_mixed", [True, False])
@pytest.mark.parametrize(("studies", "number"), [(2, 150), (40, 5), (80, 3)])
async def test_all_that_waits_of_a_study_goes_on_one_association(
    tmp_path: Path, studies: int, number: int, is_mixed: bool
) -> None:
    """Also where more waits than is claimed at a time, and of one study behind all others; after a start."""
    async with pacs() as node:
        setting = config(EVERYTHING.format('"A"'), GROUPED, A=node.server.port)
        async with gateway(tmp_path, setting) as (running, where):
            await running.pause("A", paused=True)
            sent = [of(study, n) for study in range(studies) for n in range(number)]
            if is_mixed:
                sent = [of(study, n) for n in range(number) for study in range(studies)]
            await send(where, *sent)
        async with gateway(tmp_path, setting) as (running, where):
            await running.pause("A", paused=False)
            await node.has(*(each.sop_instance_uid for each in sent))
            await settled(running)
        assert associations_of(node) == {f"1.{study}": 1 for study in range(studies)}
        assert set(node.received.values()) == {1}


async def test_another_study_gets_the_association_that_nobody_uses(tmp_path: Path) -> None:
    """One association at a time: that of the study before is released, and not waited for."""
    async with pacs() as node:
        more = f"{GROUPED}maximum_associations = 1\n"
        setting = config(EVERYTHING.format('"A"'), more, A=node.server.port)
        async with gateway(tmp_path, setting) as (_, where):
            for study, number in ((0, 0), (0, 1), (1, 0), (1, 1)):
                await send(where, of(study, number))
                await node.has(f"1.{study}.{number}")
        assert list(node.studies.values()) == [["1.0.0", "1.0.1"], ["1.1.0", "1.1.1"]]


async def test_an_association_ends_when_nothing_of_its_study_has_come_for_a_while(tmp_path: Path) -> None:
    """Also while others are used all the time: a peer may wait for that to take up the study."""
    async with pacs() as node:
        more = f"{GROUPED}keep_open = 0.3\n"
        setting = config(EVERYTHING.format('"A"'), more, A=node.server.port)
        async with gateway(tmp_path, setting) as (_, where):
            await send(where, of(0, 0))
            await node.has("1.0.0")
            (association,) = node.studies
            sent = 0
            async with asyncio.timeout(30), associate(where, contexts=[CT]) as sender:
                while association.is_established:
                    await sender.c_store(of(1, sent))
                    await node.has(f"1.1.{sent}")
                    sent += 1
            assert sent > 1
            assert len(node.studies) == 2
            later = list(node.studies)[1]
            await eventually(lambda: not later.is_established)
