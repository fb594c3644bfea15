"""What an operator can ask of an open archive about deleting; see `operations`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from asyncdicom.archive.archive import Archive
from asyncdicom.archive.deleting import Deleted, Scope
from asyncdicom.archive.errors import ArchiveError

__all__ = ["DELETE_METHODS"]

_Line = Mapping[str, Any]


async def _delete(archive: Archive, arguments: _Line) -> AsyncGenerator[_Line, None]:
    """Give how much is deleted so far, what was refused, and the whole. Without `apply` nothing goes."""
    level, uid, patient_id = (arguments.get(name) for name in ("level", "uid", "patient_id"))
    if not isinstance(level, str) or not isinstance(uid, str) or not uid:
        raise ArchiveError("level and uid are texts: STUDY, SERIES or IMAGE, and what is to be deleted")
    if patient_id is not None and not isinstance(patient_id, str):
        raise ArchiveError("patient_id is a text")
    is_dry = arguments.get("apply") is not True
    steps = archive.delete_by_steps(
        Scope(level, uid, patient_id), arguments.get("even_failed") is True, is_dry, "by an operator"
    )
    deleted: Deleted | None = None
    async with aclosing(steps):
        async for step in steps:
            if deleted is not None:
                yield {"deleted_so_far": deleted.instances}
            deleted = step
    if deleted is None:  # pragma: no cover - there is always a last one
        return
    for each in deleted.refused:
        yield {"sop_instance_uid": each.sop_instance_uid, "refused": each.why}
    yield {**deleted._asdict(), "refused": len(deleted.refused)}


DELETE_METHODS = {"delete": _delete}
"""What can be asked, by name."""
