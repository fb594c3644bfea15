"""Association negotiation as pure functions (PS3.8 7.1.1; PS3.7 Annex D.3).

`propose` makes a request, `answer` is the acceptor's reply to one, `confirm` is what the requestor
makes of that reply. Both sides end up with a `Negotiated`, each from its own point of view.
"""

# No `from __future__ import annotations`: each field that is text costs a NamedTuple a compilation.

from collections.abc import Callable, Container, Mapping, Sequence
from typing import NamedTuple

from asyncdicom.exceptions import LocalProtocolError, RemoteProtocolError
from asyncdicom.options import SHORTEST_MAXIMUM_LENGTH, Limits
from asyncdicom.uid import (
    APPLICATION_CONTEXT_NAME,
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    is_usable_uid,
)

from .items import (
    CommonExtendedNegotiation,
    ContextResult,
    ExtendedNegotiation,
    ProposedContext,
    RoleSelection,
    UserIdentity,
    UserInformation,
)
from .pdu import MAXIMUM_CONTEXTS, AAssociateAC, AAssociateRJ, AAssociateRQ

# Result/reason of a presentation context (PS3.8 Table 9-18).
ACCEPTANCE = 0
USER_REJECTION = 1
NO_REASON = 2
ABSTRACT_SYNTAX_NOT_SUPPORTED = 3
TRANSFER_SYNTAXES_NOT_SUPPORTED = 4

REASONS = {
    USER_REJECTION: "user rejection",
    NO_REASON: "no reason given",
    ABSTRACT_SYNTAX_NOT_SUPPORTED: "abstract syntax not supported",
    TRANSFER_SYNTAXES_NOT_SUPPORTED: "transfer syntaxes not supported",
}

# Rejections (PS3.8 Table 9-21).
REJECTED_NO_REASON = AAssociateRJ(1, 1, 1)
APPLICATION_CONTEXT_NOT_SUPPORTED = AAssociateRJ(1, 1, 2)
PROVIDER_NO_REASON = AAssociateRJ(1, 2, 1)
PROTOCOL_VERSION_NOT_SUPPORTED = AAssociateRJ(1, 2, 2)

ANY_TRANSFER_SYNTAX = ("*",)
LONGEST_USER_IDENTITY = 16384  # of both fields together


class PresentationContext(NamedTuple):
    """What a requestor wants to do: one abstract syntax, its transfer syntaxes and its own roles."""

    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]
    scu_role: bool = True
    scp_role: bool = False


class AcceptedContext(NamedTuple):
    """An accepted presentation context; the roles are those that the local side may take."""

    context_id: int
    abstract_syntax: str
    transfer_syntax: str
    as_scu: bool
    as_scp: bool


class Negotiated(NamedTuple):
    """What both sides agreed on, from the local point of view.

    `maximum_length` is the peer's, in bytes; `operations_invoked` is how many operations we may have
    open, `operations_performed` how many the peer may. In all three 0 means no limit.
    """

    contexts: dict[int, AcceptedContext]
    maximum_length: int
    operations_invoked: int
    operations_performed: int
    peer_implementation_class_uid: str | None
    peer_implementation_version_name: str | None
    user_identity_response: bytes | None
    extended: Mapping[str, bytes] = {}
    """SOP class -> what the acceptor answered to the SOP Class Extended Negotiation (PS3.7 D.3.3.5)."""
    refused: Mapping[str, str] = {}
    """Abstract syntax that we have proposed -> why no context of it was accepted (PS3.8 Table 9-18)."""


class Policy(NamedTuple):
    """What an acceptor takes.

    `performed` and `invoked` map abstract syntaxes to the transfer syntaxes taken where we are the SCP or
    the SCU; `("*",)` takes any, `()` is for a peer that must not have it (user rejection).
    `unknown_storage` are those taken for abstract syntaxes that are neither in `performed` nor in
    `not_storage`; None does not support these. `unknown_retrieval` are the same where we are the SCU: a
    peer that asks by C-GET knows what it wants to receive. `maximum_length` in bytes.
    """

    performed: Mapping[str, tuple[str, ...]]
    invoked: Mapping[str, tuple[str, ...]] = {}
    unknown_storage: tuple[str, ...] | None = None
    not_storage: Container[str] = ()
    maximum_length: int = Limits.maximum_length
    operations_invoked: int = 1
    operations_performed: int = 1
    negotiate: Callable[[str, bytes], bytes | None] | None = None
    """Answers the SOP Class Extended Negotiation of an accepted context; None does not answer it."""
    unknown_retrieval: tuple[str, ...] | None = None
    prefer: Callable[[str, tuple[str, ...]], Sequence[str]] | None = None
    """Gives the order in which the transfer syntaxes of a context are tried where we are only the SCU, as for
    C-GET, by its abstract syntax; None tries them as they were proposed."""


