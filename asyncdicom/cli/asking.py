"""How the tools of an archive ask it: the process that serves its folder, or they open it themselves."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any

from asyncdicom.cli.output import json_line, warn
from asyncdicom.telemetry.text import printable

__all__ = ["Line", "ask_archive", "result_of", "show"]

Line = Mapping[str, Any]

_SILENT = 5.0  # seconds without a word, after which it is told whom we wait for


async def ask_archive(
    directory: str,
    method: str,
    arguments: Line | None = None,
    *,
    before: Callable[[str], None] | None = None,
) -> AsyncGenerator[Line, None]:
    """Ask the process that serves a folder, or else take the folder's lock: the lines are the same.

    Where the index is in a database, $ASYNCDICOM_INDEX has its URL; where the instances are in a bucket,
    $ASYNCDICOM_BLOBS that of the bucket.
    ``before`` is called when nothing serves it. Raises `ArchiveError` for what only a serving process can do.
    """
    from asyncdicom.archive import Archive, ArchiveError
    from asyncdicom.archive.control import NotServed, ask
    from asyncdicom.archive.marker import BLOBS_VARIABLE, INDEX_VARIABLE
    from asyncdicom.archive.operations import METHODS

    try:
        async with (
            aclosing(ask(directory, method, arguments or {})) as lines,
            aclosing(_telling_silence(lines, directory)) as told,
        ):
            async for line in told:
                yield line
        return
    except NotServed:
        pass
    if method not in METHODS:
        raise ArchiveError(f"no process serves {directory}: start it first, {method} is for one that runs")
    index = os.environ.get(INDEX_VARIABLE) or None
    blobs = os.environ.get(BLOBS_VARIABLE) or None
    if before is not None and index is None:
        import asyncio

        await asyncio.to_thread(before, directory)
    async with (
        Archive(directory, existing=True, sweep=False, scrub=0, index=index, blobs=blobs) as archive,
        aclosing(METHODS[method](archive, arguments or {})) as lines,
    ):
        async for line in lines:
            yield line


async def _telling_silence(lines: AsyncGenerator[Line, None], directory: str) -> AsyncGenerator[Line, None]:
    """Give the lines of a process that serves a folder; who waits for one that hangs is told so."""
    import asyncio

    while True:
        coming = asyncio.ensure_future(anext(lines, None))
        try:
            done, _ = await asyncio.wait((coming,), timeout=_SILENT)
            if not done:
                warn(f"what serves {directory} has not answered for {_SILENT:.0f} s; waiting for it")
            line = await coming
        finally:
            coming.cancel()
            await asyncio.wait((coming,))
        if line is None:
            return
        yield line


async def result_of(
    directory: str,
    method: str,
    arguments: Line | None = None,
    *,
    before: Callable[[str], None] | None = None,
) -> Line:
    """Ask, and give the last line."""
    last: Line = {}
    async with aclosing(ask_archive(directory, method, arguments, before=before)) as lines:
        async for line in lines:
            last = line
    return last


def show(line: Line, as_json: bool, text: str) -> None:
    """Print a line: as JSON, or by a text that names its keys."""
    if as_json:
        json_line(**line)
    else:
        print(text.format_map({key: printable(str(value)) for key, value in line.items()}), flush=True)
