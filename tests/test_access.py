"""The access policy, rule by rule, without a server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from asyncdicom import AccessPolicy, Address, Peer, Request, Status, serve
from asyncdicom.access import (
    ANYBODY,
    EVERYTHING,
    SERVICES,
    Certificate,
    Grant,
    Refusal,
    certificate_name,
    check_services,
    judge,
    permitted,
    refused_operation,
)
from asyncdicom.dimse.messages import Command, CommandField
from asyncdicom.services.builtin import services_for
from asyncdicom.services.service import Services
from asyncdicom.uid import MODALITY_WORKLIST_FIND, SOP_CLASSES, STORAGE, STUDY_ROOT, VERIFICATION
from asyncdicom.ul.items import UserInformation
from asyncdicom.ul.negotiation import Policy, PresentationContext, answer, propose
from asyncdicom.ul.pdu import AAssociateRJ, AAssociateRQ

CT = "1.2.840.10008.5.1.4.1.1.2"
PRIVATE = "1.3.6.1.4.1.99999.7"
HANGING_PROTOCOL_FIND = "1.2.840.10008.5.1.4.38.2"
MINE, OTHER = "0f" * 32, "f0" * 32
CERTIFICATE = Certificate(MINE, frozenset({"dns:ws1.example", "ip:10.0.0.7", "uri:urn:x:Ws1"}))


def verdict(
    policy: AccessPolicy,
    calling: str = "WS1",
    *,
    called: str = "SCP",
    host: str = "10.0.0.7",
    certificate: Certificate | None = None,
) -> Grant | tuple[int, int, int]:
    found = judge(policy, AAssociateRQ(called, calling, (), UserInformation()), host, certificate)
    return tuple(found.rejection)[:3] if isinstance(found, Refusal) else found  # type: ignore[return-value]


CALLED, CALLING, NO_REASON = (1, 1, 7), (1, 1, 3), (1, 1, 1)


# the address


@pytest.mark.parametrize(
    ("host", "networks", "within"),
    [
        ("10.0.0.7", ["10.0.0.7"], True),
        ("10.0.0.8", ["10.0.0.7"], False),
        ("10.0.255.255", ["10.0.0.0/16"], True),
        ("10.1.0.0", ["10.0.0.0/16"], False),
        ("10.1.0.0", ["10.0.0.0/16", "10.1.0.0/16"], True),
        ("::ffff:10.0.0.7", ["10.0.0.0/16"], True),
        ("::ffff:10.1.0.7", ["10.0.0.0/16"], False),
        ("2001:db8::1", ["2001:db8::/32"], True),
        ("2001:db9::1", ["2001:db8::/32"], False),
        ("fe80::1%eth0", ["fe80::/10"], True),
        ("10.0.0.7", ["::/0"], False),
        ("127.0.0.1", ["10.0.0.0/8"], False),
        ("?", ["0.0.0.0/0", "::/0"], False),
        ("10.0.0.7", [], False),
    ],
)
def test_networks(host: str, networks: list[str], within: bool) -> None:
    assert (AccessPolicy(networks=networks).refuses_address(host) is None) is within
    assert (AccessPolicy(denied_networks=networks).refuses_address(host) is None) is not within
    of_peer = AccessPolicy(peers={"WS1": Peer(networks=networks)})
    assert verdict(of_peer, host=host) == (EVERYTHING if within else CALLING)


def test_what_is_denied_is_denied_also_where_it_is_allowed() -> None:
    policy = AccessPolicy(networks="10.0.0.0/8", denied_networks="10.6.6.0/24")
    hosts = ("10.0.0.1", "10.6.6.6", "192.0.2.1")
    assert [policy.refuses_address(host) is None for host in hosts] == [True, False, False]


# AE titles


def test_by_default_anybody_may_do_everything() -> None:
    policy = AccessPolicy()
    assert policy.refuses_address("192.0.2.1") is None
    assert verdict(policy, "ANY", called="WHATEVER", host="?") == EVERYTHING


def test_the_called_ae_title() -> None:
    policy = AccessPolicy(called_ae_titles=["SCP", "ARCHIVE"])
    assert verdict(policy, called="ARCHIVE") == EVERYTHING
    for wrong in ("scp", "SCP1", ""):
        assert verdict(policy, called=wrong) == CALLED


@pytest.mark.parametrize("peers", [{"WS1": "", "WS2": Peer()}, ["WS1", "WS2"], {"WS1", "WS2"}])
def test_the_calling_ae_title(peers: Any) -> None:
    policy = AccessPolicy(peers=peers)
    assert verdict(policy, "WS2") == EVERYTHING
    for wrong in ("ws1", "WS", "WS1x", "", ANYBODY):
        assert verdict(policy, wrong) == CALLING


def test_one_title_is_no_list_of_letters() -> None:
    assert set(AccessPolicy(peers="WS1").peers) == {"WS1"}


def test_nobody() -> None:
    assert verdict(AccessPolicy(peers=[])) == CALLING
    assert verdict(AccessPolicy(called_ae_titles=[])) == CALLED
    assert verdict(AccessPolicy(certificates=[]), certificate=CERTIFICATE) == NO_REASON


def test_a_star_stands_for_those_who_are_not_named() -> None:
    policy = AccessPolicy(
        peers={"*": Peer(services="echo"), "WS1": Peer(services="find", networks="10.0.0.7")}
    )
    assert verdict(policy, "STRANGER") == Grant(frozenset({"echo"}))
    assert verdict(policy, "*") == Grant(frozenset({"echo"}))
    assert verdict(policy, "WS1") == Grant(frozenset({"find"}))
    assert verdict(policy, "WS1", host="10.0.0.8") == CALLING, "a name is not to be had for less"


def test_the_peers_with_an_address_are_destinations() -> None:
    ct = Address("ELSE", "10.0.0.9", 104)
    policy = AccessPolicy(peers={"WS1": "10.0.0.7:11112", "WS2": Peer("ws2.example"), "CT": ct, "X": ""})
    assert {title: destination.where for title, destination in policy.destinations.items()} == {
        "WS1": Address("WS1", "10.0.0.7", 11112),
        "WS2": Address("WS2", "ws2.example", 11112),
        "CT": Address("CT", "10.0.0.9", 104),
    }


# certificates


@pytest.mark.parametrize(
    ("known", "fits"),
    [
        (f"sha256:{MINE}", True),
        ("SHA256:" + ":".join([MINE[:2]] * 32).upper(), True),
        (MINE, True),
        (f"sha256:{OTHER}", False),
        ("ws1.example", True),
        ("WS1.example", True),
        ("10.0.0.7", True),
        ("ws2.example", False),
        ("*.example", False),
        ("example", False),
        (["ws2.example", f"sha256:{MINE}"], True),
        ("dns:ws1.example", True),
        ("ip:10.0.0.7", True),
        ("uri:urn:x:Ws1", True),
        # A name of one kind is none of another.
        ("uri:urn:x:ws1", False),
        ("uri:ws1.example", False),
        ("email:ws1.example", False),
        ("dns:10.0.0.7", False),
        ("ip:ws1.example", False),
        ("dns:urn:x:Ws1", False),
    ],
)
def test_certificates(known: str | list[str], fits: bool) -> None:
    of_peer = AccessPolicy(peers={"WS1": Peer(certificates=known)})
    assert verdict(of_peer, certificate=CERTIFICATE) == (EVERYTHING if fits else CALLING)
    assert verdict(of_peer) == CALLING
    of_all = AccessPolicy(certificates=known)
    assert verdict(of_all, certificate=CERTIFICATE) == (EVERYTHING if fits else NO_REASON)
    assert verdict(of_all) == NO_REASON


def test_a_name_that_looks_like_a_fingerprint_is_none() -> None:
    false = Certificate(OTHER, frozenset({certificate_name("dns", f"sha256:{MINE}")}))
    assert (
        verdict(AccessPolicy(peers={"WS1": Peer(certificates=f"sha256:{MINE}")}), certificate=false)
        == CALLING
    )


def test_the_order() -> None:
    """The first rule that is broken gives the reason."""
    peer = Peer(networks="10.0.0.7", certificates="ws1.example")
    policy = AccessPolicy(certificates="ws1.example", called_ae_titles="SCP", peers={"WS1": peer})
    assert verdict(policy, "WS2", called="X", host="?", certificate=None) == NO_REASON
    assert verdict(policy, "WS2", called="X", host="?", certificate=CERTIFICATE) == CALLED
    assert verdict(policy, "WS2", host="?", certificate=CERTIFICATE) == CALLING
    assert verdict(policy, host="?", certificate=CERTIFICATE) == CALLING
    assert verdict(policy, certificate=CERTIFICATE) == EVERYTHING


# services


async def handler(request: Request) -> int:
    return 0


async def finder(request: Request) -> AsyncIterator[bytes]:
    yield b""


def nowhere(*args: object) -> Any:
    raise AssertionError("nothing is opened here")


HANDLERS = dict.fromkeys(("c_echo", "c_store", "c_get", "c_move", "n_create", "n_event_report"), handler)
SERVED = Services(
    services_for({**HANDLERS, "c_find": finder}, [MODALITY_WORKLIST_FIND], open_association=nowhere)
)


@pytest.mark.parametrize(
    ("abstract_syntax", "command_field", "service"),
    [
        (VERIFICATION, CommandField.C_ECHO_RQ, "echo"),
        (CT, CommandField.C_STORE_RQ, "store"),
        (PRIVATE, CommandField.C_STORE_RQ, "store"),
        (STUDY_ROOT.find, CommandField.C_FIND_RQ, "find"),
        (STUDY_ROOT.get, CommandField.C_GET_RQ, "get"),
        (STUDY_ROOT.move, CommandField.C_MOVE_RQ, "move"),
        (MODALITY_WORKLIST_FIND, CommandField.C_FIND_RQ, "worklist"),
        (HANGING_PROTOCOL_FIND, CommandField.C_FIND_RQ, "find"),
        ("1.2.840.10008.5.1.4.34.6.5", CommandField.C_FIND_RQ, "ups"),
        ("1.2.840.10008.5.1.4.34.6.1", CommandField.N_CREATE_RQ, "ups"),
        ("1.2.840.10008.3.1.2.3.3", CommandField.N_CREATE_RQ, "mpps"),
        ("1.2.840.10008.5.1.1.9", CommandField.N_CREATE_RQ, "print"),
        ("1.2.840.10008.1.20.1", CommandField.N_EVENT_REPORT_RQ, "commitment"),
        ("1.2.840.10008.5.1.4.33", CommandField.N_CREATE_RQ, "ian"),
        ("1.2.840.10008.5.1.1.33", CommandField.N_CREATE_RQ, "normalized"),
        # one that this service class has not got
        (VERIFICATION, CommandField.C_STORE_RQ, None),
        (VERIFICATION, CommandField.N_CREATE_RQ, None),
        (CT, CommandField.N_CREATE_RQ, None),
        (STUDY_ROOT.find, CommandField.N_CREATE_RQ, None),
        (STUDY_ROOT.find, CommandField.C_MOVE_RQ, None),
        (MODALITY_WORKLIST_FIND, CommandField.C_STORE_RQ, None),
    ],
)
def test_the_service_of_a_request(
    abstract_syntax: str, command_field: CommandField, service: str | None
) -> None:
    found = SERVED.find(command_field, abstract_syntax)
    assert (found.permission_for(abstract_syntax) if found is not None else None) == service
    assert service is None or service in SERVICES


STORED_BY, INVOKED_BY = (
    dict.fromkeys((*STORAGE, PRIVATE), frozenset({service})) for service in ("store", "get")
)
PERFORMED_BY = {
    **STORED_BY,
    VERIFICATION: frozenset({"echo"}),
    STUDY_ROOT.find: frozenset({"find", "toy"}),
    STUDY_ROOT.get: frozenset({"get"}),
}


def narrowed(offer: Policy, *services: str) -> Policy:
    return permitted(offer, Grant(frozenset(services)), PERFORMED_BY, INVOKED_BY)


def test_an_offer_is_narrowed_not_shortened() -> None:
    any_syntax = ("*",)
    performed = dict.fromkeys(
        (VERIFICATION, CT, STUDY_ROOT.find, STUDY_ROOT.get, HANGING_PROTOCOL_FIND), ("1",)
    )
    offer = Policy(
        performed,
        dict.fromkeys(STORAGE, any_syntax),
        unknown_storage=any_syntax,
        unknown_retrieval=any_syntax,
    )
    assert permitted(offer, EVERYTHING, {}, {}) is offer
    for service in ("find", "toy"):  # one of those that it is offered for is enough
        finder = narrowed(offer, service)
        assert {uid for uid, syntaxes in finder.performed.items() if syntaxes} == {STUDY_ROOT.find}
        assert set(finder.performed) == set(performed)
        assert not any(finder.invoked.values())
        assert (finder.unknown_storage, finder.unknown_retrieval) == ((), ())
    getter = narrowed(offer, "get")
    assert (getter.unknown_storage, getter.unknown_retrieval) == ((), any_syntax)
    assert all(getter.invoked.values()), "a C-GET needs C-STORE the other way"
    assert getter.performed[CT] == ()
    storer = narrowed(offer._replace(unknown_storage=None, unknown_retrieval=None), "store")
    assert (storer.unknown_storage, storer.unknown_retrieval) == (None, None)
    assert storer.performed[CT] == ("1",)
    everything_by_name = narrowed(offer, *SERVICES)
    assert everything_by_name.performed[HANGING_PROTOCOL_FIND] == (), "nobody knows what it is offered for"


@pytest.mark.parametrize(
    ("services", "proposed", "result", "roles"),
    [  # roles: ours, as SCU (C-GET) and as SCP (C-STORE)
        ("store", (True, False), 0, (False, True)),
        ("get", (True, False), 1, None),
        ("store", (False, True), 1, None),
        ("get", (False, True), 0, (True, False)),
        ("store", (True, True), 0, (False, True)),
        ("get", (True, True), 0, (True, False)),
        ("echo", (True, True), 1, None),
    ],
)
@pytest.mark.parametrize("sop_class", [CT, PRIVATE])
def test_a_storage_context_is_for_c_store_or_for_c_get(
    services: str, proposed: tuple[bool, bool], result: int, roles: tuple[bool, bool] | None, sop_class: str
) -> None:
    any_syntax = ("*",)
    offer = Policy(
        {CT: any_syntax},
        {CT: any_syntax},
        unknown_storage=any_syntax,
        unknown_retrieval=any_syntax,
        not_storage=SOP_CLASSES,
    )
    asked = propose(
        [PresentationContext(sop_class, ("1.2.840.10008.1.2",), *proposed)],
        called_ae_title="SCP",
        calling_ae_title="SCU",
    )
    verdict = answer(asked, narrowed(offer, services))
    assert not isinstance(verdict, AAssociateRJ)
    accept, negotiated = verdict
    assert [context.result for context in accept.presentation_contexts] == [result]
    found = [(context.as_scu, context.as_scp) for context in negotiated.contexts.values()]
    assert found == ([roles] if roles else [])


def request(field: CommandField, sop_class: str = CT, destination: str | None = None) -> Command:
    return Command(field, affected_sop_class_uid=sop_class, move_destination=destination)


def test_operations() -> None:
    ask = CommandField
    assert refused_operation(EVERYTHING, "move", request(ask.C_MOVE_RQ, destination="ANY")) is None
    assert refused_operation(EVERYTHING, None, request(ask.C_FIND_RQ)) is None
    finder = Grant(frozenset({"find", "move"}), frozenset({"WS1"}))
    assert refused_operation(finder, "find", request(ask.C_FIND_RQ, STUDY_ROOT.find)) is None
    for service in ("echo", "store", "get", "worklist", "toy", None):
        found = refused_operation(finder, service, request(ask.C_FIND_RQ, STUDY_ROOT.find))
        assert found == Status.NOT_AUTHORIZED, service
    for destination, status in (
        ("WS1", None),
        ("ws1", 0xA801),
        ("WS2", 0xA801),
        ("", 0xA801),
        (None, 0xA801),
    ):
        move = request(ask.C_MOVE_RQ, STUDY_ROOT.move, destination)
        assert refused_operation(finder, "move", move) == status


def test_who_is_granted_a_service_that_there_is_not() -> None:
    policy = AccessPolicy(peers={"CT1": Peer(services=["store", "worklists"])})
    with pytest.raises(ValueError, match="CT1: 'worklists' is no service; they are commitment, echo"):
        check_services(policy)
    with pytest.raises(ValueError, match="worklists"):
        serve("SCP@127.0.0.1:0", access=policy)
    check_services(policy, {"worklists"})


# what users write


@pytest.mark.parametrize(
    "wrong",
    [
        {"address": "host:port"},
        {"networks": "10.0.0.7/16"},
        {"networks": ["hospital"]},
        {"services": "work lists"},
        {"services": ""},
        {"services": ["C-STORE"]},
        {"certificates": "sha256:1234"},
        {"certificates": ""},
        {"move_destinations": ["A" * 17]},
    ],
)
def test_a_peer_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Peer(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"peers": {"": Peer()}},
        {"peers": ["A" * 17]},
        {"peers": {"WS1": "host:port"}},
        {"networks": "10.0.0.7/16"},
        {"denied_networks": ["nowhere"]},
        {"called_ae_titles": ["A\\B"]},
        {"certificates": ["sha256:xyz"]},
    ],
)
def test_a_policy_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        AccessPolicy(**wrong)
