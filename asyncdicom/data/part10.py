"""The head of a DICOM file: preamble and File Meta Information (PS3.10 7.1), read and written."""

from __future__ import annotations

from functools import lru_cache
from struct import Struct, pack
from struct import error as struct_error
from typing import NamedTuple

from asyncdicom.data.elements import UNDEFINED_LENGTH, show
from asyncdicom.data.inflation import Buffer
from asyncdicom.data.vr import VRS
from asyncdicom.exceptions import DataSetError
from asyncdicom.uid import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    is_usable_uid,
    transfer_syntax,
)

#: The first bytes of a file that hold its whole head; what claims to be longer is refused.
HEAD_SIZE = 65536

_PREAMBLE = 128
_MAXIMUM_AE_TITLE = 16
_MAXIMUM_ELEMENTS = 100  # PS3.10 Table 7.1-1 has 17, and one may add private ones

_HEADER = Struct("<HH2sH").unpack_from
_LENGTH = Struct("<L").unpack_from


class FileMeta(NamedTuple):
    """What the head of a file tells of its data set, which begins at ``offset``.

    The two SOP UIDs are "" where the file does not tell; the data set is the authority for them.
    """

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    offset: int
    source_ae_title: str = ""
    """Who has sent it, as far as the file tells."""


def read_file_meta(head: Buffer, *, strict: bool = True) -> FileMeta:
    """Read the head of a file, given its first ``HEAD_SIZE`` bytes (all of it when it is shorter).

    The group length is not trusted: writers get it wrong, and the elements tell. Raises ``DataSetError`` for
    what is not a DICOM file, or has no usable Transfer Syntax UID. Not ``strict``: the preamble, DICM and
    the File Meta Information may be missing; where the transfer syntax is not told it is "".
    """
    position = _PREAMBLE + 4
    if bytes(head[_PREAMBLE:position]) != b"DICM":
        if strict:
            raise DataSetError("not a DICOM Part 10 file: no DICM after 128 bytes of preamble")
        position = 4 if bytes(head[:4]) == b"DICM" else 0
    head = memoryview(head)[:HEAD_SIZE]
    found: dict[int, bytes] = {}
    declared_end = count = 0
    while position < len(head) and not _is_end(head, position, declared_end, found):
        try:
            tag, start, stop = _element(head, position)
        except DataSetError:
            if 0x00020010 in found and _may_be_data_set(head, position, declared_end, found):
                break
            raise
        count += 1
        if count > _MAXIMUM_ELEMENTS:
            raise DataSetError(f"not a DICOM Part 10 file: more than {count - 1} File Meta elements")
        found.setdefault(tag, bytes(head[start:stop]))
        if tag == 0x00020000 and stop - start == 4:
            declared_end = stop + _LENGTH(head, start)[0]
        position = stop
    transfer_syntax_uid = _uid(found, 0x00020010)
    if not is_usable_uid(transfer_syntax_uid):
        if not strict:
            return FileMeta(_uid(found, 0x00020002), _uid(found, 0x00020003), "", position)
        raise DataSetError(f"the file tells no valid Transfer Syntax UID: {transfer_syntax_uid!r}")
    return FileMeta(
        _uid(found, 0x00020002),
        _uid(found, 0x00020003),
        transfer_syntax_uid,
        position,
        _uid(found, 0x00020016).strip()[:_MAXIMUM_AE_TITLE],
    )


def _is_end(head: memoryview, position: int, declared_end: int, found: dict[int, bytes]) -> bool:
    # Deflated bytes may look like another element of group 0002: only there the group length has to do.
    if position == declared_end and transfer_syntax(_uid(found, 0x00020010)).deflated:
        return True
    return bytes(head[position : position + 2]) != b"\x02\x00"


def _may_be_data_set(head: memoryview, position: int, declared_end: int, found: dict[int, bytes]) -> bool:
    """Whether the data set may begin here, although its first element is of group 0002, too."""
    implicit = transfer_syntax(_uid(found, 0x00020010)).implicit
    return position == declared_end or (implicit and bytes(head[position + 4 : position + 6]) not in VRS)