def _too_short(maximum_length: int) -> bool:
    return 0 < maximum_length < SHORTEST_MAXIMUM_LENGTH


def _smaller(one: int, other: int) -> int:
    """The smaller of two limits of which 0 is none."""
    return min(one, other) if one and other else one or other


def unacceptable(request: AAssociateRQ) -> AAssociateRJ | None:
    """Why the service provider itself cannot take this request (PS3.8 AE-6), or None."""
    if not request.protocol_version & 1:  # only bit 0 is tested (Table 9-11)
        return PROTOCOL_VERSION_NOT_SUPPORTED
    if _too_short(request.user_information.maximum_length):
        return PROVIDER_NO_REASON
    if any(context.context_id % 2 == 0 for context in request.presentation_contexts):
        return PROVIDER_NO_REASON
    return None


def _refused(request: AAssociateRQ) -> AAssociateRJ | None:
    if request.application_context_name != APPLICATION_CONTEXT_NAME:
        return APPLICATION_CONTEXT_NOT_SUPPORTED
    identity = request.user_information.user_identity
    too_long = (
        identity is not None and len(identity.primary) + len(identity.secondary) > LONGEST_USER_IDENTITY
    )
    if not request.presentation_contexts or too_long:
        return REJECTED_NO_REASON
    return None


def _proposed_roles(request: AAssociateRQ) -> dict[str, RoleSelection]:
    """The requestor's role selections by SOP class: the first of each that has a context."""
    proposed = {context.abstract_syntax for context in request.presentation_contexts}
    roles: dict[str, RoleSelection] = {}
    for role in request.user_information.role_selections:
        if role.sop_class_uid in proposed:
            roles.setdefault(role.sop_class_uid, role)
    return roles


def _may_be_storage(abstract_syntax: str, policy: Policy) -> bool:
    return abstract_syntax not in policy.not_storage and is_usable_uid(abstract_syntax)


def _answer_context(
    context: ProposedContext, role: RoleSelection, policy: Policy
) -> tuple[ContextResult, AcceptedContext | None]:
    abstract_syntax = context.abstract_syntax
    performed = policy.performed.get(abstract_syntax)
    invoked = policy.invoked.get(abstract_syntax)
    if (performed is None or invoked is None) and _may_be_storage(abstract_syntax, policy):
        performed = policy.unknown_storage if performed is None else performed
        invoked = policy.unknown_retrieval if invoked is None else invoked
    as_scp = role.scu_role and bool(performed)
    as_scu = role.scp_role and bool(invoked)
    if not as_scp and not as_scu:
        denied = (role.scu_role and performed == ()) or (role.scp_role and invoked == ())
        return ContextResult(
            context.context_id, USER_REJECTION if denied else ABSTRACT_SYNTAX_NOT_SUPPORTED
        ), None
    taken = (performed if as_scp else invoked) or ()
    offered: Sequence[str] = context.transfer_syntaxes
    if policy.prefer is not None and not as_scp and len(offered) > 1:
        offered = policy.prefer(abstract_syntax, context.transfer_syntaxes)
    for transfer_syntax in offered:
        if transfer_syntax in taken or (taken == ANY_TRANSFER_SYNTAX and is_usable_uid(transfer_syntax)):
            accepted = AcceptedContext(context.context_id, abstract_syntax, transfer_syntax, as_scu, as_scp)
            return ContextResult(context.context_id, ACCEPTANCE, transfer_syntax), accepted
    return ContextResult(context.context_id, TRANSFER_SYNTAXES_NOT_SUPPORTED), None


class _AnsweredContexts(NamedTuple):
    results: tuple[ContextResult, ...]
    accepted: dict[int, AcceptedContext]
    role_answers: tuple[RoleSelection, ...]


Answered = dict[object, _AnsweredContexts]
"""What was answered before, by what was proposed."""

_MOST_ANSWERED = 256


