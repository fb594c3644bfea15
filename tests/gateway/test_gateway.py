"""The gateway at work: what an archive receives arrives where the rules say, over real associations."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from pathlib import Path

import pytest
from helpers.gateway import (
    BULK_OR_URGENT,
    CT,
    EVERYTHING,
    MR,
    ONE_AT_A_TIME,
    QUICK,
    config,
    gateway,
    instance,
    pacs,
    send,
    settled,
)

from asyncdicom import BytesSource, Request, serve
from asyncdicom.archive import Archive
from asyncdicom.archive.index.work import State, Work
from asyncdicom.data.elements import encode
from asyncdicom.gateway.gateway import Gateway
from asyncdicom.gateway.methods import methods_of
from asyncdicom.uid import TRANSFER_SYNTAXES


async def test_instances_go_where_the_rules_say(tmp_path: Path) -> None:
    async with pacs() as first, pacs() as second:
        setting = config(
            '[[routes]]\nwhen = { calling = "CT*" }\nto = ["A"]\n'
            '[[routes]]\nwhen = { Modality = "MR" }\nto = ["A", "B"]\n',
            A=first.server.port,
            B=second.server.port,
        )
        async with gateway(tmp_path, setting) as (running, where):
            await send(where, instance("1.1"), calling="CT1")
            await send(where, instance("1.2", sop_class=MR), calling="MR1")
            await send(where, instance("1.3"), calling="US1")
            await first.has("1.1", "1.2")
            await second.has("1.2")
            await settled(running, failed=1)  # the third is unrouted
            assert await running.unrouted() == 1
        assert first.received == {"1.1": 1, "1.2": 1}
        assert second.received == {"1.2": 1}
        assert first.callers == {"GATE"}


async def test_a_destination_that_is_down_holds_up_nobody_and_gets_it_later(tmp_path: Path) -> None:
    async with pacs() as up:
        async with pacs() as down:
            port = down.server.port
        setting = config(EVERYTHING.format('"UP", "DOWN"'), UP=up.server.port, DOWN=port)
        async with gateway(tmp_path, setting) as (running, where):
            uids = [f"1.{number}" for number in range(30)]
            await send(where, *map(instance, uids))
            await up.has(*uids)
            async with pacs(port) as back:
                await back.has(*uids)
                await settled(running)
                assert back.received == Counter(uids)
        assert up.received == Counter(uids)


async def test_one_that_is_not_taken_holds_up_nobody_and_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with pacs() as node:
        node.answer = lambda uid: 0xC000 if uid == "1.0" else 0xB000 if uid == "1.1" else 0
        async with gateway(tmp_path, config(EVERYTHING.format('"A"'), A=node.server.port)) as (
            running,
            where,
        ):
            uids = [f"1.{number}" for number in range(10)]
            await send(where, *map(instance, uids))
            await settled(running, failed=1)
            (row,) = await running._archive.read(running._archive.deliveries.page, State.FAILED)
            assert (row.sop_instance_uid, row.status, row.attempts) == ("1.0", 0xC000, 3)
            (warned,) = await running._archive.read(running._archive.deliveries.of_instance, "1.1")
            assert (warned.state, warned.status) == (State.DONE, 0xB000)
            node.answer = lambda uid: 0
            assert await running._archive.outbox.retry() == 1
            await settled(running)
        assert node.received == Counter(uids) - Counter(["1.1"])
    assert "delivery 1 of 1.0 to A is given up after 3 attempt(s): status 0xC000" in caplog.text


async def test_what_the_peer_has_no_context_for_fails_at_once(tmp_path: Path) -> None:
    async with pacs(contexts=[CT]) as node:
        async with gateway(tmp_path, config(EVERYTHING.format('"A"'), A=node.server.port)) as (
            running,
            where,
        ):
            await send(where, instance("1.1"), instance("1.2", sop_class=MR), instance("1.3"))
            await node.has("1.1", "1.3")
            await settled(running, failed=1)
            (row,) = await running._archive.read(running._archive.deliveries.page, State.FAILED)
            assert (row.sop_instance_uid, row.attempts) == ("1.2", 1)
            assert "no accepted presentation context" in row.comment or "not accepted" in row.comment


async def test_the_next_of_a_group_takes_over(tmp_path: Path) -> None:
    async with pacs() as backup:
        async with pacs() as first:
            port = first.server.port
        setting = config(
            '[[routes]]\nwhen = {}\nfirst_of = ["MAIN", "BACKUP"]\n', MAIN=port, BACKUP=backup.server.port
        )
        async with gateway(tmp_path, setting) as (running, where):
            uids = [f"1.{number}" for number in range(8)]
            await send(where, *map(instance, uids))
            await backup.has(*uids)
            await settled(running)
            assert backup.received == Counter(uids)


async def test_a_study_goes_on_an_association_of_its_own(tmp_path: Path) -> None:
    async with pacs() as node:
        setting = config(EVERYTHING.format('"A"'), 'group_by = "study"\n', A=node.server.port)
        async with gateway(tmp_path, setting) as (running, where):
            await running.pause("A", paused=True)
            sent = [instance(f"1.{n}.{m}", study=f"1.2.{n}") for m in range(5) for n in range(3)]
            await send(where, *sent)
            await running.pause("A", paused=False)
            await node.has(*(each.sop_instance_uid for each in sent))
            await settled(running)
        groups = sorted(sorted(uids) for uids in node.studies.values())
        assert groups == [[f"1.{n}.{m}" for m in range(5)] for n in range(3)]


async def test_in_order_they_come_in_order(tmp_path: Path) -> None:
    async with pacs() as node:
        setting = config(EVERYTHING.format('"A"'), f"{QUICK}ordered = true\n", A=node.server.port)
        refused = iter([0xC000])
        node.answer = lambda uid: next(refused, 0) if uid == "1.3" else 0
        async with gateway(tmp_path, setting) as (running, where):
            uids = [f"1.{number}" for number in range(9)]
            await send(where, *map(instance, uids))
            await node.has(*uids)
            await settled(running)
        (order,) = node.studies.values()
        assert order == [*uids[:4], *uids[3:]]


async def test_in_order_each_goes_when_the_one_before_has_gone(tmp_path: Path) -> None:
    """Also when it came between the answer to that one and the note of it."""
    async with pacs() as node:
        setting = config(EVERYTHING.format('"A"'), f"{QUICK}ordered = true\n", A=node.server.port)
        async with gateway(tmp_path, setting) as (running, where):
            for number in range(40):
                pair = [f"1.{number}.1", f"1.{number}.2"]
                await send(where, *map(instance, pair))
                await node.has(*pair)
            await settled(running)


async def test_a_pause_outlives_a_restart(tmp_path: Path) -> None:
    async with pacs() as node:
        setting = config(EVERYTHING.format('"A"'), A=node.server.port)
        async with gateway(tmp_path, setting) as (running, where):
            await running.pause("A", paused=True)
            await send(where, instance("1.1"))
            await settled(running, ready=1)
        async with gateway(tmp_path, setting) as (running, where):
            (status, totals) = [
                line async for line in methods_of(running)["route status"](running._archive, {})
            ]
            assert (status["state"], status["ready"]) == ("paused", 1)
            assert totals == {"destinations": 1, "unrouted": 0, "since_start": {}}
            arguments = {"destination": "A"}
            lines = [line async for line in methods_of(running)["route resume"](running._archive, arguments)]
            assert lines == [{"resumed": "A"}]
            await node.has("1.1")
            await settled(running)


async def test_what_was_not_routed_is_when_the_rules_say_so(tmp_path: Path) -> None:
    async with pacs() as node:
        none = config('[[routes]]\nwhen = { Modality = "MR" }\nto = ["A"]\n', A=node.server.port)
        async with gateway(tmp_path, none) as (running, where):
            await send(where, instance("1.1"), instance("1.2"), calling="CT7")
            assert await running.unrouted() == 2
            assert await running._archive.outbox.retry() == 2
            await settled(running, failed=2)
        some = config(
            '[[routes]]\nwhen = { Modality = "CT", calling = "CT7" }\nto = ["A"]\n', A=node.server.port
        )
        async with gateway(tmp_path, some) as (running, where):
            assert await running._archive.outbox.retry() == 2
            await node.has("1.1", "1.2")
            await settled(running)


async def test_a_destination_that_is_no_more_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with pacs() as node:
        async with gateway(tmp_path, config(EVERYTHING.format('"OLD"'), OLD=1)) as (running, where):
            await running.pause("OLD", paused=True)
            await send(where, instance("1.1"))
        async with gateway(tmp_path, config(EVERYTHING.format('"A"'), A=node.server.port)) as (running, _):
            assert "1 deliveries wait for OLD, which the configuration does not have" in caplog.text
            _, gone = await running.status()
            assert (gone["destination"], gone["state"], gone["ready"]) == ("OLD", "not configured", 1)
            assert gone.keys() == (await running.status())[0].keys()
            await running._archive.outbox.drop(destination="OLD")
            assert [each["destination"] for each in await running.status()] == ["A"]


async def test_it_is_told_at_the_start_where_instances_go_and_how(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "asyncdicom.gateway")
    async with gateway(tmp_path, config(EVERYTHING.format('"A"'), A=1)):
        assert "instances are sent on to A (A@127.0.0.1:1) in the clear, without TLS" in caplog.messages


@pytest.mark.parametrize("window", [0, 1, 3])
@pytest.mark.parametrize("by", ["", 'group_by = "study"\n'])
async def test_the_window_that_a_destination_names_is_proposed(tmp_path: Path, window: int, by: str) -> None:
    """0 is any number, here as elsewhere, and not one."""
    async with pacs() as node:
        more = f"{QUICK}{by}operations_invoked = {window}\n"
        setting = config(EVERYTHING.format('"A"'), more, A=node.server.port)
        async with gateway(tmp_path, setting) as (_, where):
            await send(where, instance("1.2.3.4"))
            await node.has("1.2.3.4")
    granted = {each.association._channel.negotiated.operations_performed for each in node.requests}
    assert granted == {window or 16}


async def test_one_that_is_refused_each_time_delays_the_others_by_one_attempt(tmp_path: Path) -> None:
    """One operation at a time: between two of its attempts, all the others go."""
    async with pacs() as node:
        node.answer = lambda uid: 0xC000 if uid == "1.0" else 0
        more = "first_pause = 3600\nlongest_pause = 3600\nmaximum_associations = 1\noperations_invoked = 1\n"
        setting = config(EVERYTHING.format('"A"'), more, A=node.server.port)
        async with gateway(tmp_path, setting) as (running, where):
            await running.pause("A", paused=True)
            uids = [f"1.{number}" for number in range(100)]
            await send(where, *map(instance, uids))
            for expected in (uids, uids[:1]):
                asked = len(node.requests)
                await running._archive.outbox.retry()
                await running.pause("A", paused=False)
                await node.asked(asked + len(expected))
                await settled(running, waiting=1)
                assert [each.affected_sop_instance_uid for each in node.requests[asked:]] == expected
            deliveries = running._archive.deliveries
            rows = [await running._archive.read(deliveries.of_instance, uid) for uid in uids]
            assert {row.attempts for (row,) in rows} == {1}


async def test_one_that_kills_its_associations_delays_the_others_by_one_attempt(tmp_path: Path) -> None:
    """The instances around it are lost with it at most, and then arrive; it waits longer and longer."""
    async with pacs() as node:
        asked = 0

        async def on_store(request: Request) -> int:
            nonlocal asked
            if request.affected_sop_instance_uid == "1.0":
                asked += 1
                await request.association.abort()
                return 0
            return await node.on_store(request)

        async with serve("PACS@127.0.0.1:0", c_store=on_store) as server:
            more = (
                "first_pause = 0.05\nlongest_pause = 3600\nmaximum_associations = 1\noperations_invoked = 4\n"
            )
            setting = config(EVERYTHING.format('"A"'), more, A=server.port)
            async with gateway(tmp_path, setting) as (running, where):
                uids = [f"1.{number}" for number in range(30)]
                await send(where, *map(instance, uids))
                await node.has(*uids[1:])
                deliveries = running._archive.deliveries
                rows = [await running._archive.read(deliveries.of_instance, uid) for uid in uids[1:]]
                assert max(row.attempts for (row,) in rows if row.state == State.DONE) <= 1 + asked
                (poison,) = await running._archive.read(deliveries.of_instance, "1.0")
                assert poison.state != State.DONE
                assert 1 <= asked <= 10


async def test_one_whose_file_became_shorter_is_given_up_and_is_not_the_destinations_fault(
    tmp_path: Path,
) -> None:
    """Also where the first part of it has left before that is seen, and the association is lost."""
    async with pacs() as node:
        setting = config(EVERYTHING.format('"A"'), A=node.server.port)
        async with gateway(tmp_path, setting) as (running, where):
            await running.pause("A", paused=True)
            large = instance("1.1")
            data = bytes(large.data)[:-4] + bytes(2 << 20)
            large.data = data.replace(b"OW\0\0\4\0\0\0", b"OW\0\0\0\0\x20\0")
            await send(where, large, instance("1.2"))
            (file,) = [each for each in tmp_path.rglob("*.dcm") if each.stat().st_size > 1 << 20]
            os.truncate(file, 1 << 19)
            await running.pause("A", paused=False)
            await node.has("1.2")
            await settled(running, failed=1)
            assert running._links["A"].sender.failures == 0
            (row,) = await running._archive.read(running._archive.deliveries.page, State.FAILED)
            assert (row.sop_instance_uid, row.attempts) == ("1.1", 3)
            assert "became shorter" in row.comment


async def test_a_refusal_for_lack_of_room_is_no_delivery_and_burns_no_attempt(tmp_path: Path) -> None:
    """0xA700 of a full PACS: all wait, and all arrive when it has room again, with the peer's words kept."""
    async with pacs() as node:
        full = True
        node.answer = lambda uid: 0xA700 if full else 0
        setting = config(EVERYTHING.format('"A"'), A=node.server.port)
        async with gateway(tmp_path, setting) as (running, where):
            uids = [f"1.{number}" for number in range(5)]
            await send(where, *map(instance, uids))
            await node.asked(4)
            async with asyncio.timeout(60):
                while running._links["A"].last_status != 0xA700:
                    await asyncio.sleep(0.01)
            assert running._links["A"].status()["last_status"] == "0xA700"
            full = False
            await node.has(*uids)
            await settled(running)
            for uid in uids:
                (row,) = await running._archive.read(running._archive.deliveries.of_instance, uid)
                assert (row.state, row.attempts, row.status) == (State.DONE, 1, 0)


