from __future__ import annotations

from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncdicom.exceptions import LocalProtocolError, RemoteProtocolError
from asyncdicom.uid import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from asyncdicom.ul.items import (
    ContextResult,
    ExtendedNegotiation,
    RoleSelection,
    UserIdentity,
    UserInformation,
)
from asyncdicom.ul.negotiation import (
    _MOST_ANSWERED,
    AcceptedContext,
    Answered,
    Negotiated,
    Policy,
    PresentationContext,
    answer,
    confirm,
    propose,
    unacceptable,
)
from asyncdicom.ul.pdu import AAssociateAC, AAssociateRJ, AAssociateRQ, decode_pdu

VERIFICATION, CT, MR = "1.2.840.10008.1.1", "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
IMPLICIT, EXPLICIT, JPEG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.50"
UNCOMPRESSED = (EXPLICIT, IMPLICIT)
POLICY = Policy({VERIFICATION: UNCOMPRESSED, CT: UNCOMPRESSED})


def request(*contexts: PresentationContext, **options: object) -> AAssociateRQ:
    """A request as the acceptor sees it: through the wire."""
    proposed = propose(contexts, called_ae_title="SCP", calling_ae_title="SCU", **options)  # type: ignore[arg-type]
    received = decode_pdu(1, proposed.encode()[6:])
    assert isinstance(received, AAssociateRQ)
    return received


def agree(proposal: AAssociateRQ, policy: Policy) -> tuple[AAssociateAC, Negotiated, Negotiated]:
    """The answer through the wire, what the acceptor makes of it, and what the requestor does."""
    replied = answer(proposal, policy)
    assert not isinstance(replied, AAssociateRJ)
    accept = decode_pdu(2, replied[0].encode()[6:])
    assert isinstance(accept, AAssociateAC)
    return accept, replied[1], confirm(proposal, accept)


def results(accept: AAssociateAC) -> list[tuple[int, str | None]]:
    return [(context.result, context.transfer_syntax) for context in accept.presentation_contexts]


def test_each_context_gets_the_requestors_first_choice_that_we_take() -> None:
    proposal = request(
        PresentationContext(VERIFICATION, (IMPLICIT,)),
        PresentationContext(CT, (JPEG, IMPLICIT, EXPLICIT)),
        PresentationContext(CT, (JPEG,)),
        PresentationContext(MR, (IMPLICIT,)),
    )
    accept, acceptor, requestor = agree(proposal, POLICY)
    assert results(accept) == [(0, IMPLICIT), (0, IMPLICIT), (4, None), (3, None)]
    assert [context.context_id for context in accept.presentation_contexts] == [1, 3, 5, 7]
    assert acceptor.contexts == {
        1: AcceptedContext(1, VERIFICATION, IMPLICIT, as_scu=False, as_scp=True),
        3: AcceptedContext(3, CT, IMPLICIT, as_scu=False, as_scp=True),
    }
    assert requestor.contexts == {
        1: AcceptedContext(1, VERIFICATION, IMPLICIT, as_scu=True, as_scp=False),
        3: AcceptedContext(3, CT, IMPLICIT, as_scu=True, as_scp=False),
    }


def test_rejected_contexts_carry_a_transfer_syntax_on_the_wire() -> None:
    replied = answer(request(PresentationContext(MR, (JPEG,))), POLICY)
    assert not isinstance(replied, AAssociateRJ)
    [context] = replied[0].presentation_contexts
    assert context == ContextResult(1, 3, JPEG)


# The requestor's roles, whether the acceptor performs and invokes the SOP class, and what the requestor and
# the acceptor may be in the end; None: the context is refused.
BOTH, SCU, SCP = (True, True), (True, False), (False, True)
ROLES = [
    (SCU, True, False, SCU),
    (SCU, True, True, SCU),
    (SCU, False, True, None),
    (SCU, False, False, None),
    (SCP, False, True, SCP),
    (SCP, True, True, SCP),
    (SCP, True, False, None),
    (BOTH, True, True, BOTH),
    (BOTH, True, False, SCU),
    (BOTH, False, True, SCP),
    (BOTH, False, False, None),
]


