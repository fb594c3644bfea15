"""DIMSE-N in both roles (PS3.7 10.1), for any SOP class, families of them included."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from helpers.peer import CT, RELEASE_RP, Peer, eventually, listening

from asyncdicom import (
    STUDY_ROOT,
    VERIFICATION,
    Association,
    DataSetError,
    LocalProtocolError,
    PresentationContext,
    PresentationContextError,
    Request,
    Response,
    Status,
    StatusError,
    associate,
    serve,
)
from asyncdicom.dimse.messages import Command, CommandField, response_to
from asyncdicom.services.normalized import NORMALIZED_HANDLERS
from asyncdicom.uid import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    SOP_CLASSES,
    is_valid_uid,
)

MPPS, MPPS_RETRIEVE, MPPS_NOTIFICATION = (f"1.2.840.10008.3.1.2.3.{n}" for n in (3, 4, 5))
UPS_PUSH, UPS_WATCH, UPS_PULL, UPS_EVENT, UPS_QUERY = (f"1.2.840.10008.5.1.4.34.6.{n}" for n in range(1, 6))
GRAYSCALE_PRINT, COLOR_PRINT = "1.2.840.10008.5.1.1.9", "1.2.840.10008.5.1.1.18"
FILM_SESSION, FILM_BOX, PRINTER = (f"1.2.840.10008.5.1.1.{n}" for n in (1, 2, 16))
COMMITMENT = "1.2.840.10008.1.20.1"
PRIVATE = "1.2.826.0.1.3680043.8.498.2"
BOTH = {"scu_role": True, "scp_role": True}
IMPLICIT = (IMPLICIT_VR_LITTLE_ENDIAN,)


def address(server: Any) -> str:
    return f"SCP@127.0.0.1:{server.port}"


class Recorder:
    """Handlers that note what was asked and give one answer."""

    def __init__(self, answer: Any = 0) -> None:
        self.answer = answer
        self.requests: list[Request] = []
        self.data: list[Any] = []

    async def __call__(self, request: Request) -> Any:
        self.requests.append(request)
        self.data.append(await request.attributes())
        return self.answer

    def all(self) -> dict[str, Any]:
        return dict.fromkeys(NORMALIZED_HANDLERS, self)


# all six, in each transfer syntax


@pytest.mark.parametrize(
    "syntax",
    [
        IMPLICIT_VR_LITTLE_ENDIAN,
        EXPLICIT_VR_LITTLE_ENDIAN,
        EXPLICIT_VR_BIG_ENDIAN,
        DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    ],
)
async def test_all_operations(syntax: str) -> None:
    recorder = Recorder({"PatientName": "Müller^Jörg"})
    context = PresentationContext(PRIVATE, (syntax,), **BOTH)
    async with (
        serve("SCP@127.0.0.1:0", contexts=[context], **recorder.all()) as server,
        associate(address(server), contexts=[context]) as association,
    ):
        recorder.answer = {"PatientName": "Müller^Jörg"}
        responses = [
            await association.n_create(PRIVATE, {"PatientID": "1"}, sop_instance_uid="1.2.1"),
            await association.n_set(PRIVATE, "1.2.2", {"PatientID": "2"}),
            await association.n_get(PRIVATE, "1.2.3", ["PatientName", 0x00100020]),
            await association.n_action(PRIVATE, "1.2.4", 7, {"PatientID": "4"}),
            await association.n_event_report(PRIVATE, "1.2.5", 9, {"PatientID": "5"}),
        ]
        recorder.answer = 0
        responses.append(await association.n_delete(PRIVATE, "1.2.6"))
    assert [response.status for response in responses] == [0] * 6
    assert [response.sop_instance_uid for response in responses] == [f"1.2.{n}" for n in range(1, 7)]
    assert all(response.attributes.PatientName == "Müller^Jörg" for response in responses[:5])
    assert responses[5].attributes is None
    commands = [request.command for request in recorder.requests]
    assert [command.command_field for command in commands] == [
        CommandField.N_CREATE_RQ,
        CommandField.N_SET_RQ,
        CommandField.N_GET_RQ,
        CommandField.N_ACTION_RQ,
        CommandField.N_EVENT_REPORT_RQ,
        CommandField.N_DELETE_RQ,
    ]
    assert [request.sop_class_uid for request in recorder.requests] == [PRIVATE] * 6
    assert [request.sop_instance_uid for request in recorder.requests] == [f"1.2.{n}" for n in range(1, 7)]
    assert [data.get("PatientID") for data in recorder.data] == ["1", "2", None, "4", "5", None]
    create, change, get, action, report, delete = recorder.requests
    assert get.attribute_identifier_list == (0x00100010, 0x00100020)
    assert (action.action_type_id, report.event_type_id) == (7, 9)
    assert (create.command.requested_sop_class_uid, change.command.affected_sop_class_uid) == (None, None)
    assert delete.attribute_identifier_list == ()
    for response, field in ((responses[3], "action_type_id"), (responses[4], "event_type_id")):
        assert getattr(response.command, field) in (7, 9)


async def test_data_sets_may_be_left_out_or_be_bytes_or_datasets() -> None:
    from pydicom import Dataset

    dataset = Dataset()
    dataset.PatientID = "DATASET"
    encoded = b"\x10\x00\x20\x00\x06\x00\x00\x00ENCODE"  # Implicit VR Little Endian
    recorder = Recorder(encoded)
    contexts = [PresentationContext(PRIVATE, IMPLICIT)]
    async with (
        serve("SCP@127.0.0.1:0", contexts=contexts, **recorder.all()) as server,
        associate(address(server), contexts=contexts) as association,
    ):
        for given, expected in ((None, None), (dataset, "DATASET"), (encoded, "ENCODE")):
            response = await association.n_create(PRIVATE, given)
            assert recorder.data[-1].get("PatientID") == expected
            assert response.data == encoded
            assert response.attributes.PatientID == "ENCODE"
        recorder.answer = dataset
        assert (await association.n_get(PRIVATE, "1.2")).attributes.PatientID == "DATASET"
        recorder.answer = Response(0x0107, attributes=dataset, attribute_identifier_list=[0x00100010])
        response = await association.n_get(PRIVATE, "1.2", ["PatientID", "PatientName"])
        assert (response.status, response.attribute_identifier_list) == (0x0107, (0x00100010,))
        assert response.attributes.PatientID == "DATASET"


async def test_an_instance_without_a_uid_gets_one() -> None:
    seen: list[str] = []

    async def on_create(request: Request) -> Any:
        seen.append(request.sop_instance_uid)
        if len(seen) == 2:
            return Response(0, sop_instance_uid="1.2.3.4")
        return Status.PROCESSING_FAILURE if len(seen) == 3 else Status.SUCCESS

    async with (
        serve("SCP@127.0.0.1:0", contexts=[MPPS], n_create=on_create) as server,
        associate(address(server), contexts=[MPPS]) as association,
    ):
        made = await association.n_create(MPPS, {"PatientID": "1"})
        assert made.sop_instance_uid == seen[0]
        assert is_valid_uid(seen[0])
        assert (await association.n_create(MPPS, {"PatientID": "1"})).sop_instance_uid == "1.2.3.4"
        failed = await association.n_create(MPPS, {"PatientID": "1"})
        assert (failed.status, failed.sop_instance_uid) == (0x0110, None)
    assert len(set(seen)) == 3


# what goes wrong, and how it is told


async def test_a_failure_names_what_was_missing() -> None:
    async def on_create(request: Request) -> Response:
        return Response(
            Status.MISSING_ATTRIBUTE,
            attribute_identifier_list=[0x00400241, 0x00400254],
            error_id=0xA710,
            error_comment="no station",
        )

    async with (
        serve("SCP@127.0.0.1:0", contexts=[MPPS], n_create=on_create) as server,
        associate(address(server), contexts=[MPPS]) as association,
    ):
        response = await association.n_create(MPPS, {})
    assert (response.status, response.error_id) == (0x0120, 0xA710)
    with pytest.raises(StatusError) as caught:
        response.raise_for_status()
    assert str(caught.value) == (
        "status 0x0120 (Failure: missing attribute): no station; (0040,0241), (0040,0254)"
    )


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (Command(CommandField.N_SET_RQ, requested_sop_instance_uid="1.2"), 0x0120),
        (Command(CommandField.N_GET_RQ), 0x0117),
        (Command(CommandField.N_DELETE_RQ), 0x0117),
        (Command(CommandField.N_GET_RQ, requested_sop_instance_uid="../../etc"), 0x0117),
        (Command(CommandField.N_CREATE_RQ, affected_sop_instance_uid="1" * 65), 0x0117),
        (Command(CommandField.N_ACTION_RQ, requested_sop_instance_uid="1.2"), 0x0123),
        (Command(CommandField.N_EVENT_REPORT_RQ, affected_sop_instance_uid="1.2"), 0x0113),
        (Command(CommandField.N_EVENT_REPORT_RQ, event_type_id=1), 0x0117),
        # the SOP class may be left out: the context has it
        (Command(CommandField.N_GET_RQ, requested_sop_instance_uid="1.2"), 0),
        (Command(CommandField.N_CREATE_RQ), 0),
        # of another SOP class
        (
            Command(CommandField.N_GET_RQ, requested_sop_class_uid=PRINTER, requested_sop_instance_uid="1.2"),
            0x0122,
        ),
        (Command(CommandField.N_CREATE_RQ, affected_sop_class_uid=PRINTER), 0x0122),
        # an Affected class that is none does not hide the Requested one
        (
            Command(
                CommandField.N_GET_RQ,
                affected_sop_class_uid=MPPS,
                requested_sop_class_uid=PRINTER,
                requested_sop_instance_uid="1.2",
            ),
            0x0122,
        ),
    ],
    ids=lambda value: value.name if isinstance(value, Command) else f"{value:04X}",
)
async def test_requests_that_lack_something(command: Command, status: int) -> None:
    recorder = Recorder()
    async with (
        serve("SCP@127.0.0.1:0", contexts=[MPPS], **recorder.all()) as server,
        await Peer.connect(server.port) as peer,
    ):
        await peer.associate([MPPS])
        command.message_id = 5
        peer.write(raw(1, command))
        answer = (await peer.message()).command
        assert (answer.status, answer.message_id_being_responded_to) == (status, 5)
        assert len(recorder.requests) == (status == 0)


def raw(context_id: int, command: Command) -> bytes:
    """A command set with whatever it has, which `encode` would not let pass."""
    from helpers.peer import encode_elements, fragments

    from asyncdicom.dimse.command import WRITE_VR
    from asyncdicom.dimse.messages import FIELDS

    values = {**command.__dict__, "has_data_set": 0x0102 if command.has_data_set else 0x0101}
    elements = [
        (FIELDS[name][0], WRITE_VR[FIELDS[name][1]](value))
        for name, value in values.items()
        if value is not None
    ]
    return fragments(context_id, True, encode_elements(sorted(elements)))


async def test_what_cannot_be_asked_is_refused_before_anything_is_sent() -> None:
    contexts = [MPPS]
    async with (
        serve("SCP@127.0.0.1:0", contexts=contexts, n_get=Recorder()) as server,
        associate(address(server), contexts=contexts) as association,
    ):
        with pytest.raises(ValueError, match="'PatientsName' is not a keyword"):
            await association.n_get(MPPS, "1.2", ["PatientsName"])
        with pytest.raises(ValueError, match="is no tag"):
            await association.n_get(MPPS, "1.2", [-1])
        with pytest.raises(DataSetError, match="'Nobody' is not a keyword"):
            await association.n_set(MPPS, "1.2", {"Nobody": 1})
        with pytest.raises(LocalProtocolError, match="action_type_id"):
            await association.n_action(MPPS, "1.2", 70000)
        with pytest.raises(LocalProtocolError, match="needs requested_sop_instance_uid"):
            await association.n_delete(MPPS, "")
        assert (await association.n_get(MPPS, "1.2", "PatientName")).status == 0


async def test_a_response_whose_data_set_cannot_be_read_is_a_response_all_the_same() -> None:
    async def on_get(request: Request) -> Any:
        return b"\x10\x00\x10\x00PN\xff\xffrubbish"

    async with (
        serve("SCP@127.0.0.1:0", contexts=[MPPS], n_get=on_get) as server,
        associate(address(server), contexts=[MPPS]) as association,
    ):
        response = await association.n_get(MPPS, "1.2")
        assert response.status == 0
        assert response.data == await on_get(None)  # type: ignore[arg-type]
        with pytest.raises(DataSetError):
            _ = response.attributes


# families: a context of one SOP class carries messages about others


async def test_a_print_context_is_for_all_that_is_printed() -> None:
    recorder = Recorder()
    async with (
        serve("SCP@127.0.0.1:0", contexts=[GRAYSCALE_PRINT, PRINTER], **recorder.all()) as server,
        associate(address(server), contexts=[GRAYSCALE_PRINT]) as association,
    ):
        for sop_class in (FILM_SESSION, FILM_BOX, PRINTER):
            assert (await association.n_get(sop_class, "1.2")).status == 0
            assert recorder.requests[-1].sop_class_uid == sop_class
            assert recorder.requests[-1].context.abstract_syntax == GRAYSCALE_PRINT
        with pytest.raises(PresentationContextError, match="was not proposed"):
            await association.n_get(MPPS, "1.2")
        refused = await association.n_get(MPPS, "1.2", context=GRAYSCALE_PRINT)
        assert refused.status == Status.SOP_CLASS_NOT_SUPPORTED


async def test_the_context_of_the_class_itself_is_preferred_and_another_can_be_named() -> None:
    recorder = Recorder()
    contexts = [COLOR_PRINT, GRAYSCALE_PRINT, PRINTER]
    async with (
        serve("SCP@127.0.0.1:0", contexts=contexts, **recorder.all()) as server,
        associate(address(server), contexts=contexts) as association,
    ):
        await association.n_get(PRINTER, "1.2")
        await association.n_get(PRINTER, "1.2", context=GRAYSCALE_PRINT)
        chosen = next(c for c in association.contexts.values() if c.abstract_syntax == COLOR_PRINT)
        await association.n_get(PRINTER, "1.2", context=chosen)
    assert [request.context.abstract_syntax for request in recorder.requests] == [
        PRINTER,
        GRAYSCALE_PRINT,
        COLOR_PRINT,
    ]


UPS_CALLS = [
    # what is asked: how, on which context by PS3.4 CC.2
    ("n_create", (UPS_PUSH, {}), UPS_PUSH),
    ("n_set", (UPS_PUSH, "1.2", {"PatientID": "1"}), UPS_PULL),
    ("n_action", (UPS_PUSH, "1.2", 1, {}), UPS_PULL),  # change state
    ("n_action", (UPS_PUSH, "1.2", 2, {}), UPS_PUSH),  # request cancellation
    ("n_action", (UPS_PUSH, "1.2", 3, {}), UPS_WATCH),  # subscribe
    ("n_action", (UPS_WATCH, "1.2", 2, {}), UPS_WATCH),  # as asked
    ("n_get", (UPS_PUSH, "1.2"), UPS_PUSH),
    ("n_get", (UPS_PULL, "1.2"), UPS_PULL),
    ("n_event_report", (UPS_PUSH, "1.2", 1, {}), UPS_EVENT),
]


@pytest.mark.parametrize(("operation", "arguments", "abstract_syntax"), UPS_CALLS)
async def test_messages_about_a_procedure_step_name_push_on_the_context_of_the_operation(
    operation: str, arguments: tuple[Any, ...], abstract_syntax: str
) -> None:
    recorder = Recorder()
    contexts = [
        PresentationContext(uid, IMPLICIT, **BOTH)
        for uid in (UPS_QUERY, UPS_EVENT, UPS_WATCH, UPS_PULL, UPS_PUSH)
    ]
    async with (
        serve("SCP@127.0.0.1:0", contexts=contexts, **recorder.all()) as server,
        associate(address(server), contexts=contexts) as association,
    ):
        assert (await getattr(association, operation)(*arguments)).status == 0
    [request] = recorder.requests
    assert request.sop_class_uid == UPS_PUSH
    assert request.context.abstract_syntax == abstract_syntax


@pytest.mark.parametrize("named", [MPPS, MPPS_RETRIEVE, MPPS_NOTIFICATION])
async def test_a_performed_procedure_step_goes_by_three_names(named: str) -> None:
    recorder = Recorder()
    async with (
        serve("SCP@127.0.0.1:0", contexts=[MPPS, MPPS_RETRIEVE], **recorder.all()) as server,
        associate(address(server), contexts=[MPPS, MPPS_RETRIEVE]) as association,
    ):
        assert (await association.n_get(named, "1.2")).status == 0
    assert recorder.requests[0].context.abstract_syntax == MPPS_RETRIEVE


def test_every_sop_class_can_be_proposed() -> None:
    for uid, (name, _) in SOP_CLASSES.items():
        for text in (uid, name, name.replace(" ", "")):
            associate("SCP@127.0.0.1:104", contexts=[text])


NORMALIZED_SERVICES = """
    commitment event-logging mpps print media-creation display-system instance-availability ups
    rt-machine-verification storage-management patient-management visit-management study-management
    results-management study-content-notification
