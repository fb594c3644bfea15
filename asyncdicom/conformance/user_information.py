"""Table U: the user information item."""

from __future__ import annotations

from struct import pack

from .build import (
    APPLICATION,
    CONTEXT,
    CT,
    IMPLEMENTATION,
    MAXIMUM_LENGTH,
    VERIFICATION,
    counted,
    item,
    rq,
    rq_user,
)
from .case import ACCEPTED, AWAITING_REQUEST, NOT_ACCEPTED, Case, Check, Received

_MAXIMUM = "PS3.8 D.1: Maximum Length is 4 bytes; 0 means no limit"
_TOO_SHORT = "PS3.8 9.3.5: 7 bytes have no room for a presentation data value of 2 bytes"
_OBEYED = "PS3.8 D.1: the maximum is never exceeded; PS3.8 E.1: fragments are of even length"
_IMPLEMENTATION = "PS3.7 D.3.3.2: mandatory, but nothing depends on it"
_UNKNOWN = "PS3.8 D.2: user information that is not known is passed over, and no reason to reject"
_WINDOW = "PS3.7 D.3.3.3: the answer is the same or less; 0 means no limit"
_ROLES = "PS3.7 D.3.3.4: only the SOP classes that are proposed have roles"
_PAST_THE_END = "PS3.7 D.3.3: a field ends within its sub-item"
_IDENTITY = "PS3.7 D.3.3.7"

_IGNORED = f"{NOT_ACCEPTED} | {ACCEPTED}"  # who has no use for a sub-item may pass it over unread


def _user(*sub_items: bytes) -> bytes:
    return rq_user(MAXIMUM_LENGTH, IMPLEMENTATION, *sub_items)


def _sub_items(received: Received) -> list[tuple[int, bytes]]:
    """The user information sub-items of the A-ASSOCIATE-AC."""
    body = received[0][1]
    for item_type, value in _items(body[68:]):
        if item_type == 0x50:
            return _items(value)
    return []


def _items(data: bytes) -> list[tuple[int, bytes]]:
    found = []
    while len(data) >= 4:
        end = 4 + int.from_bytes(data[2:4], "big")
        found.append((data[0], data[4:end]))
        data = data[end:]
    return found


def _obeys(maximum: int) -> Check:
    def check(received: Received) -> str:
        for pdu_type, body in received:
            if pdu_type == 4 and len(body) > maximum:
                return f"a P-DATA-TF of {len(body)} bytes, where {maximum} are the maximum"
            if pdu_type == 4 and len(body) % 2:
                return "a fragment of odd length"
        return ""

    return check


def _window_is_less(received: Received) -> str:
    for item_type, value in _sub_items(received):
        if item_type == 0x53 and len(value) != 4:
            return f"an operations window of {len(value)} bytes"
    return ""


def _window_of_one(received: Received) -> str:
    bad = [value for kind, value in _sub_items(received) if kind == 0x53 and value != b"\0\1\0\1"]
    return "more operations than were proposed" if bad else ""


def _no_role(received: Received) -> str:
    return "a role for what was not proposed" if any(kind == 0x54 for kind, _ in _sub_items(received)) else ""


def _no_identity(received: Received) -> str:
    bad = any(kind == 0x59 for kind, _ in _sub_items(received))
    return "a response to a user identity that cannot be supported" if bad else ""


def _identity(kind: int, primary: bytes, secondary: bytes = b"", wanted: int = 0) -> bytes:
    return item(0x58, bytes((kind, wanted)) + primary + secondary)


