"""The messages of one association: what is received becomes requests and responses, ours go out.

This half of `dimse.association.AssociationCore` knows the operations in both directions; how an association
comes about and ends is the other half.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from asyncdicom.dimse.assembler import Assembler, DataReceived, MessageStarted, joined
from asyncdicom.dimse.events import (
    CancelReceived,
    CommandDropped,
    DuplicateRefused,
    Event,
    ResponseReceived,
)
from asyncdicom.dimse.fragmenter import Fragmenter
from asyncdicom.dimse.messages import Command, CommandField, encode, response_to
from asyncdicom.dimse.operations import (
    DuplicateInvocation,
    Invoked,
    InvokedOperations,
    PerformedOperations,
)
from asyncdicom.exceptions import AssociationAborted, AssociationClosed, AssociationError, RemoteProtocolError
from asyncdicom.options import Limits, Timeouts
from asyncdicom.status import Status
from asyncdicom.ul.decoder import PDataFragment
from asyncdicom.ul.negotiation import AcceptedContext, Negotiated
from asyncdicom.ul.protocol import UpperLayer
from asyncdicom.ul.statetable import State

__all__ = ["A_REQUEST", "NOTHING", "Exchange"]

# A request that comes after our A-RELEASE-RQ (AR-6), or together with the end of it all, is dropped.
_TAKES_REQUESTS = (State.STA6, State.STA8)


class _Gathering:
    """A data set that is kept until it is whole (that of a response), or thrown away.

    `then`: the event that is due when it has ended; `operation` is None if it is thrown away.
    """

    __slots__ = ("command", "length", "operation", "then", "views")

    def __init__(
        self, command: Command, operation: Invoked | None = None, then: DuplicateRefused | None = None
    ) -> None:
        self.command = command
        self.operation = operation
        self.then = then
        self.views: list[memoryview] = []
        self.length = 0


# What the data set that comes now belongs to, if it is not gathered.
NOTHING, A_REQUEST = None, True


class Exchange(ABC):
    """The operations of an association, in both directions. Times are in seconds.

    Attributes: `negotiated`, once it is known; `contexts`, the accepted presentation contexts by their ID;
    `failure`, what has ended the association, with so many requests of ours `unanswered`; `news`, what has
    happened and was not asked for yet.
    """

    __slots__ = (
        "_assembler",
        "_encoded",
        "_encoded_command",
        "_fragmenter",
        "_given",
        "_held",
        "_incoming",
        "_invoked",
        "_layer",
        "_limits",
        "_name",
        "_performed",
        "_performing",
        "_sending",
        "_timeouts",
        "_was_late",
        "contexts",
        "failure",
        "negotiated",
        "news",
        "unanswered",
    )

    def __init__(
        self,
        layer: UpperLayer,
        assembler: Assembler,
        invoked: InvokedOperations,
        performed: PerformedOperations,
        *,
        timeouts: Timeouts,
        limits: Limits,
        name: Callable[[], str],
    ) -> None:
        self.news: list[Event] = []
        self.negotiated: Negotiated | None = None
        self.contexts: dict[int, AcceptedContext] = {}
        self.failure: AssociationError | None = None
        self._layer = layer
        self._assembler = assembler
        self._invoked = invoked
        self._performed = performed
        self._timeouts = timeouts
        self._limits = limits
        self._name = name
        self._incoming: _Gathering | bool | None = NOTHING
        self._held: MessageStarted | None = None  # the request before which `receive_data` stops
        self._given = 0  # requests that this call of it gives to the driver
        self._performing = 0  # requests that the driver is not done with
        self._sending = 0  # requests of ours whose last byte has not left
        self._encoded_command: Command | None = None
        self._encoded = b""
        self._fragmenter: Fragmenter | None = None
        self._was_late = False  # the peer, with a response
        self.unanswered = 0

    # what the other half does

    @abstractmethod
    def check_open(self) -> None:
        """Raise what has ended the association, if it has ended."""

    @abstractmethod
    def check_invocable(self) -> None:
        """Raise why no operation can be invoked any more, if that is so."""

    @abstractmethod
    def reconsider(self, now: float) -> None:
        """An operation has ended: what waited for quiet may be due."""

    @abstractmethod
    def abort(self, now: float, why: str = "") -> None:
        """A-ABORT request."""

    # what can be seen

    @property
    def expecting_data(self) -> bool:
        """Whether a command has announced a data set that has not ended."""
        return self._assembler.expecting_data

    @property
    def has_room(self) -> bool:
        """Whether the operations window lets us invoke one more now (PS3.7 D.3.3.3)."""
        return self._invoked.has_room

    def has_room_for(self, length: int) -> bool:
        """The same for one with a data set of so many bytes (`Limits.maximum_outstanding`)."""
        return self._invoked.has_room_for(length)

    @property
    def operations(self) -> list[Invoked]:
        """The operations that we have invoked and that await their final response."""
        return list(self._invoked)

    @property
    def performing(self) -> int:
        """How many requests of the peer are being performed."""
        return self._performing

    @property
    def is_quiet(self) -> bool:
        """Whether no operation is under way in either direction."""
        return not (self._performing or self._sending or self._invoked.opened) and (
            self._incoming is NOTHING or self._incoming is A_REQUEST
        )

    @property
    def is_broken_by_window(self) -> bool | None:
        """Whether the peer has ended it because several operations were outstanding: None if it may have.

        Then it has answered fewer than the window is large: it minds the first time that there are two. It
        surely does by an A-ABORT; one that closes, or does not answer, may as well have crashed.
        """
        failure, invoked = self.failure, self._invoked
        if self.unanswered < 2 or (invoked.window and invoked.answered >= invoked.window):
            return False
        if isinstance(failure, AssociationAborted):
            if not failure.message:
                return True
            return None if self._was_late else False  # it was us
        return None if isinstance(failure, AssociationClosed) else False

    # out

    def begin(self, context_id: int, command: Command) -> tuple[Fragmenter, list[bytes | memoryview]]:
        """Begin a message: its encoded command, and what cuts its data set.

        Messages are sent one after another: the next may begin when the last fragment of this one is on its
        way. Raises what has ended the association, and LocalProtocolError if no message may be sent now or if
        this one cannot be encoded.
        """
        if self.failure is not None:
            self.check_open()
        self._layer.check_p_data()
        fragmenter = self._fragmenter  # nearly always the next message is in the same context
        if fragmenter is None or fragmenter.context_id != context_id:
            maximum_length = self.negotiated.maximum_length if self.negotiated is not None else 0
            fragmenter = self._fragmenter = Fragmenter(context_id, maximum_length)
        # A C-FIND provider sends one and the same Pending response with each match.
        if command is not self._encoded_command:
            self._encoded_command, self._encoded = command, encode(command)
        return fragmenter, fragmenter.command(self._encoded)

    # operations that we invoke

    def invoke(
        self, context_id: int, command: Command, now: float, *, timeout: float | None = None, length: int = 0
    ) -> Invoked:
        """Open an operation and give the command its Message ID; then send it, and tell when it has left.

        `timeout`: seconds for each response (None: `Timeouts.dimse`). `length`: bytes of its data set that
        count as outstanding. Raises LocalProtocolError without room
        in the window, and what makes operations impossible (`check_invocable`).
        """
        self.check_invocable()
        if timeout is None:
            timeout = self._timeouts.dimse
        invoked = self._invoked.open(
            context_id, command.command_field, timeout=timeout, now=now, length=length
        )
        command.message_id = invoked.message_id
        self._sending += 1
        self._layer.set_busy(True, now)
        return invoked

    def sent(self, operation: Invoked, now: float) -> None:
        """The last byte of the request has left: the peer's time runs."""
        self._sending -= 1
        self._invoked.sent(operation.message_id, now)
        operation.sending = False
        if operation.closed:
            self.reconsider(now)

    def unsent(self, operation: Invoked, now: float) -> None:
        """The request never left: it is forgotten."""
        self._sending -= 1
        operation.sending = False
        if not operation.closed:
            self._invoked.close(operation.message_id)
        self.reconsider(now)

    def cancel(self, operation: Invoked, now: float) -> Command | None:
        """Give the C-CANCEL-RQ to be sent for an operation; None if it has ended (PS3.7 9.3.2.3)."""
        if operation.closed or self.failure is not None:
            return None
        self._invoked.cancel(operation.message_id, self._timeouts.cancel, now)
        return Command(CommandField.C_CANCEL_RQ, message_id_being_responded_to=operation.message_id)

    def abandon(self, operation: Invoked) -> None:
        """Nobody waits for the responses any more: they are dropped when they come."""
        if not operation.closed:
            self._invoked.abandon(operation.message_id)

    # operations that we perform

    def responding(self, request: Command) -> None:
        """The final response is about to be sent: the peer may use the Message ID again when it sees it."""
        self._performed.close(request)

    def performed(self, request: Command, now: float) -> None:
        """The driver is done with a request: its final response was sent, or never will be."""
        self._performed.close(request)
        self._performing -= 1
        if not self._performing:
            self.reconsider(now)

    # what is received

    def _fragment(self, fragment: PDataFragment, now: float) -> None:
        for part in self._assembler.feed(
            fragment.context_id, fragment.is_command, fragment.views, fragment.is_last
        ):
            if isinstance(part, DataReceived):
                self._data(part, now)
            else:
                self._message(part, now)

    def _message(self, started: MessageStarted, now: float) -> None:
        command = started.command
        if started.context_id not in self.contexts:
            raise RemoteProtocolError(f"presentation context {started.context_id} was not accepted")
        if command.is_response:
            self._response(command, now)
        elif not self._takes(command):
            self._drop(command)
        elif command.command_field is CommandField.C_CANCEL_RQ:
            request = self._performed.cancel(command.message_id_being_responded_to or 0)
            if request is None:  # it has ended meanwhile (PS3.7 9.3.2.3)
                self._drop(command)
            else:
                self.news.append(CancelReceived(command, request))
        else:
            self._requested(started, now)

    def _takes(self, command: Command) -> bool:
        # An event report in answer to what we have asked may cross our A-RELEASE-RQ: it is not answered, but
        # told.
        state = self._layer.state
        is_report = command.command_field is CommandField.N_EVENT_REPORT_RQ
        return state in _TAKES_REQUESTS or (is_report and state is State.STA7)

    def _drop(self, command: Command) -> None:
        self.news.append(CommandDropped(command))
        self._incoming = _Gathering(command) if command.has_data_set else NOTHING

    def _requested(self, started: MessageStarted, now: float) -> None:
        command = started.command
        if self._given and self._performed.is_in_the_way(command):
            self._held = started  # the driver may answer at once what it is given now
            return
        try:
            self._performed.open(command)
        except DuplicateInvocation:
            response = response_to(command, Status.DUPLICATE_INVOCATION)
            refused = DuplicateRefused(started.context_id, command, response)
            if command.has_data_set:  # a peer that still sends does not read
                self._incoming = _Gathering(command, then=refused)
            else:
                self.news.append(refused)
            return
        self._given += 1
        self._performing += 1
        if self._performing == 1:
            self._layer.set_busy(True, now)
        self._incoming = A_REQUEST if command.has_data_set else NOTHING
        self.news.append(started)

    def _response(self, command: Command, now: float) -> None:
        operation = self._invoked.receive(command, now)
        if operation is None:
            self._drop(command)
        elif command.has_data_set:
            self._incoming = _Gathering(command, operation)
            return
        else:
            self.news.append(ResponseReceived(operation, command, None, operation.closed))
        self.reconsider(now)

    def _data(self, part: DataReceived, now: float) -> None:
        incoming = self._incoming
        gathering = incoming if type(incoming) is _Gathering else None
        if gathering is not None:
            self._gather(gathering, part, now)
        else:
            self.news.append(part)
        if part.is_last:
            self._incoming = NOTHING
            if self._invoked.opened:
                self._invoked.progressed(now)
            if gathering is not None:
                self.reconsider(now)

    def _gather(self, incoming: _Gathering, part: DataReceived, now: float) -> None:
        incoming.length += part.length
        if incoming.operation is None:
            if incoming.length > self._limits.maximum_discarded:
                self.abort(now, f"more than {self._limits.maximum_discarded} bytes to discard")
            elif part.is_last and incoming.then is not None:
                self.news.append(incoming.then)
            return
        if incoming.length > self._limits.maximum_data_set:
            raise RemoteProtocolError(f"the data set of a {incoming.command.name} is larger than allowed")
        incoming.views = joined(incoming.views + part.views, incoming.length)
        if part.is_last:
            data = b"".join(incoming.views)
            operation = incoming.operation
            self.news.append(ResponseReceived(operation, incoming.command, data, operation.closed))