"""
NORMALIZED = sorted(
    uid for uid, entry in SOP_CLASSES.items() if entry[1] in NORMALIZED_SERVICES.split() and uid != UPS_QUERY
)


async def test_every_normalized_sop_class_can_be_served_and_used() -> None:
    recorder = Recorder()
    for start in range(0, len(NORMALIZED), 100):
        some = NORMALIZED[start : start + 100]
        async with (
            serve("SCP@127.0.0.1:0", contexts=some, **recorder.all()) as server,
            associate(address(server), contexts=some) as association,
        ):
            for uid in some:
                assert (await association.n_get(uid, "1.2", context=uid)).status == 0, uid
    assert len(recorder.requests) == len(NORMALIZED) > 50


@pytest.mark.parametrize(
    "uid", [VERIFICATION, CT, STUDY_ROOT.find, STUDY_ROOT.get, STUDY_ROOT.move, UPS_QUERY]
)
async def test_what_has_no_dimse_n_is_not_performed(uid: str) -> None:
    recorder = Recorder()
    async with (
        serve("SCP@127.0.0.1:0", contexts=[uid], **recorder.all()) as server,
        associate(address(server), contexts=[uid]) as association,
    ):
        response = await association.n_get(uid, "1.2", context=uid)
    assert response.status == Status.UNRECOGNIZED_OPERATION
    assert not recorder.requests


# the other way: event reports


async def test_an_event_report_comes_while_our_action_is_answered() -> None:
    reports = Recorder({"PatientID": "reply"})

    async def on_action(request: Request) -> int:
        response = await request.association.n_event_report(COMMITMENT, "1.2", 1, {"PatientID": "1"})
        assert response.attributes.PatientID == "reply"
        return response.status

    async with (
        serve("SCP@127.0.0.1:0", contexts=[COMMITMENT], n_action=on_action) as server,
        associate(address(server), contexts=[COMMITMENT], n_event_report=reports) as association,
    ):
        assert (await association.n_action(COMMITMENT, "1.2", 1)).status == 0
        assert association.is_established
    assert [request.event_type_id for request in reports.requests] == [1]
    assert [data.PatientID for data in reports.data] == ["1"]


async def test_an_event_report_that_nobody_expects_is_refused() -> None:
    statuses: list[int] = []

    async def on_action(request: Request) -> int:
        statuses.append((await request.association.n_event_report(COMMITMENT, "1.2", 1)).status)
        return 0

    async with (
        serve("SCP@127.0.0.1:0", contexts=[COMMITMENT], n_action=on_action) as server,
        associate(address(server), contexts=[COMMITMENT]) as association,
    ):
        assert (await association.n_action(COMMITMENT, "1.2", 1)).status == 0
    assert statuses == [Status.UNRECOGNIZED_OPERATION]


@pytest.mark.parametrize("roles", [{"scu_role": False, "scp_role": True}, BOTH, {}])
async def test_an_scp_reports_on_an_association_that_it_opens(roles: dict[str, bool]) -> None:
    """By the standard it proposes to be the SCP; who does not is performed for all the same."""
    reports = Recorder()
    context = PresentationContext(COMMITMENT, IMPLICIT, **roles)
    async with serve("SCU@127.0.0.1:0", contexts=[COMMITMENT], n_event_report=reports) as server:
        async with await Peer.connect(server.port) as peer:
            await peer.associate([context], called="SCU")
            peer.send(
                1,
                Command(
                    CommandField.N_EVENT_REPORT_RQ,
                    message_id=1,
                    affected_sop_class_uid=COMMITMENT,
                    affected_sop_instance_uid="1.2",
                    event_type_id=2,
                ),
            )
            assert (await peer.message()).command.status == 0
        if roles:
            async with associate(f"SCU@127.0.0.1:{server.port}", contexts=[context]) as association:
                assert (await association.n_event_report(COMMITMENT, "1.2", 1)).status == 0
    assert reports.requests


async def test_a_report_needs_the_role_of_the_scp() -> None:
    async with (
        serve("SCP@127.0.0.1:0", contexts=[COMMITMENT], n_action=Recorder()) as server,
        associate(address(server), contexts=[COMMITMENT]) as association,
    ):
        with pytest.raises(PresentationContextError, match=r"PresentationContext with scp_role=True"):
            await association.n_event_report(COMMITMENT, "1.2", 1)


async def test_an_event_report_comes_while_we_release() -> None:
    """It can no longer be answered (PS3.8 Sta7), but what it tells is not lost, and nothing hangs."""
    reports = Recorder()
    async with listening() as listener:
        connecting = asyncio.ensure_future(
            associate(f"SCP@127.0.0.1:{listener.port}", contexts=[COMMITMENT], n_event_report=reports)
        )
        peer = await listener.peer()
        await peer.accept()
        association: Association = await connecting
        releasing = asyncio.ensure_future(association.release())
        assert (await peer.pdu())[0] == 5
        peer.send(
            1,
            Command(
                CommandField.N_EVENT_REPORT_RQ,
                message_id=1,
                affected_sop_class_uid=COMMITMENT,
                affected_sop_instance_uid="1.2",
                event_type_id=1,
                has_data_set=True,
            ),
            b"\x10\x00\x20\x00LO\x02\x001 ",
        )
        await eventually(lambda: reports.data)
        peer.write(RELEASE_RP)
        await releasing
        assert await peer.pdu() == (0, b""), "nothing was sent after the A-RELEASE-RQ"
    assert reports.data[0].PatientID == "1"


async def test_other_requests_while_we_release_are_dropped() -> None:
    recorder = Recorder()
    async with listening() as listener:
        connecting = asyncio.ensure_future(
            associate(f"SCP@127.0.0.1:{listener.port}", contexts=[MPPS], **recorder.all())
        )
        peer = await listener.peer()
        await peer.accept()
        association: Association = await connecting
        releasing = asyncio.ensure_future(association.release())
        assert (await peer.pdu())[0] == 5
        peer.send(
            1,
            Command(
                CommandField.N_DELETE_RQ,
                message_id=1,
                requested_sop_class_uid=MPPS,
                requested_sop_instance_uid="1.2",
            ),
        )
        peer.write(RELEASE_RP)
        await releasing
    assert not recorder.requests


async def test_a_late_response_to_a_request_that_was_given_up_does_not_disturb() -> None:
    async with listening() as listener:
        connecting = asyncio.ensure_future(
            associate(f"SCP@127.0.0.1:{listener.port}", contexts=[MPPS, VERIFICATION])
        )
        peer = await listener.peer()
        await peer.accept()
        association: Association = await connecting
        asking = asyncio.ensure_future(association.n_get(MPPS, "1.2"))
        request = await peer.message()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        peer.send(1, response_to(request.command, 0))
        echo = asyncio.ensure_future(association.c_echo())
        asked = await peer.message()
        peer.send(3, response_to(asked.command, 0))
        assert (await echo).status == 0
        peer.reset()
        await association.abort()
