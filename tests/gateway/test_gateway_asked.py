"""What the users of other routers have asked for, or have lost images by: a test of each, at work."""

from __future__ import annotations

import ast
import asyncio
import shutil
import socket
import tracemalloc
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers.gateway import CT, EVERYTHING, MR, QUICK, config, gateway, instance, pacs, send, settled
from helpers.peer import Peer, eventually, fragments, store_rq

import asyncdicom.gateway
from asyncdicom import Association, BytesSource, Request, Response, associate, serve
from asyncdicom.archive import Archive
from asyncdicom.archive.dimse import serve_archive
from asyncdicom.archive.index.work import LEASE, State, Work
from asyncdicom.archive.operations import METHODS
from asyncdicom.dimse.messages import encode
from asyncdicom.gateway.config import GatewayConfigError, parse_gateway
from asyncdicom.gateway.facts import Facts
from asyncdicom.gateway.gateway import Gateway
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN


def opened(path: Path, **options: Any) -> Archive:
    return Archive(path, durability="none", scrub=0, sweep=False, **options)


async def test_an_instance_goes_on_while_its_association_is_open(tmp_path: Path) -> None:
    """Nothing says that a study is complete, so nothing waits for that."""
    async with pacs() as node:
        async with gateway(tmp_path, config(EVERYTHING.format('"A"'), A=node.server.port)) as (_, where):
            async with associate(where, contexts=[CT]) as association:
                for uid in ("1.1", "1.2", "1.3"):
                    assert (await association.c_store(instance(uid))).status == 0
                    await node.has(uid)


async def test_a_sender_is_answered_though_no_destination_is(tmp_path: Path) -> None:
    """The answer is that of the archive; each destination takes the time that it takes."""
    hanging = asyncio.Event()

    async def hang(request: Request) -> int:
        await hanging.wait()
        return 0

    async with pacs() as node, serve("SLOW@127.0.0.1:0", c_store=hang) as slow:
        setting = config(EVERYTHING.format('"SLOW", "A"'), SLOW=slow.port, A=node.server.port)
        async with gateway(tmp_path, setting) as (running, where):
            uids = [f"1.{number}" for number in range(100)]
            await send(where, *map(instance, uids))
            await node.has(*uids)
            assert running._links["SLOW"].sender.underway > 0
            hanging.set()
            await settled(running)


async def test_who_claims_at_the_same_time_never_gets_the_same(tmp_path: Path) -> None:
    async with opened(tmp_path) as archive:
        await archive.outbox.enqueue([Work("store", "A") for _ in range(100)])
        claims = await asyncio.gather(*(archive.outbox.claim("store", "A", 7) for _ in range(20)))
        ids = [each.id for claimed in claims for each in claimed]
        assert len(ids) == len(set(ids)) == 100


@pytest.mark.skipif(not hasattr(socket, "TCP_QUICKACK"), reason="a socket option of Linux")
async def test_a_small_box_is_acknowledged_at_once(tmp_path: Path) -> None:
    """It waits for that before it sends on (Nagle's algorithm), and delayed it costs 40 ms each time."""
    opened_by: list[Association] = []

    def is_quick() -> bool:
        connection = opened_by[0].get_extra_info("socket")
        return bool(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK))

    async with opened(tmp_path) as archive:
        serving = serve_archive(archive, "GATE@127.0.0.1:0", association_opened=opened_by.append)
        async with serving as server, await Peer.connect(server.port) as peer:
            await peer.associate()
            for number in range(1, 4):
                peer.write(fragments(3, True, encode(store_rq(number))))
                await eventually(lambda: opened_by and is_quick())
                peer.write(fragments(3, False, b"data"))
                assert (await peer.message()).command.status != 0  # no DICOM


