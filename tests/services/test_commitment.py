"""Storage commitment in both roles: on one association, on another one, and when nobody can be told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import pytest
from helpers.peer import eventually

from asyncdicom import (
    Address,
    Association,
    AssociationTimeout,
    PresentationContext,
    Request,
    Response,
    StatusError,
    associate,
    serve,
)
from asyncdicom.services.commitment import (
    COMMITMENT_INSTANCE,
    CommitmentResult,
    Reference,
    StorageCommitment,
    StorageCommitmentUser,
)
from asyncdicom.services.node import Delivery, ReportQueue
from asyncdicom.uid import IMPLICIT_VR_LITTLE_ENDIAN
from asyncdicom.uid import STORAGE_COMMITMENT_PUSH_MODEL as MODEL

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
ONE, TWO, GONE = Reference(CT, "1.2.1"), Reference(MR, "1.2.2"), Reference(CT, "1.2.9")


def address(server: Any) -> str:
    return f"ARCHIVE@127.0.0.1:{server.port}"


async def keeps(request: Request, references: tuple[Reference, ...]) -> set[Reference]:
    return {ONE, TWO}


def archive(check: Any = keeps, **options: Any) -> Any:
    return serve("ARCHIVE@127.0.0.1:0", services=[StorageCommitment(check)], **options)


async def test_all_is_committed_on_one_association() -> None:
    commitment = StorageCommitmentUser()
    async with (
        archive() as server,
        associate(address(server), contexts=[MODEL], services=[commitment]) as association,
    ):
        result = await commitment.commit(association, [ONE, TWO], transaction_uid="1.2.3")
        again = await commitment.commit(association, [(ONE[0], ONE[1])])
    assert result == CommitmentResult("1.2.3", frozenset({ONE, TWO}), {}, frozenset())
    assert result.is_complete
    assert again.committed == {ONE}
    assert again.transaction_uid != "1.2.3"


async def test_what_is_not_committed_is_told_with_its_reason() -> None:
    async def check(request: Request, references: tuple[Reference, ...]) -> Mapping[Reference, int]:
        assert set(references) == {ONE, TWO, GONE}
        return {ONE: 0, TWO: 0x0119}

    commitment = StorageCommitmentUser()
    async with (
        archive(check) as server,
        associate(address(server), contexts=[MODEL], services=[commitment]) as association,
    ):
        result = await commitment.commit(association, [ONE, TWO, GONE])
    assert result.committed == {ONE}
    assert result.failed == {TWO: 0x0119, GONE: 0x0112}, "what was not said to be safe is not committed"
    assert not result.is_complete


@pytest.mark.parametrize("verdict", [None, True, False, 5, "1.2.1"], ids=repr)
async def test_a_check_that_says_nothing_commits_nothing(verdict: Any) -> None:
    async def check(request: Request, references: tuple[Reference, ...]) -> Any:
        return verdict

    commitment = StorageCommitmentUser()
    async with (
        archive(check) as server,
        associate(address(server), contexts=[MODEL], services=[commitment]) as association,
    ):
        with pytest.raises(StatusError) as caught:
            await commitment.commit(association, [ONE])
    assert caught.value.status == 0x0110


async def test_the_response_leaves_before_the_report() -> None:
    order: list[str] = []

    async def on_report(request: Request) -> int:
        order.append("report")
        return 0

    async with (
        archive() as server,
        associate(address(server), contexts=[MODEL], n_event_report=on_report) as association,
    ):
        response = await association.n_action(MODEL, COMMITMENT_INSTANCE, 1, request_for(ONE))
        order.append("response")
        assert response.status == 0
        await eventually(lambda: len(order) == 2)
    assert order == ["response", "report"]


def request_for(*references: Reference, uid: str = "1.2.3") -> dict[str, Any]:
    return {
        "TransactionUID": uid,
        "ReferencedSOPSequence": [
            {"ReferencedSOPClassUID": sop_class, "ReferencedSOPInstanceUID": instance}
            for sop_class, instance in references
        ],
    }


@pytest.mark.parametrize(
    ("instance", "action", "information", "status"),
    [
        ("1.2.3", 1, request_for(ONE), 0x0112),
        (COMMITMENT_INSTANCE, 2, request_for(ONE), 0x0123),
        (COMMITMENT_INSTANCE, 1, None, 0x0115),
        (COMMITMENT_INSTANCE, 1, request_for(), 0x0115),
        (COMMITMENT_INSTANCE, 1, request_for(ONE, uid=""), 0x0115),
        (COMMITMENT_INSTANCE, 1, request_for(Reference("", "")), 0x0115),
        (COMMITMENT_INSTANCE, 1, b"garbage", 0x0110),
        (COMMITMENT_INSTANCE, 1, request_for(ONE, TWO, GONE), 0x0213),
    ],
)
async def test_requests_that_are_refused(
    instance: str, action: int, information: Any, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    service = StorageCommitment(keeps, maximum_references=2)
    async with (
        serve("ARCHIVE@127.0.0.1:0", services=[service]) as server,
        associate(address(server), contexts=[MODEL]) as association,
    ):
        assert (await association.n_action(MODEL, instance, action, information)).status == status
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_report_comes_on_another_association_when_the_first_has_gone() -> None:
    """One object waits on both: the association that asked, and the server that listens."""
    results: list[CommitmentResult] = []

    async def on_result(request: Request, result: CommitmentResult) -> None:
        results.append(result)

    async def check(request: Request, references: tuple[Reference, ...]) -> set[Reference]:
        return {ONE}

    user = StorageCommitmentUser(on_result)
    async with serve("WS1@127.0.0.1:0", services=[user]) as listener:
        where = {"WS1": f"127.0.0.1:{listener.port}"}
        async with archive(check, destinations=where) as server:
            # this association does not take reports
            async with associate(address(server), contexts=[MODEL], calling_ae_title="WS1") as association:
                response = await association.n_action(MODEL, COMMITMENT_INSTANCE, 1, request_for(ONE, GONE))
                assert response.status == 0
                await eventually(lambda: results)
    assert results == [CommitmentResult("1.2.3", frozenset({ONE}), {GONE: 0x0112})]


async def test_who_waits_gets_the_report_that_comes_on_another_association() -> None:
    user = StorageCommitmentUser()
    async with serve("WS1@127.0.0.1:0", services=[user]) as listener:
        where = {"WS1": f"127.0.0.1:{listener.port}"}
        async with (
            archive(destinations=where) as server,
            associate(address(server), contexts=[MODEL], calling_ae_title="WS1") as association,
        ):
            result = await user.commit(association, [ONE])
    assert result.is_complete


async def test_a_report_that_cannot_be_delivered_is_told(caplog: pytest.LogCaptureFixture) -> None:
    commitment = StorageCommitmentUser()
    async with archive() as server:
        async with associate(address(server), contexts=[MODEL], calling_ae_title="NOBODY") as association:
            with pytest.raises(AssociationTimeout, match="no report about the transaction") as caught:
                await commitment.commit(association, [ONE], transaction_uid="1.2.3", timeout=0.05)
            assert caught.value.which == "report"
        await eventually(lambda: "is given up: its address is not known here" in caplog.text)
    assert "NOBODY" in caplog.text


async def test_reports_are_tried_again_and_in_the_end_given_up(caplog: pytest.LogCaptureFixture) -> None:
    asked: list[Request] = []

    async def on_report(request: Request) -> int:
        asked.append(request)
        return 0x0110 if len(asked) < 3 else 0

    async with serve("WS1@127.0.0.1:0", contexts=[MODEL], n_event_report=on_report) as server:

        def open_to(destination: str, contexts: Any) -> Any:
            return associate(Address(destination, "127.0.0.1", server.port), contexts=contexts)

        reports = ReportQueue(open_to, delays=(0.0, 0.0, 0.0, 0.0))
        await reports.add(Delivery("WS1", MODEL, COMMITMENT_INSTANCE, 1, request_for(ONE)))
        await eventually(lambda: not len(reports))
        assert len(asked) == 3
        asked.clear()
        caplog.clear()
        reports = ReportQueue(open_to, delays=(0.0, 0.0))
        await reports.add(Delivery("WS1", MODEL, COMMITMENT_INSTANCE, 1, request_for(ONE)))
        await eventually(lambda: not len(reports))
        assert len(asked) == 2
        assert "is given up: Response(0x0110" in caplog.text


async def test_what_waits_is_bounded_and_its_loss_is_told(caplog: pytest.LogCaptureFixture) -> None:
    reports = ReportQueue(lambda destination, contexts: None, maximum=2, delays=(1000.0,))
    delivery = Delivery("WS1", MODEL, COMMITMENT_INSTANCE, 1, request_for(ONE))
    await reports.add(delivery)
    await reports.add(delivery)
    with pytest.raises(StatusError) as caught:
        await reports.add(delivery)
    assert caught.value.status == 0x0213
    await asyncio.sleep(0)
    await reports.close()
    assert not len(reports)
    assert caplog.text.count("is lost: the server ends") == 2


async def test_one_report_that_cannot_be_encoded_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async with serve("WS1@127.0.0.1:0", contexts=[MODEL], n_event_report=answers(0)) as server:

        def open_to(destination: str, contexts: Any) -> Any:
            return associate(Address(destination, "127.0.0.1", server.port), contexts=contexts)

        reports = ReportQueue(open_to, delays=(0.0,))
        await reports.add(Delivery("WS1", MODEL, COMMITMENT_INSTANCE, 1, {"Nobody": 1}))
        await eventually(lambda: not len(reports))
    assert "cannot be sent: 'Nobody' is not a keyword" in caplog.text


def answers(status: int) -> Any:
    async def handler(request: Request) -> int:
        return status

    return handler


# the SCU's side


class Reporter:
    """An SCP made by hand: it takes every request, and reports what a test tells it to."""

    def __init__(self, event_type_id: int, information: Any, instance: str = COMMITMENT_INSTANCE) -> None:
        self.report = MODEL, instance, event_type_id, information
        self.answers: list[Response] = []

    async def __call__(self, request: Request) -> int:
        self.answers.append(await request.association.n_event_report(*self.report))
        return 0


@pytest.mark.parametrize(
    ("event", "information", "instance", "status"),
    [
        (1, request_for(ONE), "1.2.3", 0x0112),
        (3, request_for(ONE), COMMITMENT_INSTANCE, 0x0113),
        (1, None, COMMITMENT_INSTANCE, 0x0115),
        (1, request_for(ONE, uid="1.2.4"), COMMITMENT_INSTANCE, 0x0110),
        (1, b"garbage", COMMITMENT_INSTANCE, 0x0110),
    ],
)
async def test_reports_that_are_refused(event: int, information: Any, instance: str, status: int) -> None:
    reporter = Reporter(event, information, instance)
    commitment = StorageCommitmentUser()
    async with (
        serve("ARCHIVE@127.0.0.1:0", contexts=[MODEL], n_action=reporter) as server,
        associate(address(server), contexts=[MODEL], services=[commitment]) as association,
    ):
        with pytest.raises(AssociationTimeout):
            await commitment.commit(association, [ONE], transaction_uid="1.2.3", timeout=0.05)
        assert association.is_established
    assert [int(response.status) for response in reporter.answers] == [status]


async def test_what_a_report_leaves_out_is_not_committed_nor_is_what_it_says_twice() -> None:
    failed = request_for(TWO)["ReferencedSOPSequence"][0] | {"FailureReason": 0x0110}
    reporter = Reporter(2, {**request_for(ONE, TWO), "FailedSOPSequence": [failed]})
    commitment = StorageCommitmentUser()
    async with (
        serve("ARCHIVE@127.0.0.1:0", contexts=[MODEL], n_action=reporter) as server,
        associate(address(server), contexts=[MODEL], services=[commitment]) as association,
    ):
        result = await commitment.commit(association, [ONE, TWO, GONE], transaction_uid="1.2.3")
    assert (result.committed, result.failed, result.missing) == ({ONE}, {TWO: 0x0110}, {GONE})
    assert not result.is_complete


async def test_a_transaction_uid_is_used_once_at_a_time() -> None:
    commitment = StorageCommitmentUser()

    async def never(request: Request) -> int:
        return 0

    async with (
        serve("ARCHIVE@127.0.0.1:0", contexts=[MODEL], n_action=never) as server,
        associate(address(server), contexts=[MODEL], services=[commitment]) as association,
    ):
        first = asyncio.ensure_future(commitment.commit(association, [ONE], transaction_uid="1.2.3"))
        await asyncio.sleep(0)
        with pytest.raises(ValueError, match="is under way"):
            await commitment.commit(association, [ONE], transaction_uid="1.2.3")
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        with pytest.raises(ValueError, match="at least one"):
            await commitment.commit(association, [])
        with pytest.raises(AssociationTimeout):
            await commitment.commit(association, [ONE], transaction_uid="1.2.3", timeout=0)


async def test_an_scu_that_listens_accepts_scps_that_negotiate_roles_and_those_that_do_not() -> None:
    async with serve("WS1@127.0.0.1:0", services=[StorageCommitmentUser()]) as server:
        for roles, expected in (((False, True), (False, True)), ((True, True), (True, True))):
            context = PresentationContext(MODEL, (IMPLICIT_VR_LITTLE_ENDIAN,), *roles)
            where = f"WS1@127.0.0.1:{server.port}"
            association: Association
            async with associate(where, contexts=[context]) as association:
                [accepted] = association.contexts.values()
                assert (accepted.as_scu, accepted.as_scp) == expected
