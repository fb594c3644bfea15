"""A gateway whose configuration is read again, and what it does not send in the clear."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from ssl import PROTOCOL_TLS_CLIENT, PROTOCOL_TLS_SERVER, SSLContext
from typing import Any

import pytest
import trustme
from helpers.gateway import EVERYTHING, QUICK, Pacs, config, gateway, instance, pacs, send, settled
from helpers.index_asking import ask, refuse, refuse_no_more

from asyncdicom import AssociationPool, Request, serve
from asyncdicom.archive import Archive, Retention, RetentionRule
from asyncdicom.archive.dimse import serve_archive
from asyncdicom.archive.errors import ArchiveError
from asyncdicom.archive.index.deliveries import Claimed
from asyncdicom.archive.index.work import LEASE
from asyncdicom.gateway.gateway import Gateway


async def test_other_rules_and_destinations_are_in_force_while_it_runs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with pacs() as first, pacs() as second:
        a, b = first.server.port, second.server.port
        async with gateway(tmp_path, config(EVERYTHING.format('"A"'), A=a)) as (running, where):
            await send(where, instance("1.1"))
            await first.has("1.1")
            kept = running._links["A"]
            running.renew(config(EVERYTHING.format('"A", "B"'), A=a, B=b))
            await send(where, instance("1.2"))
            await second.has("1.2")
            await first.has("1.2")
            assert running._links["A"] is kept  # it was not changed: its associations are as they were
            await running.pause("B", paused=True)
            await send(where, instance("1.3"))
            running.renew(config(EVERYTHING.format('"A"'), A=a))
            running.renew(config(EVERYTHING.format('"A"'), f"{QUICK}operations_invoked = 2\n", A=a))
            await send(where, instance("1.4"))
            await first.has("1.3", "1.4")
            await settled(running, ready=1)
            async with asyncio.timeout(60):
                while list(running._links) != ["A"] or running._links["A"] is kept:
                    await asyncio.sleep(0.01)
        assert set(second.received) == {"1.2"}
        assert "1 deliveries wait for B, which the configuration does not have" in caplog.text


async def test_what_was_delivered_is_counted_over_a_renewal(tmp_path: Path) -> None:
    """A counter that fell would hide from the sum of several processes what is delivered after it."""
    async with pacs() as node:
        port = node.server.port
        async with gateway(tmp_path, config(EVERYTHING.format('"A"'), A=port)) as (running, where):
            await send(where, instance("1.1"))
            await node.has("1.1")
            await settled(running)
            running.renew(config(EVERYTHING.format('"A"'), f"{QUICK}operations_invoked = 2\n", A=port))
            await send(where, instance("1.2"))
            await node.has("1.2")
            await settled(running)
            (state,) = await running.status()
            assert state["delivered_since_start"] == 2


@pytest.mark.parametrize("after", ["", '[[routes]]\nwhen = { stable = 0.1, Modality = "CT" }\nto = []\n'])
async def test_retention_waits_for_no_rule_that_is_not_in_force_any_more(tmp_path: Path, after: str) -> None:
    stable = '[[routes]]\nwhen = { stable = 3600, Modality = "CT" }\nto = []\n'
    async with pacs() as node:
        everything, port = EVERYTHING.format('"A"'), node.server.port
        async with gateway(tmp_path, config(everything + stable, A=port)) as (running, where):
            archive, rule = running._archive, RetentionRule(only="delivered")
            async with asyncio.timeout(60):
                while archive.stability.asked_for() != {"gateway 3600"}:
                    await asyncio.sleep(0.01)
                async with Retention(archive, [rule], first=0, turn=0, round=0) as retention:
                    await send(where, instance("1.1"))
                    await node.has("1.1")
                    await settled(running)
                    rounds = retention.rounds
                    while retention.rounds < rounds + 2:
                        await asyncio.sleep(0.01)
                    assert (await archive.counts())["instance"] == 1
                    running.renew(config(everything + after, A=port))
                    await send(where, instance("1.2"))
                    while (await archive.counts())["instance"]:
                        await asyncio.sleep(0.01)


async def test_what_cannot_be_looked_at_is_told_and_the_old_destinations_stay(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pacs() as node:
        setting = config(EVERYTHING.format('"A"'), A=node.server.port)
        async with gateway(tmp_path, setting) as (running, where):

            def fail(kind: str) -> None:
                raise ArchiveError("the index cannot be read")

            monkeypatch.setattr(running._archive.deliveries, "lines", fail)
            running.renew(config(EVERYTHING.format('"A", "B"'), A=node.server.port, B=1))
            async with asyncio.timeout(60):
                while "are not in force: the index cannot be read" not in caplog.text:
                    await asyncio.sleep(0.01)
            monkeypatch.undo()
            await send(where, instance("1.1"))
            await node.has("1.1")


async def test_one_that_cannot_begin_routes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Archive(tmp_path, durability="none", scrub=0) as archive:

        def fail(kind: str) -> None:
            raise ArchiveError("the index cannot be read")

        monkeypatch.setattr(archive.deliveries, "lines", fail)
        with pytest.raises(ArchiveError):
            await Gateway(archive, config(EVERYTHING.format('"A"'), A=1)).__aenter__()
        assert not archive.is_routing


def as_server() -> tuple[SSLContext, trustme.CA]:
    authority = trustme.CA()
    context = SSLContext(PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context, authority


@pytest.mark.parametrize("by", ["", 'group_by = "study"\n'])
@pytest.mark.parametrize("tls", ["", "tls = false\n"])
async def test_what_came_by_tls_is_not_sent_on_in_the_clear_unless_it_is_written(
    tmp_path: Path, tls: str, by: str
) -> None:
    """Also what has waited since before the server was there."""
    context, _ = as_server()
    async with pacs() as node, AsyncExitStack() as stack:
        setting = config(EVERYTHING.format('"A"'), QUICK + tls + by, A=node.server.port)
        archive = await stack.enter_async_context(Archive(tmp_path, durability="none", scrub=0))
        running = await stack.enter_async_context(Gateway(archive, setting))
        await stack.enter_async_context(serve_archive(archive, "GATE@127.0.0.1:0", ssl=context))
        await archive.store(instance("1.1"))
        if tls:
            await node.has("1.1")
            return
        async with asyncio.timeout(60):
            while "nothing is sent to it in the clear" not in running._links["A"].sender.last_trouble:
                await asyncio.sleep(0.01)
        assert not node.requests
        assert sum(number for *_, number in await archive.read(archive.deliveries.counts)) == 1  # it waits


async def test_what_came_by_tls_is_sent_on_by_tls(tmp_path: Path) -> None:
    context, authority = as_server()
    trusting = SSLContext(PROTOCOL_TLS_CLIENT)
    authority.configure_trust(trusting)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    async with pacs(ssl=context) as node, AsyncExitStack() as stack:
        more = f'{QUICK}tls = {{ trusted = ["{tmp_path}/ca.pem"] }}\n'
        archive = await stack.enter_async_context(Archive(tmp_path / "a", durability="none", scrub=0))
        setting = config(EVERYTHING.format('"A"'), more, A=node.server.port)
        await stack.enter_async_context(Gateway(archive, setting))
        await stack.enter_async_context(serve_archive(archive, "GATE@127.0.0.1:0", ssl=context))
        await archive.store(instance("1.1"))
        await node.has("1.1")


async def test_it_proposes_what_the_archive_has_from_the_start(tmp_path: Path) -> None:
    """So that the first instance of another kind does not end the associations that there are."""
    mr = "1.2.840.10008.5.1.4.1.1.4"
    async with Archive(tmp_path, durability="none", scrub=0) as archive:
        await archive.store(instance("1.1"))
        await archive.store(instance("1.2", sop_class=mr))
    async with pacs() as node:
        setting = config(EVERYTHING.format('"A"'), A=node.server.port)
        async with gateway(tmp_path, setting) as (_, where):
            await send(where, instance("1.3"))
            await node.has("1.3")
            await send(where, instance("1.4", sop_class=mr))
            await node.has("1.4")
        assert len(node.studies) == 1


async def test_a_pool_can_be_closed_twice() -> None:
    async with pacs() as node:
        pool = AssociationPool(f"PACS@127.0.0.1:{node.server.port}", contexts=["CT Image Storage"])
        assert (await pool.c_store(instance("1.1"))).status == 0
        await pool.close()
        await pool.close()
        assert not any(association.is_established for association in node.studies)


async def test_what_is_just_being_claimed_is_given_back_by_a_link_that_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be leased for five minutes to nobody."""
    async with pacs() as node:
        port = node.server.port
        async with gateway(tmp_path, config(EVERYTHING.format('"A"'), A=port)) as (running, where):
            outbox, old = running._archive.outbox, running._links["A"]
            proper, claimed, answered = outbox.claim, asyncio.Event(), asyncio.Event()

            async def slow(*arguments: Any, **options: Any) -> list[Claimed]:
                found = await proper(*arguments, **options)
                if found:
                    claimed.set()
                    await answered.wait()
                return found

            await running.pause("A", paused=True)
            await send(where, instance("1.1"))
            monkeypatch.setattr(outbox, "claim", slow)
            await running.pause("A", paused=False)
            await asyncio.wait_for(claimed.wait(), 60)
            running.renew(config(EVERYTHING.format('"A"'), f"{QUICK}operations_invoked = 2\n", A=port))
            async with asyncio.timeout(60):
                while not old._is_stopping:
                    await asyncio.sleep(0.01)
            answered.set()
            await node.has("1.1")
            await settled(running)
        assert node.received == {"1.1": 1}


