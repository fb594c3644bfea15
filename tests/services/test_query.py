"""C-FIND from end to end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from helpers.peer import CT, IDENTIFIER, Listener, eventually, listening, message

from asyncdicom import (
    PATIENT_ROOT,
    STUDY_ROOT,
    VERIFICATION,
    AssociationAborted,
    DataSetError,
    DicomNetworkError,
    Limits,
    LocalProtocolError,
    PresentationContext,
    PresentationContextError,
    Proposable,
    Request,
    Response,
    Status,
    StatusError,
    associate,
    serve,
)
from asyncdicom.dataset import encode
from asyncdicom.dimse.messages import response_to
from asyncdicom.services.query import Query
from asyncdicom.uid import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
)

QUERY = {"QueryRetrieveLevel": "STUDY", "PatientName": "", "StudyInstanceUID": ""}


def address(server: Any) -> str:
    return f"SCP@127.0.0.1:{server.port}"


async def three(request: Request) -> AsyncIterator[Any]:
    identifier = await request.identifier()
    assert identifier.QueryRetrieveLevel == "STUDY"
    for number in range(3):
        yield {
            "QueryRetrieveLevel": "STUDY",
            "PatientName": f"Grün^{number}",
            "StudyInstanceUID": f"1.2.{number}",
        }


async def nothing(request: Request) -> AsyncIterator[Any]:
    return
    yield


SYNTAXES = [
    IMPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
]


@pytest.mark.parametrize("syntax", SYNTAXES)
async def test_matches_come_as_datasets_in_any_transfer_syntax(syntax: str) -> None:
    contexts = [PresentationContext(STUDY_ROOT.find, (syntax,))]
    async with (
        serve("SCP@127.0.0.1:0", c_find=three) as server,
        associate(address(server), contexts=contexts) as association,
    ):
        matches = await association.c_find(QUERY, information_model=STUDY_ROOT)
        assert [str(match.PatientName) for match in matches] == ["Grün^0", "Grün^1", "Grün^2"]
        async with association.c_find(QUERY) as query:
            uids = [match.StudyInstanceUID async for match in query]
        assert uids == ["1.2.0", "1.2.1", "1.2.2"]
        assert query.status == Status.SUCCESS
        assert query.optional_keys_supported


async def test_a_dataset_can_be_asked_with_and_answered_with() -> None:
    from pydicom import Dataset

    async def on_find(request: Request) -> AsyncIterator[Dataset]:
        match = await request.identifier()
        match.PatientName = "DOE^JOHN"
        yield match

    identifier = Dataset()
    identifier.QueryRetrieveLevel = "PATIENT"
    identifier.PatientName = ""
    async with (
        serve("SCP@127.0.0.1:0", c_find=on_find) as server,
        associate(address(server), contexts=[PATIENT_ROOT]) as association,
    ):
        (match,) = await association.c_find(identifier, information_model=PATIENT_ROOT)
    assert match.PatientName == "DOE^JOHN"
    assert "PatientName" in identifier
    assert identifier.PatientName == ""


async def test_raw_bytes_go_through_as_they_are() -> None:
    got = []

    async def on_find(request: Request) -> AsyncIterator[bytes]:
        got.append(await request.data.read())
        yield b"not even DICOM"
        yield b""

    async with (
        serve("SCP@127.0.0.1:0", c_find=on_find) as server,
        associate(address(server), contexts=[STUDY_ROOT]) as association,
    ):
        matches = await association.c_find(IDENTIFIER, raw=True)
    assert got == [IDENTIFIER]
    assert matches == [b"not even DICOM", b""]


async def test_no_match_is_success() -> None:
    async with (
        serve("SCP@127.0.0.1:0", c_find=nothing) as server,
        associate(address(server), contexts=[STUDY_ROOT]) as association,
    ):
        assert await association.c_find(QUERY) == []


async def test_ten_thousand_matches_and_the_loop_stays_free() -> None:
    ticks = 0

    async def on_find(request: Request) -> AsyncIterator[bytes]:
        for _ in range(10_000):
            yield IDENTIFIER

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0)
            ticks += 1

    async with (
        serve("SCP@127.0.0.1:0", c_find=on_find) as server,
        associate(address(server), contexts=[STUDY_ROOT]) as association,
    ):
        ticking = asyncio.create_task(tick())
        matches = await association.c_find(IDENTIFIER, raw=True)
        ticking.cancel()
    assert len(matches) == 10_000
    assert ticks > 100


async def test_a_slow_reader_holds_back_the_provider() -> None:
    sent = 0

    async def on_find(request: Request) -> AsyncIterator[bytes]:
        nonlocal sent
        for sent in range(1, 3001):  # noqa: B007
            yield bytes(20_000)

    async with (
        serve("SCP@127.0.0.1:0", c_find=on_find) as server,
        associate(
            address(server), contexts=[STUDY_ROOT, VERIFICATION], limits=Limits(read_budget=100_000)
        ) as association,
    ):
        count = 0
        async with association.c_find(IDENTIFIER, raw=True) as query:
            async for _ in query:
                count += 1
                if count == 1:
                    await asyncio.sleep(0.05)
                    seen = sent
                    await asyncio.sleep(0.05)
                    assert sent == seen < 3000
        assert count == 3000
        assert (await association.c_echo()).status == 0


async def test_who_breaks_off_gets_the_association_back_whatever_was_queued() -> None:
    async def on_find(request: Request) -> AsyncIterator[bytes]:
        while True:
            yield bytes(20_000)

    async with (
        serve("SCP@127.0.0.1:0", c_find=on_find) as server,
        associate(
            address(server), contexts=[STUDY_ROOT, VERIFICATION], limits=Limits(read_budget=100_000)
        ) as association,
    ):
        async with association.c_find(IDENTIFIER, raw=True) as query:
            async for _ in query:
                await eventually(lambda: association._channel.inbox.budget.paused)
                break
        assert query.status == Status.CANCEL
        assert (await association.c_echo()).status == 0
        assert association._channel.inbox.budget.undelivered == 0


async def test_optional_keys_that_the_peer_ignores_are_told() -> None:
    from helpers.peer import listening

    from asyncdicom.dimse.messages import response_to

    async with listening() as listener:
        task = asyncio.ensure_future(associate(f"SCP@127.0.0.1:{listener.port}", contexts=[STUDY_ROOT]))
        peer = await listener.peer()
        await peer.accept()
        association = await task

        async def run() -> tuple[bool, int]:
            async with association.c_find(IDENTIFIER, raw=True) as query:
                count = len([match async for match in query])
            return query.optional_keys_supported, count

        running = asyncio.create_task(run())
        request = await peer.message()
        for status in (0xFF00, 0xFF01):
            peer.send(request.context_id, response_to(request.command, status, has_data_set=True), b"1")
        peer.send(request.context_id, response_to(request.command, 0))
        assert await running == (False, 2)
        peer.reset()
        await association.wait_closed()


async def test_a_handler_says_that_it_ignores_an_optional_key() -> None:
    """0xFF01 for what it yields from then on (PS3.4 C.4.1.1.4)."""

    async def partly(request: Request) -> AsyncIterator[dict[str, str]]:
        assert request.optional_keys_supported
        yield QUERY
        request.optional_keys_supported = False
        assert not request.optional_keys_supported
        yield QUERY

    async with (
        serve("SCP@127.0.0.1:0", c_find=partly) as server,
        associate(address(server), contexts=[STUDY_ROOT]) as association,
        association.c_find(QUERY) as query,
    ):
        seen = [query.optional_keys_supported async for _ in query]
    assert seen == [True, False]


async def test_what_cannot_be_asked_is_refused_before_anything_is_sent() -> None:
    async with (
        serve("SCP@127.0.0.1:0", c_find=nothing) as server,
        associate(address(server), contexts=[STUDY_ROOT]) as association,
    ):
        with pytest.raises(PresentationContextError):
            association.c_find(QUERY, information_model=PATIENT_ROOT)
        with pytest.raises(DataSetError, match="NoSuchKeyword"):
            association.c_find({"NoSuchKeyword": 1})
        query = association.c_find(QUERY)
        with pytest.raises(LocalProtocolError, match="async with"):
            await anext(query)
        async with query:
            pass
        with pytest.raises(LocalProtocolError, match="started before"):
            await query
        assert await association.c_find(QUERY) == []


async def test_an_unreadable_identifier_fails_the_query_not_the_association() -> None:
    async with (
        serve("SCP@127.0.0.1:0", c_find=three) as server,
        associate(address(server), contexts=[STUDY_ROOT]) as association,
    ):
        with pytest.raises(StatusError) as caught:
            await association.c_find(b"\x08\x00\x52\x00CS\xff\xffgarbage")
        assert caught.value.status == 0xA900
        assert caught.value.response.error_comment.startswith("your data set cannot be read: ")
        assert len(await association.c_find(QUERY)) == 3


GOOD = encode({"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "1.2.3"}, IMPLICIT_VR_LITTLE_ENDIAN)
BROKEN_LENGTH = GOOD[:-14] + b"\x10\0\x20\0\xff\xff\0\0ab"  # the last element is longer than what is there


async def matches_of(*matches: bytes) -> tuple[list[Any], Query[Any]]:
    """Ask a peer that gives these matches, as they are."""

    async def on_find(request: Request) -> AsyncIterator[bytes]:
        for match in matches:
            yield match

    contexts: list[Proposable] = [
        PresentationContext(STUDY_ROOT.find, (IMPLICIT_VR_LITTLE_ENDIAN,)),
        VERIFICATION,
    ]
    async with (
        serve("SCP@127.0.0.1:0", c_find=on_find) as server,
        associate(address(server), contexts=contexts) as association,
    ):
        query = association.c_find(QUERY)
        async with query:
            found = [match async for match in query]
        assert (await association.c_echo()).status == 0
        assert [len(match) for match in await association.c_find(QUERY)] == [len(match) for match in found]
        return found, query


async def test_an_unreadable_match_costs_only_itself(caplog: pytest.LogCaptureFixture) -> None:
    unreadable = b"\0\x08\0\x52garbage"
    found, query = await matches_of(GOOD, unreadable, GOOD)
    assert [match.StudyInstanceUID for match in found] == ["1.2.3", "1.2.3"]
    assert (query.number_unreadable, query.unreadable, query.skipped.count) == (1, [unreadable], 0)
    assert query.status == Status.SUCCESS
    assert "a match of a C-FIND cannot be read, and is left out: " in caplog.text


async def test_an_unreadable_element_of_a_match_costs_only_itself(caplog: pytest.LogCaptureFixture) -> None:
    found, query = await matches_of(GOOD, BROKEN_LENGTH, GOOD + bytes(8))
    assert [match.get("StudyInstanceUID") for match in found] == ["1.2.3", None, "1.2.3"]
    assert [match.QueryRetrieveLevel for match in found] == ["STUDY"] * 3
    assert (query.number_unreadable, query.skipped.count) == (0, 1)
    assert "a match of a C-FIND is not complete: 1 element skipped; (0010,0020)" in caplog.text


async def test_what_is_kept_of_unreadable_matches_is_bounded() -> None:
    found, query = await matches_of(*[b"\0\x08\0\x52garbage"] * 101)
    assert (found, query.number_unreadable, len(query.unreadable)) == ([], 101, 100)


async def test_unreadable_matches_come_to_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody sees them who could end the query."""
    monkeypatch.setattr("asyncdicom.services.query.MAXIMUM_UNREADABLE", 20)
    monkeypatch.setattr("asyncdicom.dimse.operations.MAXIMUM_STRAYS", 20)

    async def on_find(request: Request) -> AsyncIterator[bytes]:
        yield GOOD
        while True:
            yield b"\0\x08\0\x52garbage"

    contexts: list[Proposable] = [
        PresentationContext(STUDY_ROOT.find, (IMPLICIT_VR_LITTLE_ENDIAN,)),
        VERIFICATION,
    ]
    async with (
        serve("SCP@127.0.0.1:0", c_find=on_find, limits=Limits(maximum_matches=None)) as server,
        associate(address(server), contexts=contexts) as association,
    ):
        with pytest.raises(DicomNetworkError, match="more than 20 matches that cannot be read") as caught:
            await association.c_find(QUERY)
        assert [match.StudyInstanceUID for match in caught.value.result] == ["1.2.3"]
        assert (await association.c_echo()).status == 0, "it was cancelled"


