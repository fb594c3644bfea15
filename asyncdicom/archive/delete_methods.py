"""What an operator can ask of an open archive about deleting; see `operations`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from asyncdicom.archive.archive import Archive
from asyncdicom.archive.deleting import Deleted, Scope
from asyncdicom.archive.errors import ArchiveError
from asyncdicom.archive.retention import expired, parse_retention

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


async def _retention(archive: Archive, arguments: _Line) -> AsyncGenerator[_Line, None]:
    """Give what would go now by `rules`, and how much that is; nothing goes."""
    try:
        rules = parse_retention(arguments.get("rules"))
    except ValueError as error:
        raise ArchiveError(str(error)) from None
    instances = size = held = 0
    async with aclosing(expired(archive, rules)) as pages:
        async for page in pages:
            held += page.held
            for each in page.going:
                instances, size = instances + 1, size + each.size
                yield {
                    "sop_instance_uid": each.sop_instance_uid,
                    "study_instance_uid": each.study_instance_uid,
                    "received": each.received,
                    "calling_ae_title": each.calling_ae_title,
                    "size": each.size,
                    "rule": page.rule.called,
                }
    yield {"would_delete": instances, "size": size, "held": held}


DELETE_METHODS = {"delete": _delete, "retention": _retention}
"""What can be asked, by name."""
