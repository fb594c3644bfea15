"""What passes through while it comes: nothing is kept, and the sender hears what the destination says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers.gateway import CT, EVERYTHING, MR, QUICK, config, gateway, instance, pacs, send, settled
from helpers.peer import eventually

from asyncdicom import AssociationError, BytesSource, Request, Response, associate, serve
from asyncdicom.gateway.config import GatewayConfigError, parse_gateway
from asyncdicom.gateway.gateway import Gateway
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN

STREAM = f'{QUICK}mode = "stream"\n'
PIECE = 1 << 16


class Slow:
    """An instance that goes on as it is told: `sent` bytes of its data set were taken so far."""

    sop_class_uid, transfer_syntax_uid = CT, EXPLICIT_VR_LITTLE_ENDIAN

    def __init__(self, uid: str, size: int, *, stops_at: int | None = None) -> None:
        self.sop_instance_uid = uid
        self._head = bytes(instance(uid).data)[:-16] + b"\xe0\x7f\x10\x00OW\0\0" + size.to_bytes(4, "little")
        self.length = len(self._head) + size
        self._size = size
        self._stops_at = stops_at
        self.goes_on = asyncio.Event()
        self.sent = 0

    def at_hand(self) -> None:
        """It is to be waited for."""

    async def open(self) -> AsyncGenerator[Any, None]:
        yield [self._head]
        self.sent += len(self._head)
        for position in range(0, self._size, PIECE):
            if self._stops_at is not None and position >= self._stops_at:
                await self.goes_on.wait()
            piece = bytes(min(PIECE, self._size - position))
            yield [piece]
            self.sent += len(piece)


class Receiving:
    """A destination that tells what has come, piece by piece, and waits where it is told to."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.goes_on = asyncio.Event()
        self.goes_on.set()
        self.got = 0
        self.whole: list[str] = []
        self.failed: list[BaseException] = []
        self.dies_at: int | None = None
        self.answer: Any = 0

    async def on_store(self, request: Request) -> Any:
        try:
            async for batch in request.data.batches():
                self.got += sum(map(len, batch))
                self.begun.set()
                await self.goes_on.wait()
                if self.dies_at is not None and self.got >= self.dies_at:
                    await request.association.abort()
        except BaseException as error:
            self.failed.append(error)
            raise
        self.whole.append(request.affected_sop_instance_uid)
        return self.answer


@asynccontextmanager
async def passing(
    path: Path, routes: str = EVERYTHING.format('"A"'), more: str = STREAM
) -> AsyncIterator[tuple[Receiving, Gateway, str]]:
    node = Receiving()
    async with serve("A@127.0.0.1:0", c_store=node.on_store) as server:
        async with gateway(path, config(routes, more, A=server.port)) as (running, where):
            yield node, running, where


async def kept(running: Gateway) -> int:
    return (await running._archive.counts())["instance"]


async def test_it_goes_on_while_it_comes_and_nothing_is_kept(tmp_path: Path) -> None:
    async with passing(tmp_path) as (node, running, where):
        slow = Slow("1.1", 4 << 20, stops_at=2 << 20)
        async with associate(where, contexts=[CT]) as association:
            storing = asyncio.ensure_future(association.c_store(slow))
            async with asyncio.timeout(60):
                await node.begun.wait()  # before the rest of it was sent
            slow.goes_on.set()
            assert (await storing).status == 0
        assert (node.whole, node.got) == (["1.1"], slow.length)
        assert await kept(running) == 0
        assert running._archive.deliveries.counts() == []
        assert running._archive.outbox.happened == {"streamed": 1}
        assert not [path for path in (tmp_path / "objects").rglob("*") if path.is_file()]
        (status,) = await running.status()
        assert (status["delivered_since_start"], status["last_status"]) == (1, "0x0000")


@pytest.mark.parametrize(
    ("status", "comment"),
    [(0xB000, None), (0xB007, "odd"), (0xA700, "vol7 is full"), (0xC123, None), (0xFE00, None)],
)
async def test_the_sender_hears_what_the_destination_says(
    tmp_path: Path, status: int, comment: str | None
) -> None:
    async with passing(tmp_path) as (node, running, where):
        node.answer = Response(status, error_comment=comment)
        async with associate(where, contexts=[CT]) as association:
            response = await association.c_store(instance("1.1"))
            assert (response.status, response.error_comment) == (status, comment)
            node.answer = 0
            assert (await association.c_store(instance("1.2"))).status == 0
        assert node.whole == ["1.1", "1.2"]
        failed = int(status in (0xA700, 0xC123, 0xFE00))
        assert running._archive.outbox.happened["not_streamed"] == failed
        assert running._archive.outbox.happened["streamed"] == 2 - failed