async def test_a_destination_is_called_by_its_own_titles(tmp_path: Path) -> None:
    async with pacs() as node:
        more = f'{QUICK}calling_ae_title = "GATE7"\ncalled_ae_title = "PACS"\n'
        setting = config(EVERYTHING.format('"A"'), more, A=node.server.port)
        async with gateway(tmp_path, setting) as (_, where):
            await send(where, instance("1.1"))
            await node.has("1.1")
        assert node.callers == {"GATE7"}
        assert node.requests[0].called_ae_title == "PACS"


async def test_compressed_instances_pass_as_they_came(tmp_path: Path) -> None:
    """Of every transfer syntax there is, byte by byte, to each of two destinations."""
    got: dict[tuple[str, str], tuple[str, bytes]] = {}

    async def on_store(request: Request) -> int:
        data = bytes(await request.data.read())
        key = request.called_ae_title, request.affected_sop_instance_uid
        got[key] = request.transfer_syntax_uid, data
        return 0

    sent: dict[str, tuple[str, bytes]] = {}
    async with serve("PACS@127.0.0.1:0", c_store=on_store) as node:
        setting = config(EVERYTHING.format('"A", "B"'), A=node.port, B=node.port)
        async with gateway(tmp_path, setting) as (running, where):
            for number, syntax in enumerate(sorted(TRANSFER_SYNTAXES)):
                uid = f"1.{number}"
                elements = [
                    (0x00080016, "UI", CT.encode()),
                    (0x00080018, "UI", uid.encode()),
                    (0x0020000D, "UI", b"1.2.3"),
                    (0x0020000E, "UI", b"1.2.3.1"),
                ]
                data = bytes(encode(elements, syntax))
                sent[uid] = syntax, data
                await send(where, BytesSource(CT, uid, syntax, data))
            await settled(running)
    assert len(sent) > 40
    assert got == {(title, uid): what for title in ("A", "B") for uid, what in sent.items()}


