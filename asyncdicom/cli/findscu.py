"""``asyncdicom findscu``: query, and print what matches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from asyncdicom.cli.number import Number
from asyncdicom.cli.options import EPILOG, key_options, peer_options
from asyncdicom.cli.output import json_line, response_fields, said
from asyncdicom.cli.peer import Peer
from asyncdicom.cli.run import FAILED, OK, run
from asyncdicom.telemetry.log import Log

if TYPE_CHECKING:
    from pydicom import Dataset

    from asyncdicom.cli.keys import Wanted
    from asyncdicom.services.query import Query

log = Log("asyncdicom.cli")


@click.command(epilog=EPILOG)
@key_options(worklist=True)
@click.option("--cancel", type=Number(1), metavar="N", help="Cancel after N matches (C-CANCEL).")
@peer_options("FINDSCU")
def command(
    peer: Peer, model: str | None, level: str | None, keys: tuple[str, ...], cancel: int | None, as_json: bool
) -> int:
    """Query PEER (C-FIND) and print the matches.

    \b
    asyncdicom findscu PACS@10.0.0.5:104 -k "PatientName=DOE^*" -k StudyDate=20260101- -k StudyInstanceUID
    asyncdicom findscu PACS@10.0.0.5:104 -L SERIES -k StudyInstanceUID=1.2.3 -k Modality
    asyncdicom findscu RIS@10.0.0.6:104 -W -k "ScheduledProcedureStepSequence[0].Modality=CT"
    """
    from asyncdicom.cli.keys import identifier, wanted
    from asyncdicom.scu.identifiers import RETURN_KEYS

    query = wanted(model, level, keys)
    if not keys:
        query.identifier.update(identifier(RETURN_KEYS[query.level]))
    return run(lambda: _find(peer, query, cancel, as_json))


async def _find(peer: Peer, query: Wanted, cancel: int | None, as_json: bool) -> int:
    from asyncdicom.cli.printing import show
    from asyncdicom.cli.text import as_json_model, as_text
    from asyncdicom.exceptions import StatusError

    sop_class = query.sop_class("find")
    render = as_json_model if as_json else as_text
    count, failure = 0, None
    async with peer.associate([sop_class]) as association:
        matches = association.c_find(query.identifier, information_model=sop_class)
        try:
            async with matches:
                async for match in matches:
                    count += 1
                    await show(render(match))
                    if count == cancel:
                        break
        except StatusError as error:  # the association is released as always
            failure = error
    if not matches.optional_keys_supported:
        log.warning("the peer does not match by all of these keys: it may have found too much")
    if failure is not None and not as_json:
        raise failure
    return _report(matches, count, as_json, was_cancelled=count == cancel)


def _report(query: Query[Dataset], count: int, as_json: bool, *, was_cancelled: bool) -> int:
    from asyncdicom.services.responses import Response
    from asyncdicom.status import Status

    # (There is a response: the operation has ended.)
    response = query.response or Response(Status.PROCESSING_FAILURE)
    status, unreadable = response.status, query.number_unreadable
    if as_json:
        more: dict[str, object] = {"unreadable": unreadable} if unreadable else {}
        if not query.optional_keys_supported:
            more["optional_keys_supported"] = False
        json_line(**response_fields(response), matches=count, **more)
    else:
        others = f" and {unreadable} that cannot be read" if unreadable else ""
        print(f"{count} {'match' if count == 1 else 'matches'}{others}, status {said(response)}")
    return OK if not unreadable and (status.is_success or status.is_warning or was_cancelled) else FAILED