def _element(head: memoryview, position: int) -> tuple[int, int, int]:
    if len(head) - position < 12:
        raise DataSetError("not a DICOM Part 10 file: it ends within the File Meta Information")
    group, element, vr, length = _HEADER(head, position)
    tag = group << 16 | element
    if vr not in VRS or vr == b"SQ":
        raise DataSetError(f"not a DICOM Part 10 file: File Meta element {show(tag)} has the VR {vr!r}")
    start = position + 8
    if VRS[vr][1]:
        (length,), start = _LENGTH(head, start), start + 4
    if length == UNDEFINED_LENGTH or length > len(head) - start:
        raise DataSetError(f"not a DICOM Part 10 file: File Meta element {show(tag)} claims {length} bytes")
    return tag, start, start + length


def _uid(found: dict[int, bytes], tag: int) -> str:
    return found.get(tag, b"").rstrip(b"\0 ").decode("latin-1")


def _encode(element: int, vr: bytes, value: bytes, padding: bytes = b"\0") -> bytes:
    value += padding * (len(value) % 2)
    return pack("<HH2sH", 2, element, vr, len(value)) + value


_VERSION = pack("<HH2sHL", 2, 1, b"OB", 0, 2) + b"\0\1"
_IMPLEMENTATION = _encode(0x0012, b"UI", IMPLEMENTATION_CLASS_UID.encode()) + _encode(
    0x0013, b"SH", IMPLEMENTATION_VERSION_NAME.encode(), b" "
)


_BEGINNING = bytes(_PREAMBLE) + b"DICM"
_PACK_LENGTH = Struct("<HH2sHL").pack
_REMEMBERED = 64  # characters


def encode_file_meta(
    sop_class_uid: str,
    sop_instance_uid: str,
    transfer_syntax_uid: str,
    *,
    source_ae_title: str | None = None,
    private_information: tuple[str, bytes] | None = None,
) -> bytes:
    """Preamble, DICM and File Meta Information for a data set in ``transfer_syntax_uid``.

    ``private_information`` is Private Information Creator UID and Private Information (PS3.10 7.1), whose
    value has an even length; it is the end of what is given. The preamble is always zeros, whatever came with
    the instance: nothing executable gets there. Raises ``DataSetError`` for a value that cannot be a UID or
    AE title at all.
    """
    alike = (sop_class_uid, transfer_syntax_uid, source_ae_title or "")
    # What a peer makes long is not remembered.
    around = _around if max(map(len, alike)) <= _REMEMBERED else _around.__wrapped__
    try:
        before, after = around(*alike, private_information)
        instance = _encode(0x0003, b"UI", sop_instance_uid.encode("ascii"))
    except (UnicodeEncodeError, struct_error) as problem:
        raise DataSetError(
            "File Meta Information cannot be encoded: a UID is not ASCII or too long"
        ) from problem
    length = len(before) + len(instance) + len(after)
    return b"".join((_BEGINNING, _PACK_LENGTH(2, 0, b"UL", 4, length), before, instance, after))


@lru_cache(256)
def _around(
    sop_class_uid: str,
    transfer_syntax_uid: str,
    source_ae_title: str,
    private_information: tuple[str, bytes] | None,
) -> tuple[bytes, bytes]:
    """What is before and behind the SOP Instance UID, the same for many instances."""
    before = _VERSION + _encode(0x0002, b"UI", sop_class_uid.encode("ascii"))
    after = _encode(0x0010, b"UI", transfer_syntax_uid.encode("ascii")) + _IMPLEMENTATION
    if source_ae_title:
        after += _encode(0x0016, b"AE", source_ae_title.encode("latin-1", "replace"), b" ")
    if private_information is not None:
        creator, value = private_information
        after += _encode(0x0100, b"UI", creator.encode("ascii"))
        after += pack("<HH2sHL", 2, 0x0102, b"OB", 0, len(value)) + value
    return before, after
