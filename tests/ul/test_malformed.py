"""What a peer can get wrong at this layer, and what must follow: one row a case.

Every case is fed whole, byte by byte, and with more bytes behind it.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from asyncdicom.ul.decoder import PDataFragment
from asyncdicom.ul.events import (
    AbortIndication,
    AssociateConfirmation,
    AssociateIndication,
    AssociateRejection,
    Event,
    ProtocolViolation,
    ReleaseIndication,
    TransportClosed,
)
from asyncdicom.ul.items import ContextResult, UserInformation
from asyncdicom.ul.negotiation import Policy, answer
from asyncdicom.ul.pdu import AAssociateAC, AAssociateRJ, AAssociateRQ
from asyncdicom.ul.protocol import UpperLayer
from asyncdicom.ul.statetable import State

VERIFICATION, IMPLICIT = b"1.2.840.10008.1.1", b"1.2.840.10008.1.2"


def framed(pdu_type: int, body: bytes, length: int | None = None, second: int = 0) -> bytes:
    return bytes((pdu_type, second)) + (len(body) if length is None else length).to_bytes(4, "big") + body


def item(item_type: int, value: bytes, length: int | None = None) -> bytes:
    return bytes((item_type, 0)) + (len(value) if length is None else length).to_bytes(2, "big") + value


def counted(value: bytes) -> bytes:
    return len(value).to_bytes(2, "big") + value


def proposed(context_id: int, *sub_items: bytes) -> bytes:
    subs = sub_items or (item(0x30, VERIFICATION), item(0x40, IMPLICIT))
    return item(0x20, bytes((context_id, 0, 0, 0)) + b"".join(subs))


def accepted(context_id: int, result: int, *sub_items: bytes) -> bytes:
    return item(0x21, bytes((context_id, 0, result, 0)) + b"".join(sub_items))


APPLICATION = item(0x10, b"1.2.840.10008.3.1.1.1")
MAXIMUM_LENGTH = item(0x51, (16384).to_bytes(4, "big"))
USER = item(0x50, MAXIMUM_LENGTH)
CONTEXT = proposed(1)


def fixed(
    version: int = 1, called: bytes = b"US", calling: bytes = b"THEM", reserved: bytes = bytes(32)
) -> bytes:
    return version.to_bytes(2, "big") + bytes(2) + called.ljust(16) + calling.ljust(16) + reserved


def rq(*parts: bytes, head: bytes | None = None) -> bytes:
    return framed(1, (fixed() if head is None else head) + b"".join(parts or (APPLICATION, CONTEXT, USER)))


def user(*sub_items: bytes) -> bytes:
    return rq(APPLICATION, CONTEXT, item(0x50, b"".join(sub_items)))


def ac(*parts: bytes) -> bytes:
    return framed(2, fixed() + b"".join((APPLICATION, *parts)))


AC = ac(accepted(1, 0, item(0x40, IMPLICIT)), USER)


def pdv(context_id: int, control: int, data: bytes, length: int | None = None) -> bytes:
    return (
        (len(data) + 2 if length is None else length).to_bytes(4, "big") + bytes((context_id, control)) + data
    )


RELEASE_RQ = framed(5, bytes(4))
ABORT = framed(7, bytes(4))

REQUEST = AAssociateRQ("US", "THEM", (), UserInformation())
ACCEPT = AAssociateAC("US", "THEM", (ContextResult(1, 0, "1.2.840.10008.1.2"),), UserInformation())


def awaiting_request() -> UpperLayer:
    core = UpperLayer(requestor=False, maximum_length=16384)
    core.connected(0)
    return core


def awaiting_accept() -> UpperLayer:
    core = UpperLayer(requestor=True, maximum_length=16384)
    core.associate(REQUEST, 0)
    core.connected(0)
    core.data_to_send()
    return core


def established() -> UpperLayer:
    core = awaiting_request()
    core.receive_data(memoryview(rq()), 0)
    core.accept(ACCEPT, 0)
    core.data_to_send()
    assert core.state is State.STA6
    return core


def feeds(data: bytes) -> dict[str, list[bytes]]:
    return {
        "whole": [data],
        "byte by byte": [bytes((byte,)) for byte in data],
        "with more behind": [data + b"\xff" * 20 + RELEASE_RQ],
    }


def run(make: Callable[[], UpperLayer], pieces: list[bytes]) -> tuple[UpperLayer, list[Event]]:
    core = make()
    events = [event for piece in pieces for event in core.receive_data(memoryview(piece), 1.0)]
    return core, events


def abort(source: int, reason: int) -> bytes:
    return framed(7, bytes((0, 0, source, reason)))


USER_ABORT = abort(0, 0)  # in Sta2: AA-1
UNRECOGNIZED, UNEXPECTED, INVALID = abort(2, 1), abort(2, 2), abort(2, 6)  # elsewhere: AA-8

ASSOCIATION_FAULTS = {
    "P-01 HTTP": b"GET / HTTP/1.1\r\n\r\n",
    "P-01 TLS": bytes.fromhex("160301020001"),
    "P-01 HL7": b"\x0bMSH|",
    "P-01 SSH": b"SSH-2.0-",
    "P-01 one byte": b"\x00",
    "P-04 length 0": framed(1, b""),
    "P-04 length 1": framed(1, b"\0"),
    "P-04 length 67": framed(1, bytes(67)),
    "P-05 length FFFFFFFF": framed(1, b"", 0xFFFFFFFF),
    "P-05 over the limit": framed(1, b"", 262145),
    "A-10 A-ASSOCIATE-AC": AC,
    "A-10 A-ASSOCIATE-RJ": framed(3, b"\0\1\1\1"),
    "P-DATA first": framed(4, pdv(1, 3, b"ab")),
    "release first": RELEASE_RQ,
    "release response first": framed(6, bytes(4)),
    "I-02 item past the end": rq(APPLICATION, item(0x20, b"\1\0\0\0", 500)),
    "I-03 sub-item past its parent": rq(
        APPLICATION, proposed(1, item(0x30, VERIFICATION), item(0x40, IMPLICIT, 40)), USER
    ),
    "I-04 stray bytes": rq(APPLICATION, CONTEXT, USER, b"\1\2\3"),
    "I-08 two application contexts": rq(APPLICATION, APPLICATION, CONTEXT, USER),
    "I-08 two user informations": rq(APPLICATION, CONTEXT, USER, USER),
    "I-11 duplicate context IDs": rq(APPLICATION, CONTEXT, CONTEXT, USER),
    "I-12 129 contexts": rq(APPLICATION, *(proposed(n) for n in range(1, 130)), USER),
    "context item of 3 bytes": rq(APPLICATION, item(0x20, b"\1\0\0"), USER),
    "U-05 maximum length of 3 bytes": user(item(0x51, bytes(3))),
    "U-05 maximum length of 5 bytes": user(item(0x51, bytes(5))),
    "U-05 maximum length of 0 bytes": user(item(0x51, b"")),
    "operations window of 3 bytes": user(item(0x53, bytes(3))),
    "U-10 role UID past its item": user(item(0x54, b"\0\x20" + VERIFICATION + b"\1\1")),
    "U-10 role without roles": user(item(0x54, counted(VERIFICATION))),
    "U-11 extended negotiation UID past its item": user(item(0x56, b"\0\x20" + VERIFICATION)),
    "U-12 service class UID past its item": user(
        item(0x57, counted(VERIFICATION) + b"\0\x20" + VERIFICATION)
    ),
    "U-12 related list past its item": user(
        item(0x57, counted(VERIFICATION) * 2 + b"\0\x20" + counted(VERIFICATION))
    ),
    "U-12 related UID past its list": user(
        item(0x57, counted(VERIFICATION) * 2 + counted(b"\0\x20" + VERIFICATION))
    ),
    "U-14 primary past its item": user(item(0x58, b"\1\0\xff\xffname")),
    "U-14 secondary past its item": user(item(0x58, b"\2\0" + counted(b"name") + b"\0\5pass")),
    "U-14 no secondary length": user(item(0x58, b"\1\0" + counted(b"name"))),
    "U-15 two identities": user(item(0x58, b"\1\0" + counted(b"a") + counted(b"")) * 2),
    "U-18 513 sub-items": user(item(0x7F, b"") * 513),
}


@pytest.mark.parametrize("feed", feeds(b""))
@pytest.mark.parametrize("case", ASSOCIATION_FAULTS)
def test_before_the_association(case: str, feed: str) -> None:
    core, events = run(awaiting_request, feeds(ASSOCIATION_FAULTS[case])[feed])
    assert [type(event) for event in events] == [ProtocolViolation]
    assert core.data_to_send() == [USER_ABORT]
    assert core.state is State.STA13
    assert core.next_deadline() == 6.0, "ARTIM: the close"


REJECTIONS = {
    "A-05 version 0": (rq(APPLICATION, CONTEXT, USER, head=fixed(0)), (1, 2, 2)),
    "A-05 version 2": (rq(APPLICATION, CONTEXT, USER, head=fixed(2)), (1, 2, 2)),
    "I-10 context ID 0": (rq(APPLICATION, proposed(0), USER), (1, 2, 1)),
    "I-10 context ID 2": (rq(APPLICATION, CONTEXT, proposed(2), USER), (1, 2, 1)),
    "U-03 maximum length 1": (user(item(0x51, b"\0\0\0\1")), (1, 2, 1)),
    "U-03 maximum length 7": (user(item(0x51, b"\0\0\0\7")), (1, 2, 1)),
}


@pytest.mark.parametrize("case", REJECTIONS)
def test_what_the_provider_itself_rejects(case: str) -> None:
    data, numbers = REJECTIONS[case]
    for pieces in list(feeds(data).values())[:2]:
        core, events = run(awaiting_request, pieces)
        assert events == [AssociateRejection(AAssociateRJ(*numbers))]
        assert core.data_to_send() == [framed(3, bytes((0, *numbers)))]
        assert core.state is State.STA13
        assert core.next_deadline() == 6.0


POLICY = Policy({"1.2.840.10008.1.1": ("1.2.840.10008.1.2",)})
LONG_IDENTITY = item(0x58, b"\1\0" + counted(bytes(16384)) + counted(b"x"))
REFUSALS = {
    "I-06 no application context": (rq(CONTEXT, USER), (1, 1, 2)),
    "I-07 another application context": (rq(item(0x10, b"1.2.3"), CONTEXT, USER), (1, 1, 2)),
    "I-09 no presentation context": (rq(APPLICATION, USER), (1, 1, 1)),
    "U-14 identity over the limit": (user(MAXIMUM_LENGTH, LONG_IDENTITY), (1, 1, 1)),
}


def indicated(data: bytes) -> AAssociateRQ:
    for pieces in list(feeds(data).values())[:2]:
        core, [event] = run(awaiting_request, pieces)
        assert isinstance(event, AssociateIndication)
        assert core.state is State.STA3
        request = event.request
    return request


@pytest.mark.parametrize("case", REFUSALS)
def test_what_negotiation_rejects(case: str) -> None:
    data, numbers = REFUSALS[case]
    assert answer(indicated(data), POLICY) == AAssociateRJ(*numbers)


ABSTRACT, TRANSFER = item(0x30, VERIFICATION), item(0x40, IMPLICIT)
RESULTS = {
    "P-03 reserved byte of the PDU": (framed(1, rq()[6:], second=0xFF), 0),
    "A-03 titles of spaces": (rq(APPLICATION, CONTEXT, USER, head=fixed(called=b"", calling=b"")), 0),
    "A-04 titles with NULs": (rq(APPLICATION, CONTEXT, USER, head=fixed(called=b" US\0\0")), 0),
    "A-05 version 3": (rq(APPLICATION, CONTEXT, USER, head=fixed(3)), 0),
    "A-05 version FFFF": (rq(APPLICATION, CONTEXT, USER, head=fixed(0xFFFF)), 0),
    "A-07 reserved 32 bytes": (rq(APPLICATION, CONTEXT, USER, head=fixed(reserved=b"\xaa" * 32)), 0),
    "I-01 unknown item": (rq(APPLICATION, item(0x7F, b"whatever"), CONTEXT, USER), 0),
    "I-04 padding": (rq(APPLICATION, CONTEXT, USER, bytes(3)), 0),
    "I-05 items in another order": (rq(USER, CONTEXT, APPLICATION), 0),
    "I-13 no abstract syntax": (rq(APPLICATION, proposed(1, TRANSFER), USER), 3),
    "I-13 two abstract syntaxes": (rq(APPLICATION, proposed(1, ABSTRACT, ABSTRACT, TRANSFER), USER), 3),
    "I-14 no transfer syntax": (rq(APPLICATION, proposed(1, ABSTRACT), USER), 4),
    "I-15 unknown abstract syntax": (rq(APPLICATION, proposed(1, item(0x30, b"1.2.3"), TRANSFER), USER), 3),
    "I-16 no common transfer syntax": (rq(APPLICATION, proposed(1, ABSTRACT, item(0x40, b"1.2")), USER), 4),
    "I-17 10,000 transfer syntaxes": (
        rq(APPLICATION, proposed(1, ABSTRACT, TRANSFER, item(0x40, b"1") * 10000), USER),
        0,
    ),
    "I-17 ours is the 65th": (
        rq(APPLICATION, proposed(1, ABSTRACT, item(0x40, b"1") * 64, TRANSFER), USER),
        4,
    ),
    "I-18 padded UIDs": (
        rq(APPLICATION, proposed(1, item(0x30, VERIFICATION + b"\0"), item(0x40, IMPLICIT + b" ")), USER),
        0,
    ),
    "I-18 empty abstract syntax": (rq(APPLICATION, proposed(1, item(0x30, b""), TRANSFER), USER), 3),
    "I-18 UID of bytes": (rq(APPLICATION, proposed(1, ABSTRACT, item(0x40, b"\xff" * 65)), USER), 4),
    "U-01 no user information": (rq(APPLICATION, CONTEXT), 0),
    "U-02 maximum length 0": (user(item(0x51, bytes(4))), 0),
    "U-04 maximum length 8": (user(item(0x51, b"\0\0\0\x08")), 0),
    "U-06 no implementation class": (user(MAXIMUM_LENGTH), 0),
    "U-06 empty implementation class": (user(item(0x52, b"")), 0),
    "U-07 long version name": (user(item(0x55, b"x" * 300)), 0),
    "U-08 unknown sub-item": (user(item(0x5A, b"whatever"), MAXIMUM_LENGTH), 0),
    "U-09 window 0/0": (user(item(0x53, bytes(4))), 0),
    "U-09 window FFFF": (user(item(0x53, b"\xff" * 4)), 0),
    "U-10 role for nothing proposed": (user(item(0x54, counted(b"1.2.3") + b"\1\1")), 0),
    "U-13 identity type 77": (user(item(0x58, b"\x4d\1" + counted(b"name") + counted(b""))), 0),
    "U-18 512 sub-items": (user(item(0x7F, b"") * 512), 0),
}


@pytest.mark.parametrize("case", RESULTS)
def test_what_is_answered(case: str) -> None:
    data, result = RESULTS[case]
    replied = answer(indicated(data), POLICY)
    assert not isinstance(replied, AAssociateRJ)
    accept, negotiated = replied
    assert [context.result for context in accept.presentation_contexts] == [result]
    assert list(negotiated.contexts) == ([1] if result == 0 else [])
    encoded = accept.encode()
    assert encoded[10:74] == data[10:74], "titles and reserved bytes as received (Table 9-17)"


REQUESTOR_FAULTS = {
    "P-10 rejection of length 3": (framed(3, bytes(3)), INVALID),
    "P-10 rejection of length 5": (framed(3, bytes(5)), INVALID),
    "P-04 acceptance of length 67": (framed(2, bytes(67)), INVALID),
    "P-05 acceptance over the limit": (framed(2, b"", 262145), INVALID),
    "I-02": (ac(accepted(1, 0, item(0x40, IMPLICIT)), item(0x50, b"", 9)), INVALID),
    "I-03": (ac(accepted(1, 0, item(0x40, IMPLICIT, 50)), USER), INVALID),
    "I-11": (ac(accepted(1, 0, TRANSFER), accepted(1, 3, TRANSFER), USER), INVALID),
    "U-05": (ac(accepted(1, 0, TRANSFER), item(0x50, item(0x51, bytes(3)))), INVALID),
    "identity response past its item": (ac(item(0x50, item(0x59, b"\0\5ok"))), INVALID),
    "request while awaiting the answer": (rq(), UNEXPECTED),
    "P-DATA while awaiting the answer": (framed(4, pdv(1, 3, b"ab")), UNEXPECTED),
    "release while awaiting the answer": (RELEASE_RQ, UNEXPECTED),
    "P-02": (b"\x08", UNRECOGNIZED),
}


@pytest.mark.parametrize("feed", feeds(b""))
@pytest.mark.parametrize("case", REQUESTOR_FAULTS)
def test_faults_of_an_acceptor(case: str, feed: str) -> None:
    data, sent = REQUESTOR_FAULTS[case]
    core, events = run(awaiting_accept, feeds(data)[feed])
    assert [type(event) for event in events] == [ProtocolViolation]
    assert core.data_to_send() == [sent]
    assert core.state is State.STA13


ACCEPTANCES = {
    "A-08 other titles": framed(2, fixed(called=b"x", calling=b"\xff") + AC[74:]),
    "P-03": framed(2, AC[6:], second=7),
    "I-21 rejected, no transfer syntax": ac(accepted(1, 3), USER),
    "I-21 rejected, garbage behind": ac(accepted(1, 4, b"\x40\0\xff\xff"), USER),
    "no application context": framed(2, fixed() + AC[74 + 25 :]),
}


@pytest.mark.parametrize("case", ACCEPTANCES)
def test_acceptances_that_are_taken(case: str) -> None:
    for pieces in list(feeds(ACCEPTANCES[case]).values())[:2]:
        core, events = run(awaiting_accept, pieces)
        assert [type(event) for event in events] == [AssociateConfirmation]
        assert core.state is State.STA6


@pytest.mark.parametrize("numbers", [(1, 1, 7), (2, 3, 2), (0, 9, 200)])
def test_p_11_any_rejection_is_one(numbers: tuple[int, int, int]) -> None:
    for pieces in feeds(framed(3, bytes((0xFF, *numbers)))).values():
        core, events = run(awaiting_accept, pieces)
        assert events == [AssociateRejection(AAssociateRJ(*numbers))]
        assert core.wants_close
        assert core.data_to_send() == []


DATA_FAULTS = {
    "P-02 type 00": (b"\x00", UNRECOGNIZED),
    "P-02 type 08": (b"\x08", UNRECOGNIZED),
    "P-02 type FF": (b"\xff", UNRECOGNIZED),
    "P-06 over what we announced": (framed(4, b"", 16385), INVALID),
    "P-07 length 0": (framed(4, b""), INVALID),
    "P-07 length 5": (framed(4, bytes(5)), INVALID),
    "P-08 release of length 0": (framed(5, b""), INVALID),
    "P-08 release of length 3": (framed(5, bytes(3)), INVALID),
    "P-08 release of length 5": (framed(5, bytes(5)), INVALID),
    "P-08 release of 1 GiB": (framed(5, b"", 1 << 30), INVALID),
    "P-08 release response of length 5": (framed(6, bytes(5)), INVALID),
    "A-09 second request": (rq(), UNEXPECTED),
    "acceptance": (AC, UNEXPECTED),
    "release response": (framed(6, bytes(4)), UNEXPECTED),
    "V-02 PDV length 0": (framed(4, bytes(4) + b"ab"), INVALID),
    "V-02 PDV length 1": (framed(4, b"\0\0\0\1ab"), INVALID),
    "V-03 PDV past its PDU": (framed(4, pdv(1, 0, b"abcd", 7)), INVALID),
    "V-03 PDV length FFFFFFFF": (framed(4, pdv(1, 0, b"abcd", 0xFFFFFFFF)), INVALID),
    "V-04 a rest of 4 bytes": (framed(4, pdv(1, 0, b"ab") + bytes(4)), INVALID),
    "V-04 a rest of 1 byte": (framed(4, pdv(1, 0, b"ab") + bytes(1)), INVALID),
    "V-05 unknown context": (framed(4, pdv(3, 3, b"abcd")), INVALID),
    "V-05 even context": (framed(4, pdv(2, 3, b"abcd")), INVALID),
    "V-05 unknown context, empty fragment": (framed(4, pdv(0, 2, b"")), INVALID),
    "V-13 1001 empty fragments": (framed(4, pdv(1, 0, b"")) * 1001, INVALID),
}


@pytest.mark.parametrize("feed", feeds(b""))
@pytest.mark.parametrize("case", DATA_FAULTS)
def test_during_the_association(case: str, feed: str) -> None:
    data, sent = DATA_FAULTS[case]
    core, events = run(established, feeds(data)[feed])
    violations = [event for event in events if not isinstance(event, PDataFragment)]
    assert [type(event) for event in violations] == [ProtocolViolation]
    assert core.data_to_send() == [sent]
    assert core.state is State.STA13


DATA_TAKEN = {
    "P-03 reserved byte": (framed(4, pdv(1, 3, b"abcd"), second=0x55), [(True, b"abcd", True)]),
    "V-06 other bits of the control header": (framed(4, pdv(1, 0xFF, b"abcd")), [(True, b"abcd", True)]),
    "V-10, V-11 several messages in one PDU": (
        framed(4, pdv(1, 3, b"ab") + pdv(1, 2, b"cd") + pdv(1, 3, b"ef")),
        [(True, b"ab", True), (False, b"cd", True), (True, b"ef", True)],
    ),
    "V-12 odd length": (framed(4, pdv(1, 2, b"abc")), [(False, b"abc", True)]),
    "quirk 15 command in pieces": (
        framed(4, pdv(1, 1, b"ab")) + framed(4, pdv(1, 1, b"cd") + pdv(1, 3, b"e")),
        [(True, b"abcde", True)],
    ),
    "quirk 16 empty last fragment": (
        framed(4, pdv(1, 0, b"ab")) + framed(4, pdv(1, 2, b"")),
        [(False, b"ab", True)],
    ),
    "P-06 exactly what we announced": (
        framed(4, pdv(1, 2, bytes(16384 - 6))),
        [(False, bytes(16384 - 6), True)],
    ),
    "V-19 one byte a PDU": (
        framed(4, pdv(1, 0, b"x")) * 200 + framed(4, pdv(1, 2, b"y")),
        [(False, b"x" * 200 + b"y", True)],
    ),
}


@pytest.mark.parametrize("case", DATA_TAKEN)
def test_data_that_is_taken(case: str) -> None:
    data, expected = DATA_TAKEN[case]
    for pieces in list(feeds(data).values())[:2]:
        core, events = run(established, pieces)
        said: list[tuple[bool, bytes, bool]] = []
        for event in events:
            assert isinstance(event, PDataFragment)
            payload = b"".join(event.views)
            if said and not said[-1][2]:
                payload = said.pop()[1] + payload
            said.append((event.is_command, payload, event.is_last))
        assert said == expected
        assert core.state is State.STA6
        assert core.data_to_send() == []


@pytest.mark.parametrize("length", [0, 1, 3, 4, 5, 1 << 30])
@pytest.mark.parametrize("make", [awaiting_accept, established])
def test_p_09_an_abort_of_any_length(make: Callable[[], UpperLayer], length: int) -> None:
    core, events = run(make, [framed(7, b"\0\0\2\6"[:length], length), b"x" * 50])
    assert events == [AbortIndication(2, 6) if length >= 4 else AbortIndication(0, 0)]
    assert core.wants_close
    assert core.data_to_send() == [], "an A-ABORT is never answered with one"


@pytest.mark.parametrize("numbers", [(0, 0), (1, 0), (2, 5), (9, 99)])
def test_p_12_reserved_numbers_of_an_abort(numbers: tuple[int, int]) -> None:
    _, events = run(established, [abort(*numbers)])
    assert events == [AbortIndication(*numbers)]


def test_an_abort_before_the_association_is_silent() -> None:
    for pieces in feeds(ABORT).values():
        core, events = run(awaiting_request, pieces)
        assert (events, core.data_to_send(), core.wants_close) == ([], [], True)


@pytest.mark.parametrize("cut", [0, 3, 6, 50])
def test_p_14_connection_lost(cut: int) -> None:
    core, _ = run(awaiting_request, [rq()[:cut]])
    assert core.connection_closed(2.0) == [], "a health check reaches nobody"
    core, _ = run(awaiting_accept, [AC[:cut]])
    assert [type(event) for event in core.connection_closed(2.0)] == [TransportClosed]
    core, _ = run(established, [framed(4, pdv(1, 0, bytes(100)))[:cut]])
    assert [type(event) for event in core.connection_closed(2.0)] == [TransportClosed]
    assert core.connection_closed(3.0) == []


@pytest.mark.parametrize("behind", [framed(4, pdv(1, 3, b"ab")), framed(4, pdv(1, 3, b"ab")) + RELEASE_RQ])
def test_p_16_p_17_nothing_may_follow_a_request_at_once(behind: bytes) -> None:
    for pieces in list(feeds(rq() + behind).values())[:2]:
        core, events = run(awaiting_request, pieces)
        assert [type(event) for event in events] == [AssociateIndication, ProtocolViolation]
        assert core.data_to_send() == [UNEXPECTED]
        assert not core.accept(ACCEPT, 2.0)


def test_v_17_release_inside_a_message() -> None:
    core, events = run(established, [framed(4, pdv(1, 0, b"abcd")) + RELEASE_RQ])
    assert [type(event) for event in events] == [PDataFragment, ReleaseIndication]
    assert core.state is State.STA8
    assert core.next_deadline() is None, "nothing more is owed to us"


def test_what_came_before_a_fault_is_delivered() -> None:
    core, events = run(established, [framed(4, pdv(1, 3, b"good")) + b"\xff"])
    assert [type(event) for event in events] == [PDataFragment, ProtocolViolation]
    assert core.data_to_send() == [UNRECOGNIZED]
