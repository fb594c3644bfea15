"""DIMSE-N and storage commitment with pynetdicom, in both roles, with handlers as it documents them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Timer
from typing import Any

import pytest
from interop.peers import PATIENCE, PYNETDICOM_DIMSE_TIMEOUT, answered, with_pynetdicom
from pydicom import Dataset
from pydicom.tag import Tag
from pynetdicom import AE, evt
from pynetdicom.presentation import build_context, build_role

from asyncdicom import Request, Response, associate, serve
from asyncdicom.services.classes import SPEAKS_FOR
from asyncdicom.services.commitment import (
    COMMITMENT_INSTANCE,
    Reference,
    StorageCommitment,
    StorageCommitmentUser,
)
from asyncdicom.uid import STORAGE_COMMITMENT_PUSH_MODEL as COMMITMENT

pytestmark = pytest.mark.interop

MPPS, MPPS_RETRIEVE = "1.2.840.10008.3.1.2.3.3", "1.2.840.10008.3.1.2.3.4"
UPS_PUSH, UPS_WATCH, UPS_PULL, UPS_EVENT = (f"1.2.840.10008.5.1.4.34.6.{n}" for n in range(1, 5))
GRAYSCALE_PRINT, FILM_SESSION = "1.2.840.10008.5.1.1.9", "1.2.840.10008.5.1.1.1"
CT = "1.2.840.10008.5.1.4.1.1.2"


def named(value: str) -> Dataset:
    dataset = Dataset()
    dataset.PatientName = value
    return dataset


# pynetdicom provides


class Provider:
    """What pynetdicom was asked for, and the answers that it gives."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, Any]] = []

    def handlers(self) -> list[tuple[Any, Callable[..., Any]]]:
        return [
            (evt.EVT_N_CREATE, self.create),
            (evt.EVT_N_SET, self.set),
            (evt.EVT_N_GET, self.get),
            (evt.EVT_N_ACTION, self.action),
            (evt.EVT_N_DELETE, self.delete),
        ]

    def create(self, event: Any) -> Any:
        self.seen.append(
            ("create", event.request.AffectedSOPClassUID, event.attribute_list.get("PatientName"))
        )
        created = named("created")
        created.AffectedSOPInstanceUID = event.request.AffectedSOPInstanceUID or "1.2.3.99"
        return 0x0000, created

    def set(self, event: Any) -> Any:
        self.seen.append(("set", event.request.RequestedSOPClassUID, event.modification_list.PatientName))
        return 0x0000, named("changed")

    def get(self, event: Any) -> Any:
        self.seen.append(("get", event.request.RequestedSOPClassUID, list(event.attribute_identifiers)))
        return 0x0000, named("found")

    def action(self, event: Any) -> Any:
        self.seen.append(("action", event.request.RequestedSOPClassUID, event.action_type))
        return 0x0000, named("done")

    def delete(self, event: Any) -> Any:
        self.seen.append(("delete", event.request.RequestedSOPClassUID, None))
        return 0x0000


@contextmanager
def pynetdicom_serves(handlers: Any, *contexts: str) -> Iterator[str]:
    """pynetdicom as the SCP, in threads of its own."""
    ae = AE("PYNETDICOM")
    ae.dimse_timeout = PYNETDICOM_DIMSE_TIMEOUT
    for uid in contexts:
        ae.add_supported_context(uid, scu_role=True, scp_role=True)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    assert server is not None
    try:
        yield f"PYNETDICOM@127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()


FAMILIES = [
    # what is named, on which contexts, what they see
    (GRAYSCALE_PRINT, FILM_SESSION, FILM_SESSION),
    (UPS_PUSH, UPS_PUSH, UPS_PUSH),
    (UPS_PULL, UPS_PULL, UPS_PUSH),
    (UPS_WATCH, UPS_WATCH, UPS_PUSH),
]


@pytest.mark.parametrize(("context", "sop_class", "seen"), FAMILIES)
async def test_we_ask(context: str, sop_class: str, seen: str) -> None:
    provider = Provider()
    with pynetdicom_serves(provider.handlers(), context) as address:
        async with associate(address, contexts=[context]) as association:
            created = await association.n_create(sop_class, {"PatientName": "A^B"})
            responses = [
                created,
                await association.n_set(sop_class, "1.2.3", {"PatientName": "C^D"}),
                await association.n_get(sop_class, "1.2.3", ["PatientName", "PatientID"]),
                await association.n_action(sop_class, "1.2.3", 2, {"PatientName": "E^F"}),
            ]
            if context == GRAYSCALE_PRINT:  # pynetdicom has no N-DELETE for the others
                assert (await association.n_delete(sop_class, "1.2.3")).status == 0
    answered = [(response.status, str(response.attributes.PatientName)) for response in responses]
    assert answered == [(0, "created"), (0, "changed"), (0, "found"), (0, "done")]
    assert created.sop_instance_uid == "1.2.3.99"
    assert {(str(uid)) for _, uid, _ in provider.seen} == {seen}
    assert [value for _, _, value in provider.seen][:4] == ["A^B", "C^D", [0x00100010, 0x00100020], 2]


