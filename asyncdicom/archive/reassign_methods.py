"""What an operator can ask of an open archive about studies under another patient; see `operations`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from functools import partial
from typing import Any

from asyncdicom.archive.archive import Archive
from asyncdicom.archive.errors import ArchiveError
from asyncdicom.archive.index.reassigned import SENT
from asyncdicom.archive.reassign import Moved, Wanted

__all__ = ["REASSIGN_METHODS"]

_Line = Mapping[str, Any]


async def _study(archive: Archive, arguments: _Line) -> AsyncGenerator[_Line, None]:
    """Without `apply` it only says what would be changed."""
    becomes = arguments.get("becomes")
    if not isinstance(becomes, dict) or not set(becomes) <= set(SENT) or "patient_id" not in becomes:
        raise ArchiveError(f"becomes: the right patient, with {', '.join(SENT)}")
    wanted = Wanted(
        _text(arguments, "study_instance_uid") or "",
        _text(arguments, "patient_id"),
        _text(arguments, "issuer_of_patient_id"),
        {column: _text(becomes, column) for column in becomes},
    )
    is_dry = arguments.get("apply") is not True
    yield _line(await archive.upkeep(partial(archive.care.reassigning.study, wanted, dry=is_dry)), is_dry)


async def _undo(archive: Archive, arguments: _Line) -> AsyncGenerator[_Line, None]:
    """As `_study`."""
    is_dry = arguments.get("apply") is not True
    name = _text(arguments, "name") or ""
    yield _line(await archive.upkeep(partial(archive.care.reassigning.undo, name, dry=is_dry)), is_dry)


async def _list(archive: Archive, arguments: _Line) -> AsyncGenerator[_Line, None]:
    known = await archive.upkeep(archive.care.reassigning.known)
    for each in known:
        yield {
            "name": each.name,
            "study_instance_uid": each.study_instance_uid,
            "was": {column: each.was.get(column, "") for column in SENT},
            "becomes": {column: each.becomes.get(column, "") for column in SENT},
            "made": each.made,
            "undone": each.undone,
        }
    yield {"reassignments": len(known), "in_force": sum(not each.undone for each in known)}


def _text(arguments: _Line, name: str) -> str | None:
    value = arguments.get(name)
    if value is not None and not isinstance(value, str):
        raise ArchiveError(f"{name} is a text")
    return value


def _line(moved: Moved, is_dry: bool) -> _Line:
    return {**moved._asdict(), "names": list(moved.names), "applied": not is_dry}


REASSIGN_METHODS = {
    "reassign study": _study,
    "reassign undo": _undo,
    "reassign list": _list,
}
