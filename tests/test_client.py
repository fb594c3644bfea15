"""`associate`: what happens when there is nobody, or somebody else, or nothing comes."""

from __future__ import annotations

import asyncio
import socket

import pytest
from helpers.peer import (
    ABORT,
    ABORTED_BY_USER,
    CT,
    EOF,
    ONE_AT_A_TIME,
    PATIENCE,
    aborted,
    listening,
    nothing_left,  # noqa: F401
)

from asyncdicom import (
    STORAGE,
    VERIFICATION,
    Address,
    AssociationAborted,
    AssociationClosed,
    AssociationError,
    AssociationRejected,
    AssociationReleased,
    AssociationTimeout,
    Limits,
    LocalProtocolError,
    PresentationContextError,
    Timeouts,
    UserIdentity,
    associate,
    serve,
)
from asyncdicom.ul.pdu import AAssociateRJ, AAssociateRQ


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


async def test_nobody_listens() -> None:
    with pytest.raises(AssociationClosed, match=r"connection refused; is the peer running"):
        await associate(f"SCP@127.0.0.1:{unused_port()}")


async def test_an_unknown_host() -> None:
    with pytest.raises(AssociationClosed, match=r"SCP@no\.such\.host\.invalid"):
        await associate("SCP@no.such.host.invalid:104")


async def test_a_peer_that_takes_no_connection() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        fillers = []
        for _ in range(4):  # until the queue of the system is full
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
            fillers.append(filler)
        with pytest.raises(AssociationTimeout, match=r"no connection within 0\.05 s") as caught:
            await associate(f"SCP@127.0.0.1:{port}", timeouts=Timeouts(connect=0.05))
        assert caught.value.which == "connect"
        for filler in fillers:
            filler.close()


async def test_a_peer_that_does_not_answer_the_request() -> None:
    async with listening() as listener:
        task = asyncio.ensure_future(
            associate(f"SCP@127.0.0.1:{listener.port}", timeouts=Timeouts(acse=0.05), limits=ONE_AT_A_TIME)
        )
        peer = await listener.peer()
        await peer.requested()
        assert await peer.pdu() == ABORTED_BY_USER
        await peer.close()
        with pytest.raises(AssociationTimeout) as caught:
            await task
        assert caught.value.which == "acse"


async def test_a_failure_leaves_nothing_open_even_where_the_peer_does_not_close() -> None:
    async with listening() as listener:
        with pytest.raises(AssociationTimeout):
            await associate(
                f"SCP@127.0.0.1:{listener.port}", timeouts=Timeouts(acse=0.05), limits=ONE_AT_A_TIME
            )
        peer = await listener.peer()
        await peer.requested()
        assert await peer.pdu() == ABORTED_BY_USER
        assert await peer.pdu() == EOF


async def test_a_rejection_is_told_in_words_and_numbers() -> None:
    async with listening() as listener:
        task = asyncio.ensure_future(associate(f"SCP@127.0.0.1:{listener.port}"))
        peer = await listener.peer()
        await peer.requested()
        peer.write(AAssociateRJ(2, 3, 1).encode())
        with pytest.raises(
            AssociationRejected, match=r"transiently: temporary congestion \(2/3/1\)"
        ) as caught:
            await task
        assert (caught.value.result, caught.value.source, caught.value.reason) == (2, 3, 1)
        assert await peer.pdu() == EOF


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"", AssociationClosed),
        (ABORT, AssociationAborted),
        (bytes.fromhex("0700 00000004 00000201"), AssociationAborted),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", AssociationAborted),
        (b"\x15\x03\x03\x00\x02\x02\x46", AssociationAborted),  # a TLS alert
    ],
)
async def test_another_end_than_an_answer(answer: bytes, expected: type[AssociationError]) -> None:
    async with listening() as listener:
        task = asyncio.ensure_future(associate(f"SCP@127.0.0.1:{listener.port}", limits=ONE_AT_A_TIME))
        peer = await listener.peer()
        await peer.requested()
        peer.write(answer)
        await peer.close()
        with pytest.raises(expected):
            await task


async def test_an_answer_that_nobody_asked_for_is_a_violation() -> None:
    """An accepted context that was not proposed (I-19)."""
    async with listening() as listener:
        task = asyncio.ensure_future(associate(f"SCP@127.0.0.1:{listener.port}"))
        peer = await listener.peer()
        request = await peer.requested()
        proposed = request.presentation_contexts[0]
        more = (proposed, proposed._replace(context_id=3))
        peer.request = None
        peer.write(accept_all(request._replace(presentation_contexts=more)))
        assert await peer.pdu() == aborted(2, 6)
        await peer.close()
        with pytest.raises(AssociationAborted, match="context 3"):
            await task


