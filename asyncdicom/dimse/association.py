"""One association without IO: bytes and time go in, what has happened and what is to be sent comes out.

Whoever drives it (`net.channel`, a test, a fuzzer) hands in what arrives with `receive_data`, calls the local
primitives, and after each call carries out three things: the `events`, `data_to_send`, and `wants_close`. It
calls `handle_timer` at `next_deadline`. Time is in seconds of any one clock that does not go back.

    bytes  ->  UpperLayer  ->  Assembler  ->  PerformedOperations (their requests)
                                              InvokedOperations (responses to ours)

Every decision about the end of an association stands here: who may still speak during a release (PS3.8 7.2),
what an operation without an answer leads to, and which exception tells it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, cast

from asyncdicom.dimse.assembler import Assembler, MessageStarted
from asyncdicom.dimse.events import (
    Ended,
    Established,
    Event,
    OperationFailed,
    OperationsFailed,
)
from asyncdicom.dimse.exchange import A_REQUEST, NOTHING, Exchange
from asyncdicom.dimse.operations import (
    InvokedOperations,
    PerformedOperations,
)
from asyncdicom.exceptions import (
    AssociationAborted,
    AssociationClosed,
    AssociationError,
    AssociationRejected,
    AssociationReleased,
    AssociationTimeout,
    RemoteProtocolError,
)
from asyncdicom.options import Limits, Timeouts
from asyncdicom.ul.decoder import WITHOUT_END, PDataFragment
from asyncdicom.ul.events import (
    AbortIndication,
    AssociateConfirmation,
    AssociateIndication,
    AssociateRejection,
    ProtocolViolation,
    ReleaseConfirmation,
    ReleaseIndication,
    TimerExpired,
)
from asyncdicom.ul.items import UserInformation
from asyncdicom.ul.negotiation import Negotiated, confirm
from asyncdicom.ul.pdu import AAssociateAC, AAssociateRJ, AAssociateRQ
from asyncdicom.ul.protocol import UpperLayer
from asyncdicom.ul.statetable import State

__all__ = ["AssociationCore"]

_EXPIRED = {
    "artim": "no A-ASSOCIATE-RQ came in time",
    "acse": "the peer did not answer the A-ASSOCIATE-RQ in time",
    "release": "the peer did not answer the A-RELEASE-RQ in time",
    "receive": "the peer stopped in the middle of a message",
}


class AssociationCore(Exchange):
    """The state of one association, on either side.

    `requestor`: we opened the connection. `timeouts` and `limits`: what stands in `options`. `name` tells
    which association this is, for the texts of exceptions.

    Attributes: `request` and `negotiated`, once they are known; `contexts`, the accepted presentation
    contexts by their ID; `failure`, what has ended the association; `news`, what `events` will give;
    `queued`, set by the driver: how many wait for room in the operations window, and use it before a release;
    `unanswered`: how many operations of ours were outstanding when it ended.
    """

    __slots__ = (
        "_answer_by",
        "_drains",
        "_half_closed",
        "_left",
        "_quiet_by",
        "_wants_release",
        "queued",
        "request",
    )

    def __init__(
        self,
        *,
        requestor: bool,
        timeouts: Timeouts = Timeouts(),
        limits: Limits = Limits(),
        name: Callable[[], str] = lambda: "association",
    ) -> None:
        layer = UpperLayer(
            requestor=requestor,
            maximum_length=limits.maximum_length,
            timeouts=timeouts,
            maximum_associate_length=limits.maximum_associate_length,
        )
        super().__init__(
            layer,
            Assembler(),
            InvokedOperations(1),
            PerformedOperations(1),
            timeouts=timeouts,
            limits=limits,
            name=name,
        )
        self._left: list[Any] = []  # what the last call of `receive_data` has understood and not handled
        self._half_closed = False
        self._drains = False  # as an acceptor, too, we release it when it is idle
        self._wants_release: bool | None = None  # once quiet: True to release, False to abort
        self._quiet_by: float | None = None  # until when that has to be
        self._answer_by: float | None = None  # until when we may put off the A-RELEASE-RP
        self.request: AAssociateRQ | None = None
        self.queued = 0

    # what can be seen

    @property
    def state(self) -> State:
        """The state of PS3.8 9.2.1."""
        return self._layer.state

    @property
    def is_requestor(self) -> bool:
        """Whether we have asked for the association."""
        return self._layer.requestor

    @property
    def is_established(self) -> bool:
        """Whether operations can be invoked."""
        return self.failure is None and self._layer.state is State.STA6

    @property
    def has_more(self) -> bool:
        """Whether something that was received waits to be handled: call `receive_data` again, with b""."""
        return bool(self._left or self._layer.waiting)

    @property
    def is_owed(self) -> bool:
        """Whether the peer has to send more before we do: the rest of a message, or the next response."""
        return self._layer.is_owed or bool(self._invoked.opened)

    @property
    def is_settled(self) -> bool:
        """Whether nothing is to be carried out: no `news`, nothing in `data_to_send`, and no `wants_close`.

        That is one look where there would be three, after each message; False where a second look is needed.
        """
        layer = self._layer
        return not (self.news or layer.outgoing or layer.wants_close or self._half_closed)

    @property
    def wants_close(self) -> bool:
        """Whether the connection is to be closed now, once what is in `data_to_send` has left."""
        return self._layer.wants_close or (
            self._half_closed
            and self._layer.state is not State.STA8
            and (self.failure is not None or self.is_quiet)
        )

    def check_open(self) -> None:
        """Raise what has ended the association, if it has ended."""
        failure = self.failure
        if failure is not None:
            raise copy.copy(failure) from failure.__cause__

    def check_invocable(self) -> None:
        """Raise why no operation can be invoked any more, if that is so."""
        if self.failure is not None:
            self.check_open()
        if self._layer.state is State.STA8:
            raise AssociationReleased(f"{self._name()}: the peer has asked for the release")
        if self._half_closed:
            raise AssociationClosed(f"{self._name()}: the peer has closed its half of the connection")

    # out

    def events(self) -> list[Event]:
        """What has happened since this was last asked, in its order."""
        events, self.news = self.news, []
        return events

    def data_to_send(self) -> list[bytes]:
        """The PDUs to be sent now, each given once; those of messages are not among them (`begin`)."""
        return self._layer.data_to_send()

    # the life of the association

    def associate(self, request: AAssociateRQ, now: float) -> None:
        """A-ASSOCIATE request: it is sent as soon as the connection stands (PS3.8 7.1)."""
        self.request = request
        self._layer.associate(request, now)

    def connected(self, now: float) -> None:
        """The transport connection stands."""
        self._layer.connected(now)

    def accept(self, accept: AAssociateAC, negotiated: Negotiated, now: float) -> None:
        """Answer an AssociateIndication (PS3.8 7.1)."""
        if self.request is not None and self._layer.accept(accept, now):
            # What was proposed is kept no longer.
            self.request = self.request._replace(presentation_contexts=(), user_information=UserInformation())
            self._adopt(negotiated)

    def reject(self, rejection: AAssociateRJ, now: float) -> None:
        """Refuse an AssociateIndication."""
        if self._layer.reject(rejection, now):
            self.fail(AssociationRejected(*rejection, peer=self._name()))

    def release(self, now: float) -> None:
        """Let what is under way end, then A-RELEASE; A-ABORT when that takes too long (PS3.8 7.2)."""
        self._end_when_quiet(True, self._timeouts.release, now)

    def stop(self, timeout: float | None, now: float) -> None:
        """A-ABORT when no operation is under way, or in `timeout` seconds: how an acceptor shuts down."""
        self._end_when_quiet(False, timeout, now)
        if timeout is not None and timeout <= 0:
            self.abort(now)

    def drain(self, idle: float) -> None:
        """Release it once nothing was under way for `idle` seconds, also as its acceptor (PS3.8 7.2)."""
        self._drains = True
        self._layer.shorten_idle(idle)

    def reconsider(self, now: float) -> None:
        """An operation has ended, or nobody waits in `queued` any more: what waited for quiet may be due."""
        if self.failure is not None or self._left:
            return
        if self._layer.state is State.STA8:
            if not self._performing:
                self._agree_to_release(now)
        elif self.is_quiet:
            self._layer.set_busy(False, now)
            if self._wants_release is False:
                self.abort(now)  # before a busy peer asks for more
            elif self._wants_release and not self.queued:
                self._wants_release = self._quiet_by = None
                self._layer.release(now)

    def abort(self, now: float, why: str = "") -> None:
        """A-ABORT request (PS3.8 7.3)."""
        if self.failure is None:
            self._layer.abort(now)
            what = f"the association was aborted by this side{': ' if why else ''}{why}"
            self.fail(AssociationAborted(0, 0, f"{self._name()}: {what}"))

    def fail(self, error: AssociationError) -> None:
        """The driver gives the connection up; the first failure counts."""
        if self.failure is None:
            self.failure = error
            self.unanswered = len(self._invoked)
            self._incoming = NOTHING
            self._quiet_by = self._answer_by = None
            self.news.append(Ended(error))

    # the transport

    def receive_data(self, view: memoryview, now: float, budget: int = WITHOUT_END) -> list[Event]:
        """Bytes have arrived; gives `events`. The views in them are slices of `view` itself.

        Handles at most `budget` messages or fragments (1 at least; messages weigh more) and keeps the place:
        while `has_more`, call again, with an empty view if nothing has arrived. Stops also before a request
        that would break the operations window, or that has the Message ID of another, if requests come before
        it: the driver may answer those at once.
        """
        layer = self._layer
        events: Sequence[Any] = (
            self._some_left(view, budget) if self._left else layer.receive_data(view, now, budget)
        )
        self._given = 0
        for number, event in enumerate(events, 1):
            if type(event) is not PDataFragment and type(event) is not MessageStarted:
                self._happened(event, now)
                continue
            if self.failure is not None:
                continue
            try:
                if isinstance(event, PDataFragment):
                    self._fragment(event, now)
                else:
                    self._requested(event, now)
            except RemoteProtocolError as error:
                self._violated(error, now)
                break
            if self._held is not None:
                self._left[:0] = (self._held, *events[number:])
                self._held = None
                break
        else:
            if self._wants_release is not None and not self._left:
                self.reconsider(now)  # which had to wait for what was left
        layer.expecting_data = self._assembler.expecting_data
        news, self.news = self.news, []
        return news

    def _some_left(self, view: memoryview, budget: int) -> list[Any]:
        """What the last call has left, as far as the budget goes; `view` waits behind it."""
        if len(view):
            self._layer.waiting.append(view)
        left, self._left = self._left, []
        for number, event in enumerate(left):
            if budget <= 0:
                self._left = left[number:]
                return left[:number]
            if type(event) is PDataFragment and len(event.views) > budget:
                rest = PDataFragment(event.context_id, event.is_command, event.views[budget:], event.is_last)
                first = PDataFragment(event.context_id, event.is_command, event.views[:budget])
                self._left = [rest, *left[number + 1 :]]
                return [*left[:number], first]
            budget -= max(len(event.views), 1) if type(event) is PDataFragment else 1
        return left

    def continues(self, length: int, now: float) -> bool:
        """Whether the `length` bytes that have arrived only go on with the data set of a request.

        Then they are accounted for, and belong behind the last `DataReceived`; if not, `receive_data` them.
        """
        return self._incoming is A_REQUEST and self._layer.continues(length, now)

    def eof(self, now: float) -> bool:
        """The peer sends no more: whether the connection stays open, because what it asked is answered."""
        awaited = self._assembler.expecting_data or self._invoked.opened  # what can never come now
        self._half_closed = self.failure is None and self._performing > 0 and not awaited
        self.closed_behind(now)
        return self._half_closed

    def closed_behind(self, now: float) -> None:
        """The peer has closed its half, perhaps behind what is still to be read: what it asked has to end."""
        if self.failure is None:
            self._end_in(self._timeouts.half_closed, now)

    def _end_in(self, timeout: float | None, now: float) -> None:
        """Abort in `timeout` seconds, if it is not to be sooner."""
        if timeout is not None and (self._quiet_by is None or now + timeout < self._quiet_by):
            self._quiet_by = now + timeout

    def connection_closed(self, now: float, why: str = "", cause: Exception | None = None) -> None:
        """The transport connection is gone; `why` completes "the peer closed ..." where it was too early."""
        how = "the connection was closed"
        for event in self._layer.connection_closed(now):
            self.news.append(event)
            how = f"the peer closed {why or 'the connection'}"
        error = AssociationClosed(f"{self._name()}: {how}")
        error.__cause__ = cause
        self.fail(error)

    # time

    def pause(self, now: float) -> None:
        """Reading is paused: the peer's deadlines are suspended."""
        self._layer.pause(now)
        self._invoked.pause(now)

    def resume(self, now: float) -> None:
        """Reading goes on, and so do the deadlines."""
        self._layer.resume(now)
        self._invoked.resume(now)

    def next_deadline(self) -> float | None:
        """When `handle_timer` has something to do; None for not before something else happens."""
        soonest = self._layer.next_deadline()
        if self.failure is None:
            response = self._invoked.next_deadline() if self._invoked.opened else None
            for deadline in (response, self._quiet_by, self._answer_by):
                if deadline is not None and (soonest is None or deadline < soonest):
                    soonest = deadline
        return soonest

    def handle_timer(self, now: float) -> list[Event]:
        """Do what is due, and give `events`; calling it too early or twice does nothing."""
        for event in self._layer.handle_timer(now):
            self._happened(event, now)
        if self.failure is None:
            self._expire(now)
        if self._quiet_by is not None and now >= self._quiet_by:
            self._quiet_by = None
            self.abort(now, "operations did not end in time")
        if self._answer_by is not None and now >= self._answer_by:
            self._agree_to_release(now)
        return self.events()

    def _expire(self, now: float) -> None:
        """Fail the operations whose response did not come in time, and the association with them."""
        if self._assembler.expecting_data:
            self._invoked.progressed(now)
        late = self._invoked.expired(now)
        for operation in late:
            error = AssociationTimeout(f"{self._name()}: the response did not come in time", which="dimse")
            self.news.append(OperationFailed(operation, error))
        if late:
            self._was_late = True
            self.abort(now)

    # what the upper layer reports

    def _happened(self, event: Any, now: float) -> None:
        self.news.append(event)
        _REACTIONS[type(event)](self, event, now)

    def _on_indication(self, event: AssociateIndication, now: float) -> None:
        self.request = event.request

    def _on_confirmation(self, event: AssociateConfirmation, now: float) -> None:
        request = cast("AAssociateRQ", self.request)  # only who has asked gets a confirmation
        try:
            self._adopt(confirm(request, event.accept))
        except RemoteProtocolError as error:
            self._violated(error, now)

    def _on_rejection(self, event: AssociateRejection, now: float) -> None:
        self.fail(AssociationRejected(*event.rejection, peer=self._name()))

    def _on_release(self, event: ReleaseIndication, now: float) -> None:
        if event.collision:
            if self._layer.requestor:  # AR-9; the acceptor waits for ours first (PS3.8 9.2.2)
                self._layer.release_response(now)
            return
        error = AssociationReleased(f"{self._name()}: released by the peer before it answered")
        self.news.append(OperationsFailed(error))
        if self._performing and not self._assembler.expecting_data:
            # AR-7: responses may still be sent before the A-RELEASE-RP.
            timeout = self._timeouts.release
            self._answer_by = None if timeout is None else now + timeout
            self._wants_release = self._quiet_by = None
        else:  # also inside a message, whose end can come no more
            self._agree_to_release(now)

    def _agree_to_release(self, now: float) -> None:
        self._answer_by = None
        self._layer.release_response(now)
        self.fail(AssociationReleased(f"{self._name()}: the association was released"))

    def _on_released(self, event: ReleaseConfirmation, now: float) -> None:
        if self._layer.state is State.STA12:
            self._layer.release_response(now)  # a collision, and we are the acceptor: AR-4
        self.fail(AssociationReleased(f"{self._name()}: the association was released"))

    def _on_abort(self, event: AbortIndication, now: float) -> None:
        self.fail(AssociationAborted(event.source, event.reason, peer=self._name()))

    def _on_violation(self, event: ProtocolViolation, now: float) -> None:
        what = f"{self._name()}: aborted, the peer broke the protocol: {event.error}"
        error = AssociationAborted(2, event.error.reason, what)
        error.__cause__ = event.error
        self.fail(error)

    def _on_timer(self, event: TimerExpired, now: float) -> None:
        if event.which != "idle":
            what = _EXPIRED.get(event.which, event.which)
            self.fail(AssociationTimeout(f"{self._name()}: {what}", which=event.which))
        elif self._layer.requestor or self._drains:
            self.release(now)
        else:
            self.abort(now, "it was idle for too long")

    def _violated(self, error: RemoteProtocolError, now: float) -> None:
        for event in self._layer.violation(error, now):
            self._happened(event, now)

    # beginning, quiet and end

    def _adopt(self, negotiated: Negotiated) -> None:
        self.negotiated = negotiated
        self.contexts = negotiated.contexts
        self._invoked = InvokedOperations(negotiated.operations_invoked, self._limits.maximum_outstanding)
        self._performed = PerformedOperations(negotiated.operations_performed)
        self.news.append(Established(negotiated))

    def _end_when_quiet(self, wants_release: bool, timeout: float | None, now: float) -> None:
        if self.failure is not None or self._wants_release is False:
            return
        if self._layer.state < State.STA6:  # there is no association that could be released
            self.abort(now)
            return
        self._wants_release = wants_release
        self._end_in(timeout, now)
        self.reconsider(now)


_REACTIONS: dict[type, Callable[[AssociationCore, Any, float], None]] = {
    AssociateIndication: AssociationCore._on_indication,
    AssociateConfirmation: AssociationCore._on_confirmation,
    AssociateRejection: AssociationCore._on_rejection,
    ReleaseIndication: AssociationCore._on_release,
    ReleaseConfirmation: AssociationCore._on_released,
    AbortIndication: AssociationCore._on_abort,
    ProtocolViolation: AssociationCore._on_violation,
    TimerExpired: AssociationCore._on_timer,
}
