"""``asyncdicom route ...``: the rules of a gateway checked and explained, and its destinations at work."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import click

from asyncdicom.cli.asking import ask_archive, result_of, show
from asyncdicom.cli.groups import Group
from asyncdicom.cli.number import Number
from asyncdicom.cli.outbox import delivery, say
from asyncdicom.cli.output import json_line, json_text
from asyncdicom.cli.run import EXIT_CODES, FAILED, OK, complain, run
from asyncdicom.cli.top import duration
from asyncdicom.telemetry.text import printable

if TYPE_CHECKING:
    from asyncdicom.gateway.config import GatewayConfig
    from asyncdicom.gateway.rules import Explained, Target

__all__ = ["command"]

_NAME = "asyncdicom route"
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON lines.")
_CONFIG = click.argument("config", metavar="CONFIG", type=click.Path(dir_okay=False))
_DIRECTORY = click.argument("directory", metavar="DIR", type=click.Path(file_okay=False))
_STATUS = (
    "{destination} ({address}): {state}; {ready} ready, {waiting} waiting, {leased} claimed, "
    "{under_way} under way, {failed} failed, {delivered_since_start} delivered since start"
    "{oldest}"
)
_TROUBLE = "; last trouble: {last_trouble}"
_TOTALS = "{destinations} destinations; {unrouted} instances are not routed"
_RESENT = "{resent} instances go to {destination} once more"
_WOULD_RESEND = (
    "{instances} instances of {studies} studies, {size} bytes, would go to {destination}: add --yes"
)
_PRIORITIES = ("urgent", "normal", "bulk")


@click.group(cls=Group, epilog=EXIT_CODES)
def command() -> None:
    """Check and explain routing rules, in the file CONFIG; look after the gateway that serves DIR."""


def _read(path: str) -> GatewayConfig:
    from asyncdicom.gateway.config import GatewayConfigError, read_gateway

    try:
        return read_gateway(path)
    except GatewayConfigError as error:
        raise click.UsageError(str(error)) from None


@command.command()
@_CONFIG
@_JSON
def check(config: str, as_json: bool) -> int:
    """Read the configuration as a whole; what is wrong is told with file and line (exit code 2)."""
    found = _read(config)
    names = list(found.destinations)
    if as_json:
        json_line(destinations=names, routes=len(found.rules))
    else:
        nothing = "" if found.rules else "; without [[routes]] nothing is sent on"
        print(f"{config}: {len(found.rules)} routes to {', '.join(names) or 'nowhere'}{nothing}")
    return OK


@command.command()
@_CONFIG
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(dir_okay=False))
@click.option("--calling", default="", metavar="AET", help="As if this AE title had sent it.")
@click.option("--called", default="", metavar="AET", help="As if this AE title of ours had been called.")
@click.option("--address", default="", metavar="HOST", help="As if it had come from this host.")
@_JSON
def explain(
    config: str, files: tuple[str, ...], calling: str, called: str, address: str, as_json: bool
) -> int:
    """Say of each rule whether it fits the DICOM file FILE, and why, and where the file would go."""
    from asyncdicom.exceptions import DataSetError
    from asyncdicom.gateway.facts import Facts
    from asyncdicom.gateway.files import facts_of_file

    rules = _read(config).rules
    code = OK
    for path in files:
        try:
            facts = facts_of_file(path, rules.tags, Facts(calling, called, address))
        except (DataSetError, OSError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            code = complain(_NAME, f"{path}: {why}", FAILED)
            continue
        targets, unrouted = rules.decide_all(facts)
        _explained(path, rules.explain(facts), targets, unrouted, as_json)
    return code


def _explained(
    path: str,
    said: list[Explained],
    targets: list[tuple[Target, float | None]],
    unrouted: str,
    as_json: bool,
) -> None:
    """Show it; with a target stands for how many seconds nothing has to come for the study, or None."""
    where = [
        {
            "to": list(target.destinations),
            "priority": _PRIORITIES[target.priority],
            "rule": target.rule,
            **({} if quiet is None else {"stable": quiet}),
        }
        for target, quiet in targets
    ]
    if as_json:
        rules = [{"rule": each.rule, "fits": each.fits, "why": each.why} for each in said]
        print(json_text({"file": path, "rules": rules, "targets": where, "unrouted": unrouted}))
        return
    print(printable(f"{path}:"))
    for each in said:
        print(printable(f"  {'fits    ' if each.fits else 'does not'} {each.rule}: {each.why}"))
    for target, quiet in targets:
        names = " or ".join(target.destinations)
        when = "" if quiet is None else f", when nothing has come for its study for {quiet:g} seconds"
        print(printable(f"  goes to {names} ({_PRIORITIES[target.priority]}), by {target.rule}{when}"))
    if unrouted or not targets:
        print(printable(f"  goes nowhere else: {unrouted or 'it is kept here'}"))


@command.command()
@_DIRECTORY
@_JSON
def status(directory: str, as_json: bool) -> int:
    """Show each destination: its state, what waits for it, what went wrong last."""

    async def work() -> int:
        async with aclosing(ask_archive(directory, "route status")) as lines:
            async for line in lines:
                if as_json or "destination" not in line:
                    show(line, as_json, _TOTALS)
                    continue
                age = line["oldest_seconds"]
                oldest = f"; the oldest is owed for {duration(age)}" if age else ""
                show({**line, "oldest": oldest}, False, _STATUS + (_TROUBLE if line["last_trouble"] else ""))
        return OK

    return run(work)


@command.command()
@_DIRECTORY
@click.argument("uid", metavar="UID")
@_JSON
def why(directory: str, uid: str, as_json: bool) -> int:
    """Show what became of the instance with the SOP Instance UID: each delivery, with the peer's words."""

    async def work() -> int:
        async with aclosing(ask_archive(directory, "outbox why", {"sop_instance_uid": uid})) as lines:
            async for line in lines:
                show(line, as_json, delivery(line) if "id" in line else "{deliveries} deliveries")
        return OK

    return run(work)


