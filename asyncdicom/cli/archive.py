"""``asyncdicom archive DIR ...``: what an operator does with an archive's folder while nothing serves it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from asyncdicom.cli.output import json_line
from asyncdicom.cli.run import EXIT_CODES, FAILED, OK, complain, run

if TYPE_CHECKING:
    from asyncdicom.archive.maintenance import Verified

__all__ = ["command"]

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON lines.")
_NAME = "asyncdicom archive"


@click.group(epilog=EXIT_CODES)
@click.argument("directory", metavar="DIR", type=click.Path(file_okay=False))
@click.pass_context
def command(ctx: click.Context, directory: str) -> None:
    """Look after the archive in the folder DIR, while no qrscp serves it."""
    ctx.obj = directory


@command.command()
@_JSON
@click.pass_obj
def reindex(directory: str, as_json: bool) -> int:
    """Index every file that the index does not know; one that is damaged is moved aside and built anew."""
    return run(lambda: _reindex(directory, as_json))


async def _reindex(directory: str, as_json: bool) -> int:
    from asyncdicom.archive import Archive, ArchiveError
    from asyncdicom.archive.maintenance import set_damaged_index_aside

    try:
        aside = set_damaged_index_aside(directory)
        if aside:
            complain(_NAME, f"the index was damaged, or that of another archive; it is kept: {aside}", OK)
        async with Archive(directory, existing=True) as archive:
            swept = await archive.reindex()
            counts = await archive.counts()
    except ArchiveError as error:
        return complain(_NAME, str(error), FAILED)
    if as_json:
        json_line(**asdict(swept), counts=counts)
    else:
        print(f"{swept.told() or 'nothing to do'}; {counts['instance']} instances are in the index")
    return FAILED if swept.failed or swept.missing else OK


@command.command()
@click.option("--rate", type=click.IntRange(1), metavar="MIB", help="Read at most so many MiB a second.")
@_JSON
@click.pass_obj
def verify(directory: str, rate: int | None, as_json: bool) -> int:
    """Compare every file with the digest in its row; exit code 1 if one is missing or damaged."""
    from asyncdicom.archive import ArchiveError
    from asyncdicom.archive.maintenance import verify as verified_files

    total = bad = 0
    try:
        for each in verified_files(directory, bytes_per_second=None if rate is None else rate << 20):
            total += 1
            if not each.is_sound:
                bad += 1
                _show(each, as_json)
    except ArchiveError as error:
        return complain(_NAME, str(error), FAILED)
    if as_json:
        json_line(verified=total, bad=bad)
    else:
        print(f"{total} files verified, {bad} of them missing or damaged")
    return FAILED if bad else OK


def _show(each: Verified, as_json: bool) -> None:
    if as_json:
        json_line(sop_instance_uid=each.sop_instance_uid, file=each.path, state=each.state)
    else:
        print(f"{each.sop_instance_uid}: {each.path} is {each.state}")


@command.command()
@_JSON
@click.pass_obj
def stat(directory: str, as_json: bool) -> int:
    """Count patients, studies, series, instances and what is in quarantine."""
    return run(lambda: _stat(directory, as_json))


async def _stat(directory: str, as_json: bool) -> int:
    from asyncdicom.archive import Archive, ArchiveError

    try:
        async with Archive(directory, existing=True) as archive:
            counts = await archive.counts()
    except ArchiveError as error:
        return complain(_NAME, str(error), FAILED)
    if as_json:
        json_line(**counts)
    else:
        print("\n".join(f"{name:12}{count}" for name, count in counts.items()))
    return OK
