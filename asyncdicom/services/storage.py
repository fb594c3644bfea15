"""Storage: C-STORE (PS3.4 Annex B), and where the instances to be sent come from."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from io import BytesIO, FileIO
from typing import TYPE_CHECKING

from asyncdicom.data.elements import passed_over
from asyncdicom.data.part10 import FileMeta, read_file_meta
from asyncdicom.data.scanner import Scanner
from asyncdicom.dimse.messages import Command, CommandField, Priority
from asyncdicom.exceptions import DataSetError
from asyncdicom.net.channel import Channel
from asyncdicom.net.disk import AT_ONCE
from asyncdicom.net.sources import BytesSource, FileSource, Source
from asyncdicom.net.threads import file_threads, in_thread
from asyncdicom.services import account
from asyncdicom.services.contexts import find_context, find_storage_context
from asyncdicom.services.request import Request, StoreHandler
from asyncdicom.services.responses import Answer, Response, final_response
from asyncdicom.services.service import Service
from asyncdicom.status import Status
from asyncdicom.uid import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    SOP_CLASSES,
    STORAGE,
    is_valid_uid,
    transfer_syntax,
)
from asyncdicom.ul.negotiation import ANY_TRANSFER_SYNTAX

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["Storage", "dataset_source", "file_source", "look_into", "open_file", "store", "uids_of"]

_SOP_CLASS_UID = 0x00080016
_SOP_INSTANCE_UID = 0x00080018
_HEAD_SIZE = 8192
_MAXIMUM_HEAD = 1 << 17
_PIECE = 1 << 18
_STORED = ("storage", "non-patient-object-storage")  # service classes


async def store(
    channel: Channel,
    source: Source,
    *,
    priority: int = Priority.MEDIUM,
    move_originator: tuple[str, int] | None = None,
    timeout: float | None = None,
    on_sent: Callable[[], None] | None = None,
) -> Response:
    """Send one instance: as it is encoded, or re-encoded if the peer takes it only so."""
    context = find_storage_context(channel, (source.sop_class_uid, source.transfer_syntax_uid))
    if context.transfer_syntax != source.transfer_syntax_uid:
        from asyncdicom.net.reencoding import ReencodedSource  # most instances are sent as they are

        source = ReencodedSource(source, context.transfer_syntax)
    command = Command(
        CommandField.C_STORE_RQ,
        affected_sop_class_uid=source.sop_class_uid,
        affected_sop_instance_uid=source.sop_instance_uid,
        priority=Priority.MEDIUM if priority == 0 else Priority(priority),  # which is slow to find
        has_data_set=True,
    )
    if move_originator is not None:
        command.move_originator_ae_title, command.move_originator_message_id = move_originator
    operation = await channel.invoker.invoke(context, command, source, timeout=timeout)
    if on_sent is not None:
        on_sent()
    return await final_response(channel, operation)


class Storage(Service):
    """Gives received instances to `handler`, a coroutine function: first the command, then the data.

    Without a handler it performs only the C-STORE sub-operations of a C-GET of ours that brought its own.
    """

    name = "storage"
    permission = "store"
    commands = frozenset({CommandField.C_STORE_RQ})
    transfer_syntaxes: tuple[str, ...] = ANY_TRANSFER_SYNTAX  # nothing is decoded

    def __init__(self, handler: StoreHandler | None = None) -> None:
        self.handler = handler
        self.sop_classes = STORAGE if handler is not None else ()

    def takes(self, abstract_syntax: str) -> bool:
        """Storage SOP classes of any kind, and what the standard does not know."""
        entry = SOP_CLASSES.get(abstract_syntax)
        return entry is None or entry[1] in _STORED

    async def perform(self, request: Request) -> Answer:
        """Ask the handler: that of our C-GET, or that of the association."""
        incoming = request.incoming
        arrivals = incoming.channel.invoker.receiver
        handler = self.handler if arrivals is None else arrivals.handler or self.handler
        if handler is None:
            return Status.SOP_CLASS_NOT_SUPPORTED
        uid = request.affected_sop_instance_uid
        if not is_valid_uid(uid) and not account.takes(incoming.channel, uid):
            return Response(Status.INVALID_SOP_INSTANCE, error_comment="invalid Affected SOP Instance UID")
        if incoming.data is None:
            return Response(Status.DATA_SET_DOES_NOT_MATCH_SOP_CLASS, error_comment="no data set")
        return await incoming.guard(handler(request))


async def open_file(path: str | os.PathLike[str]) -> FileSource:
    """Read the head of a DICOM file (in a thread); see `file_source`."""
    return await in_thread(file_threads(), file_source, path)


def file_source(path: str | os.PathLike[str]) -> FileSource:
    """Read the head of a DICOM file: what C-STORE has to know before it sends it (blocking).

    The UIDs are those of the data set, which is what is sent; the File Meta Information tells the
    transfer syntax. A file without it, or whose data set is in another transfer syntax, is read to its end:
    it is sent if it can be read safely. Raises `DataSetError` for what cannot be sent, `OSError` if it is
    unreadable.
    """
    with open(path, "rb", buffering=0, opener=_open_at_once) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise DataSetError(f"{path} is not a regular file")
        head = file.read(_HEAD_SIZE)
        if status.st_size > _HEAD_SIZE and _head_is_short(head):
            head += file.read(_MAXIMUM_HEAD)
        try:
            found = look_into(head, file)
        except DataSetError as error:
            raise DataSetError(f"{path}: {error}") from None
    if not found.sop_class_uid or not found.sop_instance_uid:
        raise DataSetError(f"{path}: no SOP Class UID or no SOP Instance UID")
    return FileSource(
        path,
        sop_class_uid=found.sop_class_uid,
        sop_instance_uid=found.sop_instance_uid,
        transfer_syntax_uid=found.transfer_syntax_uid,
        offset=found.offset,
        length=status.st_size - found.offset,
    )


def _open_at_once(path: str, flags: int) -> int:
    # Opening a FIFO would wait for somebody who writes to it.
    return os.open(path, flags | AT_ONCE)


def look_into(head: bytes, file: FileIO | BytesIO) -> FileMeta:
    """Give what a file is sent as; only where its head does not tell is the rest of it read.

    Raises `DataSetError` for what cannot be sent.
    """
    meta = _begin_of_data_set(head)
    uids = _uids_of_data_set(head, meta) if meta.transfer_syntax_uid else None
    if uids is None:
        from asyncdicom.data.bare import examine  # most files tell what they are

        try:
            return examine(_pieces(file, meta.offset), meta.offset)
        except DataSetError as doubt:
            if not meta.transfer_syntax_uid:
                try:
                    read_file_meta(head)  # says what is missing
                except DataSetError as error:
                    raise DataSetError(f"{error}; {doubt}") from None
            uids = {}  # the peer is the judge of it; the meta information has the UIDs
    return meta._replace(
        sop_class_uid=uids.get(_SOP_CLASS_UID) or meta.sop_class_uid,
        sop_instance_uid=uids.get(_SOP_INSTANCE_UID) or meta.sop_instance_uid,
    )


def _head_is_short(head: bytes) -> bool:
    try:
        meta = _begin_of_data_set(head)
    except DataSetError:
        return True
    uids = _uids_of_data_set(head, meta) if meta.transfer_syntax_uid else None
    return uids is None or _SOP_INSTANCE_UID not in uids


def _begin_of_data_set(head: bytes) -> FileMeta:
    """Read the head; elements of the groups 0000 and 0002 in the data set are not sent."""
    meta = read_file_meta(head, strict=False)
    if transfer_syntax(meta.transfer_syntax_uid).deflated:
        return meta
    return meta._replace(offset=meta.offset + passed_over(memoryview(head)[meta.offset :]))


def _uids_of_data_set(head: bytes, meta: FileMeta) -> dict[int, str] | None:
    """The UIDs that the head has; None if the data set is not in its transfer syntax."""
    scanner = Scanner(meta.transfer_syntax_uid, frozenset({_SOP_CLASS_UID, _SOP_INSTANCE_UID}))
    try:
        scanner.feed(memoryview(head)[meta.offset :])
    except DataSetError:
        return None
    found = {}
    for tag, element in scanner.found.items():
        found[tag] = element.value.decode("ascii", "replace").rstrip("\0 ")
    return found


def _pieces(file: FileIO | BytesIO, offset: int) -> Iterator[bytes]:
    file.seek(offset)
    while piece := file.read(_PIECE):
        yield piece


def uids_of(dataset: Dataset) -> tuple[str, str]:
    """Give the SOP Class UID and the SOP Instance UID of a Dataset.

    Raises `DataSetError` if it has none, TypeError for what is no Dataset and nothing else that can be sent.
    """
    if not hasattr(dataset, "walk"):
        raise TypeError(f"files, sources and datasets can be sent, not {dataset!r:.100}")
    uids = str(dataset.get("SOPClassUID") or ""), str(dataset.get("SOPInstanceUID") or "")
    if not all(uids):
        raise DataSetError("a data set without SOP Class UID or SOP Instance UID")
    return uids


def dataset_source(channel: Channel, dataset: Dataset) -> BytesSource:
    """Encode a pydicom Dataset for a transfer syntax that the peer accepted.

    Compressed pixel data is sent as it is; uncompressed data sets go in either Little Endian syntax.
    """
    from asyncdicom.dataset import encode, transfer_syntax_of

    sop_class_uid, sop_instance_uid = uids_of(dataset)
    own = transfer_syntax_of(dataset)
    candidates = [own] if own is not None else []
    if own is None or not transfer_syntax(own).encapsulated:
        candidates += [EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN]
    accepted = {c.transfer_syntax for c in channel.contexts.values() if c.abstract_syntax == sop_class_uid}
    chosen = next((uid for uid in candidates if uid in accepted), candidates[0])
    find_context(channel, sop_class_uid, chosen)
    return BytesSource(sop_class_uid, sop_instance_uid, chosen, encode(dataset, chosen))
