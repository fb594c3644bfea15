"""``asyncdicom archive DIR find | list | export | import | backup | restore``: the administrator's day."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import aclosing, closing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import click

from asyncdicom.cli.asking import Line, ask_archive, result_of, show
from asyncdicom.cli.number import Number
from asyncdicom.cli.output import Advance, json_line, progress, warn
from asyncdicom.cli.run import FAILED, OK, run
from asyncdicom.telemetry.text import printable

if TYPE_CHECKING:
    from asyncdicom.archive.backup import Copied

__all__ = ["COMMANDS"]

_NAME = "asyncdicom archive"
_LEVELS = ("PATIENT", "STUDY", "SERIES", "IMAGE")
_ROUNDS = 2  # copies of the index that a backup makes at most
_REQUEST = 48 << 10  # bytes of paths in one request
_MOST_PATHS = 500  # in one request
_TOGETHER = 64  # files that one hop to a thread copies

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON lines.")
_KEYS = click.option(
    "-k", "--key", "keys", metavar="KEYWORD=VALUE", multiple=True, help="What it has to match, as in findscu."
)
_DRY = click.option("--dry-run", is_flag=True, help="Only say what would be done.")

_LISTED = (
    "PatientID",
    "StudyInstanceUID",
    "StudyDate",
    "ModalitiesInStudy",
    "NumberOfStudyRelatedSeries",
    "NumberOfStudyRelatedInstances",
    "StudyDescription",
)


def _read_keys(keys: Sequence[str], more: Iterable[str] = ()) -> dict[str, str]:
    read = dict.fromkeys(more, "")
    for key in keys:
        keyword, _, value = key.partition("=")
        read[keyword.strip()] = value
    return read


def _shown(value: object) -> str:
    text = "\\".join(map(str, value)) if isinstance(value, list) else str(value)
    return printable(text) or "-"


async def _print_matches(lines: AsyncGenerator[Line, None], as_json: bool, what: str) -> None:
    async for line in lines:
        if as_json:
            json_line(**line)
        elif "found" in line:
            warn(f"{line['found']} {what}")
        else:
            print("  ".join(_shown(value) for value in line.values()), flush=True)


@click.command()
@_KEYS
@click.option(
    "-L", "--level", type=click.Choice(_LEVELS, case_sensitive=False), help="Else the lowest of a key."
)
@click.option("--limit", type=Number(1), metavar="N", help="Show at most so many.")
@_JSON
@click.pass_obj
def find(directory: str, keys: tuple[str, ...], level: str | None, limit: int | None, as_json: bool) -> int:
    """Search the archive, with no association: a line for each match, with the unique keys and each -k."""
    arguments = {"keys": _read_keys(keys), "level": level or "", "limit": limit}

    async def work() -> int:
        async with aclosing(ask_archive(directory, "find", arguments)) as lines:
            await _print_matches(lines, as_json, "found")
        return OK

    return run(work)


@click.command("list")
@_KEYS
@_JSON
@click.pass_obj
def list_(directory: str, keys: tuple[str, ...], as_json: bool) -> int:
    """List the studies: Patient ID, UID, date, modalities, numbers of series and instances, description."""
    arguments = {"keys": _read_keys(keys, _LISTED), "level": "STUDY"}

    async def work() -> int:
        async with aclosing(ask_archive(directory, "find", arguments)) as lines:
            ordered = (_in_order(line) async for line in lines)
            await _print_matches(ordered, as_json, "studies")
        return OK

    return run(work)


def _in_order(line: Line) -> Line:
    first = {keyword: line[keyword] for keyword in _LISTED if keyword in line}
    return {**first, **line}


@click.command()
@_KEYS
@click.argument("target", metavar="FOLDER", type=click.Path(file_okay=False))
@_DRY
@_JSON
@click.pass_obj
def export(directory: str, keys: tuple[str, ...], target: str, dry_run: bool, as_json: bool) -> int:
    """Write the instances that match -k below FOLDER, as STUDY UID/SERIES UID/INSTANCE UID.dcm.

    What is there already is left as it is.
    """
    if not keys:
        raise click.UsageError("say what to export: -k StudyInstanceUID=UID, or -k PatientID=* for all")
    if dry_run:
        return _count(directory, _read_keys(keys), as_json)
    arguments = {"keys": _read_keys(keys), "target": os.path.abspath(target)}

    async def work() -> int:
        last: Line = {}
        done = 0
        with progress("files exported", None) as advance:
            async with aclosing(ask_archive(directory, "export", arguments)) as lines:
                async for last in lines:
                    if isinstance(last.get("failed"), str):
                        show(last, as_json, "{sop_instance_uid}: not exported, {failed}")
                    elif advance is not None and "exported_so_far" in last:
                        advance(last["exported_so_far"] - done)
                        done = last["exported_so_far"]
        show(last, as_json, "{exported} exported, {there} were there already, {failed} failed")
        return FAILED if last["failed"] else OK

    return run(work)


def _count(directory: str, keys: dict[str, str], as_json: bool) -> int:
    async def work() -> int:
        result = await result_of(directory, "find", {"keys": keys, "level": "IMAGE"})
        show({"would_export": result["found"]}, as_json, "{would_export} instances would be exported")
        return OK

    return run(work)


@click.command("import")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(exists=True))
@_DRY
@_JSON
@click.pass_obj
def import_(directory: str, paths: tuple[str, ...], dry_run: bool, as_json: bool) -> int:
    """Store files and folders of files, as if they were sent; they stay where they are.

    The storage folders of dcmqrscp and of Orthanc (without its StorageCompression) are such folders. What is
    in the archive already is not stored twice, so it can be run again.
    """

    async def work() -> int:
        files, refused, skipped = await _instances(paths, as_json)
        if dry_run:
            show({"would_import": len(files)}, as_json, "{would_import} files would be imported")
            return FAILED if refused else OK
        here = 0
        with progress("files imported", len(files)) as advance:
            for some in _requests(files):
                async with aclosing(ask_archive(directory, "import", {"paths": some})) as lines:
                    async for line in lines:
                        if "path" not in line:
                            continue
                        here += line["is_here"]
                        if not line["is_here"] or as_json:
                            show(line, as_json, "{path}: {told}")
                        if advance is not None:
                            advance(1)
        failed = len(files) - here + refused
        counts = {"imported": here, "failed": failed, "skipped": skipped}
        show(counts, as_json, "{imported} are in the archive, {failed} are not, {skipped} are no instances")
        return FAILED if failed else OK

    return run(work)


async def _instances(paths: Sequence[str], as_json: bool) -> tuple[list[str], int, int]:
    """Give the paths of the instances among files, how many cannot be read, and how many are no instances."""
    from asyncdicom.net.sources import FileSource
    from asyncdicom.scu.files import find_files, read_heads

    refused = 0

    async def unreadable(path: str, why: str) -> None:
        nonlocal refused
        refused += 1
        show({"path": path, "is_here": False, "told": why}, as_json, "{path}: {told}")

    absolute = list(map(str, map(Path.absolute, map(Path, paths))))
    read = await read_heads(find_files(absolute), unreadable, named=absolute)
    files = [str(each.path) for each in read.sources if isinstance(each, FileSource)]
    return files, refused, read.skipped


def _requests(paths: Iterable[str]) -> Iterator[list[str]]:
    some: list[str] = []
    size = 0
    for path in paths:
        size += len(path) * 6 + 4  # as JSON may write it
        if some and (size > _REQUEST or len(some) == _MOST_PATHS):
            yield some
            some, size = [], len(path) * 6 + 4
        some.append(path)
    if some:
        yield some


@click.command()
@click.argument("target", metavar="FOLDER", type=click.Path(file_okay=False))
@_JSON
@click.pass_obj
def backup(directory: str, target: str, as_json: bool) -> int:
    """Copy the whole archive into FOLDER, while it is served: everything acknowledged before is in it.

    The next backup into the same FOLDER copies only what is new. `lost/` is not copied.
    """
    from asyncdicom.archive.backup import Backup, Copied

    async def work() -> int:
        from asyncio import to_thread

        copied = Copied()
        with (
            closing(await to_thread(Backup, directory, target)) as made,
            progress("files copied", None) as advance,
        ):
            for _ in range(_ROUNDS):
                path = await to_thread(made.place_of_index)
                await result_of(directory, "copy index", {"path": path})
                await _copy(made.copy_files(copied), copied, advance)
                if not copied.missing:
                    break  # else some were moved meanwhile: a newer index knows where they are
            await to_thread(made.finish)
        return _tell_copied(copied, as_json, "backed up")

    return run(work)


@click.command()
@click.argument("source", metavar="FOLDER", type=click.Path(exists=True, file_okay=False))
@_JSON
@click.pass_obj
def restore(directory: str, source: str, as_json: bool) -> int:
    """Make DIR, which is empty or not there, the archive that `backup` has copied into FOLDER."""
    from asyncdicom.archive.backup import Copied, Restore

    async def work() -> int:
        from asyncio import to_thread

        copied = Copied()
        with (
            closing(await to_thread(Restore, source, directory)) as made,
            progress("files copied", None) as advance,
        ):
            await _copy(made.copy_files(copied), copied, advance)
            await to_thread(made.finish)
        return _tell_copied(copied, as_json, "restored")

    return run(work)


async def _copy(files: Iterator[object], copied: Copied, advance: Advance | None) -> None:
    from asyncio import to_thread

    done = copied.files
    while await to_thread(_some, files):
        if advance is not None:
            advance(copied.files - done)
            done = copied.files


def _some(files: Iterator[object]) -> int:
    return sum(1 for _ in islice(files, _TOGETHER))


def _tell_copied(copied: Copied, as_json: bool, what: str) -> int:
    from dataclasses import asdict

    if not as_json:
        for names, what_is in ((copied.named_missing, "is missing"), (copied.named_damaged, "is damaged")):
            for name in names:
                warn(f"{name} {what_is}")
    text = what + ": {files} files, {size} bytes; {before} were there; {missing} missing, {damaged} damaged"
    show(asdict(copied), as_json, text)
    return FAILED if copied.missing or copied.damaged else OK


COMMANDS: tuple[click.Command, ...] = (find, list_, export, import_, backup, restore)