@command.command()
@_DIRECTORY
@click.argument("destination", metavar="NAME")
@_JSON
def retry(directory: str, destination: str, as_json: bool) -> int:
    """Try again now what has failed for the destination NAME, or waits for it."""
    return say(directory, "retry", (), destination, False, as_json)


@command.command()
@_DIRECTORY
@click.option("--to", "destination", required=True, metavar="NAME", help="The destination.")
@click.option("--study", "study_instance_uid", metavar="UID", help="All of this study.")
@click.option("--series", "series_instance_uid", metavar="UID", help="All of this series.")
@click.option("--instance", "sop_instance_uid", metavar="UID", help="This instance.")
@click.option(
    "--since", metavar="TIME", help='What came since then: "2026-11-26T08:00"; the time of this host.'
)
@click.option("--until", metavar="TIME", help="What came before then.")
@click.option("--priority", type=click.Choice(_PRIORITIES), default="bulk", show_default=True)
@click.option("--yes", "confirmed", is_flag=True, help="Do it; without, only say what that would be.")
@_JSON
def resend(directory: str, as_json: bool, **arguments: Any) -> int:
    """Send what the archive has to the destination NAME once more, whatever was sent before.

    All that fits each option that is given; what still waits for NAME is not sent twice.
    """

    async def work() -> int:
        result = await result_of(directory, "route resend", arguments)
        show(result, as_json, _RESENT if arguments["confirmed"] else _WOULD_RESEND)
        return OK if result["instances"] else complain(_NAME, "there is no such instance", FAILED)

    return run(work)


@command.command()
@_DIRECTORY
@click.argument("ids", metavar="ID...", nargs=-1, required=True, type=Number(1))
@_JSON
def skip(directory: str, ids: tuple[int, ...], as_json: bool) -> int:
    """Give up deliveries, by the numbers that `why` shows; the index keeps what they were."""
    return say(directory, "drop", ids, None, False, as_json)


@command.command()
@_DIRECTORY
@click.argument("destination", metavar="NAME")
@_JSON
def pause(directory: str, destination: str, as_json: bool) -> int:
    """Send nothing to the destination NAME until `resume`; what is under way is finished. It is kept."""
    return _say(directory, "pause", destination, as_json)


@command.command()
@_DIRECTORY
@click.argument("destination", metavar="NAME")
@_JSON
def resume(directory: str, destination: str, as_json: bool) -> int:
    """Go on with the destination NAME, also if it is left alone after failures."""
    return _say(directory, "resume", destination, as_json)


def _say(directory: str, what: str, destination: str, as_json: bool) -> int:
    async def work() -> int:
        result = await result_of(directory, f"route {what}", {"destination": destination})
        show(result, as_json, "; ".join(f"{key}: {{{key}}}" for key in result))
        return OK

    return run(work)
