"""``asyncdicom findscu``: query, and print what matches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from asyncdicom.cli.options import EPILOG, key_options, peer_options
from asyncdicom.cli.peer import Peer
from asyncdicom.cli.run import OK, run
from asyncdicom.telemetry.log import Log

if TYPE_CHECKING:
    from asyncdicom.cli.keys import Wanted

log = Log("asyncdicom.cli")

# What is asked for when nothing is.
RETURN_KEYS = {
    "PATIENT": ("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    "STUDY": (
        "PatientName",
        "PatientID",
        "StudyDate",
        "StudyDescription",
        "AccessionNumber",
        "StudyInstanceUID",
    ),
    "SERIES": ("Modality", "SeriesNumber", "SeriesDescription", "SeriesInstanceUID"),
    "IMAGE": ("SOPClassUID", "InstanceNumber", "SOPInstanceUID"),
    None: (
        "PatientName",
        "PatientID",
        "AccessionNumber",
        "RequestedProcedureDescription",
        "ScheduledProcedureStepSequence[0].Modality",
        "ScheduledProcedureStepSequence[0].ScheduledStationAETitle",
        "ScheduledProcedureStepSequence[0].ScheduledProcedureStepStartDate",
        "ScheduledProcedureStepSequence[0].ScheduledProcedureStepStartTime",
    ),
}


@click.command(epilog=EPILOG)
@key_options(worklist=True)
@click.option("--cancel", type=click.IntRange(1), metavar="N", help="Cancel after N matches (C-CANCEL).")
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

    query = wanted(model, level, keys)
    if not keys:
        query.identifier.update(identifier(RETURN_KEYS[query.level]))
    return run(lambda: _find(peer, query, cancel, as_json))


async def _find(peer: Peer, query: Wanted, cancel: int | None, as_json: bool) -> int:
    from asyncdicom.cli.text import as_json_model, as_text

    sop_class = query.sop_class("find")
    show = as_json_model if as_json else as_text
    count = 0
    async with (
        peer.associate([sop_class]) as association,
        association.c_find(query.identifier, information_model=sop_class) as matches,
    ):
        async for match in matches:
            count += 1
            print(show(match), flush=True)
            if count == cancel:
                break
    if not matches.optional_keys_supported:
        log.warning("the peer does not match by all of these keys: it may have found too much")
    if not as_json:
        print(f"{count} {'match' if count == 1 else 'matches'}, status {matches.status}")
    return OK
