"""How every tool runs: the event loop, what an error looks like, exit codes."""

from __future__ import annotations

import errno
import gc
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from asyncdicom.cli.output import give_up_stdout, json_line, prepare_streams, warn
from asyncdicom.exceptions import AssociationError, AssociationRejected, AssociationTimeout, DicomNetworkError
from asyncdicom.telemetry.log import Log
from asyncdicom.telemetry.log_output import close_logs

if TYPE_CHECKING:
    from asyncdicom.options import Limits

__all__ = [
    "EXIT_CODES",
    "FAILED",
    "NO_ASSOCIATION",
    "OK",
    "complain",
    "run",
    "run_tool",
    "with_descriptors",
]

log = Log("asyncdicom.cli")

_HELP: dict[str, Any] = {"help_option_names": ["-h", "--help"]}

OK, FAILED, USAGE, NO_ASSOCIATION, INTERRUPTED = 0, 1, 2, 3, 130

EXIT_CODES = """\
Exit codes: 0 done; 1 the operation, or a part of it, failed, or no file was found to send; 2 the command
line is wrong; 3 no association (the peer is unreachable, rejected or aborted it); 4 a server that was
stopped did not end in time, and was ended by force (the log says what hung); 130 interrupted."""

# What to check after an A-ASSOCIATE-RJ, by source and reason (PS3.8 Table 9-21).
_ADVICE = {
    (1, 3): "the peer has to know our AE title; see -aet",
    (1, 7): "the peer has another AE title; see -aec",
    (3, 1): "try again later",
    (3, 2): "the peer has no room for another association; try again later",
}

_CHECK_PORT = "check that this is a DICOM port, and whether it is one for TLS"
_BY_CAUSE = {"gaierror": "check the host name", "ConnectionResetError": _CHECK_PORT}


def run_tool(tool: str, arguments: list[str]) -> int:
    """Run a tool and give its exit code; an error becomes one line on stderr."""
    prepare_streams()
    try:
        return _run_tool(tool, f"asyncdicom {tool}", arguments)
    finally:
        close_logs()


def _run_tool(tool: str, name: str, arguments: list[str]) -> int:
    try:
        command: click.Command = import_module(f"asyncdicom.cli.{tool}").command
        code: int | None = command.main(arguments, prog_name=name, standalone_mode=False, **_HELP)
        sys.stdout.flush()
        return complain(name, "interrupted", INTERRUPTED) if code == INTERRUPTED else code or OK
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()  # a page, not a line
        return USAGE
    except click.ClickException as error:
        return complain(name, f"{error.format_message().rstrip('.')}; see {name} --help", USAGE)
    except (KeyboardInterrupt, click.Abort):
        return complain(name, "interrupted", INTERRUPTED)
    except BrokenPipeError:
        give_up_stdout()
        return FAILED
    except AssociationError as error:
        advice = _advice(error)
        return _failed(name, arguments, f"{error}; {advice}" if advice else str(error), NO_ASSOCIATION)
    except DicomNetworkError as error:
        return _failed(name, arguments, str(error), FAILED)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        what = "; choose another port" if error.errno == errno.EADDRINUSE else ""
        if error.errno == errno.ENOSPC:
            give_up_stdout()
        return _failed(name, arguments, f"{error.strerror or error}{where}{what}", FAILED)


def _failed(name: str, arguments: list[str], message: str, code: int) -> int:
    """Tell who reads lines as well, and with ``--json`` the program that reads stdout."""
    if "--json" in arguments:
        with suppress(OSError, ValueError):
            json_line(error=message, exit_code=code)
    return complain(name, message, code)


def complain(name: str, message: str, code: int) -> int:
    """Print one line on stderr; gives `code`."""
    warn(f"{name}: {' '.join(message.split())}")
    return code


def _advice(error: AssociationError) -> str | None:
    """What to check."""
    if isinstance(error, AssociationRejected):
        return _ADVICE.get((error.source, error.reason))
    if isinstance(error, AssociationTimeout) and error.which == "acse":
        return _CHECK_PORT
    return _BY_CAUSE.get(type(error.__cause__).__name__)


def run(work: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Run the asynchronous part of a tool."""
    import asyncio  # which --help does not need

    from asyncdicom.running import run_coroutine

    async def begin() -> int:
        # By the time that it waits for something it has loaded what it needs.
        asyncio.get_running_loop().call_soon(gc.enable)
        return await work()

    return run_coroutine(begin)


def with_descriptors(limits: Limits) -> Limits:
    """Make room for the files and sockets of a server; else lower its limits and say so."""
    from asyncdicom.net.descriptors import fitting, raise_limit

    raise_limit(limits)
    fitted = fitting(limits)
    if fitted != limits:
        told = "RLIMIT_NOFILE is too low: %d associations instead of %d; see ulimit -Hn"
        log.warning(told, fitted.maximum_associations, limits.maximum_associations)
    return fitted
