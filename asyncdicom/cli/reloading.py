"""SIGHUP in the tools that serve: what was read from files is read again, or what there is stays in force."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import click

from asyncdicom.cli.tool import Tool
from asyncdicom.telemetry.log import Log

__all__ = ["Rereadable", "parameters_again", "reload_with"]

log = Log("asyncdicom.cli")

_T = TypeVar("_T")
_ARGUMENTS = "asyncdicom.arguments"


class Rereadable(Tool):
    """A command that keeps its arguments: what they and the configuration file say can be found out again."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Keep a copy; click consumes the list."""
        meta = {_ARGUMENTS: list(args)}
        context = super().make_context(info_name, args, parent, **extra)
        context.meta.update(meta)
        return context


def parameters_again(context: click.Context) -> dict[str, Any]:
    """Read the command line of a `Rereadable` again, and the files it names. Raises `click.UsageError`."""
    again = context.command.make_context(context.info_name, list(context.meta[_ARGUMENTS]))
    return again.params


def reload_with(load: Callable[[], _T], use: Callable[[_T], object]) -> Callable[[], Awaitable[None]]:
    """Give a function for `serve_until_stopped`: `load` is called in a thread, then `use` in the event loop.

    If either raises `click.UsageError`, ValueError or OSError, one line tells why, and nothing has changed:
    `use` has to look at everything before it changes anything.
    """

    from asyncdicom.net.threads import file_threads, in_thread  # with asyncio, which --help does not need

    async def reload() -> None:
        try:
            use(await in_thread(file_threads(), load))
        except (click.UsageError, ValueError, OSError) as error:
            why = error.format_message() if isinstance(error, click.UsageError) else str(error)
            log.error("SIGHUP: %s; what was read before stays in force", " ".join(why.split()).rstrip("."))
        else:
            log.info("SIGHUP: certificates and configuration are read again and in force")

    return reload