@pytest.mark.parametrize(("roles", "performed", "invoked", "agreed"), ROLES)
def test_roles(
    roles: tuple[bool, bool], performed: bool, invoked: bool, agreed: tuple[bool, bool] | None
) -> None:
    policy = Policy({CT: (IMPLICIT,)} if performed else {}, {CT: (IMPLICIT,)} if invoked else {})
    proposal = request(PresentationContext(CT, (IMPLICIT,), *roles))
    accept, acceptor, requestor = agree(proposal, policy)
    answered = accept.user_information.role_selections
    if agreed is None:
        assert results(accept) == [(3, None)]
        assert (acceptor.contexts, requestor.contexts, answered) == ({}, {}, ())
        return
    assert requestor.contexts == {1: AcceptedContext(1, CT, IMPLICIT, *agreed)}
    assert acceptor.contexts == {1: AcceptedContext(1, CT, IMPLICIT, *reversed(agreed))}
    assert answered == (() if roles == SCU else (RoleSelection(CT, *agreed),))


def test_a_peer_that_does_not_answer_a_role_is_taken_to_agree() -> None:
    proposal = request(PresentationContext(CT, (IMPLICIT,), False, True))
    accept = AAssociateAC("SCP", "SCU", (ContextResult(1, 0, IMPLICIT),), UserInformation())
    assert confirm(proposal, accept).contexts[1] == AcceptedContext(1, CT, IMPLICIT, False, True)


@pytest.mark.parametrize(
    ("answered", "contexts"),
    [((True, True), {1: (False, True)}), ((True, False), {}), ((False, False), {})],
)
def test_a_role_answer_cannot_give_more_than_was_proposed(
    answered: tuple[bool, bool], contexts: dict[int, tuple[bool, bool]]
) -> None:
    proposal = request(PresentationContext(CT, (IMPLICIT,), False, True))
    information = UserInformation(role_selections=(RoleSelection(CT, *answered),))
    accept = AAssociateAC("SCP", "SCU", (ContextResult(1, 0, IMPLICIT),), information)
    found = confirm(proposal, accept).contexts
    assert {key: (context.as_scu, context.as_scp) for key, context in found.items()} == contexts


def test_a_role_answer_nobody_asked_for_means_nothing() -> None:
    proposal = request(PresentationContext(CT, (IMPLICIT,)))
    information = UserInformation(role_selections=(RoleSelection(CT, False, True),))
    accept = AAssociateAC("SCP", "SCU", (ContextResult(1, 0, IMPLICIT),), information)
    assert confirm(proposal, accept).contexts[1] == AcceptedContext(1, CT, IMPLICIT, True, False)


def test_only_roles_that_say_something_are_sent() -> None:
    proposal = request(
        PresentationContext(VERIFICATION, (IMPLICIT,)),
        PresentationContext(CT, (IMPLICIT,), True, False),
        PresentationContext(CT, (EXPLICIT,), False, True),
        PresentationContext(MR, (IMPLICIT,), False, True),
    )
    assert proposal.user_information.role_selections == (
        RoleSelection(CT, True, True),
        RoleSelection(MR, False, True),
    )


def test_roles_for_what_was_not_proposed_are_ignored_and_the_first_one_counts() -> None:
    proposal = request(PresentationContext(CT, (IMPLICIT,)))
    selections = (
        RoleSelection(MR, True, True),
        RoleSelection(CT, False, True),
        RoleSelection(CT, True, True),
    )
    information = proposal.user_information._replace(role_selections=selections)
    policy = Policy({CT: (IMPLICIT,)}, {CT: (IMPLICIT,)})
    replied = answer(proposal._replace(user_information=information), policy)
    assert not isinstance(replied, AAssociateRJ)
    assert replied[0].user_information.role_selections == (RoleSelection(CT, False, True),)


# Proposed by the requestor, allowed by the acceptor (invoked, performed), agreed from the requestor's view.
WINDOWS = [
    ((1, 1), (1, 1), None),
    ((1, 1), (9, 9), None),
    ((5, 3), (1, 1), (1, 1)),
    ((5, 3), (2, 4), (4, 2)),
    ((5, 3), (0, 0), (5, 3)),
    ((0, 0), (2, 4), (4, 2)),
    ((0, 0), (0, 0), (0, 0)),
    ((65535, 2), (1, 65535), (65535, 1)),
]


