"""C-GET and C-MOVE from end to end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

import pytest
from helpers.peer import ABORT, CT, IDENTIFIER, MR, instance, listening

from asyncdicom import (
    STUDY_ROOT,
    VERIFICATION,
    AcceptedContext,
    Address,
    AssociationAborted,
    BytesSource,
    PresentationContextError,
    Proposable,
    Request,
    Response,
    Retrieval,
    Status,
    StatusError,
    associate,
    retrieval_contexts,
    serve,
)
from asyncdicom.dimse.messages import response_to
from asyncdicom.services.retrieve import RetrieveOperation, RetrieveResult
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN

PAIRS = [(CT, EXPLICIT_VR_LITTLE_ENDIAN)]
CONTEXTS: list[Proposable] = [VERIFICATION, STUDY_ROOT, *retrieval_contexts(PAIRS)]


def address(server: Any) -> str:
    return f"SCP@127.0.0.1:{server.port}"


class Store:
    """A handler that keeps what it gets, and answers in turn."""

    def __init__(self, *answers: int) -> None:
        self.answers = list(answers)
        self.data: dict[str, bytes] = {}
        self.requests: list[Request] = []

    async def __call__(self, request: Request) -> int:
        self.requests.append(request)
        self.data[request.affected_sop_instance_uid] = await request.data.read()
        return self.answers.pop(0) if self.answers else 0


def giving(*sources: BytesSource) -> Any:
    async def handler(request: Request) -> Retrieval:
        assert await request.data.read() == IDENTIFIER
        return Retrieval(sources)

    return handler


async def test_c_get_brings_the_instances_on_the_same_association() -> None:
    sources = [instance(size) for size in (10, 0, 700_000)]
    store = Store()
    async with (
        serve("SCP@127.0.0.1:0", c_get=giving(*sources)) as server,
        associate(address(server), contexts=CONTEXTS) as association,
    ):
        async with association.c_get(IDENTIFIER, information_model=STUDY_ROOT, c_store=store) as retrieval:
            progress = [step async for step in retrieval]
        assert retrieval.status == Status.SUCCESS
        assert [(p.remaining, p.completed, p.total) for p in progress] == [(2, 1, 3), (1, 2, 3)]
        assert retrieval.result == (Status.SUCCESS, 3, 0, 0, (), None)
        assert (await association.c_echo()).status == 0
    assert store.data == {source.sop_instance_uid: source.data for source in sources}
    assert all(request.command.move_originator_ae_title is None for request in store.requests)


async def test_c_get_can_be_awaited_and_use_the_handler_of_the_association() -> None:
    store, source = Store(), instance(10)
    async with (
        serve("SCP@127.0.0.1:0", c_get=giving(source)) as server,
        associate(address(server), contexts=CONTEXTS, c_store=store) as association,
    ):
        result = await association.c_get(IDENTIFIER)
    assert (result.status, result.completed) == (Status.SUCCESS, 1)
    assert list(store.data) == [source.sop_instance_uid]


async def test_roles_are_per_context() -> None:
    async with serve("SCP@127.0.0.1:0", c_get=giving(), c_store=Store()) as server:
        contexts: list[Proposable] = [CT, *retrieval_contexts([(MR, EXPLICIT_VR_LITTLE_ENDIAN)])]
        async with associate(address(server), contexts=contexts) as association:
            roles = {c.abstract_syntax: (c.as_scu, c.as_scp) for c in association.contexts.values()}
            assert all(isinstance(context, AcceptedContext) for context in association.contexts.values())
    assert roles == {CT: (True, False), MR: (False, True)}


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([0, 0, 0], (0x0000, 3, 0, 0, 0)),
        ([0, 0xA700, 0], (0xB000, 2, 1, 0, 1)),
        ([0, 0xB000, 0], (0xB000, 2, 0, 1, 0)),
        ([0xA700, 0xC000, 0x0110], (0xA702, 0, 3, 0, 3)),
    ],
)
async def test_the_final_status_tells_how_the_sub_operations_went(
    answers: list[int], expected: tuple[int, ...]
) -> None:
    sources = [instance(10) for _ in answers]
    store = Store(*answers)
    async with (
        serve("SCP@127.0.0.1:0", c_get=giving(*sources)) as server,
        associate(address(server), contexts=CONTEXTS) as association,
    ):
        retrieval = association.c_get(IDENTIFIER, c_store=store)
        with suppress(StatusError):
            await retrieval
        result = retrieval.result
    assert (result.status, result.completed, result.failed, result.warning) == expected[:4]
    failed = [s.sop_instance_uid for s, a in zip(sources, answers, strict=True) if Status(a).is_failure]
    assert list(result.failed_sop_instance_uids) == failed
    assert len(failed) == expected[4]


async def test_what_no_context_takes_is_counted_as_failed() -> None:
    store = Store()
    good, bad = instance(10), instance(10, sop_class=MR)
    async with (
        serve("SCP@127.0.0.1:0", c_get=giving(bad, good)) as server,
        associate(address(server), contexts=CONTEXTS) as association,
    ):
        result = await association.c_get(IDENTIFIER, c_store=store)
    assert (result.status, result.completed, result.failed) == (0xB000, 1, 1)
    assert result.failed_sop_instance_uids == (bad.sop_instance_uid,)


async def test_a_source_that_cannot_be_read_is_counted_as_failed() -> None:
    class Broken(BytesSource):
        async def open(self) -> AsyncGenerator[list[bytes], None]:
            raise OSError("the disk is gone")
            yield []

    store = Store()
    broken = Broken(CT, "1.2.3", EXPLICIT_VR_LITTLE_ENDIAN, b"")
    async with (
        serve("SCP@127.0.0.1:0", c_get=giving(broken, instance(10))) as server,
        associate(address(server), contexts=CONTEXTS) as association,
    ):
        result = await association.c_get(IDENTIFIER, c_store=store)
    assert (result.status, result.completed, result.failed) == (0xB000, 1, 1)


async def test_nothing_to_send_is_success() -> None:
    async with (
        serve(
            "SCP@127.0.0.1:0", c_get=giving(), c_move=giving(), destinations={"WS": "127.0.0.1:1"}
        ) as server,
        associate(address(server), contexts=CONTEXTS) as association,
    ):
        assert (await association.c_get(IDENTIFIER, c_store=Store())).status == 0
        assert (await association.c_move(IDENTIFIER, move_destination="WS")).status == 0


async def test_a_handler_may_answer_instead() -> None:
    async def on_get(request: Request) -> Response:
        return Response(0xA701, error_comment="index is being built")

    async with (
        serve("SCP@127.0.0.1:0", c_get=on_get) as server,
        associate(address(server), contexts=CONTEXTS) as association,
    ):
        with pytest.raises(StatusError, match="index is being built"):
            await association.c_get(IDENTIFIER, c_store=Store())


@pytest.mark.parametrize("kind", ["c_get", "c_move"])
async def test_c_cancel_ends_between_two_instances(kind: str) -> None:
    store = Store()
    sources = [instance(10) for _ in range(500)]
    async with serve("WS@127.0.0.1:0", c_store=store) as ws:
        destinations = {"WS": f"127.0.0.1:{ws.port}"}
        give = giving(*sources)
        async with (
            serve("SCP@127.0.0.1:0", c_get=give, c_move=give, destinations=destinations) as server,
            associate(address(server), contexts=CONTEXTS) as association,
        ):
            retrieval = (
                association.c_get(IDENTIFIER, c_store=store)
                if kind == "c_get"
                else association.c_move(IDENTIFIER, move_destination="WS")
            )
            async with retrieval:
                async for progress in retrieval:
                    assert progress.total == 500
                    break
            assert retrieval.status == Status.CANCEL
            assert 1 <= retrieval.result.completed < 500
            assert retrieval.response is not None
            assert retrieval.response.command is not None
            remaining = retrieval.response.command.number_of_remaining_sub_operations
            assert remaining == 500 - retrieval.result.completed
            assert (await association.c_echo()).status == 0
    assert len(store.data) == retrieval.result.completed


async def test_c_move_sends_to_the_destination() -> None:
    sources = [instance(10), instance(300_000, sop_class=MR), instance(0)]
    store = Store()
    async with (
        serve("WS@127.0.0.1:0", c_store=store) as ws,
        serve(
            "SCP@127.0.0.1:0",
            c_move=giving(*sources),
            destinations={"WS": f"127.0.0.1:{ws.port}"},
        ) as server,
        associate(address(server), contexts=CONTEXTS, calling_ae_title="ME") as association,
    ):
        async with association.c_move(IDENTIFIER, move_destination="WS") as retrieval:
            steps = [(p.remaining, p.completed) async for p in retrieval]
    assert steps == [(2, 1), (1, 2)]
    assert retrieval.result == (Status.SUCCESS, 3, 0, 0, (), None)
    assert store.data == {source.sop_instance_uid: source.data for source in sources}
    first = store.requests[0]
    assert (first.calling_ae_title, first.called_ae_title) == ("SCP", "WS")
    assert first.command.move_originator_ae_title == "ME"
    assert first.command.move_originator_message_id == 1


async def test_an_unknown_destination() -> None:
    async with (
        serve("SCP@127.0.0.1:0", c_move=giving(instance()), destinations={"WS": "127.0.0.1:1"}) as server,
        associate(address(server), contexts=CONTEXTS) as association,
    ):
        with pytest.raises(StatusError) as caught:
            await association.c_move(IDENTIFIER, move_destination="ELSEWHERE")
        assert caught.value.status == Status.MOVE_DESTINATION_UNKNOWN
        assert (await association.c_echo()).status == 0


async def test_destinations_may_be_found_by_a_function() -> None:
    store = Store()
    async with serve("WS@127.0.0.1:0", c_store=store) as ws:

        def find(request: Request) -> Address | None:
            allowed = request.calling_ae_title == "ME"
            return Address(request.move_destination, "127.0.0.1", ws.port) if allowed else None

        async with serve("SCP@127.0.0.1:0", c_move=giving(instance()), destinations=find) as server:
            async with associate(address(server), contexts=CONTEXTS, calling_ae_title="ME") as association:
                assert (await association.c_move(IDENTIFIER, move_destination="ANY")).completed == 1
            async with associate(address(server), contexts=CONTEXTS) as association:
                with pytest.raises(StatusError):
                    await association.c_move(IDENTIFIER, move_destination="ANY")


async def test_a_destination_that_is_not_there() -> None:
    sources = [instance(), instance()]
    async with listening() as listener:
        port = listener.port
    async with (
        serve("SCP@127.0.0.1:0", c_move=giving(*sources), destinations={"WS": f"127.0.0.1:{port}"}) as server,
        associate(address(server), contexts=CONTEXTS) as association,
    ):
        retrieval = association.c_move(IDENTIFIER, move_destination="WS")
        with pytest.raises(StatusError) as caught:
            await retrieval
        assert caught.value.status == Status.UNABLE_TO_PERFORM_SUB_OPERATIONS
        assert retrieval.result.failed == 2
        assert set(retrieval.failed_sop_instance_uids) == {s.sop_instance_uid for s in sources}
        assert (await association.c_echo()).status == 0


async def test_a_destination_that_is_lost_on_the_way_gets_the_rest_over_another_association() -> None:
    sources = [instance() for _ in range(5)]
    stored = []

    async def unsteady(request: Request) -> int:
        await request.data.read()
        stored.append(request.affected_sop_instance_uid)
        if len(stored) == 2:
            await request.association.abort()
        return 0

    async with (
        serve("WS@127.0.0.1:0", c_store=unsteady) as ws,
        serve(
            "SCP@127.0.0.1:0", c_move=giving(*sources), destinations={"WS": f"127.0.0.1:{ws.port}"}
        ) as server,
        associate(address(server), contexts=CONTEXTS) as association,
    ):
        result = await association.c_move(IDENTIFIER, move_destination="WS")
    assert result[:5] == (0, 5, 0, 0, ())
    assert stored.count(stored[1]) == 2, "nobody knows whether it has arrived: it is sent again"
    assert len(stored) == 6


async def test_when_the_requestor_leaves_its_move_ends() -> None:
    seen = asyncio.Event()
    ended = asyncio.Event()

    async def slow(request: Request) -> int:
        seen.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return 0

    async with (
        serve("WS@127.0.0.1:0", c_store=slow) as ws,
        serve(
            "SCP@127.0.0.1:0", c_move=giving(instance()), destinations={"WS": f"127.0.0.1:{ws.port}"}
        ) as server,
    ):
        association = await associate(address(server), contexts=CONTEXTS)
        moving = asyncio.ensure_future(association.c_move(IDENTIFIER, move_destination="WS"))
        await seen.wait()
        await association.abort()
        with pytest.raises(Exception, match="aborted"):
            await moving
        await asyncio.wait_for(ended.wait(), 3)


async def test_more_than_128_contexts_need_more_than_one_association() -> None:
    """One for each kind as it is, and one as Implicit VR Little Endian."""
    from asyncdicom import STORAGE

    sources = [instance(10, sop_class=sop_class) for sop_class in STORAGE[:140]]
    store = Store()
    async with (
        serve("WS@127.0.0.1:0", c_store=store) as ws,
        serve(
            "SCP@127.0.0.1:0", c_move=giving(*sources), destinations={"WS": f"127.0.0.1:{ws.port}"}
        ) as server,
        associate(address(server), contexts=CONTEXTS) as association,
    ):
        result = await association.c_move(IDENTIFIER, move_destination="WS")
    assert (result.status, result.completed) == (0, 140)
    assert len({id(request.association) for request in store.requests}) == 3


async def test_the_result_is_there_when_it_has_ended() -> None:
    async with (
        serve("SCP@127.0.0.1:0", c_get=giving()) as server,
        associate(address(server), contexts=CONTEXTS) as association,
    ):
        async with association.c_get(IDENTIFIER, c_store=Store()) as retrieval:
            with pytest.raises(Exception, match="not ended"):
                _ = retrieval.result
        assert retrieval.result.status == 0


class Lazy:
    """Sources that are made when it is their turn; None: gone meanwhile."""

    def __init__(self, *sources: BytesSource | None, number: int = 0) -> None:
        self.sources = sources
        self.number = number or len(sources)
        self.given = 0

    @property
    def kinds(self) -> set[tuple[str, str]]:
        return {(s.sop_class_uid, s.transfer_syntax_uid) for s in self.sources if s is not None}

    def __len__(self) -> int:
        return self.number

    async def __aiter__(self) -> AsyncGenerator[BytesSource | None, None]:
        for source in self.sources:
            self.given += 1
            yield source


@pytest.mark.parametrize("verb", ["c_get", "c_move"])
async def test_sources_are_made_while_they_are_sent_and_what_is_gone_has_failed(verb: str) -> None:
    sources, ended = Lazy(instance(10), None, instance(0, sop_class=MR)), list[int]()
    store = Store()

    async def give(request: Request) -> Retrieval:
        return Retrieval(sources, lambda: ended.append(sources.given))

    async with serve("WS@127.0.0.1:0", c_store=store) as ws:
        options: dict[str, Any] = {verb: give}
        if verb == "c_move":
            options["destinations"] = {"WS": f"127.0.0.1:{ws.port}"}
        pairs = [*PAIRS, (MR, EXPLICIT_VR_LITTLE_ENDIAN)]
        async with (
            serve("SCP@127.0.0.1:0", **options) as server,
            associate(address(server), contexts=[STUDY_ROOT, *retrieval_contexts(pairs)]) as association,
        ):
            if verb == "c_get":
                retrieval = association.c_get(IDENTIFIER, c_store=store)
            else:
                retrieval = association.c_move(IDENTIFIER, move_destination="WS")
            result = await retrieval
    assert result[:5] == (0xB000, 2, 1, 0, ())
    assert result.error_comment == "an instance is not there any more"
    assert retrieval.response is not None
    assert retrieval.response.error_comment == "an instance is not there any more"
    assert len(store.data) == 2
    assert ended == [3]


async def test_without_their_contexts_a_c_get_fails_without_a_message_for_each_instance() -> None:
    sources = Lazy(*(instance(1) for _ in range(2000)))

    async def give(request: Request) -> Retrieval:
        return Retrieval(sources)

    async with (
        serve("SCP@127.0.0.1:0", c_get=give) as server,
        associate(
            address(server), contexts=[STUDY_ROOT, *retrieval_contexts([(MR, EXPLICIT_VR_LITTLE_ENDIAN)])]
        ) as association,
    ):
        retrieval = association.c_get(IDENTIFIER, c_store=Store())
        with suppress(StatusError):
            async with retrieval:
                progress = [step async for step in retrieval]
        assert progress == []
    result = retrieval.result
    assert (result.status, result.completed, result.failed) == (0xA702, 0, 2000)
    assert 0 < sum(len(uid) + 1 for uid in result.failed_sop_instance_uids) <= 65535
    assert retrieval.response is not None
    assert retrieval.response.error_comment == "an instance has no presentation context"


async def test_a_c_get_that_can_bring_nothing_is_refused_before_it_is_asked() -> None:
    async with (
        serve("SCP@127.0.0.1:0", c_get=giving(instance(1))) as server,
        associate(address(server), contexts=[STUDY_ROOT]) as association,
    ):
        with pytest.raises(PresentationContextError, match="propose some by retrieval_contexts"):
            await association.c_get(IDENTIFIER, c_store=Store())


async def test_a_cancel_while_the_next_source_is_looked_up_tells_what_was_done() -> None:
    looking, store = asyncio.Event(), Store()

    class Slow(Lazy):
        async def __aiter__(self) -> AsyncGenerator[BytesSource | None, None]:
            yield instance(1)
            yield instance(1)
            looking.set()
            await asyncio.Event().wait()

    async def give(request: Request) -> Retrieval:
        return Retrieval(Slow(instance(1), number=10))

    async with (
        serve("SCP@127.0.0.1:0", c_get=give) as server,
        associate(address(server), contexts=CONTEXTS) as association,
    ):
        async with association.c_get(IDENTIFIER, c_store=store) as retrieval:
            await looking.wait()
            await retrieval.cancel()
            async for _ in retrieval:
                pass
        assert retrieval.status == Status.CANCEL
        assert retrieval.response is not None
        assert retrieval.response.command is not None
        assert retrieval.response.command.number_of_completed_sub_operations == len(store.data)
        assert (await association.c_echo()).status == 0


async def test_an_error_in_the_middle_of_a_retrieval_has_the_progress() -> None:
    """Each of several operations has its own, though one association has failed for all of them."""
    async with listening() as listener:
        connecting = asyncio.ensure_future(
            associate(f"SCP@127.0.0.1:{listener.port}", contexts=[STUDY_ROOT, VERIFICATION])
        )
        peer = await listener.peer()
        await peer.accept()
        association = await connecting
        moving = asyncio.ensure_future(_whole(association.c_move(IDENTIFIER, move_destination="WS")))
        context_id, request, _ = await peer.message()
        for done in (1, 2):
            counters = {"number_of_remaining_sub_operations": 5 - done}
            counters["number_of_completed_sub_operations"] = done
            peer.send(context_id, response_to(request, 0xFF00, **counters))
        echoing = asyncio.ensure_future(association.c_echo())
        peer.write(ABORT)
        with pytest.raises(AssociationAborted) as moved:
            await moving
        with pytest.raises(AssociationAborted) as echoed:
            await echoing
        assert moved.value.result[:2] == (3, 2)
        assert echoed.value.result is None
        assert str(moved.value) == str(echoed.value)


async def _whole(operation: RetrieveOperation) -> RetrieveResult:
    return await operation


async def test_a_failure_of_a_retrieval_has_its_result() -> None:
    source = instance(10)
    async with (
        serve("SCP@127.0.0.1:0", c_get=giving(source)) as server,
        associate(address(server), contexts=CONTEXTS) as association,
    ):
        with pytest.raises(StatusError) as caught:
            await association.c_get(IDENTIFIER, c_store=Store(0xA700))
        assert caught.value.result[:5] == (0xA702, 0, 1, 0, (source.sop_instance_uid,))
