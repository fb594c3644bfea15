"""What the log says about requests: one line each, with who, what, how it ended and how long it took."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from helpers.peer import ABORT, CT, IDENTIFIER, Peer, eventually, instance, store_rq

from asyncdicom import (
    STUDY_ROOT,
    VERIFICATION,
    AcceptedContext,
    AssociationPool,
    Command,
    CommandField,
    Proposable,
    Request,
    Response,
    Retrieval,
    StatusError,
    associate,
    retrieval_contexts,
    serve,
)
from asyncdicom.data.elements import encode
from asyncdicom.net.operation import Performed
from asyncdicom.services.account import note_asked
from asyncdicom.telemetry.log import fields_of
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN

CONTEXTS: list[Proposable] = [VERIFICATION, CT, STUDY_ROOT]
GET = [STUDY_ROOT.get, *retrieval_contexts([(CT, EXPLICIT_VR_LITTLE_ENDIAN)])]


def address(server: Any, title: str = "SCP") -> str:
    return f"{title}@127.0.0.1:{server.port}"


def lines(caplog: pytest.LogCaptureFixture, what: str, level: int = logging.INFO) -> list[logging.LogRecord]:
    return [r for r in caplog.records if r.levelno >= level and what in r.getMessage()]


@asynccontextmanager
async def pooled(address: str) -> AsyncIterator[None]:
    async with AssociationPool(address) as pool:
        async with pool.acquire() as association:
            await association.c_echo()
        yield


@pytest.fixture(autouse=True)
def verbose(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "asyncdicom")


async def full(request: Request) -> Response:
    await request.data.read()
    return Response(0xA700, error_comment="disk full")


async def test_a_refused_store_is_one_warning_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    source = instance(500)
    async with (
        serve("SCP@127.0.0.1:0", c_store=full) as server,
        associate(address(server), calling_ae_title="CT1", contexts=CONTEXTS) as association,
    ):
        response = await association.c_store(source)
    assert response.error_comment == "disk full"
    (record,) = lines(caplog, "", logging.WARNING)
    assert record.getMessage().startswith("CT1 -> SCP (127.0.0.1:")
    assert (
        f"C-STORE of CT Image Storage {source.sop_instance_uid}, 500 bytes: status 0xA700"
        in record.getMessage()
    )
    assert ", disk full (0." in record.getMessage()
    fields = fields_of(record)
    assert fields["seconds"] >= 0  # type: ignore[operator]
    assert {name: fields[name] for name in ("command", "status", "bytes", "reason", "calling_ae_title")} == {
        "command": "C-STORE",
        "status": "0xA700",
        "bytes": 500,
        "reason": "disk full",
        "calling_ae_title": "CT1",
    }


async def test_a_failed_move_is_one_warning_and_tells_what_the_destination_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def move(request: Request) -> Retrieval:
        await request.data.read()
        return Retrieval([instance(10), instance(10)])

    async with (
        serve("WS@127.0.0.1:0", c_store=full) as ws,
        serve("SCP@127.0.0.1:0", c_move=move, destinations={"WS": f"127.0.0.1:{ws.port}"}) as server,
        associate(address(server), contexts=CONTEXTS) as association,
    ):
        with pytest.raises(StatusError, match="an instance was refused with 0xA700: disk full"):
            await association.c_move(IDENTIFIER, move_destination="WS")
    (told,) = lines(caplog, "C-MOVE", logging.WARNING)
    assert "C-MOVE to WS@127.0.0.1:" in told.getMessage()
    assert "disk full" in told.getMessage()
    summary = lines(caplog, "C-MOVE")[-1]
    assert (summary.levelno, fields_of(summary)["failed"], fields_of(summary)["completed"]) == (
        logging.INFO,
        2,
        0,
    )


async def test_a_refused_query_is_one_warning_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    async def find(request: Request) -> AsyncIterator[dict[str, str]]:
        yield {"PatientID": "1", "PatientName": "Doe^Jane"}
        raise StatusError(Response(0xA700, error_comment="the index is being built"))

    async with (
        serve("SCP@127.0.0.1:0", c_find=find) as server,
        associate(address(server), contexts=CONTEXTS) as association,
    ):
        with pytest.raises(StatusError, match="the index is being built"):
            await association.c_find(IDENTIFIER, raw=True)
    (record,) = lines(caplog, "", logging.WARNING)
    assert "status 0xA700" in record.getMessage()
    assert ", 1 match, the index is being built (" in record.getMessage()
    assert not lines(caplog, "Doe")


async def test_a_bug_is_one_error(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(request: Request) -> int:
        raise ZeroDivisionError

    async with (
        serve("SCP@127.0.0.1:0", c_store=handler) as server,
        associate(address(server), contexts=CONTEXTS) as association,
    ):
        assert (await association.c_store(instance())).error_comment == "internal error"
    (record,) = lines(caplog, "", logging.WARNING)
    assert record.exc_info is not None


async def test_an_association_has_a_beginning_and_an_end(caplog: pytest.LogCaptureFixture) -> None:
    async with serve("SCP@127.0.0.1:0") as server:
        async with associate(address(server)):
            pass
        await eventually(lambda: not server.associations)
        async with await Peer.connect(server.port) as peer:
            await peer.associate()
        await eventually(lambda: not server.associations)
    ends = [fields_of(r)["seconds"] for r in lines(caplog, "") if "seconds" in fields_of(r)]
    assert len(lines(caplog, "association established")) == len(ends) == 2
    assert len(lines(caplog, "the association was released (0.")) == 1


async def test_what_nobody_is_left_to_answer_is_told(caplog: pytest.LogCaptureFixture) -> None:
    begun, stays = asyncio.Event(), asyncio.Event()

    async def receive(request: Request) -> int:
        begun.set()
        await stays.wait()
        return 0

    async with serve("SCP@127.0.0.1:0", c_store=receive) as server:
        async with await Peer.connect(server.port) as peer:
            await peer.associate()
            peer.send(3, store_rq(), b"data")
            await begun.wait()
            peer.write(ABORT)
        await eventually(lambda: lines(caplog, "C-STORE of CT Image Storage 1.2.3"))
        assert lines(caplog, "not answered, the association is lost")


FAILURE = StatusError(Response(0xC000))


@pytest.mark.parametrize("opened", [associate, pooled])
@pytest.mark.parametrize(
    ("error", "end"),
    [
        (FAILURE, "released"),
        (ExceptionGroup("", [FAILURE, ExceptionGroup("", [FAILURE])]), "released"),
        (ExceptionGroup("", [FAILURE, ValueError()]), "aborted"),
        (ValueError(), "aborted"),
    ],
    ids=repr,
)
async def test_a_failure_is_an_answer_so_the_association_is_released(
    opened: Any, error: Exception, end: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve("SCP@127.0.0.1:0") as server:
        with pytest.raises(type(error)):
            async with opened(address(server)):
                raise error
        await eventually(lambda: not server.associations)
    assert lines(caplog, end)


UIDS = b"\\".join(b"1.2.%d" % number for number in range(5))
LONG = encode([(0x0020000D, "UI", b"1.2"), (0x00200010, "SH", bytes(1 << 15))], IMPLICIT_VR_LITTLE_ENDIAN)


@pytest.mark.parametrize(
    ("identifier", "syntax", "said"),
    [
        (
            [(0x00080052, "CS", b"STUDY"), (0x0020000D, "UI", b"1.2")],
            IMPLICIT_VR_LITTLE_ENDIAN,
            "level STUDY, study 1.2",
        ),
        ([(0x0020000E, "UI", UIDS)], EXPLICIT_VR_LITTLE_ENDIAN, "series 1.2.0, 1.2.1, 1.2.2 and 2 more"),
        ([(0x00080052, "CS", b"DOE^JANE"), (0x0020000D, "UI", b"DOE^JANE")], IMPLICIT_VR_LITTLE_ENDIAN, ""),
        ([(0x00100010, "PN", b"DOE^JANE"), (0x00100020, "LO", b"4711")], IMPLICIT_VR_LITTLE_ENDIAN, ""),
        (b"no data set", EXPLICIT_VR_LITTLE_ENDIAN, ""),
        (b"", IMPLICIT_VR_LITTLE_ENDIAN, ""),
        (LONG, IMPLICIT_VR_LITTLE_ENDIAN, ""),
        ([(0x0020000D, "UI", b"1.2")], "1.2.840.10008.1.2.1.99", ""),
    ],
)
def test_what_is_told_of_an_identifier_is_harmless_and_cheap(identifier: Any, syntax: str, said: str) -> None:
    """UIDs and levels; nothing that a peer puts in their place, and nothing that takes long to find."""
    context = AcceptedContext(1, STUDY_ROOT.find, syntax, as_scu=False, as_scp=True)
    incoming: Performed[Any] = Performed(None, context, Command(CommandField.C_FIND_RQ), None)
    note_asked(incoming, identifier if isinstance(identifier, bytes) else encode(identifier, syntax))
    assert incoming.subject == said