def accept_all(request: AAssociateRQ) -> bytes:
    from asyncdicom.ul.negotiation import ANY_TRANSFER_SYNTAX, Policy, answer

    verdict = answer(
        request, Policy({c.abstract_syntax: ANY_TRANSFER_SYNTAX for c in request.presentation_contexts})
    )
    assert not isinstance(verdict, AAssociateRJ)
    return verdict[0].encode()


@pytest.mark.parametrize("when", ["at once", "while connecting", "while waiting for the answer"])
async def test_cancelled_everything_that_was_opened_is_closed(when: str) -> None:
    async with listening() as listener:
        task = asyncio.ensure_future(associate(f"SCP@127.0.0.1:{listener.port}"))
        if when != "at once":
            await asyncio.sleep(0)
        if when == "while waiting for the answer":
            peer = await listener.peer()
            await peer.requested()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        if when == "while waiting for the answer":
            while (pdu := await peer.pdu()) != EOF:  # uvloop may have closed it before we could say something
                assert pdu == ABORTED_BY_USER


async def test_a_timeout_around_it_is_a_cancellation() -> None:
    async with listening() as listener:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await associate(f"SCP@127.0.0.1:{listener.port}")
        peer = await listener.peer()
        await peer.requested()
        assert await peer.pdu() == ABORTED_BY_USER
        assert await peer.pdu() == EOF


async def test_what_is_asked_for_is_what_was_said() -> None:
    identity = UserIdentity(1, b"ana")
    async with listening() as listener:
        task = asyncio.ensure_future(
            associate(
                Address("CALLED", "127.0.0.1", listener.port),
                calling_ae_title=" CALLING ",
                contexts=[VERIFICATION, CT, VERIFICATION],
                limits=Limits(maximum_length=12346, operations_invoked=3, operations_performed=2),
                user_identity=identity,
            )
        )
        peer = await listener.peer()
        request = await peer.accept()
        association = await task
        assert (request.called_ae_title, request.calling_ae_title) == ("CALLED", "CALLING")
        assert [c.abstract_syntax for c in request.presentation_contexts] == [VERIFICATION, CT]
        assert request.user_information.maximum_length == 12346
        assert request.user_information.operations_window == (3, 2)
        assert request.user_information.user_identity == identity
        peer.reset()
        await association.wait_closed()


@pytest.mark.parametrize("wrong", [" ", "A" * 17, "A\\B", "Ä"])
def test_an_impossible_ae_title_is_refused_before_anything_is_opened(wrong: str) -> None:
    with pytest.raises(ValueError, match="AE title"):
        associate("SCP@127.0.0.1:104", calling_ae_title=wrong)


def test_too_many_contexts_are_refused_before_anything_is_opened() -> None:
    assert len(STORAGE) > 128
    with pytest.raises(LocalProtocolError):
        associate("SCP@127.0.0.1:104", contexts=STORAGE)
    with pytest.raises(LocalProtocolError):
        associate("SCP@127.0.0.1:104", contexts=[])


async def test_where_no_context_is_accepted_each_call_tells() -> None:
    async with serve("SCP@127.0.0.1:0") as server:
        async with associate(f"SCP@127.0.0.1:{server.port}", contexts=[CT]) as association:
            assert not association.contexts
            with pytest.raises(PresentationContextError, match="Verification"):
                await association.c_echo()


async def test_an_idle_requestor_releases() -> None:
    async with serve("SCP@127.0.0.1:0") as server:
        association = await associate(f"SCP@127.0.0.1:{server.port}", timeouts=Timeouts(idle=0.05))
        async with asyncio.timeout(PATIENCE):
            await association.wait_closed()
        with pytest.raises(AssociationReleased):
            await association.c_echo()


async def test_the_trace_sees_both_directions() -> None:
    seen: list[tuple[str, str]] = []

    def trace(direction: str, what: object) -> None:
        seen.append((direction, getattr(what, "name", type(what).__name__)))

    async with serve("SCP@127.0.0.1:0") as server:
        async with associate(f"SCP@127.0.0.1:{server.port}", trace=trace) as association:
            await association.c_echo()
    assert [what for what in seen if "C-ECHO" in what[1]] == [
        ("sent", "C-ECHO-RQ"),
        ("received", "C-ECHO-RSP"),
    ]
    assert ("received", "AssociateConfirmation") in seen
