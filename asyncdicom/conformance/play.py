"""How a case is played, without a socket: what to send, what to wait for, what came back.

`play` is a generator. It yields bytes to be sent and `Do`s; for `Do.READ` it is sent what came: bytes,
none of them if the connection is closed, None if nothing came in time. For `Do.RECONNECT` None means that
there is no connection. It returns a `Verdict`.
"""

from __future__ import annotations

from collections.abc import Generator
from struct import error as struct_error
from struct import iter_unpack, unpack_from
from typing import NamedTuple

from asyncdicom.dimse.command import decode_elements
from asyncdicom.exceptions import RemoteProtocolError
from asyncdicom.ul.pdu import AAssociateAC, AAssociateRQ, decode_pdu

from .build import (
    CALLED,
    CALLING,
    RELEASE_RP,
    RELEASE_RQ,
    REQUEST,
    USER,
    VERIFICATION,
    ac,
    command,
    echo,
    even,
    message,
    result,
    transfer,
    us,
)
from .case import AWAITING_RESPONSE, ESTABLISHED, Case, Do, Facts, Received, Verdict, judge

__all__ = ["Play", "play"]

Play = Generator[bytes | Do, bytes | None, Verdict]
_Saying = Generator[bytes | Do, bytes | None, str]
_Doing = Generator[bytes | Do, bytes | None, None]

_LONGEST = 1 << 24  # no peer has to say more in one PDU
_PROBE = 60000  # a Message ID that no case uses
_PENDING = (0xFF00, 0xFF01)
_ENDS = ("abort", "reject", "closed", "released", "garbage", "refused")


class _Response(NamedTuple):
    message_id: int
    status: int


class _Skip(Exception):
    """A case that means nothing with this peer."""