async def test_what_is_being_sent_when_the_clock_is_put_forward_is_sent_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lease ends, and who has claimed it is still at it."""
    node, goes_on = Pacs(), asyncio.Event()

    async def on_store(request: Request) -> int:
        status = await node.on_store(request)
        await goes_on.wait()
        return status

    async with serve("PACS@127.0.0.1:0", c_store=on_store) as server:
        setting = config(EVERYTHING.format('"A"'), A=server.port)
        async with gateway(tmp_path, setting) as (running, where):
            outbox = running._archive.outbox
            await send(where, instance("1.1"))
            await node.has("1.1")
            later = outbox.clock() + 7200
            monkeypatch.setattr(outbox, "clock", lambda: later)
            await outbox._look()
            async with asyncio.timeout(60):
                while not any(until == later + LEASE for _, until in outbox._claimed.values()):
                    await asyncio.sleep(0.01)
            goes_on.set()
            await settled(running)
    assert node.received == {"1.1": 1}


async def test_what_was_claimed_beside_one_that_is_gone_is_sent_with_a_full_disk(
    tmp_path: Path,
) -> None:
    """The end of that one cannot be noted then."""
    async with pacs() as node:
        setting = config(EVERYTHING.format('"A"'), A=node.server.port)
        async with gateway(tmp_path, setting) as (running, where):
            await running.pause("A", paused=True)
            await send(where, instance("1.1"), instance("1.2"))
            ask(tmp_path, "UPDATE delivery SET instance = 999 WHERE id = 1")
            refuse(tmp_path, "UPDATE", "delivery", "NEW.state = 3")
            await running.pause("A", paused=False)
            await node.has("1.2")
            await settled(running, leased=1)  # until the lease of the other one ends
            assert running._links["A"].claimed() == []
            refuse_no_more(tmp_path, "delivery")
