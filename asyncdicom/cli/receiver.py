"""Where storescp, getscu and movescu put the instances that they receive."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from asyncdicom.cli.naming import file_name
from asyncdicom.cli.output import json_line
from asyncdicom.cli.placing import UIDS, Placed, differs, place
from asyncdicom.net.threads import file_threads, in_thread
from asyncdicom.services.handlers import Request, Response
from asyncdicom.status import Status
from asyncdicom.telemetry.log import Log

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["Receiver"]

log = Log("asyncdicom.cli")

_numbers = itertools.count()
_MAXIMUM_SIZE = 16 << 30  # bytes of a data set, as for the archive
_MINIMUM_FREE = 2 << 30  # bytes; of a small disk a twentieth of it is enough, as for the archive


class Receiver:
    """A handler of C-STORE requests: saves each instance in `directory`, or ignores it (None).

    A file is named after its SOP Instance UID and appears when it is complete. None is replaced: the same
    data set received again is kept once, another one under this UID gets a name of its own, which is told.
    `asked`: takes only what a retrieval with this identifier asks for, by its UIDs.
    `move_originator`: takes nothing that a C-MOVE of another AE title has led to.
    """

    def __init__(
        self,
        directory: str | None,
        *,
        as_json: bool = False,
        asked: Dataset | None = None,
        move_originator: str | None = None,
    ) -> None:
        self.received = 0
        self.bytes = 0
        self.refused: dict[str, str] = {}
        """Why instances were refused, by their UIDs."""
        self._asked = _uids_of(asked)
        self._move_originator = move_originator
        self._directory = None if directory is None else _made(directory)
        self._as_json = as_json

    async def __call__(self, request: Request) -> Response:
        """Receive one instance."""
        uid = request.affected_sop_instance_uid
        placed: Placed | None = None
        try:
            name = file_name(uid)
        except ValueError as error:
            return self._refused(request, Status.INVALID_SOP_INSTANCE, str(error))
        originator = request.command.move_originator_ae_title
        if self._move_originator is not None and originator not in (None, self._move_originator):
            return self._refused(request, Status.NOT_AUTHORIZED, "sent for a C-MOVE of somebody else")
        asked = self._asked.get(UIDS["SOPInstanceUID"])
        if asked is not None and uid not in asked:
            return self._refused(request, Status.NOT_AUTHORIZED, "not asked for")
        try:
            if self._directory is None:
                size = 0
                async for batch in request.data.batches():
                    size += sum(map(len, batch))
            else:
                size, placed = await self._save(request, self._directory / name)
        except OSError as error:
            why = error.strerror or str(error)
            return self._refused(request, Status.OUT_OF_RESOURCES, f"{why}: {self._directory}")
        except _NotWantedError as error:
            return self._refused(request, Status.NOT_AUTHORIZED, str(error))
        path = None if placed is None else placed.path
        if placed is not None and placed.what == "other":
            log.warning(
                "%s: other data under this SOP Instance UID are there; kept as %s", uid, placed.path.name
            )
        self.received += 1
        self.bytes += size
        if self._as_json:
            json_line(
                sop_class_uid=request.affected_sop_class_uid,
                sop_instance_uid=uid,
                transfer_syntax_uid=request.transfer_syntax_uid,
                calling_ae_title=request.calling_ae_title,
                bytes=size,
                file=None if path is None else str(path),
            )
        return Response(Status.SUCCESS)

    async def _save(self, request: Request, target: Path) -> tuple[int, Placed]:
        """Save under a name of its own first; raises OSError, `_NotWantedError`."""
        _check_room(target.parent)
        part = target.with_name(f".{target.stem}.{os.getpid()}-{next(_numbers)}.incoming")
        try:
            size = await request.data.save(part, source_ae_title=request.calling_ae_title)
            if size > _MAXIMUM_SIZE:
                raise OSError(0, f"a data set of more than {_MAXIMUM_SIZE >> 30} GiB")
            return size, await in_thread(file_threads(), self._place, part, target)
        except BaseException:
            part.unlink(missing_ok=True)
            raise

    def _place(self, part: Path, target: Path) -> Placed:
        why = differs(part, self._asked) if self._asked else None
        if why is not None:
            raise _NotWantedError(why)
        return place(part, target)

    def _refused(self, request: Request, status: Status, why: str) -> Response:
        uid = request.affected_sop_instance_uid
        self.refused[uid] = why
        log.error("refused %s from %s: %s", uid, request.calling_ae_title, why)
        return Response(status, error_comment=why.partition(": ")[0])


class _NotWantedError(Exception):
    """An instance that was not asked for."""


def _uids_of(identifier: Dataset | None) -> Mapping[int, frozenset[str]]:
    """What an identifier limits a retrieval to, by tag."""
    asked = {}
    for name, tag in UIDS.items():
        value = None if identifier is None else identifier.get(name)
        if value:
            asked[tag] = frozenset([value] if isinstance(value, str) else map(str, value))
    return asked


def _check_room(directory: Path) -> None:
    """Raise OSError if so little of the disk is free that nothing more should be stored."""
    usage = shutil.disk_usage(directory)
    if usage.free < min(_MINIMUM_FREE, usage.total // 20):
        raise OSError(0, f"only {usage.free >> 20} MiB of the disk are free")


def _made(directory: str) -> Path:
    path = Path(directory)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.UsageError(f"cannot make the folder {directory}: {error.strerror}") from None
    return path
