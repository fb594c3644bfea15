"""What an operator can ask of an open archive's outbox: methods of the control channel; see `operations`."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from asyncdicom.archive.archive import Archive
from asyncdicom.archive.errors import ArchiveError
from asyncdicom.archive.index.delivery_reader import DeliveryRow
from asyncdicom.archive.index.work import State

__all__ = ["OUTBOX_METHODS", "shown"]

_Line = Mapping[str, Any]
_MOST_IDS = 1000
_LISTED = (State.FAILED, State.LEASED, State.WAITING, State.READY)


def shown(row: DeliveryRow) -> dict[str, Any]:
    """Give a delivery as JSON can hold it."""
    return {
        **row._asdict(),
        "state": State(row.state).name.lower(),
        "status": None if row.status is None else f"0x{row.status:04X}",
    }


async def _list(archive: Archive, arguments: _Line) -> AsyncGenerator[_Line, None]:
    """Give what has come to no good end, `limit` of each state; then how many there are, by destination."""
    name = _destination(arguments)
    limit = arguments.get("limit", 1000)
    if type(limit) is not int or limit < 1:
        raise ArchiveError("limit is a number")
    wanted = arguments.get("state")
    states = [state for state in _LISTED if wanted in (None, state.name.lower())]
    if not states:
        raise ArchiveError(f"state is one of {', '.join(state.name.lower() for state in _LISTED)}")
    lines = [None] if name is None else await archive.read(archive.deliveries.lines_with, name)
    for state in states:
        left = limit
        for line in lines:
            after = 0
            while left > 0:
                page = await archive.read(_page, archive, state, line, after, min(left, 1000))
                for row in page:
                    yield shown(row)
                if not page:
                    break
                after, left = page[-1].id, left - len(page)
    counts: dict[str, Counter[str]] = {}
    for kind, destination, in_state, number in await archive.read(archive.deliveries.counts):
        if name is None or destination in lines:  # of one name there may be work of several kinds
            counts.setdefault(destination or kind, Counter())[State(in_state).name.lower()] += number
    yield {"outbox": counts}


def _page(archive: Archive, state: State, name: str | None, after: int, limit: int) -> list[DeliveryRow]:
    return archive.deliveries.page(state, name=name, after=after, limit=limit)


async def _why(archive: Archive, arguments: _Line) -> AsyncGenerator[_Line, None]:
    """Give all deliveries of an instance, whatever became of them."""
    uid = arguments.get("sop_instance_uid")
    if not isinstance(uid, str):
        raise ArchiveError("sop_instance_uid is a UID")
    rows = await archive.read(archive.deliveries.of_instance, uid)
    for row in rows:
        yield shown(row)
    yield {"deliveries": len(rows)}


async def _retry(archive: Archive, arguments: _Line) -> AsyncGenerator[_Line, None]:
    ids, name = _meant(arguments)
    if ids is not None or name is None:
        yield {"retried": await archive.outbox.retry(ids, name)}
        return
    lines = await archive.read(archive.deliveries.lines_with, name)
    yield {"retried": sum([await archive.outbox.retry(None, line) for line in lines])}


# Only of its own line: what several may take is owed by the others, too.
async def _drop(archive: Archive, arguments: _Line) -> AsyncGenerator[_Line, None]:
    yield {"dropped": await archive.outbox.drop(*_meant(arguments))}


def _destination(arguments: _Line) -> str | None:
    name = arguments.get("destination")
    if name is not None and not isinstance(name, str):
        raise ArchiveError("destination is a text")
    return name


def _meant(arguments: _Line) -> tuple[list[int] | None, str | None]:
    """Say what is meant: some numbers, a destination, or with `all` everything."""
    ids, name = arguments.get("ids"), _destination(arguments)
    if ids is not None and not (
        isinstance(ids, list) and len(ids) <= _MOST_IDS and all(type(each) is int for each in ids)
    ):
        raise ArchiveError(f"ids are numbers that `outbox list` shows, at most {_MOST_IDS}")
    if not ids and name is None and arguments.get("all") is not True:
        raise ArchiveError("say which: by ids, a destination, or all")
    return ids or None, name


OUTBOX_METHODS = {
    "outbox list": _list,
    "outbox why": _why,
    "outbox retry": _retry,
    "outbox drop": _drop,
}
