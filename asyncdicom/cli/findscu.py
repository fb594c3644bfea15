"""``asyncdicom findscu``: query, and print what matches."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from asyncdicom.cli.number import Number
from asyncdicom.cli.options import EPILOG, key_options, peer_options
from asyncdicom.cli.output import json_line, response_fields, said
from asyncdicom.cli.peer import Peer
from asyncdicom.cli.run import FAILED, OK, run
from asyncdicom.cli.tool import Tool
from asyncdicom.telemetry.log import Log

if TYPE_CHECKING:
    from pydicom import Dataset

    from asyncdicom.cli.keys import Wanted
    from asyncdicom.services.query import Query

log = Log("asyncdicom.cli")

_AT_ONCE = 5000  # matches that are sorted before they are printed
_NOT_SHOWN = {"QueryRetrieveLevel", "SpecificCharacterSet", "RetrieveAETitle", "InstanceAvailability"}


@click.command(cls=Tool, habits_of="FINDSCU", epilog=EPILOG)
@key_options(worklist=True)
@click.option("--cancel", type=Number(1), metavar="N", help="Cancel after N matches (C-CANCEL).")
@click.option(
    "--format",
    "layout",
    type=click.Choice(["table", "tree", "csv", "text"]),
    help="How matches are printed: table (the default on a terminal) and tree are sorted; text (the default "
    "elsewhere) has a line for each attribute. JSON: --json.",
)
@peer_options("FINDSCU")
def command(
    peer: Peer,
    model: str | None,
    level: str | None,
    keys: tuple[str, ...],
    cancel: int | None,
    layout: str | None,
    as_json: bool,
) -> int:
    """Query PEER (C-FIND) and print the matches.

    \b
    asyncdicom findscu PACS@10.0.0.5:104 -k "PatientName=DOE^*" -k StudyDate=20260101- -k StudyInstanceUID
    asyncdicom findscu PACS@10.0.0.5:104 -L SERIES -k StudyInstanceUID=1.2.3 -k Modality
    asyncdicom findscu RIS@10.0.0.6:104 -W -k "ScheduledProcedureStepSequence[0].Modality=CT"
    asyncdicom findscu PACS@10.0.0.5:104 --format csv >studies.csv
    """
    if as_json and layout is not None:
        raise click.UsageError("--json and --format exclude each other")
    from asyncdicom.cli.keys import identifier, wanted
    from asyncdicom.scu.identifiers import RETURN_KEYS

    query = wanted(model, level, keys)
    if not keys:
        keys = RETURN_KEYS[query.level]
        query = wanted(model, query.level, keys)
    names = [key.partition("=")[0].strip() for key in keys]
    layout = "json" if as_json else layout or ("table" if sys.stdout.isatty() else "text")
    return run(lambda: _find(peer, query, cancel, _Showing(layout, names, identifier(keys))))


class _Showing:
    """Prints matches, as they come or, for people, sorted: some thousands at a time."""

    def __init__(self, layout: str, names: Sequence[str], keys: Dataset) -> None:
        from asyncdicom.cli.text import as_fields

        asked = [name for name in as_fields(keys) if name not in _NOT_SHOWN]
        self.layout = layout
        self._columns = list(dict.fromkeys([*(name for name in names if name in asked), *asked]))
        self._kept: list[dict[str, str]] = []
        self._is_first = True

    async def add(self, match: Dataset) -> None:
        """Print a match, or keep it for the end."""
        from asyncdicom.cli.printing import show
        from asyncdicom.cli.text import as_fields, as_json_model, as_text

        if self.layout in ("json", "text"):
            await show(as_json_model(match) if self.layout == "json" else as_text(match))
            return
        self._kept.append({k: v for k, v in as_fields(match).items() if k not in _NOT_SHOWN})
        if len(self._kept) >= (_AT_ONCE if self.layout != "csv" else 1):
            await self.end()

    async def end(self) -> None:
        """Print what was kept."""
        from asyncdicom.cli.printing import show
        from asyncdicom.cli.tables import FORMATS, as_csv, in_order

        kept, self._kept = self._kept, []
        if self.layout == "csv" and (kept or self._is_first):
            await show(as_csv(kept, self._columns, is_first=self._is_first))
            self._is_first = False
        elif kept and self.layout in FORMATS:
            width = shutil.get_terminal_size((100, 24)).columns
            await show(FORMATS[self.layout](in_order(kept), self._columns, width))


async def _find(peer: Peer, query: Wanted, cancel: int | None, showing: _Showing) -> int:
    from asyncdicom.exceptions import StatusError

    sop_class = query.sop_class("find")
    count, failure = 0, None
    async with peer.associate([sop_class]) as association:
        matches = association.c_find(query.identifier, information_model=sop_class)
        try:
            async with matches:
                async for match in matches:
                    count += 1
                    await showing.add(match)
                    if count == cancel:
                        break
        except StatusError as error:  # the association is released as always
            failure = error
        finally:
            await showing.end()
    if not matches.optional_keys_supported:
        log.warning("the peer does not match by all of these keys: it may have found too much")
    if failure is not None and showing.layout != "json":
        raise failure
    return _report(matches, count, showing.layout, was_cancelled=count == cancel)


def _report(query: Query[Dataset], count: int, layout: str, *, was_cancelled: bool) -> int:
    from asyncdicom.services.responses import Response
    from asyncdicom.status import Status

    # (There is a response: the operation has ended.)
    response = query.response or Response(Status.PROCESSING_FAILURE)
    status, unreadable = response.status, query.number_unreadable
    if layout == "json":
        more: dict[str, object] = {"unreadable": unreadable} if unreadable else {}
        if not query.optional_keys_supported:
            more["optional_keys_supported"] = False
        json_line(**response_fields(response), matches=count, **more)
    else:
        others = f" and {unreadable} that cannot be read" if unreadable else ""
        line = f"{count} {'match' if count == 1 else 'matches'}{others}, status {said(response)}"
        print(line, file=sys.stderr if layout == "csv" else sys.stdout)
    return OK if not unreadable and (status.is_success or status.is_warning or was_cancelled) else FAILED
