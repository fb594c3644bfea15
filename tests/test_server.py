"""`serve`: who gets in, what is refused, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
from helpers.peer import (
    ABORT,
    ABORTED_BY_USER,
    CT,
    EOF,
    IDENTIFIER,
    RELEASE_RP,
    RELEASE_RQ,
    STUDY_CONTEXTS,
    Peer,
    aborted,
    echo_rq,
    eventually,
    find_rq,
    fragments,
    instance,
    message,
    nothing_left,  # noqa: F401
    store_rq,
)

from asyncdicom import (
    STUDY_ROOT,
    VERIFICATION,
    AccessPolicy,
    Association,
    AssociationClosed,
    AssociationError,
    AssociationRejected,
    AssociationTimeout,
    Limits,
    PresentationContext,
    Proposable,
    Request,
    Server,
    Timeouts,
    UserIdentity,
    associate,
    serve,
)
from asyncdicom.dimse.messages import encode

RELEASED = (6, bytes(4))


def address(server: Any, ae_title: str = "SCP") -> str:
    return f"{ae_title}@127.0.0.1:{server.port}"


def has_no_associations(server: Server) -> bool:
    return server.associations == 0


async def on_store(request: Request) -> int:
    await request.data.read(1 << 30)
    return 0


# listening


async def test_port_0_takes_a_free_one() -> None:
    async with serve("SCP@127.0.0.1:0") as one, serve("SCP@127.0.0.1:0") as other:
        assert one.port != other.port
        assert (one.ae_title, one.host) == ("SCP", "127.0.0.1")


async def test_it_can_be_awaited_and_closed_twice() -> None:
    server = await serve("SCP@127.0.0.1:0")
    await server.close()
    await server.close()
    with pytest.raises(AssociationClosed, match="refused"):
        await associate(address(server))


async def test_a_port_in_use_is_told_in_one_line() -> None:
    async with serve("SCP@127.0.0.1:0") as server:
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{server.port}"):
            await serve(f"SCP@127.0.0.1:{server.port}")


async def test_a_socket_can_be_given() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    async with serve("SCP@127.0.0.1:0", sock=listener) as server:
        assert server.port == listener.getsockname()[1]
        async with associate(address(server)) as association:
            assert (await association.c_echo()).status == 0


async def test_a_port_can_be_shared() -> None:
    async with serve("SCP@127.0.0.1:0", reuse_port=True) as one:
        async with serve(f"SCP@127.0.0.1:{one.port}", reuse_port=True) as other:
            assert other.port == one.port


async def test_ipv6() -> None:
    try:
        probe = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 here")
    probe.close()
    async with serve("SCP@[::1]:0") as server, associate(f"SCP@[::1]:{server.port}") as association:
        assert (await association.c_echo()).status == 0
        assert f"([::1]:{server.port})" in repr(association)


@pytest.mark.parametrize("wrong", ["SCP@host:port", "SCP@127.0.0.1:99999", "A" * 17 + "@127.0.0.1:0"])
def test_an_impossible_address_is_refused_at_once(wrong: str) -> None:
    with pytest.raises(ValueError):
        serve(wrong)
    with pytest.raises(ValueError):
        associate(wrong)


# who gets in


async def test_the_called_ae_title_is_checked_when_asked_for() -> None:
    async with serve("SCP@127.0.0.1:0", access=AccessPolicy(called_ae_titles="SCP")) as server:
        with pytest.raises(AssociationRejected) as caught:
            await associate(address(server, "OTHER"))
        assert (caught.value.result, caught.value.source, caught.value.reason) == (1, 1, 7)
        async with associate(address(server)) as association:
            assert (await association.c_echo()).status == 0
    async with serve("SCP@127.0.0.1:0") as server, associate(address(server, "OTHER")) as association:
        assert association.is_established


async def test_the_calling_ae_title_is_checked_when_asked_for() -> None:
    async with serve("SCP@127.0.0.1:0", access={"WS1", "WS2"}) as server:
        with pytest.raises(AssociationRejected) as caught:
            await associate(address(server), calling_ae_title="ws1")
        assert (caught.value.result, caught.value.source, caught.value.reason) == (1, 1, 3)
        async with associate(address(server), calling_ae_title="WS1") as association:
            assert association.is_established


async def test_more_associations_than_allowed_are_refused() -> None:
    async with serve("SCP@127.0.0.1:0", limits=Limits(maximum_associations=2)) as server:
        async with associate(address(server)), associate(address(server)):
            assert server.associations == 2
            with pytest.raises(AssociationRejected) as caught:
                await associate(address(server))
            assert (caught.value.result, caught.value.source, caught.value.reason) == (2, 3, 2)
        await eventually(lambda: server.associations == 0)
        async with associate(address(server)):
            pass


async def test_silent_connections_make_room_for_those_that_ask() -> None:
    async with serve("SCP@127.0.0.1:0", limits=Limits(maximum_not_associated=3)) as server:
        silent = [await Peer.connect(server.port) for _ in range(3)]
        async with associate(address(server)) as association:
            assert association.is_established
        assert await silent[0].pdu() == EOF
        for peer in silent:
            await peer.close()


async def test_associations_do_not_count_as_connections_without_one() -> None:
    async with serve("SCP@127.0.0.1:0", limits=Limits(maximum_not_associated=1)) as server:
        async with associate(address(server)), associate(address(server)), associate(address(server)):
            assert server.associations == 3


# the user identity


USER = UserIdentity(2, b"ana", b"secret", positive_response_requested=True)


async def test_the_user_identity_is_judged() -> None:
    seen = []

    async def check(request: Any, identity: UserIdentity | None) -> bool:
        seen.append(identity)
        await asyncio.sleep(0)
        return identity is not None and identity.secondary == b"secret"

    async with serve("SCP@127.0.0.1:0", access=AccessPolicy(user_identity=check)) as server:
        async with associate(address(server), user_identity=USER) as association:
            assert (await association.c_echo()).status == 0
        for wrong in (None, USER._replace(secondary=b"guess")):
            with pytest.raises(AssociationRejected) as caught:
                await associate(address(server), user_identity=wrong)
            assert (caught.value.result, caught.value.source, caught.value.reason) == (1, 1, 1)
        assert server.associations <= 1
    assert seen[0] is not None
    assert (seen[0].primary, seen[0].secondary) == (b"ana", b"secret")


async def test_a_server_response_to_the_identity_can_be_sent() -> None:
    async def check(request: Any, identity: UserIdentity | None) -> bytes:
        return b"ticket"

    async with serve("SCP@127.0.0.1:0", access=AccessPolicy(user_identity=check)) as server:
        async with associate(address(server), user_identity=USER) as association:
            negotiated = association._channel.negotiated
            assert negotiated is not None
            assert negotiated.user_identity_response == b"ticket"
        silent = USER._replace(positive_response_requested=False)
        async with associate(address(server), user_identity=silent) as association:
            negotiated = association._channel.negotiated
            assert negotiated is not None
            assert negotiated.user_identity_response is None


@pytest.mark.parametrize("verdict", [None, 0, "yes", RuntimeError])
async def test_only_a_clear_yes_lets_somebody_in(verdict: Any) -> None:
    async def check(request: Any, identity: UserIdentity | None) -> Any:
        if verdict is RuntimeError:
            raise RuntimeError("the directory is down")
        return verdict

    async with serve("SCP@127.0.0.1:0", access=AccessPolicy(user_identity=check)) as server:
        with pytest.raises(AssociationRejected):
            await associate(address(server), user_identity=USER)


async def test_the_limit_holds_also_while_identities_are_judged() -> None:
    go_on = asyncio.Event()

    async def check(request: Any, identity: UserIdentity | None) -> bool:
        await go_on.wait()
        return True

    async with serve(
        "SCP@127.0.0.1:0",
        access=AccessPolicy(user_identity=check),
        limits=Limits(maximum_associations=1),
    ) as server:
        asked = [asyncio.ensure_future(associate(address(server))) for _ in range(3)]
        await asyncio.sleep(0.02)
        go_on.set()
        results = await asyncio.gather(*asked, return_exceptions=True)
        established = [result for result in results if isinstance(result, Association)]
        assert len(established) == server.associations == 1
        assert sum(isinstance(result, AssociationRejected) for result in results) == 2
        await established[0].release()


async def test_a_judgement_takes_no_longer_than_a_handler_may() -> None:
    async def check(request: Any, identity: UserIdentity | None) -> bool:
        await asyncio.Event().wait()
        return True

    async with serve(
        "SCP@127.0.0.1:0", access=AccessPolicy(user_identity=check), timeouts=Timeouts(handler=0.05)
    ) as server:
        with pytest.raises(AssociationRejected):
            await associate(address(server), user_identity=USER)


async def test_a_peer_that_leaves_while_it_is_judged_is_forgotten() -> None:
    go_on = asyncio.Event()

    async def check(request: Any, identity: UserIdentity | None) -> bool:
        await go_on.wait()
        return True

    async with serve("SCP@127.0.0.1:0", access=AccessPolicy(user_identity=check)) as server:
        task = asyncio.ensure_future(associate(address(server)))
        await asyncio.sleep(0.02)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.02)
        go_on.set()
        await asyncio.sleep(0.01)
        assert server.associations == 0


# what is accepted


async def test_contexts_are_what_the_handlers_imply() -> None:
    wanted: list[Proposable] = [VERIFICATION, CT, STUDY_ROOT]
    async with (
        serve("SCP@127.0.0.1:0", c_store=on_store) as server,
        associate(address(server), contexts=wanted) as association,
    ):
        assert {c.abstract_syntax for c in association.contexts.values()} == {VERIFICATION, CT}


async def test_contexts_can_be_named() -> None:
    async with (
        serve("SCP@127.0.0.1:0", c_store=on_store, contexts=[VERIFICATION]) as server,
        associate(address(server), contexts=[VERIFICATION, CT]) as association,
    ):
        assert {c.abstract_syntax for c in association.contexts.values()} == {VERIFICATION}


async def test_a_storage_context_takes_any_transfer_syntax_the_first_one_proposed() -> None:
    private = "1.3.6.1.4.1.99999.7"
    contexts = [PresentationContext(CT, (private, "1.2.840.10008.1.2"))]
    async with (
        serve("SCP@127.0.0.1:0", c_store=on_store) as server,
        associate(address(server), contexts=contexts) as association,
    ):
        assert [c.transfer_syntax for c in association.contexts.values()] == [private]


# the end


async def test_the_server_answers_a_release() -> None:
    async with serve("SCP@127.0.0.1:0") as server, await Peer.connect(server.port) as peer:
        await peer.associate()
        peer.write(RELEASE_RQ)
        assert await peer.pdu() == RELEASED


async def test_handlers_may_respond_after_the_release_request() -> None:
    go_on = asyncio.Event()

    async def slow_store(request: Request) -> int:
        await request.data.read()
        await go_on.wait()
        return 0xB000

    async with (
        serve("SCP@127.0.0.1:0", c_store=slow_store) as server,
        await Peer.connect(server.port) as peer,
    ):
        await peer.associate()
        peer.write(message(3, store_rq(1), bytes(100_000)), RELEASE_RQ)
        await asyncio.sleep(0.02)
        assert not peer.reader._buffer  # type: ignore[attr-defined]
        go_on.set()
        assert (await peer.message()).command.status == 0xB000
        assert await peer.pdu() == RELEASED


async def test_a_handler_that_does_not_end_does_not_hold_up_the_release_for_ever() -> None:
    seen = []

    async def stuck(request: Request) -> int:
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("ended")
        return 0

    async with (
        serve("SCP@127.0.0.1:0", c_store=stuck, timeouts=Timeouts(release=0.05)) as server,
        await Peer.connect(server.port) as peer,
    ):
        await peer.associate()
        peer.write(message(3, store_rq(1), bytes(10)), RELEASE_RQ)
        assert await peer.pdu() == RELEASED
        await eventually(lambda: seen)


async def test_after_the_release_request_nothing_new_is_asked() -> None:
    errors: list[BaseException] = []
    asked = asyncio.Event()

    async def on_echo(request: Request) -> int:
        await asked.wait()
        try:
            await request.association.c_store(instance())
        except AssociationError as error:
            errors.append(error)
        return 0

    async def on_get(request: Request) -> Any:
        raise AssertionError

    contexts: list[str | PresentationContext] = [
        VERIFICATION,
        PresentationContext(CT, ("1.2.840.10008.1.2.1",), scu_role=False, scp_role=True),
    ]
    async with (
        serve("SCP@127.0.0.1:0", c_echo=on_echo, c_get=on_get) as server,
        await Peer.connect(server.port) as peer,
    ):
        await peer.associate(contexts)
        peer.write(message(1, echo_rq(1)), RELEASE_RQ)
        await asyncio.sleep(0.02)
        asked.set()
        assert (await peer.message()).command.status == 0
        assert await peer.pdu() == RELEASED
    assert [type(error).__name__ for error in errors] == ["AssociationReleased"]


async def test_a_peer_that_half_closes_still_gets_its_answers() -> None:
    for last_words, expected in ((b"", EOF), (RELEASE_RQ, RELEASED)):

        async def slow_store(request: Request) -> int:
            await request.data.read()
            await asyncio.sleep(0.02)
            return 0xB000

        async with serve("SCP@127.0.0.1:0", c_store=slow_store) as server:
            async with await Peer.connect(server.port) as peer:
                await peer.associate()
                peer.write(message(3, store_rq(1), bytes(100_000)), last_words)
                peer.writer.write_eof()
                assert (await peer.message()).command.status == 0xB000
                assert await peer.pdu() == expected
            await eventually(partial(has_no_associations, server))


@pytest.mark.parametrize("size", [1000, 60_000])  # the end is read, or stands behind what nobody reads
@pytest.mark.parametrize("end", ["closed", "reset"])
async def test_a_peer_that_has_gone_keeps_no_handler(size: int, end: str) -> None:
    """A handler that is stuck is cancelled long before `Timeouts.handler`: nobody waits for its answer.

    What nobody reads has room in any kernel: else the end would not leave the peer.
    """

    async def stuck(request: Request) -> int:
        begun.append(request)
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(request)
        return 0

    begun: list[Request] = []
    ended: list[Request] = []
    timeouts, limits = Timeouts(half_closed=0.1), Limits(read_budget=4096)
    async with serve("SCP@127.0.0.1:0", c_store=stuck, timeouts=timeouts, limits=limits) as server:
        async with await Peer.connect(server.port) as peer:
            await peer.associate()
            peer.write(message(3, store_rq(1), bytes(size)))
            await eventually(lambda: begun)
            if end == "reset":
                peer.cut()
            else:
                peer.writer.close()
            await eventually(partial(has_no_associations, server))
    assert len(ended) == 1


async def test_a_release_collision_with_a_requestor() -> None:
    """Both ask at once; the acceptor waits for the requestor's answer first (PS3.8 AR-8, AR-10, AR-4)."""

    async def on_echo(request: Request) -> int:
        releases.append(asyncio.create_task(request.association.release()))
        return 0

    releases: list[asyncio.Task[None]] = []
    async with serve("SCP@127.0.0.1:0", c_echo=on_echo) as server, await Peer.connect(server.port) as peer:
        await peer.associate()
        peer.send(1, echo_rq(1))
        assert (await peer.message()).command.status == 0
        assert await peer.pdu() == (5, bytes(4))
        peer.write(RELEASE_RQ)
        await asyncio.sleep(0.01)
        assert not peer.reader._buffer  # type: ignore[attr-defined]
        peer.write(RELEASE_RP)
        assert await peer.pdu() == RELEASED
        await peer.close()
        await asyncio.gather(*releases)


