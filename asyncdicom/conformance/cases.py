"""All cases in their order, which rows of the tables have none, and where we deviate by choice."""

from __future__ import annotations

from . import association, commands, datasets, fragments, normalized, pdus, transport, user_information
from .case import Case, row_of

__all__ = ["CASES", "DEVIATIONS", "NOT_ON_THE_WIRE", "ROWS", "select"]

CASES: tuple[Case, ...] = (
    *pdus.CASES,
    *association.CASES,
    *user_information.CASES,
    *fragments.CASES,
    *commands.CASES,
    *normalized.CASES,
    *datasets.CASES,
    *transport.CASES,
)

ROWS = {"P": 17, "A": 12, "I": 23, "U": 18, "V": 19, "C": 23, "N": 8, "D": 18, "M": 10, "T": 10}
"""How many rows each table has: what can be wrong with PDUs, the association, items and contexts, user
information, fragments, commands, DIMSE-N, data sets, files on disk, the connection."""

NOT_ON_THE_WIRE: dict[str, str] = {
    "A-11": "the peer would have to be filled to its limit first",
    "A-12": "the peer would have to be overloaded first",
    "C-17": "needs two destinations with different permissions at the peer",
    "C-23": "the numbers of sub-operations are shown to people, and to nobody else",
    "D-17": "the peer would have to hold millions of instances",
    "M-01": "a file that we read",
    "M-02": "a file that we read",
    "M-03": "a file that we read",
    "M-04": "a file that we read",
    "M-05": "a file that we read",
    "M-06": "a file that we read",
    "M-07": "a file that we read",
    "M-08": "a file that we read",
    "M-09": "a file that the peer writes",
    "M-10": "a file that the peer wrote",
    "T-03": "takes as long as the peer's deadline for writing, with more data than its buffers hold",
    "T-04": "needs a TLS port at the peer",
    "T-06": "needs a TLS port at the peer",
    "T-07": "needs a TLS port at the peer; otherwise it is P-14",
    "T-08": "the peer would have to run out of descriptors",
    "T-09": "a load, not a conversation",
    "T-10": "takes as long as the keep-alive of the peer's system",
}
"""Rows without a case, and why; tests of their own have them where they are ours."""

_TITLES = "an archive that checks AE titles (strict) refuses it; one that takes anybody has no use for titles"

DEVIATIONS: dict[str, str] = {
    "A-03a": _TITLES,
    "A-03b": _TITLES,
    "A-06a": _TITLES + ", and logs show them escaped",
    "A-06b": _TITLES,
    "A-06c": _TITLES + ", and logs show them escaped",
}
"""Cases in which asyncdicom's own reaction is one of those tolerated, and why it is."""


def select(wanted: tuple[str, ...], *, acceptor: bool = True, slow: bool = False) -> list[Case]:
    """The cases of these IDs, rows ("P-02") or tables ("P"), all if there are none.

    Slow ones only with `slow`, or if they were asked for by their ID. Raises ValueError for what is no case.
    """
    for each in wanted:
        if not any(each in (case.id, row_of(case.id), case.id[0]) for case in CASES):
            why = NOT_ON_THE_WIRE.get(each)
            raise ValueError(f"there is no case {each}" + (f": {why}" if why else ""))
    return [
        case
        for case in CASES
        if case.is_acceptor is acceptor
        and (not wanted or not {case.id, row_of(case.id), case.id[0]}.isdisjoint(wanted))
        and (slow or not case.slow or case.id in wanted)
    ]