@pytest.mark.parametrize(("proposed", "allowed", "agreed"), WINDOWS)
def test_operations_window(
    proposed: tuple[int, int], allowed: tuple[int, int], agreed: tuple[int, int] | None
) -> None:
    proposal = request(
        PresentationContext(CT, (IMPLICIT,)), operations_invoked=proposed[0], operations_performed=proposed[1]
    )
    assert proposal.user_information.operations_window == (None if proposed == (1, 1) else proposed)
    policy = POLICY._replace(operations_invoked=allowed[0], operations_performed=allowed[1])
    accept, acceptor, requestor = agree(proposal, policy)
    assert accept.user_information.operations_window == agreed
    invoked, performed = agreed or (1, 1)
    assert (requestor.operations_invoked, requestor.operations_performed) == (invoked, performed)
    assert (acceptor.operations_invoked, acceptor.operations_performed) == (performed, invoked)


@pytest.mark.parametrize(
    ("proposed", "answered", "agreed"),
    [((5, 3), None, (1, 1)), ((1, 1), (7, 7), (1, 1)), ((5, 3), (9, 0), (5, 3)), ((0, 0), (4, 2), (4, 2))],
)
def test_an_answered_window_never_exceeds_the_proposal(
    proposed: tuple[int, int], answered: tuple[int, int] | None, agreed: tuple[int, int]
) -> None:
    proposal = request(
        PresentationContext(CT, (IMPLICIT,)), operations_invoked=proposed[0], operations_performed=proposed[1]
    )
    information = UserInformation(operations_window=answered)
    accept = AAssociateAC("SCP", "SCU", (ContextResult(1, 0, IMPLICIT),), information)
    negotiated = confirm(proposal, accept)
    assert (negotiated.operations_invoked, negotiated.operations_performed) == agreed


def test_the_rest_of_the_user_information() -> None:
    proposal = request(PresentationContext(CT, (IMPLICIT,)), maximum_length=0)
    accept, acceptor, requestor = agree(proposal, POLICY._replace(maximum_length=65536))
    assert (acceptor.maximum_length, requestor.maximum_length) == (0, 65536)
    assert accept.user_information.implementation_class_uid == IMPLEMENTATION_CLASS_UID
    for negotiated in (acceptor, requestor):
        assert negotiated.peer_implementation_class_uid == IMPLEMENTATION_CLASS_UID
        assert negotiated.peer_implementation_version_name == IMPLEMENTATION_VERSION_NAME
        assert negotiated.user_identity_response is None


def test_user_identity() -> None:
    identity = UserIdentity(2, b"name", b"passcode", True)
    proposal = request(PresentationContext(CT, (IMPLICIT,)), user_identity=identity)
    assert proposal.user_information.user_identity == identity
    replied = answer(proposal, POLICY, user_identity_response=b"")
    assert not isinstance(replied, AAssociateRJ)
    accept = decode_pdu(2, replied[0].encode()[6:])
    assert isinstance(accept, AAssociateAC)
    assert confirm(proposal, accept).user_identity_response == b""


def test_what_we_send_goes_in_the_syntax_that_we_prefer() -> None:
    """Where the peer is the SCP; where we are, its own order counts."""
    contexts = [
        PresentationContext(CT, (IMPLICIT, EXPLICIT), scu_role=False, scp_role=True),
        PresentationContext(MR, (IMPLICIT, EXPLICIT)),
    ]
    policy = Policy({MR: UNCOMPRESSED}, {CT: UNCOMPRESSED}, prefer=lambda uid, offered: offered[::-1])
    accept, _, _ = agree(request(*contexts), policy)
    assert results(accept) == [(0, EXPLICIT), (0, IMPLICIT)]


def test_any_transfer_syntax() -> None:
    proposal = request(PresentationContext(CT, ("not a UID", "1.2.*", "1.2.3.04", "1.2.3.4", IMPLICIT)))
    accept, _, _ = agree(proposal, Policy({CT: ("*",)}))
    assert results(accept) == [(0, "1.2.3.04")], "the first that can be a name"


def test_unknown_storage() -> None:
    proposal = request(
        PresentationContext("1.2.3.4.5", (JPEG, EXPLICIT)),
        PresentationContext("not a UID", (EXPLICIT,)),
        PresentationContext(MR, (EXPLICIT,)),
        PresentationContext(CT, (EXPLICIT,)),
    )
    policy = Policy({CT: (IMPLICIT,)}, unknown_storage=(EXPLICIT,), not_storage={MR})
    accept, _, _ = agree(proposal, policy)
    assert results(accept) == [(0, EXPLICIT), (3, None), (3, None), (4, None)]
    accept, _, _ = agree(proposal, policy._replace(unknown_storage=None))
    assert [result for result, _ in results(accept)] == [3, 3, 3, 4]


