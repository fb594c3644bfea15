"""The file ``deleted.jsonl`` beside the index: every deletion that was ever made, see `deleting`.

Its first line says which archive it belongs to; each other line is one entry, whole or not there, and ends
with the entry's name. It only grows. How far it was written is in the index, in the transaction that an entry
belongs to: what comes behind that was written before a commit that never came, or the index is older.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Generator, Iterable, Sequence
from typing import Any, NamedTuple

from asyncdicom.archive.errors import ArchiveError
from asyncdicom.archive.file_calls import FileCalls
from asyncdicom.archive.index.deleting import Log, Tombstone

__all__ = ["DeletedJournal", "Entry"]

_NAME = "deleted.jsonl"
_PIECE = 1 << 20
_LONGEST = 1 << 26  # bytes of a line: many times what one transaction deletes
_NAME_BYTES = 8


class Entry(NamedTuple):
    """What one transaction has deleted, or stored again."""

    when: str
    """UTC, ISO 8601."""

    why: str = ""
    deleted: Sequence[Tombstone] = ()
    lifted: Sequence[str] = ()
    """SOP Instance UIDs of instances that were deleted and have come again."""


class DeletedJournal:
    """Reads and writes it. All blocks, and raises ``OSError``."""

    def __init__(self, directory: str, archive_id: str, calls: FileCalls, *, sync: bool) -> None:
        self.path = os.path.join(directory, _NAME)
        self._directory = directory
        self._archive_id = archive_id
        self._calls = calls
        self._sync = sync

    @property
    def size(self) -> int | None:
        """How long it is, in bytes; None if it is not there."""
        found = self._calls.look(self.path)
        return None if found is None else found.st_size

    def append(self, log: Log, entry: Entry) -> Log:
        """Write an entry behind what the index knows of, and give what it is to know then.

        Raises `ArchiveError` if the file is shorter than that: somebody has changed it.
        """
        size = self.size
        if (size is not None and size < log.size) or (size is None and log.size):
            raise ArchiveError(
                f"{self.path} was changed by somebody: stop the archive and start it again, then it is "
                "written anew from the index"
            )
        name = secrets.token_hex(_NAME_BYTES)
        text = (b"" if log.size else self._head()) + _line(entry, name)
        self._calls.append(self.path, log.size, text, sync=self._sync)
        if size is None and self._sync:
            self._calls.sync_directory(self._directory)
        return log._replace(size=log.size + len(text), last=name)

    def cut(self, log: Log) -> None:
        """Remove what was written for a transaction that has failed."""
        size = self.size
        if size is not None and size > log.size:
            self._calls.append(self.path, log.size, b"", sync=False)

    def is_continued(self, log: Log) -> bool:
        """Tell whether it begins with all that the index knows of."""
        descriptor = self._calls.open_to_read(self.path)
        try:
            if not log.size:
                return self._is_ours(self._calls.read(descriptor, _PIECE))
            end = _end(log.last)
            return self._calls.read_from(descriptor, max(log.size - len(end), 0), len(end)) == end
        finally:
            self._calls.close(descriptor)

    def _is_ours(self, start: bytes) -> bool:
        head = start.partition(b"\n")[0]
        return not start or head + b"\n" == self._head() or self._head().startswith(start)

    def read(self, log: Log) -> Generator[tuple[Entry, Log], None, None]:
        """Give each entry behind what the index knows of, and what it is to know after that one.

        A line that does not come to its end is none. Raises `ArchiveError` for one that is damaged.
        """
        descriptor = self._calls.open_to_read(self.path)
        try:
            size, rest = log.size, b""
            piece = self._calls.read_from(descriptor, size, _PIECE)
            while piece:
                *lines, rest = (rest + piece).split(b"\n")
                if len(rest) > _LONGEST:
                    raise self._damaged()
                for line in lines:
                    is_head, size = not size, size + len(line) + 1
                    if not is_head:
                        entry, name = self._entry(line)
                        log = log._replace(size=size, last=name)
                        yield entry, log
                piece = self._calls.read(descriptor, _PIECE)
        finally:
            self._calls.close(descriptor)

    def _entry(self, line: bytes) -> tuple[Entry, str]:
        try:
            return _read(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            raise self._damaged() from error

    def _damaged(self) -> ArchiveError:
        return ArchiveError(
            f"{self.path} is damaged: it says which instances were deleted. Put a copy of it back; or remove "
            "it, and it is written anew from what the index knows"
        )

    def set_aside(self) -> str:
        """Move it out of the way, and give its new path."""
        number = 1
        while self._calls.look(aside := f"{self.path}.other-{number}") is not None:
            number += 1
        self._calls.move(self.path, aside)
        return aside

    def write(self, log: Log, entries: Iterable[Entry]) -> Log:
        """Write it anew: a crash leaves the old or the new one. Gives what the index is to know then."""
        half = f"{self.path}.half"
        self._calls.remove(half)
        size, last = 0, ""
        text = self._head()
        descriptor = self._calls.create(half)
        try:
            self._calls.set_mode(descriptor)
            for entry in entries:
                last = secrets.token_hex(_NAME_BYTES)
                text += _line(entry, last)
                self._calls.write(descriptor, [text])
                size, text = size + len(text), b""
            if self._sync:
                self._calls.sync_data(descriptor)
        finally:
            self._calls.close(descriptor)
        self._calls.move(half, self.path)
        if self._sync:
            self._calls.sync_directory(self._directory)
        return log._replace(size=size, last=last)

    def _head(self) -> bytes:
        return json.dumps({"archive_id": self._archive_id}).encode() + b"\n"


def _end(name: str) -> bytes:
    return f'"name": "{name}"}}\n'.encode()


def _line(entry: Entry, name: str) -> bytes:
    listed: dict[str, Any] = {"when": entry.when}
    if entry.deleted:
        listed |= {"why": entry.why, "deleted": entry.deleted}
    if entry.lifted:
        listed["lifted"] = entry.lifted
    return json.dumps(listed | {"name": name}).encode() + b"\n"


def _read(value: Any) -> tuple[Entry, str]:
    if not isinstance(value, dict):
        raise TypeError
    deleted = [_tombstone(each) for each in value.get("deleted", ())]
    lifted = value.get("lifted", [])
    texts = [value["when"], value["name"], value.get("why", ""), *lifted]
    if not isinstance(lifted, list) or not all(isinstance(each, str) for each in texts):
        raise TypeError
    return Entry(value["when"], value.get("why", ""), deleted, lifted), value["name"]


def _tombstone(value: Any) -> Tombstone:
    made = Tombstone(*value)
    for name, each in made._asdict().items():
        kind = int if name.startswith("data_set_") else str
        if type(each) is not kind:
            raise TypeError
    return made
