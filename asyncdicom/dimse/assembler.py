"""From P-DATA fragments to messages: Command Sets whole, Data Sets as they come (PS3.8 Annex E)."""

from __future__ import annotations

from typing import NamedTuple

from asyncdicom.dimse.messages import MESSAGES, Command, CommandField, decode
from asyncdicom.exceptions import RemoteProtocolError

__all__ = ["FEW_VIEWS", "MAXIMUM_EMPTY_FRAGMENTS", "Assembler", "DataReceived", "MessageStarted", "joined"]

MAXIMUM_EMPTY_FRAGMENTS = 1000
"""So many fragments without a byte (PS3.8 does not forbid them) does one association tolerate."""

FEW_VIEWS = 16
"""`joined` leaves so many as they are, however short: who has no more need not call it."""

_UNEXPECTED = 5  # PS3.8 Table 9-26: unexpected PDU parameter
_PENDING = (0xFF00, 0xFF01)


class MessageStarted(NamedTuple):
    """A Command Set is complete; its Data Set follows if `command.has_data_set`."""

    context_id: int
    command: Command


class DataReceived(NamedTuple):
    """Some more of the Data Set of the message that was started last; `length` in bytes."""

    views: list[memoryview]
    length: int
    is_last: bool


# What an Assembler expects next; "undue" is a Data Set that the peer announced where there should be none.
_COMMAND, _REST_OF_COMMAND, _DATA, _COMMAND_OR_UNDUE_DATA, _REST_OF_UNDUE_DATA = range(5)


class Assembler:
    """Puts the messages of one association together again.

    Messages come one after another, never interleaved, and one message keeps to one presentation context
    (PS3.8 E.1). `maximum_command` is in bytes. Data is handed on, never kept.
    """

    def __init__(self, maximum_command: int = 65536) -> None:
        self._maximum_command = maximum_command
        self._expecting = _COMMAND
        self._context_id = 0
        self._command = bytearray()
        self._empty_fragments = 0

    @property
    def expecting_data(self) -> bool:
        """Whether a message is incomplete: the announced Data Set has not come, or not to its end."""
        return self._expecting == _DATA

    def feed(
        self, context_id: int, is_command: bool, views: list[memoryview], is_last: bool
    ) -> list[MessageStarted | DataReceived]:
        """Take one P-DATA fragment, or several of the same part of a message; raises RemoteProtocolError."""
        length = len(views[0]) if len(views) == 1 else 0
        if not length:
            lengths = [len(view) for view in views]
            length = sum(lengths)
            if not lengths or 0 in lengths:
                self._count_empty(lengths, is_last)
                views = [view for view in views if len(view)]
        if is_command:
            return self._take_command(context_id, views, length, is_last)
        return self._take_data(context_id, views, length, is_last)

    def _count_empty(self, lengths: list[int], is_last: bool) -> None:
        """Count the fragments that brought nothing, not even the end of something."""
        self._empty_fragments += max(lengths.count(0), 1) - is_last
        if self._empty_fragments > MAXIMUM_EMPTY_FRAGMENTS:
            raise RemoteProtocolError(f"more than {MAXIMUM_EMPTY_FRAGMENTS} empty fragments")

    def _take_command(
        self, context_id: int, views: list[memoryview], length: int, is_last: bool
    ) -> list[MessageStarted | DataReceived]:
        expecting = self._expecting
        if expecting in (_DATA, _REST_OF_UNDUE_DATA):
            raise RemoteProtocolError(
                "command fragment where the Data Set of a message has to go on", reason=_UNEXPECTED
            )
        if expecting == _REST_OF_COMMAND:
            self._check_context(context_id)
        command = self._command
        if len(command) + length > self._maximum_command:
            raise RemoteProtocolError(f"Command Set of more than {self._maximum_command} bytes")
        self._context_id = context_id
        self._expecting = _REST_OF_COMMAND
        if is_last and not command:  # nearly always
            return [self._start(decode(b"".join(views)))]
        for view in views:
            command += view
        if not is_last:
            return []
        encoded = bytes(command)
        command.clear()
        return [self._start(decode(encoded))]

    def _start(self, command: Command) -> MessageStarted:
        if not command.has_data_set:
            self._expecting = _COMMAND
        elif _is_due(command):
            self._expecting = _DATA
        else:
            # Some peers set Command Data Set Type wrongly, and then send a Data Set or not.
            command.has_data_set = False
            self._expecting = _COMMAND_OR_UNDUE_DATA
        return MessageStarted(self._context_id, command)

    def _take_data(
        self, context_id: int, views: list[memoryview], length: int, is_last: bool
    ) -> list[MessageStarted | DataReceived]:
        expecting = self._expecting
        if expecting == _COMMAND:
            raise RemoteProtocolError("Data Set fragment that no command announced", reason=_UNEXPECTED)
        self._check_context(context_id)
        if expecting == _REST_OF_COMMAND:
            raise RemoteProtocolError("Data Set fragment inside a Command Set", reason=_UNEXPECTED)
        if is_last:
            self._expecting = _COMMAND
        if expecting != _DATA:
            if not is_last:
                self._expecting = _REST_OF_UNDUE_DATA
            return []
        if not length and not is_last:
            return []
        return [DataReceived(views, length, is_last)]

    def _check_context(self, context_id: int) -> None:
        if context_id != self._context_id:
            raise RemoteProtocolError(
                f"message begun in presentation context {self._context_id} goes on in {context_id}"
            )


def _is_due(command: Command) -> bool:
    """Whether PS3.7 lets a Data Set follow; only a pending C-FIND-RSP carries an Identifier (9.1.2.1.5)."""
    if command.command_field is CommandField.C_FIND_RSP:
        return command.status in _PENDING
    return MESSAGES[command.command_field].may_have_data


def joined(views: list[memoryview], length: int) -> list[memoryview]:
    """Give received data in fewer pieces if it came in too many for its `length` in bytes.

    A view weighs about 190 bytes however short it is, and keeps the whole block that was received into.
    So what is kept has `FEW_VIEWS` and one more for each KiB at most; large fragments are never copied.
    """
    return views if len(views) <= FEW_VIEWS + (length >> 10) else [memoryview(b"".join(views))]