async def test_all_that_is_urgent_overtakes_what_is_held(tmp_path: Path) -> None:
    """Also what has no room among that at first."""
    async with pacs() as node:
        node.goes_on.clear()
        async with gateway(tmp_path, config(BULK_OR_URGENT, QUICK + ONE_AT_A_TIME, A=node.server.port)) as (
            running,
            where,
        ):
            bulk, urgent = [f"1.{n}" for n in range(150)], [f"2.{n}" for n in range(100)]
            await running.pause("A", paused=True)
            await send(where, *map(instance, bulk))
            await running.pause("A", paused=False)
            async with asyncio.timeout(60):
                while running._links["A"].sender.held < 63:
                    await asyncio.sleep(0.01)
            await send(where, *map(instance, urgent), calling="ER")
            node.goes_on.set()
            await node.has(*bulk, *urgent)
    order = [each.affected_sop_instance_uid for each in node.requests]
    assert max(map(order.index, urgent)) < len(urgent) + 10


async def test_the_same_again_is_not_sent_again(tmp_path: Path) -> None:
    async with pacs() as node:
        setting = config(EVERYTHING.format('"A"'), A=node.server.port)
        async with gateway(tmp_path, setting) as (running, where):
            for _ in range(3):
                await send(where, instance("1.1"))
            await send(where, instance("1.2"))
            await node.has("1.1", "1.2")
            await settled(running)
        assert node.received == {"1.1": 1, "1.2": 1}


