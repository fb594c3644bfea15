from __future__ import annotations

import asyncio
import os
import subprocess
import sys

import pytest
from cli.nodes import Instance, Node
from cli.running import ENVIRONMENT, Tool

from asyncdicom import __version__, serve
from asyncdicom.__main__ import TOOLS

HEAVY = ("asyncio", "ssl", "uvloop", "pydicom", "sqlalchemy", "rich", "asyncdicom.client", "asyncdicom.net")


def python(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_names_every_tool() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "asyncdicom", "--help"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=True,
    )
    for tool, what in TOOLS.items():
        assert f"{tool:11} {what}" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("arguments", [[], *([tool] for tool in TOOLS)], ids=lambda value: " ".join(value))
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    done = python(
        "import sys\n"
        "from asyncdicom.__main__ import main\n"
        "code = main([*sys.argv[1:], '--help'])\n"
        f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)\n"
        "sys.exit(code)",
        *arguments,
    )
    assert (done.returncode, done.stderr.strip()) == (0, "[]")
    assert "Usage: asyncdicom" in done.stdout


RETRIEVAL = ("--ignore", "-k", "QueryRetrieveLevel=STUDY", "-k", "StudyInstanceUID=1.1")


@pytest.mark.parametrize(
    "arguments",
    [("echoscu",), ("getscu", *RETRIEVAL), ("movescu", *RETRIEVAL, "--port", "0")],
    ids=["echoscu", "getscu", "movescu"],
)
async def test_who_shows_no_data_set_imports_no_pydicom(arguments: tuple[str, ...]) -> None:
    program = (
        "import sys\n"
        "from asyncdicom.__main__ import main\n"
        "main(sys.argv[1:])\n"
        "print([name for name in ('pydicom', 'sqlalchemy', 'rich') if name in sys.modules])"
    )
    node = Node([Instance("1.1", "1.1.1", "1.1.1.1")])
    async with serve(
        "SCP@127.0.0.1:0", c_find=node.find, c_get=node.retrieve, c_move=node.retrieve
    ) as server:
        done = await asyncio.to_thread(python, program, *arguments, f"SCP@127.0.0.1:{server.port}")
    told = done.stdout.splitlines()
    assert ("(Success)" if arguments[0] != "movescu" else "0xA801") in told[0], done
    assert told[1] == "[]"


@pytest.mark.parametrize(
    ("missing", "tool", "extra"), [("click", "echoscu", "cli"), ("sqlalchemy", "qrscp", "archive")]
)
def test_what_to_install_when_a_package_is_missing(missing: str, tool: str, extra: str) -> None:
    done = python(
        "import sys\n"
        "sys.modules[sys.argv.pop(1)] = None\n"
        "from asyncdicom.__main__ import main\n"
        "sys.exit(main(sys.argv[1:]))",
        *(missing, tool, "--port" if tool == "qrscp" else "localhost", "0"),
    )
    assert done.returncode == 2
    assert done.stderr == f"asyncdicom {tool}: this tool needs: pip install 'asyncdicom[{extra}]'\n"


def test_what_to_install_is_told_to_a_program_too() -> None:
    done = python("import sys; sys.modules['sqlalchemy'] = None; import asyncdicom.archive")
    assert done.stderr.splitlines()[-1].endswith("needs SQLAlchemy: pip install 'asyncdicom[archive]'")


def test_completion_without_its_package_is_silent() -> None:
    done = python(
        "import os, sys\n"
        "os.environ['_ASYNCDICOM_COMPLETE'] = 'bash_complete'\n"
        "sys.modules['click'] = None\n"
        "from asyncdicom.__main__ import main\n"
        "sys.exit(main())"
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["echoscu", "--help"], ["archive", "--help"]]
)
def test_a_page_that_cannot_be_printed_is_no_traceback(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "asyncdicom", *arguments],
            env=ENVIRONMENT,
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_page_for_a_full_disk_is_told_in_a_line() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "asyncdicom", "--help"],
            env=ENVIRONMENT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, "asyncdicom: No space left on device\n")


@pytest.mark.parametrize("line", ["archive", "outbox", "route", "archive DIR quarantine"])
async def test_a_group_without_a_command_shows_its_page(tool: Tool, line: str) -> None:
    code, out, err = await tool(*line.split())
    assert (code, out) == (2, "")
    assert err.startswith("Usage: asyncdicom ")
    assert "\nCommands:\n" in err
    commands = " ".join(err.partition("Commands:")[2].split())
    assert "..." not in commands


async def test_version(tool: Tool) -> None:
    assert await tool("--version") == (0, f"asyncdicom {__version__}\n", "")


async def test_without_a_tool(tool: Tool) -> None:
    code, out, err = await tool()
    assert (code, err) == (2, "")
    assert "Usage: asyncdicom TOOL" in out
