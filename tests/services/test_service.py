"""A service is an object: one class and one entry in a list; it is served, permitted and refused by name."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from helpers.peer import CT, IDENTIFIER, Peer, echo_rq, eventually

from asyncdicom import (
    STUDY_ROOT,
    VERIFICATION,
    AccessPolicy,
    Association,
    Node,
    PresentationContext,
    PresentationContextError,
    Request,
    Response,
    associate,
    serve,
)
from asyncdicom import Peer as KnownPeer
from asyncdicom.dimse.messages import Command, CommandField
from asyncdicom.services.query import QueryService
from asyncdicom.services.service import Service, Services
from asyncdicom.services.storage import Storage
from asyncdicom.services.worklist import Worklist
from asyncdicom.uid import IMPLICIT_VR_LITTLE_ENDIAN, MODALITY_WORKLIST, MODALITY_WORKLIST_FIND
from asyncdicom.ul.items import ExtendedNegotiation
from asyncdicom.ul.negotiation import confirm, propose
from asyncdicom.ul.pdu import AAssociateAC, decode_pdu

TOY = "1.2.826.0.1.3680043.8.498.1"


class Toy(Service):
    name = "toy"
    sop_classes: tuple[str, ...] = (TOY,)
    commands = frozenset({CommandField.N_GET_RQ})

    async def perform(self, request: Request) -> Response:
        return Response(0, attributes={"PatientID": request.sop_instance_uid})


def address(server: Any) -> str:
    return f"SCP@127.0.0.1:{server.port}"


async def test_a_toy_service_is_served() -> None:
    async with (
        serve("SCP@127.0.0.1:0", services=[Toy()]) as server,
        associate(address(server), contexts=[TOY]) as association,
    ):
        response = await association.n_get(TOY, "1.2.3")
        assert response.status == 0
        assert response.attributes.PatientID == "1.2.3"
        refused = await association.n_delete(TOY, "1.2.3")
        assert refused.status == 0x0211


async def test_a_toy_service_is_permitted_and_refused_by_name(caplog: pytest.LogCaptureFixture) -> None:
    access = AccessPolicy(
        peers={"CHILD": KnownPeer(services=["toy"]), "NURSE": KnownPeer(services=["echo", "store"])}
    )
    contexts = [VERIFICATION, TOY]
    async with serve("SCP@127.0.0.1:0", services=[Toy()], access=access) as server:
        async with associate(address(server), contexts=contexts, calling_ae_title="CHILD") as child:
            assert [context.abstract_syntax for context in child.contexts.values()] == [TOY]
            assert (await child.n_get(TOY, "1.2.3")).status == 0
        async with associate(address(server), contexts=contexts, calling_ae_title="NURSE") as nurse:
            with pytest.raises(PresentationContextError):
                await nurse.n_get(TOY, "1.2.3")
            assert (await nurse.c_echo()).status == 0
    assert "no permission for toy" in caplog.text


async def test_a_request_on_the_context_of_another_service_is_refused_by_name_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Both are on one abstract syntax; only one of them is granted."""

    class Deleting(Toy):
        name = "deleting"
        commands = frozenset({CommandField.N_DELETE_RQ})

        async def perform(self, request: Request) -> Response:
            raise AssertionError("not granted")

    access = AccessPolicy(peers={"CHILD": KnownPeer(services=["toy"])})
    async with (
        serve("SCP@127.0.0.1:0", services=[Toy(), Deleting()], access=access) as server,
        associate(address(server), contexts=[TOY], calling_ae_title="CHILD") as child,
    ):
        assert (await child.n_get(TOY, "1.2.3")).status == 0
        assert (await child.n_delete(TOY, "1.2.3")).status == 0x0124
    assert re.search("N-DELETE of .*refused: no permission", caplog.text)


async def one(request: Request) -> AsyncIterator[Any]:
    yield {"PatientID": "query"}


async def two(request: Request) -> AsyncIterator[Any]:
    yield {"PatientID": "worklist"}


