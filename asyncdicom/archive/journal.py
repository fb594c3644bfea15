"""The file ``reassigned.json`` beside the index: every reassignment that was ever made, see `reassign`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from asyncdicom.archive.errors import ArchiveError
from asyncdicom.archive.file_calls import FileCalls
from asyncdicom.archive.index.reassigned import Reassignment

__all__ = ["Journal"]

_NAME = "reassigned.json"
_PIECE = 1 << 20


class Journal:
    """Reads and writes it: a crash leaves the old or the new one. All blocks, and raises ``OSError``."""

    def __init__(self, directory: str, calls: FileCalls, *, sync: bool) -> None:
        self.path = os.path.join(directory, _NAME)
        self._directory = directory
        self._calls = calls
        self._sync = sync

    def read(self) -> list[Reassignment] | None:
        """Give what is in it; None if there is none. Raises `ArchiveError` for one that is damaged."""
        if self._calls.look(self.path) is None:
            return None
        descriptor = self._calls.open_to_read(self.path)
        try:
            text = b"".join(iter(lambda: self._calls.read(descriptor, _PIECE), b""))
        finally:
            self._calls.close(descriptor)
        try:
            return [_from_json(each) for each in json.loads(text)["reassignments"]]
        except (ValueError, KeyError, TypeError) as error:
            raise ArchiveError(
                f"{self.path} is damaged: it says which studies were put under another patient. Put a copy "
                "of it back; or remove it, and it is written anew from what the index knows"
            ) from error

    def write(self, reassignments: Sequence[Reassignment] | None) -> None:
        """Write it anew; None: remove it."""
        if reassignments is None:
            self._calls.remove(self.path)
            return
        listed = [{k: v for k, v in asdict(each).items() if k != "id"} for each in reassignments]
        text = json.dumps({"reassignments": listed}, indent=1).encode() + b"\n"
        self._calls.replace(self.path, text, sync=self._sync)
        if self._sync:
            self._calls.sync_directory(self._directory)


def _from_json(value: Mapping[str, object]) -> Reassignment:
    texts = {name: value[name] for name in ("name", "study_instance_uid", "made", "undone")}
    patient, was, becomes = value["patient"], value["was"], value["becomes"]
    if not isinstance(patient, list) or not isinstance(was, dict) or not isinstance(becomes, dict):
        raise TypeError
    every = [*texts.values(), *patient, *was.values(), *becomes.values()]
    if len(patient) != 3 or "patient_id" not in becomes or not all(isinstance(each, str) for each in every):
        raise ValueError
    made = Reassignment(patient=(patient[0], patient[1], patient[2]), was=was, becomes=becomes, **texts)  # type: ignore[arg-type]
    made.amendment  # noqa: B018 - it can be sent
    return made
