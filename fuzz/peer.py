"""A whole conversation, one side of it mutated: `dimse.association` as acceptor and as requestor.

As acceptor the input is what a client sends; as requestor it is our own A-ASSOCIATE-RQ, then what a server
sends. Nothing but the documented errors inside, every accepted request is answered with PDUs that fit the
peer, and a peer that falls silent is got rid of.
"""

from __future__ import annotations

from asyncdicom.dimse.messages import Command, CommandField
from asyncdicom.exceptions import RemoteProtocolError
from asyncdicom.ul.decoder import PDataFragment
from asyncdicom.ul.negotiation import Policy
from asyncdicom.ul.pdu import AAssociateRQ, decode_pdu
from asyncdicom.ul.statetable import State
from fuzz.check import Finding, Head, check, pieces, words
from fuzz.pdu_stream import check_sent
from fuzz.side import Side

HEAD = 3
LAYOUT = "pdus"
MAXIMUM = 65536
LINES = (20000, 60)
MEMORY = (1 << 20, 48)

_ANY = ("*",)
_QR = tuple(f"1.2.840.10008.5.1.4.1.2.{model}.{kind}" for model in (1, 2, 3) for kind in (1, 2, 3))
POLICIES = (
    Policy(dict.fromkeys(("1.2.840.10008.1.1", *_QR), _ANY), unknown_storage=_ANY, maximum_length=16384),
    Policy(
        dict.fromkeys(("1.2.840.10008.1.1", *_QR), ("1.2.840.10008.1.2",)),
        {"1.2.840.10008.5.1.4.1.1.2": _ANY},
        maximum_length=0,
        operations_performed=4,
        operations_invoked=4,
    ),
)


def _requestor(body: bytes, policy: Policy) -> tuple[Side, bytes] | None:
    """Our request is the first PDU of the input, when it is one that we could send."""
    stop = 6 + int.from_bytes(body[2:6], "big")
    if body[:1] != b"\1" or stop > len(body):
        return None
    try:
        request = decode_pdu(1, body[6:stop])
    except RemoteProtocolError:
        return None
    assert isinstance(request, AAssociateRQ)
    return Side(request=request, policy=policy, answers=True), body[stop:]


def _set_up(data: bytes) -> tuple[Side, bytes, int, int] | None:
    head = Head(data, HEAD)
    flags, seed, operations = head.byte(), head.byte(), head.byte()
    policy = POLICIES[flags >> 1 & 1]
    if not flags & 1:
        return Side(request=None, policy=policy, answers=not flags & 4), head.body, seed, operations
    made = _requestor(head.body, policy)
    return made and (*made, seed, operations)


def _invoke(side: Side, operations: int) -> None:
    """As a requestor: some operations, so that responses have something to answer."""
    field = (CommandField.C_ECHO_RQ, CommandField.C_FIND_RQ, CommandField.C_STORE_RQ, CommandField.C_GET_RQ)
    for context in list(side.core.contexts.values()):
        uid = context.abstract_syntax or "1.2"
        kind = field[operations & 3]
        command = Command(kind, affected_sop_class_uid=uid)
        data = None
        if kind is not CommandField.C_ECHO_RQ:
            command.priority, command.has_data_set, data = 0, True, b"\x08\0\x52\0\0\0\0\0" * 9
        if kind is CommandField.C_STORE_RQ:
            command.affected_sop_instance_uid = "1.2.3"
        if not side.invoke(context.context_id, command, data):
            return
        operations >>= 2


def _talk(side: Side, body: bytes, seed: int, operations: int) -> bytes:
    out = b""
    invoked = not side.core.is_requestor
    # A peer waits for the answer to its A-ASSOCIATE before it goes on; else there would be no conversation.
    stop = 6 + int.from_bytes(body[2:6], "big") if body[:1] in (b"\1", b"\2") else 0
    for piece in (*pieces(body[:stop], seed), *pieces(body[stop:], seed)):
        side.receive(piece)
        out += side.output()
        if not invoked and side.core.state is State.STA6:
            invoked = True
            _invoke(side, operations)
        elif invoked and operations & 0x80:
            side.release()  # does nothing while an operation is open
    while side.respond(0, 0x0000):  # where answers were held back
        out += side.output()
    return out + side.output()


def once(data: bytes) -> None:
    """What is measured."""
    made = _set_up(data)
    if made is not None:
        side, body, _, operations = made
        _talk(side, body, 1, operations)


def run(data: bytes) -> object:
    """All checks."""
    made = _set_up(data)
    if made is None:
        return None
    side, body, seed, operations = made
    out = _talk(side, body, seed, operations)
    check(len(side.violations) <= 1, "two violations")
    items = check_sent(out)
    if side.maximum_length:
        longest = max((len(v) for i in items if isinstance(i, PDataFragment) for v in i.views), default=0)
        check(longest <= side.maximum_length - 6, f"a fragment of {longest} for {side.maximum_length}")
    state = side.core.state
    side.pass_time(300.0)
    if not side.core.wants_close:
        check(side.core.state in (State.STA1, State.STA6), f"still in {side.core.state.name}")
        check(not side.core.is_owed, "the peer owes something for ever")
    side.output()
    side.closed()
    names = tuple(m.name for m in side.got[:4])
    why = words((side.violations or [""])[0])
    if side.violations and not why:
        raise Finding("a violation without a word")
    return side.core.is_requestor, state, names, why, tuple(side.expired[:2])
