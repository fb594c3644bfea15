"""What PS3.4 says of its SOP classes: which a context may name, their operations, their permissions.

A presentation context is negotiated for one abstract syntax. Most messages on it name that SOP class; those
of a *family* name another: a context of Basic Grayscale Print Management Meta carries messages about Film
Boxes.
"""

from __future__ import annotations

from asyncdicom.dimse.messages import CommandField
from asyncdicom.uid import SOP_CLASSES

__all__ = [
    "COMPOSITE_ONLY",
    "C_FIND_CLASSES",
    "C_GET_CLASSES",
    "C_MOVE_CLASSES",
    "FAMILIES",
    "PERMISSIONS",
    "SPEAKS_FOR",
    "has_operation",
    "may_name",
    "permission_of",
    "service_class_of",
]

_P = "1.2.840.10008."
_UPS = _P + "5.1.4.34.6."
_UPS_TRIAL = _P + "5.1.4.34.4."
_MPPS = _P + "3.1.2.3."
_PRINT = _P + "5.1.1."

UPS_PUSH, UPS_WATCH, UPS_PULL, UPS_EVENT, UPS_QUERY = (_UPS + str(number) for number in range(1, 6))
_UPS_ALL = frozenset((UPS_PUSH, UPS_WATCH, UPS_PULL, UPS_EVENT, UPS_QUERY))
_UPS_TRIALS = frozenset(_UPS_TRIAL + str(number) for number in range(1, 5))
MPPS, MPPS_RETRIEVE, MPPS_NOTIFICATION = (_MPPS + str(number) for number in range(3, 6))
_MPPS_ALL = frozenset((MPPS, MPPS_RETRIEVE, MPPS_NOTIFICATION))


def _uids(root: str, *ends: str) -> frozenset[str]:
    return frozenset(root + end for end in ends)


_REFERENCED_PRINT = _uids(_PRINT, "1", "2", "4.2", "16")

FAMILIES: dict[str, frozenset[str]] = {
    **dict.fromkeys(_UPS_ALL, _UPS_ALL),  # CC.3.1: messages name UPS Push; some peers name the context's
    **dict.fromkeys(_UPS_TRIALS, _UPS_TRIALS),
    **dict.fromkeys(_MPPS_ALL, _MPPS_ALL),  # F.7.2.1: one instance, three SOP classes
    _PRINT + "9": _uids(_PRINT, "1", "2", "4", "16"),  # H.3.2.2: basic grayscale print management
    _PRINT + "18": _uids(_PRINT, "1", "2", "4.1", "16"),  # H.3.2.2: basic color
    _PRINT + "9.1": _REFERENCED_PRINT,  # retired
    _PRINT + "18.1": _REFERENCED_PRINT,
    _PRINT + "32": _uids(_PRINT, "31", "16"),
    _P + "3.1.2.1.4": _uids(_P + "3.1.2.", "1.1", "2.1", "3.2"),
    _P + "3.1.2.5.4": _uids(_P + "3.1.2.", "5.1", "6.1"),
    _P + "3.1.2.5.5": _uids(_P + "3.1.2.", "1.1", "2.1", "3.1", "3.2"),
    _P + "5.1.4.32": _uids(_P + "5.1.4.32.", "1", "2", "3"),
}
"""Abstract syntax -> the SOP classes that the messages on its context may name beside it."""

SPEAKS_FOR: dict[str, str] = {
    **dict.fromkeys(_UPS_ALL, UPS_PUSH),
    **dict.fromkeys(_UPS_TRIALS, _UPS_TRIAL + "1"),
}
"""SOP class -> the one that messages name in its place (PS3.4 CC.3.1)."""

_NOBODY: frozenset[str] = frozenset()


def may_name(abstract_syntax: str, sop_class_uid: str) -> bool:
    """Whether a message on a context of `abstract_syntax` may be about `sop_class_uid`."""
    return sop_class_uid == abstract_syntax or sop_class_uid in FAMILIES.get(abstract_syntax, _NOBODY)


# PS3.4 CC.2, F.7 to F.9: which SOP class of a family an operation is negotiated with. N-ACTION: by Action
# Type ID.
_RQ = CommandField
_OPERATIONS: dict[str, frozenset[CommandField | int]] = {
    UPS_PUSH: frozenset({_RQ.N_CREATE_RQ, _RQ.N_GET_RQ, 2}),
    UPS_PULL: frozenset({_RQ.C_FIND_RQ, _RQ.N_GET_RQ, _RQ.N_SET_RQ, 1}),
    UPS_WATCH: frozenset({_RQ.C_FIND_RQ, _RQ.N_GET_RQ, 2, 3, 4, 5}),
    UPS_EVENT: frozenset({_RQ.N_EVENT_REPORT_RQ}),
    UPS_QUERY: frozenset({_RQ.C_FIND_RQ}),
    MPPS: frozenset({_RQ.N_CREATE_RQ, _RQ.N_SET_RQ}),
    MPPS_RETRIEVE: frozenset({_RQ.N_GET_RQ}),
    MPPS_NOTIFICATION: frozenset({_RQ.N_EVENT_REPORT_RQ}),
}


def has_operation(
    abstract_syntax: str, command_field: CommandField, action_type_id: int | None = None
) -> bool:
    """Whether a SOP class of a family has this operation; other SOP classes have all."""
    operations = _OPERATIONS.get(abstract_syntax)
    if operations is None:
        return True
    if command_field is CommandField.N_ACTION_RQ:
        return action_type_id in operations
    return command_field in operations


# Queries and retrievals (PS3.4 C, K, Q, U, V, X, BB, CC, HH, II, JJ).


def _named(end: str) -> frozenset[str]:
    return frozenset(uid for uid, (name, _) in SOP_CLASSES.items() if name.endswith(end))


C_FIND_CLASSES = (
    _named("FIND")
    | {UPS_PULL, UPS_WATCH, UPS_QUERY, _UPS_TRIAL + "2", _UPS_TRIAL + "3", _P + "5.1.4.1.1.201.6"}
    | {uid for uid, (_, of) in SOP_CLASSES.items() if of in ("relevant-patient", "substance-administration")}
    | {_P + "5.1.4.32"}
)
C_MOVE_CLASSES = _named("MOVE")
C_GET_CLASSES = _named("GET")

COMPOSITE_ONLY = (C_FIND_CLASSES | C_MOVE_CLASSES | C_GET_CLASSES) - {
    UPS_PULL,
    UPS_WATCH,
    _UPS_TRIAL + "2",
    _UPS_TRIAL + "3",
    _P + "5.1.4.32",
}
"""Queries and retrievals that have no DIMSE-N."""

# What an access policy calls the service classes of PS3.4.

PERMISSIONS: dict[str, str] = {
    "verification": "echo",
    "storage": "store",
    "non-patient-object-storage": "store",
    "query-retrieve": "find",
    "worklist": "worklist",
    "general-purpose-worklist": "worklist",
    "commitment": "commitment",
    "mpps": "mpps",
    "ups": "ups",
    "print": "print",
    "instance-availability": "ian",
}
"""Service class -> permission, where there is a name of its own; the others are "normalized"."""


def service_class_of(sop_class_uid: str) -> str | None:
    """The service class of PS3.4 that a SOP class belongs to; None if it is not in the standard."""
    entry = SOP_CLASSES.get(sop_class_uid)
    return entry[1] if entry is not None else None


def permission_of(abstract_syntax: str, default: str) -> str:
    """What an access policy calls the service of this SOP class."""
    return PERMISSIONS.get(service_class_of(abstract_syntax) or "", default)