async def test_what_pynetdicom_refuses_is_told() -> None:
    def get(event: Any) -> Any:
        answer = Dataset()
        answer.Status = 0x0107
        answer.ErrorComment = "no such thing"
        return answer, named("half")

    with pynetdicom_serves([(evt.EVT_N_GET, get)], MPPS_RETRIEVE) as address:
        async with associate(address, contexts=[MPPS_RETRIEVE]) as association:
            response = await association.n_get(MPPS_RETRIEVE, "1.2.3")
    assert (response.status, response.error_comment) == (0x0107, "no such thing")


# pynetdicom asks


class Handlers:
    def __init__(self) -> None:
        self.seen: list[tuple[str, Any]] = []

    async def __call__(self, request: Request) -> Any:
        data = await request.attributes()
        self.seen.append((request.sop_class_uid, data.get("PatientName")))
        if request.command.name == "N-DELETE-RQ":
            return 0
        return named(f"answer to {request.command.name}")


async def in_thread(work: Callable[[], Any]) -> Any:
    return await asyncio.to_thread(with_pynetdicom, work)


def requestor(*contexts: str) -> AE:
    ae = AE("PYNETDICOM")
    ae.dimse_timeout = PYNETDICOM_DIMSE_TIMEOUT
    for uid in contexts:
        ae.add_requested_context(uid)
    return ae


@pytest.mark.parametrize(("context", "sop_class", "seen"), FAMILIES)
async def test_pynetdicom_asks(context: str, sop_class: str, seen: str) -> None:
    handlers = Handlers()
    names = ("n_create", "n_set", "n_get", "n_action", "n_delete")
    served: dict[str, Any] = dict.fromkeys(names, handlers)
    async with serve("SCP@127.0.0.1:0", contexts=[context], **served) as server:

        def ask() -> list[Any]:
            handlers.seen.clear()
            association = requestor(context).associate("127.0.0.1", server.port)
            assert association.is_established
            uid = SPEAKS_FOR.get(sop_class, sop_class)
            meta: dict[str, Any] = {"meta_uid": context}
            requests: list[Callable[[], Any]] = [
                lambda: association.send_n_create(named("A"), uid, "1.2.3", **meta),
                lambda: association.send_n_set(named("B"), uid, "1.2.3", **meta),
                lambda: association.send_n_get([Tag(0x00100010)], uid, "1.2.3", **meta),
                lambda: association.send_n_action(named("C"), 1, uid, "1.2.3", **meta),
                lambda: (association.send_n_delete(uid, "1.2.3", **meta), None),
            ]
            try:
                return [(answered(status), data) for status, data in (send() for send in requests)]
            finally:
                association.release()

        answers = await in_thread(ask)
    assert [status for status, _ in answers] == [0] * 5
    assert [str(data.PatientName) for _, data in answers[:4]] == [
        f"answer to {name}" for name in ("N-CREATE-RQ", "N-SET-RQ", "N-GET-RQ", "N-ACTION-RQ")
    ]
    assert [value for _, value in handlers.seen] == ["A", "B", None, "C", None]
    assert {uid for uid, _ in handlers.seen} == {seen}


async def test_pynetdicom_reports_an_event_as_an_scp_that_calls() -> None:
    reports: list[tuple[int, str]] = []

    async def on_report(request: Request) -> Response:
        reports.append((request.event_type_id, str((await request.attributes()).PatientName)))
        return Response(0, attributes={"PatientName": "thanks"})

    async with serve("WS1@127.0.0.1:0", contexts=[UPS_EVENT], n_event_report=on_report) as server:

        def report() -> Any:
            reports.clear()
            association = requestor(UPS_EVENT).associate(
                "127.0.0.1", server.port, ext_neg=[build_role(UPS_EVENT, scu_role=False, scp_role=True)]
            )
            assert association.is_established
            try:
                status, reply = association.send_n_event_report(
                    named("news"), 1, UPS_PUSH, "1.2.3", meta_uid=UPS_EVENT
                )
                return answered(status), reply
            finally:
                association.release()

        status, reply = await in_thread(report)
    assert status == 0
    assert str(reply.PatientName) == "thanks"
    assert reports == [(1, "news")]


