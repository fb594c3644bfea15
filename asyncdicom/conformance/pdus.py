"""Table P: the framing of PDUs."""

from __future__ import annotations

from .build import (
    ABORT,
    COMMAND,
    DATA,
    LAST,
    RELEASE_RQ,
    STORE_CONTEXT,
    attributes,
    command,
    echo,
    element,
    implicit_data,
    message,
    p_data,
    pdu,
    pdv,
    rq,
    store,
    store_fields,
    uid,
)
from .case import (
    ABORTED,
    ACCEPTED,
    AWAITING_ACCEPT,
    AWAITING_REQUEST,
    ESTABLISHED,
    STORED,
    Case,
    Do,
    Facts,
)

_TYPE = "PS3.8 9.3.1 and Table 9-10: a first byte that is no PDU type is Evt19; before an association AA-1"
_LENGTH = "PS3.8 Table 9-11: the fixed part alone takes 68 bytes"
_HUGE = "PS3.8 9.3.2 sets no limit; a length is judged before anything is read or allocated for it"
_MAXIMUM = "PS3.8 D.1: no P-DATA-TF may be longer than the receiver announced"
_RELEASE = "PS3.8 9.3.6, 9.3.7: the length of both release PDUs is 4"
_ABORT = (
    "PS3.8 Table 9-10, Evt16: whatever else it says, an A-ABORT ends the association, and is not answered"
)
_STREAM = "PS3.8 9.1: PDUs are cut from a stream of bytes; TCP keeps no boundaries"
_TOO_EARLY = "PS3.8 Table 9-10, Sta3: P-DATA before the answer to the request is AA-8"
_DRAIN = "PS3.8 Table 9-10, Sta13: P-DATA after the end is ignored (AA-6)"


def _over_the_maximum(facts: Facts) -> bytes | None:
    """A good C-STORE, but for one PDU that is longer than the peer takes."""
    if not 512 <= facts.maximum_length <= 1 << 20:
        return None
    head = implicit_data(attributes("P-06a", x7FE00010=None))
    room = facts.maximum_length + 2 + facts.maximum_length % 2 - 6 - len(head) - 8
    data = head + element(0x7FE00010, bytes(room))
    return message(STORE_CONTEXT, command(store_fields(uid("P-06a")))) + p_data(
        pdv(STORE_CONTEXT, DATA | LAST, data)
    )


def _claims_too_much(facts: Facts) -> bytes | None:
    if not facts.maximum_length:
        return None
    return pdu(4, pdv(1, COMMAND, b"", 0x7FFFFFF0), 0x7FFFFFF4)


_STORE = store("P-13b")
_ECHO = echo()