async def test_closing_an_idle_server_aborts_its_associations() -> None:
    async with serve("SCP@127.0.0.1:0") as server:
        peer = await Peer.connect(server.port)
        await peer.associate()
        silent = await Peer.connect(server.port)
        await asyncio.sleep(0.01)
        closing = asyncio.create_task(server.close())
        assert await peer.pdu() == ABORTED_BY_USER
        assert await silent.pdu() == EOF
        await peer.close()
        await silent.close()
        await closing


async def test_closing_waits_for_operations_in_flight() -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def slow_store(request: Request) -> int:
        entered.set()
        await go_on.wait()
        await request.data.read()
        return 0xB000

    async with serve("SCP@127.0.0.1:0", c_store=slow_store) as server:
        association = await associate(address(server), contexts=[CT])
        storing = asyncio.create_task(association.c_store(instance(10_000)))
        await entered.wait()
        closing = asyncio.create_task(server.close())
        await asyncio.sleep(0.02)
        assert not closing.done()
        go_on.set()
        assert (await storing).status == 0xB000
        await closing
        await association.wait_closed()
        assert not association.is_established


async def test_closing_aborts_what_does_not_end_in_time() -> None:
    seen = []

    async def stuck(request: Request) -> int:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        return 0

    async with serve("SCP@127.0.0.1:0", c_store=stuck, timeouts=Timeouts(drain=0.05)) as server:
        peer = await Peer.connect(server.port)
        await peer.associate()
        peer.send(3, store_rq(1), bytes(10))
        await eventually(lambda: server.associations)
        await asyncio.sleep(0.01)
        closing = asyncio.create_task(server.close())
        assert await peer.pdu() == ABORTED_BY_USER
        await peer.close()
        await closing
    assert seen == ["cancelled"]


