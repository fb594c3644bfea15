"""``asyncdicom archive DIR delete``: a study, a series or an instance goes."""

from __future__ import annotations

from contextlib import aclosing

import click

from asyncdicom.cli.asking import Line, ask_archive, asking, show
from asyncdicom.cli.output import progress, warn
from asyncdicom.cli.run import FAILED, OK

__all__ = ["delete"]

_LEVELS = {"study": "STUDY", "series": "SERIES", "instance": "IMAGE"}


@click.command()
@click.argument("what", type=click.Choice(list(_LEVELS)), metavar="study|series|instance")
@click.argument("uid", metavar="UID")
@click.option("--patient", metavar="ID", help="Patient ID it is under, where several patients have it.")
@click.option("--even-failed", is_flag=True, help="Also what could not be delivered: it is sent no more.")
@click.option("--apply", is_flag=True, help="Do it; else it is only told what would be done.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines.")
@click.pass_obj
def delete(
    directory: str, what: str, uid: str, patient: str | None, even_failed: bool, apply: bool, as_json: bool
) -> int:
    """Delete a study, series or instance by its UID, for good; without --apply it is only told what goes.

    Refused while a delivery or a storage commitment of any of it is open. The index keeps a tombstone of each
    instance, so that no copy of its file is indexed again; when it is sent again, it is stored again.
    """
    arguments: Line = {
        "level": _LEVELS[what],
        "uid": uid,
        "patient_id": patient,
        "even_failed": even_failed,
        "apply": apply,
    }

    async def work() -> int:
        last: Line = {}
        done = 0
        with progress("instances deleted", None) as advance:
            async with aclosing(ask_archive(directory, "delete", arguments)) as lines:
                async for last in lines:
                    if "sop_instance_uid" in last:
                        show(last, as_json, "{sop_instance_uid}: {refused}")
                    elif advance is not None and "deleted_so_far" in last:
                        advance(last["deleted_so_far"] - done)
                        done = last["deleted_so_far"]
        show(last, as_json, _text(last))
        if not (as_json or apply or last["refused"]):
            warn("nothing was deleted: --apply does it")
        return FAILED if last["refused"] else OK

    return asking("asyncdicom archive", work)


def _text(line: Line) -> str:
    if line["is_done"]:
        text = "{instances} instances were deleted ({size} bytes)"
    elif line["refused"]:
        text = "nothing was deleted of {instances} instances ({size} bytes)"
    else:
        text = "{instances} instances would be deleted ({size} bytes)"
    if line["refused"]:
        text += ", {refused} of them may not be"
    return text + (", {came_meanwhile} came meanwhile and stay" if line["came_meanwhile"] else "")