# fmt: off
CASES = (
    Case("P-01a", "HTTP on the port", AWAITING_REQUEST, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
         "abort 0 0", "closed", _TYPE),
    Case("P-01b", "a TLS ClientHello on the plain port", AWAITING_REQUEST,
         bytes.fromhex("160301002f0100002b0303") + bytes(41), "abort 0 0", "closed", _TYPE),
    Case("P-01c", "HL7 on the port", AWAITING_REQUEST, b"\x0bMSH|^~\\&|A|B\r\x1c\r", "abort 0 0", "closed",
         _TYPE),
    Case("P-01d", "SSH on the port", AWAITING_REQUEST, b"SSH-2.0-OpenSSH_9.2\r\n", "abort 0 0", "closed",
         _TYPE),
    Case("P-02a", "PDU type 00H", ESTABLISHED, pdu(0x00, bytes(4)), "abort 2 1", ABORTED, _TYPE),
    Case("P-02b", "PDU type 08H", ESTABLISHED, pdu(0x08, bytes(4)), "abort 2 1", ABORTED, _TYPE),
    Case("P-02c", "PDU type FFH", ESTABLISHED, pdu(0xFF, bytes(4)), "abort 2 1", ABORTED, _TYPE),
    Case("P-03a", "reserved byte of the A-ASSOCIATE-RQ not 0", AWAITING_REQUEST, rq(second=0xFF), ACCEPTED,
         "", "PS3.8 9.3.1: reserved bytes are not tested"),
    Case("P-03b", "reserved byte of a P-DATA-TF not 0", ESTABLISHED, _ECHO[:1] + b"\x55" + _ECHO[2:], STORED,
         "", "PS3.8 9.3.1: reserved bytes are not tested"),
    Case("P-04a", "A-ASSOCIATE-RQ of length 0", AWAITING_REQUEST, pdu(1, b""), "abort 0 0", ABORTED, _LENGTH),
    Case("P-04b", "A-ASSOCIATE-RQ of length 1", AWAITING_REQUEST, pdu(1, b"\0"), "abort 0 0", ABORTED,
         _LENGTH),
    Case("P-04c", "A-ASSOCIATE-RQ of length 67", AWAITING_REQUEST, pdu(1, bytes(67)), "abort 0 0", ABORTED,
         _LENGTH),
    Case("P-05a", "A-ASSOCIATE-RQ that claims 4 GiB", AWAITING_REQUEST, pdu(1, b"", 0xFFFFFFFF), "abort 0 0",
         "closed | reject * * *", _HUGE),
    Case("P-05b", "A-ASSOCIATE-RQ that claims 1 GiB", AWAITING_REQUEST, pdu(1, b"", 1 << 30), "abort 0 0",
         "closed | reject * * *", _HUGE),
    Case("P-06a", "P-DATA-TF 2 bytes longer than announced, otherwise good", ESTABLISHED, _over_the_maximum,
         "abort 2 6", ABORTED, _MAXIMUM, needs=STORE_CONTEXT),
    Case("P-06b", "P-DATA-TF that claims 2 GiB", ESTABLISHED, _claims_too_much, "abort 2 6", ABORTED,
         _MAXIMUM),
    Case("P-07a", "P-DATA-TF of length 0", ESTABLISHED, pdu(4, b""), "abort 2 6", ABORTED,
         "PS3.8 9.3.5: it holds one or more presentation data values"),
    Case("P-07b", "P-DATA-TF of length 5", ESTABLISHED, pdu(4, b"\0\0\0\1\1"), "abort 2 6", ABORTED,
         "PS3.8 9.3.5.1: the shortest presentation data value has 6 bytes"),
    Case("P-08a", "A-RELEASE-RQ of length 0", ESTABLISHED, pdu(5, b""), "abort 2 6", "*abort * * | released",
         _RELEASE),
    Case("P-08b", "A-RELEASE-RQ of length 3", ESTABLISHED, pdu(5, bytes(3)), "abort 2 6",
         "*abort * * | released", _RELEASE),
    Case("P-08c", "A-RELEASE-RQ of length 5", ESTABLISHED, pdu(5, bytes(5)), "abort 2 6",
         "*abort * * | released", _RELEASE),
    Case("P-08d", "A-RELEASE-RQ that claims 1 GiB", ESTABLISHED, pdu(5, b"", 1 << 30), "abort 2 6", ABORTED,
         _RELEASE),
    Case("P-08e", "A-RELEASE-RP that claims 1 GiB", ESTABLISHED, pdu(6, b"", 1 << 30), "abort 2 6", ABORTED,
         _RELEASE),
    Case("P-09a", "A-ABORT of length 0", ESTABLISHED, pdu(7, b""), "closed", "", _ABORT),
    Case("P-09b", "A-ABORT of length 8", ESTABLISHED, pdu(7, bytes(8)), "closed", "", _ABORT),
    Case("P-09c", "A-ABORT that claims 1 GiB", ESTABLISHED, pdu(7, bytes(4), 1 << 30), "closed", ABORTED,
         _ABORT),
    Case("P-10a", "A-ASSOCIATE-RJ of length 3", AWAITING_ACCEPT, pdu(3, b"\0\1\1"), "abort 2 6",
         "*abort * * | closed", "PS3.8 9.3.4: its length is 4"),
    Case("P-10b", "A-ASSOCIATE-RJ of length 5", AWAITING_ACCEPT, pdu(3, b"\0\1\1\1\0"), "abort 2 6",
         "*abort * * | closed", "PS3.8 9.3.4: its length is 4"),
    Case("P-11", "A-ASSOCIATE-RJ with reserved numbers", AWAITING_ACCEPT, pdu(3, b"\xff\x09\x09\xc8"),
         "closed", ABORTED, "PS3.8 Table 9-21 leaves numbers free: a rejection is one all the same (AE-4)"),
    Case("P-12a", "A-ABORT with the reserved source 1", ESTABLISHED, pdu(7, b"\0\0\1\0"), "closed", "",
         _ABORT),
    Case("P-12b", "A-ABORT with an unknown reason", ESTABLISHED, pdu(7, b"\0\0\2\xc8"), "closed", "", _ABORT),
    Case("P-13a", "the header of the A-ASSOCIATE-RQ in six pieces", AWAITING_REQUEST,
         (*(rq()[at : at + 1] for at in range(6)), rq()[6:]), ACCEPTED, "", _STREAM),
    Case("P-13b", "PDUs cut in the middle, the tail of one with the head of the next", ESTABLISHED,
         (_STORE[:3], _STORE[3:100], _STORE[100:150], _STORE[150:200], _STORE[200:]), STORED, "", _STREAM,
         needs=STORE_CONTEXT),
    Case("P-13c", "all PDUs of a message in one piece", ESTABLISHED, store("P-13c"), STORED, "", _STREAM,
         needs=STORE_CONTEXT),
    Case("P-14a", "connection closed inside the header of the A-ASSOCIATE-RQ", AWAITING_REQUEST,
         (rq()[:3], Do.HALF_CLOSE), "closed", ABORTED, "PS3.8 Table 9-10, Evt17"),
    Case("P-14b", "connection closed inside the A-ASSOCIATE-RQ", AWAITING_REQUEST,
         (rq()[:100], Do.HALF_CLOSE), "closed", ABORTED, "PS3.8 Table 9-10, Evt17"),
    Case("P-14c", "connection closed inside a data set", ESTABLISHED, (store("P-14c")[:-20], Do.HALF_CLOSE),
         "closed", ABORTED, "PS3.8 Table 9-10, Evt17: the partial object is thrown away",
         needs=STORE_CONTEXT),
    Case("P-14d", "silence in the middle of the A-ASSOCIATE-RQ", AWAITING_REQUEST, rq()[:50], "closed",
         ABORTED, "PS3.8 Table 9-10, Evt18 in Sta2: ARTIM expires (AA-2)", slow=True),
    Case("P-15a", "64 KiB of rubbish after an A-ABORT", ESTABLISHED, ABORT + b"\xff" * 65536, "closed", "",
         _DRAIN),
    Case("P-15b", "a C-ECHO-RQ behind the A-RELEASE-RQ", ESTABLISHED, RELEASE_RQ + echo(),
         "released | abort 2 2", ABORTED, _DRAIN + "; in Sta8, before the A-RELEASE-RP, it is AA-8"),
    Case("P-16", "a C-ECHO-RQ at once behind the A-ASSOCIATE-RQ", AWAITING_REQUEST, rq() + echo(),
         "abort 2 2", "abort * * | accept 0, abort * * | accept 0, status 0000, goes on",
         _TOO_EARLY + "; who accepts at once cannot know that it was too early"),
    Case("P-17", "a whole conversation in one piece", AWAITING_REQUEST, rq() + echo() + RELEASE_RQ,
         "abort 2 2", "abort * * | accept 0, abort * * | accept 0, status 0000, released", _TOO_EARLY),
)
# fmt: on