async def test_which_service_answers_a_c_find_is_decided_by_the_sop_class() -> None:
    async with (
        serve("SCP@127.0.0.1:0", c_find=one, services=[Worklist(two)]) as server,
        associate(address(server), contexts=[STUDY_ROOT, MODALITY_WORKLIST]) as association,
    ):
        found = await association.c_find(IDENTIFIER, information_model=STUDY_ROOT)
        assert [match.PatientID for match in found] == ["query"]
        found = await association.c_find({"PatientID": ""}, information_model=MODALITY_WORKLIST)
        assert [match.PatientID for match in found] == ["worklist"]


async def test_a_context_that_no_service_knows_the_command_of() -> None:
    async with serve("SCP@127.0.0.1:0", services=[Toy()]) as server, await Peer.connect(server.port) as peer:
        await peer.associate([VERIFICATION, TOY])
        for context_id, command, status in (
            (3, echo_rq(1), 0x0122),
            (1, echo_rq(2), 0),
            (
                1,
                Command(
                    CommandField.N_GET_RQ,
                    message_id=3,
                    requested_sop_class_uid=VERIFICATION,
                    requested_sop_instance_uid="1.2",
                ),
                0x0211,
            ),
        ):
            peer.send(context_id, command)
            assert (await peer.message()).command.status == status


# what it may do beside