async def test_a_match_in_another_transfer_syntax_is_read_as_it_looks() -> None:
    explicit = encode({"QueryRetrieveLevel": "STUDY", "PatientName": "A^B"}, EXPLICIT_VR_LITTLE_ENDIAN)
    found, query = await matches_of(explicit)
    assert [str(match.PatientName) for match in found] == ["A^B"]
    assert query.number_unreadable == 0


async def test_an_identifier_is_read_as_it_is_or_not_at_all() -> None:
    """A key that is passed over would make a query broader than it was asked."""
    async with (
        serve("SCP@127.0.0.1:0", c_find=three) as server,
        associate(
            address(server), contexts=[PresentationContext(STUDY_ROOT.find, (IMPLICIT_VR_LITTLE_ENDIAN,))]
        ) as association,
    ):
        with pytest.raises(StatusError) as caught:
            await association.c_find(BROKEN_LENGTH)
        assert caught.value.status == 0xA900
        assert len(await association.c_find(GOOD + bytes(100))) == 3, "zeros behind the end are nothing"


async def test_a_query_without_a_provider_is_not_accepted() -> None:
    async with serve("SCP@127.0.0.1:0") as server:
        async with associate(address(server), contexts=[STUDY_ROOT, CT, VERIFICATION]) as association:
            with pytest.raises(PresentationContextError):
                association.c_find(QUERY)


