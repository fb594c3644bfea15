"""``asyncdicom archive DIR ...``: what an operator does with an archive, served or not."""

from __future__ import annotations

from contextlib import aclosing

import click

from asyncdicom.cli.archive_daily import COMMANDS
from asyncdicom.cli.archive_delete import delete, deleted, retention
from asyncdicom.cli.asking import Line, ask_archive, result_of, show
from asyncdicom.cli.groups import Group
from asyncdicom.cli.number import Number
from asyncdicom.cli.output import json_line, progress, warn
from asyncdicom.cli.run import EXIT_CODES, FAILED, OK, complain, run

__all__ = ["command"]

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON lines.")
_NAME = "asyncdicom archive"


@click.group(cls=Group, epilog=EXIT_CODES)
@click.argument("directory", metavar="DIR", type=click.Path(file_okay=False))
@click.pass_context
def command(ctx: click.Context, directory: str) -> None:
    """Look after the archive in the folder DIR: the process that serves it is asked, if there is one."""
    ctx.obj = directory


for _each_of_them in (*COMMANDS, delete, deleted, retention):
    command.add_command(_each_of_them)


@command.command()
@click.option("--dry-run", is_flag=True, help="Only count the files that the index does not know.")
@_JSON
@click.pass_obj
def reindex(directory: str, dry_run: bool, as_json: bool) -> int:
    """Index every file that the index does not know; one that is damaged is moved aside and built anew."""

    async def work() -> int:
        before = None if dry_run else _set_damaged_aside
        swept = dict(await result_of(directory, "reindex", {"dry_run": dry_run}, before=before))
        told, counts = swept.pop("told"), swept["counts"]
        if as_json:
            json_line(**swept)
        else:
            print(f"{told or 'nothing to do'}; {counts['instance']} instances are in the index")
        return FAILED if swept["failed"] or swept["missing"] else OK

    return run(work)


def _set_damaged_aside(directory: str) -> None:
    from asyncdicom.archive.maintenance import set_damaged_index_aside

    if aside := set_damaged_index_aside(directory):
        complain(_NAME, f"the index was damaged, or that of another archive; it is kept: {aside}", OK)


@command.command()
@click.option("--rate", type=Number(1), metavar="MIB", help="Read at most so many MiB a second.")
@_JSON
@click.pass_obj
def verify(directory: str, rate: int | None, as_json: bool) -> int:
    """Compare every file with the digest in its row; exit code 1 if one is missing or damaged."""

    async def work() -> int:
        last: Line = {}
        done = 0
        arguments = {} if rate is None else {"bytes_per_second": rate << 20}
        with progress("files verified", None) as advance:
            async with aclosing(ask_archive(directory, "verify", arguments)) as lines:
                async for line in lines:
                    last = line
                    if advance is not None and "verified_so_far" in line:
                        advance(line["verified_so_far"] - done)
                        done = line["verified_so_far"]
                    if "state" in line:
                        show(line, as_json, "{sop_instance_uid}: {file} is {state}")
        show(last, as_json, "{verified} files verified, {bad} of them missing or damaged")
        return FAILED if last["bad"] else OK

    return run(work)


@command.command()
@_JSON
@click.pass_obj
def stat(directory: str, as_json: bool) -> int:
    """Count what there is of each level, quarantine, what is set aside, and what was found bad or healed."""

    async def work() -> int:
        counts = await result_of(directory, "stat")
        if as_json:
            json_line(**counts)
        else:
            print("\n".join(f"{name:20}{count}" for name, count in counts.items()))
        return OK

    return run(work)


@command.group()
def quarantine() -> None:
    """Instances that came under the SOP Instance UID of another one, and are kept aside."""


@quarantine.command("list")
@_JSON
@click.pass_obj
def list_(directory: str, as_json: bool) -> int:
    """Show what is there: its name, UID, size in bytes, when it came, from whom, and why it is there."""

    async def work() -> int:
        async with aclosing(ask_archive(directory, "quarantine list")) as lines:
            async for line in lines:
                text = "{quarantined} in quarantine, {size} bytes"
                if "name" in line:
                    text = "{name} {sop_instance_uid} {size} {received} from {calling_ae_title}: {reason}"
                show(line, as_json, text)
        return OK

    return run(work)


@quarantine.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@_JSON
@click.pass_obj
def accept(directory: str, names: tuple[str, ...], as_json: bool) -> int:
    """Put NAME (as `list` shows it, or its first 8 digits) in the place of the stored instance.

    The stored one goes to quarantine, so that it can be accepted again.
    """
    return run(lambda: _each(directory, "accept", list(names), as_json))


