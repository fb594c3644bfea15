"""How every tool runs: the event loop, what an error looks like, exit codes."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from asyncdicom.exceptions import AssociationError, AssociationRejected, AssociationTimeout, DicomNetworkError

if TYPE_CHECKING:
    from asyncdicom.server import Server

__all__ = [
    "EXIT_CODES",
    "FAILED",
    "NO_ASSOCIATION",
    "OK",
    "complain",
    "run",
    "run_tool",
    "serve_until_stopped",
]

OK, FAILED, USAGE, NO_ASSOCIATION, INTERRUPTED = 0, 1, 2, 3, 130

EXIT_CODES = """\
Exit codes: 0 done; 1 the operation, or a part of it, failed; 2 the command line is wrong; 3 no
association (the peer is unreachable, rejected or aborted it); 130 interrupted."""

# What to check after an A-ASSOCIATE-RJ, by source and reason (PS3.8 Table 9-21).
_ADVICE = {
    (1, 3): "the peer has to know our AE title; see -aet",
    (1, 7): "the peer has another AE title; see -aec",
    (3, 1): "try again later",
    (3, 2): "the peer has no room for another association; try again later",
}

_PATIENCE = 1.0  # seconds that a server may take to stop without telling why
_CHECK_PORT = "check that this is a DICOM port, and whether it is one for TLS"
_BY_CAUSE = {"gaierror": "check the host name", "ConnectionResetError": _CHECK_PORT}


def run_tool(tool: str, arguments: list[str]) -> int:
    """Run a tool and give its exit code; an error becomes one line on stderr."""
    name = f"asyncdicom {tool}"
    try:
        command: click.Command = import_module(f"asyncdicom.cli.{tool}").command
        code: int | None = command.main(arguments, prog_name=name, standalone_mode=False)
        sys.stdout.flush()
        return complain(name, "interrupted", INTERRUPTED) if code == INTERRUPTED else code or OK
    except click.ClickException as error:
        return complain(name, f"{error.format_message().rstrip('.')}; see {name} --help", USAGE)
    except (KeyboardInterrupt, click.Abort):
        return complain(name, "interrupted", INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        return FAILED
    except AssociationError as error:
        advice = _advice(error)
        return complain(name, f"{error}; {advice}" if advice else str(error), NO_ASSOCIATION)
    except DicomNetworkError as error:
        return complain(name, str(error), FAILED)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        what = "; choose another port" if error.errno == errno.EADDRINUSE else ""
        return complain(name, f"{error.strerror or error}{where}{what}", FAILED)


def complain(name: str, message: str, code: int) -> int:
    """Print one line on stderr; gives `code`."""
    print(f"{name}: {' '.join(message.split())}", file=sys.stderr)
    return code


def _advice(error: AssociationError) -> str | None:
    """What to check."""
    if isinstance(error, AssociationRejected):
        return _ADVICE.get((error.source, error.reason))
    if isinstance(error, AssociationTimeout) and error.which == "acse":
        return _CHECK_PORT
    return _BY_CAUSE.get(type(error.__cause__).__name__)


def run(work: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Run the asynchronous part of a tool on uvloop (on asyncio's own loop where there is no uvloop)."""
    import asyncio

    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    try:
        import uvloop
    except ModuleNotFoundError:
        pass
    else:
        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        try:
            return runner.run(work())
        except asyncio.CancelledError:  # by a signal handler of ours
            return INTERRUPTED


async def serve_until_stopped(server: Server) -> int:
    """Serve until SIGTERM or Ctrl-C; what is under way may end (`Server.close`), or is aborted by another."""
    import asyncio

    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[int] = loop.create_future()

    def stop(code: int) -> None:
        if not stopped.done():
            stopped.set_result(code)
        else:
            for task in asyncio.all_tasks(loop):
                task.cancel()

    for number, code in ((signal.SIGTERM, OK), (signal.SIGINT, INTERRUPTED)):
        try:
            loop.add_signal_handler(number, stop, code)
        except NotImplementedError:  # Windows, where Ctrl-C cancels this coroutine
            pass
    await asyncio.wait([stopped])
    closing = asyncio.ensure_future(server.close())
    if not (await asyncio.wait([closing], timeout=_PATIENCE))[0]:
        print(f"waiting for {server.associations} associations to end; Ctrl-C aborts them", file=sys.stderr)
    await closing
    return stopped.result()


def set_up_logging(*, verbose: bool, debug: bool) -> None:
    """Send log records to stderr: warnings, with ``-v`` also information, with ``-d`` everything."""
    handler = _Stderr()
    handler.setFormatter(logging.Formatter("%(levelname).1s: %(message)s"))
    level = logging.DEBUG if debug else logging.INFO if verbose else logging.WARNING
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("asyncdicom").setLevel(level)


class _Stderr(logging.Handler):
    """Writes to what stderr is at the moment: a progress bar replaces it."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)
