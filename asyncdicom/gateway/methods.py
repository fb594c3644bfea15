"""What an operator can ask of a running gateway: methods of the archive's control channel."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from asyncdicom.archive.archive import Archive
from asyncdicom.archive.errors import ArchiveError
from asyncdicom.archive.operations import Line, Method
from asyncdicom.gateway.gateway import Gateway
from asyncdicom.gateway.resending import resend

__all__ = ["methods_of"]


def methods_of(gateway: Gateway) -> dict[str, Method]:
    """Give the methods: ``route status``, ``route pause``, ``route resume`` and ``route resend``."""

    async def status(archive: Archive, arguments: Line) -> AsyncGenerator[Line, None]:
        total = 0
        for each in await gateway.status():
            total += 1
            yield each
        since_start = dict(archive.outbox.happened)
        yield {"destinations": total, "unrouted": await gateway.unrouted(), "since_start": since_start}

    async def pause(archive: Archive, arguments: Line) -> AsyncGenerator[Line, None]:
        name = _name(arguments)
        await gateway.pause(name, paused=True)
        yield {"paused": name}

    async def resume(archive: Archive, arguments: Line) -> AsyncGenerator[Line, None]:
        name = _name(arguments)
        await gateway.pause(name, paused=False)
        yield {"resumed": name}

    async def once_more(archive: Archive, arguments: Line) -> AsyncGenerator[Line, None]:
        async with aclosing(resend(archive, gateway.config.destinations, arguments)) as lines:
            async for line in lines:
                yield line

    return {
        "route status": status,
        "route pause": pause,
        "route resume": resume,
        "route resend": once_more,
    }


def _name(arguments: Mapping[str, Any]) -> str:
    name = arguments.get("destination")
    if not isinstance(name, str):
        raise ArchiveError("destination is the name of one")
    return name