def test_unknown_storage_that_a_peer_wants_to_receive() -> None:
    """Private and future SOP classes can be retrieved by C-GET: the peer is the SCP of their C-STORE."""
    roles = {"scu_role": False, "scp_role": True}
    proposal = request(
        PresentationContext("1.2.3.4.5", (JPEG, EXPLICIT), **roles),
        PresentationContext("1.2.840.10008.5.1.4.1.1.9999", (EXPLICIT,), **roles),
        PresentationContext("not a UID", (EXPLICIT,), **roles),
        PresentationContext(MR, (EXPLICIT,), **roles),
        PresentationContext("1.2.3.4.6", (EXPLICIT,)),
    )
    policy = Policy({}, unknown_retrieval=("*",), not_storage={MR})
    accept, negotiated, _ = agree(proposal, policy)
    assert results(accept) == [(0, JPEG), (0, EXPLICIT), (3, None), (3, None), (3, None)]
    assert [(c.as_scu, c.as_scp) for c in negotiated.contexts.values()] == [(True, False)] * 2
    accept, _, _ = agree(proposal, policy._replace(unknown_retrieval=()))
    assert [result for result, _ in results(accept)] == [1, 1, 3, 3, 3], "not for this peer"
    accept, _, _ = agree(proposal, policy._replace(unknown_retrieval=None))
    assert [result for result, _ in results(accept)] == [3] * 5
    accept, negotiated, _ = agree(proposal, policy._replace(unknown_storage=("*",)))
    assert results(accept)[4] == (0, EXPLICIT)


@pytest.mark.parametrize(
    ("contexts", "problem"),
    [
        ([], "0 presentation contexts"),
        ([PresentationContext(CT, (IMPLICIT,))] * 129, "129 presentation contexts"),
        ([PresentationContext("", (IMPLICIT,))], "without"),
        ([PresentationContext(CT, ())], "without"),
        ([PresentationContext(CT, (IMPLICIT,), False, False)], "without"),
    ],
)
def test_proposals_that_make_no_sense(contexts: list[PresentationContext], problem: str) -> None:
    with pytest.raises(LocalProtocolError, match=problem):
        propose(contexts, called_ae_title="SCP", calling_ae_title="SCU")


@pytest.mark.parametrize("maximum_length", [-1, 1, 7, 1 << 32])
def test_maximum_lengths_that_make_no_sense(maximum_length: int) -> None:
    with pytest.raises(LocalProtocolError):
        request(PresentationContext(CT, (IMPLICIT,)), maximum_length=maximum_length)


def test_a_full_proposal_has_odd_ids() -> None:
    proposal = request(*[PresentationContext(CT, (IMPLICIT,))] * 128)
    assert [context.context_id for context in proposal.presentation_contexts] == list(range(1, 256, 2))


def confirm_one(result: ContextResult, maximum_length: int = 0) -> Negotiated:
    proposal = request(PresentationContext(CT, (IMPLICIT,)), PresentationContext(MR, (EXPLICIT,)))
    return confirm(proposal, AAssociateAC("", "", (result,), UserInformation(maximum_length)))


@pytest.mark.parametrize(
    "result",
    [
        ContextResult(5, 0, IMPLICIT),
        ContextResult(2, 0, IMPLICIT),
        ContextResult(1, 0, EXPLICIT),
        ContextResult(1, 0, ""),
        ContextResult(1, 0, None),
    ],
    ids=["I-19", "I-19 even", "I-20 of another context", "I-20 empty", "I-20 none"],
)
def test_acceptances_that_break_the_protocol(result: ContextResult) -> None:
    with pytest.raises(RemoteProtocolError) as raised:
        confirm_one(result)
    assert raised.value.reason == 6


@pytest.mark.parametrize("result", [ContextResult(1, 3), ContextResult(9, 4), ContextResult(1, 77)])
def test_i_22_what_is_not_accepted_is_rejected(result: ContextResult) -> None:
    assert confirm_one(result).contexts == {}


@pytest.mark.parametrize(("maximum_length", "good"), [(0, True), (1, False), (7, False), (8, True)])
def test_u_03_room_for_data(maximum_length: int, good: bool) -> None:
    proposal = request(PresentationContext(CT, (IMPLICIT,)))
    tiny = proposal._replace(user_information=UserInformation(maximum_length))
    assert (unacceptable(tiny) is None) == good
    assert isinstance(answer(tiny, POLICY), AAssociateRJ) != good
    if good:
        assert confirm_one(ContextResult(1, 0, IMPLICIT), maximum_length).maximum_length == maximum_length
    else:
        assert answer(tiny, POLICY) == AAssociateRJ(1, 2, 1)
        with pytest.raises(RemoteProtocolError):
            confirm_one(ContextResult(1, 0, IMPLICIT), maximum_length)


