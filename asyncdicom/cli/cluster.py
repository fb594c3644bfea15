"""``asyncdicom cluster``: several processes that serve one archive, for trying out."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path

import click

from asyncdicom.cli.groups import Group
from asyncdicom.cli.logs import set_up_logging
from asyncdicom.cli.number import Number
from asyncdicom.cli.options import PORT
from asyncdicom.cli.run import EXIT_CODES, FAILED, complain

__all__ = ["command"]

_NAME = "asyncdicom cluster demo"


@click.group(cls=Group, epilog=EXIT_CODES)
def command() -> None:
    """Start a cluster on this machine, for trying out."""


@command.command(epilog=EXIT_CODES)
@click.option(
    "--port", type=PORT, default=11112, show_default=True, metavar="N", help="The port; 0 is a free one."
)
@click.option(
    "--workers",
    type=Number(1, 64),
    default=3,
    show_default=True,
    metavar="N",
    help="So many processes serve.",
)
@click.option(
    "--keep", "folder", metavar="DIR", help="Have the archive and the database in DIR, which stays."
)
@click.option(
    "--no-haproxy",
    "without_haproxy",
    is_flag=True,
    help="Do without HAProxy where it is installed: `qrscp --processes` hands the connections out.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what runs as one JSON object.")
def demo(port: int, workers: int, folder: str | None, without_haproxy: bool, as_json: bool) -> int:
    """Start PostgreSQL, three processes that serve one archive with it, and HAProxy if it is installed.

    \b
    apt-get install postgresql haproxy
    asyncdicom cluster demo

    It says where to send to, what to type next and where the metrics are. Everything listens on this machine
    alone. A part that ends by itself, or is killed, is started again. Ctrl-C ends all of it, and
    removes what was stored, but for a folder that --keep names.
    """
    set_up_logging(logging.WARNING, None, "short")
    if os.name != "posix":
        return complain(_NAME, "it needs the processes and sockets of Unix", FAILED)
    import asyncio  # which --help does not need

    from asyncdicom.cli.cluster_demo import Wanted, run_cluster

    with tempfile.TemporaryDirectory(prefix="asyncdicom-", ignore_cleanup_errors=True) as temporary:
        kept = Path(temporary) if folder is None else Path(folder).absolute()
        wanted = Wanted(kept, Path(temporary), port, workers, not without_haproxy, as_json)
        # Not on uvloop, which cannot start a program as another user.
        return asyncio.run(run_cluster(_NAME, wanted))