async def test_closing_under_load_does_not_wait_for_a_pause() -> None:
    """A busy peer must not hold up the end until `Timeouts.drain`."""
    async with serve("SCP@127.0.0.1:0", c_store=on_store, timeouts=Timeouts(drain=20)) as server:
        association = await associate(address(server), contexts=[CT])
        stored = 0

        async def keep_storing() -> None:
            nonlocal stored
            with contextlib.suppress(AssociationError):
                while True:
                    await association.c_store(instance(1000))
                    stored += 1

        task = asyncio.create_task(keep_storing())
        await eventually(lambda: stored > 5)
        async with asyncio.timeout(3):
            await server.close()
        await task


async def test_closing_does_not_wait_for_a_handler_that_ignores_its_cancellation() -> None:
    end = asyncio.Event()

    async def stubborn(request: Request) -> int:
        while not end.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await end.wait()
        return 0

    server = await serve("SCP@127.0.0.1:0", c_store=stubborn, timeouts=Timeouts(drain=0.05, cancel=0.05))
    peer = await Peer.connect(server.port)
    await peer.associate()
    peer.send(3, store_rq(1), bytes(10))
    await asyncio.sleep(0.02)
    await peer.close()
    async with asyncio.timeout(3):
        await server.close()
    end.set()


async def test_no_association_is_accepted_while_closing() -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def slow_store(request: Request) -> int:
        entered.set()
        await go_on.wait()
        return 0

    async with serve("SCP@127.0.0.1:0", c_store=slow_store) as server:
        late = await Peer.connect(server.port)
        association = await associate(address(server), contexts=[CT])
        storing = asyncio.create_task(association.c_store(instance(10)))
        await entered.wait()
        closing = asyncio.create_task(server.close())
        await asyncio.sleep(0.01)
        with pytest.raises(AssociationClosed):
            await associate(address(server))
        await late.close()
        go_on.set()
        await storing
        await closing