syntaxes = st.lists(st.sampled_from((IMPLICIT, EXPLICIT, JPEG)), min_size=1, max_size=3, unique=True).map(
    tuple
)
sop_classes = st.sampled_from((VERIFICATION, CT, MR))
supported = st.dictionaries(sop_classes, syntaxes)
roles = st.sampled_from((BOTH, SCU, SCP))
contexts = st.lists(
    st.tuples(sop_classes, syntaxes, roles).map(lambda some: PresentationContext(some[0], some[1], *some[2])),
    min_size=1,
    max_size=8,
)
windows = st.tuples(st.integers(0, 5), st.integers(0, 5))


@given(contexts, supported, supported, st.none() | syntaxes, windows, windows)
def test_both_sides_agree(
    proposed: list[PresentationContext],
    performed: dict[str, tuple[str, ...]],
    invoked: dict[str, tuple[str, ...]],
    unknown: tuple[str, ...] | None,
    theirs: tuple[int, int],
    ours: tuple[int, int],
) -> None:
    policy = Policy(
        MappingProxyType(performed),
        invoked,
        unknown,
        (),
        16384,
        operations_invoked=ours[0],
        operations_performed=ours[1],
    )
    proposal = request(*proposed, operations_invoked=theirs[0], operations_performed=theirs[1])
    _, acceptor, requestor = agree(proposal, policy)
    assert requestor.contexts == {
        key: context._replace(as_scu=context.as_scp, as_scp=context.as_scu)
        for key, context in acceptor.contexts.items()
    }
    assert requestor.operations_invoked == acceptor.operations_performed
    assert requestor.operations_performed == acceptor.operations_invoked
    for context in acceptor.contexts.values():
        assert context.as_scu or context.as_scp
        taken = (
            performed.get(context.abstract_syntax, unknown)
            if context.as_scp
            else invoked[context.abstract_syntax]
        )
        assert taken is not None
        assert context.transfer_syntax in taken


# SOP Class Extended Negotiation (PS3.7 D.3.3.5)


def extended(asked: list[tuple[str, bytes]], policy: Policy) -> tuple[object, object, object]:
    """What is in the answer, and what either side makes of it."""
    proposal = request(
        PresentationContext(CT, (IMPLICIT,)),
        PresentationContext(MR, (JPEG,)),
        extended_negotiations=[ExtendedNegotiation(uid, information) for uid, information in asked],
    )
    accept, acceptor, requestor = agree(proposal, policy)
    return accept.user_information.extended_negotiations, acceptor.extended, requestor.extended


def test_extended_negotiation_is_answered_by_who_offers_the_sop_class() -> None:
    policy = POLICY._replace(negotiate=lambda uid, asked: asked[:1] if uid == CT else None)
    assert extended([(CT, b"\1\2"), (CT, b"\3")], policy) == (
        (ExtendedNegotiation(CT, b"\1"),),
        {CT: b"\1"},
        {CT: b"\1"},
    ), "the first item of a SOP class counts"


@pytest.mark.parametrize("uid", [MR, VERIFICATION])
def test_extended_negotiation_of_what_was_not_accepted_is_not_asked_about(uid: str) -> None:
    asked: list[str] = []
    policy = POLICY._replace(negotiate=lambda uid, information: asked.append(uid))
    assert extended([(uid, b"\1")], policy) == ((), {}, {})
    assert asked == []


def test_who_does_not_negotiate_answers_nothing() -> None:
    assert extended([(CT, b"\1")], POLICY) == ((), {}, {})
    silent = POLICY._replace(negotiate=lambda uid, asked: None)
    assert extended([(CT, b"\1")], silent) == ((), {}, {})


# proposals that were answered before


def test_only_so_many_proposals_are_remembered() -> None:
    answered: Answered = {}
    first = request(PresentationContext(CT, (IMPLICIT,)))
    for number in range(_MOST_ANSWERED):
        answer(request(PresentationContext(f"1.2.{number}", (IMPLICIT,))), POLICY, answered=answered)
    assert len(answered) == _MOST_ANSWERED
    before = answer(first, POLICY, answered=answered)
    assert len(answered) == 1
    assert answer(first, POLICY, answered=answered) == before
    assert len(answered) == 1
