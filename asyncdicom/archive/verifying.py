"""Every file of an archive is compared with its row, on demand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from asyncdicom.archive.blobs.base import Blobs, State
from asyncdicom.archive.index.upkeep import FileRow, Reader

__all__ = ["Verified", "verified"]


class Verified(NamedTuple):
    """What was found at the file of one row."""

    sop_instance_uid: str
    path: str
    state: str

    @property
    def is_sound(self) -> bool:
        """Tell whether the file is what its row says."""
        return self.state == State.SOUND.value


def verified(reader: Reader, blobs: Blobs, pace: Callable[[int], None]) -> Iterator[Verified]:
    """Compare each file with its row; ``pace`` is called with what was read (bytes), and may wait."""
    for table, path in (("instance", blobs.path), ("quarantine", blobs.quarantine_path)):
        after = 0
        while rows := reader.file_rows(table, after):
            for row in rows:
                state = _state(blobs, path(row.file), row, pace)
                if state != State.SOUND.value and reader.file_rows(table, row.id - 1)[:1] != [row]:
                    continue  # replaced or removed meanwhile
                yield Verified(row.sop_instance_uid, path(row.file), state)
            after = rows[-1].id


def _state(blobs: Blobs, path: str, row: FileRow, pace: Callable[[int], None]) -> str:
    try:
        return blobs.look_at(path, row, read_so_far=pace).value
    except OSError as error:
        return f"not readable ({error.strerror})"