async def test_one_that_cannot_be_reached_is_answered_for_and_then_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with gateway(tmp_path, config(EVERYTHING.format('"A"'), STREAM, A=1)) as (running, where):
        async with associate(where, contexts=[CT]) as association:
            responses = [await association.c_store(instance(f"1.{number}")) for number in range(4)]
        assert {int(each.status) for each in responses} == {0xA700}
        comments = [each.error_comment or "" for each in responses]
        assert comments[:3] == ["the destination cannot be reached, or takes nothing now"] * 3
        assert "has failed several times" in comments[3]
        assert await kept(running) == 0
    assert "1.0 from ASYNCDICOM was not taken by A" in caplog.text


async def test_what_the_destination_refuses_is_refused(tmp_path: Path) -> None:
    async with pacs(contexts=[MR]) as node:
        setting = config(EVERYTHING.format('"A"'), STREAM, A=node.server.port)
        async with gateway(tmp_path, setting) as (_, where):
            async with associate(where, contexts=[CT, MR]) as association:
                for number in range(5):  # which is no failure of the destination
                    response = await association.c_store(instance(f"1.{number}"))
                    assert response.status == 0x0122
                    assert response.error_comment == "the destination does not take such instances"
                assert (await association.c_store(instance("2.1", sop_class=MR))).status == 0


async def test_while_it_is_paused_nothing_passes(tmp_path: Path) -> None:
    async with passing(tmp_path) as (node, running, where):
        await running.pause("A", paused=True)
        async with associate(where, contexts=[CT]) as association:
            response = await association.c_store(instance("1.1"))
            assert response.status == 0xA700
            assert "paused" in (response.error_comment or "")
            await running.pause("A", paused=False)
            assert (await association.c_store(instance("1.1"))).status == 0
        assert node.whole == ["1.1"]


async def test_a_destination_that_dies_in_the_middle(tmp_path: Path) -> None:
    """The sender is told, what is left of his data set is not wanted, and the next one passes."""
    async with passing(tmp_path) as (node, running, where):
        node.dies_at = 1 << 18
        async with associate(where, contexts=[CT]) as association:
            response = await association.c_store(Slow("1.1", 4 << 20))
            assert response.status == 0xA700
            assert response.error_comment == "the association was lost while this instance was sent"
            node.dies_at = None
            assert (await association.c_store(Slow("1.2", 1 << 18))).status == 0
        assert node.whole == ["1.2"]
        assert await kept(running) == 0


@pytest.mark.parametrize("how", ["abort", "reset"])
async def test_a_sender_that_goes_in_the_middle(tmp_path: Path, how: str) -> None:
    """The destination gets no end of it, and so no instance; the next one passes."""
    async with passing(tmp_path) as (node, running, where):
        slow = Slow("1.1", 4 << 20, stops_at=2 << 20)
        association = await associate(where, contexts=[CT])
        storing = asyncio.ensure_future(association.c_store(slow))
        async with asyncio.timeout(60):
            await node.begun.wait()
        if how == "abort":
            await association.abort()
        else:
            association._channel.transport.abort()
        with pytest.raises(AssociationError):
            await storing
        await eventually(lambda: node.failed)
        await send(where, instance("1.2"))
        assert node.whole == ["1.2"]
        assert await kept(running) == 0


async def test_a_slow_destination_makes_the_sender_slow(tmp_path: Path) -> None:
    """No more is taken from him than fits into buffers, of the kernel's and ours."""
    async with passing(tmp_path) as (node, _, where):
        node.goes_on.clear()
        slow = Slow("1.1", 128 << 20)
        async with associate(where, contexts=[CT]) as association:
            storing = asyncio.ensure_future(association.c_store(slow))
            async with asyncio.timeout(60):
                await node.begun.wait()
                before = -1
                while before != slow.sent:  # until nothing moves any more
                    before = slow.sent
                    await asyncio.sleep(0.2)
            assert slow.sent - node.got < 48 << 20
            node.goes_on.set()
            assert (await storing).status == 0
        assert node.got == slow.length


async def test_a_sender_that_stops_in_the_middle_keeps_no_other_waiting(tmp_path: Path) -> None:
    async with passing(tmp_path, more=f"{STREAM}maximum_associations = 2\n") as (node, _, where):
        slow = Slow("1.1", 4 << 20, stops_at=2 << 20)
        async with associate(where, contexts=[CT], calling_ae_title="STUCK") as association:
            storing = asyncio.ensure_future(association.c_store(slow))
            async with asyncio.timeout(60):
                await node.begun.wait()
            for number in range(5):
                await send(where, instance(f"2.{number}"), calling="CT2")
            assert node.whole == [f"2.{number}" for number in range(5)]
            slow.goes_on.set()
            assert (await storing).status == 0
        assert node.whole[-1] == "1.1"


# what passes, and what does not