async def test_a_gateway_that_is_full_stores_nothing_and_loses_nothing(tmp_path: Path) -> None:
    """What was acknowledged before is sent on although nothing new is taken."""
    async with pacs() as node:
        setting = config(EVERYTHING.format('"A"'), A=node.server.port)
        async with gateway(tmp_path, setting) as (running, where):
            await running.pause("A", paused=True)
            await send(where, instance("1.1"))
        async with (
            Archive(tmp_path, durability="none", scrub=0, minimum_free=1 << 60) as archive,
            Gateway(archive, setting) as running,
        ):
            assert not (await archive.store(instance("1.2"))).is_here
            await running.pause("A", paused=False)
            await node.has("1.1")
            await settled(running)
        assert node.received == {"1.1": 1}


async def test_what_is_out_of_date_holds_up_nothing_behind_it(tmp_path: Path) -> None:
    """More of it than is claimed at a time."""
    async with pacs() as node:
        setting = config(EVERYTHING.format('"A"'), A=node.server.port)
        async with gateway(tmp_path, setting) as (running, where):
            await send(where, instance("1.1"))
            await node.has("1.1")
            await running.pause("A", paused=True)
            outbox, old = running._archive.outbox, [Work("store", "A")]
            digests = (f"{number:032x}"[::-1] for number in range(200))
            await asyncio.gather(*(outbox.enqueue_for_instance("1.1", each, old) for each in digests))
            await send(where, instance("1.2"))
            await running.pause("A", paused=False)
            await node.has("1.2")
            await settled(running)
        assert node.received == {"1.1": 1, "1.2": 1}