async def test_destinations_of_the_wrong_kind_are_told() -> None:
    with pytest.raises(TypeError, match="destinations= takes a mapping or a function, not 5"):
        await serve("SCP@127.0.0.1:0", destinations=5)  # type: ignore[arg-type]


async def test_serve_forever_closes_when_it_is_cancelled() -> None:
    server = await serve("SCP@127.0.0.1:0")
    task = asyncio.create_task(server.serve_forever())
    await asyncio.sleep(0)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(AssociationError):
        await associate(address(server))
    await server.serve_forever()  # it has ended


# time


async def test_artim_a_silent_connection_is_closed() -> None:
    async with (
        serve("SCP@127.0.0.1:0", timeouts=Timeouts(artim=0.05)) as server,
        await Peer.connect(server.port) as peer,
    ):
        assert await peer.pdu() == EOF


async def test_artim_a_trickling_request_is_not_enough() -> None:
    async with (
        serve("SCP@127.0.0.1:0", timeouts=Timeouts(artim=0.1)) as server,
        await Peer.connect(server.port) as peer,
    ):
        for byte in bytes.fromhex("0100000000c8"):
            with contextlib.suppress(RuntimeError):  # uvloop: the server has closed it already
                peer.write(bytes([byte]))
            await asyncio.sleep(0.03)
        assert await peer.pdu() == EOF


