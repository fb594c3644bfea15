"""A conversation is read, timed and told without a network; nothing that is said stops the reading."""

from __future__ import annotations

from helpers.peer import (
    CT,
    IDENTIFIER,
    RELEASE_RP,
    RELEASE_RQ,
    STUDY_CONTEXTS,
    cancel_rq,
    echo_rq,
    find_rq,
    fragments,
    message,
    store_rq,
)
from hypothesis import given
from hypothesis import strategies as st

from asyncdicom import STUDY_ROOT, VERIFICATION, PresentationContext, UserIdentity
from asyncdicom.dimse.messages import Command, CommandField, response_to
from asyncdicom.tracing.conversation import Conversation, Line, meaning
from asyncdicom.tracing.side import MAXIMUM_KEPT, Side
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from asyncdicom.ul.negotiation import ANY_TRANSFER_SYNTAX, Policy, answer, propose
from asyncdicom.ul.pdu import AAbort, AAssociateAC, AAssociateRJ, AAssociateRQ

CONTEXTS = [
    PresentationContext(VERIFICATION, (IMPLICIT_VR_LITTLE_ENDIAN,)),
    PresentationContext(CT, (EXPLICIT_VR_LITTLE_ENDIAN,)),
    *STUDY_CONTEXTS,
]
REQUEST = propose(
    CONTEXTS,
    called_ae_title="PACS\x1b[2J",
    calling_ae_title="WS1",
    user_identity=UserIdentity(2, b"ana", b"secret"),
)


def accepted(request: AAssociateRQ, *abstract_syntaxes: str) -> AAssociateAC:
    accept, *_ = answer(request, Policy(dict.fromkeys(abstract_syntaxes, ANY_TRANSFER_SYNTAX)))
    assert isinstance(accept, AAssociateAC)
    return accept


ACCEPT = accepted(REQUEST, VERIFICATION, CT, STUDY_ROOT.find)
ECHO, STORE, FIND = 1, 3, 5


def begun(**options: bool) -> Conversation:
    conversation = Conversation(0.0, **options)
    conversation.feed(True, REQUEST.encode(), 0.001)
    conversation.feed(False, ACCEPT.encode(), 0.002)
    return conversation


def texts(lines: list[Line]) -> list[str]:
    return [line.text for line in lines]


def test_an_association_is_told() -> None:
    conversation = Conversation(0.0)
    (asked,) = conversation.feed(True, REQUEST.encode(), 0.001)
    (accepted,) = conversation.feed(False, ACCEPT.encode(), 0.002)
    assert str(asked).startswith("    0.0010 -> A-ASSOCIATE-RQ WS1 calls PACS\\x1b[2J, 5 contexts")
    assert "a user identity of type 2" in asked.text
    assert "secret" not in asked.text
    assert "ana" not in asked.text
    assert str(accepted).startswith("    0.0020 <- A-ASSOCIATE-AC 3 of 5 contexts accepted")
    assert asked.fields["pdu"] == "A-ASSOCIATE-RQ"


def test_messages_and_how_long_the_answer_took() -> None:
    conversation = begun()
    (asked,) = conversation.feed(True, message(ECHO, echo_rq(7)), 1.0)
    (answered,) = conversation.feed(False, message(ECHO, response_to(echo_rq(7), 0)), 1.01)
    assert asked.text == "C-ECHO-RQ 7 Verification"
    assert answered.text == "C-ECHO-RSP 7 0x0000 (Success) after 10.0 ms"
    assert answered.fields["seconds"] == 0.01
    assert texts(conversation.feed(True, RELEASE_RQ, 1.02)) == ["A-RELEASE-RQ"]
    assert texts(conversation.feed(False, RELEASE_RP, 1.03)) == ["A-RELEASE-RP"]
    assert texts(conversation.closed(True, 1.04)) == ["the requestor closes"]
    assert texts(conversation.closed(None, 1.05)) == ["the connection is over"]
    summary = conversation.summary(1.05)
    assert summary[0].startswith("WS1 -> PACS\\x1b[2J: 1.050 s; ")
    assert summary[0].endswith("ended by A-RELEASE-RP")
    assert "  C-ECHO-RQ: 1 answers, 10.0 ms on average, 10.0 ms at most" in summary
    assert "  C-ECHO-RSP 0x0000 (Success): 1" in summary


def test_a_data_set_has_a_size_and_no_values() -> None:
    conversation = begun()
    data = IDENTIFIER + b"\x10\0\x10\0\x08\0\0\0DOE^JOHN"
    lines = texts(conversation.feed(True, message(FIND, find_rq(3), data), 1.0))
    assert lines == [
        "C-FIND-RQ 3 Study Root Query/Retrieve Information Model - FIND",
        f"data set of the C-FIND-RQ: {len(data)} bytes",
    ]
    pending = response_to(find_rq(3), 0xFF00, error_comment="JOHN")
    pending.has_data_set = True
    (answered, size) = texts(conversation.feed(False, message(FIND, pending, data), 1.1))
    assert answered.startswith("C-FIND-RSP 3 0xFF00")
    assert "JOHN" not in answered + size
    final = texts(conversation.feed(False, message(FIND, response_to(find_rq(3), 0)), 1.3))
    assert "after 200.0 ms" in final[0]