class Observer(Toy):
    """Notes what happens to it."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def start(self, node: Node) -> None:
        assert node.open("NOBODY", [PresentationContext(TOY, (IMPLICIT_VR_LITTLE_ENDIAN,))]) is None
        self.seen.append(f"started by {node.ae_title}")

    async def stop(self) -> None:
        self.seen.append("stopped")

    def association_ended(self, association: Association) -> None:
        self.seen.append(f"{association.calling_ae_title} has left")


async def test_a_service_starts_and_stops_with_its_server_and_sees_associations_end() -> None:
    observer = Observer()
    async with serve("SCP@127.0.0.1:0", services=[observer]) as server:
        assert observer.seen == ["started by SCP"]
        async with associate(address(server), calling_ae_title="WS1"):
            pass
        await eventually(lambda: len(observer.seen) > 1)
        async with await Peer.connect(server.port) as stranger:
            stranger.reset()  # was no association
        await eventually(lambda: server.associations == 0)
    assert observer.seen == ["started by SCP", "WS1 has left", "stopped"]


async def test_both_sides_see_the_end() -> None:
    observer = Observer()
    async with serve("SCP@127.0.0.1:0", services=[Toy()]) as server:
        async with associate(
            address(server), contexts=[TOY], services=[observer], calling_ae_title="WS1"
        ) as association:
            await association.abort()
        assert observer.seen == ["WS1 has left"]


async def test_a_service_that_cannot_start_keeps_the_server_from_serving() -> None:
    class Broken(Toy):
        name = "broken"
        sop_classes = ()

        async def start(self, node: Node) -> None:
            raise RuntimeError("no database")

    observer = Observer()
    with pytest.raises(RuntimeError, match="no database"):
        await serve("SCP@127.0.0.1:0", services=[observer, Broken()])
    assert observer.seen == ["started by SCP", "stopped"]


async def test_what_goes_wrong_at_the_end_of_one_service_is_not_the_matter_of_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(Toy):
        name = "broken"
        sop_classes = ()

        async def stop(self) -> None:
            raise RuntimeError("has stopped before")

        def association_ended(self, association: Association) -> None:
            raise RuntimeError("was never there")

    observer = Observer()
    async with serve("SCP@127.0.0.1:0", services=[Broken(), observer, Broken()]) as server:
        async with associate(address(server), calling_ae_title="WS1"):
            pass
        await eventually(lambda: len(observer.seen) > 1)
    assert observer.seen == ["started by SCP", "WS1 has left", "stopped"]
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 4
    assert all("broken" in record.getMessage() for record in errors)


class Negotiating(Toy):
    def __init__(self) -> None:
        self.agreed: list[bytes | None] = []

    def negotiate(self, sop_class_uid: str, requested: bytes) -> bytes | None:
        if requested == b"fail":
            raise RuntimeError("cannot be")
        return requested[:1] if requested else None

    async def perform(self, request: Request) -> Response:
        self.agreed.append(request.extended_negotiation)
        return Response(0)


@pytest.mark.parametrize(
    ("proposed", "answered"),
    [
        ([(TOY, b"\1\1")], {TOY: b"\1"}),
        ([(TOY, b"\2"), (TOY, b"\3")], {TOY: b"\2"}),
        ([(TOY, b"")], {}),
        ([(TOY, b"fail")], {}),
        ([(VERIFICATION, b"\1")], {}),
        ([(CT, b"\1")], {}),
        ([], {}),
    ],
)
async def test_a_service_answers_the_extended_negotiation(
    proposed: list[tuple[str, bytes]], answered: dict[str, bytes]
) -> None:
    service = Negotiating()
    async with (
        serve("SCP@127.0.0.1:0", services=[service]) as server,
        await Peer.connect(server.port) as peer,
    ):
        request = propose(
            [PresentationContext(uid, (IMPLICIT_VR_LITTLE_ENDIAN,)) for uid in (TOY, VERIFICATION, CT)],
            called_ae_title="SCP",
            calling_ae_title="PEER",
            extended_negotiations=[ExtendedNegotiation(*each) for each in proposed],
        )
        peer.write(request.encode())
        accept = decode_pdu(*await peer.pdu())
        assert isinstance(accept, AAssociateAC)
        assert {
            each.sop_class_uid: each.information for each in accept.user_information.extended_negotiations
        } == (answered)
        peer.send(
            1,
            Command(
                CommandField.N_GET_RQ,
                message_id=1,
                requested_sop_class_uid=TOY,
                requested_sop_instance_uid="1.2",
            ),
        )
        assert (await peer.message()).command.status == 0
        assert service.agreed == [answered.get(TOY)]
        negotiated = confirm(request, accept)
        assert negotiated.extended == answered


# what cannot be served


@pytest.mark.parametrize("wrong", [Toy, "toy", None, 5])
def test_what_is_no_service(wrong: Any) -> None:
    with pytest.raises(TypeError, match="services= takes Service objects"):
        serve("SCP@127.0.0.1:0", services=[wrong])
    with pytest.raises(TypeError, match="services= takes Service objects"):
        associate("SCP@127.0.0.1:104", services=[wrong])


def test_two_services_for_the_same_requests() -> None:
    with pytest.raises(ValueError, match=f"toy and toy would both perform requests for {TOY}"):
        serve("SCP@127.0.0.1:0", services=[Toy(), Toy()])
    with pytest.raises(ValueError, match="query and query"):
        serve("SCP@127.0.0.1:0", services=[QueryService(one)], c_find=one)
    Services([Worklist(one), QueryService(one)])


def test_a_service_without_a_name() -> None:
    class Nameless(Service):
        sop_classes = (TOY,)

    with pytest.raises(ValueError, match="Nameless has no name"):
        Services([Nameless()])


def test_a_peer_can_propose_any_number_of_abstract_syntaxes() -> None:
    services = Services([Storage(None)])
    for number in range(3000):
        assert services.find(CommandField.C_STORE_RQ, f"1.2.{number}") is not None
    assert services.find(CommandField.C_STORE_RQ, CT) is not None
    assert services.find(CommandField.C_STORE_RQ, MODALITY_WORKLIST_FIND) is None


async def test_a_service_without_a_perform_is_answered_for(caplog: pytest.LogCaptureFixture) -> None:
    class Lazy(Service):
        name = "lazy"
        sop_classes = (TOY,)
        commands = frozenset({CommandField.N_GET_RQ})

    async with (
        serve("SCP@127.0.0.1:0", services=[Lazy()]) as server,
        associate(address(server), contexts=[TOY]) as association,
    ):
        response = await association.n_get(TOY, "1.2.3")
        assert (response.status, response.error_comment) == (0x0110, "internal error")
    assert "NotImplementedError" in caplog.text