# fmt: off
CASES = (
    Case("U-01", "no User Information item", AWAITING_REQUEST, rq(APPLICATION, CONTEXT), ACCEPTED,
         NOT_ACCEPTED, "PS3.8 9.3.2 wants one; nothing is gained by a refusal"),
    Case("U-02", "maximum length 0", AWAITING_REQUEST, rq_user(item(0x51, bytes(4)), IMPLEMENTATION),
         ACCEPTED, "", _MAXIMUM),
    Case("U-03a", "maximum length 1", AWAITING_REQUEST, rq_user(item(0x51, pack(">I", 1)), IMPLEMENTATION),
         "reject 1 2 1", NOT_ACCEPTED, _TOO_SHORT),
    Case("U-03b", "maximum length 7", AWAITING_REQUEST, rq_user(item(0x51, pack(">I", 7)), IMPLEMENTATION),
         "reject 1 2 1", NOT_ACCEPTED, _TOO_SHORT),
    Case("U-04a", "maximum length 8", AWAITING_REQUEST, rq_user(item(0x51, pack(">I", 8)), IMPLEMENTATION),
         ACCEPTED, "reject * * *", _OBEYED, check=_obeys(8)),
    Case("U-04b", "maximum length 33", AWAITING_REQUEST, rq_user(item(0x51, pack(">I", 33)), IMPLEMENTATION),
         ACCEPTED, "reject * * *", _OBEYED, check=_obeys(33)),
    Case("U-05a", "Maximum Length of 3 bytes", AWAITING_REQUEST,
         rq_user(item(0x51, bytes(3)), IMPLEMENTATION), "abort 0 0", _IGNORED, _MAXIMUM),
    Case("U-05b", "Maximum Length of 5 bytes", AWAITING_REQUEST,
         rq_user(item(0x51, b"\0\0\x40\0\0"), IMPLEMENTATION), "abort 0 0", _IGNORED, _MAXIMUM),
    Case("U-05c", "Maximum Length of 0 bytes", AWAITING_REQUEST, rq_user(item(0x51, b""), IMPLEMENTATION),
         "abort 0 0", _IGNORED, _MAXIMUM),
    Case("U-06a", "no Implementation Class UID", AWAITING_REQUEST, rq_user(MAXIMUM_LENGTH), ACCEPTED,
         NOT_ACCEPTED, _IMPLEMENTATION),
    Case("U-06b", "an empty Implementation Class UID", AWAITING_REQUEST,
         rq_user(MAXIMUM_LENGTH, item(0x52, b"")), ACCEPTED, NOT_ACCEPTED, _IMPLEMENTATION),
    Case("U-07a", "an Implementation Version Name of 300 characters", AWAITING_REQUEST,
         _user(item(0x55, b"X" * 300)), ACCEPTED, NOT_ACCEPTED, _IMPLEMENTATION),
    Case("U-07b", "an empty Implementation Version Name", AWAITING_REQUEST, _user(item(0x55, b"")), ACCEPTED,
         NOT_ACCEPTED, _IMPLEMENTATION),
    Case("U-08", "an unknown sub-item", AWAITING_REQUEST, _user(item(0x5E, b"whatever")), ACCEPTED, "",
         _UNKNOWN),
    Case("U-09a", "an operations window of 0 and 0", AWAITING_REQUEST, _user(item(0x53, bytes(4))), ACCEPTED,
         "", _WINDOW, check=_window_is_less),
    Case("U-09b", "an operations window of 65535 and 65535", AWAITING_REQUEST, _user(item(0x53, b"\xff" * 4)),
         ACCEPTED, "", _WINDOW, check=_window_is_less),
    Case("U-09c", "an operations window of 1 and 1", AWAITING_REQUEST, _user(item(0x53, b"\0\1\0\1")),
         ACCEPTED, "", _WINDOW, check=_window_of_one),
    Case("U-10a", "roles for a SOP class that is not proposed", AWAITING_REQUEST,
         _user(item(0x54, counted(CT) + b"\1\1")), ACCEPTED, NOT_ACCEPTED, _ROLES, check=_no_role),
    Case("U-10b", "Role Selection: the UID ends behind the sub-item", AWAITING_REQUEST,
         _user(item(0x54, counted(VERIFICATION, 200) + b"\1\1")), "abort 0 0", _IGNORED, _PAST_THE_END),
    Case("U-11", "Extended Negotiation: the UID ends behind the sub-item", AWAITING_REQUEST,
         _user(item(0x56, counted(VERIFICATION, 200))), "abort 0 0", _IGNORED, _PAST_THE_END),
    Case("U-12a", "Common Extended Negotiation: the service class ends behind the sub-item", AWAITING_REQUEST,
         _user(item(0x57, counted(VERIFICATION) + counted(VERIFICATION, 200))), "abort 0 0", _IGNORED,
         _PAST_THE_END),
    Case("U-12b", "Common Extended Negotiation: a related UID ends behind its list", AWAITING_REQUEST,
         _user(item(0x57, counted(VERIFICATION) * 2 + counted(counted(VERIFICATION, 200)))), "abort 0 0",
         _IGNORED, _PAST_THE_END),
    Case("U-13a", "user identity of type 0", AWAITING_REQUEST,
         _user(_identity(0, counted(b"name"), counted(b""), 1)), ACCEPTED, NOT_ACCEPTED,
         _IDENTITY + ": types 1 to 5", check=_no_identity),
    Case("U-13b", "user identity of type 255", AWAITING_REQUEST,
         _user(_identity(255, counted(b"name"), counted(b""), 1)), ACCEPTED, NOT_ACCEPTED,
         _IDENTITY + ": types 1 to 5", check=_no_identity),
    Case("U-14a", "user identity: the name ends behind the sub-item", AWAITING_REQUEST,
         _user(_identity(1, counted(b"name", 65535))), "abort 0 0", _IGNORED, _PAST_THE_END),
    Case("U-14b", "user identity: the passcode ends behind the sub-item", AWAITING_REQUEST,
         _user(_identity(2, counted(b"name"), counted(b"pass", 5))), "abort 0 0", _IGNORED, _PAST_THE_END),
    Case("U-14c", "user identity: a name of 60,000 bytes", AWAITING_REQUEST,
         _user(_identity(1, counted(b"n" * 60000), counted(b""))), "reject 1 1 1", _IGNORED,
         _IDENTITY + ": no limit; ours has one"),
    Case("U-15", "two user identities", AWAITING_REQUEST,
         _user(_identity(1, counted(b"a"), counted(b"")), _identity(1, counted(b"b"), counted(b""))),
         "abort 0 0", _IGNORED, _IDENTITY + ": one at most"),
    Case("U-16", "a user whom nobody knows, with a wrong passcode", AWAITING_REQUEST,
         _user(_identity(2, counted(b"nobody"), counted(b"wrong"))),
         f"reject 1 1 1 | reject 2 2 1 | {ACCEPTED}", NOT_ACCEPTED, _IDENTITY + ": for those who check it"),
    Case("U-17", "a response to the user identity is asked for", AWAITING_REQUEST,
         _user(_identity(1, counted(b"name"), counted(b""), 1)), f"{ACCEPTED} | reject 1 1 1 | reject 2 2 1",
         NOT_ACCEPTED, _IDENTITY + ": without a response, the requestor decides"),
    Case("U-18", "10,000 sub-items", AWAITING_REQUEST, _user(item(0x7F, b"") * 10000), "abort 0 0", _IGNORED,
         "PS3.8 D.2 sets no limit: bounded work, whatever the answer"),
)
# fmt: on
