"""Table N: DIMSE-N (PS3.7 10), for peers that provide Modality Performed Procedure Step or print."""

from __future__ import annotations

from .build import (
    APPLICATION,
    CONTEXT,
    IMPLICIT,
    USER,
    Fields,
    abstract,
    attributes,
    command,
    even,
    implicit_data,
    message,
    proposed,
    rq,
    transfer,
    uid,
    us,
)
from .case import ABORTED, ESTABLISHED, FAILED, STORED, Case

_MPPS, _PRINT, _FILM_SESSION, _PRINTER = (
    b"1.2.840.10008.3.1.2.3.3",
    b"1.2.840.10008.5.1.1.9",
    b"1.2.840.10008.5.1.1.1",
    b"1.2.840.10008.5.1.1.16",
)
_CT = b"1.2.840.10008.5.1.4.1.1.2"
_STEP, _PRINTING = 3, 5
_REQUEST = rq(
    APPLICATION,
    CONTEXT,
    proposed(_STEP, abstract(_MPPS), transfer(IMPLICIT)),
    proposed(_PRINTING, abstract(_PRINT), transfer(IMPLICIT)),
    USER,
)

_AFFECTED_CLASS, _REQUESTED_CLASS, _AFFECTED, _REQUESTED = 0x0002, 0x0003, 0x1000, 0x1001
_EVENT_TYPE, _ATTRIBUTES, _ACTION_TYPE = 0x1002, 0x1005, 0x1008
_EVENT_REPORT, _GET, _SET, _ACTION, _CREATE, _DELETE = 0x0100, 0x0110, 0x0120, 0x0130, 0x0140, 0x0150

_MISSING = "PS3.7 10.1: the Requested SOP Instance UID is mandatory; 0117H or 0112H"
_CLASS = "PS3.7 C.5.20: SOP class not supported in this presentation context, 0122H"
_FAMILY = "PS3.4 H.3.2.2: a Print Management Meta context carries its Film Sessions, Film Boxes and Printers"
_WITHOUT_UID = "PS3.7 10.1.5.1.4: who creates without a UID is given one"
_ROLE = "PS3.7 10.1.1: the SCP reports events, not the SCU; no failure of the association"
_NUMBER = "PS3.5 6.2, US: 2 bytes"
_LIST = "PS3.7 10.1.2.1.5: a list of tags, 4 bytes each"
_NO_LIST = "PS3.7 10.1.3.1.5: the Modification List is mandatory"
_UNREAD = "PS3.7 C.5.12: processing failure; the association goes on"
_ANSWERED = "status ????, goes on"
_REFUSED = "status 01??, goes on | status 021?, goes on"


def _ask(field: int, fields: Fields, data: bytes | None = None, context: int = _STEP) -> bytes:
    """A DIMSE-N request with these fields beside those that all have."""
    every = {**fields, 0x0100: us(field), 0x0110: us(1), 0x0800: us(0x0101 if data is None else 1)}
    return message(context, command(dict(sorted(every.items()))), data)


def _requested(case: str, sop_class: bytes = _MPPS, **more: bytes) -> Fields:
    fields = {_REQUESTED_CLASS: even(sop_class), _REQUESTED: even(uid(case))}
    return fields | {int(name[1:], 16): value for name, value in more.items()}


def _data(case: str) -> bytes:
    return implicit_data(attributes(case))


def _case(
    number: str, what: str, send: bytes, expect: str, tolerate: str, why: str, needs: int = _STEP
) -> Case:
    return Case(
        number,
        what,
        ESTABLISHED,
        send,
        expect,
        tolerate,
        why,
        request=_REQUEST,
        needs=needs,
        service=True,
    )


