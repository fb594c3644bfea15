"""What a handler may do, and what becomes of it: errors, early answers, C-CANCEL, lack of progress."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from helpers.peer import (
    CT,
    IDENTIFIER,
    MR,
    STUDY_CONTEXTS,
    Peer,
    cancel_rq,
    echo_rq,
    eventually,
    find_rq,
    fragments,
    instance,
    message,
    store_rq,
)

from asyncdicom import (
    STUDY_ROOT,
    VERIFICATION,
    Limits,
    Proposable,
    Request,
    Response,
    Retrieval,
    Status,
    StatusError,
    Timeouts,
    associate,
    retrieval_contexts,
    serve,
)
from asyncdicom.dimse.messages import Command, CommandField, encode
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN

CONTEXTS: list[Proposable] = [VERIFICATION, CT, STUDY_ROOT]
GETTING: list[Proposable] = [*CONTEXTS, *retrieval_contexts([(MR, EXPLICIT_VR_LITTLE_ENDIAN)])]
RAW_CONTEXTS: list[Proposable] = [VERIFICATION, CT, *STUDY_CONTEXTS]
FIND = 5  # the context ID of C-FIND in RAW_CONTEXTS


def address(server: Any) -> str:
    return f"SCP@127.0.0.1:{server.port}"


# errors


async def fails(request: Request) -> Any:
    raise RuntimeError("secret: the password is 1234")


async def find_fails(request: Request) -> AsyncIterator[bytes]:
    yield IDENTIFIER
    raise RuntimeError("secret: the password is 1234")


async def returns_none(request: Request) -> Any:
    return None


async def returns_too_much(request: Request) -> Any:
    return 70000


async def returns_pending(request: Request) -> Any:
    return Status.PENDING


async def is_cancelled_from_within(request: Request) -> Any:
    """Somebody else cancelled what it waits for: nobody cancelled the handler."""
    task = asyncio.ensure_future(asyncio.sleep(10))
    task.cancel()
    await task


async def fails_with_a_group(request: Request) -> Any:
    async with asyncio.TaskGroup() as group:
        group.create_task(fails(request))


BROKEN = [
    fails,
    returns_none,
    returns_too_much,
    returns_pending,
    is_cancelled_from_within,
    fails_with_a_group,
]


@pytest.mark.parametrize("handler", BROKEN)
async def test_a_handler_that_fails_is_answered_for_and_the_server_lives_on(
    handler: Any, caplog: pytest.LogCaptureFixture
) -> None:
    handlers = {"c_echo": handler, "c_store": handler, "c_get": handler, "c_move": handler}
    async with (
        serve("SCP@127.0.0.1:0", **handlers, c_find=find_fails, destinations={"WS": "h:1"}) as server,
        associate(address(server), contexts=GETTING) as association,
    ):
        responses = [
            await association.c_echo(),
            await association.c_store(instance(100_000)),
            await association.c_echo(),
        ]
        for call in (
            association.c_find(IDENTIFIER, raw=True),
            association.c_get(IDENTIFIER, c_store=handler),
            association.c_move(IDENTIFIER, move_destination="WS"),
        ):
            with pytest.raises(StatusError) as caught:
                await call
            responses.append(caught.value.response)
        assert association.is_established
    assert [int(response.status) for response in responses] == [
        0x0110,
        0xC000,
        0x0110,
        0xC000,
        0xC000,
        0xC000,
    ]
    assert {response.error_comment for response in responses} == {"internal error"}
    records = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(records) == len(responses)
    assert all(record.exc_info for record in records)


async def test_what_was_yielded_before_a_failure_arrives() -> None:
    async with (
        serve("SCP@127.0.0.1:0", c_find=find_fails) as server,
        associate(address(server), contexts=CONTEXTS) as association,
    ):
        got: list[bytes] = []
        with pytest.raises(StatusError):
            async with association.c_find(IDENTIFIER, raw=True) as matches:
                got.extend([match async for match in matches])
    assert got == [IDENTIFIER]


async def test_a_status_error_is_an_answer() -> None:
    async def on_find(request: Request) -> AsyncIterator[bytes]:
        raise StatusError(Response(0xA700, error_comment="index not ready"))
        yield b""

    async with (
        serve("SCP@127.0.0.1:0", c_find=on_find) as server,
        associate(address(server), contexts=CONTEXTS) as association,
    ):
        with pytest.raises(StatusError) as caught:
            await association.c_find(IDENTIFIER)
    assert caught.value.status == 0xA700
    assert str(caught.value) == "status 0xA700 (Failure: out of resources): index not ready"


async def test_c_echo_is_answered_by_a_handler_if_there_is_one() -> None:
    async def on_echo(request: Request) -> int:
        return 0x0122 if request.calling_ae_title == "NOBODY" else 0

    async with serve("SCP@127.0.0.1:0", c_echo=on_echo) as server:
        async with associate(address(server)) as association:
            assert (await association.c_echo()).status == 0
        async with associate(address(server), calling_ae_title="NOBODY") as association:
            response = await association.c_echo()
            with pytest.raises(StatusError):
                response.raise_for_status()


async def test_a_handler_may_use_the_association_it_was_called_on() -> None:
    got = []

    async def on_echo(request: Request) -> int:
        return (await request.association.c_store(source)).status

    async def on_get(request: Request) -> Retrieval:  # so that the server may be an SCU of Storage
        return Retrieval([])

    async def on_store(request: Request) -> int:
        got.append(await request.data.read())
        return 0xB000

    source = instance(100_000)
    contexts: list[Proposable] = [VERIFICATION, *retrieval_contexts([(CT, source.transfer_syntax_uid)])]
    async with (
        serve("SCP@127.0.0.1:0", c_echo=on_echo, c_get=on_get) as server,
        associate(address(server), contexts=contexts, c_store=on_store) as association,
    ):
        assert (await association.c_echo()).status == 0xB000
    assert got == [source.data]


class AssociatedPeer:
    """A hand-made requestor that is associated."""

    def __init__(self, port: int, contexts: Any = RAW_CONTEXTS, **options: Any) -> None:
        self.port, self.contexts, self.options = port, contexts, options

    async def __aenter__(self) -> Peer:
        self.peer = await Peer.connect(self.port)
        await self.peer.associate(self.contexts, **self.options)
        return self.peer

    async def __aexit__(self, *_: object) -> None:
        await self.peer.close()


# early answers


async def test_an_early_answer_is_sent_after_the_last_fragment() -> None:
    async def on_store(request: Request) -> int:
        return Status.OUT_OF_RESOURCES

    async with serve("SCP@127.0.0.1:0", c_store=on_store) as server, AssociatedPeer(server.port) as peer:
        peer.write(fragments(3, True, encode(store_rq(1))))
        half = fragments(3, False, bytes(3_000_000))
        peer.write(half[: len(half) // 2])
        await peer.writer.drain()
        await asyncio.sleep(0.02)
        assert not peer.reader._buffer  # type: ignore[attr-defined]
        peer.write(half[len(half) // 2 :])
        response = await peer.message()
        assert response.command.status == 0xA700
        peer.send(1, echo_rq(2))
        assert (await peer.message()).command.status == 0


async def test_an_early_answer_discards_at_wire_speed_whatever_the_budget() -> None:
    async def on_store(request: Request) -> int:
        return Status.OUT_OF_RESOURCES

    async with (
        serve("SCP@127.0.0.1:0", c_store=on_store, limits=Limits(read_budget=1000)) as server,
        associate(address(server), contexts=CONTEXTS) as association,
    ):
        for _ in range(3):
            assert (await association.c_store(instance(5_000_000))).status == 0xA700


async def test_what_is_left_of_a_partly_read_data_set_is_discarded() -> None:
    async def on_store(request: Request) -> int:
        await request.data.next_batch()
        return 0xB000

    async with (
        serve("SCP@127.0.0.1:0", c_store=on_store, limits=Limits(read_budget=1000)) as server,
        associate(address(server), contexts=CONTEXTS) as association,
    ):
        for _ in range(3):
            assert (await association.c_store(instance(5_000_000))).status == 0xB000


async def test_a_task_that_still_reads_when_the_handler_has_answered_gets_an_error_not_an_end() -> None:
    """Half a data set must never look like a whole one."""
    outcomes: list[object] = []

    async def on_store(request: Request) -> int:
        async def read() -> None:
            try:
                outcomes.append(len(await request.data.read()))
            except Exception as error:
                outcomes.append(str(error))

        task = asyncio.create_task(read())
        readers.append(task)
        while request.data.received < 1000:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        return Status.OUT_OF_RESOURCES

    readers: list[asyncio.Task[None]] = []
    async with serve("SCP@127.0.0.1:0", c_store=on_store) as server, AssociatedPeer(server.port) as peer:
        peer.write(fragments(3, True, encode(store_rq(1))))
        data = fragments(3, False, bytes(100_000))
        peer.write(data[:20_000])
        await eventually(lambda: readers)
        await asyncio.sleep(0.02)
        peer.write(data[20_000:])
        assert (await peer.message()).command.status == 0xA700
        await asyncio.gather(*readers)
    assert outcomes == ["this data set is no longer wanted: its response was sent"]


async def test_reading_after_the_answer_is_an_error() -> None:
    kept: list[Request] = []

    async def on_store(request: Request) -> int:
        kept.append(request)
        return 0

    async with (
        serve("SCP@127.0.0.1:0", c_store=on_store) as server,
        associate(address(server), contexts=CONTEXTS) as association,
    ):
        await association.c_store(instance(10))
        with pytest.raises(Exception, match="no longer wanted"):
            await kept[0].data.read()


# C-CANCEL


def finder(seen: list[str], *, until: Callable[[Request], bool] = lambda request: False) -> Any:
    """Matches for ever; notes how it ended."""

    async def on_find(request: Request) -> AsyncIterator[bytes]:
        try:
            while not until(request):
                yield IDENTIFIER
                await asyncio.sleep(0)
            seen.append("returned")
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        except GeneratorExit:
            seen.append("closed")
            raise
        finally:
            seen.append("cleaned up")

    return on_find


async def final(peer: Peer) -> Command:
    while (command := (await peer.message()).command).status == 0xFF00:
        pass
    return command


async def test_c_cancel_stops_the_handler_and_is_answered_with_cancel() -> None:
    seen: list[str] = []
    async with (
        serve("SCP@127.0.0.1:0", c_find=finder(seen)) as server,
        associate(address(server), contexts=CONTEXTS) as association,
    ):
        for _ in range(3):
            async with association.c_find(IDENTIFIER, raw=True) as matches:
                async for _match in matches:
                    break
            assert matches.status == Status.CANCEL
        assert (await association.c_echo()).status == 0
    assert len(seen) == 6
    assert set(seen) <= {"cancelled", "closed", "cleaned up"}


async def test_c_cancel_raises_cancelled_error_at_the_await_of_the_handler() -> None:
    seen: list[str] = []

    async def on_find(request: Request) -> AsyncIterator[bytes]:
        yield IDENTIFIER
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append(f"cancelled, {request.is_cancelled}")
            raise

    async with serve("SCP@127.0.0.1:0", c_find=on_find) as server, AssociatedPeer(server.port) as peer:
        peer.send(FIND, find_rq(1), IDENTIFIER)
        assert (await peer.message()).command.status == 0xFF00
        peer.send(FIND, cancel_rq(1))
        assert (await peer.message()).command.status == 0xFE00
        peer.send(1, echo_rq(1))
        assert (await peer.message()).command.status == 0
    assert seen == ["cancelled, True"]


async def test_a_handler_may_poll_for_c_cancel() -> None:
    async def on_find(request: Request) -> AsyncIterator[bytes]:
        while True:
            try:
                await asyncio.sleep(0.005)
            except asyncio.CancelledError:
                pass
            if request.is_cancelled:
                return
        yield b""

    async with serve("SCP@127.0.0.1:0", c_find=on_find) as server, AssociatedPeer(server.port) as peer:
        peer.send(FIND, find_rq(1), IDENTIFIER)
        await asyncio.sleep(0.01)
        peer.send(FIND, cancel_rq(1))
        assert (await peer.message()).command.status == 0xFE00


async def test_c_cancel_reaches_a_retrieve_handler() -> None:
    async def on_get(request: Request) -> Retrieval:
        await asyncio.Event().wait()
        raise AssertionError

    async def on_store(request: Request) -> int:
        return 0

    async with (
        serve("SCP@127.0.0.1:0", c_get=on_get) as server,
        associate(address(server), contexts=GETTING) as association,
    ):
        async with association.c_get(IDENTIFIER, c_store=on_store) as retrieval:
            await asyncio.sleep(0.01)
            await retrieval.cancel()
        assert retrieval.status == Status.CANCEL


async def test_a_handler_that_swallows_its_cancellation_is_given_up() -> None:
    end = asyncio.Event()

    async def on_find(request: Request) -> AsyncIterator[bytes]:
        while not end.is_set():
            try:
                await end.wait()
            except asyncio.CancelledError:
                pass
        yield IDENTIFIER  # is ignored

    async with (
        serve("SCP@127.0.0.1:0", c_find=on_find, timeouts=Timeouts(cancel=0.05)) as server,
        AssociatedPeer(server.port) as peer,
    ):
        peer.send(FIND, find_rq(1), IDENTIFIER)
        await asyncio.sleep(0.01)
        peer.send(FIND, cancel_rq(1))
        assert (await peer.message()).command.status == 0xFE00
        end.set()
        peer.send(FIND, cancel_rq(1))  # of nothing, now
        peer.send(1, echo_rq(1))  # the Message ID is free
        assert (await peer.message()).command.command_field == CommandField.C_ECHO_RSP


async def test_c_cancel_of_what_has_ended_is_ignored() -> None:
    async def on_find(request: Request) -> AsyncIterator[bytes]:
        return
        yield b""

    async with serve("SCP@127.0.0.1:0", c_find=on_find) as server, AssociatedPeer(server.port) as peer:
        for message_id in (1, 2):
            peer.write(
                message(FIND, cancel_rq(message_id)),
                message(FIND, find_rq(message_id), IDENTIFIER),
            )
            assert (await peer.message()).command.status == 0
            peer.send(FIND, cancel_rq(message_id))
        peer.send(1, echo_rq(3))
        assert (await peer.message()).command.status == 0


async def test_a_handler_cleans_up_when_the_association_is_lost() -> None:
    seen: list[str] = []

    async def on_store(request: Request) -> int:
        try:
            await request.data.read()
        except BaseException as error:
            seen.append(type(error).__name__)
            raise
        return 0

    async with serve("SCP@127.0.0.1:0", c_store=on_store) as server:
        async with AssociatedPeer(server.port) as peer:
            peer.write(message(3, store_rq(1), bytes(100_000))[:60_000])
            await eventually(lambda: server.associations == 1)
            await asyncio.sleep(0.01)
            peer.reset()
        await eventually(lambda: seen)
        assert seen[0] in ("CancelledError", "AssociationClosed")
        await eventually(lambda: server.associations == 0)


async def test_a_find_handler_is_closed_when_the_association_is_lost() -> None:
    seen: list[str] = []
    async with serve("SCP@127.0.0.1:0", c_find=finder(seen)) as server:
        async with AssociatedPeer(server.port) as peer:
            peer.send(FIND, find_rq(1), IDENTIFIER)
            await peer.message()
            peer.reset()
        await eventually(lambda: seen)
    assert seen[-1] == "cleaned up"
    assert "returned" not in seen


# no progress


async def stuck(request: Request) -> int:
    await asyncio.Event().wait()
    return 0


async def test_a_handler_that_takes_nothing_is_given_up_and_answered_for() -> None:
    async with (
        serve(
            "SCP@127.0.0.1:0",
            c_store=stuck,
            timeouts=Timeouts(handler=0.1),
            limits=Limits(read_budget=100_000),
        ) as server,
        associate(address(server), contexts=CONTEXTS) as association,
    ):
        response = await association.c_store(instance(10_000_000))
        assert response.status == Status.OUT_OF_RESOURCES
        assert (await association.c_echo()).status == 0


async def test_so_is_one_whose_data_set_is_there_to_its_end() -> None:
    async with (
        serve(
            "SCP@127.0.0.1:0", c_store=stuck, timeouts=Timeouts(handler=0.1), limits=Limits(read_budget=1000)
        ) as server,
        AssociatedPeer(server.port) as peer,
    ):
        peer.send(3, store_rq(1), bytes(5000))
        peer.send(1, echo_rq(2))
        answers = {(await peer.message()).command.status for _ in range(2)}
        assert answers == {0xA700, 0}


async def test_so_is_one_that_swallows_its_cancellation() -> None:
    end = asyncio.Event()

    async def on_store(request: Request) -> int:
        while not end.is_set():
            try:
                await end.wait()
            except asyncio.CancelledError:
                pass
        return 0

    async with (
        serve(
            "SCP@127.0.0.1:0",
            c_store=on_store,
            timeouts=Timeouts(handler=0.05, cancel=0.05),
            limits=Limits(read_budget=1000),
        ) as server,
        AssociatedPeer(server.port) as peer,
    ):
        peer.send(3, store_rq(1), bytes(50_000))
        assert (await peer.message()).command.status == 0xA700
        peer.send(1, echo_rq(1))
        assert (await peer.message()).command.status == 0
        end.set()


async def test_slow_progress_is_progress() -> None:
    async def on_store(request: Request) -> int:
        length = 0
        async for batch in request.data.batches():
            length += sum(map(len, batch))
            await asyncio.sleep(0.03)
        return 0 if length == 3_000_000 else 0xC001

    async with (
        serve(
            "SCP@127.0.0.1:0",
            c_store=on_store,
            timeouts=Timeouts(handler=0.15),
            limits=Limits(read_budget=200_000),
        ) as server,
        associate(address(server), contexts=CONTEXTS) as association,
    ):
        assert (await association.c_store(instance(3_000_000))).status == 0


async def test_the_time_of_a_handler_that_waits_for_the_peer_does_not_count() -> None:
    async def on_store(request: Request) -> int:
        return 0 if len(await request.data.read()) == 20_000 else 0xC001

    async with (
        serve(
            "SCP@127.0.0.1:0",
            c_store=on_store,
            timeouts=Timeouts(handler=0.05),
            limits=Limits(read_budget=1000),
        ) as server,
        AssociatedPeer(server.port) as peer,
    ):
        whole = message(3, store_rq(1), bytes(20_000))
        peer.write(whole[:10_000])
        await asyncio.sleep(0.15)
        peer.write(whole[10_000:])
        assert (await peer.message()).command.status == 0


# who may ask for what


async def test_a_message_id_that_is_in_use_is_refused() -> None:
    go_on = asyncio.Event()

    async def on_store(request: Request) -> int:
        await go_on.wait()
        return 0

    async with (
        serve("SCP@127.0.0.1:0", c_store=on_store) as server,
        AssociatedPeer(server.port, window=4) as peer,
    ):
        peer.send(3, store_rq(7, "1.2.1"), bytes(10))
        peer.send(3, store_rq(7, "1.2.2"), bytes(100_000))
        response = await peer.message()
        assert response.command.status == Status.DUPLICATE_INVOCATION
        assert response.command.message_id_being_responded_to == 7
        go_on.set()
        response = await peer.message()
        assert (response.command.status, response.command.affected_sop_instance_uid) == (0, "1.2.1")


@pytest.mark.parametrize("command", [store_rq(1), find_rq(1)])
async def test_a_sop_class_that_is_not_that_of_the_context_is_refused(command: Command) -> None:
    async with serve("SCP@127.0.0.1:0", c_store=stuck) as server, AssociatedPeer(server.port) as peer:
        peer.send(1, command, bytes(100))
        response = await peer.message()
        assert response.command.status == Status.SOP_CLASS_NOT_SUPPORTED
        peer.send(1, echo_rq(1))
        assert (await peer.message()).command.status == 0


async def test_an_operation_that_no_handler_performs_is_refused() -> None:
    commands = [
        Command(
            CommandField.N_GET_RQ,
            message_id=1,
            requested_sop_class_uid=VERIFICATION,
            requested_sop_instance_uid="1.2",
        ),
        Command(
            CommandField.N_EVENT_REPORT_RQ,
            message_id=2,
            affected_sop_class_uid=VERIFICATION,
            affected_sop_instance_uid="1.2",
            event_type_id=1,
        ),
    ]
    async with serve("SCP@127.0.0.1:0") as server, AssociatedPeer(server.port, [VERIFICATION]) as peer:
        for command in commands:
            peer.send(1, command)
            response = (await peer.message()).command
            assert response.status == Status.UNRECOGNIZED_OPERATION
            assert response.message_id_being_responded_to == command.message_id


async def test_requests_are_performed_at_the_same_time_up_to_the_window() -> None:
    running = 0
    most = 0
    all_there = asyncio.Event()

    async def on_echo(request: Request) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        if running == 5:
            all_there.set()
        await all_there.wait()
        await asyncio.sleep(0.001 * (10 - request.message_id))  # the last asked is the first answered
        running -= 1
        return 0

    async with (
        serve("SCP@127.0.0.1:0", c_echo=on_echo, limits=Limits(operations_performed=5)) as server,
        AssociatedPeer(server.port, [VERIFICATION], window=8) as peer,
    ):
        for message_id in range(1, 6):
            peer.send(1, echo_rq(message_id))
        answered = [(await peer.message()).command.message_id_being_responded_to for _ in range(5)]
    assert sorted(filter(None, answered)) == [1, 2, 3, 4, 5]
    assert answered[0] == 5
    assert most == 5