async def test_what_a_destination_says_is_kept_and_shown(tmp_path: Path) -> None:
    async def refuse(request: Request) -> Any:
        await request.data.read()
        return Response(0x0110, error_comment="the disk of vol7 is read-only")

    async with serve("PACS@127.0.0.1:0", c_store=refuse) as node:
        setting = config(EVERYTHING.format('"A"'), QUICK + "object_attempts = 1\n", A=node.port)
        async with gateway(tmp_path, setting) as (running, where):
            await send(where, instance("1.1"))
            await settled(running, failed=1)
            archive = running._archive
            for method, arguments in (("outbox list", {}), ("outbox why", {"sop_instance_uid": "1.1"})):
                lines = [line async for line in METHODS[method](archive, arguments)]
                assert lines[0]["status"] == "0x0110"
                assert "the disk of vol7 is read-only" in lines[0]["comment"]
                assert lines[0]["destination"] == "A"


async def test_a_new_kind_is_proposed_with_those_seen_and_no_more_come_at_once_than_may(
    tmp_path: Path,
) -> None:
    most = under_way = 0

    async with pacs() as node:

        async def on_store(request: Request) -> int:
            nonlocal most, under_way
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(0)
            status = await node.on_store(request)
            under_way -= 1
            return status

        async with serve("PACS@127.0.0.1:0", c_store=on_store) as server:
            more = f"{QUICK}maximum_associations = 2\noperations_invoked = 3\n"
            setting = config(EVERYTHING.format('"A"'), more, A=server.port)
            async with gateway(tmp_path, setting) as (_, where):
                first, second = [f"1.{n}" for n in range(40)], [f"2.{n}" for n in range(40)]
                await send(where, *map(instance, first))
                await node.has(*first)
                await send(where, *(instance(uid, sop_class=MR) for uid in second), instance("3.1"))
                await node.has(*second, "3.1")
        assert most <= 6
        last = node.requests[-1].association
        assert {CT, MR} <= {each.abstract_syntax for each in last.contexts.values()}


async def test_a_warning_is_a_delivery_unless_the_destination_says_not(tmp_path: Path) -> None:
    async with pacs() as one, pacs() as other:
        one.answer = other.answer = lambda uid: {"1.1": 0xB000, "1.2": 0xB006, "1.3": 0xB007}[uid]
        text = (
            f'[destinations.A]\naddress = "A@127.0.0.1:{one.server.port}"\n{QUICK}'
            f'[destinations.B]\naddress = "B@127.0.0.1:{other.server.port}"\n{QUICK}'
            f"object_attempts = 1\nnot_delivered = [0xB007]\n" + EVERYTHING.format('"A", "B"')
        )
        async with gateway(tmp_path, parse_gateway(text)) as (running, where):
            await send(where, *map(instance, ("1.1", "1.2", "1.3")))
            await settled(running, failed=1)
            found = {}
            for uid in ("1.1", "1.2", "1.3"):
                for row in running._archive.deliveries.of_instance(uid):
                    found[uid, row.destination] = State(row.state), row.status
    assert found.pop(("1.3", "B")) == (State.FAILED, 0xB007)
    statuses = {"1.1": 0xB000, "1.2": 0xB006, "1.3": 0xB007}
    assert found == {(uid, name): (State.DONE, statuses[uid]) for uid, name in found}
    assert len(found) == 5


@pytest.mark.parametrize("statuses", ["[0]", "[0xA700]", "[0x0111]", "7", "[true]"])
def test_only_a_warning_can_be_no_delivery(statuses: str) -> None:
    text = f'[destinations.A]\naddress = "A@127.0.0.1:1"\nnot_delivered = {statuses}\n'
    with pytest.raises(GatewayConfigError, match=r":3: .*not_delivered"):
        parse_gateway(text)


async def test_a_lease_that_is_forgotten_ends_and_what_nobody_does_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pacs() as node:
        setting = config(EVERYTHING.format('"A"'), A=node.server.port)
        async with gateway(tmp_path, setting) as (running, where):
            await running.pause("A", paused=True)
            await send(where, instance("1.1"))
            outbox = running._archive.outbox
            (forgotten,) = await outbox.claim("store", "A", 1)  # whoever has it never comes back
            later = outbox.clock() + LEASE + 100.0
            monkeypatch.setattr(outbox, "clock", lambda: later)
            (status,) = await running.status()
            assert status["oldest_seconds"] >= LEASE  # this is what an alarm goes by
            await outbox._look()
            (row,) = running._archive.deliveries.of_instance("1.1")
            assert (row.id, row.state) == (forgotten.id, State.READY)
            await running.pause("A", paused=False)
            await node.has("1.1")