def _answer_contexts(
    proposed: tuple[ProposedContext, ...], roles: dict[str, RoleSelection], policy: Policy
) -> _AnsweredContexts:
    results: list[ContextResult] = []
    contexts: dict[int, AcceptedContext] = {}
    role_answers: dict[str, RoleSelection] = {}
    for context in proposed:
        uid = context.abstract_syntax
        result, accepted = _answer_context(context, roles.get(uid) or RoleSelection(uid, True, False), policy)
        # A rejected context has a transfer syntax too; it is not significant (PS3.8 9.3.3.2).
        offered = context.transfer_syntaxes[0] if context.transfer_syntaxes else ""
        results.append(result if accepted else result._replace(transfer_syntax=offered))
        if accepted:
            contexts[context.context_id] = accepted
            if uid in roles:
                role_answers[uid] = RoleSelection(uid, accepted.as_scp, accepted.as_scu)
    return _AnsweredContexts(tuple(results), contexts, tuple(role_answers.values()))


def _look_up(request: AAssociateRQ, policy: Policy, answered: Answered) -> _AnsweredContexts:
    """The answer to the same proposal is the same: associations share it, so it must not be changed.

    Where we are the SCU, what is preferred may be another one each time.
    """
    roles = _proposed_roles(request)
    if roles and policy.prefer is not None:
        return _answer_contexts(request.presentation_contexts, roles, policy)
    key = (request.presentation_contexts, tuple(roles.values()))
    found = answered.get(key)
    if found is None:
        if len(answered) >= _MOST_ANSWERED:
            answered.clear()
        found = answered[key] = _answer_contexts(request.presentation_contexts, roles, policy)
    return found


def answer(
    request: AAssociateRQ,
    policy: Policy,
    *,
    user_identity_response: bytes | None = None,
    answered: Answered | None = None,
) -> tuple[AAssociateAC, Negotiated] | AAssociateRJ:
    """The acceptor's reply: each context gets the first transfer syntax that the policy takes.

    AE titles and the user identity are for the caller to judge; `user_identity_response` is what the peer
    is told about the latter (PS3.7 D.3.3.7.2). `answered`: a dictionary that an acceptor keeps for one
    policy, so that a proposal that comes again is not worked out again and its tables are shared.
    """
    rejection = unacceptable(request) or _refused(request)
    if rejection is not None:
        return rejection
    results, contexts, role_answers = _look_up(request, policy, {} if answered is None else answered)
    theirs = request.user_information
    extended = _extended(theirs, contexts, policy)
    window = theirs.operations_window
    if window is not None:
        # Both numbers are the requestor's in the answer too (PS3.7 D.3.3.3).
        invoked, performed = window
        window = (
            _smaller(invoked, policy.operations_performed),
            _smaller(performed, policy.operations_invoked),
        )
    accept = AAssociateAC(
        request.called_ae_title,
        request.calling_ae_title,
        results,
        UserInformation(
            maximum_length=policy.maximum_length,
            implementation_class_uid=IMPLEMENTATION_CLASS_UID,
            implementation_version_name=IMPLEMENTATION_VERSION_NAME,
            operations_window=window,
            role_selections=role_answers,
            extended_negotiations=tuple(ExtendedNegotiation(*each) for each in extended.items()),
            user_identity_response=user_identity_response,
        ),
        reserved=request.reserved,
        ae_title_fields=request.ae_title_fields,
    )
    peer_invokes, peer_performs = window or (1, 1)
    negotiated = Negotiated(
        contexts,
        theirs.maximum_length,
        peer_performs,
        peer_invokes,
        theirs.implementation_class_uid,
        theirs.implementation_version_name,
        user_identity_response,
        extended,
    )
    return accept, negotiated


_NOTHING: Mapping[str, bytes] = {}


def _extended(
    theirs: UserInformation, contexts: Mapping[int, AcceptedContext], policy: Policy
) -> Mapping[str, bytes]:
    """Answer the first item of each SOP class that has an accepted context."""
    if policy.negotiate is None or not theirs.extended_negotiations:
        return _NOTHING  # the same for all associations
    found: dict[str, bytes] = {}
    accepted = {context.abstract_syntax for context in contexts.values()}
    for uid, information in theirs.extended_negotiations:
        if uid in accepted:
            accepted.discard(uid)
            answer = policy.negotiate(uid, information)
            if answer is not None:
                found[uid] = answer
    return found


