"""Which operations are open on an association: Message IDs, their number, their deadlines, their end.

PS3.7 D.3.3.3: a window says how many operations may be outstanding; 0 is any number. An operation is open
from its request until its final response. Time is an argument, in seconds of any monotonic clock.
"""

from __future__ import annotations

from collections.abc import Iterator

from asyncdicom.dimse.messages import Command, CommandField
from asyncdicom.exceptions import LocalProtocolError, RemoteProtocolError
from asyncdicom.options import OPERATIONS

__all__ = [
    "MAXIMUM_DUPLICATES",
    "MAXIMUM_PENDING",
    "MAXIMUM_REPEATED",
    "MAXIMUM_STRAYS",
    "DuplicateInvocation",
    "Invoked",
    "InvokedOperations",
    "PerformedOperations",
]

MAXIMUM_STRAYS = 1000
"""An association tolerates so many responses to nothing, and so many cancels of nothing."""

MAXIMUM_DUPLICATES = 100
"""An association answers so many requests under a Message ID that is in use."""

MAXIMUM_PENDING = 1_000_000
"""A C-GET or C-MOVE may have so many Pending responses: each gives the peer new time."""

MAXIMUM_REPEATED = 1000
"""So many of them in a row may say nothing new: the same numbers of sub-operations as the one before."""

_LARGEST_MESSAGE_ID = 0xFFFF
_MOST_REQUESTS = 0x10000  # 0 is a Message ID, too
_UNEXPECTED = 5  # PS3.8 Table 9-26: unexpected PDU parameter
_PENDING = (0xFF00, 0xFF01)
_SEVERAL_RESPONSES = (CommandField.C_FIND_RQ, CommandField.C_GET_RQ, CommandField.C_MOVE_RQ)


class DuplicateInvocation(RemoteProtocolError):
    """A request came with the Message ID of an open operation: answer 0x0210 (PS3.7 Annex C)."""


class Invoked:
    """One operation that we asked the peer to perform."""

    __slots__ = (
        "abandoned",
        "cancelled",
        "closed",
        "command_field",
        "context_id",
        "deadline",
        "length",
        "message_id",
        "numbers",
        "pending",
        "prolonged",
        "repeated",
        "sending",
        "timeout",
    )

    def __init__(
        self,
        message_id: int,
        context_id: int,
        command_field: CommandField,
        timeout: float | None,
        length: int = 0,
    ) -> None:
        self.length = length
        """Bytes of its data set that count as outstanding."""
        self.message_id = message_id
        self.context_id = context_id
        self.command_field = command_field
        self.timeout = timeout
        self.deadline: float | None = None
        self.cancelled = False
        """C-CANCEL was sent: only the final response is awaited."""
        self.abandoned = False
        """Nobody awaits the response any more."""
        self.closed = False
        """The final response has come."""
        self.sending = True
        """The last byte of the request has not left."""
        self.prolonged = 0
        """So often its deadline was put off, because others were answered."""
        self.pending = 0
        """So many Pending responses have come."""
        self.numbers: tuple[int | None, ...] = ()
        """What the last of them said about the sub-operations."""
        self.repeated = 0
        """So many of them in a row have said just that."""

    def __repr__(self) -> str:
        flags = [flag for flag in ("cancelled", "abandoned", "closed") if getattr(self, flag)]
        return f"<{' '.join([*flags, self.command_field.name, str(self.message_id)])}>"


