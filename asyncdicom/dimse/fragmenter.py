"""From messages to P-DATA-TF PDUs that fit the peer's Maximum Length (PS3.8 Annex D.1 and E)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from asyncdicom.exceptions import LocalProtocolError
from asyncdicom.ul.encoder import p_data_header

__all__ = ["MAXIMUM_PDU", "MOST_FRAGMENTS", "Fragmenter"]

MAXIMUM_PDU = 262144
"""The largest PDU we send (its PDU-length field, in bytes), however large the peer's Maximum Length is."""

MOST_FRAGMENTS = 1024
"""So many fragments are made at once by `Fragmenter.pieces`: each costs memory, however short it is."""

_WORTH_A_BUFFER = 1024  # shorter fragments are copied together: as buffers they weigh more than as bytes
_PDV_OVERHEAD = 6  # of the PDU length: PDV length (4), presentation context ID, message control header


class Fragmenter:
    """Cuts the messages of one presentation context into PDUs of one PDV each.

    `maximum_length` is what the peer announced, in bytes; 0 is no limit (PS3.8 D.1). Fragments are of even
    length (PS3.8 E.1), the last one excepted if the whole is odd. `context_id` is that of the context.
    """

    __slots__ = ("_full_header", "_pending", "_pending_length", "context_id", "fragment_length", "most")

    def __init__(self, context_id: int, maximum_length: int) -> None:
        largest = maximum_length if 0 < maximum_length < MAXIMUM_PDU else MAXIMUM_PDU
        self.fragment_length = (largest - _PDV_OVERHEAD) & ~1
        if self.fragment_length < 2:
            raise LocalProtocolError(f"no fragment fits a Maximum Length of {maximum_length}")
        self.context_id = context_id
        self.most = self.fragment_length * MOST_FRAGMENTS  # bytes that are cut at once by `pieces`
        self._full_header = p_data_header(context_id, False, False, self.fragment_length)
        self._pending: list[memoryview] = []
        self._pending_length = 0

    def command(self, encoded: bytes) -> list[bytes | memoryview]:
        """Cut an encoded Command Set into ready PDUs, and begin a message with it.

        What is left of a message that was given up before is forgotten.
        """
        size, context_id = self.fragment_length, self.context_id
        if self._pending_length:
            self._pending.clear()
            self._pending_length = 0
        length = len(encoded)
        if length <= size:
            return [p_data_header(context_id, True, True, length) + encoded]
        pdus: list[bytes | memoryview] = []
        for start in range(0, len(encoded), size):
            fragment = encoded[start : start + size]
            is_last = start + size >= length
            pdus.append(p_data_header(context_id, True, is_last, len(fragment)) + fragment)
        return pdus

    def data(
        self, views: Iterable[bytes | bytearray | memoryview], *, final: bool
    ) -> list[bytes | memoryview]:
        """Cut the next part of a Data Set into PDUs: a list `[header, view, header, view, ...]` to gather.

        Nothing is copied. Up to one fragment is kept back, as views, until more comes or it is `final`,
        since the last fragment has to say that it is the last. After `final` the next Data Set may begin.
        """
        size, header = self.fragment_length, self._full_header
        out: list[bytes | memoryview] = []
        pending, held = self._pending, self._pending_length
        for part in views:
            view = memoryview(part)
            start, end = 0, len(view)
            if held + end > size:
                if held:  # complete the fragment that was begun
                    start = size - held
                    out.append(header)
                    out += pending
                    if start:
                        out.append(view[:start])
                    pending.clear()
                while end - start > size:
                    out.append(header)
                    out.append(view[start : start + size])
                    start += size
                held = 0
            if end > start:
                pending.append(view[start:])
                held += end - start
        if final:
            out.append(p_data_header(self.context_id, False, True, held))
            out += pending
            pending.clear()
            held = 0
        self._pending_length = held
        return out

    def pieces(
        self, views: Iterable[bytes | bytearray | memoryview], *, final: bool
    ) -> Iterator[list[bytes | memoryview]]:
        """Cut as `data` does, `MOST_FRAGMENTS` at a time: the next are made when these are on their way.

        So a peer whose Maximum Length is 8 gets its tiny PDUs without a list of them all in memory.
        """
        most = self.most
        for part in views:
            view = memoryview(part)
            for start in range(0, len(view), most):
                yield self._compact(self.data([view[start : start + most]], final=False))
        if final:
            yield self.data([], final=True)

    def _compact(self, out: list[bytes | memoryview]) -> list[bytes | memoryview]:
        return [b"".join(out)] if self.fragment_length < _WORTH_A_BUFFER and out else out
