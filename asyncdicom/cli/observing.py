"""How a process that serves is looked at: pages for machines by HTTP, and a method of the control channel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping
from http import HTTPStatus
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from asyncdicom.archive.errors import ArchiveError
from asyncdicom.cli.state import Looking, Observer
from asyncdicom.net.http_get import Answer, Page, Pages
from asyncdicom.net.lane import lane
from asyncdicom.telemetry.log import Log
from asyncdicom.telemetry.prometheus import CONTENT_TYPE, exposition

if TYPE_CHECKING:
    from asyncdicom.archive import Archive
    from asyncdicom.archive.operations import Line, Method

__all__ = ["observing_methods", "pages_of"]

log = Log("asyncdicom.cli")

_LACKING = "/metrics needs: pip install 'asyncdicom[metrics]'"


def pages_of(observer: Looking, host: str, port: int) -> Pages:
    """Give the pages: /healthz (the event loop turns), /readyz (it takes instances, or why not), /metrics."""

    texts: list[tuple[Any, asyncio.Future[bytes]]] = []  # the newest one

    async def healthz() -> Answer:
        return Answer(b"ok\n")

    async def readyz() -> Answer:
        try:
            reasons = observer.why_not_ready() or (await observer.state())["why_not"]
        except ArchiveError as error:  # of several processes none answers
            reasons = [str(error)]
        return _unavailable(reasons) if reasons else Answer(b"ready\n")

    async def metrics() -> Answer:
        if not _has_metrics():
            return Answer(f"{_LACKING}\n".encode(), HTTPStatus.NOT_IMPLEMENTED)
        try:
            state = await observer.state()
        except ArchiveError as error:
            return _unavailable([str(error)])
        if not texts or texts[0][0] is not state:  # it is made once of each state, whoever asks
            texts[:] = [(state, asyncio.ensure_future(lane().run("metrics", exposition(state))))]
        return Answer(await asyncio.shield(texts[0][1]), content_type=CONTENT_TYPE)

    if not _has_metrics():
        log.warning("%s", _LACKING)
    pages: Mapping[str, Page] = {"/healthz": healthz, "/readyz": readyz, "/metrics": metrics}
    return Pages(host, port, pages)


def _unavailable(reasons: Iterable[str]) -> Answer:
    return Answer("".join(f"{why}\n" for why in reasons).encode(), HTTPStatus.SERVICE_UNAVAILABLE)


def _has_metrics() -> bool:
    return find_spec("prometheus_client") is not None


def observing_methods(observer: Observer) -> dict[str, Method]:
    """Give the method ``top`` of the control channel: the state."""

    async def top(archive: Archive, arguments: Mapping[str, Any]) -> AsyncGenerator[Line, None]:
        yield await observer.state()

    return {"top": top}
