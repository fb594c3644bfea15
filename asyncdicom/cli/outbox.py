"""``asyncdicom outbox DIR ...``: what an archive owes to others, and what an operator does about it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from typing import Any, TypeVar

import click

from asyncdicom.cli.asking import Line, ask_archive, result_of, show
from asyncdicom.cli.groups import Group
from asyncdicom.cli.number import Number
from asyncdicom.cli.run import EXIT_CODES, FAILED, OK, complain, run

__all__ = ["command", "delivery", "say"]

_NAME = "asyncdicom outbox"
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON lines.")
_F = TypeVar("_F", bound=Callable[..., Any])


def delivery(line: Line) -> str:
    """Give the text for a delivery, with what is known of it."""
    text = "{id} {kind}" + _known(line, " {}", "sop_instance_uid")
    text += " to {destination}: {state} after {attempts} attempt(s)"
    return text + _known(line, ", last status {}", "status") + _known(line, ", {}", "comment")


def _known(line: Line, text: str, key: str) -> str:
    return "" if line.get(key) in (None, "") else text.format(f"{{{key}}}")


@click.group(cls=Group, epilog=EXIT_CODES)
@click.argument("directory", metavar="DIR", type=click.Path(file_okay=False))
@click.pass_context
def command(ctx: click.Context, directory: str) -> None:
    """Look at what the archive in the folder DIR owes to others; the process that serves it is asked."""
    ctx.obj = directory


@command.command("list")
@click.option("--destination", metavar="NAME", help="Only what is for this destination.")
@click.option(
    "--state",
    type=click.Choice(["failed", "leased", "waiting", "ready"]),
    help="Only what is in this state; leased is what is being sent.",
)
@click.option("--limit", type=Number(1), default=1000, show_default=True, metavar="N", help="Of each state.")
@_JSON
@click.pass_obj
def list_(directory: str, destination: str | None, state: str | None, limit: int, as_json: bool) -> int:
    """Show what has come to no good end, and how many there are of each kind."""

    async def work() -> int:
        arguments = {"destination": destination, "state": state, "limit": limit}
        async with aclosing(ask_archive(directory, "outbox list", arguments)) as lines:
            async for line in lines:
                if as_json or "id" in line:
                    show(line, as_json, delivery(line) if "id" in line else "")
                    continue
                for name, counts in line["outbox"].items():
                    print(f"{name}: {', '.join(f'{number} {what}' for what, number in counts.items())}")
                if not line["outbox"]:
                    print("nothing is owed")
        return OK

    return run(work)


def _chosen(function: _F) -> _F:
    """Say which deliveries are meant."""
    for decorate in (
        click.option("--all", "everything", is_flag=True, help="All that there are."),
        click.option("--destination", metavar="NAME", help="All that are for this destination."),
        click.argument("ids", metavar="[ID...]", nargs=-1, type=Number(1)),
    ):
        function = decorate(function)
    return function


@command.command()
@_chosen
@_JSON
@click.pass_obj
def retry(
    directory: str, ids: tuple[int, ...], destination: str | None, everything: bool, as_json: bool
) -> int:
    """Try again now what has failed or waits: ID (as `list` shows it), those of a destination, or --all."""
    return say(directory, "retry", ids, destination, everything, as_json)


@command.command()
@_chosen
@_JSON
@click.pass_obj
def drop(
    directory: str, ids: tuple[int, ...], destination: str | None, everything: bool, as_json: bool
) -> int:
    """Give up what nobody is sending now; the index keeps what it was."""
    return say(directory, "drop", ids, destination, everything, as_json)


def say(
    directory: str, what: str, ids: tuple[int, ...], destination: str | None, everything: bool, as_json: bool
) -> int:
    """Have some deliveries tried again, or dropped."""
    if bool(ids) + (destination is not None) + everything != 1:
        raise click.UsageError("say which: IDs that `list` shows, --destination NAME, or --all")
    arguments = {"ids": list(ids) or None, "destination": destination, "all": everything}

    async def work() -> int:
        result = await result_of(directory, f"outbox {what}", arguments)
        show(result, as_json, ", ".join(f"{{{key}}} {key}" for key in result))
        missed = len(set(ids)) - sum(result.values()) if ids else 0
        if missed > 0:
            why = "there is no such delivery, it has ended, or it is being sent: see `list`"
            return complain(_NAME, f"{missed} of {len(set(ids))} not found: {why}", FAILED)
        if destination is not None and not sum(result.values()):  # the name may be wrong
            nothing = f"nothing for {destination} waits or has failed: `list` shows what is owed, and to whom"
            return complain(_NAME, nothing, OK)
        return OK

    return run(work)