async def test_an_idle_association_is_aborted() -> None:
    async with (
        serve("SCP@127.0.0.1:0", timeouts=Timeouts(idle=0.3)) as server,
        await Peer.connect(server.port) as peer,
    ):
        await peer.associate()
        for message_id in range(1, 5):  # not while it is used
            await asyncio.sleep(0.1)
            peer.send(1, echo_rq(message_id))
            assert (await peer.message()).command.status == 0
        assert await peer.pdu() == ABORTED_BY_USER


async def test_an_association_with_a_slow_handler_is_not_idle() -> None:
    async def slow_store(request: Request) -> int:
        await asyncio.sleep(0.2)
        return 0

    async with (
        serve("SCP@127.0.0.1:0", c_store=slow_store, timeouts=Timeouts(idle=0.05)) as server,
        await Peer.connect(server.port) as peer,
    ):
        await peer.associate()
        peer.send(3, store_rq(1), bytes(10))
        assert (await peer.message()).command.status == 0
        assert await peer.pdu() == ABORTED_BY_USER


@pytest.mark.parametrize("what", ["a pdu", "a command", "a data set", "an announced data set"])
async def test_a_peer_that_stops_in_the_middle_is_aborted(what: str) -> None:
    command, data = fragments(3, True, encode(store_rq(1))), fragments(3, False, bytes(100_000))
    half = {
        "a pdu": command[:20],
        "a command": fragments(3, True, encode(store_rq(1)), size=20)[: 2 * 32],
        "a data set": command + data[: 2 * 16390],
        "an announced data set": command,
    }[what]
    seen = []

    async def reads(request: Request) -> int:
        try:
            await request.data.read()
        finally:
            seen.append("ended")
        return 0

    async with (
        serve("SCP@127.0.0.1:0", c_store=reads, timeouts=Timeouts(receive=0.1)) as server,
        await Peer.connect(server.port) as peer,
    ):
        await peer.associate()
        peer.write(half)
        assert await peer.pdu() == ABORTED_BY_USER
    assert seen == (["ended"] if "data set" in what else [])


