"""The wire suite over TCP, against our own archive and our own requestor."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from helpers.peer import eventually

from asyncdicom import AccessPolicy, NormalizedService, Request, Timeouts, associate
from asyncdicom.address import Address
from asyncdicom.archive import Archive
from asyncdicom.archive.dimse import serve_archive
from asyncdicom.conformance.case import Case, Verdict
from asyncdicom.conformance.cases import CASES, DEVIATIONS, select
from asyncdicom.conformance.tcp import play_with_acceptor, play_with_requestor
from asyncdicom.exceptions import AssociationError, PresentationContextError
from asyncdicom.server import Server
from asyncdicom.services.normalized import NORMALIZED_HANDLERS
from asyncdicom.uid import STUDY_ROOT, VERIFICATION

PATIENCE = 5.0
MPPS, GRAYSCALE_PRINT = "1.2.840.10008.3.1.2.3.3", "1.2.840.10008.5.1.1.9"


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    async with Archive(tmp_path / "archive", durability="none") as opened:
        yield opened


def _normalized() -> NormalizedService:
    """Takes whatever is asked, if it can be read: beside the archive, so that no case is skipped."""

    async def take(request: Request) -> int:
        await request.attributes()
        return 0

    handlers = {name: take for name in NORMALIZED_HANDLERS if name != "n_event_report"}
    return NormalizedService(sop_classes=[MPPS, GRAYSCALE_PRINT], **handlers)


@pytest.fixture
async def server(archive: Archive) -> AsyncIterator[Server]:
    async with serve_archive(
        archive,
        "ARCHIVE@127.0.0.1:0",
        services=[_normalized()],
        timeouts=Timeouts(artim=0.2, receive=0.3, release=1.0),
    ) as serving:
        yield serving


def address(server: Server) -> Address:
    return Address("ARCHIVE", "127.0.0.1", server.port)


def complaints(verdicts: list[Verdict]) -> list[str]:
    return [
        f"{verdict.case.id} {verdict.result}: {verdict.got} {verdict.why}, not {verdict.case.expect}"
        for verdict in verdicts
        if verdict.result != ("tolerated" if verdict.case.id in DEVIATIONS else "passed")
    ]


async def test_our_archive(server: Server, archive: Archive) -> None:
    """Nothing fails, nothing is skipped, and what is tolerated is on the list of our deviations."""
    verdicts = [
        await play_with_acceptor(case, address(server), patience=PATIENCE) for case in select((), slow=True)
    ]
    assert complaints(verdicts) == []
    async with asyncio.timeout(2.0):  # shorter than any of its timers: nobody lingers
        await eventually(lambda: not server.associations)


async def test_all_at_once(server: Server) -> None:
    """Whatever one peer does, the others are served as if it were not there."""
    room = asyncio.Semaphore(40)

    async def play(case: Case) -> Verdict:
        async with room:
            return await play_with_acceptor(case, address(server), patience=PATIENCE)

    assert complaints(list(await asyncio.gather(*map(play, select(()))))) == []


async def test_a_refusal_was_stored_nowhere(server: Server, archive: Archive) -> None:
    refused = select(("D", "C-10", "C-12"))
    stored = 0
    for case in refused:
        verdict = await play_with_acceptor(case, address(server), patience=PATIENCE)
        stored += verdict.got.startswith("status 0000") and case.needs in (3, 5, 7)
    counts = await archive.counts()
    assert counts["instance"] == stored > 0


STRICT = {"A-01": "reject 1 1 7", "A-03a": "reject 1 1 7"} | dict.fromkeys(
    ("A-02", "A-03b", "A-06a", "A-06b", "A-06c", "A-06d"), "reject 1 1 3"
)


async def test_a_strict_archive(archive: Archive) -> None:
    """The deviations in AE titles are gone where titles are checked."""
    strict = AccessPolicy(called_ae_titles="ARCHIVE", peers="CONFORMANCE")
    async with serve_archive(archive, "ARCHIVE@127.0.0.1:0", access=strict) as serving:
        for case_id, rejection in STRICT.items():
            (case,) = select((case_id,))
            verdict = await play_with_acceptor(case, address(serving), patience=PATIENCE)
            assert (case_id, verdict.got) == (case_id, rejection)


async def verify(port: int) -> None:
    """What is tested of a requestor: C-ECHO on an association with more than one context, and the release."""
    async with associate(
        f"SCP@127.0.0.1:{port}", contexts=[VERIFICATION, STUDY_ROOT], timeouts=Timeouts(acse=2.0, dimse=2.0)
    ) as association:
        await association.c_echo()


@pytest.mark.parametrize("case", [case for case in CASES if not case.is_acceptor], ids=lambda case: case.id)
async def test_our_requestor(case: Case) -> None:
    verdicts: asyncio.Queue[Verdict] = asyncio.Queue()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        verdicts.put_nowait(await play_with_requestor(case, reader, writer, patience=PATIENCE))

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as listener:
        with suppress(AssociationError, PresentationContextError):
            await verify(listener.sockets[0].getsockname()[1])
        verdict = await asyncio.wait_for(verdicts.get(), PATIENCE)
    assert verdict.result == "passed", f"{verdict.got}, not {case.expect}"