def propose(
    contexts: Sequence[PresentationContext],
    *,
    called_ae_title: str,
    calling_ae_title: str,
    maximum_length: int = Limits.maximum_length,
    operations_invoked: int = 1,
    operations_performed: int = 1,
    user_identity: UserIdentity | None = None,
    extended_negotiations: Sequence[ExtendedNegotiation] = (),
    common_extended_negotiations: Sequence[CommonExtendedNegotiation] = (),
) -> AAssociateRQ:
    """The request for these contexts, which get the IDs 1, 3, 5 and so on in their order.

    Items that some peers do not take are left out where they say nothing: role selection for the default
    roles, the operations window for one operation at a time. Roles belong to the SOP class: those of its
    contexts are added up. Raises `LocalProtocolError` for no context, more than 128, or one that is empty.
    """
    if not 0 < len(contexts) <= MAXIMUM_CONTEXTS:
        raise LocalProtocolError(f"{len(contexts)} presentation contexts (an association has 1 to 128)")
    if _too_short(maximum_length) or maximum_length > 0xFFFFFFFF or maximum_length < 0:
        raise LocalProtocolError(f"a maximum length of {maximum_length} bytes cannot be announced")
    roles: dict[str, RoleSelection] = {}
    for context in contexts:
        uid = context.abstract_syntax
        if not uid or not context.transfer_syntaxes or not (context.scu_role or context.scp_role):
            raise LocalProtocolError(f"a presentation context without a syntax or a role: {context}")
        _, scu, scp = roles.get(uid, (uid, False, False))
        roles[uid] = RoleSelection(uid, scu or context.scu_role, scp or context.scp_role)
    window = (operations_invoked, operations_performed)
    return AAssociateRQ(
        called_ae_title,
        calling_ae_title,
        tuple(
            ProposedContext(2 * index + 1, context.abstract_syntax, tuple(context.transfer_syntaxes))
            for index, context in enumerate(contexts)
        ),
        UserInformation(
            maximum_length=maximum_length,
            implementation_class_uid=IMPLEMENTATION_CLASS_UID,
            implementation_version_name=IMPLEMENTATION_VERSION_NAME,
            operations_window=None if window == (1, 1) else window,
            role_selections=tuple(role for role in roles.values() if role.scp_role or not role.scu_role),
            extended_negotiations=tuple(extended_negotiations),
            common_extended_negotiations=tuple(common_extended_negotiations),
            user_identity=user_identity,
        ),
    )


def confirm(request: AAssociateRQ, accept: AAssociateAC) -> Negotiated:
    """What the acceptor's reply to our request means. Contexts it does not mention are rejected.

    Raises `RemoteProtocolError` for an accepted context we did not propose, or with a transfer syntax we
    did not propose for it. A peer that does not answer a role selection is taken to agree to it.
    """
    proposed = {context.context_id: context for context in request.presentation_contexts}
    roles = _proposed_roles(request)
    answers = {role.sop_class_uid: role for role in reversed(accept.user_information.role_selections)}
    contexts: dict[int, AcceptedContext] = {}
    refused = {context.abstract_syntax: "not answered" for context in request.presentation_contexts}
    for result in accept.presentation_contexts:
        context = proposed.get(result.context_id)
        if result.result != ACCEPTANCE:
            if context is not None:
                why = REASONS.get(result.result, f"result {result.result}")
                refused[context.abstract_syntax] = why
            continue
        if context is None:
            raise RemoteProtocolError(f"presentation context {result.context_id} accepted, but not proposed")
        if not result.transfer_syntax or result.transfer_syntax not in context.transfer_syntaxes:
            raise RemoteProtocolError(
                f"presentation context {result.context_id} accepted with {result.transfer_syntax or 'no'} "
                "transfer syntax, which was not proposed"
            )
        uid = context.abstract_syntax
        _, as_scu, as_scp = roles.get(uid, (uid, True, False))
        if uid in roles and uid in answers:
            as_scu, as_scp = as_scu and answers[uid].scu_role, as_scp and answers[uid].scp_role
        if as_scu or as_scp:
            contexts[result.context_id] = AcceptedContext(
                result.context_id, uid, result.transfer_syntax, as_scu, as_scp
            )
        else:
            refused[uid] = "the roles that were proposed are not accepted"
    for accepted in contexts.values():
        refused.pop(accepted.abstract_syntax, None)
    theirs = accept.user_information
    if _too_short(theirs.maximum_length):
        raise RemoteProtocolError(f"a maximum length of {theirs.maximum_length} bytes has no room for data")
    # An answer cannot exceed the proposal, and means nothing where there was none.
    ours = request.user_information.operations_window
    invoked, performed = theirs.operations_window or (1, 1)
    return Negotiated(
        contexts,
        theirs.maximum_length,
        _smaller(invoked, ours[0]) if ours else 1,
        _smaller(performed, ours[1]) if ours else 1,
        theirs.implementation_class_uid,
        theirs.implementation_version_name,
        theirs.user_identity_response,
        {each.sop_class_uid: each.information for each in reversed(theirs.extended_negotiations)},
        refused,
    )
