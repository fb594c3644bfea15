"""A destination that is a folder: instances are kept there as DICOM files, by a template of their elements.

[destinations.RESEARCH]
folder = "/srv/research/{PatientID}/{StudyInstanceUID}"

What stands before the first element has to be there: a disk that is not mounted looks like a folder that is
missing. The rest is made. No received value gets into a path but by `safe_name`, and no link is followed
below what has to be there.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from typing import NamedTuple, TypeVarTuple

from asyncdicom.archive.archive import Archive
from asyncdicom.archive.index.deliveries import Claimed
from asyncdicom.data.part10 import encode_file_meta
from asyncdicom.data.scanner import Scanner
from asyncdicom.exceptions import DataSetError
from asyncdicom.gateway.carrier import Begun, Carried
from asyncdicom.gateway.facts import Facts, needed_for
from asyncdicom.gateway.template import Template, filled, parse_parts, tags_of
from asyncdicom.naming import safe_name
from asyncdicom.net.disk import Batch, write_all
from asyncdicom.net.sources import Source
from asyncdicom.net.threads import file_threads, in_thread
from asyncdicom.status import Status

__all__ = ["FolderCourier", "FolderTemplate", "parse_template"]

_Ts = TypeVarTuple("_Ts")

_NOTHING = "none"  # where an instance has no value
_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | _NO_LINK
_FILE_MODE, _FOLDER_MODE = 0o640, 0o750


class FolderTemplate(NamedTuple):
    """Where instances are kept: what has to be there, and the folders below it, of texts and elements."""

    root: str
    folders: tuple[Template, ...]

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
        return needed_for(tags_of(part for parts in self.folders for part in parts))

    def names(self, facts: Facts) -> list[str]:
        """Give the names of the folders below the root for an instance."""
        return [filled(parts, facts, lambda value: safe_name(value or _NOTHING)) for parts in self.folders]


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


def _parse_name(name: str) -> Template:
    parts = parse_parts(name)
    if isinstance(parts[0], str) and parts[0].startswith("."):
        raise ValueError(f"{name!r}: a name does not begin with a dot")
    return parts


class FolderCourier:
    """Writes instances of an archive into folders: complete and durable under their names, or not at all.

    What is there under the same name is replaced. `send` raises ``OSError`` for what the destination's disk
    says, `DataSetError` for what cannot be read here; cancelled, it leaves nothing. `name`: its own.
    """

    def __init__(self, archive: Archive, name: str, template: FolderTemplate) -> None:
        self._archive = archive
        self._name = name
        self._template = template

    def trip(self, lane: int | None) -> FolderCourier:
        """See `Carrier`."""
        return self

    async def end(self) -> None:
        """See `Trip`."""

    async def send(self, claimed: Claimed, begun: Begun) -> Carried:
        """See `Trip`. Nothing tells that it has begun: what goes wrong is the destination's."""
        source = await self._archive.assigned(self._archive.source_of(claimed), peer=self._name)
        head = encode_file_meta(
            source.sop_class_uid,
            source.sop_instance_uid,
            source.transfer_syntax_uid,
            source_ae_title=claimed.calling_ae_title,
        )
        file = _File(self._template.root, await self._names(claimed, source), source.sop_instance_uid)
        try:
            await self._writing(file.write, [head])
            async with aclosing(_pieces(source)) as batches:
                async for batch in batches:
                    await self._writing(file.write, batch)
            await self._writing(file.finish)
        finally:
            await self._writing(file.close)
        return Carried(Status.SUCCESS)

    async def _names(self, claimed: Claimed, source: Source) -> list[str]:
        scanner = Scanner(source.transfer_syntax_uid, self._template.tags)
        async with aclosing(_pieces(source)) as batches:
            async for batch in batches:
                if any(scanner.feed(memoryview(view)) for view in batch):
                    break
        facts = Facts(
            calling=claimed.calling_ae_title or "",
            sop_class=source.sop_class_uid,
            transfer_syntax=source.transfer_syntax_uid,
            size=claimed.data_set_length or 0,
            elements=scanner.found,
        )
        return self._template.names(facts)

    async def _writing(self, call: Callable[[*_Ts], None], *arguments: *_Ts) -> None:
        try:
            await in_thread(file_threads(), call, *arguments)
        except OSError as error:  # its own text would name a folder, and so perhaps a patient
            raise OSError(error.errno, f"{self._template.root}: {error.strerror or 'it failed'}") from None

    def leave(self, lane: int) -> None:
        """See `Carrier`."""

    def rest(self) -> None:
        """See `Carrier`."""

    async def close(self) -> None:
        """See `Carrier`."""


async def _pieces(source: Source) -> AsyncGenerator[Batch, None]:
    """Read an instance; that it cannot be is nobody else's fault."""
    try:
        async with aclosing(source.open()) as batches:
            async for batch in batches:
                yield batch
    except OSError as error:
        why = f"it cannot be read here: {error.strerror or type(error).__name__}"
        raise DataSetError(why) from error


class _File:
    """A file below a folder that has to be there; it gets its name when it is complete. All methods block."""

    def __init__(self, root: str, folders: list[str], uid: str) -> None:
        self._root = root
        self._folders = folders
        self._name = f"{safe_name(uid)}.dcm"
        self._part = f".{secrets.token_hex(8)}.part"
        self._folder = self._file = -1

    def write(self, batch: Batch) -> None:
        if self._file < 0:
            self._folder = _open_below(self._root, self._folders)
            self._file = os.open(self._part, _NEW, _FILE_MODE, dir_fd=self._folder)
        write_all(self._file, batch)

    def finish(self) -> None:
        os.fsync(self._file)
        os.replace(self._part, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        self._part = ""
        os.fsync(self._folder)

    def close(self) -> None:
        """Let go of it; what is not complete is removed."""
        if self._file >= 0:
            os.close(self._file)
            if self._part:
                with suppress(OSError):
                    os.unlink(self._part, dir_fd=self._folder)
        if self._folder >= 0:
            os.close(self._folder)


def _open_below(root: str, names: list[str]) -> int:
    """Open a folder below another one; those that are missing are made, and durable."""
    folder = os.open(root, _FOLDER)
    for name in names:
        above = folder
        try:
            with suppress(FileExistsError):
                os.mkdir(name, _FOLDER_MODE, dir_fd=above)
                os.fsync(above)
            folder = os.open(name, _FOLDER | _NO_LINK, dir_fd=above)
        finally:
            os.close(above)
    return folder
