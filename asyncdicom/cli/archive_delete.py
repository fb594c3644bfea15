"""``asyncdicom archive DIR delete``: a study, a series or an instance goes."""

from __future__ import annotations

from contextlib import aclosing

import click

from asyncdicom.cli.asking import Line, ask_archive, show
from asyncdicom.cli.output import progress, warn
from asyncdicom.cli.run import FAILED, OK, run

__all__ = ["delete", "deleted", "retention"]

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

    return run(work)


@click.command()
@click.argument("uid", metavar="[UID]", default="")
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines.")
@click.pass_obj
def deleted(directory: str, uid: str, as_json: bool) -> int:
    """Show what was deleted, when and why: all, or of the study, series or instance UID."""

    async def work() -> int:
        async with aclosing(ask_archive(directory, "deleted", {"uid": uid})) as lines:
            async for line in lines:
                text = "{tombstones} were deleted"
                if "why" in line:
                    text = "{sop_instance_uid} of {study_instance_uid} {deleted}: {why}"
                    text += ", and again stored {again}" if line["again"] else ""
                show(line, as_json, text)
        return OK

    return run(work)


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


@click.command()
@click.option(
    "--config", "path", metavar="FILE", required=True, type=click.Path(dir_okay=False), help="Its rules."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines.")
@click.pass_obj
def retention(directory: str, path: str, as_json: bool) -> int:
    """List what would go now by the tables [[retention]] (and keep) of FILE. Nothing goes by this command.

    What is held (by a delivery that is open or has failed) is counted. A process that serves FILE deletes by
    its rules all the time.
    """
    from asyncdicom.archive.retention import tables_of
    from asyncdicom.cli.config import ConfigError, read_config

    try:
        rules = tables_of(read_config(path)["retention"])
    except ConfigError as error:
        raise click.UsageError(str(error)) from None
    if not rules:
        raise click.UsageError(f"{path} has no [[retention]]: nothing goes by itself")

    async def work() -> int:
        async with aclosing(ask_archive(directory, "retention", {"rules": rules})) as lines:
            async for line in lines:
                text = "{would_delete} instances would be deleted ({size} bytes), {held} are held"
                if "rule" in line:
                    text = "{sop_instance_uid} {received} from {calling_ae_title} {size}: {rule}"
                show(line, as_json, text)
        return OK

    return run(work)
