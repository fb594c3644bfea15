"""Where a `Client` and the tools put the instances that they receive."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from asyncdicom.association import Request
from asyncdicom.data.steps import Steps, finish
from asyncdicom.naming import safe_name
from asyncdicom.net.disk import Disk
from asyncdicom.net.threads import file_threads, in_thread
from asyncdicom.scu.placing import UIDS, Examined, Placed, differs, examining, place, place_new
from asyncdicom.scu.results import ReceivedInstance
from asyncdicom.services.responses import Response
from asyncdicom.status import Status
from asyncdicom.telemetry.log import Log
from asyncdicom.uid import NON_PATIENT_OBJECT_STORAGE, STORAGE, VERIFICATION, is_usable_uid, transfer_syntax

if TYPE_CHECKING:
    from asyncdicom.scu.folders import FolderTemplate
    from asyncdicom.scu.identifiers import Keys

__all__ = ["TAKEN", "Kept", "Receiver", "asked_by"]

TAKEN = (VERIFICATION, *STORAGE, *NON_PATIENT_OBJECT_STORAGE)
"""What is accepted, beside storage SOP classes that are not in the standard."""

log = Log("asyncdicom.scu")

_numbers = itertools.count()
_MAXIMUM_SIZE = 16 << 30  # bytes of a data set, as for the archive
_MINIMUM_FREE = 2 << 30  # bytes; of a small disk a twentieth of it is enough, as for the archive
_REMEMBERED = 1000  # instances that were refused
_STEPS_AT_ONCE = 3  # of about a millisecond at most, in the event loop

_disk = Disk()  # the one where received files get their names


class Kept(NamedTuple):
    """An instance that was taken: the file it is in now (None for none), the bytes of its data set."""

    path: Path | None
    size: int
    missing: str = ""
    """Why it is known to be incomplete."""


class Receiver:
    """A handler of C-STORE requests: saves each instance in `directory`, or ignores it (None).

    A file is named after its SOP Instance UID (`safe_name`) and appears when it is complete. None is
    replaced: the same data set received again is kept once, another one under this UID gets a name of its
    own, which is told. `on_answer`: is called with what there is to tell of each, and its response.
    `maximum_size`, of a data set, and `minimum_free`, what stays free of the disk (by default 2 GiB, or a
    twentieth of it), are bytes: what exceeds them is refused with 0xA700 as soon as it does. A data set that
    ends before its last element does is refused with 0xC000, or, with `keep_incomplete`, kept with
    ".incomplete" at the end of its name and answered with the Warning 0xB007.
    `folders`: the folders within `directory` that files are put into. `on_stored`: is awaited when a whole
    one is in its file, and gives the answer. `on_kept`: is called when that is answered, unless with a
    Failure.
    `asked`: takes only what a retrieval with this identifier asks for, by its UIDs.
    `move_originators`: takes nothing that says it was led to by a C-MOVE of another AE title.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str] | None,
        *,
        on_answer: Callable[[dict[str, object], Response], None] | None = None,
        maximum_size: int = _MAXIMUM_SIZE,
        minimum_free: int | None = None,
        keep_incomplete: bool = False,
        folders: FolderTemplate | None = None,
        on_stored: Callable[[ReceivedInstance], Awaitable[Response]] | None = None,
        on_kept: Callable[[ReceivedInstance], None] | None = None,
        asked: Keys | None = None,
        move_originators: Collection[str] | None = None,
    ) -> None:
        self.received = 0
        self.bytes = 0
        self.refused: dict[str, str] = {}
        """Why instances were refused, by their UIDs (the first of many)."""
        self._asked = asked_by(asked)
        self._tags = {*self._asked} if folders is None else {*self._asked, *folders.tags}
        if on_stored is not None or on_kept is not None:
            self._tags.add(UIDS["StudyInstanceUID"])
        self._move_originators = move_originators
        self._directory = None if directory is None else _made(directory)
        self._on_answer = on_answer
        self._maximum_size = maximum_size
        self._minimum_free = minimum_free
        self._keep_incomplete = keep_incomplete
        self._folders = folders
        self._on_stored = on_stored
        self._on_kept = on_kept
        self._left = self._free = 0  # how much may be written, and is free, when it was last looked at

    async def __call__(self, request: Request) -> Response:
        """Receive one instance."""
        return (await self.take(request))[0]

    async def take(self, request: Request) -> tuple[Response, Kept | None]:
        """Receive one instance; gives the answer, and what was taken."""
        uid = request.affected_sop_instance_uid
        placed: Placed | None = None
        if not is_usable_uid(uid):
            return self._refused(request, Status.INVALID_SOP_INSTANCE, f"{uid!r} is not a UID")
        originator = request.command.move_originator_ae_title
        if (
            originator is not None
            and self._move_originators is not None
            and (originator not in self._move_originators)
        ):
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
                size, placed = await self._save(request, self._directory / f"{safe_name(uid)}.dcm")
        except OSError as error:
            return self._refused(request, Status.OUT_OF_RESOURCES, f"{self._why(error)}: {self._directory}")
        except _RefusedError as error:
            return self._refused(request, error.status, str(error))
        path = None if placed is None else placed.path
        if placed is not None and placed.what == "other":
            log.warning(
                "%s: other data under this SOP Instance UID are there; kept as %s", uid, placed.path.name
            )
        self.received += 1
        self.bytes += size
        response = Response(Status.SUCCESS)
        if placed is not None and placed.missing:
            log.warning("%s: %s; kept as %s", uid, placed.missing, placed.path.name)
            response = Response(
                Status.DATA_SET_DOES_NOT_MATCH_SOP_CLASS_WARNING, error_comment=placed.missing
            )
        elif placed is not None and (self._on_stored is not None or self._on_kept is not None):
            response = await self._told(self._received(request, placed, size), request, response)
        self._tell(request, response, bytes=size, file=None if path is None else str(path))
        return response, Kept(path, size, "" if placed is None else placed.missing)

    async def _told(self, received: ReceivedInstance, request: Request, response: Response) -> Response:
        """Tell of a whole one before it is answered, and behind the answer."""
        if self._on_stored is not None:
            response = await self._on_stored(received)
        task, on_kept = request.incoming.task, self._on_kept
        if task is not None and on_kept is not None and not response.status.is_failure:
            task.add_done_callback(lambda _: on_kept(received))
        return response

    def _received(self, request: Request, placed: Placed, size: int) -> ReceivedInstance:
        folder, depth = self._directory, 0 if self._folders is None else self._folders.depth_of_study
        if folder is not None:
            folder = folder.joinpath(*placed.path.relative_to(folder).parts[:depth]) if depth else None
        return ReceivedInstance(
            placed.path,
            folder,
            placed.study,
            request.affected_sop_class_uid,
            request.affected_sop_instance_uid,
            request.transfer_syntax_uid,
            size,
            request.calling_ae_title,
            request.called_ae_title,
            request.association.peer[0],
        )

    def _tell(self, request: Request, response: Response, **more: object) -> None:
        if self._on_answer is not None:
            fields: dict[str, object] = {
                "sop_class_uid": request.affected_sop_class_uid,
                "sop_instance_uid": request.affected_sop_instance_uid,
                "transfer_syntax_uid": request.transfer_syntax_uid,
                "calling_ae_title": request.calling_ae_title,
            }
            self._on_answer(fields | more, response)

    async def _save(self, request: Request, target: Path) -> tuple[int, Placed]:
        """Save under a name of its own first; raises OSError, `_RefusedError`."""
        if self._left <= 0:
            await in_thread(file_threads(), self._look, target.parent)
        if self._left <= 0:
            raise OSError(errno.ENOSPC, self._too_full())
        part = target.with_name(f".{target.stem}.{os.getpid()}-{next(_numbers)}.incoming")
        size = await request.data.save(
            part,
            source_ae_title=request.calling_ae_title,
            maximum=min(self._maximum_size, self._left),
        )
        return size, await self._place(request, part, target)

    async def _place(self, request: Request, part: Path, target: Path) -> Placed:
        try:
            seen = await self._examined(request, part)
            why = differs(seen.values, self._asked)
            if why is not None:
                raise _RefusedError(Status.NOT_AUTHORIZED, why)
            if seen.missing is not None and not self._keep_incomplete:
                raise _RefusedError(Status.CANNOT_UNDERSTAND, seen.missing)
            if seen.missing is not None:
                target = target.with_name(f"{target.name}.incomplete")
            names = self._names(request, seen)
            placed = await _disk.call(self._place_new, part, target, names)
            if placed is None:
                placed = await in_thread(file_threads(), self._place_other, part, target, names)
            study = seen.values.get(UIDS["StudyInstanceUID"], "")
            return placed._replace(missing=seen.missing or "", study=study)
        except BaseException:
            _remove(part)
            raise

    def _names(self, request: Request, seen: Examined) -> Sequence[str]:
        """Give the folders that a file is put into."""
        if self._folders is None:
            return ()
        titles = {"calling": request.calling_ae_title, "called": request.called_ae_title}
        return self._folders.names(seen.values, titles)

    async def _examined(self, request: Request, part: Path) -> Examined:
        """What is soon seen is looked for at once: to ask a thread takes as long."""
        steps = examining(part, self._tags)
        now = _disk.quick_now()
        if now is not None and not transfer_syntax(request.transfer_syntax_uid).deflated:
            seen = _disk.at_once(now, _begun, steps)
            if seen is not None:
                return seen
        return await in_thread(file_threads(), finish, steps)

    # these block

    def _place_new(self, part: Path, target: Path, names: Sequence[str]) -> Placed | None:
        try:
            return place_new(part, _within(target, names))
        finally:
            self._look(target.parent)

    def _place_other(self, part: Path, target: Path, names: Sequence[str]) -> Placed:
        return place(part, _within(target, names))

    def _look(self, directory: Path) -> None:
        """Look how much more may be written."""
        usage = shutil.disk_usage(directory)
        keep = self._minimum_free
        self._free = usage.free
        self._left = usage.free - (min(_MINIMUM_FREE, usage.total // 20) if keep is None else keep)

    # what went wrong

    def _why(self, error: OSError) -> str:
        if error.errno != errno.EFBIG:
            return error.strerror or str(error)
        if self._left < self._maximum_size:
            return self._too_full()
        return f"a data set of more than {self._maximum_size} bytes"

    def _too_full(self) -> str:
        return f"only {self._free >> 20} MiB of the disk are free"

    def _refused(self, request: Request, status: Status, why: str) -> tuple[Response, None]:
        uid = request.affected_sop_instance_uid
        if len(self.refused) < _REMEMBERED:
            self.refused[uid] = why
        log.error("%s: refused %s: %s", request.incoming.channel, uid, why)
        request.incoming.is_told = True
        response = Response(status, error_comment=why.partition(": ")[0])
        self._tell(request, response)
        return response, None


class _RefusedError(Exception):
    """An instance that was not asked for, or is not whole."""

    def __init__(self, status: Status, why: str) -> None:
        super().__init__(why)
        self.status = status


def _remove(part: Path) -> None:
    part.unlink(missing_ok=True)


def _begun(steps: Steps[Examined]) -> Examined | None:
    """Do the first steps; None if there are more."""
    try:
        for _ in range(_STEPS_AT_ONCE):
            next(steps)
    except StopIteration as end:
        seen: Examined = end.value
        return seen
    return None


def _within(target: Path, names: Sequence[str]) -> Path:
    """Make the folders, and give the place of the file in them. No link is followed."""
    folder = target.parent
    for name in names:
        folder = folder / name
        folder.mkdir(exist_ok=True)
        if folder.is_symlink():
            raise OSError(errno.ELOOP, "a folder in it is a link")
    return folder / target.name if names else target


def asked_by(identifier: Keys | None) -> Mapping[int, frozenset[str]]:
    """What an identifier limits a retrieval to, by tag."""
    asked = {}
    for name, tag in UIDS.items():
        value = None if identifier is None else identifier.get(name)
        if value:
            asked[tag] = frozenset([value] if isinstance(value, str) else map(str, value))
    return asked


def _made(directory: str | os.PathLike[str]) -> Path:
    path = Path(directory)
    path.mkdir(parents=True, exist_ok=True)
    return path
