"""The cancellation table and the sharing rules of `Association`, each row a test.

Where the peer has to be slow or silent it is a `Peer` made by hand.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from helpers.peer import (
    ABORT,
    ABORTED_BY_USER,
    CT,
    EOF,
    IDENTIFIER,
    RELEASE_RP,
    STUDY_CONTEXTS,
    Peer,
    eventually,
    instance,
    listening,
    nothing_left,  # noqa: F401
    store_rq,
)

from asyncdicom import (
    STUDY_ROOT,
    VERIFICATION,
    Association,
    AssociationAborted,
    AssociationClosed,
    AssociationError,
    AssociationReleased,
    AssociationTimeout,
    BytesSource,
    Limits,
    LocalProtocolError,
    PresentationContext,
    PresentationContextError,
    Proposable,
    Request,
    Retrieval,
    Source,
    StatusError,
    Timeouts,
    associate,
    retrieval_contexts,
    serve,
)
from asyncdicom.dimse.messages import Command, CommandField, response_to
from asyncdicom.options import OPERATIONS
from asyncdicom.services.request import StoreHandler
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN

CONTEXTS: list[Proposable] = [VERIFICATION, CT, *STUDY_CONTEXTS]
GETTING = [*CONTEXTS, *retrieval_contexts([(CT, EXPLICIT_VR_LITTLE_ENDIAN)])]
RELEASED = (6, bytes(4))
RELEASE_ASKED = (5, bytes(4))


@asynccontextmanager
async def associated(
    *,
    window: int = 1,
    maximum_outstanding: int | None = Limits.maximum_outstanding,
    maximum_length: int = 16384,
    contexts: Any = CONTEXTS,
    **options: Any,
) -> AsyncIterator[tuple[Association, Peer]]:
    """An association with a peer made by hand, which has accepted and does nothing else."""
    async with listening() as listener:
        connecting = asyncio.ensure_future(
            associate(
                f"SCP@127.0.0.1:{listener.port}",
                contexts=contexts,
                limits=Limits(operations_invoked=window, maximum_outstanding=maximum_outstanding),
                **options,
            )
        )
        peer = await listener.peer()
        await peer.accept(window=window, maximum_length=maximum_length)
        association = await connecting
        try:
            yield association, peer
        finally:
            peer.reset()
            await association.abort()


async def cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


class Endless(Source):
    """A source whose data begins and never ends."""

    sop_class_uid = CT
    sop_instance_uid = "1.2.3"
    transfer_syntax_uid = EXPLICIT_VR_LITTLE_ENDIAN

    def __init__(self, first: bytes = bytes(100_000)) -> None:
        self.first = first
        self.closed = False

    async def open(self) -> AsyncGenerator[list[bytes], None]:
        try:
            if self.first:
                yield [self.first]
            await asyncio.Event().wait()
        finally:
            self.closed = True


class InPieces(Endless):
    """A source whose data comes in pieces."""

    def __init__(self, *pieces: bytes) -> None:
        super().__init__()
        self.pieces = pieces

    async def open(self) -> AsyncGenerator[list[bytes], None]:
        for piece in self.pieces:
            await asyncio.sleep(0)
            yield [piece]


# cancelled while waiting for the window


async def test_cancelled_while_waiting_for_the_window_nothing_was_sent() -> None:
    async with associated() as (association, peer):
        first = asyncio.create_task(association.c_echo())
        request = await peer.message()
        second = asyncio.create_task(association.c_store(instance()))
        third = asyncio.create_task(association.c_echo())
        await asyncio.sleep(0)
        await cancel(second)
        peer.send(1, response_to(request.command, 0))
        assert (await first).status == 0
        request = await peer.message()  # the third: nothing came of the second
        assert request.command.command_field == CommandField.C_ECHO_RQ
        peer.send(1, response_to(request.command, 0))
        assert (await third).status == 0
        assert association.is_established


async def test_cancelled_while_waiting_for_the_write_gate_nothing_was_sent() -> None:
    async with associated(window=8) as (association, peer):
        source = Endless()
        storing = asyncio.create_task(association.c_store(source))
        await eventually(lambda: peer.reader._buffer)  # type: ignore[attr-defined]
        waiting = asyncio.create_task(association.c_echo())
        await asyncio.sleep(0.01)
        await cancel(waiting)
        assert association.is_established
        await cancel(storing)


# cancelled while sending


async def test_cancelled_while_sending_a_data_set_the_association_is_aborted() -> None:
    async with associated() as (association, peer):
        source = Endless()
        storing = asyncio.create_task(association.c_store(source))
        await eventually(lambda: peer.reader._buffer)  # type: ignore[attr-defined]
        await cancel(storing)
        assert source.closed
        assert not association.is_established
        with pytest.raises(AssociationAborted):
            await association.c_echo()
        while (pdu := await peer.pdu())[0] == 4:
            pass
        assert pdu == ABORTED_BY_USER


async def test_cancelled_before_the_first_byte_of_the_data_set_is_there_nothing_was_sent() -> None:
    async with associated() as (association, peer):
        source = Endless(first=b"")
        storing = asyncio.create_task(association.c_store(source))
        await asyncio.sleep(0.01)
        await cancel(storing)
        assert source.closed
        assert association.is_established
        echo = asyncio.create_task(association.c_echo())
        request = await peer.message()
        assert request.command.command_field == CommandField.C_ECHO_RQ
        peer.send(1, response_to(request.command, 0))
        assert (await echo).status == 0


async def test_a_source_that_fails_in_the_middle_aborts_and_tells_why() -> None:
    class Broken(Endless):
        async def open(self) -> AsyncGenerator[list[bytes], None]:
            yield [bytes(100_000)]
            raise ValueError("the disk is gone")

    async with associated() as (association, peer):
        with pytest.raises(AssociationAborted, match="the disk is gone") as caught:
            await association.c_store(Broken())
        assert isinstance(caught.value.__cause__, ValueError)
        while (pdu := await peer.pdu())[0] == 4:
            pass
        assert pdu == ABORTED_BY_USER


async def test_cancelled_while_the_peer_takes_nothing_a_small_request_was_not_sent() -> None:
    async with associated(window=0) as (association, peer):
        peer.reader._transport.pause_reading()  # type: ignore[attr-defined]
        finds: list[asyncio.Task[Any]] = []
        while not association._channel.transport.is_writing_paused:
            finds.append(asyncio.ensure_future(association.c_find(IDENTIFIER + bytes(100_000), raw=True)))
            await asyncio.sleep(0)
        echo = asyncio.create_task(association.c_echo())
        await asyncio.sleep(0.01)
        await cancel(echo)
        assert association.is_established
        peer.reader._transport.resume_reading()  # type: ignore[attr-defined]
        for find in finds:
            request = await peer.message()
            assert request.command.command_field == CommandField.C_FIND_RQ
            peer.send(request.context_id, response_to(request.command, 0))
            await find
        last = asyncio.create_task(association.c_echo())
        request = await peer.message()
        peer.send(1, response_to(request.command, 0xB000))
        assert (await last).status == 0xB000


async def test_cancelled_when_all_of_a_small_request_was_written_it_is_not_forgotten() -> None:
    """The peer will perform it, so it is cancelled like any other, however full the connection is."""
    async with associated(window=0) as (association, peer):
        peer.reader._transport.pause_reading()  # type: ignore[attr-defined]
        finds: list[asyncio.Task[Any]] = []
        while not association._channel.transport.is_writing_paused:
            finds.append(asyncio.ensure_future(association.c_find(IDENTIFIER + bytes(100_000), raw=True)))
            await asyncio.sleep(0)
        finds[-1].cancel()
        await asyncio.sleep(0.01)
        peer.reader._transport.resume_reading()  # type: ignore[attr-defined]
        requests = [await peer.message() for _ in finds]
        cancelled = await peer.message()
        assert cancelled.command.command_field == CommandField.C_CANCEL_RQ
        assert cancelled.command.message_id_being_responded_to == requests[-1].command.message_id
        for request in requests:
            peer.send(request.context_id, response_to(request.command, 0xFE00))
        with pytest.raises(asyncio.CancelledError):
            await finds.pop()
        assert [await find for find in finds] == [[] for _ in finds]
        assert association.is_established


# cancelled while waiting for a single response


@pytest.mark.parametrize("work", ["c_echo", "c_store"])
async def test_cancelled_while_waiting_for_a_response_it_is_dropped_when_it_comes(work: str) -> None:
    async with associated() as (association, peer):
        call = association.c_echo() if work == "c_echo" else association.c_store(instance())
        task = asyncio.ensure_future(call)
        late = await peer.message()
        await cancel(task)
        assert association.is_established
        next_call = asyncio.create_task(association.c_echo())
        await asyncio.sleep(0.01)
        assert not peer.reader._buffer  # type: ignore[attr-defined]  # the window is still taken
        peer.send(late.context_id, response_to(late.command, 0xA700))
        request = await peer.message()
        assert request.command.message_id != late.command.message_id
        peer.send(1, response_to(request.command, 0))
        assert (await next_call).status == 0


# cancelled inside C-FIND, C-GET, C-MOVE


Leave = Callable[[Association], Awaitable[None]]


async def by_break(association: Association) -> None:
    async with association.c_find(IDENTIFIER, raw=True) as matches:
        async for match in matches:
            assert match == b"match 0"
            break
    assert matches.status == 0xFE00


async def by_exception(association: Association) -> None:
    with pytest.raises(ZeroDivisionError):
        async with association.c_find(IDENTIFIER, raw=True) as matches:
            async for _ in matches:
                raise ZeroDivisionError
    assert matches.status == 0xFE00


async def by_timeout(association: Association) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            async with association.c_find(IDENTIFIER, raw=True) as matches:
                async for _ in matches:
                    pass
    assert matches.status == 0xFE00


async def by_timeout_around_await(association: Association) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await association.c_find(IDENTIFIER, raw=True)


async def by_leaving_a_retrieval(association: Association) -> None:
    async with association.c_move(IDENTIFIER, move_destination="WS") as retrieval:
        async for _ in retrieval:
            break
    assert retrieval.status == 0xFE00


@pytest.mark.parametrize(
    "leave", [by_break, by_exception, by_timeout, by_timeout_around_await, by_leaving_a_retrieval]
)
async def test_leaving_early_sends_c_cancel_and_drains_and_the_association_stays_usable(leave: Leave) -> None:
    async with associated() as (association, peer):
        leaving = asyncio.ensure_future(leave(association))
        request = await peer.message()
        is_find = request.command.command_field == CommandField.C_FIND_RQ
        counters = {} if is_find else {"number_of_remaining_sub_operations": 7}
        pending = response_to(request.command, 0xFF00, has_data_set=is_find, **counters)
        for number in range(3):
            peer.send(request.context_id, pending, b"match %d" % number if is_find else None)
        cancelled = await peer.message()
        assert cancelled.command.command_field == CommandField.C_CANCEL_RQ
        assert cancelled.command.message_id_being_responded_to == request.command.message_id
        assert cancelled.context_id == request.context_id
        peer.send(request.context_id, pending, b"late" if is_find else None)
        peer.send(request.context_id, response_to(request.command, 0xFE00))
        await leaving
        assert association.is_established
        echo = asyncio.create_task(association.c_echo())
        request = await peer.message()
        assert request.command.command_field == CommandField.C_ECHO_RQ
        peer.send(1, response_to(request.command, 0))
        assert (await echo).status == 0


async def test_a_peer_that_ignores_c_cancel_loses_the_association() -> None:
    async with associated(timeouts=Timeouts(cancel=0.05)) as (association, peer):

        async def leave() -> None:
            async with association.c_find(IDENTIFIER, raw=True) as matches:
                async for _ in matches:
                    break

        leaving = asyncio.ensure_future(leave())
        request = await peer.message()
        peer.send(request.context_id, response_to(request.command, 0xFF00, has_data_set=True), b"1")
        assert (await peer.message()).command.command_field == CommandField.C_CANCEL_RQ
        with pytest.raises(AssociationTimeout):
            await leaving
        assert await peer.pdu() == ABORTED_BY_USER
        assert not association.is_established


async def test_an_exception_is_not_masked_by_the_end_of_the_association() -> None:
    async with associated(timeouts=Timeouts(cancel=0.05)) as (association, peer):

        async def leave() -> None:
            async with association.c_find(IDENTIFIER, raw=True) as matches:
                async for _ in matches:
                    raise ZeroDivisionError

        leaving = asyncio.ensure_future(leave())
        request = await peer.message()
        peer.send(request.context_id, response_to(request.command, 0xFF00, has_data_set=True), b"1")
        await peer.message()
        with pytest.raises(ZeroDivisionError):
            await leaving


async def test_cancelled_again_while_draining_the_association_is_aborted() -> None:
    async with associated() as (association, peer):
        task = asyncio.ensure_future(association.c_find(IDENTIFIER, raw=True))
        await peer.message()
        task.cancel()
        await peer.message()
        await cancel(task)
        assert await peer.pdu() == ABORTED_BY_USER
        assert not association.is_established


async def test_a_retrieval_that_was_not_iterated_is_waited_for() -> None:
    async with associated() as (association, peer):

        async def enter_and_leave() -> None:
            async with association.c_move(IDENTIFIER, move_destination="WS") as retrieval:
                pass
            assert retrieval.status == 0
            assert retrieval.result.completed == 3

        task = asyncio.ensure_future(enter_and_leave())
        request = await peer.message()
        peer.send(
            request.context_id, response_to(request.command, 0xFF00, number_of_remaining_sub_operations=3)
        )
        peer.send(request.context_id, response_to(request.command, 0, number_of_completed_sub_operations=3))
        await task
        assert not peer.reader._buffer  # type: ignore[attr-defined]  # no C-CANCEL


async def test_cancel_can_be_sent_without_leaving() -> None:
    async with associated() as (association, peer):

        async def run() -> list[bytes]:
            got = []
            async with association.c_find(IDENTIFIER, raw=True) as matches:
                async for match in matches:
                    got.append(match)
                    await matches.cancel()
            assert matches.status == 0xFE00
            return got

        task = asyncio.ensure_future(run())
        request = await peer.message()
        peer.send(request.context_id, response_to(request.command, 0xFF00, has_data_set=True), b"1")
        assert (await peer.message()).command.command_field == CommandField.C_CANCEL_RQ
        peer.send(request.context_id, response_to(request.command, 0xFF00, has_data_set=True), b"2")
        await asyncio.sleep(0.01)
        peer.send(request.context_id, response_to(request.command, 0xFE00))
        assert await task == [b"1", b"2"]


async def test_a_query_that_ends_in_failure_raises_when_its_block_ends() -> None:
    async with associated() as (association, peer):

        async def run() -> list[bytes]:
            got: list[bytes] = []
            with pytest.raises(StatusError) as caught:
                async with association.c_find(IDENTIFIER, raw=True) as matches:
                    got.extend([match async for match in matches])
                    got.append(b"the loop ended")
            assert caught.value.status == 0xA700
            assert caught.value.response.error_comment == "full"
            return got

        task = asyncio.ensure_future(run())
        request = await peer.message()
        peer.send(request.context_id, response_to(request.command, 0xFF00, has_data_set=True), b"1")
        peer.send(request.context_id, response_to(request.command, 0xA700, error_comment="full"))
        assert await task == [b"1", b"the loop ended"]


# the end of the association


async def test_leaving_the_block_releases() -> None:
    async with listening() as listener:

        async def run() -> None:
            async with associate(f"SCP@127.0.0.1:{listener.port}"):
                pass

        task = asyncio.create_task(run())
        peer = await listener.peer()
        await peer.accept()
        assert await peer.pdu() == RELEASE_ASKED
        assert not task.done()
        peer.write(RELEASE_RP)
        assert await peer.pdu() == EOF
        await task


async def test_leaving_by_an_exception_aborts() -> None:
    async with listening() as listener:

        async def run() -> None:
            async with associate(f"SCP@127.0.0.1:{listener.port}"):
                raise ZeroDivisionError

        task = asyncio.create_task(run())
        peer = await listener.peer()
        await peer.accept()
        assert await peer.pdu() == ABORTED_BY_USER
        await peer.close()
        with pytest.raises(ZeroDivisionError):
            await task


async def test_leaving_by_a_cancellation_aborts() -> None:
    async with listening() as listener:
        entered = asyncio.Event()

        async def run() -> None:
            async with associate(f"SCP@127.0.0.1:{listener.port}"):
                entered.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(run())
        peer = await listener.peer()
        await peer.accept()
        await entered.wait()
        task.cancel()
        assert await peer.pdu() == ABORTED_BY_USER
        await peer.close()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_cancelled_while_releasing_it_aborts() -> None:
    async with associated() as (association, peer):
        task = asyncio.create_task(association.release())
        assert await peer.pdu() == RELEASE_ASKED
        await cancel(task)
        assert await peer.pdu() == ABORTED_BY_USER


async def test_a_release_that_is_not_answered_becomes_an_abort() -> None:
    async with associated(timeouts=Timeouts(release=0.05)) as (association, peer):
        task = asyncio.create_task(association.release())
        assert await peer.pdu() == RELEASE_ASKED
        assert await peer.pdu() == ABORTED_BY_USER
        await peer.close()
        await task
        with pytest.raises(AssociationTimeout):
            await association.c_echo()


async def test_release_waits_for_operations_of_other_tasks() -> None:
    async with associated() as (association, peer):
        echo = asyncio.create_task(association.c_echo())
        request = await peer.message()
        releasing = asyncio.create_task(association.release())
        await asyncio.sleep(0.01)
        assert not peer.reader._buffer  # type: ignore[attr-defined]
        peer.send(1, response_to(request.command, 0))
        assert (await echo).status == 0
        assert await peer.pdu() == RELEASE_ASKED
        peer.write(RELEASE_RP)
        await releasing


async def test_release_waits_for_operations_that_wait_for_their_turn() -> None:
    async with associated() as (association, peer):
        echo = asyncio.create_task(association.c_echo())
        request = await peer.message()
        source = InPieces(bytes(400_000), bytes(400_000), bytes(400_000))  # a release must not come between
        storing = asyncio.create_task(association.c_store(source))
        await asyncio.sleep(0)
        releasing = asyncio.create_task(association.release())
        await asyncio.sleep(0.01)
        peer.send(1, response_to(request.command, 0))
        assert (await echo).status == 0
        stored = await peer.message()
        assert stored.data == bytes(1_200_000)
        peer.send(stored.context_id, response_to(stored.command, 0))
        assert (await storing).status == 0
        assert await peer.pdu() == RELEASE_ASKED
        peer.write(RELEASE_RP)
        await releasing


async def test_a_response_before_the_end_of_its_request_does_not_let_a_release_into_the_message() -> None:
    go_on = asyncio.Event()

    class Slow(Endless):
        async def open(self) -> AsyncGenerator[list[bytes], None]:
            yield [bytes(100_000)]
            await go_on.wait()
            yield [bytes(100_000)]

    async with associated() as (association, peer):
        storing = asyncio.create_task(association.c_store(Slow()))
        await eventually(lambda: peer.reader._buffer)  # type: ignore[attr-defined]
        peer.send(3, response_to(store_rq(1, "1.2.3"), 0xA700))
        await asyncio.sleep(0.01)
        releasing = asyncio.create_task(association.release())
        await asyncio.sleep(0.01)
        go_on.set()
        assert len((await peer.message()).data or b"") == 200_000
        assert (await storing).status == 0xA700
        assert await peer.pdu() == RELEASE_ASKED
        peer.write(RELEASE_RP)
        await releasing


async def test_operations_that_do_not_end_are_aborted_when_the_release_takes_too_long() -> None:
    async with associated(timeouts=Timeouts(release=0.05)) as (association, peer):
        echo = asyncio.create_task(association.c_echo())
        await peer.message()
        releasing = asyncio.create_task(association.release())
        assert await peer.pdu() == ABORTED_BY_USER
        await peer.close()
        await releasing
        with pytest.raises(AssociationAborted):
            await echo


async def test_after_our_release_request_what_the_peer_sends_is_still_read() -> None:
    async with associated(window=2) as (association, peer):
        releasing = asyncio.create_task(association.release())
        assert await peer.pdu() == RELEASE_ASKED
        peer.send(1, Command(CommandField.C_ECHO_RSP, message_id_being_responded_to=9, status=0))
        peer.write(RELEASE_RP)
        await releasing
        assert await peer.pdu() == EOF
        with pytest.raises(AssociationReleased):
            await association.c_echo()


async def test_a_release_collision_ends_in_peace() -> None:
    async with associated() as (association, peer):
        releasing = asyncio.create_task(association.release())
        assert await peer.pdu() == RELEASE_ASKED
        peer.write(bytes.fromhex("0500 00000004 00000000"))
        assert await peer.pdu() == RELEASED  # AR-9: the requestor answers first
        peer.write(RELEASE_RP)
        assert await peer.pdu() == EOF
        await releasing
        with pytest.raises(AssociationReleased):
            await association.c_echo()


async def test_released_by_the_peer_what_was_open_fails() -> None:
    async with associated() as (association, peer):
        echo = asyncio.create_task(association.c_echo())
        waiting = asyncio.create_task(association.c_echo())
        await peer.message()
        peer.write(bytes.fromhex("0500 00000004 00000000"))
        assert await peer.pdu() == RELEASED
        await peer.close()
        for task in (echo, waiting):
            with pytest.raises(AssociationReleased):
                await task
        await association.wait_closed()


@pytest.mark.parametrize(
    ("last_words", "expected"),
    [(ABORT, AssociationAborted), (b"", AssociationClosed), (b"GET", AssociationAborted)],
)
async def test_a_broken_association_fails_what_is_open_and_every_later_call(
    last_words: bytes, expected: type[AssociationError]
) -> None:
    async with associated(window=2) as (association, peer):

        async def query() -> None:
            async with association.c_find(IDENTIFIER, raw=True) as matches:
                async for _ in matches:
                    pass

        tasks = [
            asyncio.ensure_future(query()),
            asyncio.ensure_future(association.c_echo()),
            asyncio.ensure_future(association.c_echo()),  # waits for the window
        ]
        await peer.message()
        await peer.message()
        peer.write(last_words)
        await peer.close()
        await association.wait_closed()
        for task in tasks:
            with pytest.raises(expected):
                await task
        with pytest.raises(expected):
            await association.c_echo()
        with pytest.raises(expected):
            association.c_find(IDENTIFIER)
        assert not association.is_established
        await association.release()  # both do nothing any more
        await association.abort()


async def test_a_broken_association_does_not_cancel_the_body() -> None:
    async with listening() as listener:

        async def run() -> str:
            async with associate(f"SCP@127.0.0.1:{listener.port}") as association:
                await association.wait_closed()
                await asyncio.sleep(0)
            return "went on"

        task = asyncio.create_task(run())
        peer = await listener.peer()
        await peer.accept()
        peer.reset()
        assert await task == "went on"


async def test_abort_ends_even_where_the_peer_does_not_close() -> None:
    async with associated() as (association, peer):
        await asyncio.wait_for(association.abort(), 3)
        assert await peer.pdu() == ABORTED_BY_USER


# sharing


async def test_waiting_for_an_operation_of_the_own_task_is_refused_at_once() -> None:
    async with associated() as (association, peer):

        async def nested() -> None:
            async with association.c_find(IDENTIFIER, raw=True) as matches:
                with pytest.raises(LocalProtocolError, match="C-FIND 1 is still open"):
                    await association.c_echo()
                async for _ in matches:
                    with pytest.raises(LocalProtocolError, match="collect it first"):
                        await association.c_store(instance())
                    peer.send(request.context_id, response_to(request.command, 0))
            assert (await association.c_echo()).status == 0

        task = asyncio.ensure_future(nested())
        request = await peer.message()
        peer.send(request.context_id, response_to(request.command, 0xFF00, has_data_set=True), b"1")
        echo = await peer.message()
        peer.send(1, response_to(echo.command, 0))
        await task


async def test_another_task_waits_for_an_open_query() -> None:
    async with associated() as (association, peer):
        go_on = asyncio.Event()

        async def query() -> None:
            async with association.c_find(IDENTIFIER, raw=True):
                await go_on.wait()

        task = asyncio.ensure_future(query())
        request = await peer.message()
        echo = asyncio.create_task(association.c_echo())
        peer.send(request.context_id, response_to(request.command, 0))
        echo_request = await peer.message()  # as soon as the final response is here
        peer.send(1, response_to(echo_request.command, 0))
        assert (await echo).status == 0
        go_on.set()
        await task


async def test_with_room_in_the_window_a_task_waits_for_what_others_will_end() -> None:
    async with associated(window=2) as (association, peer):

        async def nested() -> int:
            async with association.c_find(IDENTIFIER, raw=True):
                return (await association.c_echo()).status

        other = asyncio.create_task(association.c_echo())
        first = await peer.message()
        task = asyncio.ensure_future(nested())
        query = await peer.message()
        await asyncio.sleep(0.01)
        assert not task.done()  # it waits for the other task's C-ECHO
        peer.send(1, response_to(first.command, 0))
        assert (await other).status == 0
        echo = await peer.message()
        peer.send(1, response_to(echo.command, 0))
        peer.send(query.context_id, response_to(query.command, 0))
        assert await task == 0


async def test_responses_may_come_in_any_order() -> None:
    async with associated(window=4) as (association, peer):
        assert association.operations_invoked == 4
        sources = [instance(size) for size in (10, 20, 30, 40)]
        tasks = [asyncio.create_task(association.c_store(source)) for source in sources]
        requests = [await peer.message() for _ in tasks]
        status_of = {}
        for number, request in enumerate(reversed(requests)):
            status_of[request.command.affected_sop_instance_uid] = 0xB000 + number
            peer.send(request.context_id, response_to(request.command, 0xB000 + number))
        for source, task in zip(sources, tasks, strict=True):
            assert (await task).status == status_of[source.sop_instance_uid]


async def test_a_large_instance_waits_for_answers_and_small_ones_do_not_overtake_it() -> None:
    async with associated(window=16, maximum_outstanding=1000) as (association, peer):
        small = [instance(100) for _ in range(4)]
        large = instance(900)
        tasks = [
            asyncio.create_task(association.c_store(source)) for source in (*small[:2], large, *small[2:])
        ]
        first, second = await peer.message(), await peer.message()
        echo = asyncio.create_task(association.c_echo())
        asked = await peer.message()
        assert asked.command.command_field is CommandField.C_ECHO_RQ, "what has no data set goes"
        peer.send(asked.context_id, response_to(asked.command, 0))
        waiting = [first, second]
        for expected in (large, *small[2:]):
            request = waiting.pop(0)
            peer.send(request.context_id, response_to(request.command, 0))
            waiting.append(await peer.message())
            assert waiting[-1].command.affected_sop_instance_uid == expected.sop_instance_uid
        for request in waiting:
            peer.send(request.context_id, response_to(request.command, 0))
        assert [(await task).status for task in (*tasks, echo)] == [0] * 6


async def test_the_window_is_what_was_negotiated() -> None:
    async with associated(window=3) as (association, peer):
        tasks = [asyncio.create_task(association.c_echo()) for _ in range(7)]
        requests = [await peer.message() for _ in range(3)]
        await asyncio.sleep(0.01)
        assert not peer.reader._buffer  # type: ignore[attr-defined]
        for _ in range(4):
            peer.send(1, response_to(requests.pop().command, 0))
            requests.append(await peer.message())
        for request in requests:
            peer.send(1, response_to(request.command, 0))
        assert [(await task).status for task in tasks] == [0] * 7


async def test_requests_take_turns_in_their_order() -> None:
    async with associated() as (association, peer):
        sources = [instance(10) for _ in range(5)]
        tasks = [asyncio.create_task(association.c_store(source)) for source in sources]
        for source in sources:
            request = await peer.message()
            assert request.command.affected_sop_instance_uid == source.sop_instance_uid
            peer.send(request.context_id, response_to(request.command, 0))
        await asyncio.gather(*tasks)


async def test_only_one_c_get_at_a_time() -> None:
    """The C-STORE sub-operations of a C-GET do not tell which C-GET they belong to."""

    async def on_store(request: Request) -> int:
        return 0

    async with associated(window=4, contexts=GETTING) as (association, peer):
        first = asyncio.ensure_future(association.c_get(IDENTIFIER, c_store=on_store))
        request = await peer.message()
        second = asyncio.ensure_future(association.c_get(IDENTIFIER, c_store=on_store))
        echo = asyncio.create_task(association.c_echo())
        echo_request = await peer.message()
        assert echo_request.command.command_field == CommandField.C_ECHO_RQ
        peer.send(1, response_to(echo_request.command, 0))
        assert (await echo).status == 0
        peer.send(request.context_id, response_to(request.command, 0))
        assert (await first).status == 0
        request = await peer.message()
        peer.send(request.context_id, response_to(request.command, 0))
        assert (await second).status == 0


async def test_a_c_get_inside_a_c_get_of_the_own_task_is_refused() -> None:
    async def on_store(request: Request) -> int:
        return 0

    async with associated(window=4, contexts=GETTING) as (association, peer):

        async def nested() -> None:
            async with association.c_get(IDENTIFIER, c_store=on_store):
                with pytest.raises(LocalProtocolError, match="C-GET 1 is still open"):
                    await association.c_get(IDENTIFIER, c_store=on_store)

        task = asyncio.ensure_future(nested())
        request = await peer.message()
        peer.send(request.context_id, response_to(request.command, 0))
        await task


async def test_the_handler_given_to_a_c_get_serves_no_other() -> None:
    got = []

    def receiver(name: str) -> StoreHandler:
        async def on_store(request: Request) -> int:
            got.append((name, request.affected_sop_instance_uid))
            return 0

        return on_store

    async def on_get(request: Request) -> Retrieval:
        return Retrieval([instance(10, uid=f"1.2.{len(got)}")])

    contexts: list[Proposable] = [STUDY_ROOT, *retrieval_contexts([(CT, EXPLICIT_VR_LITTLE_ENDIAN)])]
    async with (
        serve("SCP@127.0.0.1:0", c_get=on_get) as server,
        associate(
            f"SCP@127.0.0.1:{server.port}", contexts=contexts, c_store=receiver("default")
        ) as association,
    ):
        association.c_get(IDENTIFIER, c_store=receiver("never started"))
        await association.c_get(IDENTIFIER, c_store=receiver("first"))
        await association.c_get(IDENTIFIER)
    assert got == [("first", "1.2.0"), ("default", "1.2.1")]


async def test_c_get_needs_a_handler() -> None:
    async with associated() as (association, _):
        with pytest.raises(LocalProtocolError, match="c_store"):
            association.c_get(IDENTIFIER)


async def test_a_response_to_another_kind_of_request_does_not_count() -> None:
    async with associated(timeouts=Timeouts(dimse=0.1)) as (association, peer):
        echo = asyncio.create_task(association.c_echo())
        request = await peer.message()
        peer.send(1, response_to(store_rq(request.command.message_id or 0), 0))
        with pytest.raises(AssociationTimeout):
            await echo


async def test_a_response_that_does_not_come_ends_the_association() -> None:
    async with associated(timeouts=Timeouts(dimse=60)) as (association, peer):
        with pytest.raises(AssociationTimeout) as caught:
            await association.c_echo(timeout=0.05)
        assert caught.value.which == "dimse"
        await peer.message()
        assert await peer.pdu() == ABORTED_BY_USER
        assert not association.is_established


async def test_each_pending_response_gives_the_peer_new_time() -> None:
    async with associated(timeouts=Timeouts(dimse=0.15)) as (association, peer):
        task = asyncio.ensure_future(association.c_find(IDENTIFIER, raw=True))
        request = await peer.message()
        for number in range(4):
            await asyncio.sleep(0.06)
            peer.send(
                request.context_id, response_to(request.command, 0xFF00, has_data_set=True), b"%d" % number
            )
        peer.send(request.context_id, response_to(request.command, 0))
        assert await task == [b"0", b"1", b"2", b"3"]


async def test_the_response_timer_waits_until_the_request_has_left() -> None:
    async with associated(timeouts=Timeouts(dimse=0.15)) as (association, peer):
        peer.reader._transport.pause_reading()  # type: ignore[attr-defined]
        task = asyncio.create_task(association.c_store(instance(20_000_000)))
        await asyncio.sleep(0.25)
        assert not task.done()
        peer.reader._transport.resume_reading()  # type: ignore[attr-defined]
        request = await peer.message()
        peer.send(request.context_id, response_to(request.command, 0))
        assert (await task).status == 0


# what it tells


async def test_what_was_negotiated_can_be_seen() -> None:
    contexts: list[Proposable] = [PresentationContext(CT, ("1.2.840.10008.1.2.4.50",)), VERIFICATION]
    async with serve("SCP@127.0.0.1:0") as server:
        address = f"SCP@127.0.0.1:{server.port}"
        async with associate(address, calling_ae_title="ME", contexts=contexts) as association:
            assert (association.calling_ae_title, association.called_ae_title) == ("ME", "SCP")
            assert [c.abstract_syntax for c in association.contexts.values()] == [VERIFICATION]
            assert list(association.contexts) == [3]
            assert association.operations_invoked == OPERATIONS
            assert association.peer == ("127.0.0.1", server.port)
            assert association.get_extra_info("socket") is not None
            assert "ME -> SCP" in repr(association)
            assert "established" in repr(association)
            with pytest.raises(PresentationContextError):
                await association.c_store(instance())
    assert "closed" in repr(association)


async def test_a_bound_is_set_to_the_list_of_matches() -> None:
    async def on_find(request: Request) -> AsyncIterator[bytes]:
        while True:
            yield IDENTIFIER

    async with (
        serve("SCP@127.0.0.1:0", c_find=on_find) as server,
        associate(f"SCP@127.0.0.1:{server.port}", contexts=[STUDY_ROOT]) as association,
    ):
        with pytest.raises(Exception, match="more than 10 matches"):
            await association.c_find(IDENTIFIER, raw=True, maximum_matches=10)
        assert association.is_established


async def test_a_source_that_stalls_does_not_hide_the_loss_of_the_association() -> None:
    reached = asyncio.Event()

    class Stalling(BytesSource):
        async def open(self) -> AsyncGenerator[list[bytes], None]:
            yield [bytes(1000)]
            reached.set()
            await asyncio.Event().wait()

    source = Stalling(CT, "1.2.3", EXPLICIT_VR_LITTLE_ENDIAN, b"")
    contexts = [PresentationContext(CT, (EXPLICIT_VR_LITTLE_ENDIAN,))]
    async with associated(contexts=contexts) as (association, peer):
        sending = asyncio.ensure_future(association.c_store(source))
        await reached.wait()
        peer.reset()
        done, _ = await asyncio.wait([sending], timeout=5)
        assert done
        with pytest.raises(AssociationClosed):
            await sending
