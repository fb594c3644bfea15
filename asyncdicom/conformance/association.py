"""Tables A and I: the fixed part of the A-ASSOCIATE PDUs, their items, presentation contexts."""

from __future__ import annotations

from .build import (
    APPLICATION,
    CONTEXT,
    CT,
    EXPLICIT,
    IMPLICIT,
    PROCEDURAL_EVENT_LOGGING,
    RELEASE_RP,
    RELEASE_RQ,
    USER,
    VERIFICATION,
    abstract,
    ac,
    echo,
    fixed,
    item,
    pdu,
    proposed,
    result,
    rq,
    rq_context,
    transfer,
)
from .case import (
    ABORTED,
    ACCEPTED,
    AWAITING_ACCEPT,
    AWAITING_REQUEST,
    ESTABLISHED,
    NOT_ACCEPTED,
    Build,
    Case,
    Facts,
    Received,
)

_CALLED = "PS3.8 Table 9-21: called AE title not recognized, by those who check it"
_CALLING = "PS3.8 Table 9-21: calling AE title not recognized, by those who check it"
_SPACES = "PS3.8 Table 9-11: 16 spaces are not used as an AE title"
_TITLE = "PS3.5 6.2, AE: spaces around a title mean nothing; NULs at its end are seen in the field"
_BAD_TITLE = "PS3.5 6.2, AE: no backslash, no control character, nothing beyond ASCII"
_VERSION = "PS3.8 Table 9-11: of the protocol version only bit 0 is tested"
_SECOND = "PS3.8 Table 9-10, Sta6: Evt3, Evt4 and Evt6 are AA-8"
_FIRST = "PS3.8 Table 9-10, Sta2: whatever is not an A-ASSOCIATE-RQ is AA-1"

_PAST_THE_END = "PS3.8 9.3.1: an item ends within what holds it"
_NAME = "PS3.8 7.1.1.2 and Table 9-21: application context name not supported"
_ONE_NAME = "PS3.8 9.3.2: one Application Context item"
_ODD = "PS3.8 9.3.2.2: context IDs are odd numbers from 1 to 255"
_UNIQUE = "PS3.8 7.1.1.13: each presentation context has an ID of its own"
_ONE_ABSTRACT = "PS3.8 9.3.2.2: one Abstract Syntax in a presentation context, one or more Transfer Syntaxes"
_RESULT = "PS3.8 Table 9-18: 3 is for the abstract syntax, 4 for the transfer syntaxes"
_PADDING = "PS3.8 Annex F: UIDs are not padded here; some peers do"
_NO_UID = "PS3.5 9.1: up to 64 characters, digits and dots"
_NOT_PROPOSED = "PS3.8 9.3.3.2: the answer to a proposed context, with one of its transfer syntaxes"
_NOT_SIGNIFICANT = "PS3.8 Table 9-18: the transfer syntax of a rejected context is not significant"
_ALL_REJECTED = "PS3.8 7.1.1.14: an association without an accepted context is of no use, but it stands"

_REJECTED_CONTEXT = "accept 0 [1-4], goes on | abort * * | reject * * *"


def _shifted_titles(facts: Facts) -> bytes | None:
    called = b" " + facts.called.strip()
    return None if len(called) > 15 else rq(head=fixed(called=called + b"\0"))


def _echoed(received: Received) -> str:
    """PS3.8 Table 9-17: the titles and the reserved 32 bytes come back as they were sent."""
    body = received[0][1]
    return "" if body[36:68] == b"\xaa" * 32 else "the reserved 32 bytes were not sent back as received"


def _accept(facts: Facts, *others: bytes, head: bytes | None = None) -> bytes:
    """An A-ASSOCIATE-AC for the first context, with further answers."""
    context_id, _, syntax = facts.contexts[0]
    return ac(result(context_id, 0, transfer(syntax)), *others, USER, head=head)


def _with_other_titles(facts: Facts) -> bytes:
    return _accept(facts, head=fixed(called=b"SOMEBODY", calling=b"SOMEBODY ELSE", reserved=b"\xaa" * 32))


def _of_others(*sub_items: bytes, reason: int = 3) -> Build:
    """Accept the first context and answer the others with these sub-items."""

    def build(facts: Facts) -> bytes | None:
        others = [result(context_id, reason, *sub_items) for context_id, _, _ in facts.contexts[1:]]
        return _accept(facts, *others) if others else None

    return build


def _not_proposed(facts: Facts) -> bytes:
    free = next(number for number in range(255, 0, -2) if number not in {c[0] for c in facts.contexts})
    return _accept(facts, result(free, 0, transfer(IMPLICIT)))