async def test_what_one_host_owes_another_can_send(tmp_path: Path) -> None:
    """A row names a destination and nobody else: the folder goes to another place, and its work with it."""
    async with pacs() as node:
        setting = config(EVERYTHING.format('"A"'), A=node.server.port)
        async with gateway(tmp_path / "one", setting) as (running, where):
            await running.pause("A", paused=True)
            await send(where, instance("1.1"), instance("1.2"))
        shutil.move(tmp_path / "one", tmp_path / "two")
        async with opened(tmp_path / "two") as archive, Gateway(archive, setting, ae_title="OTHER") as other:
            await other.pause("A", paused=False)
            await node.has("1.1", "1.2")
            await settled(other)
        assert node.callers == {"OTHER"}


async def test_many_at_once_are_tried_again_and_dropped(tmp_path: Path) -> None:
    """More than any page has, also those that fail again meanwhile."""
    async with opened(tmp_path) as archive:
        outbox = archive.outbox
        await outbox.enqueue([Work("store", "A", state=State.FAILED) for _ in range(2500)])
        await outbox.enqueue([Work("store", "B", state=State.FAILED) for _ in range(3)])
        assert await outbox.retry(destination="A") == 2500
        assert await outbox.drop(destination="A") == 2500
        assert archive.deliveries.counts() == [("store", "B", State.FAILED, 3)]


async def test_a_file_that_has_gone_for_another_takes_no_delivery_with_it(tmp_path: Path) -> None:
    """The same UID comes twice with other bytes: the first file goes, what is owed is the second."""
    async with pacs() as node:
        setting = config(EVERYTHING.format('"A"'), A=node.server.port)
        async with opened(tmp_path, on_conflict="replace") as archive, Gateway(archive, setting) as running:
            await running.pause("A", paused=True)
            first = await archive.store(instance("1.1", patient="P1"))
            second = await archive.store(instance("1.1", patient="P1", study="1.2.4"))
            assert first.is_here
            assert second.is_here
            await running.pause("A", paused=False)
            await node.has("1.1")
            await settled(running)
            rows = archive.deliveries.of_instance("1.1")
            assert {State(row.state) for row in rows} == {State.DONE}
        assert node.received == {"1.1": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[destinations.""]\naddress = "A@h:1"\n', "is no name"),
        ("[destinations.A]\n", "a destination has an address"),
        ('[destinations.A]\naddress = ""\n', "A: "),
        ('[[routes]]\nwhen = {}\nto = [""]\n', "there is no destination ''"),
        ("[[routes]]\nwhen = {}\nto = [7]\n", "there is no destination 7"),
        ("[[routes]]\nwhen = {}\n", "a route has one of"),
        ("[[routes]]\nwhen = {}\nspread = []\n", "names no destination"),
    ],
)
def test_an_empty_destination_is_seen_before_anything_begins(text: str, message: str) -> None:
    with pytest.raises(GatewayConfigError, match=message):
        parse_gateway(text)


@asynccontextmanager
async def dropping(after: int) -> AsyncIterator[tuple[int, list[int]]]:
    """A destination whose first association dies in the middle of a data set; gives what came whole."""
    whole: list[int] = []
    died = False

    async def on_store(request: Request) -> int:
        nonlocal died
        if died:
            whole.append(len(await request.data.read(1 << 30)))
            return 0
        taken = 0
        async for batch in request.data.batches(1 << 16):
            taken += sum(map(len, batch))
            if taken >= after:
                died = True
                await request.association.abort()
                return 0
        raise AssertionError("it has come whole")

    async with serve("PACS@127.0.0.1:0", c_store=on_store) as server:
        yield server.port, whole


