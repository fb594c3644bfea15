"""Both directions of one connection, with times: what was said, after which gap, and what the gap means.

Time is an argument, in seconds of any clock that does not go back. What is kept is bounded, however long the
conversation is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from asyncdicom.dimse.messages import Command, CommandField
from asyncdicom.status import Status
from asyncdicom.telemetry.text import printable
from asyncdicom.tracing.side import DataRead, MessageRead, Nonsense, PDURead, Read, Side
from asyncdicom.tracing.told import command_line, data_lines, fields_of, pdu_line
from asyncdicom.ul.pdu import AAssociateAC, AAssociateRQ

__all__ = ["Conversation", "Line", "meaning"]

STALL = 0.03  # seconds in the middle of a message that are worth a word
DELAYED_ACK = ((0.036, 0.055), (0.19, 0.24))  # seconds that an ACK is delayed: 40 ms on Linux, 200 on Windows
SLOW = 1.0  # seconds until an answer that are worth a word
IDLE = 10.0  # seconds in which nobody says anything
_TOLD = 5  # notes of one kind; the others are counted
_MOST_OPEN = 1000  # requests without a response that are remembered
_MOST_STATUSES = 100  # kinds of responses that are counted

_ARROWS = {True: "->", False: "<-", None: "--"}
_PENDING = (0xFF00, 0xFF01)


class Line(NamedTuple):
    """Something to tell: seconds since the beginning, who spoke (None: a note on it), the text.

    `fields` are for programs.
    """

    at: float
    requestor: bool | None
    text: str
    fields: dict[str, object]

    def __str__(self) -> str:
        return f"{self.at:10.4f} {_ARROWS[self.requestor]} {self.text}"


@dataclass
class _Times:
    """How long the answers to one kind of request took."""

    count: int = 0
    total: float = 0.0
    longest: float = 0.0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.total += seconds
        self.longest = max(self.longest, seconds)


@dataclass
class _Open:
    """A request without its final response."""

    name: str
    since: float | None = None  # when its last byte passed, or the last Pending response


def meaning(gap: float, held: float) -> tuple[str, str]:
    """Say what a gap in the middle of a message means: a kind, and a text with {who} and {other}.

    `gap`: seconds without a byte; `held`: those of them in which the other side did not take what was there.
    """
    if held > gap / 2:
        return "held", "{other} took nothing: it is slow (its handler, disk or network)"
    if any(shortest <= gap <= longest for shortest, longest in DELAYED_ACK):
        return "nagle", "as long as an ACK is delayed: is Nagle's algorithm on at {who}? TCP_NODELAY ends it"
    return "pause", "{who} sent nothing: its disk, its network or this computer is slow"


class Conversation:
    """Watches one connection; gives lines to tell.

    `values`: tell the values of data sets and Error Comments, too, which may be about patients. `now`: when
    the connection was opened.
    """

    def __init__(self, now: float, *, values: bool = False) -> None:
        self._began = self._last = now
        self._values = values
        self._sides = {side: Side(keep=values) for side in (True, False)}
        self._at = {True: now, False: now}  # the last byte of each
        self._held = {True: 0.0, False: 0.0}  # since that
        self._open: dict[tuple[bool, int], _Open] = {}
        self._proposed: dict[int, str] = {}
        self._accepted: dict[int, str] | None = None
        self._titles = ""
        self._notes: Counter[str] = Counter()
        self._lost: Counter[str] = Counter()  # milliseconds, by the meaning of gaps
        self._times: dict[str, _Times] = {}
        self._statuses: Counter[str] = Counter()
        self._end = ""

    # in

    def feed(self, requestor: bool, data: bytes | memoryview, now: float) -> list[Line]:
        """One side (`requestor`: the one that opened the connection) has sent these bytes."""
        side = self._sides[requestor]
        lines = list(self._gaps(requestor, side, now))
        for read in side.feed(data):
            lines += self._tell(requestor, read, now)
        self._at[requestor] = self._last = now
        self._held[requestor] = 0.0
        return lines

    def held(self, requestor: bool, seconds: float) -> None:
        """What this side has sent last was not taken by the other one for so long."""
        self._held[requestor] += seconds

    def closed(self, requestor: bool | None, now: float, why: str = "") -> list[Line]:
        """One side has closed its half of the connection; None: it is over."""
        who = {True: "the requestor closes", False: "the acceptor closes", None: "the connection is over"}
        text = who[requestor] + (f": {printable(why)}" if why else "")
        unanswered = sorted(Counter(request.name for request in self._open.values()).items())
        lines = [self._line(now, None, text, event="closed")]
        if requestor is None and unanswered:
            told = ", ".join(f"{count} {name}" for name, count in unanswered)
            lines += self._note("unanswered", now, f"not answered: {told}")
        return lines

    # out

    def _line(self, now: float, requestor: bool | None, text: str, **fields: object) -> Line:
        at = now - self._began
        return Line(at, requestor, text, {"at": round(at, 6), **fields, "text": text})

    def _note(self, kind: str, now: float, text: str, **fields: object) -> list[Line]:
        """Tell what is worth a word, the first times; always counted."""
        self._notes[kind] += 1
        if self._notes[kind] > _TOLD:
            return []
        more = " (others of this kind are only counted)" if self._notes[kind] == _TOLD else ""
        return [self._line(now, None, f"{kind}: {printable(text)}{more}", event="note", kind=kind, **fields)]

    def _gaps(self, requestor: bool, side: Side, now: float) -> Iterator[Line]:
        who, other = ("requestor", "acceptor") if requestor else ("acceptor", "requestor")
        gap = now - self._at[requestor]
        if side.in_message and gap >= STALL:
            kind, text = meaning(gap, self._held[requestor])
            self._lost[kind] += round(gap * 1e3)
            said = text.format(who=f"the {who}", other=f"the {other}")
            text = f"{gap * 1e3:.0f} ms in the middle of a message; {said}"
            yield from self._note(kind, now, text, seconds=round(gap, 6))
        elif not side.in_message and now - self._last >= IDLE and not self._open:
            gap = now - self._last
            yield from self._note("idle", now, f"nothing was said for {gap:.1f} s", seconds=round(gap, 6))

    def _tell(self, requestor: bool, read: Read, now: float) -> list[Line]:
        if isinstance(read, Nonsense):
            return self._note("nonsense", now, f"from the {_name(requestor)}: {read.text}")
        if isinstance(read, PDURead):
            return self._pdu(requestor, read, now)
        if isinstance(read, MessageRead):
            return self._message(requestor, read, now)
        return self._data(requestor, read, now)

    def _pdu(self, requestor: bool, read: PDURead, now: float) -> list[Line]:
        pdu = read.pdu
        if isinstance(pdu, AAssociateRQ):
            self._titles = printable(f"{pdu.calling_ae_title} -> {pdu.called_ae_title}")
            self._proposed = {c.context_id: c.abstract_syntax for c in pdu.presentation_contexts}
        elif isinstance(pdu, AAssociateAC):
            results = pdu.presentation_contexts
            self._accepted = {c.context_id: c.transfer_syntax or "" for c in results if c.result == 0}
        if read.name in ("A-ASSOCIATE-RJ", "A-ABORT", "A-RELEASE-RP"):
            self._end = read.name
        text = pdu_line(read.name, pdu, len(self._proposed))
        lines = [self._line(now, requestor, text, event="pdu", pdu=read.name, bytes=read.length)]
        took = now - self._at[not requestor]
        if read.name in ("A-ASSOCIATE-AC", "A-ASSOCIATE-RJ", "A-RELEASE-RP") and took >= SLOW:
            lines += self._note("slow", now, f"the {_name(requestor)} took {took:.1f} s for the {read.name}")
        return lines

    def _message(self, requestor: bool, read: MessageRead, now: float) -> list[Line]:
        command = read.command
        lines: list[Line] = []
        if self._accepted is not None and read.context_id not in self._accepted:
            text = f"{command.name} in the context {read.context_id}, which was not accepted"
            lines += self._note("nonsense", now, text)
        took = None
        if command.is_response:
            took = self._answered(requestor, command, now)
            self._count(command)
            if took is None:
                lines += self._note("nonsense", now, f"a {command.name} that answers nothing")
            elif took >= SLOW:
                text = f"the {_name(requestor)} took {took:.1f} s for its {command.name}"
                lines += self._note("slow", now, text, seconds=round(took, 6))
        elif command.command_field is not CommandField.C_CANCEL_RQ:
            lines += self._asked(requestor, command, now)
        text = command_line(command, took, comment=self._values)
        fields = fields_of(command)
        if took is not None:
            fields["seconds"] = round(took, 6)
        return [self._line(now, requestor, text, event="message", **fields), *lines]

    def _asked(self, requestor: bool, command: Command, now: float) -> list[Line]:
        key = requestor, command.message_id or 0
        is_twice = key in self._open
        if len(self._open) >= _MOST_OPEN and not is_twice:
            self._open.pop(next(iter(self._open)))
        self._open[key] = _Open(command.name, None if command.has_data_set else now)
        if is_twice:
            return self._note("nonsense", now, f"the Message ID {key[1]} is in use")
        return []

    def _answered(self, requestor: bool, command: Command, now: float) -> float | None:
        """How long the other side has waited for this response; None if it has asked nothing."""
        key = not requestor, command.message_id_being_responded_to or 0
        request = self._open.get(key)
        if request is None:
            return None
        # A response before the request has wholly come is quick.
        took = 0.0 if request.since is None else now - request.since
        self._times.setdefault(request.name, _Times()).add(took)
        if command.status in _PENDING:
            request.since = now
        else:
            del self._open[key]
        return took

    def _count(self, command: Command) -> None:
        kind = f"{command.name} {Status(command.status or 0)}"
        if kind not in self._statuses and len(self._statuses) >= _MOST_STATUSES:
            kind = "others"
        self._statuses[kind] += 1

    def _data(self, requestor: bool, read: DataRead, now: float) -> list[Line]:
        command = read.command
        if command.is_request:
            request = self._open.get((requestor, command.message_id or 0))
            if request is not None:
                request.since = now
        text = f"data set of the {command.name}: {read.length} bytes"
        lines = [self._line(now, requestor, text, event="data set", bytes=read.length)]
        if self._values:
            syntax = (self._accepted or {}).get(read.context_id, "")
            values = data_lines(read.head, read.length, syntax)
            lines += [self._line(now, requestor, f"    {value}", event="value") for value in values]
        return lines

    # in the end

    def summary(self, now: float) -> list[str]:
        """Tell what there was, in a few lines."""
        sent, received = (self._sides[side] for side in (True, False))
        title = f"{self._titles or 'no association'}: {now - self._began:.3f} s"
        lines = [
            f"{title}; {sent.bytes} bytes in {sent.messages} messages ->, {received.bytes} bytes in "
            f"{received.messages} messages <-; ended by {self._end or 'closing'}"
        ]
        for name, times in sorted(self._times.items()):
            mean = times.total / times.count * 1e3
            most = times.longest * 1e3
            lines.append(f"  {name}: {times.count} answers, {mean:.1f} ms on average, {most:.1f} ms at most")
        lines += [f"  {kind}: {count}" for kind, count in sorted(self._statuses.items())]
        for kind, count in sorted(self._notes.items()):
            lost = f", {self._lost[kind]} ms" if kind in self._lost else ""
            lines.append(f"  {kind}: {count} times{lost}")
        return [printable(line) for line in lines]


def _name(requestor: bool) -> str:
    return "requestor" if requestor else "acceptor"