def test_values_are_told_when_asked_for() -> None:
    conversation = begun(values=True)
    data = IDENTIFIER + b"\x10\0\x10\0\x08\0\0\0DOE^JOHN" + b"\x10\0\x20\0\x2c\x01\0\0" + b"9" * 300
    lines = texts(conversation.feed(True, message(FIND, find_rq(3), data), 1.0))
    assert "    (0010,0010) PN 'DOE^JOHN'" in lines
    assert any(line.endswith("999'...") for line in lines)
    refused = response_to(find_rq(3), 0xA700, error_comment="full")
    assert "(full)" in texts(conversation.feed(False, message(FIND, refused), 1.1))[0]


def test_values_of_what_is_long_or_cannot_be_read() -> None:
    conversation = begun(values=True)
    many = b"".join(bytes((0x11, 0, n, 0x10)) + b"\x02\0\0\0A " for n in range(150))
    assert "    ..." in texts(conversation.feed(True, message(FIND, find_rq(1), many), 1.0))
    store = store_rq(2)
    deflated = propose(
        [PresentationContext(CT, ("1.2.840.10008.1.2.1.99",))], called_ae_title="A", calling_ae_title="B"
    )
    conversation = Conversation(0.0, values=True)
    conversation.feed(True, deflated.encode(), 0.0)
    conversation.feed(False, accepted(deflated, CT).encode(), 0.0)
    lines = texts(conversation.feed(True, message(1, store, b"no zlib at all"), 1.0))
    assert any("the data set cannot be read" in line for line in lines)


def test_only_the_beginning_of_a_data_set_is_kept() -> None:
    side = Side(keep=True)
    data = fragments(STORE, True, b"") and message(STORE, store_rq(), bytes(3 * MAXIMUM_KEPT))
    read = [each for start in range(0, len(data), 5000) for each in side.feed(data[start : start + 5000])]
    assert [type(each).__name__ for each in read] == ["MessageRead", "DataRead"]
    assert (read[1].length, len(read[1].head)) == (3 * MAXIMUM_KEPT, MAXIMUM_KEPT)  # type: ignore[union-attr]
    assert not side.in_message


# gaps


def test_what_a_gap_means() -> None:
    assert meaning(0.04, 0.0)[0] == "nagle"
    assert meaning(0.2, 0.0)[0] == "nagle"
    assert meaning(0.1, 0.0)[0] == "pause"
    assert meaning(1.0, 0.0)[0] == "pause"
    assert meaning(1.0, 0.9)[0] == "held"