def large(uid: str, size: int) -> BytesSource:
    small = instance(uid)
    head = bytes(small.data)[: -(12 + 4)]  # all but Pixel Data
    data = head + b"\xe0\x7f\x10\x00OW\0\0" + size.to_bytes(4, "little") + bytes(size)
    return BytesSource(CT, uid, EXPLICIT_VR_LITTLE_ENDIAN, data)


@pytest.mark.parametrize("by", ["", 'group_by = "study"\n', "ordered = true\n"])
async def test_after_half_an_instance_the_whole_of_it_goes_on_another_association(
    tmp_path: Path, by: str
) -> None:
    async with dropping(1 << 20) as (port, whole):
        setting = config(EVERYTHING.format('"A"'), QUICK + by, A=port)
        async with gateway(tmp_path, setting) as (running, where):
            sent = large("1.1", 4 << 20)
            await send(where, sent)
            await eventually(lambda: whole)
            await settled(running)
        assert whole == [sent.length]


@pytest.mark.parametrize("by", ["", 'group_by = "study"\n', "ordered = true\n"])
async def test_refused_ones_fail_together_and_nobody_waits(tmp_path: Path, by: str) -> None:
    """Not one timeout after the other: what the peer has refused is known when it has."""
    async with pacs(contexts=[CT]) as node:
        setting = config(EVERYTHING.format('"A"'), QUICK + by, A=node.server.port)
        async with gateway(tmp_path, setting) as (running, where):
            refused = [instance(f"2.{n}", sop_class=MR) for n in range(40)]
            taken = [instance(f"1.{n}") for n in range(40)]
            await send(where, *refused, *taken)
            await node.has(*(each.sop_instance_uid for each in taken))
            await settled(running, failed=40)
            assert running._links["A"].sender.failures == 0
            (status,) = await running.status()
            assert status["state"] == "ok"
            assert Counter(row.attempts for row in running._archive.deliveries.page(State.FAILED)) == {1: 40}


async def test_a_large_instance_takes_no_more_memory_than_a_small_one(tmp_path: Path) -> None:
    """What is sent on is read from the disk piece by piece."""
    whole: list[int] = []

    async def on_store(request: Request) -> int:
        whole.append(sum([len(view) async for view in request.data]))
        return 0

    source = Zeros("1.1", 96 << 20)
    async with serve("PACS@127.0.0.1:0", c_store=on_store) as server:
        async with gateway(tmp_path, config(EVERYTHING.format('"A"'), A=server.port)) as (running, where):
            tracemalloc.start()
            try:
                await send(where, source)  # type: ignore[arg-type]
                await settled(running)
                _, most = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
    assert whole == [source.length]
    assert most < 48 << 20


class Zeros:
    """An instance that nobody has in memory."""

    sop_class_uid, transfer_syntax_uid = CT, EXPLICIT_VR_LITTLE_ENDIAN

    def __init__(self, uid: str, size: int) -> None:
        self.sop_instance_uid, self._size = uid, size
        self._head = bytes(large(uid, 0).data)[:-4] + size.to_bytes(4, "little")
        self.length = len(self._head) + size

    def at_hand(self) -> None:
        """It is too large."""

    async def open(self) -> AsyncGenerator[Any, None]:
        yield [self._head]
        for _ in range(self._size >> 20):
            yield [bytes(1 << 20)]


def test_no_rule_is_ever_run_as_code() -> None:
    """There is no evaluator, and what looks like code is text."""
    folder = Path(asyncdicom.gateway.__file__).parent
    called = {
        node.func.id
        for path in folder.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert called.isdisjoint({"eval", "exec", "compile", "__import__", "getattr_static"})
    code = "__import__('os').abort()"
    for pattern in (code, "{calling.__class__}", "%(calling)s", "${calling}", "=" + code, "/a|b/i"):
        text = (
            '[destinations.A]\naddress = "A@h:1"\n[[routes]]\n'
            f'when = {{ StationName = "{pattern}" }}\nto = ["A"]\n'
        )
        decision = parse_gateway(text).rules.decide(Facts(calling="CT1"))
        assert decision.targets == ()
    with pytest.raises(GatewayConfigError):
        parse_gateway(f'[[routes]]\nwhen = {{}}\nfunction = "{code}"\n')
