"""What a case is, how reactions are written, and how they are judged.

A reaction is a line of text, what the peer does in its order:

    accept 0 3          A-ASSOCIATE-AC, with the result of each context by its ID
    reject 1 2 2        A-ASSOCIATE-RJ: result, source, reason
    abort 2 6           A-ABORT: source, reason
    status A900         the final response of an operation
    released, release   A-RELEASE-RP, A-RELEASE-RQ
    goes on             a C-ECHO and the release that follow are answered as they should
    closed              the peer closes the connection
    silence             nothing within the time that is given
    refused             no connection
    garbage             something that cannot be read

`|` separates reactions, `*`, `?` and `[...]` are wildcards.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from fnmatch import fnmatchcase
from typing import NamedTuple

__all__ = [
    "ABORTED",
    "ACCEPTED",
    "AWAITING_ACCEPT",
    "AWAITING_REQUEST",
    "AWAITING_RESPONSE",
    "ESTABLISHED",
    "FAILED",
    "NOT_ACCEPTED",
    "STORED",
    "WARNED",
    "Case",
    "Check",
    "Do",
    "Facts",
    "Send",
    "Verdict",
    "judge",
    "row_of",
]

# Reactions that many cases have.
ACCEPTED = "accept 0, goes on"
NOT_ACCEPTED = "reject * * * | abort * *"
ABORTED = "*abort * *"
STORED = "status 0000, goes on"
WARNED = "status B???, goes on"
FAILED = "status 0[1-9]??, goes on | status A???, goes on | status C???, goes on"

# What the peer under test is brought to (PS3.8 9.2.1). It is the acceptor in the first two.
AWAITING_REQUEST = "Sta2"
ESTABLISHED = "Sta6"
AWAITING_ACCEPT = "Sta5"
AWAITING_RESPONSE = "Sta6, requestor"


class Do(Enum):
    """What can be done beside sending bytes."""

    READ = "read"
    HALF_CLOSE = "half-close"
    RESET = "reset"
    RECONNECT = "connect again"


class Facts(NamedTuple):
    """What is known of the peer when the bytes of a case are made.

    `maximum_length` is what it announced (0: no limit), `contexts` are the ID, abstract syntax and first
    transfer syntax of each context that it proposed, `message_id` is that of its open request.
    """

    called: bytes
    maximum_length: int = 0
    contexts: tuple[tuple[int, bytes, bytes], ...] = ()
    message_id: int = 1


Build = Callable[[Facts], bytes | None]
Piece = bytes | Do | Build
Send = Piece | tuple[Piece, ...]
Received = list[tuple[int, bytes]]
"""The PDUs of the peer: type and body."""
Check = Callable[[Received], str]
"""What is wrong with what the peer sent; empty if nothing is."""


class Case(NamedTuple):
    """One thing that a peer can do, and what has to follow.

    `send`: bytes, or what makes them of `Facts` (None: it cannot be done with this peer), or several
    pieces that are sent one after another. `expect` is what the standard asks for, or the safest where
    it leaves a choice; `tolerate` is what does no harm. `request`: the A-ASSOCIATE-RQ to get to
    ESTABLISHED with; `needs`: a presentation context that has to be accepted for the case to mean
    anything. `service`: a matter of the service that performs the request, not of the protocol below it.
    `slow`: the reaction is that of a timer.
    """

    id: str
    what: str
    state: str
    send: Send
    expect: str
    tolerate: str = ""
    reference: str = ""
    request: bytes | None = None
    needs: int = 0
    check: Check | None = None
    service: bool = False
    slow: bool = False

    @property
    def is_acceptor(self) -> bool:
        """Whether the peer under test is the acceptor."""
        return self.state in (AWAITING_REQUEST, ESTABLISHED)


class Verdict(NamedTuple):
    """How a case went: `result` is passed, tolerated, failed or skipped.

    `got` is the reaction, `why` what a check found or why the case could not be played; `sent` and
    `received` are the evidence.
    """

    case: Case
    result: str
    got: str
    why: str
    sent: bytes
    received: bytes


def _is_one_of(got: str, reactions: str) -> bool:
    return any(fnmatchcase(got, reaction.strip()) for reaction in reactions.split("|"))


def judge(case: Case, got: str, complaint: str = "") -> str:
    """What a reaction is worth: passed, tolerated or failed."""
    if complaint:
        return "failed"
    if _is_one_of(got, case.expect):
        return "passed"
    return "tolerated" if _is_one_of(got, case.tolerate) else "failed"


def row_of(case_id: str) -> str:
    """The row of the table that a case belongs to: "P-02a" is one of "P-02"."""
    return case_id[:4]