@pytest.mark.parametrize("how", ["a Failure", "an abort", "too many"])
async def test_an_error_in_the_middle_of_a_query_has_the_matches_so_far(how: str) -> None:
    async def on_find(request: Request) -> AsyncIterator[Any]:
        async for match in three(request):
            yield match
        if how == "a Failure":
            raise StatusError(Response(0xA700))
        await request.association.abort()

    async with serve("SCP@127.0.0.1:0", c_find=on_find) as server:
        association = await associate(address(server), contexts=[STUDY_ROOT])
        with pytest.raises(DicomNetworkError) as caught:
            await association.c_find(QUERY, maximum_matches=2 if how == "too many" else 100)
        assert [match.StudyInstanceUID for match in caught.value.result] == ["1.2.0", "1.2.1", "1.2.2"]
        await association.abort()


async def test_a_list_that_is_too_large_is_cancelled_and_the_association_stays() -> None:
    cancelled = []

    async def on_find(request: Request) -> AsyncIterator[bytes]:
        try:
            while True:
                yield IDENTIFIER
        finally:
            cancelled.append(request.is_cancelled)

    async with (
        serve("SCP@127.0.0.1:0", c_find=on_find) as server,
        associate(address(server), contexts=[STUDY_ROOT]) as association,
    ):
        with pytest.raises(DicomNetworkError, match="maximum_bytes"):
            await association.c_find(IDENTIFIER, raw=True, maximum_bytes=10 * len(IDENTIFIER))
        assert association.is_established
    assert cancelled == [True]


async def test_who_goes_on_after_a_c_cancel_is_aborted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncdicom.services.responses.MAXIMUM_UNWANTED", 1000)

    async def play(listener: Listener) -> int:
        peer = await listener.peer()
        await peer.accept()
        asked = await peer.message()
        response = response_to(asked.command, Status.PENDING, has_data_set=True)
        match = message(asked.context_id, response, bytes(600))
        peer.write(match)
        await peer.message()  # the C-CANCEL
        peer.write(2 * match)
        return (await peer.pdu())[0]

    async with listening() as listener:
        playing = asyncio.ensure_future(play(listener))
        with pytest.raises(AssociationAborted, match="after C-CANCEL"):
            async with associate(f"SCP@127.0.0.1:{listener.port}", contexts=[STUDY_ROOT]) as association:
                async with association.c_find(IDENTIFIER, raw=True) as matches:
                    async for _ in matches:
                        break
        assert await playing == 7  # A-ABORT
