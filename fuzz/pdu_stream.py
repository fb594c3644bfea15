"""The byte stream of a connection: `ul.decoder` and `ul.protocol` in every state of both roles.

However the bytes are cut, the events are the same; `receive_data` never raises; what is sent is valid.
The head chooses the state at the beginning, the maximum lengths, the cuts.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from asyncdicom.exceptions import ProtocolError
from asyncdicom.options import Timeouts
from asyncdicom.ul.decoder import ControlPDU, Decoder, PDataFragment
from asyncdicom.ul.events import AssociateIndication, ProtocolViolation
from asyncdicom.ul.items import ContextResult, ProposedContext, UserInformation
from asyncdicom.ul.pdu import (
    A_ABORT,
    P_DATA_TF,
    AAssociateAC,
    AAssociateRQ,
    AReleaseRP,
    AReleaseRQ,
    decode_pdu,
)
from asyncdicom.ul.protocol import UpperLayer
from asyncdicom.ul.statetable import State
from fuzz.check import Finding, Head, check, check_equal, pieces, words

HEAD = 4
LAYOUT = "pdus"
MAXIMUM = 65536
LINES = (4000, 12)
MEMORY = (262144, 24)  # a P-DATA-TF of 13 bytes becomes one memoryview

_IMPLICIT = "1.2.840.10008.1.2"
_IDS = (1, 3, 5)
REQUEST = AAssociateRQ(
    "SCP",
    "SCU",
    tuple(ProposedContext(i, "1.2.840.10008.1.1", (_IMPLICIT,)) for i in _IDS),
    UserInformation(16384, "1.2.3"),
)
ACCEPT = AAssociateAC(
    "SCP", "SCU", tuple(ContextResult(i, 0, _IMPLICIT) for i in _IDS), UserInformation(16384, "1.2.3")
)

# How to get to a state. Local primitives: a(s)sociate, (c)onnected, (a)ccept, (r)elease, release_res(p)onse,
# abort (x). From the peer: (Q) A-ASSOCIATE-RQ, (A) A-ASSOCIATE-AC, (R) A-RELEASE-RQ, (P) A-RELEASE-RP.
# The first letter of a path says which role: "+" requestor, "-" acceptor.
PATHS = (
    *("-", "-c", "-cQ", "-cQa", "-cQar", "-cQaR", "-cQarR", "-cQarRP", "-cQax"),
    *("+", "+s", "+sc", "+scA", "+scAr", "+scAR", "+scArR", "+scArRp", "+scAx"),
)
_FROM_PEER = {
    letter: pdu.encode()
    for letter, pdu in (("Q", REQUEST), ("A", ACCEPT), ("R", AReleaseRQ()), ("P", AReleaseRP()))
}
MAXIMUM_LENGTHS = (16384, 0, 64, 262144)
ASSOCIATE_LENGTHS = (262144, 262144, 4096, 68)


def primitive(layer: UpperLayer, letter: str, now: float) -> None:
    """One local primitive of `PATHS`."""
    match letter:
        case "s":
            layer.associate(REQUEST, now)
        case "c":
            layer.connected(now)
        case "a":
            layer.accept(ACCEPT, now)
        case "r":
            layer.release(now)
        case "p":
            layer.release_response(now)
        case "x":
            layer.abort(now)


def _begin(path: str, maximum_length: int, maximum_associate_length: int) -> UpperLayer:
    layer = UpperLayer(
        requestor=path[0] == "+",
        maximum_length=maximum_length,
        timeouts=Timeouts(idle=None),
        maximum_associate_length=max(maximum_associate_length, 4096),  # the way there needs some
    )
    for letter in path[1:]:
        if letter in _FROM_PEER:
            layer.receive_data(memoryview(_FROM_PEER[letter]), 0.0)
        else:
            primitive(layer, letter, 0.0)
    layer.data_to_send()
    return layer


def _flat(items: Iterable[Any]) -> list[Any]:
    """Items or events with P-DATA joined: what has to be the same however the bytes were cut."""
    flat: list[Any] = []
    for item in items:
        if isinstance(item, PDataFragment):
            data = b"".join(item.views)
            check(all(item.views), "an empty view")
            last = flat[-1] if flat else None
            if (
                last is not None
                and last[0] == "data"
                and not last[4]
                and last[1:3] == (item.context_id, item.is_command)
            ):
                flat[-1] = (*last[:3], last[3] + data, item.is_last)
            elif data or item.is_last:
                flat.append(("data", item.context_id, item.is_command, data, item.is_last))
        elif isinstance(item, ControlPDU):
            flat.append(("control", item.pdu_type, item.body))
        elif isinstance(item, ProtocolViolation):
            flat.append(("violation", str(item.error), item.error.reason))
        elif type(item).__name__ != "PDataStart":
            flat.append((type(item).__name__, repr(item)))
    return flat


def _decoded(cuts: Iterable[memoryview], maximum: int, associate: int) -> tuple[Any, ...]:
    decoder = Decoder(maximum, associate)
    items: list[Any] = []
    for piece in cuts:
        items += _continued(items, piece) if decoder.continues(len(piece)) else decoder.feed(piece)
    error = decoder.error
    fault = None if error is None else (str(error), error.reason)
    return _flat(items), fault, None if fault else (decoder.in_pdu, decoder.in_message)


def _continued(items: list[Any], piece: memoryview) -> list[PDataFragment]:
    """What the short cut of the decoder took: it belongs to the last fragment."""
    last = items[-1]
    check(isinstance(last, PDataFragment) and not (last.is_command or last.is_last), "nothing to continue")
    return [PDataFragment(last.context_id, last.is_command, [piece])]


def _reference(body: bytes) -> tuple[list[Any], bool]:
    """Whole PDUs, read as plainly as can be, and whether their P-DATA ends in a fault."""
    found: list[Any] = []
    position = 0
    while len(body) - position >= 6 and body[position] in range(1, 8) and body[position] != A_ABORT:
        start, stop = position + 6, position + 6 + int.from_bytes(body[position + 2 : position + 6], "big")
        if stop > len(body):
            break
        if body[position] != P_DATA_TF:
            found.append(ControlPDU(body[position], body[start:stop]))
            start = stop
        while start < stop:
            end = start + 4 + int.from_bytes(body[start : start + 4], "big")
            if stop - start < 6 or not start + 6 <= end <= stop:
                return found, True
            views = [memoryview(body)[start + 6 : end]] if end > start + 6 else []
            found.append(
                PDataFragment(body[start + 4], bool(body[start + 5] & 1), views, bool(body[start + 5] & 2))
            )
            start = end
        position = stop
    return found, False


def _check_reference(decoded: tuple[Any, ...], body: bytes) -> None:
    """The decoder gave just this: the last apart, of which it may have more, or have stopped before."""
    found, is_fault = _reference(body)
    expected = _flat(found)
    got = decoded[0]
    check(decoded[1] or not is_fault, "a fault that was not seen")
    check(not is_fault or len(got) <= len(expected) + 1, "data after a fault")
    for one, other in zip(got[:-1], expected[:-1], strict=False):
        check_equal(one, other, "items")


def _received(layer: UpperLayer, cuts: Iterable[memoryview]) -> tuple[Any, ...]:
    events: list[Any] = []
    for piece in cuts:
        short = layer.continues(len(piece), 1.0)
        events += _continued(events, piece) if short else layer.receive_data(piece, 1.0)
    sent = b"".join(layer.data_to_send())
    return _flat(events), layer.state, layer.wants_close, sent


def check_sent(sent: bytes) -> list[Any]:
    """What we send is whole PDUs that we could read ourselves; the last may be an A-ABORT, no other."""
    decoder = Decoder(0, 1 << 24)
    items = decoder.feed(memoryview(sent))
    check(decoder.error is None and not decoder.in_pdu, f"sent what cannot be read: {decoder.error}")
    controls = [item for item in items if isinstance(item, ControlPDU)]
    for item in controls:
        try:
            decode_pdu(item.pdu_type, item.body)
        except ProtocolError as error:
            raise Finding(f"sent a PDU that cannot be read: {error}") from error
    check(
        not any(item.pdu_type == A_ABORT for item in items[:-1] if isinstance(item, ControlPDU)), "two aborts"
    )
    return items


def check_ends(layer: UpperLayer, now: float) -> None:
    """A peer that says nothing more cannot hold us: the deadlines end it, or nothing is owed in Sta6."""
    for _ in range(8):
        deadline = layer.next_deadline()
        if deadline is None:
            break
        check(deadline <= now + 60.0, f"a deadline {deadline - now} s away")
        now = max(now, deadline)
        layer.handle_timer(now)
        late = layer.next_deadline()
        check(late is None or late > now, "a timer that does not pass")
    else:
        raise Finding("the timers never end")
    waits_for_us = {State.STA1, State.STA3, State.STA4, State.STA8, State.STA12}
    if layer.wants_close or layer.state in waits_for_us:
        return
    check(layer.state is State.STA6, f"{layer.state.name} without a deadline")
    decoder = layer._decoder
    check(not (decoder.in_pdu or decoder.in_message), "the peer owes something, without a deadline")


def _interfere(path: str, body: bytes, seed: int, lengths: tuple[int, int]) -> None:
    """The same again with local primitives at any moment, and accepted as a server would."""
    layer = _begin(path, *lengths)
    for count, piece in enumerate(pieces(body, 2 + seed)):
        for event in layer.receive_data(piece, 1.0):
            if isinstance(event, AssociateIndication) and seed & 1:
                layer.accept(ACCEPT, 1.0)
        if (count + seed) % 5 == 0:
            primitive(layer, "scarpx"[(count + seed) // 5 % 6], 1.0)
        if count % 7 == seed % 7:
            layer.handle_timer(1.0)
    check_sent(b"".join(layer.data_to_send()))
    check_ends(layer, 1.0)
    layer.connection_closed(100.0)
    check(layer.state is State.STA1 and layer.next_deadline() is None, "not over with the connection")


def once(data: bytes) -> None:
    """What is measured: the library's work for this input, without ours."""
    head = Head(data, HEAD)
    layer = _begin(head.choose(PATHS), head.choose(MAXIMUM_LENGTHS), head.choose(ASSOCIATE_LENGTHS))
    layer.receive_data(memoryview(head.body), 1.0)


def run(data: bytes) -> object:
    """All checks; the outcome in short."""
    head = Head(data, HEAD)
    path = head.choose(PATHS)
    maximum, associate = head.choose(MAXIMUM_LENGTHS), head.choose(ASSOCIATE_LENGTHS)
    seed, body = head.byte(), head.body
    decoded = _decoded([memoryview(body)], maximum, associate)
    check_equal(_decoded(pieces(body, seed), maximum, associate), decoded, "decoder, cut differently")
    _check_reference(decoded, body)
    layer = _begin(path, maximum, associate)
    whole = _received(layer, [memoryview(body)])
    events = whole[0]
    check(sum(e[0] == "violation" for e in events) <= 1, "two violations")
    check(not any(e[0] == "violation" for e in events[:-1]), "something after a violation")
    check_sent(whole[3])
    check_ends(layer, 1.0)
    cut = _received(_begin(path, maximum, associate), pieces(body, seed))
    check_equal(cut, whole, f"events after {path}, cut differently")
    _interfere(path, body, seed, (maximum, associate))
    fault = decoded[1]
    return (
        path,
        tuple(e[0] for e in events[:6]),
        whole[1],
        fault and words(fault[0]),
    )
