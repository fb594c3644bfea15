"""``asyncdicom top DIR``: what a process that serves an archive is doing, as it does it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from asyncdicom.cli.asking import result_of
from asyncdicom.cli.number import Number
from asyncdicom.cli.output import json_line
from asyncdicom.cli.run import EXIT_CODES, OK, run
from asyncdicom.telemetry.text import printable

__all__ = ["command", "fitting", "lines_of"]

_CLEAR = "\x1b[H\x1b[J"
_GIB = 1 << 30
_NOTHING: Mapping[str, Any] = {}
_COLUMNS = "{:<16} {:<14} {:>8} {:>8} {:>7} {:>7} {:>8} {:>8} {:>8}  {}"
_TITLES = (
    "destination",
    "state",
    "ready",
    "waiting",
    "sending",
    "failed",
    "a second",
    "oldest",
    "done in",
    "last",
)

State = Mapping[str, Any]


@click.command(epilog=EXIT_CODES)
@click.argument("directory", metavar="DIR", type=click.Path(file_okay=False))
@click.option(
    "--interval",
    type=Number(0.2, 3600, whole=False),
    default=2.0,
    show_default=True,
    metavar="S",
    help="Seconds between two looks.",
)
@click.option("--once", is_flag=True, help="Look once; so it is where stdout is no terminal.")
@click.option("--json", "as_json", is_flag=True, help="Print all that is known, once, as a JSON object.")
def command(directory: str, interval: float, once: bool, as_json: bool) -> int:
    """Watch the process that serves the archive in the folder DIR; Ctrl-C ends it.

    Shows whether it takes instances, associations and operations, the archive and its disk, and for each
    destination of a gateway what it is owed, how old that is, and how fast it goes.
    """
    is_live = sys.stdout.isatty() and not (once or as_json)

    async def work() -> int:
        from asyncio import sleep  # which --help does not need

        before: State = _NOTHING
        while True:
            state = await result_of(directory, "top")
            if as_json:
                json_line(**state)
            else:
                lines = list(lines_of(state, before))
                shown = "\n".join(fitting(lines, *shutil.get_terminal_size()) if is_live else lines)
                print(f"{_CLEAR if is_live else ''}{shown}", flush=True)
            if not is_live:
                return OK
            before = state
            await sleep(interval)

    return run(work)


def lines_of(state: State, before: State = _NOTHING) -> Iterator[str]:
    """Give what a state says, in lines of text; rates are those since the state before, if there is one."""
    seconds = state["uptime"] - before["uptime"] if before else 0.0
    yield from map(printable, _of_process(state))
    yield from map(printable, _of_operations(state, before, seconds))
    yield from map(printable, _of_archive(state))
    if "destinations" in state:
        yield ""
        yield _COLUMNS.format(*_TITLES)
        earlier = {each["destination"]: each for each in before.get("destinations", ())}
        for each in state["destinations"]:
            yield printable(_of_destination(each, earlier.get(each["destination"]), seconds))
        yield f"{state['unrouted']} instances fit no rule"


def fitting(lines: Sequence[str], columns: int, rows: int) -> list[str]:
    """Give the lines that a terminal has room for: the first ones, which say how it is, and how many more."""
    room = max(rows - 1, 2)  # the cursor is in the last row
    if len(lines) > room:
        more = len(lines) - room + 1
        lines = [*lines[: room - 1], f"{more} more lines: make the terminal higher, or say --once"]
    return [line[:columns] for line in lines]


def _of_process(state: State) -> Iterator[str]:
    ready = "ready" if state["ready"] else f"NOT READY: {'; '.join(state['why_not'])}"
    yield f"asyncdicom {state['version']}, up {duration(state['uptime'])}: {ready}"
    of = state["associations"]
    yield (
        f"associations: {of['open']} of {of['limit']}; {of['accepted']} accepted, {of['rejected']} rejected, "
        f"{of['connections_refused']} connections refused"
    )


def _of_operations(state: State, before: State, seconds: float) -> Iterator[str]:
    earlier = {(each["operation"], each["outcome"]): each["number"] for each in before.get("operations", ())}
    for each in state["operations"]:
        new = each["number"] - earlier.get((each["operation"], each["outcome"]), 0)
        rate = f", {new / seconds:.1f} a second" if seconds > 0 else ""
        yield f"{each['operation']}: {each['number']} {each['outcome']}{rate}"


def _of_archive(state: State) -> Iterator[str]:
    if "archive" in state:
        of = state["archive"]
        yield (
            f"archive: {of['instance']} instances; {of['quarantine']} in quarantine, "
            f"{of['missing']} missing, {of['damaged']} damaged"
        )
    if "disk" in state:
        of = state["disk"]
        yield (
            f"disk: {of['free'] / _GIB:.1f} of {of['total'] / _GIB:.1f} GiB free, "
            f"{of['reserve'] / _GIB:.1f} are kept free"
        )
    lost = state["log"]["lines_lost"]
    if lost:
        yield f"log: {lost} lines are lost"


def _of_destination(now: State, before: State | None, seconds: float) -> str:
    rate = done = ""
    if before is not None and seconds > 0:
        speed = (now["delivered_since_start"] - before["delivered_since_start"]) / seconds
        owed = now["ready"] + now["waiting"] + now["leased"]
        rate = f"{speed:.1f}"
        done = duration(owed / speed) if speed > 0 and owed else ""
    return _COLUMNS.format(
        now["destination"],
        now["state"],
        now["ready"],
        now["waiting"],
        now["under_way"],
        now["failed"],
        rate,
        duration(now["oldest_seconds"]) if now["oldest_seconds"] else "",
        done,
        now["last_trouble"] or now["last_status"] or "",
    ).rstrip()


def duration(seconds: float) -> str:
    """Give a time as people say it: its two largest units."""
    whole = int(seconds)
    for unit, smaller, size in (("d", "h", 86400), ("h", "m", 3600), ("m", "s", 60)):
        if whole >= size:
            part = size // {"d": 24, "h": 60, "m": 60}[unit]
            return f"{whole // size}{unit}{whole % size // part}{smaller}"
    return f"{whole}s"