async def test_a_peer_that_vanishes_in_the_middle_of_a_message(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    seen = []

    async def reads(request: Request) -> int:
        try:
            await request.data.read()
            seen.append("whole")
        finally:
            seen.append("ended")
        return 0

    whole = message(3, store_rq(1), bytes(100_000))
    for goodbye in ("reset", "close"):
        async with serve("SCP@127.0.0.1:0", c_store=reads) as server:
            peer = await Peer.connect(server.port)
            await peer.associate()
            peer.write(whole[:50_000])
            await asyncio.sleep(0.01)
            if goodbye == "reset":
                peer.reset()
            await peer.close()
            await eventually(partial(has_no_associations, server))
            async with associate(address(server)) as association:
                assert (await association.c_echo()).status == 0
    assert seen == ["ended", "ended"]
    assert not caplog.records


def narrow() -> socket.socket:
    """A listening socket whose connections send little ahead."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    return listener


async def deaf(server: Any) -> Peer:
    """A peer that asks and never reads the answers; its system does not keep many of them either."""
    peer = await Peer.connect(server.port, receive_buffer=4096)
    await peer.associate(STUDY_CONTEXTS)
    peer.reader._transport.pause_reading()  # type: ignore[attr-defined]
    peer.send(1, find_rq(1), IDENTIFIER)
    return peer


async def test_a_peer_that_never_reads_is_cut_off() -> None:
    async def on_find(request: Request) -> AsyncIterator[bytes]:
        while True:
            yield bytes(100_000)

    async with serve(
        "SCP@127.0.0.1:0", c_find=on_find, sock=narrow(), timeouts=Timeouts(write=0.1)
    ) as server:
        peer = await deaf(server)
        channel = next(iter(server._associated))
        await eventually(lambda: server.associations == 0)
        assert isinstance(channel.failure, AssociationTimeout)
        assert channel.failure.which == "write"
        peer.reset()
        await peer.close()


async def test_a_peer_that_never_reads_cannot_keep_a_closed_association() -> None:
    """What is in our write buffer when we abort must not keep the connection for ever."""
    is_held_back = asyncio.Event()

    async def on_find(request: Request) -> AsyncIterator[bytes]:
        while not request.association._channel.transport.unsent:
            yield bytes(200_000)
        is_held_back.set()
        await asyncio.Event().wait()

    async with serve(
        "SCP@127.0.0.1:0", c_find=on_find, sock=narrow(), timeouts=Timeouts(close=0.1)
    ) as server:
        peer = await deaf(server)
        await is_held_back.wait()
        peer.write(b"nonsense")
        async with asyncio.timeout(1):
            await eventually(lambda: server.associations == 0)
        peer.reset()
        await peer.close()


async def test_two_hundred_associations_store_at_the_same_time() -> None:
    stored = set()

    async def keep(request: Request) -> int:
        data = await request.data.read()
        assert data.startswith(request.affected_sop_instance_uid.encode())
        stored.add(request.affected_sop_instance_uid)
        return 0

    async with serve("SCP@127.0.0.1:0", c_store=keep) as server:
        together = asyncio.Barrier(200)

        async def send() -> None:
            async with associate(address(server), contexts=[CT]) as association:
                await together.wait()
                for _ in range(3):
                    assert (await association.c_store(instance(50_000))).status == 0

        async with asyncio.TaskGroup() as group:
            for _ in range(200):
                group.create_task(send())
        await eventually(lambda: server.associations == 0)
    assert len(stored) == 600


async def test_what_is_no_dicom_gets_an_abort_and_a_close() -> None:
    for noise in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00", b"SSH-2.0-x\r\n", b"\x0bMSH|"):
        async with serve("SCP@127.0.0.1:0") as server, await Peer.connect(server.port) as peer:
            peer.write(noise)
            assert await peer.pdu() == aborted(0, 0)


async def test_what_is_asked_after_our_release_request_is_not_answered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """PS3.8 Sta7: P-DATA may still come, but none may be sent."""
    caplog.set_level(logging.WARNING)
    releases: list[asyncio.Task[None]] = []

    async def on_find(request: Request) -> AsyncIterator[bytes]:
        releases.append(asyncio.create_task(request.association.release()))
        return
        yield b""

    async with serve("SCP@127.0.0.1:0", c_find=on_find, c_store=on_store) as server:
        async with await Peer.connect(server.port) as peer:
            await peer.associate([VERIFICATION, CT, *STUDY_CONTEXTS])
            peer.send(5, find_rq(1), IDENTIFIER)
            assert (await peer.message()).command.status == 0
            assert await peer.pdu() == (5, bytes(4))
            peer.send(1, echo_rq(2))
            peer.send(3, store_rq(3), bytes(100_000))
            peer.write(RELEASE_RP)
            assert await peer.pdu() == EOF
        await asyncio.gather(*releases)
    assert not caplog.records


@pytest.mark.parametrize("last", [ABORT, RELEASE_RQ])
async def test_a_request_and_the_end_in_one_segment(last: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    async with serve("SCP@127.0.0.1:0", c_store=on_store) as server:
        for request in (message(1, echo_rq(1)), message(3, store_rq(1), bytes(1000))):
            async with await Peer.connect(server.port) as peer:
                await peer.associate()
                peer.write(request, last)
                if last == RELEASE_RQ:
                    assert (await peer.message()).command.status == 0
                    assert await peer.pdu() == RELEASED
                else:
                    assert await peer.pdu() == EOF
        await eventually(lambda: server.associations == 0)
    assert not caplog.records


async def test_every_address_of_ipv6_is_also_every_one_of_ipv4() -> None:
    try:
        server = await serve("SCP@[::]:0")
    except OSError:
        pytest.skip("no IPv6 here")
    for host in ("127.0.0.1", "[::1]"):
        async with associate(f"SCP@{host}:{server.port}") as association:
            assert (await association.c_echo()).status == 0
    await server.close()


# hooks


async def test_hooks_are_told_of_each_association(caplog: pytest.LogCaptureFixture) -> None:
    told: list[tuple[str, str]] = []

    def opened(association: Association) -> None:
        assert association.is_established
        told.append(("opened", association.calling_ae_title))

    def closed(association: Association) -> None:
        assert not association.is_established
        told.append(("closed", association.calling_ae_title))
        raise ZeroDivisionError

    async with serve("SCP@127.0.0.1:0", association_opened=opened, association_closed=closed) as server:
        address = f"SCP@127.0.0.1:{server.port}"
        async with associate(address, calling_ae_title="ONE"):
            pass
        await eventually(lambda: len(told) == 2)
        association = await associate(address, calling_ae_title="TWO")
        await association.abort()
        await eventually(lambda: len(told) == 4)
    assert told == [("opened", "ONE"), ("closed", "ONE"), ("opened", "TWO"), ("closed", "TWO")]
    assert "a hook of the server failed" in caplog.text


async def test_hooks_are_plain_functions() -> None:
    async def hook(association: Association) -> None: ...

    for wrong in (hook, 5):
        with pytest.raises(TypeError, match="plain functions"):
            serve("SCP@127.0.0.1:0", association_closed=wrong)  # type: ignore[arg-type]
