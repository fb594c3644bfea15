"""The A-ASSOCIATE PDUs: `ul.items` and `ul.pdu`, and what `ul.negotiation` makes of them.

Reading raises `RemoteProtocolError` and nothing else. What was read can be written, and reads the same.
Whatever request is accepted, the answer can be sent and both sides agree on what was agreed.
"""

from __future__ import annotations

from asyncdicom.exceptions import LocalProtocolError, RemoteProtocolError
from asyncdicom.ul.items import ProposedContext, RoleSelection, UserInformation
from asyncdicom.ul.negotiation import Negotiated, Policy, answer, confirm, unacceptable
from asyncdicom.ul.pdu import AAssociateAC, AAssociateRJ, AAssociateRQ, decode_pdu
from fuzz.check import Finding, Head, check, check_equal, words

HEAD = 2
LAYOUT = "associate"
MAXIMUM = 65536
LINES = (6000, 14)
MEMORY = (262144, 24)  # an item of 4 bytes becomes a str or a tuple

_CT = "1.2.840.10008.5.1.4.1.1.2"
_ECHO = "1.2.840.10008.1.1"
_IMPLICIT, _EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
POLICIES = (
    Policy({_ECHO: (_IMPLICIT, _EXPLICIT)}),
    Policy({_ECHO: ("*",), _CT: ("*",)}, unknown_storage=("*",), operations_performed=8),
    Policy(
        {_ECHO: (_EXPLICIT,)}, {_CT: (_EXPLICIT, _IMPLICIT)}, operations_invoked=0, operations_performed=0
    ),
    Policy({}, {_CT: ("*",)}, unknown_storage=(_IMPLICIT,), not_storage=(_CT,), maximum_length=0),
)
# What an A-ASSOCIATE-AC is taken as the answer to.
REQUEST = AAssociateRQ(
    "SCP",
    "SCU",
    tuple(
        ProposedContext(2 * i + 1, uid, (_IMPLICIT, _EXPLICIT))
        for i, uid in enumerate((_ECHO, _CT, _CT, "1.2"))
    ),
    UserInformation(
        16384, "1.2.3", "X", (3, 5), (RoleSelection(_CT, True, True), RoleSelection("1.2", False, True))
    ),
)


def _negotiated(negotiated: Negotiated) -> Negotiated:
    for number in (negotiated.maximum_length, negotiated.operations_invoked, negotiated.operations_performed):
        check(0 <= number <= 0xFFFFFFFF, "a limit out of bounds")
    check(not 0 < negotiated.maximum_length < 8, "a maximum length with no room for data")
    for context_id, context in negotiated.contexts.items():
        check(context_id == context.context_id and context_id % 2, "a context under a wrong ID")
        check(context.as_scu or context.as_scp, "a context without a role")
    return negotiated


def _answer(request: AAssociateRQ, policy: Policy) -> object:
    outcome = answer(request, policy)
    if isinstance(outcome, AAssociateRJ):
        check_equal(decode_pdu(3, outcome.encode()[6:]), outcome, "rejection")
        return outcome
    check(unacceptable(request) is None, "accepted what the provider cannot take")
    accept, ours = outcome
    check_equal(
        [c.context_id for c in accept.presentation_contexts],
        [c.context_id for c in request.presentation_contexts],
        "contexts answered",
    )
    _negotiated(ours)
    try:
        encoded = accept.encode()
    except LocalProtocolError as error:
        raise Finding(f"an answer that cannot be sent: {error}") from error
    read = decode_pdu(2, encoded[6:])
    check(isinstance(read, AAssociateAC), "no A-ASSOCIATE-AC")
    try:
        theirs = _negotiated(confirm(request, read))  # type: ignore[arg-type]
    except RemoteProtocolError as error:
        raise Finding(f"our own answer is taken for a fault: {error}") from error
    mirrored = {i: c._replace(as_scu=c.as_scp, as_scp=c.as_scu) for i, c in theirs.contexts.items()}
    check_equal(mirrored, ours.contexts, "what the two sides have agreed on")
    check_equal(
        (theirs.operations_invoked, theirs.operations_performed),
        (ours.operations_performed, ours.operations_invoked),
        "operations windows of the two sides",
    )
    return "accepted", len(ours.contexts), len(accept.user_information.role_selections)


def _confirm(accept: AAssociateAC) -> object:
    try:
        return "confirmed", len(_negotiated(confirm(REQUEST, accept)).contexts)
    except RemoteProtocolError as error:
        return words(error)


def once(data: bytes) -> None:
    """What is measured."""
    head = Head(data, HEAD)
    try:
        pdu = decode_pdu(head.choose((1, 2)), head.body)
    except RemoteProtocolError:
        return
    if isinstance(pdu, AAssociateRQ):
        outcome = answer(pdu, head.choose(POLICIES))
        if not isinstance(outcome, AAssociateRJ):
            outcome[0].encode()


def run(data: bytes) -> object:
    """All checks."""
    head = Head(data, HEAD)
    pdu_type = head.choose((1, 2))
    try:
        pdu = decode_pdu(pdu_type, head.body)
    except RemoteProtocolError as error:
        return words(error)
    repr(pdu)
    try:
        encoded = pdu.encode()
    except LocalProtocolError as error:
        raise Finding(f"what was read cannot be written: {error}") from error
    again = decode_pdu(pdu_type, encoded[6:])
    check_equal(_plain(again), _plain(pdu), "there and back")
    check_equal(again.encode(), encoded, "there and back, encoded")
    if isinstance(pdu, AAssociateRQ):
        return _answer(pdu, head.choose(POLICIES)), _shape(pdu.user_information)
    assert isinstance(pdu, AAssociateAC)
    return _confirm(pdu), _shape(pdu.user_information)


def _plain(pdu: object) -> object:
    """An accepted context without transfer syntax (None) is written with an empty one."""
    if not isinstance(pdu, AAssociateAC):
        return pdu
    contexts = tuple(c._replace(transfer_syntax=c.transfer_syntax or None) for c in pdu.presentation_contexts)
    return pdu._replace(presentation_contexts=contexts)


def _shape(information: UserInformation) -> tuple[object, ...]:
    return tuple(min(len(v), 2) if isinstance(v, tuple) else bool(v) for v in information)