class InvokedOperations:
    """The operations that this side has invoked; `window` is the negotiated number, 0 for any.

    `maximum_outstanding`: how many bytes of their data sets may be outstanding; of one there may be more.
    `opened`: those that await their final response, by Message ID; `answered`: how many have had it.

    The peer may take `timeout` for each C-STORE, also where several wait: its time begins anew with every
    answer to another one, as often as the window is large.
    """

    __slots__ = (
        "_heard",
        "_last_message_id",
        "_paused_at",
        "_stood_still",
        "_strays",
        "answered",
        "maximum_outstanding",
        "opened",
        "outstanding",
        "window",
    )

    def __init__(self, window: int = 1, maximum_outstanding: int | None = None) -> None:
        self.window = window
        self.maximum_outstanding = maximum_outstanding
        self.outstanding = 0
        self.answered = 0
        self.opened: dict[int, Invoked] = {}
        self._last_message_id = 0
        self._strays = 0
        # Deadlines are kept in a time of their own, which stands still while reading is paused: what
        # the peer has answered cannot be seen then.
        self._paused_at: float | None = None
        self._stood_still = 0.0
        self._heard = 0.0  # in that time: the last final response to a C-STORE

    def __len__(self) -> int:
        return len(self.opened)

    def __iter__(self) -> Iterator[Invoked]:
        return iter(list(self.opened.values()))

    def is_open(self, message_id: int) -> bool:
        """Whether this operation still awaits its final response, abandoned or not."""
        return message_id in self.opened

    @property
    def has_room(self) -> bool:
        """Whether one more may be invoked now."""
        return len(self.opened) < (self.window or _LARGEST_MESSAGE_ID)

    def has_room_for(self, length: int) -> bool:
        """Whether one more may be invoked now that has a data set of so many bytes."""
        if len(self.opened) >= (self.window or _LARGEST_MESSAGE_ID):
            return False
        outstanding, maximum = self.outstanding, self.maximum_outstanding
        return not (outstanding and length) or maximum is None or outstanding + length <= maximum

    def open(
        self,
        context_id: int,
        command_field: CommandField,
        *,
        timeout: float | None,
        now: float,
        length: int = 0,
    ) -> Invoked:
        """Open an operation under a free Message ID; its timer waits for `sent`.

        `timeout` is how long the peer may take for a response, and between two of them; None for ever.
        `length`: bytes of its data set that count as outstanding.
        Raises LocalProtocolError if there is no room.
        """
        if len(self.opened) >= (self.window or _LARGEST_MESSAGE_ID):
            raise LocalProtocolError(f"{len(self.opened)} operations are open, and the peer allows no more")
        message_id = self._last_message_id
        while True:
            message_id = message_id % _LARGEST_MESSAGE_ID + 1
            if message_id not in self.opened:
                break
        self._last_message_id = message_id
        invoked = Invoked(message_id, context_id, command_field, timeout, length)
        self.opened[message_id] = invoked
        self.outstanding += length
        return invoked

    def sent(self, message_id: int, now: float) -> None:
        """The last byte of the request has left: the peer's time runs."""
        invoked = self.opened.get(message_id)
        if invoked is not None:
            invoked.sending = False
            if not invoked.cancelled:
                self._restart(invoked, now)

    def receive(self, command: Command, now: float) -> Invoked | None:
        """Take a response: the operation it belongs to, `closed` if it is the final one.

        None if nobody awaits it: the operation was abandoned, or there is none (then too many raise
        RemoteProtocolError).
        """
        message_id = command.message_id_being_responded_to or 0
        invoked = self.opened.get(message_id)
        if invoked is None or command.command_field != invoked.command_field | 0x8000:
            self._strays += 1
            if self._strays > MAXIMUM_STRAYS:
                raise RemoteProtocolError(f"more than {MAXIMUM_STRAYS} responses to nothing")
            return None
        if command.status not in _PENDING:
            invoked.closed = True
            invoked.deadline = None
            del self.opened[message_id]
            self.outstanding -= invoked.length
            self.answered += 1
            if invoked.command_field is CommandField.C_STORE_RQ:
                self._heard = now - self._stood_still
        elif invoked.command_field in _SEVERAL_RESPONSES:  # elsewhere Pending means nothing: no progress
            if invoked.command_field is not CommandField.C_FIND_RQ:
                self._count_pending(invoked, command)
            if not invoked.cancelled:
                self._restart(invoked, now)
        return None if invoked.abandoned else invoked

    def _count_pending(self, invoked: Invoked, command: Command) -> None:
        """A retrieval may take long, but not for ever. Raises RemoteProtocolError."""
        numbers = (
            command.number_of_remaining_sub_operations,
            command.number_of_completed_sub_operations,
            command.number_of_failed_sub_operations,
            command.number_of_warning_sub_operations,
        )
        invoked.pending += 1
        invoked.repeated = invoked.repeated + 1 if numbers == invoked.numbers else 0
        invoked.numbers = numbers
        if invoked.pending > MAXIMUM_PENDING:
            raise RemoteProtocolError(f"more than {MAXIMUM_PENDING} Pending responses to one operation")
        if invoked.repeated > MAXIMUM_REPEATED:
            raise RemoteProtocolError(f"more than {MAXIMUM_REPEATED} Pending responses that say nothing new")

    def cancel(self, message_id: int, timeout: float | None, now: float) -> None:
        """C-CANCEL was sent: from now the final response has `timeout`, whatever comes before it."""
        invoked = self.opened[message_id]
        invoked.cancelled = True
        invoked.timeout = timeout
        self._restart(invoked, now)

    def progressed(self, now: float) -> None:
        """A C-STORE sub-operation goes on or has ended: the C-GET that it belongs to need not respond yet."""
        for invoked in self.opened.values():
            if invoked.command_field is CommandField.C_GET_RQ:
                invoked.repeated = 0
                if invoked.deadline is not None and not invoked.cancelled:
                    self._restart(invoked, now)

    def abandon(self, message_id: int) -> None:
        """Nobody waits for the response any more; the operation stays open until it comes."""
        self.opened[message_id].abandoned = True

    def close(self, message_id: int) -> None:
        """Forget an operation: its request never left."""
        invoked = self.opened.pop(message_id)
        self.outstanding -= invoked.length
        invoked.closed = True
        invoked.deadline = None

    def pause(self, now: float) -> None:
        """Reading is paused: no deadline passes."""
        if self._paused_at is None:
            self._paused_at = now

    def resume(self, now: float) -> None:
        """Reading goes on, and so do the timers."""
        if self._paused_at is not None:
            self._stood_still += now - self._paused_at
            self._paused_at = None

    def next_deadline(self) -> float | None:
        """When `expired` has to be asked next; None for not before something else happens."""
        if self._paused_at is not None:
            return None
        deadlines = [invoked.deadline for invoked in self.opened.values() if invoked.deadline is not None]
        return min(deadlines) + self._stood_still if deadlines else None

    def expired(self, now: float) -> list[Invoked]:
        """The operations whose deadline has passed, each told once; they stay open."""
        if self._paused_at is not None:
            return []
        expired = []
        for invoked in self.opened.values():
            # Compared as next_deadline() gave it, lest rounding makes a timer fire in vain.
            if invoked.deadline is None or invoked.deadline + self._stood_still > now:
                continue
            if not self._goes_on(invoked, now):
                invoked.deadline = None
                expired.append(invoked)
        return expired

    def _goes_on(self, invoked: Invoked, now: float) -> bool:
        """Put off the deadline of a C-STORE if another one was answered since its time began."""
        is_store = invoked.command_field is CommandField.C_STORE_RQ
        if not is_store or invoked.timeout is None or invoked.prolonged >= (self.window or OPERATIONS) - 1:
            return False
        deadline = self._heard + invoked.timeout
        if deadline + self._stood_still <= now:
            return False
        invoked.prolonged += 1
        invoked.deadline = deadline
        return True

    def _restart(self, invoked: Invoked, now: float) -> None:
        if invoked.timeout is None:
            invoked.deadline = None
        else:
            clock = now if self._paused_at is None else self._paused_at
            invoked.deadline = clock - self._stood_still + invoked.timeout