# storage commitment


def references(dataset: Dataset) -> list[tuple[str, str]]:
    return [
        (str(item.ReferencedSOPClassUID), str(item.ReferencedSOPInstanceUID))
        for item in dataset.ReferencedSOPSequence
    ]


@pytest.mark.parametrize("where", ["same", "new"])
async def test_we_ask_pynetdicom_for_commitment(where: str) -> None:
    """It reports on the same association when it has answered, or calls back."""
    user = StorageCommitmentUser()
    has_reported = Event()
    async with serve("WS1@127.0.0.1:0", services=[user]) as listener:

        def report(event: Any) -> None:
            information = event.action_information
            answer = Dataset()
            answer.TransactionUID = information.TransactionUID
            answer.ReferencedSOPSequence = information.ReferencedSOPSequence[:1]
            failed = information.ReferencedSOPSequence[1]
            failed.FailureReason = 0x0112
            answer.FailedSOPSequence = [failed]
            association = event.assoc
            if where == "new":
                roles: list[Any] = [build_role(COMMITMENT, scu_role=False, scp_role=True)]
                association = requestor(COMMITMENT).associate("127.0.0.1", listener.port, ext_neg=roles)
                assert association.is_established
            association.send_n_event_report(answer, 2, COMMITMENT, COMMITMENT_INSTANCE)
            if where == "new":
                association.release()
            has_reported.set()

        def action(event: Any) -> Any:
            assert event.action_type == 1
            Timer(0.1, report, [event]).start()
            return 0x0000, None

        with pynetdicom_serves([(evt.EVT_N_ACTION, action)], COMMITMENT) as address:
            async with associate(
                address, contexts=[COMMITMENT], services=[user], calling_ae_title="WS1"
            ) as association:
                asked = [Reference(CT, "1.2.1"), Reference(CT, "1.2.2")]
                result = await user.commit(association, asked, timeout=PATIENCE)
                # Before we release: pynetdicom, which may have lost our answer, stops waiting for it.
                assert await asyncio.to_thread(has_reported.wait, PATIENCE)
    assert (result.committed, result.failed) == ({asked[0]}, {asked[1]: 0x0112})


@pytest.mark.parametrize("where", ["same", "new"])
async def test_pynetdicom_asks_us_for_commitment(where: str) -> None:
    reports: list[tuple[int, Dataset]] = []

    def on_report(event: Any) -> Any:
        reports.append((event.event_type, event.event_information))
        return 0x0000, None

    async def check(request: Request, asked: tuple[Reference, ...]) -> list[Reference]:
        return [asked[0]]

    ae = AE("WS1")
    ae.dimse_timeout = PYNETDICOM_DIMSE_TIMEOUT
    ae.requested_contexts = [build_context(COMMITMENT)]
    listener = AE("WS1")
    listener.add_supported_context(COMMITMENT, scu_role=False, scp_role=True)
    handlers: list[Any] = [(evt.EVT_N_EVENT_REPORT, on_report)]
    listening = listener.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    assert listening is not None
    try:
        async with serve(
            "ARCHIVE@127.0.0.1:0",
            services=[StorageCommitment(check)],
            destinations={"WS1": f"127.0.0.1:{listening.server_address[1]}"},
        ) as server:

            def has_report_of(transaction_uid: str) -> bool:
                return any(report.TransactionUID == transaction_uid for _, report in reports)

            def ask() -> int:
                own = handlers if where == "same" else []
                association = ae.associate("127.0.0.1", server.port, ae_title="ARCHIVE", evt_handlers=own)
                assert association.is_established
                information = Dataset()
                information.TransactionUID = f"1.2.{len(reports)}"
                information.ReferencedSOPSequence = []
                for uid in ("1.2.1", "1.2.2"):
                    item = Dataset()
                    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CT, uid
                    information.ReferencedSOPSequence.append(item)
                status, _ = association.send_n_action(information, 1, COMMITMENT, COMMITMENT_INSTANCE)
                # Before the release, in both cases: where pynetdicom has no handler it refuses the report on
                # the same association, and what it sends while it releases ends its thread with an error.
                wait_for(lambda: has_report_of(information.TransactionUID))
                association.release()
                return answered(status)

            assert await in_thread(ask) == 0
    finally:
        listening.shutdown()
    event_type, information = reports[-1]
    assert event_type == 2
    assert len(reports) == len({report.TransactionUID for _, report in reports})
    assert references(information) == [(CT, "1.2.1")]
    [failed] = information.FailedSOPSequence
    assert (failed.ReferencedSOPInstanceUID, failed.FailureReason) == ("1.2.2", 0x0112)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