@quarantine.command()
@click.argument("names", metavar="NAME...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All that is there now.")
@_JSON
@click.pass_obj
def purge(directory: str, names: tuple[str, ...], everything: bool, as_json: bool) -> int:
    """Remove NAME (as `list` shows it, or its first 8 digits) for good; the index keeps what it was."""
    if bool(names) == everything:
        raise click.UsageError("say what to remove: names that `quarantine list` shows, or --all")

    async def work() -> int:
        chosen = list(names)
        if everything:
            async with aclosing(ask_archive(directory, "quarantine list")) as lines:
                chosen = [line["name"] async for line in lines if "name" in line]
        return await _each(directory, "purge", chosen, as_json)

    return run(work)


async def _each(directory: str, what: str, names: list[str], as_json: bool) -> int:
    done, word = 0, {"accept": "accepted", "purge": "purged"}[what]
    for start in range(0, len(names), 500):
        some = {"names": names[start : start + 500]}
        async with aclosing(ask_archive(directory, f"quarantine {what}", some)) as lines:
            async for line in lines:
                if word in line:
                    done += 1
                    show({"sop_instance_uid": line[word]}, as_json, f"{word}: {{sop_instance_uid}}")
    if not as_json:
        warn(f"{done} {word}")
    return OK


@command.group()
def reassign() -> None:
    """Studies that are under the wrong patient: put under the right one, and back; the files stay.

    They are found under the other patient, and sent as that one's, with what was there before in the Original
    Attributes Sequence. Without --apply it is only told what that would change.
    """


_APPLY = click.option("--apply", is_flag=True, help="Do it; else it is only told what would be done.")


@reassign.command()
@click.argument("study_instance_uid", metavar="STUDY")
@click.option("--to", "patient_id", metavar="ID", required=True, help="Patient ID of the right patient.")
@click.option("--to-issuer", metavar="ISSUER", help="Issuer of that ID, where several patients have it.")
@click.option("--name", metavar="NAME", help="Of a patient that the archive does not know: FAMILY^GIVEN.")
@click.option("--birth-date", metavar="YYYYMMDD", help="The same.")
@click.option("--sex", metavar="M|F|O", help="The same.")
@click.option("--from", "was", metavar="ID", help="Patient ID it is under now, where several have the study.")
@click.option("--from-issuer", metavar="ISSUER", help="Issuer of that ID.")
@_APPLY
@_JSON
@click.pass_obj
def study(
    directory: str,
    study_instance_uid: str,
    patient_id: str,
    to_issuer: str | None,
    name: str | None,
    birth_date: str | None,
    sex: str | None,
    was: str | None,
    from_issuer: str | None,
    apply: bool,
    as_json: bool,
) -> int:
    """Put STUDY (a Study Instance UID) under another patient; what comes later of it, too."""
    becomes = {
        "patient_id": patient_id,
        "issuer_of_patient_id": to_issuer,
        "patient_name": name,
        "patient_birth_date": birth_date,
        "patient_sex": sex,
    }
    arguments = {
        "study_instance_uid": study_instance_uid,
        "patient_id": was,
        "issuer_of_patient_id": from_issuer,
        "becomes": {column: text for column, text in becomes.items() if text is not None},
        "apply": apply,
    }
    return run(lambda: _moved(directory, "reassign study", arguments, as_json))


@reassign.command()
@click.argument("name")
@_APPLY
@_JSON
@click.pass_obj
def undo(directory: str, name: str, apply: bool, as_json: bool) -> int:
    """Put the study of NAME (as `list` shows it, or its first 8 digits) back to the patient of its files."""
    return run(lambda: _moved(directory, "reassign undo", {"name": name, "apply": apply}, as_json))


@reassign.command("list")
@_JSON
@click.pass_obj
def reassigned(directory: str, as_json: bool) -> int:
    """Show all that were ever made: name, study, from which Patient ID to which, when, and until when."""

    async def work() -> int:
        async with aclosing(ask_archive(directory, "reassign list")) as lines:
            async for line in lines:
                text = "{reassignments} were made, {in_force} are in force"
                if "name" in line and not as_json:
                    line = {**line, **_patients(line), "undone": line["undone"] and f"until {line['undone']}"}
                    text = "{name} {study_instance_uid} from {old} to {new} since {made} {undone}"
                show(line, as_json, text)
        return OK

    return run(work)


async def _moved(directory: str, method: str, arguments: Line, as_json: bool) -> int:
    line = await result_of(directory, method, arguments)
    done = "are" if line["applied"] else "would be"
    text = f"{{study_instance_uid}}: {{instances}} instances {done} moved from {{old}} to {{new}}"
    show(line if as_json else {**line, **_patients(line)}, as_json, text)
    if not as_json and line["applied"] and line["names"]:
        warn(f"asyncdicom archive {directory} reassign undo {line['names'][0][:8]} --apply puts them back")
    elif not as_json and not line["applied"]:
        warn("nothing was changed: --apply does it")
    return OK


def _patients(line: Line) -> dict[str, str]:
    """Name the two patients of a line."""
    named = {"old": line["was"], "new": line["becomes"]}
    return {
        which: " ".join(filter(None, (row["patient_id"], row["issuer_of_patient_id"], row["patient_name"])))
        or "nobody"
        for which, row in named.items()
    }