# fmt: off
CASES = (
    _case("N-01a", "N-GET without Requested SOP Instance UID", _ask(_GET, {_REQUESTED_CLASS: even(_MPPS)}),
          "status 0117, goes on | status 0112, goes on", f"{FAILED} | {ABORTED}", _MISSING),
    _case("N-01b", "N-SET of an instance that is a path",
          _ask(_SET, {_REQUESTED_CLASS: even(_MPPS), _REQUESTED: b"../../../../tmp/x\0"}, _data("N-01b")),
          "status 0117, goes on | status 0112, goes on", f"{FAILED} | {ABORTED}", _MISSING),
    _case("N-01c", "N-CREATE with a UID of 70 characters",
          _ask(_CREATE, {_AFFECTED_CLASS: even(_MPPS), _AFFECTED: b"1.2." + b"3" * 66}, _data("N-01c")),
          "status 0117, goes on", f"{FAILED} | {ABORTED}", _MISSING),
    _case("N-02a", "N-CREATE without a UID", _ask(_CREATE, {_AFFECTED_CLASS: even(_MPPS)}, _data("N-02a")),
          _ANSWERED, ABORTED, _WITHOUT_UID),
    _case("N-02b", "N-CREATE without attributes", _ask(_CREATE, {_AFFECTED_CLASS: even(_MPPS)}),
          _ANSWERED, ABORTED, "PS3.7 10.1.5.1.5: the Attribute List may be left out"),
    _case("N-03a", "a SOP class that is not the context's",
          _ask(_GET, _requested("N-03a", _CT)), "status 0122, goes on", f"{FAILED} | {ABORTED}", _CLASS),
    _case("N-03b", "a SOP class of the family of another context",
          _ask(_GET, _requested("N-03b", _FILM_SESSION)), "status 0122, goes on", f"{FAILED} | {ABORTED}",
          _CLASS),
    _case("N-03c", "an Affected SOP class that is right and a Requested one that is not",
          _ask(_GET, _requested("N-03c", _CT, x0002=even(_MPPS))), "status 0122, goes on",
          f"{FAILED} | {ABORTED}", _CLASS),
    _case("N-03d", "no SOP class", _ask(_GET, {_REQUESTED: even(uid("N-03d"))}), _ANSWERED, ABORTED,
          "PS3.7 10.1.2.1.3: mandatory, but the context has it"),
    _case("N-04a", "a Film Session on a Print Management Meta context",
          _ask(_CREATE, {_AFFECTED_CLASS: even(_FILM_SESSION)}, _data("N-04a"), _PRINTING),
          "status 0[01]??, goes on", f"{FAILED} | {ABORTED}", _FAMILY, needs=_PRINTING),
    _case("N-04b", "the Printer on a Print Management Meta context",
          _ask(_GET, _requested("N-04b", _PRINTER), None, _PRINTING), _ANSWERED, ABORTED, _FAMILY,
          needs=_PRINTING),
    _case("N-05a", "N-ACTION without Action Type ID", _ask(_ACTION, _requested("N-05a")), _REFUSED,
          f"{FAILED} | {ABORTED}", "PS3.7 10.1.4.1.6: mandatory"),
    _case("N-05b", "Action Type ID of 1 byte", _ask(_ACTION, _requested("N-05b", x1008=b"\1")), "abort 2 6",
          f"{ABORTED} | {_ANSWERED}", _NUMBER),
    _case("N-06a", "N-EVENT-REPORT by the SCU",
          _ask(_EVENT_REPORT, {_AFFECTED_CLASS: even(_MPPS), _AFFECTED: even(uid("N-06a")),
                               _EVENT_TYPE: us(1)}),
          _ANSWERED, f"{FAILED} | {ABORTED}", _ROLE),
    _case("N-06b", "N-EVENT-REPORT without Event Type ID",
          _ask(_EVENT_REPORT, {_AFFECTED_CLASS: even(_MPPS), _AFFECTED: even(uid("N-06b"))}), _REFUSED,
          f"{FAILED} | {ABORTED}", _ROLE),
    _case("N-07a", "N-SET without a Modification List", _ask(_SET, _requested("N-07a")), _REFUSED,
          f"{FAILED} | {ABORTED} | {STORED}", _NO_LIST),
    _case("N-07b", "a Modification List that cannot be read",
          _ask(_SET, _requested("N-07b"), b"\x10\0\x10\0\xff\xff\xff\x7f"), FAILED, f"{ABORTED}", _UNREAD),
    _case("N-07c", "N-DELETE with a data set", _ask(_DELETE, _requested("N-07c"), _data("N-07c")), _ANSWERED,
          ABORTED, "PS3.7 10.3.6.1: N-DELETE has none; it can be passed over"),
    _case("N-08a", "half a tag in the Attribute Identifier List",
          _ask(_GET, _requested("N-08a", x1005=b"\x10\0\x10\0\x10\0")), "abort 2 6",
          f"{ABORTED} | {_ANSWERED}", _LIST),
    _case("N-08b", "10,000 tags in the Attribute Identifier List",
          _ask(_GET, _requested("N-08b", x1005=b"\x10\0\x10\0" * 10_000)), _ANSWERED, ABORTED, _LIST),
    _case("N-08c", "an empty Attribute Identifier List", _ask(_GET, _requested("N-08c", x1005=b"")),
          _ANSWERED, ABORTED, _LIST),
)
# fmt: on