def test_gaps_in_a_message_are_told_and_counted() -> None:
    conversation = begun()
    data = message(STORE, store_rq(), bytes(1000))
    now, notes = 1.0, []
    for start in range(0, len(data), 100):
        notes += [
            line for line in conversation.feed(True, data[start : start + 100], now) if line.requestor is None
        ]
        now += 0.04
    assert len(notes) == 5
    assert notes[0].text.startswith("nagle: 40 ms in the middle of a message; as long as an ACK is delayed")
    assert notes[4].text.endswith("(others of this kind are only counted)")
    chunks = -(-len(data) // 100)
    assert f"  nagle: {chunks - 1} times, {40 * (chunks - 1)} ms" in conversation.summary(now)


def test_who_does_not_take_it_is_named() -> None:
    conversation = begun()
    data = message(STORE, store_rq(), bytes(1000))
    conversation.feed(True, data[:500], 1.0)
    conversation.held(True, 2.9)
    lines = conversation.feed(True, data[500:], 4.0)
    assert "held: 3000 ms in the middle of a message; the acceptor took nothing" in texts(lines)[0]


def test_slow_answers_and_long_silence() -> None:
    conversation = begun()
    conversation.feed(True, message(ECHO, echo_rq(1)), 1.0)
    lines = texts(conversation.feed(False, message(ECHO, response_to(echo_rq(1), 0)), 3.5))
    assert lines[1] == "slow: the acceptor took 2.5 s for its C-ECHO-RSP"
    assert texts(conversation.feed(True, RELEASE_RQ, 60.0))[0] == "idle: nothing was said for 56.5 s"
    assert (
        texts(conversation.feed(False, RELEASE_RP, 62.0))[1]
        == "slow: the acceptor took 2.0 s for the A-RELEASE-RP"
    )


# nonsense


def test_a_stranger_is_told_once_and_passed_on() -> None:
    conversation = Conversation(0.0)
    lines = texts(conversation.feed(True, b"\x16\x03\x01\x02\0\1", 0.1))
    assert len(lines) == 1
    assert "is this TLS?" in lines[0]
    assert "passed on, and not read" in lines[0]
    assert conversation.feed(True, b"more", 5.0) == []
    assert "no association" in conversation.summary(6.0)[0]


def test_nonsense_in_messages_costs_itself() -> None:
    conversation = begun()
    lines = texts(conversation.feed(True, fragments(ECHO, False, b"data"), 1.0))
    assert lines == ["nonsense: from the requestor: Data Set fragment that no command announced"]
    assert conversation.feed(True, fragments(ECHO, False, b"more"), 1.1) == []
    assert texts(conversation.feed(True, message(ECHO, echo_rq(1)), 1.2)) == ["C-ECHO-RQ 1 Verification"]


def test_rules_of_messages() -> None:
    conversation = begun()
    assert (
        "answers nothing"
        in texts(conversation.feed(False, message(ECHO, response_to(echo_rq(9), 0)), 1.0))[1]
    )
    conversation.feed(True, message(ECHO, echo_rq(1)), 1.0)
    assert "Message ID 1 is in use" in texts(conversation.feed(True, message(ECHO, echo_rq(1)), 1.0))[1]
    assert "not accepted" in texts(conversation.feed(True, message(9, echo_rq(2)), 1.0))[1]
    assert texts(conversation.feed(True, message(ECHO, cancel_rq(1)), 1.0)) == ["C-CANCEL-RQ 1"]
    lines = texts(conversation.closed(None, 2.0, "reset"))
    assert lines == ["the connection is over: reset", "unanswered: not answered: 2 C-ECHO-RQ"]


def test_pdus_that_cannot_be_read_and_ends() -> None:
    conversation = Conversation(0.0)
    wrong = bytearray(REQUEST.encode())
    wrong[76:78] = b"\xff\xff"  # the length of the first item
    lines = texts(conversation.feed(True, bytes(wrong), 0.1))
    assert lines[0].startswith("nonsense: from the requestor: A-ASSOCIATE-RQ: ")
    assert lines[1] == "A-ASSOCIATE-RQ"
    rejected = texts(conversation.feed(False, AAssociateRJ(1, 1, 7).encode(), 0.2))
    assert rejected == [
        "A-ASSOCIATE-RJ association rejected permanently: called AE title not recognized (1/1/7)"
    ]
    aborted = texts(begun().feed(False, AAbort(2, 1).encode(), 0.2))
    assert aborted[0].startswith("A-ABORT association aborted")


def test_a_move_and_its_counters() -> None:
    conversation = begun()
    move = Command(
        CommandField.C_MOVE_RQ,
        message_id=4,
        affected_sop_class_uid=STUDY_ROOT.move,
        priority=0,
        move_destination="WS\x1b1",
        has_data_set=True,
    )
    asked = conversation.feed(True, message(7, move, IDENTIFIER), 1.0)
    assert asked[0].text.endswith("MOVE to WS\\x1b1")
    counted = response_to(
        move, 0xFF00, number_of_remaining_sub_operations=3, number_of_failed_sub_operations=1
    )
    assert "3 remaining, 1 failed" in texts(conversation.feed(False, message(7, counted), 1.1))[0]


def test_what_is_kept_is_bounded() -> None:
    conversation = begun()
    for number in range(1, 1500):
        conversation.feed(True, message(ECHO, echo_rq(number)), 1.0)
    for status in range(200):
        conversation.feed(False, message(ECHO, response_to(echo_rq(1499), 0xC000 + status)), 1.0)
    assert len(conversation._open) <= 1000
    assert any(line.startswith("  others: ") for line in conversation.summary(2.0))


chunks = st.lists(st.tuples(st.booleans(), st.binary(max_size=60), st.floats(0, 100)), max_size=20)
PARTS = [
    REQUEST.encode(),
    ACCEPT.encode(),
    message(ECHO, echo_rq(1)),
    message(STORE, store_rq(), b"12345678"),
    RELEASE_RQ,
]


@given(chunks, st.lists(st.sampled_from(PARTS), max_size=5), st.integers(1, 300))
def test_nothing_stops_the_reading(
    fed: list[tuple[bool, bytes, float]], parts: list[bytes], size: int
) -> None:
    conversation, now = Conversation(0.0, values=True), 0.0
    stream = b"".join(parts)
    for start in range(0, len(stream), size):
        conversation.feed(True, stream[start : start + size], now)
    for side, data, gap in fed:
        now += gap
        conversation.feed(side, data, now)
    conversation.closed(None, now)
    assert all(line.isprintable() for line in conversation.summary(now))
