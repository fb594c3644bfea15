"""A C-GET tells what arrived here, whatever the peer's counters say."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

import pytest
from helpers.peer import CT, Peer, listening, message, store_rq

from asyncdicom import (
    STUDY_ROOT,
    Proposable,
    Request,
    Response,
    RetrieveResult,
    Status,
    StatusError,
    associate,
    retrieval_contexts,
)
from asyncdicom.dimse.messages import CommandField, response_to
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN

CONTEXTS: list[Proposable] = [STUDY_ROOT.get, *retrieval_contexts([(CT, EXPLICIT_VR_LITTLE_ENDIAN)])]
KEYS = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "1.2"}
FAILED_LIST = b"\x08\x00\x58\x00UI\x06\x001.2.2\0"


class Claim(NamedTuple):
    """What the peer says at the end."""

    status: int
    completed: int | None = None
    failed: int | None = None
    warned: int | None = None
    listed: bytes | None = None
    comment: str | None = None


async def retrieved(claim: Claim, *answers: int | Response) -> tuple[RetrieveResult | StatusError, Any]:
    """One C-GET: the peer sends an instance for each answer of ours, then claims something."""
    given = iter(answers)

    async def receive(request: Request) -> int | Response:
        await request.data.read()
        return next(given)

    async def play(peer: Peer) -> list[int]:
        await peer.accept()
        asked = await peer.message()
        statuses = []
        for number in range(len(answers)):
            peer.send(3, store_rq(number + 1, f"1.2.{number + 1}"), b"data")
            statuses.append((await peer.message()).command.status or 0)
        final = response_to(asked.command, claim.status, **counters(claim))
        peer.write(message(1, final, claim.listed))
        assert (await peer.pdu())[0] == 5, "an A-RELEASE-RQ, whatever the status was"
        peer.write(bytes.fromhex("0600 00000004 00000000"))
        return statuses

    async with listening() as listener:
        association = associate(f"SCP@127.0.0.1:{listener.port}", contexts=CONTEXTS)
        opening = asyncio.ensure_future(enter(association, receive))
        statuses = await play(await listener.peer())
        assert statuses == [a.status if isinstance(a, Response) else a for a in answers]
        return await opening


async def enter(opening: Any, receive: Any) -> tuple[RetrieveResult | StatusError, Any]:
    try:
        async with opening as association:
            retrieval = association.c_get(KEYS, information_model=STUDY_ROOT, c_store=receive)
            return await retrieval, retrieval
    except StatusError as error:
        return error, retrieval


def counters(claim: Claim) -> dict[str, Any]:
    told = {
        "number_of_completed_sub_operations": claim.completed,
        "number_of_failed_sub_operations": claim.failed,
        "number_of_warning_sub_operations": claim.warned,
        "error_comment": claim.comment,
    }
    found: dict[str, Any] = {name: value for name, value in told.items() if value is not None}
    return found | ({"has_data_set": True} if claim.listed is not None else {})


REFUSED = "1 refused here: disk full"
FULL = Response(0xA700, error_comment="disk full")


@pytest.mark.parametrize(
    ("claim", "answers", "result"),
    [
        # honest peers, with and without the list
        (Claim(0, 2, 0, 0), (0, 0), (0, 2, 0, 0, (), None)),
        (
            Claim(0xB000, 1, 1, 0, FAILED_LIST),
            (0, FULL),
            (0xB000, 1, 1, 0, ("1.2.2",), REFUSED),
        ),
        (Claim(0xB000, 1, 1, 0), (0, FULL), (0xB000, 1, 1, 0, ("1.2.2",), REFUSED)),
        (Claim(0xB000, 1, 0, 1), (0, 0xB000), (0xB000, 1, 0, 1, (), None)),
        (
            Claim(0xB000, 1, 1, 0, FAILED_LIST, "no context"),
            (0,),
            (0xB000, 1, 1, 0, ("1.2.2",), "no context"),
        ),
        (Claim(0xB000, 1, 1, 0, b"unreadable list"), (0,), (0xB000, 1, 1, 0, (), None)),
        # a Success in which something failed
        (Claim(0, 2, 0, 0), (0, FULL), (0xB000, 1, 1, 0, ("1.2.2",), REFUSED)),
        (Claim(0, 1, 0, 0), (0xC000,), (0xB000, 0, 1, 0, ("1.2.1",), "1 refused here: 0xC000")),
        (Claim(0), (0, FULL), (0xB000, 1, 1, 0, ("1.2.2",), REFUSED)),
        (Claim(0, 2, 0, 0), (0, 0xB007), (0, 1, 0, 1, (), None)),
        # what is counted and never came
        (Claim(0, 150, 0, 0), (0,), (0xB000, 1, 149, 0, (), "149 that the peer counts as sent did not come")),
        (Claim(0, 3, 0, 0), (0, FULL), (0xB000, 1, 2, 0, ("1.2.2",), REFUSED)),
        # what is counted as sent and as failed
        (Claim(0xB000, 2, 1, 0), (0,), (0xB000, 1, 1, 0, (), "1 that the peer counts as sent did not come")),
        # no counters at all
        (Claim(0), (0, 0), (0, 2, 0, 0, (), None)),
    ],
)
async def test_what_arrived_counts(claim: Claim, answers: tuple[Any, ...], result: tuple[Any, ...]) -> None:
    found, retrieval = await retrieved(claim, *answers)
    assert found == result
    assert retrieval.status == result[0]
    assert retrieval.response.status == claim.status, "what the peer said is still there"


async def test_a_failure_stays_one_and_the_association_is_released() -> None:
    error, retrieval = await retrieved(Claim(0xA702, 0, 2, 0, comment="tape robot stuck"), 0xC000)
    assert isinstance(error, StatusError)
    assert error.status == Status.UNABLE_TO_PERFORM_SUB_OPERATIONS
    assert retrieval.result == (0xA702, 0, 2, 0, ("1.2.1",), "tape robot stuck")


async def test_a_c_get_of_which_too_much_is_refused_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each instance gives the peer new time: it could go on for ever."""
    monkeypatch.setattr("asyncdicom.services.arrivals.MAXIMUM_REFUSED", 3)

    async def receive(request: Request) -> int:
        await request.data.read()
        return 0xA700

    async def instance(peer: Peer, number: int) -> int:
        peer.send(3, store_rq(number, f"1.2.{number}"), b"data")
        return (await peer.message()).command.command_field

    async def play(peer: Peer) -> None:
        await peer.accept()
        asked = await peer.message()
        stored = [await instance(peer, number) for number in (1, 2, 3)]
        assert (await peer.message()).command.command_field == CommandField.C_CANCEL_RQ
        stored += [await instance(peer, number) for number in (4, 5)]  # these were on their way
        assert set(stored) == {CommandField.C_STORE_RSP}
        final = response_to(asked.command, Status.CANCEL, number_of_failed_sub_operations=5)
        peer.write(message(1, final))
        assert (await peer.pdu())[0] == 5, "one C-CANCEL was sent, and then an A-RELEASE-RQ"
        peer.write(bytes.fromhex("0600 00000004 00000000"))

    async with listening() as listener:
        association = associate(f"SCP@127.0.0.1:{listener.port}", contexts=CONTEXTS)
        opening = asyncio.ensure_future(enter(association, receive))
        await play(await listener.peer())
        result, _ = await opening
    assert isinstance(result, RetrieveResult)
    assert result.status == Status.CANCEL
    assert result.failed == 5
    assert "5 refused here" in (result.error_comment or "")