class _Talk:
    """One connection, or several: all that was said on it."""

    def __init__(self, called: bytes, calling: bytes) -> None:
        self.called, self.calling = called.ljust(16), calling.ljust(16)
        self.sent = bytearray()
        self.received = bytearray()
        self.pdus: Received = []
        self.got: list[str] = []
        self.results: dict[int, int] = {}  # of the presentation contexts
        self.facts = Facts(called)
        self.response = _Response(0, 0)  # the last that came
        self._buffer = bytearray()
        self._command = bytearray()
        self._pdvs: list[tuple[int, int, bytes]] = []
        self._over = False  # we have said our last word

    # out

    def write(self, data: bytes) -> _Doing:
        """Send bytes, with the AE titles filled in."""
        data = data.replace(CALLED, self.called).replace(CALLING, self.calling)
        self.sent += data
        yield data

    def stimulate(self, case: Case) -> _Doing:
        """Send what the case is about."""
        for piece in case.send if isinstance(case.send, tuple) else (case.send,):
            if isinstance(piece, Do):
                self._over |= piece is Do.HALF_CLOSE
                if piece is Do.RECONNECT:
                    yield from self._connect_again()
                else:
                    yield piece
                continue
            data = piece if isinstance(piece, bytes) else piece(self.facts)
            if data is None:
                raise _Skip("it cannot be done with this peer")
            self._over |= data.endswith(RELEASE_RQ)
            yield from self.write(data)

    def _connect_again(self) -> _Doing:
        self._buffer.clear()
        self.results.clear()
        if (yield Do.RECONNECT) is None:
            self.got.append("refused")

    # in

    def next(self) -> _Saying:
        """What the peer says or does next; "silence" if it is nothing in time."""
        while True:
            try:
                said = self._said()
            except (RemoteProtocolError, struct_error, IndexError):
                said = "garbage"
            if said:
                return said
            data = yield Do.READ
            if data is None:
                return "silence"
            if not data:
                return "closed"
            self.received += data
            self._buffer += data

    def _said(self) -> str:
        while True:
            while self._pdvs:
                said = self._fragment(*self._pdvs.pop(0))
                if said:
                    return said
            if len(self._buffer) < 6:
                return ""
            pdu_type, length = unpack_from(">BxI", self._buffer)
            if not 1 <= pdu_type <= 7 or length > _LONGEST:
                return "garbage"
            if len(self._buffer) < 6 + length:
                return ""
            body = bytes(self._buffer[6 : 6 + length])
            del self._buffer[: 6 + length]
            self.pdus.append((pdu_type, body))
            if pdu_type != 4:
                return self._control(pdu_type, body)
            self._take_apart(body)

    def _control(self, pdu_type: int, body: bytes) -> str:
        match decode_pdu(pdu_type, body):
            case AAssociateRQ() as request:
                contexts = tuple(
                    (
                        context.context_id,
                        context.abstract_syntax.encode("latin-1"),
                        context.transfer_syntaxes[0].encode("latin-1"),
                    )
                    for context in request.presentation_contexts
                )
                self.facts = Facts(self.called, request.user_information.maximum_length, contexts)
                return "request"
            case AAssociateAC() as accept:
                self.results = {
                    context.context_id: context.result for context in accept.presentation_contexts
                }
                self.facts = Facts(self.called, accept.user_information.maximum_length)
                return " ".join(["accept", *(str(self.results[key]) for key in sorted(self.results))])
        match pdu_type:
            case 3:
                return "reject {1} {2} {3}".format(*body)
            case 5:
                return "release"
            case 6:
                return "released"
        return "abort {2} {3}".format(*body)

    def _take_apart(self, body: bytes) -> None:
        while body:
            length, context_id, control = unpack_from(">IBB", body)
            self._pdvs.append((context_id, control, body[6 : 4 + length]))
            body = body[4 + max(length, 2) :]

    def _fragment(self, context_id: int, control: int, data: bytes) -> str:
        if not control & 1:
            return ""  # what data the peer sends is of no interest
        self._command += data
        if not control & 2:
            return ""
        fields = decode_elements(bytes(self._command))
        self._command.clear()
        field = _number(fields[0x0100])
        if field < 0x8000:
            self.facts = self.facts._replace(message_id=_number(fields[0x0110]))
            return f"request {field:04X}"
        self.response = _Response(_number(fields[0x0120]), _number(fields[0x0900]))
        return "" if self.response.status in _PENDING else f"status {self.response.status:04X}"

    # an acceptor is tested

    def acceptor(self, case: Case) -> _Doing:
        """Play a case with the peer as acceptor."""
        if case.state == ESTABLISHED:
            yield from self.write(case.request or REQUEST)
            said = yield from self.next()
            if not said.startswith("accept"):
                self.got.append(f"no association: {said}")
                return
            if case.needs and self.results.get(case.needs) != 0:
                raise _Skip(f"presentation context {case.needs} was not accepted")
        yield from self.stimulate(case)
        if "refused" not in self.got:
            yield from self._observe(case)

    def _observe(self, case: Case) -> _Doing:
        """Wait until it is clear what the peer makes of it."""
        reactions = case.expect if case.state == ESTABLISHED else case.expect + case.tolerate
        goes_on = "goes on" in reactions and not self._over
        responses = case.expect.partition("|")[0].count("status ")
        while True:
            if goes_on and self.results and self._statuses() >= responses:
                yield from self._probe()
                return
            said = yield from self.next()
            if said == "silence" and self.results and not self._over:
                yield from self._probe()
                return
            self.got.append(said)
            if said == "silence" or said.startswith(_ENDS):
                return

    def _statuses(self) -> int:
        return sum(said.startswith("status") for said in self.got)

    def _probe(self) -> _Doing:
        """Does the association go on? A C-ECHO and the release tell."""
        if self.results.get(1) == 0:
            yield from self.write(echo(_PROBE))
            while True:
                said = yield from self.next()
                if said.startswith("status") and self.response.message_id == _PROBE:
                    break
                self.got.append(said)
                if said == "silence" or said.startswith(_ENDS):
                    return
            if self.response.status:
                self.got.append(f"C-ECHO {said}")
                return
        yield from self.write(RELEASE_RQ)
        said = yield from self.next()
        self.got.append("goes on" if said == "released" else said)

    # a requestor is tested

    def requestor(self, case: Case) -> _Doing:
        """Play a case with the peer as requestor, which wants a C-ECHO."""
        said = yield from self.next()
        if said != "request":
            self.got.append(f"no association: {said}")
            return
        if not self.facts.contexts or self.facts.contexts[0][1] != VERIFICATION:
            raise _Skip("Verification is not the first context that was proposed")
        context_id, _, syntax = self.facts.contexts[0]
        if case.state == AWAITING_RESPONSE:
            yield from self.write(ac(result(context_id, 0, transfer(syntax)), USER))
            said = yield from self.next()
            if said != "request 0030":
                self.got.append(f"no C-ECHO-RQ: {said}")
                return
        yield from self.stimulate(case)
        while True:
            said = yield from self.next()
            if said == "request 0030":
                yield from self.write(_echo_response(context_id, self.facts.message_id))
                continue
            self.got.append(said)
            if said == "release":
                yield from self.write(RELEASE_RP)
            if said == "silence" or said.startswith((*_ENDS, "release")):
                return


def _number(value: bytes) -> int:
    (number,) = next(iter_unpack("<H", value))
    return int(number)


def _echo_response(context_id: int, message_id: int) -> bytes:
    fields = {
        0x0002: even(VERIFICATION),
        0x0100: us(0x8030),
        0x0120: us(message_id),
        0x0800: us(0x0101),
        0x0900: us(0),
    }
    return message(context_id, command(fields))


def play(case: Case, *, called: str, calling: str) -> Play:
    """Play one case with a peer whose AE title is `called`; see the module for the protocol."""
    talk = _Talk(called.encode("latin-1"), calling.encode("latin-1"))
    why = ""
    try:
        yield from talk.acceptor(case) if case.is_acceptor else talk.requestor(case)
    except _Skip as skip:
        return Verdict(case, "skipped", "", str(skip), bytes(talk.sent), bytes(talk.received))
    got = ", ".join(talk.got)
    if case.check is not None and got.startswith("accept"):
        why = case.check(talk.pdus)
    return Verdict(case, judge(case, got, why), got, why, bytes(talk.sent), bytes(talk.received))
