"""A destination that is a folder: instances are kept there as DICOM files, by a template of their elements.

[destinations.RESEARCH]
folder = "/srv/research/{PatientID}/{StudyInstanceUID}"

What stands before the first element has to be there: a disk that is not mounted looks like a folder that is
missing. The rest is made. No received value gets into a path but by `safe_name`, and no link is followed
below what has to be there.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import NamedTuple

from asyncdicom.archive.archive import Archive
from asyncdicom.archive.index.deliveries import Claimed
from asyncdicom.data.part10 import encode_file_meta
from asyncdicom.exceptions import DataSetError
from asyncdicom.gateway.carrier import Begun, Carried
from asyncdicom.gateway.facts import Facts, Wanted, wanted_of
from asyncdicom.gateway.files import facts_of_blob
from asyncdicom.naming import safe_name
from asyncdicom.net.disk import write_all
from asyncdicom.net.threads import file_threads, in_thread
from asyncdicom.status import Status

__all__ = ["FolderCourier", "FolderTemplate", "parse_template"]

_PIECE = 1 << 20
_ELEMENT = re.compile(r"\{([^{}]*)\}")
_NOTHING = "none"  # where an instance has no value
_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | _NO_LINK
_FILE_MODE, _FOLDER_MODE = 0o640, 0o750


class FolderTemplate(NamedTuple):
    """Where instances are kept: what has to be there, and the folders below it, of texts and elements."""

    root: str
    folders: tuple[tuple[str | Wanted, ...], ...]

    def __str__(self) -> str:
        below = (
            "".join(p if isinstance(p, str) else f"{{{p.name}}}" for p in parts) for parts in self.folders
        )
        return "/".join((self.root.rstrip("/"), *below))

    @property
    def where(self) -> str:
        """Its text."""
        return str(self)

    @property
    def tags(self) -> frozenset[int]:
        """The elements that have to be known."""
        return frozenset(p.tag for parts in self.folders for p in parts if isinstance(p, Wanted) and p.tag)

    def names(self, facts: Facts) -> list[str]:
        """Give the names of the folders below the root for an instance."""
        return ["".join(_text(part, facts) for part in parts) for parts in self.folders]


def _text(part: str | Wanted, facts: Facts) -> str:
    if isinstance(part, str):
        return part
    value = facts.text(part.tag, part.vr) if part.tag else facts.values(part)[0]
    return safe_name(value or _NOTHING)


def parse_template(text: str) -> FolderTemplate:
    """Understand a template. Raises ValueError for one that is no absolute path, or asks for no element."""
    if os.name != "posix":
        raise ValueError("folders as destinations need a POSIX system")
    if not os.path.isabs(text) or "\0" in text:
        raise ValueError(f'{text!r} is no absolute path: write "/srv/dicom/{{PatientID}}"')
    parts = [part for part in text.split("/") if part]
    if ".." in parts or "." in parts:
        raise ValueError(f"{text!r}: . and .. are no folders of a template")
    first = next((number for number, part in enumerate(parts) if "{" in part or "}" in part), len(parts))
    return FolderTemplate("/" + "/".join(parts[:first]), tuple(map(_parse_name, parts[first:])))


def _parse_name(name: str) -> tuple[str | Wanted, ...]:
    parts: list[str | Wanted] = []
    for number, part in enumerate(_ELEMENT.split(name)):
        if number % 2:
            parts.append(wanted_of(part))
        elif "{" in part or "}" in part:
            raise ValueError(f"{name!r} has a brace without its other one")
        elif part:
            parts.append(part)
    if isinstance(parts[0], str) and parts[0].startswith("."):
        raise ValueError(f"{name!r}: a name does not begin with a dot")
    return tuple(parts)


class _StoppedError(Exception):
    """The gateway stops in the middle of a file."""


class FolderCourier:
    """Writes instances of an archive into folders: complete and durable under their names, or not at all.

    What is there under the same name is replaced. `send` raises ``OSError`` for what the destination's disk
    says, `DataSetError` for what cannot be read here.
    """

    def __init__(self, archive: Archive, template: FolderTemplate) -> None:
        self._archive = archive
        self._template = template
        self._ending = threading.Event()

    async def send(self, claimed: Claimed, priority: int, begun: Begun, lane: int | None) -> Carried:
        """See `Carrier`. Nothing tells that it has begun: what goes wrong is the destination's."""
        try:
            await in_thread(file_threads(), self._write, claimed)
        except _StoppedError:
            raise asyncio.CancelledError from None
        except OSError as error:  # its own text would name a folder, and so perhaps a patient
            raise OSError(error.errno, f"{self._template.root}: {error.strerror or 'it failed'}") from None
        return Carried(Status.SUCCESS)

    def leave(self, lane: int) -> None:
        """See `Carrier`."""

    def rest(self) -> None:
        """See `Carrier`."""

    def interrupt(self) -> None:
        """See `Carrier`: a thread cannot be cancelled."""
        self._ending.set()

    async def close(self) -> None:
        """See `Carrier`."""

    # in a thread

    def _write(self, claimed: Claimed) -> None:
        names = self._names(claimed)
        name = f"{safe_name(claimed.sop_instance_uid or '')}.dcm"
        part = f".{secrets.token_hex(8)}.part"
        with _below(self._template.root, names) as folder:
            file = os.open(part, _NEW, _FILE_MODE, dir_fd=folder)
            try:
                try:
                    self._copy(claimed, file)
                    os.fsync(file)
                finally:
                    os.close(file)
                os.replace(part, name, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                with suppress(OSError):
                    os.unlink(part, dir_fd=folder)
                raise
            os.fsync(folder)

    def _names(self, claimed: Claimed) -> list[str]:
        try:
            facts = facts_of_blob(self._archive.reading(claimed), claimed, self._template.tags)
        except OSError as error:
            raise _unreadable(error) from error
        return self._template.names(facts)

    def _copy(self, claimed: Claimed, file: int) -> None:
        head = encode_file_meta(
            claimed.sop_class_uid or "",
            claimed.sop_instance_uid or "",
            claimed.transfer_syntax_uid or "",
            source_ae_title=claimed.calling_ae_title,
        )
        write_all(file, [head])
        length = 0
        for piece in self._pieces(claimed):
            length += len(piece)
            write_all(file, [piece])
        if length != claimed.data_set_length:
            raise DataSetError(f"its file has {length} bytes and not {claimed.data_set_length}")

    def _pieces(self, claimed: Claimed) -> Iterator[bytes]:
        try:
            with closing(self._archive.reading(claimed)) as blob:
                left = claimed.data_set_offset or 0
                while left and (head := blob.read(left)):
                    left -= len(head)
                while piece := blob.read(_PIECE):
                    if self._ending.is_set():
                        raise _StoppedError
                    yield piece
        except OSError as error:
            raise _unreadable(error) from error


def _unreadable(error: OSError) -> DataSetError:
    return DataSetError(f"it cannot be read here: {error.strerror or type(error).__name__}")


@contextmanager
def _below(root: str, names: list[str]) -> Iterator[int]:
    """Open a folder below another one; those that are missing are made, and durable."""
    folder = os.open(root, _FOLDER)
    try:
        for name in names:
            above = folder
            try:
                with suppress(FileExistsError):
                    os.mkdir(name, _FOLDER_MODE, dir_fd=above)
                    os.fsync(above)
                folder = os.open(name, _FOLDER | _NO_LINK, dir_fd=above)
            finally:
                if folder != above:
                    os.close(above)
        yield folder
    finally:
        os.close(folder)