class PerformedOperations:
    """The operations that the peer has invoked; `window` is the negotiated number, 0 for any."""

    def __init__(self, window: int = 1) -> None:
        self.window = window
        self._open: dict[int, Command] = {}
        self._most = 2 * window or _MOST_REQUESTS
        self._cancelled: frozenset[int] = frozenset()
        self._duplicates = 0
        self._strays = 0

    def __len__(self) -> int:
        return len(self._open)

    def is_in_the_way(self, command: Command) -> bool:
        """Whether this request cannot be opened before another has ended."""
        if command.message_id in self._open:
            return True
        return len(self._open) >= self._most and self._is_too_many(command)

    def open(self, command: Command) -> None:
        """Open the operation of a request.

        Raises DuplicateInvocation if its Message ID is in use, RemoteProtocolError if there were too many of
        those, or if the peer has more operations of this kind outstanding than twice the window.
        """
        message_id = command.message_id
        if message_id is None:
            raise RemoteProtocolError(f"{command.name} without message_id")
        if message_id in self._open:
            self._refuse(command)
        if len(self._open) >= self._most and self._is_too_many(command):
            raise RemoteProtocolError(
                f"{command.name} where {len(self._open)} operations are open", reason=_UNEXPECTED
            )
        self._open[message_id] = command

    def _is_too_many(self, command: Command) -> bool:
        """Some peers run ahead of the window, and some count it for each service: those wait their turn."""
        kind = command.command_field
        return not self.window or sum(o.command_field is kind for o in self._open.values()) >= self._most

    def _refuse(self, command: Command) -> None:
        self._duplicates += 1
        if self._duplicates > MAXIMUM_DUPLICATES:
            raise RemoteProtocolError(f"more than {MAXIMUM_DUPLICATES} requests under a Message ID in use")
        raise DuplicateInvocation(f"{command.name} with Message ID {command.message_id}, which is in use")

    def cancel(self, message_id: int) -> Command | None:
        """Note a C-CANCEL and give the request that it cancels.

        None if there is nothing to cancel (too many such: RemoteProtocolError).
        """
        command = self._open.get(message_id)
        if command is not None and message_id not in self._cancelled:
            self._cancelled |= {message_id}
            return command
        self._strays += 1
        if self._strays > MAXIMUM_STRAYS:
            raise RemoteProtocolError(f"more than {MAXIMUM_STRAYS} C-CANCELs of nothing")
        return None

    def is_cancelled(self, message_id: int) -> bool:
        """Whether the peer has cancelled this open operation."""
        return message_id in self._cancelled

    def close(self, command: Command) -> None:
        """The final response to this request is being sent: the Message ID is free again.

        Does nothing if another request has the Message ID by now.
        """
        message_id = command.message_id or 0
        if self._open.get(message_id) is command:
            del self._open[message_id]
            if message_id in self._cancelled:
                self._cancelled -= {message_id}