def _first_with(*sub_items: bytes, reason: int = 0) -> Build:
    def build(facts: Facts) -> bytes:
        return ac(*(result(context_id, reason, *sub_items) for context_id, _, _ in facts.contexts), USER)

    return build


def _without_the_others(facts: Facts) -> bytes | None:
    return _accept(facts) if len(facts.contexts) > 1 else None


_SYNTAXES_129 = (proposed((2 * number + 1) % 256) for number in range(129))

# fmt: off
CASES = (
    Case("A-01", "a called AE title that nobody has", AWAITING_REQUEST,
         rq(head=fixed(called=b"NOBODY HAS THIS")), f"reject 1 1 7 | {ACCEPTED}", "reject 1 * *", _CALLED),
    Case("A-02", "a calling AE title that nobody knows", AWAITING_REQUEST,
         rq(head=fixed(calling=b"NOBODY KNOWS ME")), f"reject 1 1 3 | {ACCEPTED}", "reject 1 * *", _CALLING),
    Case("A-03a", "called AE title of 16 spaces", AWAITING_REQUEST, rq(head=fixed(called=b"")),
         "reject 1 1 7", f"{NOT_ACCEPTED} | {ACCEPTED}", _SPACES),
    Case("A-03b", "calling AE title of 16 spaces", AWAITING_REQUEST, rq(head=fixed(calling=b"")),
         "reject 1 1 3", f"{NOT_ACCEPTED} | {ACCEPTED}", _SPACES),
    Case("A-04", "called AE title behind a space, with a NUL at its end", AWAITING_REQUEST, _shifted_titles,
         ACCEPTED, "reject 1 1 7", _TITLE),
    Case("A-05a", "protocol version 0", AWAITING_REQUEST, rq(head=fixed(0)), "reject 1 2 2", NOT_ACCEPTED,
         _VERSION),
    Case("A-05b", "protocol version 2", AWAITING_REQUEST, rq(head=fixed(2)), "reject 1 2 2", NOT_ACCEPTED,
         _VERSION),
    Case("A-05c", "protocol version 3", AWAITING_REQUEST, rq(head=fixed(3)), ACCEPTED, "", _VERSION),
    Case("A-05d", "protocol version FFFFH", AWAITING_REQUEST, rq(head=fixed(0xFFFF)), ACCEPTED, "", _VERSION),
    Case("A-06a", "calling AE title with a line feed", AWAITING_REQUEST, rq(head=fixed(calling=b"A\nB")),
         "reject 1 1 3", f"{NOT_ACCEPTED} | {ACCEPTED}", _BAD_TITLE),
    Case("A-06b", "calling AE title with a backslash", AWAITING_REQUEST, rq(head=fixed(calling=b"A\\B")),
         "reject 1 1 3", f"{NOT_ACCEPTED} | {ACCEPTED}", _BAD_TITLE),
    Case("A-06c", "calling AE title beyond ASCII", AWAITING_REQUEST, rq(head=fixed(calling=b"\xc4\xd6\xff")),
         "reject 1 1 3", f"{NOT_ACCEPTED} | {ACCEPTED}", _BAD_TITLE),
    Case("A-06d", "calling AE title that is a path", AWAITING_REQUEST, rq(head=fixed(calling=b"../../etc/x")),
         f"reject 1 1 3 | {ACCEPTED}", NOT_ACCEPTED,
         "PS3.5 6.2, AE allows it; a title is never part of a path"),
    Case("A-07", "the reserved 32 bytes not 0", AWAITING_REQUEST, rq(head=fixed(reserved=b"\xaa" * 32)),
         ACCEPTED, "", "PS3.8 Tables 9-11 and 9-17: not tested, and sent back", check=_echoed),
    Case("A-08", "A-ASSOCIATE-AC with other AE titles and reserved bytes", AWAITING_ACCEPT,
         _with_other_titles, "release", "", "PS3.8 Table 9-17: not tested"),
    Case("A-09a", "a second A-ASSOCIATE-RQ", ESTABLISHED, rq(), "abort 2 2", ABORTED, _SECOND),
    Case("A-09b", "an A-ASSOCIATE-AC to an acceptor", ESTABLISHED, ac(result(1, 0, transfer(IMPLICIT)), USER),
         "abort 2 2", ABORTED, _SECOND),
    Case("A-09c", "an A-RELEASE-RP that nobody asked for", ESTABLISHED, RELEASE_RP, "abort 2 2", ABORTED,
         "PS3.8 Table 9-10, Sta6: Evt13 is AA-8"),
    Case("A-10a", "A-ASSOCIATE-AC first", AWAITING_REQUEST, ac(result(1, 0, transfer(IMPLICIT)), USER),
         "abort 0 0", ABORTED, _FIRST),
    Case("A-10b", "A-ASSOCIATE-RJ first", AWAITING_REQUEST, pdu(3, b"\0\1\1\1"), "abort 0 0", ABORTED,
         _FIRST),
    Case("A-10c", "P-DATA-TF first", AWAITING_REQUEST, echo(), "abort 0 0", ABORTED, _FIRST),
    Case("A-10d", "A-RELEASE-RQ first", AWAITING_REQUEST, RELEASE_RQ, "abort 0 0", ABORTED, _FIRST),
    Case("A-10e", "A-RELEASE-RP first", AWAITING_REQUEST, RELEASE_RP, "abort 0 0", ABORTED, _FIRST),
    # Items.
    Case("I-01", "an unknown item", AWAITING_REQUEST, rq(APPLICATION, item(0x7F, b"whatever"), CONTEXT, USER),
         ACCEPTED, "", "PS3.8 9.3.1: items of unknown types are skipped"),
    Case("I-02a", "an item that ends behind the PDU", AWAITING_REQUEST,
         rq(APPLICATION, CONTEXT, item(0x50, b"\x51\0\0\4", 500)), "abort 0 0", NOT_ACCEPTED, _PAST_THE_END),
    Case("I-02b", "a context that ends behind the PDU", AWAITING_REQUEST,
         rq(APPLICATION, item(0x20, b"\1\0\0\0", 65535)), "abort 0 0", NOT_ACCEPTED, _PAST_THE_END),
    Case("I-03", "a sub-item that ends behind its item", AWAITING_REQUEST,
         rq(APPLICATION, proposed(1, abstract(VERIFICATION), item(0x40, IMPLICIT, 40)), USER), "abort 0 0",
         NOT_ACCEPTED, _PAST_THE_END),
    Case("I-04a", "three stray bytes behind the last item", AWAITING_REQUEST,
         rq(APPLICATION, CONTEXT, USER, b"\1\2\3"), "abort 0 0", f"{NOT_ACCEPTED} | {ACCEPTED}",
         _PAST_THE_END),
    Case("I-04b", "three zeros behind the last item", AWAITING_REQUEST,
         rq(APPLICATION, CONTEXT, USER, bytes(3)), f"abort 0 0 | {ACCEPTED}", NOT_ACCEPTED, _PAST_THE_END),
    Case("I-05", "items in descending order", AWAITING_REQUEST, rq(USER, CONTEXT, APPLICATION), ACCEPTED,
         NOT_ACCEPTED, "PS3.8 9.3.1 wants them ascending; nothing depends on it"),
    Case("I-06", "no Application Context item", AWAITING_REQUEST, rq(CONTEXT, USER), "reject 1 1 2",
         NOT_ACCEPTED, _NAME),
    Case("I-07", "another application context name", AWAITING_REQUEST,
         rq(item(0x10, b"1.2.3"), CONTEXT, USER), "reject 1 1 2", NOT_ACCEPTED, _NAME),
    Case("I-08", "two Application Context items", AWAITING_REQUEST,
         rq(APPLICATION, APPLICATION, CONTEXT, USER), "abort 0 0", f"{NOT_ACCEPTED} | {ACCEPTED}", _ONE_NAME),
    Case("I-09", "no presentation context", AWAITING_REQUEST, rq(APPLICATION, USER), "reject 1 1 1",
         f"{NOT_ACCEPTED} | accept, goes on", "PS3.8 Table 9-11: one or more"),
    Case("I-10a", "a context with an even ID", AWAITING_REQUEST, rq(APPLICATION, CONTEXT, proposed(2), USER),
         "reject 1 2 1", f"{NOT_ACCEPTED} | accept 0*, goes on", _ODD),
    Case("I-10b", "a context with the ID 0", AWAITING_REQUEST, rq(APPLICATION, proposed(0), CONTEXT, USER),
         "reject 1 2 1", f"{NOT_ACCEPTED} | accept * 0, goes on | accept 0, goes on", _ODD),
    Case("I-11", "two contexts with the same ID", AWAITING_REQUEST,
         rq(APPLICATION, CONTEXT, proposed(1, abstract(CT), transfer(EXPLICIT)), USER), "abort 0 0",
         NOT_ACCEPTED, _UNIQUE),
    Case("I-12", "129 contexts", AWAITING_REQUEST, rq(APPLICATION, *_SYNTAXES_129, USER), "abort 0 0",
         NOT_ACCEPTED, _UNIQUE),
    Case("I-13a", "a context without abstract syntax", AWAITING_REQUEST, rq_context(transfer(IMPLICIT)),
         "accept 0 3, goes on", _REJECTED_CONTEXT, _ONE_ABSTRACT),
    Case("I-13b", "a context with two abstract syntaxes", AWAITING_REQUEST,
         rq_context(abstract(VERIFICATION), abstract(CT), transfer(IMPLICIT)), "accept 0 3, goes on",
         _REJECTED_CONTEXT, _ONE_ABSTRACT),
    Case("I-14", "a context without transfer syntax", AWAITING_REQUEST, rq_context(abstract(VERIFICATION)),
         "accept 0 4, goes on", _REJECTED_CONTEXT, _ONE_ABSTRACT),
    Case("I-15", "an abstract syntax that hardly anybody has", AWAITING_REQUEST,
         rq_context(abstract(PROCEDURAL_EVENT_LOGGING), transfer(IMPLICIT)), "accept 0 3, goes on",
         _REJECTED_CONTEXT, _RESULT),
    Case("I-16", "no transfer syntax that the acceptor could know", AWAITING_REQUEST,
         rq_context(abstract(VERIFICATION), transfer(b"1.2.3.4")), "accept 0 4, goes on", _REJECTED_CONTEXT,
         _RESULT),
    Case("I-17", "10,000 transfer syntaxes in one context", AWAITING_REQUEST,
         rq(APPLICATION, proposed(1, abstract(VERIFICATION), transfer(IMPLICIT), transfer(b"1") * 9999),
            USER),
         ACCEPTED, NOT_ACCEPTED, "PS3.8 9.3.2.2 sets no limit: bounded work, whatever the answer"),
    Case("I-18a", "UIDs with a NUL at their end", AWAITING_REQUEST,
         rq_context(abstract(VERIFICATION + b"\0"), transfer(IMPLICIT + b"\0")), "accept 0 0, goes on",
         _REJECTED_CONTEXT, _PADDING),
    Case("I-18b", "UIDs with a space at their end", AWAITING_REQUEST,
         rq_context(abstract(VERIFICATION + b" "), transfer(IMPLICIT + b" ")), "accept 0 0, goes on",
         _REJECTED_CONTEXT, _PADDING),
    Case("I-18c", "an empty abstract syntax", AWAITING_REQUEST, rq_context(abstract(b""), transfer(IMPLICIT)),
         "accept 0 3, goes on", _REJECTED_CONTEXT, _NO_UID),
    Case("I-18d", "a transfer syntax of 70 letters", AWAITING_REQUEST,
         rq_context(abstract(VERIFICATION), transfer(b"A" * 70)), "accept 0 4, goes on", _REJECTED_CONTEXT,
         _NO_UID),
    Case("I-18e", "a transfer syntax of 200 bytes FFH", AWAITING_REQUEST,
         rq_context(abstract(VERIFICATION), transfer(b"\xff" * 200)), "accept 0 4, goes on",
         _REJECTED_CONTEXT, _NO_UID),
    # The answer.
    Case("I-19", "a context accepted that was not proposed", AWAITING_ACCEPT, _not_proposed, "abort 2 6",
         "*abort * * | release", _NOT_PROPOSED),
    Case("I-20a", "a transfer syntax accepted that was not proposed", AWAITING_ACCEPT,
         _first_with(transfer(b"1.2.3.4")), "abort 2 6", "*abort * *", _NOT_PROPOSED),
    Case("I-20b", "an empty transfer syntax accepted", AWAITING_ACCEPT, _first_with(transfer(b"")),
         "abort 2 6", "*abort * *", _NOT_PROPOSED),
    Case("I-20c", "accepted without a transfer syntax", AWAITING_ACCEPT, _first_with(), "abort 2 6",
         "*abort * *", _NOT_PROPOSED),
    Case("I-21a", "a rejected context without a transfer syntax", AWAITING_ACCEPT, _of_others(), "release",
         "", _NOT_SIGNIFICANT),
    Case("I-21b", "a rejected context with rubbish for a transfer syntax", AWAITING_ACCEPT,
         _of_others(transfer(b"\xff" * 3), reason=4), "release", "", _NOT_SIGNIFICANT),
    Case("I-22", "contexts without an answer", AWAITING_ACCEPT, _without_the_others, "release", ABORTED,
         "PS3.8 9.3.3: an answer for each; what is missing is not accepted"),
    Case("I-23", "all contexts rejected", AWAITING_ACCEPT, _first_with(transfer(b""), reason=3),
         "release | abort 0 0", "closed | abort * *", _ALL_REJECTED),
)
# fmt: on
