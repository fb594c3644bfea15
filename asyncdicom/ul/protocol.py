"""One association's upper layer: bytes and primitives in, bytes and events out (PS3.8 9.2).

It has no clock, no socket and no loop: time is an argument, what is to be sent is fetched with
`data_to_send`, and what is to be reported is returned. The state table decides everything; this class
carries out its effects. Times are in seconds, of any one clock that does not go back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from asyncdicom.exceptions import LocalProtocolError, RemoteProtocolError
from asyncdicom.options import Limits, Timeouts, of_role

from .decoder import WITHOUT_END, ControlPDU, Decoder, PDataFragment
from .events import (
    AbortIndication,
    AssociateConfirmation,
    AssociateIndication,
    AssociateRejection,
    Event,
    ProtocolViolation,
    ReleaseConfirmation,
    ReleaseIndication,
    TimerExpired,
    TransportClosed,
)
from .negotiation import unacceptable
from .pdu import (
    A_ABORT,
    A_ASSOCIATE_AC,
    A_ASSOCIATE_RJ,
    A_ASSOCIATE_RQ,
    A_RELEASE_RP,
    A_RELEASE_RQ,
    NAMES,
    AAbort,
    AAssociateAC,
    AAssociateRJ,
    AAssociateRQ,
    AReleaseRP,
    AReleaseRQ,
    decode_pdu,
)
from .statetable import TRANSITIONS, Action, Effect, State, transition
from .statetable import Event as Evt

MAXIMUM_DRAIN = 1024 * 1024  # bytes taken while waiting for the peer to close
MINIMUM_PROGRESS = 1024  # bytes that earn a peer a new `receive` deadline while something is incomplete
MINIMUM_RATE = 1024  # bytes a second: what the whole of it may take, besides one `receive` time

_EVENT_OF_PDU = {
    A_ASSOCIATE_RQ: Evt.EVT6,
    A_ASSOCIATE_AC: Evt.EVT3,
    A_ASSOCIATE_RJ: Evt.EVT4,
    A_RELEASE_RQ: Evt.EVT12,
    A_RELEASE_RP: Evt.EVT13,
    A_ABORT: Evt.EVT16,
}
_NEED_THE_BODY = {Action.AE_3, Action.AE_4, Action.AE_6, Action.AA_3}
# The standard has one timer, ARTIM, which the table starts and stops in Sta2 and Sta13. Where else we wait
# for the peer, a timer of ours runs while the state lasts, and has the effect of an A-ABORT request.
_TIMER_OF_STATE = {
    State.STA5: "acse",
    State.STA7: "release",
    State.STA9: "release",
    State.STA10: "release",
    State.STA11: "release",
}
_MAY_SEND_DATA = {state for state in State if (state, Evt.EVT9) in TRANSITIONS}
_MAY_OWE_A_MESSAGE = {State.STA6, State.STA7}
_MAY_OWE_A_PDU = set(State) - {State.STA1, State.STA2, State.STA4, State.STA13}


class UpperLayer:
    """The protocol machine of one association.

    `requestor`: we opened the connection. `maximum_length`: what we announce for P-DATA-TF, in bytes
    (0: no limit). `maximum_associate_length`: the longest A-ASSOCIATE PDU taken, in bytes.

    Attributes: `state`; `wants_close`: the transport connection is to be closed now, once what is in
    `data_to_send` has left; `outgoing`: what that will give; `waiting`: what was received and not handled
    yet; `expecting_data`: set by the caller while a message it knows to be incomplete has no open fragment.

    The local primitives return whether they did anything: one that comes too late is dropped.
    """

    __slots__ = (
        "_abort_sent",
        "_accepted",
        "_artim",
        "_busy",
        "_decoder",
        "_drained",
        "_due",
        "_fault_seen",
        "_idle",
        "_idle_since",
        "_paused_at",
        "_progress",
        "_receive_deadline",
        "_request",
        "_state_deadline",
        "_timeouts",
        "expecting_data",
        "outgoing",
        "requestor",
        "state",
        "waiting",
        "wants_close",
    )

    def __init__(
        self,
        *,
        requestor: bool,
        maximum_length: int,
        timeouts: Timeouts = Timeouts(),
        maximum_associate_length: int = Limits.maximum_associate_length,
    ) -> None:
        self.state = State.STA1
        self.requestor = requestor
        self.wants_close = False
        self.expecting_data = False
        self._timeouts = timeouts
        self._idle = of_role(timeouts.idle, requestor=requestor)
        self._decoder = Decoder(maximum_length, maximum_associate_length)
        self.waiting: list[memoryview] = []
        self._request = b""
        self._accepted = 0  # one bit for each accepted presentation context ID
        self.outgoing: list[bytes] = []
        self._drained = 0
        self._fault_seen = False
        self._abort_sent = False
        self._artim: float | None = None
        self._state_deadline: float | None = None
        self._receive_deadline: float | None = None
        self._progress = 0
        self._due = 0.0  # when what was received of something incomplete should have come
        self._idle_since = 0.0
        self._busy = False
        self._paused_at: float | None = None

    # Local primitives.

    def associate(self, request: AAssociateRQ, now: float) -> bool:
        """A-ASSOCIATE request (Evt1): open the connection, then call `connected`."""
        encoded = request.encode()  # before anything happens: it may be refused
        if self._step(Evt.EVT1, now) is None:
            return False
        self._request = encoded
        return True

    def connected(self, now: float) -> bool:
        """The transport connection is there: Evt2 where we asked for it, Evt5 where the peer did."""
        if not self.requestor:
            return self._step(Evt.EVT5, now) is not None
        return self._step(Evt.EVT2, now, send=self._request) is not None

    def accept(self, accept: AAssociateAC, now: float) -> bool:
        """A-ASSOCIATE response, accept (Evt7)."""
        if self._step(Evt.EVT7, now, send=accept.encode()) is None:
            return False
        self._established(accept)
        return True

    def reject(self, rejection: AAssociateRJ, now: float) -> bool:
        """A-ASSOCIATE response, reject (Evt8)."""
        return self._step(Evt.EVT8, now, send=rejection.encode()) is not None

    def release(self, now: float) -> bool:
        """A-RELEASE request (Evt11); P-DATA may still be received until the confirmation."""
        return self._step(Evt.EVT11, now, send=AReleaseRQ().encode()) is not None

    def release_response(self, now: float) -> bool:
        """A-RELEASE response (Evt14)."""
        return self._step(Evt.EVT14, now, send=AReleaseRP().encode()) is not None

    def abort(self, now: float) -> bool:
        """A-ABORT request (Evt15). Before an A-ASSOCIATE-RQ has come the connection is simply closed."""
        if self.state is State.STA2:
            return self._step(Evt.EVT18, now) is not None
        return self._step(Evt.EVT15, now) is not None

    def check_p_data(self) -> None:
        """P-DATA request (Evt9): raises `LocalProtocolError` unless data may be sent in this state."""
        if self.state not in _MAY_SEND_DATA:
            raise LocalProtocolError(f"P-DATA cannot be sent in {self.state.name.capitalize()}")

    def violation(self, error: RemoteProtocolError, now: float) -> list[Event]:
        """A fault that was found in received P-DATA further up: abort the association for it (AA-8)."""
        events: list[Event] = []
        if self.state is not State.STA13:
            self._fault(Evt.EVT19, error, now, events)
        return events

    # The transport.

    def receive_data(self, data: memoryview, now: float, budget: int = WITHOUT_END) -> list[Event]:
        """Bytes have arrived. Never raises; the views in the events are slices of `data` itself.

        Stops behind `budget` fragments and PDUs (1 at least). What is left is kept, not copied: while
        there is something in `waiting`, call again, with no bytes if none have arrived.
        """
        events: list[Event] = []
        received = len(data)
        if self.state is State.STA1 or (self.state is State.STA13 and self._overflows(received, now)):
            self.waiting.clear()
            return events
        if self.waiting:
            if received:
                self.waiting.append(data)
            data = self.waiting.pop(0)
        completed = not self.is_owed
        decoder = self._decoder
        for item in decoder.feed(data, budget):
            if type(item) is PDataFragment:
                completed |= item.is_last
                if self.state is State.STA6 and self._accepted >> item.context_id & 1:  # nearly always
                    events.append(item)
                else:
                    self._fragment(item, now, events)
            elif type(item) is ControlPDU:
                completed = True
                self._control(item, now, events)
            elif self.state not in _MAY_OWE_A_MESSAGE:  # there DT-2 and AR-6 only hand on what comes
                self._received(Evt.EVT10, "P-DATA-TF", now, events)
        if decoder.consumed < len(data):
            self.waiting.insert(0, data[decoder.consumed :])
        error = decoder.error
        if error is not None and not self._fault_seen:
            self._fault_seen = True
            self._fault(Evt.EVT19, error, now, events)
        self._idle_since = now
        self._arm_receive(now, received, completed)
        return events

    def continues(self, length: int, now: float) -> bool:
        """Whether the `length` bytes that have arrived only go on with a fragment of a data set.

        Then they are accounted for, and go on with the last `PDataFragment`; if not, `receive_data` them.
        """
        if self.waiting or self.state not in _MAY_OWE_A_MESSAGE or not self._decoder.continues(length):
            return False
        self._idle_since = now
        self._arm_receive(now, length, False)
        return True

    def connection_closed(self, now: float) -> list[Event]:
        """The transport connection is gone (Evt17)."""
        events: list[Event] = []
        self._step(Evt.EVT17, now, events=events)
        return events

    def data_to_send(self) -> list[bytes]:
        """The PDUs to be sent now, each given once."""
        outgoing, self.outgoing = self.outgoing, []
        return outgoing

    # Time.

    def next_deadline(self) -> float | None:
        """When `handle_timer` has something to do, or None."""
        soonest = self._artim
        for deadline in (self._state_deadline, self._active_receive_deadline(), self._idle_deadline()):
            if deadline is not None and (soonest is None or deadline < soonest):
                soonest = deadline
        return soonest

    def handle_timer(self, now: float) -> list[Event]:
        """Do what is due; calling it too early or twice does nothing."""
        if self._artim is not None and self._artim <= now:
            is_news = self.state is State.STA2
            self._step(Evt.EVT18, now)
            return [TimerExpired("artim")] if is_news else []
        deadline = self._state_deadline
        if deadline is not None and deadline <= now:
            which = _TIMER_OF_STATE[self.state]
            self._step(Evt.EVT15, now)
            return [TimerExpired(which)]
        deadline = self._active_receive_deadline()
        if deadline is not None and deadline <= now:
            self._step(Evt.EVT15, now)
            return [TimerExpired("receive")]
        deadline = self._idle_deadline()
        if deadline is not None and deadline <= now:
            self._idle_since = now
            return [TimerExpired("idle")]
        return []

    def set_busy(self, busy: bool, now: float) -> None:
        """Whether any operation is outstanding: the idle timer runs only with none."""
        self._busy = busy
        self._idle_since = now

    def shorten_idle(self, idle: float) -> None:
        """From now on the association may have nothing under way for no longer than this."""
        self._idle = idle if self._idle is None else min(idle, self._idle)

    def pause(self, now: float) -> None:
        """We stop reading: the receive timer stands still."""
        if self._paused_at is None:
            self._paused_at = now

    def resume(self, now: float) -> None:
        """We read again."""
        if self._paused_at is not None:
            self._due += now - self._paused_at
            if self._receive_deadline is not None:
                self._receive_deadline += now - self._paused_at
        self._paused_at = None

    def _active_receive_deadline(self) -> float | None:
        return self._receive_deadline if self._paused_at is None and self.is_owed else None

    @property
    def is_owed(self) -> bool:
        """Whether the peer has begun something that it has to finish."""
        if self._decoder.in_pdu:
            return self.state in _MAY_OWE_A_PDU
        return self.state in _MAY_OWE_A_MESSAGE and (self._decoder.in_message or self.expecting_data)

    def _arm_receive(self, now: float, received: int, completed: bool) -> None:
        """Something begun anew, or enough of it, gives the peer a new deadline; less far for a slow one."""
        self._progress += received
        self._due = now if completed else self._due + received / MINIMUM_RATE
        if completed or self._progress >= MINIMUM_PROGRESS:
            timeout, due = self._timeouts.receive, self._due
            self._receive_deadline = None if timeout is None else (now if now < due else due) + timeout
            self._progress = 0

    def _idle_deadline(self) -> float | None:
        idle = self._idle
        return None if idle is None or self._busy or self.state is not State.STA6 else self._idle_since + idle

    # The protocol machine.

    def _step(
        self,
        event: Evt,
        now: float,
        *,
        send: bytes = b"",
        about: Any = None,
        events: list[Event] | None = None,
        acceptable: bool = True,
    ) -> Action | None:
        """Take one event to the table and carry out the effects; None if the cell is blank.

        `send`: the encoded PDU, where one is sent that is no A-ABORT. `about`: the PDU that was received,
        or the fault that was found. Indications are added to `events`: local primitives lead to none.
        """
        outcome = transition(self.state, event, requestor=self.requestor, acceptable=acceptable)
        if outcome is None:
            return None
        action, effects, state = outcome
        if state is not self.state:
            self.state = state
            self._idle_since = now
            self._start_timer(now)
        if events is None:
            events = []
        for effect in effects:
            if effect in _SEND_THE_PDU:
                self.outgoing.append(send)
            elif effect in _INDICATIONS:
                events.append(_INDICATIONS[effect](about))
            else:
                _EFFECTS[effect](self, about, now)
        return action

    def _send_user_abort(self, about: object, now: float) -> None:
        self._send_abort(AAbort(0, 0))

    def _send_provider_abort(self, error: RemoteProtocolError, now: float) -> None:
        self._send_abort(AAbort(2, error.reason))

    def _send_abort(self, abort: AAbort) -> None:
        """Once at most: a peer that goes on sending garbage is not told again (AA-7)."""
        if not self._abort_sent:
            self._abort_sent = True
            self.outgoing.append(abort.encode())

    def _close_transport(self, about: object, now: float) -> None:
        self.wants_close = True

    def _start_artim(self, about: object, now: float) -> None:
        timeouts = self._timeouts
        timeout = timeouts.artim if self.state is State.STA2 else timeouts.close
        self._artim = None if timeout is None else now + timeout

    def _stop_artim(self, about: object, now: float) -> None:
        self._artim = None

    def _start_timer(self, now: float) -> None:
        """The timer of ours that runs in the state just entered."""
        which = _TIMER_OF_STATE.get(self.state)
        timeout: float | None = getattr(self._timeouts, which) if which else None
        self._state_deadline = None if timeout is None else now + timeout

    def _established(self, accept: AAssociateAC) -> None:
        for context in accept.presentation_contexts:
            if context.result == 0:
                self._accepted |= 1 << context.context_id

    def _fragment(self, fragment: PDataFragment, now: float, events: list[Event]) -> None:
        if self.state not in _MAY_OWE_A_MESSAGE:
            return
        if self._accepted >> fragment.context_id & 1:
            events.append(fragment)
        else:
            error = RemoteProtocolError(f"P-DATA in presentation context {fragment.context_id}, not accepted")
            self._fault(Evt.EVT19, error, now, events)

    def _control(self, pdu: ControlPDU, now: float, events: list[Event]) -> None:
        event = _EVENT_OF_PDU[pdu.pdu_type]
        if TRANSITIONS.get((self.state, event)) not in _NEED_THE_BODY:
            self._received(event, NAMES[pdu.pdu_type], now, events)
            return
        try:
            received = decode_pdu(pdu.pdu_type, pdu.body)
        except RemoteProtocolError as error:
            self._fault(Evt.EVT19, error, now, events)
            return
        match received:
            case AAssociateRQ():
                rejection = unacceptable(received)
                if rejection is None:
                    self._step(event, now, about=received, events=events)
                else:
                    self._step(event, now, send=rejection.encode(), acceptable=False)
                    events.append(AssociateRejection(rejection))
            case AAssociateAC():
                self._established(received)
                self._step(event, now, about=received, events=events)
            case _:  # A-ASSOCIATE-RJ, A-ABORT
                self._step(event, now, about=received, events=events)

    def _received(self, event: Evt, name: str, now: float, events: list[Event]) -> None:
        """A PDU of which nothing but its type matters."""
        action = TRANSITIONS.get((self.state, event))
        if action in (Action.AA_1, Action.AA_7, Action.AA_8):
            where = self.state.name.capitalize()
            self._fault(event, RemoteProtocolError(f"unexpected {name} in {where}", reason=2), now, events)
            return
        self._step(event, now, events=events)

    def _fault(self, event: Evt, error: RemoteProtocolError, now: float, events: list[Event]) -> None:
        """The peer broke the protocol: AA-1, AA-7 or AA-8."""
        action = self._step(event, now, about=error, events=events)
        if action is Action.AA_1:  # no user knows of this connection, but whoever looks after it should
            events.append(ProtocolViolation(error))

    def _overflows(self, length: int, now: float) -> bool:
        """Whether a peer that should close has sent too much: then it is treated as if ARTIM had expired."""
        self._drained += length
        return self._drained > MAXIMUM_DRAIN and self._step(Evt.EVT18, now) is not None


def _provider_abort(about: RemoteProtocolError | None) -> Event:
    return TransportClosed() if about is None else ProtocolViolation(about)


# How the effects of the table are carried out.
_SEND_THE_PDU = {
    Effect.SEND_ASSOCIATE_RQ,
    Effect.SEND_ASSOCIATE_AC,
    Effect.SEND_ASSOCIATE_RJ,
    Effect.SEND_RELEASE_RQ,
    Effect.SEND_RELEASE_RP,
}
_INDICATIONS: dict[Effect, Callable[[Any], Event]] = {
    Effect.INDICATE_ASSOCIATE: AssociateIndication,
    Effect.CONFIRM_ACCEPT: AssociateConfirmation,
    Effect.CONFIRM_REJECT: AssociateRejection,
    Effect.INDICATE_RELEASE: lambda about: ReleaseIndication(collision=False),
    Effect.INDICATE_RELEASE_COLLISION: lambda about: ReleaseIndication(collision=True),
    Effect.CONFIRM_RELEASE: lambda about: ReleaseConfirmation(),
    Effect.INDICATE_ABORT: lambda abort: AbortIndication(abort.source, abort.reason),
    Effect.INDICATE_PROVIDER_ABORT: _provider_abort,
}
_EFFECTS: dict[Effect, Callable[[UpperLayer, Any, float], None]] = {
    Effect.CLOSE_TRANSPORT: UpperLayer._close_transport,
    Effect.START_ARTIM: UpperLayer._start_artim,
    Effect.STOP_ARTIM: UpperLayer._stop_artim,
    Effect.SEND_USER_ABORT: UpperLayer._send_user_abort,
    Effect.SEND_PROVIDER_ABORT: UpperLayer._send_provider_abort,
}
