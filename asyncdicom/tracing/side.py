"""One direction of a connection, read by the decoder and the assembler of the core, which only watch here.

Nothing stops the watcher: what cannot be understood is told, once, and as much as possible is read behind it.
"""

from __future__ import annotations

from typing import NamedTuple

from asyncdicom.dimse.assembler import Assembler, MessageStarted
from asyncdicom.dimse.messages import Command
from asyncdicom.exceptions import RemoteProtocolError
from asyncdicom.ul.decoder import ControlPDU, Decoder, PDataFragment
from asyncdicom.ul.pdu import NAMES, PDU, decode_pdu

__all__ = ["MAXIMUM_KEPT", "DataRead", "MessageRead", "Nonsense", "PDURead", "Read", "Side"]

MAXIMUM_KEPT = 1 << 16
"""Bytes of a data set that are kept to show its values."""


class PDURead(NamedTuple):
    """A PDU other than P-DATA-TF; None where its body cannot be read."""

    name: str
    pdu: PDU | None
    length: int


class MessageRead(NamedTuple):
    """A Command Set is complete."""

    context_id: int
    command: Command


class DataRead(NamedTuple):
    """The data set of the last message is complete; `head` is what was kept of it."""

    context_id: int
    command: Command
    length: int
    head: bytes


class Nonsense(NamedTuple):
    """What the standard forbids."""

    text: str


Read = PDURead | MessageRead | DataRead | Nonsense


class Side:
    """Reads what one side sends.

    `keep`: keep the beginning of data sets, for `DataRead.head`. `is_deaf`: nothing is understood any more.
    """

    def __init__(self, *, keep: bool = False) -> None:
        self.bytes = 0
        self.messages = 0
        self.is_deaf = False
        self._decoder = Decoder(0)
        self._assembler = Assembler()
        self._keep = keep
        self._skipping = False  # until a command begins, after nonsense inside P-DATA
        self._message: MessageRead | None = None
        self._length = 0
        self._head = bytearray()

    @property
    def in_message(self) -> bool:
        """Whether a PDU or a message has begun, and its rest is still to come."""
        if self.is_deaf:
            return False
        return self._decoder.in_pdu or self._decoder.in_message or self._assembler.expecting_data

    def feed(self, data: bytes | memoryview) -> list[Read]:
        """Read what was sent; never raises."""
        self.bytes += len(data)
        if self.is_deaf:
            return []
        if self._decoder.continues(len(data)):
            if not self._skipping:
                self._count([memoryview(data)], len(data))
            return []
        read: list[Read] = []
        for item in self._decoder.feed(memoryview(data)):
            if isinstance(item, ControlPDU):
                read.append(self._control(item, read))
            elif isinstance(item, PDataFragment):
                self._fragment(item, read)
        if self._decoder.error is not None:
            self.is_deaf = True
            read.append(Nonsense(f"{self._decoder.error}; what follows is passed on, and not read"))
        return read

    def _control(self, item: ControlPDU, read: list[Read]) -> PDURead:
        name, length = NAMES[item.pdu_type], len(item.body)
        try:
            return PDURead(name, decode_pdu(item.pdu_type, item.body), length)
        except RemoteProtocolError as error:
            read.append(Nonsense(f"{name}: {error}"))
            return PDURead(name, None, length)

    def _fragment(self, item: PDataFragment, read: list[Read]) -> None:
        if self._skipping:
            if not item.is_command:
                return
            self._skipping = False
        try:
            events = self._assembler.feed(item.context_id, item.is_command, item.views, item.is_last)
        except RemoteProtocolError as error:
            read.append(Nonsense(str(error)))
            self._assembler = Assembler()
            self._skipping = True
            return
        for event in events:
            if isinstance(event, MessageStarted):
                self.messages += 1
                self._message = MessageRead(event.context_id, event.command)
                self._length = 0
                self._head.clear()
                read.append(self._message)
            else:
                self._count(event.views, event.length)
                if event.is_last and self._message is not None:
                    read.append(DataRead(*self._message, self._length, bytes(self._head)))

    def _count(self, views: list[memoryview], length: int) -> None:
        self._length += length
        if self._keep:
            for view in views:
                self._head += view[: max(MAXIMUM_KEPT - len(self._head), 0)]
