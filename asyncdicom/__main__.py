"""``asyncdicom TOOL ...``: finds the tool and runs it. Only what the tool needs is imported."""

from __future__ import annotations

import gc
import os
import sys

# A tool is a module of asyncdicom.cli with a click command called `command`.
TOOLS = {
    "echoscu": "verify that a peer answers (C-ECHO)",
    "storescu": "send files and folders (C-STORE)",
    "findscu": "query (C-FIND)",
    "getscu": "retrieve on the same association (C-GET)",
    "movescu": "have instances sent to a destination (C-MOVE)",
    "storescp": "receive instances and save them as files",
    "qrscp": "the archive: receive, query, retrieve",
    "serve": "what a configuration file says: archive, services and gateway in one process",
    "archive": "look after an archive: find, export, import, backup, verify, reindex",
    "route": "routing rules checked and explained, and a gateway looked after",
    "top": "watch what a process that serves an archive is doing",
    "outbox": "what an archive owes to others: list, retry, drop",
    "peers": "the names that peers have here, which every tool takes",
    "bench": "measure a peer: echo, query, retrieve, store",
    "doctor": "say what is wrong between here and a peer, and what to change",
    "trace": "pass on a conversation of two others, and show it decoded",
    "cluster": "start PostgreSQL, several processes and a balancer here, for trying out",
    "haproxy": "write the configuration of a balancer for the nodes of an archive",
    "conformance": "send a peer what others get wrong, and judge its reactions",
    "samples": "write synthetic images to try things with",
    "completion": "complete command lines in bash, zsh and fish",
    "demo": "start an archive and play a radiologist's work-flow",
}

# What a missing package is told to be installed with.
_EXTRAS = {"click": "cli", "rich": "cli", "sqlalchemy": "archive", "prometheus_client": "metrics"}


def main(arguments: list[str] | None = None) -> int:
    """Run `arguments` (by default those of the process) and give the exit code."""
    if arguments is None:
        arguments = sys.argv[1:]
        if "_ASYNCDICOM_COMPLETE" in os.environ:
            return _complete(os.environ["_ASYNCDICOM_COMPLETE"])
    tool = arguments[0] if arguments else "--help"
    if tool in ("-h", "--help", "help"):
        return _tell(_help(), 0 if arguments else 2)
    if tool == "--version":
        from asyncdicom._version import __version__

        return _tell(f"asyncdicom {__version__}", 0)
    if tool not in TOOLS:
        print(f"asyncdicom: there is no tool {tool!r}; {_meant(tool)} (asyncdicom --help)", file=sys.stderr)
        return 2
    # What a start loads stays: going through it again and again would be a twelfth of what it costs.
    # `cli.run.run` has the collector begin.
    gc.disable()
    try:
        from asyncdicom.cli.run import run_tool

        return run_tool(tool, arguments[1:])
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        print(f"asyncdicom {tool}: this tool needs: pip install 'asyncdicom[{extra}]'", file=sys.stderr)
        return 2
    finally:
        gc.enable()


def _complete(instruction: str) -> int:
    """Answer a shell; what is not installed is told by whoever runs the tool, not while it is typed."""
    try:
        from asyncdicom.cli.completion import complete

        return complete(TOOLS, instruction)
    except ModuleNotFoundError:
        return 1


def _meant(tool: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(tool.lower(), (*TOOLS, "--help", "--version"), 1, 0.75)
    return f"did you mean {near[0]}?" if near else f"the tools are {', '.join(TOOLS)}"


def _tell(text: str, code: int) -> int:
    """Print and give `code`; 1 where stdout takes nothing."""
    from asyncdicom.cli.output import give_up_stdout, prepare_streams, warn

    prepare_streams()
    try:
        print(text, flush=True)
    except OSError as error:
        give_up_stdout()
        if not isinstance(error, BrokenPipeError):
            warn(f"asyncdicom: {error.strerror}")
        return 1
    return code


def _help() -> str:
    width = max(map(len, TOOLS))
    tools = "\n".join(f"  {tool:{width}} {what}" for tool, what in TOOLS.items())
    return f"""\
Usage: asyncdicom TOOL [OPTIONS] ...

DICOM network tools. A peer is written AET@host:port, or host port.

{tools}

asyncdicom TOOL --help tells more; asyncdicom --version tells the version."""


if __name__ == "__main__":
    sys.exit(main())
