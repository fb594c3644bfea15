"""How many instances there are of which kind: SOP class and transfer syntax."""

from __future__ import annotations

from collections import Counter

from sqlalchemy import bindparam, func, select

from asyncdicom.archive.index.prepared import Prepared
from asyncdicom.archive.index.reader import Execute
from asyncdicom.archive.index.schema import instance

__all__ = ["NEWEST", "recent_kinds"]

NEWEST = 50_000
"""Instances that are counted, which takes a few hundredths of a second; all of them may take long."""

_newest = (
    select(instance.c.sop_class_uid, instance.c.transfer_syntax_uid)
    .order_by(instance.c.id.desc())
    .limit(bindparam("newest"))
    .subquery()
)
_KINDS = Prepared(select(*_newest.c, func.count()).group_by(*_newest.c))


def recent_kinds(execute: Execute) -> Counter[tuple[str, str]]:
    """Count the `NEWEST` instances by their kinds."""
    rows = execute(_KINDS.sql, _KINDS.bind({"newest": NEWEST}))
    return Counter({(sop_class, syntax): count for sop_class, syntax, count in rows})
