"""The data sets of storage commitment (PS3.3 C.14), read and written flat: a request may name 10,000
instances.

Through pydicom 10,000 references take three seconds of the event loop; this takes a tenth of one, in a
thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from struct import Struct
from typing import NamedTuple, TypeVar

from asyncdicom.data.elements import (
    ITEM,
    ITEM_DELIMITATION,
    SEQUENCE_DELIMITATION,
    UNDEFINED_LENGTH,
    decode,
    encode,
    read_header_of,
)
from asyncdicom.exceptions import DataSetError
from asyncdicom.net.threads import file_threads, in_thread
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN, transfer_syntax

__all__ = [
    "REFERENCED_SOP_SEQUENCE",
    "TRANSACTION_UID",
    "Commitment",
    "Reference",
    "off_the_loop",
    "read",
    "write",
]

_T = TypeVar("_T")

FAILED_SOP_SEQUENCE, REFERENCED_SOP_SEQUENCE = 0x00081198, 0x00081199
TRANSACTION_UID = 0x00081195
_SOP_CLASS, _SOP_INSTANCE, _FAILURE_REASON = 0x00081150, 0x00081155, 0x00081197
_OF_ITEM = frozenset((_SOP_CLASS, _SOP_INSTANCE, _FAILURE_REASON))
_LARGE = 1 << 15  # bytes of data set that are read in less than 10 ms


class Reference(NamedTuple):
    """An instance whose safekeeping is asked for."""

    sop_class_uid: str
    sop_instance_uid: str


class Commitment(NamedTuple):
    """What a request or a report says."""

    transaction_uid: str
    referenced: tuple[Reference, ...]
    failed: Mapping[Reference, int]


async def off_the_loop(size: int, work: Callable[[], _T]) -> _T:
    """Do what reads or writes `size` bytes: in a thread, if it takes long."""
    return work() if size < _LARGE else await in_thread(file_threads(), work)


def read(data: bytes, transfer_syntax_uid: str) -> Commitment:
    """Read the data set of a request or a report. Raises `DataSetError`."""
    values = {element.tag: element.value for element in decode(data, transfer_syntax_uid)}
    referenced = _items(values.get(REFERENCED_SOP_SEQUENCE, b""), transfer_syntax_uid)
    is_little = transfer_syntax(transfer_syntax_uid).little_endian
    failed = {}
    for item in _items(values.get(FAILED_SOP_SEQUENCE, b""), transfer_syntax_uid):
        reason = int.from_bytes(item.get(_FAILURE_REASON, b""), "little" if is_little else "big")
        failed[_reference(item)] = reason or 0x0110  # processing failure
    found = dict.fromkeys(_reference(item) for item in referenced)
    return Commitment(
        _text(values.get(TRANSACTION_UID, b"")),
        tuple(reference for reference in found if reference.sop_instance_uid),
        failed,
    )


def _reference(item: Mapping[int, bytes]) -> Reference:
    return Reference(_text(item.get(_SOP_CLASS, b"")), _text(item.get(_SOP_INSTANCE, b"")))


def _text(value: bytes) -> str:
    return value.decode("latin-1").strip("\0 ")


def _items(data: bytes, transfer_syntax_uid: str) -> Iterator[dict[int, bytes]]:
    """Give what these elements are in each item of a sequence; what is nested deeper is passed over."""
    read_header = read_header_of(transfer_syntax_uid)
    position, end, depth = 0, len(data), 0
    item: dict[int, bytes] | None = None
    while position < end:
        header = read_header(data, position, end - position) if end - position >= 8 else None
        if header is None:
            raise DataSetError("a reference ends within the header of an element")
        tag, _, size, length = header
        position += size
        if depth:
            if tag == SEQUENCE_DELIMITATION:
                depth -= 1
            elif length == UNDEFINED_LENGTH:
                depth += tag != ITEM
            elif tag != ITEM_DELIMITATION:
                position += length
        elif tag == ITEM:
            if item is not None:
                yield item
            item = {}
        elif tag not in (ITEM_DELIMITATION, SEQUENCE_DELIMITATION):
            if item is None:
                raise DataSetError("an element stands between the references")
            if length == UNDEFINED_LENGTH:
                depth = 1
                continue
            if tag in _OF_ITEM:
                item[tag] = data[position : position + length]
            position += length
        if position > end:
            raise DataSetError("a reference is longer than its sequence")
    if item is not None:
        yield item


def write(commitment: Commitment, transfer_syntax_uid: str) -> bytes:
    """Write the data set of a request or a report; sequences without items are left out."""
    syntax = transfer_syntax(transfer_syntax_uid)
    inner = EXPLICIT_VR_LITTLE_ENDIAN if syntax.deflated else transfer_syntax_uid
    order = "<" if syntax.little_endian else ">"
    header, number = Struct(order + "HHL").pack, Struct(order + "H").pack

    def sequence(references: Iterable[tuple[Reference, int | None]]) -> bytes:
        parts = []
        for (sop_class, instance), reason in references:
            elements = [
                (_SOP_CLASS, "UI", sop_class.encode("ascii")),
                (_SOP_INSTANCE, "UI", instance.encode("ascii")),
            ]
            if reason is not None:
                elements.append((_FAILURE_REASON, "US", number(reason)))
            item = encode(elements, inner)
            parts += [header(ITEM >> 16, ITEM & 0xFFFF, len(item)), item]
        return b"".join(parts)

    elements = [(TRANSACTION_UID, "UI", commitment.transaction_uid.encode("ascii"))]
    if commitment.failed:
        elements.append((FAILED_SOP_SEQUENCE, "SQ", sequence(commitment.failed.items())))
    if commitment.referenced:
        every = ((reference, None) for reference in commitment.referenced)
        elements.append((REFERENCED_SOP_SEQUENCE, "SQ", sequence(every)))
    return encode(elements, transfer_syntax_uid)
