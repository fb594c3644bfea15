"""Storage: C-STORE (PS3.4 Annex B), and where the instances to be sent come from."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from asyncdicom.data.part10 import read_file_meta
from asyncdicom.data.scanner import Scanner
from asyncdicom.dimse.messages import Command, CommandField, Priority
from asyncdicom.exceptions import DataSetError
from asyncdicom.net.channel import Channel
from asyncdicom.net.operation import IncomingRequest
from asyncdicom.net.payload import BytesSource, FileSource, Source
from asyncdicom.net.threads import file_threads, in_thread
from asyncdicom.services.contexts import find_context
from asyncdicom.services.handlers import Handlers, Request, Response
from asyncdicom.services.single import final_response, outcome
from asyncdicom.status import Status
from asyncdicom.uid import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    is_usable_uid,
    transfer_syntax,
)

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["dataset_source", "file_source", "open_file", "provide", "store"]

_SOP_CLASS_UID = 0x00080016
_SOP_INSTANCE_UID = 0x00080018
_HEAD_SIZE = 8192
_MAXIMUM_HEAD = 1 << 17


async def store(
    channel: Channel,
    source: Source,
    *,
    priority: int = Priority.MEDIUM,
    move_originator: tuple[str, int] | None = None,
    timeout: float | None = None,
) -> Response:
    """Send one instance as it is encoded, never under another transfer syntax."""
    context = find_context(channel, source.sop_class_uid, source.transfer_syntax_uid)
    command = Command(
        CommandField.C_STORE_RQ,
        affected_sop_class_uid=source.sop_class_uid,
        affected_sop_instance_uid=source.sop_instance_uid,
        priority=Priority(priority),
        has_data_set=True,
    )
    if move_originator is not None:
        command.move_originator_ae_title, command.move_originator_message_id = move_originator
    operation = await channel.invoker.invoke(context, command, source, timeout=timeout)
    return await final_response(channel, operation)


async def provide(incoming: IncomingRequest, request: Request, handlers: Handlers) -> Response:
    """Give a received instance to the handler: the command first, the data while it comes."""
    c_store = incoming.channel.invoker.receiver or handlers.c_store  # a sub-operation of our C-GET, or not
    if c_store is None:
        return Response(Status.SOP_CLASS_NOT_SUPPORTED)
    if not is_usable_uid(request.affected_sop_instance_uid):
        return Response(Status.INVALID_SOP_INSTANCE, error_comment="invalid Affected SOP Instance UID")
    if incoming.data is None:
        return Response(Status.DATA_SET_DOES_NOT_MATCH_SOP_CLASS, error_comment="no data set")
    return outcome(await incoming.guard(c_store(request)))


async def open_file(path: str | os.PathLike[str]) -> FileSource:
    """Read the head of a DICOM file (in a thread); see `file_source`."""
    return await in_thread(file_threads(), file_source, path)


def file_source(path: str | os.PathLike[str]) -> FileSource:
    """Read the head of a DICOM Part 10 file: what C-STORE has to know before it sends it (blocking).

    The UIDs are those of the data set, which is what is sent; the File Meta Information tells the
    transfer syntax. Raises `DataSetError` for what is not such a file, `OSError` if it is unreadable.
    """
    with open(path, "rb", buffering=0, opener=_open_at_once) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise DataSetError(f"{path} is not a regular file")
        head = file.read(_HEAD_SIZE)
        if status.st_size > _HEAD_SIZE and _head_is_short(head):
            head += file.read(_MAXIMUM_HEAD)
    try:
        meta = read_file_meta(head)
    except DataSetError as error:
        raise DataSetError(f"{path}: {error}") from None
    uids = _uids_of_data_set(memoryview(head)[meta.offset :], meta.transfer_syntax_uid)
    sop_class_uid = uids.get(_SOP_CLASS_UID) or meta.sop_class_uid
    sop_instance_uid = uids.get(_SOP_INSTANCE_UID) or meta.sop_instance_uid
    if not sop_class_uid or not sop_instance_uid:
        raise DataSetError(f"{path}: no SOP Class UID or no SOP Instance UID")
    return FileSource(
        path,
        sop_class_uid=sop_class_uid,
        sop_instance_uid=sop_instance_uid,
        transfer_syntax_uid=meta.transfer_syntax_uid,
        offset=meta.offset,
        length=status.st_size - meta.offset,
    )


def _open_at_once(path: str, flags: int) -> int:
    # Opening a FIFO would wait for somebody who writes to it.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _head_is_short(head: bytes) -> bool:
    try:
        meta = read_file_meta(head)
    except DataSetError:
        return True
    return _SOP_INSTANCE_UID not in _uids_of_data_set(
        memoryview(head)[meta.offset :], meta.transfer_syntax_uid
    )


def _uids_of_data_set(data: memoryview, transfer_syntax_uid: str) -> dict[int, str]:
    scanner = Scanner(transfer_syntax_uid, frozenset({_SOP_CLASS_UID, _SOP_INSTANCE_UID}))
    try:
        scanner.feed(data)
    except DataSetError:
        return {}  # the peer is the judge of it; the meta information has the UIDs
    found = {}
    for tag, element in scanner.found.items():
        found[tag] = element.value.decode("ascii", "replace").rstrip("\0 ")
    return found


def dataset_source(channel: Channel, dataset: Dataset) -> BytesSource:
    """Encode a pydicom Dataset for a transfer syntax that the peer accepted.

    Compressed pixel data is sent as it is; uncompressed data sets go in either Little Endian syntax.
    """
    from asyncdicom.dataset import encode, transfer_syntax_of

    sop_class_uid, sop_instance_uid = str(dataset.SOPClassUID), str(dataset.SOPInstanceUID)
    own = transfer_syntax_of(dataset)
    candidates = [own] if own is not None else []
    if own is None or not transfer_syntax(own).encapsulated:
        candidates += [EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN]
    accepted = {c.transfer_syntax for c in channel.contexts.values() if c.abstract_syntax == sop_class_uid}
    chosen = next((uid for uid in candidates if uid in accepted), candidates[0])
    find_context(channel, sop_class_uid, chosen)
    return BytesSource(sop_class_uid, sop_instance_uid, chosen, encode(dataset, chosen))
