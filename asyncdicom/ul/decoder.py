"""The byte stream of a connection, cut into PDUs as it arrives.

Control PDUs are small: their length is judged at the header, then they are buffered whole. P-DATA-TF is
never buffered: what arrived of a fragment goes up as slices of the caller's own memory, and all consecutive
slices of one message part become one `PDataFragment`. So a megabyte of 16 KiB PDUs costs 64 turns of one
short loop.
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct

from asyncdicom.exceptions import RemoteProtocolError
from asyncdicom.options import Limits

from .pdu import (
    A_ABORT,
    A_ASSOCIATE_AC,
    A_ASSOCIATE_RJ,
    A_ASSOCIATE_RQ,
    A_RELEASE_RP,
    A_RELEASE_RQ,
    ASSOCIATE_FIXED_LENGTH,
    NAMES,
    P_DATA_TF,
)

MAXIMUM_EMPTY_FRAGMENTS = 1000  # in an association; they make no progress
UNLIMITED = 0xFFFFFFFF
WITHOUT_END = 1 << 62  # a budget that is never used up
COMMAND_WEIGHT = 8  # a message that begins costs as much as so many fragments of a data set, and more

_PDU_HEADER = Struct(">BxI")
_PDV_HEADER = Struct(">IBB")
_HEADER_LENGTH = 6  # of both
_BOTH_HEADERS = Struct(">BxIIBB")
# First bytes of what else is seen on a DICOM port.
_STRANGERS = {
    0x0B: "HL7",
    0x0D: "a PROXY header",
    0x16: "TLS",
    0x47: "HTTP",
    0x48: "HTTP",
    0x50: "HTTP, or a PROXY header",
    0x53: "SSH",
}


class ControlPDU:
    """A whole PDU other than P-DATA-TF; `body` is all but its header, for `pdu.decode_pdu`."""

    __slots__ = ("body", "pdu_type")

    def __init__(self, pdu_type: int, body: bytes) -> None:
        self.pdu_type = pdu_type
        self.body = body

    def __repr__(self) -> str:
        return f"ControlPDU({NAMES[self.pdu_type]}, {len(self.body)} bytes)"


class PDataStart:
    """The header of a P-DATA-TF was seen: Evt10. Stands for all P-DATA-TF PDUs that follow it in one feed."""

    __slots__ = ()


_START = PDataStart()


class PDataFragment:
    """Bytes of one command or one data set, in order; `is_last` if nothing of it follows.

    `views` are slices of what was fed, none of them empty; there may be none at all.
    """

    __slots__ = ("context_id", "is_command", "is_last", "views")

    def __init__(
        self, context_id: int, is_command: bool, views: list[memoryview], is_last: bool = False
    ) -> None:
        self.context_id = context_id
        self.is_command = is_command
        self.views = views
        self.is_last = is_last

    def __repr__(self) -> str:
        kind = "command" if self.is_command else "data set"
        length = sum(map(len, self.views))
        return f"PDataFragment({self.context_id}, {kind}, {length} bytes{', last' if self.is_last else ''})"


Item = ControlPDU | PDataStart | PDataFragment


@lru_cache(maxsize=16)
def _bounds(maximum_length: int, maximum_associate_length: int) -> dict[int, tuple[int, int]]:
    """The shortest and longest length of each PDU; all associations with the same limits share it."""
    return {
        A_ASSOCIATE_RQ: (ASSOCIATE_FIXED_LENGTH, maximum_associate_length),
        A_ASSOCIATE_AC: (ASSOCIATE_FIXED_LENGTH, maximum_associate_length),
        A_ASSOCIATE_RJ: (4, 4),
        P_DATA_TF: (_HEADER_LENGTH, maximum_length or UNLIMITED),
        A_RELEASE_RQ: (4, 4),
        A_RELEASE_RP: (4, 4),
        A_ABORT: (0, UNLIMITED),
    }


class Decoder:
    """Turns bytes into PDUs, whatever their split.

    `maximum_length` is what we announced for P-DATA-TF (0: no limit), `maximum_associate_length` the
    longest A-ASSOCIATE-RQ or -AC taken; both are in bytes and without the 6 bytes of the PDU header.
    After a fault, or an A-ABORT, everything else is ignored: `error` is the fault. `consumed` is how many
    bytes the last `feed` took.
    """

    __slots__ = (
        "_begun",
        "_body",
        "_body_left",
        "_body_type",
        "_bounds",
        "_empty_fragments",
        "_fragment",
        "_head",
        "_is_last",
        "_key",
        "_pdu_left",
        "_pdv_left",
        "_room",
        "_running",
        "_stopped",
        "consumed",
        "error",
        "in_message",
        "in_pdu",
    )

    def __init__(
        self, maximum_length: int, maximum_associate_length: int = Limits.maximum_associate_length
    ) -> None:
        self._bounds = _bounds(maximum_length, maximum_associate_length)
        self.error: RemoteProtocolError | None = None
        self.in_pdu = False  # the peer owes the rest of a PDU
        self.in_message = False  # the last PDV seen was not the last of its message part, or is incomplete
        self._stopped = False
        self._head = bytearray()  # a header of which less than 6 bytes have arrived
        self._body = bytearray()  # a control PDU that has not arrived whole
        self._body_type = 0
        self._body_left = 0
        self._pdu_left = 0  # bytes of the present P-DATA-TF still to come
        self._pdv_left = 0  # bytes of its present fragment still to come
        self._begun = False  # it is one of a data set, and some of it went up
        self._key = (0, False)  # context ID and command flag of the present fragment
        self._is_last = False
        self._fragment: PDataFragment | None = None  # what further bytes of this feed may join
        self._running = False  # PDataStart was said in this feed and still holds
        self._empty_fragments = 0
        self._room = 0  # what is left of the budget of this feed
        self.consumed = 0

    def feed(self, data: memoryview, budget: int = WITHOUT_END) -> list[Item]:
        """What these bytes complete or continue; never raises. The slices returned are of `data` itself.

        `budget`: stop behind so many fragments and PDUs (1 at least), of which those of commands weigh
        `COMMAND_WEIGHT`; what is behind `consumed` then has to be fed again.
        """
        items: list[Item] = []
        self._fragment = None
        self._running = self._pdu_left > 0
        self._room = budget
        self.consumed = len(data)
        try:
            self._decode(data, items)
        except RemoteProtocolError as error:
            self.error = error
            self._stopped = True
            self._begun = False
        self.in_pdu = bool(self._head or self._pdu_left or self._body_left)
        return items

    def continues(self, length: int) -> bool:
        """Whether `length` more bytes are only the middle of a data set's fragment; then they are taken.

        A short cut of `feed` for what most of a large message is. False: nothing was taken.
        """
        if not self._begun or length >= self._pdv_left:
            return False
        self._pdu_left -= length
        self._pdv_left -= length
        return True

    def _decode(self, data: memoryview, items: list[Item]) -> None:
        position, end = 0, self.consumed
        while position < end and not self._stopped:
            if self._room <= 0:
                self.consumed = position
                return
            if self._pdv_left:
                position = self._payload(data, position, end, items)
            elif self._body_left:
                stop = min(position + self._body_left, end)
                self._body += data[position:stop]
                self._body_left -= stop - position
                position = stop
                if not self._body_left:
                    self._control(items)
            elif self._head or end - position < _HEADER_LENGTH:
                position = self._split_header(data, position, items)
            elif stop := self._whole(data, position, end, items):
                position = stop
            else:
                self._header(data, position, items)
                position += _HEADER_LENGTH

    def _whole(self, data: memoryview, position: int, end: int, items: list[Item]) -> int:
        """Take a P-DATA-TF that is one whole PDV, the last of its message part, and give where it ends.

        Nearly all commands come so. 0 for whatever takes the long way round: nothing was taken.
        """
        if self._pdu_left or end - position <= 12:
            return 0
        pdu_type, length, pdv_length, context_id, control = _BOTH_HEADERS.unpack_from(data, position)
        stop: int = position + _HEADER_LENGTH + length
        if (
            pdu_type != P_DATA_TF
            or stop > end
            or pdv_length != length - 4
            or not control & 2
            or not 6 < length <= self._bounds[P_DATA_TF][1]
        ):
            return 0
        if not self._running:
            self._running = True
            items.append(_START)
        is_command = bool(control & 1)
        self._key = (context_id, is_command)
        if self._fragment is None:
            items.append(PDataFragment(context_id, is_command, [data[position + 12 : stop]], True))
        else:  # it ends what came before
            fragment = self._open_fragment(items)
            fragment.views.append(data[position + 12 : stop])
            fragment.is_last = True
            self._fragment = None
        self._room -= COMMAND_WEIGHT if is_command else 1
        self._begun = self.in_message = False
        return stop

    def _payload(self, data: memoryview, position: int, end: int, items: list[Item]) -> int:
        """Take what there is of the present fragment, then all whole PDUs that merely continue it."""
        stop = min(position + self._pdv_left, end)
        fragment = self._open_fragment(items)
        append = fragment.views.append
        append(data[position:stop])
        room = self._room = self._room - (COMMAND_WEIGHT if fragment.is_command else 1)
        self._pdu_left -= stop - position
        self._pdv_left -= stop - position
        if self._pdv_left:
            self._begun = not fragment.is_command
            return stop
        if self._is_last:
            self._close_fragment(fragment)
        elif not self._pdu_left:
            # The hot path. A PDU that is anything but one whole PDV of the same message part, not the last
            # and not empty, ends it and takes the long way round.
            unpack = _BOTH_HEADERS.unpack_from
            maximum = self._bounds[P_DATA_TF][1]
            context_id, kind = fragment.context_id, int(fragment.is_command)
            limit = end - 12
            while stop <= limit and room > 0:
                pdu_type, length, pdv_length, pdv_context_id, control = unpack(data, stop)
                after = stop + 6 + length
                if (
                    after > end
                    or pdv_length != length - 4
                    or control & 3 != kind
                    or pdv_context_id != context_id
                    or pdu_type != 4
                    or not 6 < length <= maximum
                ):
                    break
                append(data[stop + 12 : after])
                stop = after
                room -= 1
            self._room = room
        return stop

    def _open_fragment(self, items: list[Item]) -> PDataFragment:
        fragment = self._fragment
        if fragment is None or (fragment.context_id, fragment.is_command) != self._key:
            fragment = self._fragment = PDataFragment(*self._key, [])
            items.append(fragment)
        return fragment

    def _close_fragment(self, fragment: PDataFragment) -> None:
        fragment.is_last = True
        self._fragment = None
        self.in_message = False

    def _split_header(self, data: memoryview, position: int, items: list[Item]) -> int:
        head = self._head
        if not head and not self._pdu_left:
            self._expect_type(data[position])  # decided on the first byte: it may be all a stranger sends
        stop = position + _HEADER_LENGTH - len(head)
        head += data[position:stop]
        if len(head) == _HEADER_LENGTH:
            self._head = bytearray()
            self._header(head, 0, items)
        return min(stop, len(data))

    def _expect_type(self, pdu_type: int) -> None:
        if pdu_type not in NAMES:
            hint = f" (is this {_STRANGERS[pdu_type]}?)" if pdu_type in _STRANGERS else ""
            raise RemoteProtocolError(f"unrecognized PDU type {pdu_type:02X}H{hint}", reason=1)

    def _header(self, data: memoryview | bytearray, position: int, items: list[Item]) -> None:
        if self._pdu_left:
            self._pdv_header(data, position, items)
        else:
            self._pdu_header(data, position, items)

    def _pdu_header(self, data: memoryview | bytearray, position: int, items: list[Item]) -> None:
        pdu_type, length = _PDU_HEADER.unpack_from(data, position)
        self._expect_type(pdu_type)
        shortest, longest = self._bounds[pdu_type]
        if not shortest <= length <= longest:
            allowed = f"{shortest} to {longest}" if shortest != longest else str(shortest)
            raise RemoteProtocolError(f"{NAMES[pdu_type]} with a length of {length} (allowed: {allowed})")
        if pdu_type == P_DATA_TF:
            self._pdu_left = length
            if not self._running:
                self._running = True
                items.append(_START)
            return
        self._body_type = pdu_type
        # An A-ABORT of any length is one, and nothing after its fourth byte matters.
        self._body_left = min(length, 4) if pdu_type == A_ABORT else length
        if not self._body_left:
            self._control(items)

    def _control(self, items: list[Item]) -> None:
        self._room -= 1
        items.append(ControlPDU(self._body_type, bytes(self._body)))
        self._body = bytearray()
        self._fragment = None
        self._running = False
        self._stopped = self._body_type == A_ABORT

    def _pdv_header(self, data: memoryview | bytearray, position: int, items: list[Item]) -> None:
        length, context_id, control = _PDV_HEADER.unpack_from(data, position)
        after = self._pdu_left - 4 - length  # what the PDU still holds behind this PDV
        if length < 2 or after < 0 or 0 < after < _HEADER_LENGTH:
            raise RemoteProtocolError(
                f"a presentation data value of {length} bytes does not fit its P-DATA-TF"
            )
        self._pdu_left -= _HEADER_LENGTH
        self._pdv_left = length - 2
        self._begun = False
        self._key = (context_id, bool(control & 1))
        self._is_last = bool(control & 2)  # the other bits of E.2 are not tested
        self.in_message = True
        if not self._pdv_left:
            self._empty(items)

    def _empty(self, items: list[Item]) -> None:
        self._room -= 1
        fragment = self._open_fragment(items)
        if self._is_last:
            self._close_fragment(fragment)
            return
        self._empty_fragments += 1
        if self._empty_fragments > MAXIMUM_EMPTY_FRAGMENTS:
            raise RemoteProtocolError(f"more than {MAXIMUM_EMPTY_FRAGMENTS} fragments without a byte")
