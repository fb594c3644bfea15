"""What a server opens on behalf of its peers: C-MOVE by TLS, quotas, back-off, and what is told about it."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme
from helpers.peer import CT, IDENTIFIER, aborted, eventually, instance, listening, nothing_left  # noqa: F401

from asyncdicom import (
    STUDY_ROOT,
    AccessPolicy,
    Address,
    Destination,
    FileSource,
    Limits,
    Request,
    Response,
    Retrieval,
    RetrieveResult,
    StatusError,
    associate,
    serve,
    storage_contexts,
)
from asyncdicom.outgoing import OutgoingAssociations
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN

CONTEXTS = storage_contexts([instance(10)])


class Certificates:
    """An authority, and contexts made with it."""

    def __init__(self) -> None:
        self.authority = trustme.CA()

    def server(self, *names: str, **options: Any) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert(*(names or ("127.0.0.1",)), **options).configure_cert(context)
        return context

    def client(self, name: str = "") -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        if name:
            self.authority.issue_cert(name).configure_cert(context)
        return context


@pytest.fixture(scope="module")
def certificates() -> Certificates:
    return Certificates()


class Store:
    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.tls: list[bool] = []

    async def __call__(self, request: Request) -> int:
        self.requests.append(request)
        self.tls.append(request.association.get_extra_info("ssl_object") is not None)
        await request.data.read()
        return 0


def giving(*sources: Any) -> Any:
    async def handler(request: Request) -> Retrieval:
        await request.data.read()
        return Retrieval(sources or [instance(10)])

    return handler


async def move(server: Any, to: str = "WS", **options: Any) -> tuple[RetrieveResult, Response]:
    """Ask for a C-MOVE: how it ended, and the last response."""
    async with associate(f"SCP@127.0.0.1:{server.port}", contexts=[STUDY_ROOT], **options) as association:
        retrieval = association.c_move(IDENTIFIER, move_destination=to)
        with contextlib.suppress(StatusError):
            await retrieval
        assert retrieval.response is not None
        return retrieval.result, retrieval.response


# In the clear?


async def in_the_clear(server: Any, **options: Any) -> str:
    """Move to the listener of `test_nothing...`; the comment."""
    result, response = await move(server, **options)
    assert result.status == 0xA702
    assert result.failed == 1
    assert response.error_comment is not None
    return response.error_comment


@pytest.mark.parametrize("kind", ["text", "address", "destination", "peer", "policy", "function"])
async def test_a_server_with_tls_sends_nothing_in_the_clear(
    certificates: Certificates, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with listening() as listener:
        where = f"127.0.0.1:{listener.port}"
        ways: dict[str, dict[str, Any]] = {
            "text": {"destinations": {"WS": where}},
            "address": {"destinations": {"WS": Address("WS", "127.0.0.1", listener.port)}},
            "destination": {"destinations": {"WS": Destination(where)}},
            "peer": {"access": {"WS": where, "*": None}},
            "policy": {"access": AccessPolicy(peers={"WS": Destination(where), "*": None})},
            "function": {"destinations": lambda request: Address("WS", "127.0.0.1", listener.port)},
        }
        tls = certificates.server()
        async with serve("SCP@127.0.0.1:0", c_move=giving(), ssl=tls, **ways[kind]) as server:
            comment = await in_the_clear(server, ssl=certificates.client())
        assert comment == "destination: not sent in the clear by this server; configure TLS"
        assert not listener.peers, "not even a connection"
    (told,) = [r.getMessage() for r in caplog.records if "C-MOVE to WS@" in r.getMessage()]
    assert f"WS@{where}" in told
    assert "plain=True" in told


async def test_who_asks_for_certificates_sends_nothing_in_the_clear_either() -> None:
    """TLS may end before us; then `ssl` is not ours."""
    policy = AccessPolicy(peers={"*": None, "CT": "127.0.0.1:1"}, certificates=None)
    assert not policy.asks_for_certificates
    policy = AccessPolicy(peers={"*": None, "WS": Destination("127.0.0.1:1")})
    outgoing = OutgoingAssociations("SCP", uses_tls=True, ssl=None, maximum=1)
    with pytest.raises(Exception, match="in the clear"):
        async with outgoing.open(policy.destinations["WS"], []):
            pass
    from asyncdicom import Peer as KnownPeer

    assert AccessPolicy(peers={"CT": KnownPeer(certificates="ct.example")}).asks_for_certificates
    assert AccessPolicy(certificates="ct.example").asks_for_certificates


@pytest.mark.parametrize("own", [True, False])
async def test_a_destination_is_called_by_tls(certificates: Certificates, own: bool) -> None:
    store = Store()
    secure = certificates.client("scp.example")
    strict = certificates.server("127.0.0.1")
    certificates.authority.configure_trust(strict)
    strict.verify_mode = ssl.CERT_REQUIRED
    async with serve("WS@127.0.0.1:0", c_store=store, ssl=strict) as ws:
        where = f"127.0.0.1:{ws.port}"
        options: dict[str, Any] = (
            {"destinations": {"WS": Destination(where, ssl=secure)}}
            if own
            else {"destinations": {"WS": where}, "destination_ssl": secure}
        )
        async with serve("SCP@127.0.0.1:0", c_move=giving(), ssl=certificates.server(), **options) as server:
            result, _ = await move(server, ssl=certificates.client())
    assert (result.status, result.completed) == (0, 1)
    assert store.tls == [True]


async def test_in_the_clear_if_the_destination_says_so(certificates: Certificates) -> None:
    store = Store()
    async with serve("WS@127.0.0.1:0", c_store=store) as ws:
        plain = Destination(f"127.0.0.1:{ws.port}", plain=True)
        async with serve(
            "SCP@127.0.0.1:0",
            c_move=giving(),
            ssl=certificates.server(),
            destinations={"WS": plain},
            destination_ssl=certificates.client(),
        ) as server:
            result, _ = await move(server, ssl=certificates.client())
    assert (result.status, store.tls) == (0, [False])


async def test_the_names_that_a_destination_is_called_by(certificates: Certificates) -> None:
    store = Store()
    async with serve("OTHER@127.0.0.1:0", c_store=store, ssl=certificates.server("ws.example")) as ws:
        destination = Destination(
            f"127.0.0.1:{ws.port}",
            ssl=certificates.client(),
            server_hostname="ws.example",
            calling_ae_title="GATEWAY",
            called_ae_title="OTHER",
            operations_invoked=4,
        )
        async with serve("SCP@127.0.0.1:0", c_move=giving(), destinations={"WS": destination}) as server:
            result, _ = await move(server)
    assert result.status == 0
    (request,) = store.requests
    assert (request.calling_ae_title, request.called_ae_title) == ("GATEWAY", "OTHER")


def expired() -> dict[str, Any]:
    return {"not_after": datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)}


@pytest.mark.parametrize(
    ("theirs", "says"),
    [
        (lambda ours: Certificates().server(), "unable to get local issuer certificate"),
        (lambda ours: ours.server("127.0.0.1", **expired()), "certificate has expired"),
        (lambda ours: ours.server("other.example"), "IP address mismatch"),
        (lambda ours: None, "TLS handshake failed"),
    ],
    ids=["authority", "expired", "name", "no TLS"],
)
async def test_a_destination_that_is_not_who_it_should_be_gets_nothing(
    certificates: Certificates, theirs: Any, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store()
    async with serve("WS@127.0.0.1:0", c_store=store, ssl=theirs(certificates)) as ws:
        destination = Destination(f"127.0.0.1:{ws.port}", ssl=certificates.client(), connect_timeout=5)
        async with serve(
            "SCP@127.0.0.1:0", c_move=giving(instance(), instance()), destinations={"WS": destination}
        ) as server:
            result, response = await move(server)
    assert (result.status, result.failed, store.requests) == (0xA702, 2, [])
    if says != "TLS handshake failed":
        assert says[:20] in str(response.error_comment)
    assert str(response.error_comment).startswith("destination: ")
    told = [r.getMessage() for r in caplog.records if "C-MOVE to WS@" in r.getMessage()]
    assert len(told) == 1, "one line for all of them"


# Why it failed


@pytest.mark.parametrize(
    ("where", "says"),
    [("127.0.0.1:{free}", "destination: connection refused"), ("no.such.host.invalid:1", "unknown host")],
)
async def test_a_destination_that_is_not_there(
    where: str, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with listening() as listener:
        where = where.format(free=listener.port)
    async with serve("SCP@127.0.0.1:0", c_move=giving(), destinations={"WS": where}) as server:
        result, response = await move(server)
    assert result.status == 0xA702
    assert says in str(response.error_comment)
    assert len([r for r in caplog.records if "C-MOVE to WS@" in r.getMessage()]) == 1


async def test_a_destination_that_refuses(caplog: pytest.LogCaptureFixture) -> None:
    async with serve("WS@127.0.0.1:0", c_store=Store(), access=["FRIEND"]) as ws:
        where = f"127.0.0.1:{ws.port}"
        async with serve("SCP@127.0.0.1:0", c_move=giving(), destinations={"WS": where}) as server:
            _, response = await move(server)
    assert response.error_comment == "destination: calling AE title not recognized (1/1/3)"


async def test_a_destination_that_is_full_and_a_file_that_is_gone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def full(request: Request) -> int:
        return 0xA700

    gone = FileSource(
        tmp_path / "gone.dcm",
        sop_class_uid=CT,
        sop_instance_uid="1.2.3",
        transfer_syntax_uid=EXPLICIT_VR_LITTLE_ENDIAN,
        offset=0,
        length=10,
    )
    sources = (gone, instance(), instance(), instance())
    async with serve("WS@127.0.0.1:0", c_store=full) as ws:
        where = f"127.0.0.1:{ws.port}"
        async with serve("SCP@127.0.0.1:0", c_move=giving(*sources), destinations={"WS": where}) as server:
            result, response = await move(server)
    assert (result.status, result.failed) == (0xA702, 4)
    assert response.error_comment == "an instance cannot be read: No such file or directory"
    told = [r for r in caplog.records if "C-MOVE to WS@" in r.getMessage()]
    assert [r.levelname for r in told] == ["ERROR", "WARNING"]
    assert "0xA700" in told[1].getMessage()


# How many, how often


async def test_a_destination_that_aborts_each_time_is_left_alone() -> None:
    async with listening() as listener:

        async def aborting() -> None:
            while True:
                peer = await listener.peer()
                await peer.accept()
                await peer.message()
                peer.write(bytes.fromhex("07000000000400000000"))

        task = asyncio.ensure_future(aborting())
        sources = [instance(10) for _ in range(50)]
        where = f"127.0.0.1:{listener.port}"
        async with serve("SCP@127.0.0.1:0", c_move=giving(*sources), destinations={"WS": where}) as server:
            first, _ = await move(server)
            second, response = await move(server)
        task.cancel()
        assert first.failed == second.failed == 50
        assert len(listener.peers) == 3, "not one for each instance"
    assert "failed 3 times; it is tried again in" in str(response.error_comment)


async def test_a_destination_that_takes_one_and_aborts_is_called_a_few_times_only() -> None:
    stored = 0

    async def unsteady(request: Request) -> int:
        nonlocal stored
        await request.data.read()
        stored += 1
        if stored % 2 == 0:
            await request.association.abort()
        return 0

    sources = [instance(10) for _ in range(60)]
    async with serve("WS@127.0.0.1:0", c_store=unsteady) as ws:
        where = f"127.0.0.1:{ws.port}"
        async with serve("SCP@127.0.0.1:0", c_move=giving(*sources), destinations={"WS": where}) as server:
            result, response = await move(server)
    assert (result.completed, result.failed) == (10, 50)
    assert response.error_comment is not None


@pytest.mark.parametrize("limit", ["destination", "server"])
async def test_so_many_associations_at_once_and_no_more(limit: str) -> None:
    go_on = asyncio.Event()
    together: list[int] = []

    async def slow(request: Request) -> int:
        together.append(ws.associations)
        await request.data.read()
        await go_on.wait()
        return 0

    async with serve("WS@127.0.0.1:0", c_store=slow) as ws:
        where = f"127.0.0.1:{ws.port}"
        destination = Destination(where, maximum_associations=2 if limit == "destination" else 100)
        limits = Limits() if limit == "destination" else Limits(maximum_outgoing=2)
        async with serve(
            "SCP@127.0.0.1:0", c_move=giving(), destinations={"WS": destination}, limits=limits
        ) as server:
            moves = [asyncio.ensure_future(move(server)) for _ in range(8)]
            await eventually(lambda: len(together) == 2)
            go_on.set()
            results = await asyncio.gather(*moves)
    assert [result.completed for result, _ in results] == [1] * 8
    assert max(together) == 2


async def test_who_cancels_while_waiting_for_the_turn_gets_an_answer() -> None:
    class Enough(Exception):
        pass

    async def cancelled(server: Any) -> RetrieveResult:
        async with associate(f"SCP@127.0.0.1:{server.port}", contexts=[STUDY_ROOT]) as association:
            retrieval = association.c_move(IDENTIFIER, move_destination="WS")
            with contextlib.suppress(Enough):
                async with retrieval:
                    await asked.wait()
                    raise Enough
            return retrieval.result

    asked = asyncio.Event()
    async with listening() as listener:  # accepts connections, says nothing
        destination = Destination(f"127.0.0.1:{listener.port}", maximum_associations=1)
        async with serve("SCP@127.0.0.1:0", c_move=giving(), destinations={"WS": destination}) as server:
            moves = [asyncio.ensure_future(cancelled(server)) for _ in range(3)]
            await listener.peer()
            await eventually(lambda: server.associations == 3)
            asked.set()
            async with asyncio.timeout(5):
                results = await asyncio.gather(*moves)
    assert [result.status for result in results] == [0xFE00] * 3
    assert [result.failed for result in results] == [0] * 3


async def test_the_answer_does_not_wait_for_the_release(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncdicom.outgoing._LINGER", 0)
    async with listening() as listener:

        async def never_released() -> None:
            peer = await listener.peer()
            await peer.accept()
            message = await peer.message()
            from asyncdicom.dimse.messages import response_to

            peer.send(1, response_to(message.command, 0))
            assert (await peer.pdu())[0] == 5  # A-RELEASE-RQ, and no answer to it

        task = asyncio.ensure_future(never_released())
        destination = Destination(f"127.0.0.1:{listener.port}", release_timeout=60)
        async with serve("SCP@127.0.0.1:0", c_move=giving(), destinations={"WS": destination}) as server:
            async with asyncio.timeout(5):
                result, _ = await move(server)
            assert result.completed == 1
            await task
        assert (await listener.peers[0].pdu()) == aborted(0, 0), "the server was closed"


async def test_what_is_remembered_of_destinations_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncdicom.outgoing._REMEMBERED", 10)
    outgoing = OutgoingAssociations("SCP", uses_tls=False, ssl=None, maximum=5)
    async with listening() as listener:
        port = listener.port
    for number in range(30):
        with contextlib.suppress(Exception):
            async with outgoing.open(Destination(f"T{number}@127.0.0.1:{port}"), CONTEXTS):
                pass
    assert len(outgoing._lines) == 10
    await outgoing.close()