@pytest.mark.parametrize(
    ("routes", "is_kept"),
    [
        ('when = { Modality = "CT", PatientID = "P1" }\nto = ["A"]', False),
        ('when = { Modality = "MR" }\nto = ["A"]\n[[routes]]\ndefault = true\nto = ["A"]', False),
        ('when = {}\nto = ["A"]\n[[routes]]\nwhen = { calling = "CT*" }\nto = ["A"]', False),
        ('when = {}\nto = ["A"]\n[[routes]]\nwhen = {}\nto = ["B"]', True),
        ('when = {}\nto = ["A"]\n[[routes]]\nwhen = {}\nto = []', True),
        ('when = {}\nto = ["A"]\n[[routes]]\nwhen = { stable = 86400 }\nto = ["B"]', True),
        ('when = {}\nfirst_of = ["A", "B"]', True),
    ],
)
async def test_what_goes_elsewhere_too_or_is_wanted_here_is_stored(
    tmp_path: Path, routes: str, is_kept: bool
) -> None:
    async with pacs() as one, pacs() as other:
        text = (
            f'[destinations.A]\naddress = "A@127.0.0.1:{one.server.port}"\n{STREAM}'
            f'[destinations.B]\naddress = "B@127.0.0.1:{other.server.port}"\n{QUICK}[[routes]]\n{routes}\n'
        )
        async with gateway(tmp_path, parse_gateway(text)) as (running, where):
            await send(where, instance("1.1"))
            assert await kept(running) == int(is_kept)
            await one.has("1.1")
            await settled(running)
            assert running._archive.outbox.happened["streamed"] == int(not is_kept)
            assert other.received == ({"1.1": 1} if 'to = ["B"]' in routes and "stable" not in routes else {})
        assert one.received == {"1.1": 1}


async def test_what_no_rule_fits_is_stored_and_told(tmp_path: Path) -> None:
    async with passing(tmp_path, '[[routes]]\nwhen = { calling = "MR*" }\nto = ["A"]\n') as (
        node,
        running,
        where,
    ):
        await send(where, instance("1.1"), calling="CT1")
        assert await kept(running) == 1
        assert await running.unrouted() == 1
        assert not node.whole


async def test_what_is_no_data_set_gets_the_answer_of_the_archive(tmp_path: Path) -> None:
    routes = '[[routes]]\nwhen = { Modality = "CT" }\nto = ["A"]\n[[routes]]\ndefault = true\nto = ["A"]\n'
    async with passing(tmp_path, routes) as (node, running, where):
        async with associate(where, contexts=[CT]) as association:
            wrong = BytesSource(CT, "1.1", EXPLICIT_VR_LITTLE_ENDIAN, b"\xff" * 4096)
            assert (await association.c_store(wrong)).status in (0xC000, 0xA900)
        assert not node.whole
        assert await kept(running) == 0


async def test_a_function_chooses_in_a_thread(tmp_path: Path) -> None:
    async with pacs() as node:
        text = (
            f'[destinations.A]\naddress = "A@127.0.0.1:{node.server.port}"\n{STREAM}'
            '[[routes]]\nwhen = {}\nfunction = "mine"\n'
        )
        loops: list[bool] = []

        def mine(facts: Any) -> list[str]:
            loops.append(asyncio._get_running_loop() is not None)
            return ["A"]

        async with gateway(tmp_path, parse_gateway(text, functions={"mine": mine})) as (running, where):
            await send(where, instance("1.1"))
            assert await kept(running) == 0
        assert node.received == {"1.1": 1}
        assert loops == [False]


async def test_who_has_sent_it_and_what_has_led_to_it_pass_too(tmp_path: Path) -> None:
    async with pacs() as node:
        more = f"{STREAM}pass_calling_ae_title = true\npass_move_originator = true\n"
        setting = config(EVERYTHING.format('"A"'), more, A=node.server.port)
        async with gateway(tmp_path, setting) as (_, where):
            async with associate(where, contexts=[CT], calling_ae_title="CT7") as association:
                await association.c_store(instance("1.1"), move_originator=("WS1", 77), priority=1)
        (request,) = node.requests
        command = request.command
        assert node.callers == {"CT7"}
        assert (command.move_originator_ae_title, command.move_originator_message_id) == ("WS1", 77)
        assert command.priority == 1


async def test_it_is_in_force_when_the_file_is_read_again(tmp_path: Path) -> None:
    async with passing(tmp_path, more=QUICK) as (node, running, where):
        await send(where, instance("1.1"))
        assert await kept(running) == 1
        port = int(str(running.config.destinations["A"].destination.where).rpartition(":")[2])
        running.renew(config(EVERYTHING.format('"A"'), STREAM, A=port))
        await eventually(lambda: running._links["A"].destination.mode == "stream")
        await send(where, instance("1.2"))
        assert await kept(running) == 1
        await eventually(lambda: len(node.whole) == 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('mode = "stream"\n[[routes]]\nwhen = { size = "> 1 MiB" }\nto = ["A"]\n', "a rule looks at size"),
        ('mode = "stream"\ncheck_before = "cfind"\n', "exclude each other"),
        ('mode = "spool"\n', "mode is one of store, stream"),
    ],
)
def test_what_cannot_be_is_told(text: str, message: str) -> None:
    with pytest.raises(GatewayConfigError, match=message):
        parse_gateway(f'[destinations.A]\naddress = "A@h:1"\n{text}')
