"""``asyncdicom serve CONFIG``: all that a configuration file asks for, in one process."""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

from asyncdicom.cli.qrscp import ONLY_CHECK
from asyncdicom.cli.qrscp import command as archive
from asyncdicom.cli.run import EXIT_CODES
from asyncdicom.telemetry.text import printable

__all__ = ["command"]

_OPTIONS = ("as_json", "verbose", "debug", "quiet", "log_level", "log_file", "log_format")


@click.command(
    epilog=EXIT_CODES,
    params=[
        click.Argument(["config"], metavar="CONFIG", type=click.Path(dir_okay=False)),
        *(param for param in archive.params if param.name in _OPTIONS),
        click.Option(["--check"], is_flag=True, help="Read the file as a whole, and start nothing."),
    ],
)
@click.pass_context
def command(context: click.Context, /, config: str, check: bool, **options: Any) -> int:
    """Run what the file CONFIG (TOML) says: the archive, its services, and the gateway.

    Its keys are the options of qrscp; the tables peers, tls, limits and timeouts are those of the archive,
    destinations and routes those of the gateway. SIGTERM ends it: no more associations come in, what is under
    way is finished. SIGHUP reads the file again: peers, certificates and routes are then what it says. What
    is wrong with the file is told with its line.
    """
    again = archive.make_context(context.command_path, ["--config", config, *_given(context)])
    again.meta[ONLY_CHECK] = check
    with again:
        code: int = archive.invoke(again)
    if check:
        print(f"{printable(config)}: it can be served")
    return code


def _given(context: click.Context) -> list[str]:
    """Give the options that were given, as the archive's tool takes them."""
    words: list[str] = []
    for param in context.command.params[1:-1]:
        if context.get_parameter_source(param.name or "") is not ParameterSource.COMMANDLINE:
            continue
        words.append(param.opts[-1])
        if not getattr(param, "is_flag", False):
            words.append(context.params[param.name or ""])
    return words
