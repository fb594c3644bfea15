from __future__ import annotations

import subprocess
import sys

import pytest
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
        assert f"{tool:10} {what}" in done.stdout
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


async def test_echoscu_does_not_import_pydicom(tool: Tool) -> None:
    import asyncio

    program = (
        "import sys\n"
        "from asyncdicom.__main__ import main\n"
        "main(['echoscu', *sys.argv[1:]])\n"
        "print([name for name in ('pydicom', 'sqlalchemy', 'rich') if name in sys.modules])"
    )
    async with serve("SCP@127.0.0.1:0") as server:
        done = await asyncio.to_thread(python, program, f"SCP@127.0.0.1:{server.port}")
    assert "(Success)" in done.stdout.splitlines()[0], done
    assert done.stdout.splitlines()[1] == "[]"


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


async def test_version(tool: Tool) -> None:
    assert await tool("--version") == (0, f"asyncdicom {__version__}\n", "")


async def test_without_a_tool(tool: Tool) -> None:
    code, out, err = await tool()
    assert (code, err) == (2, "")
    assert "Usage: asyncdicom TOOL" in out
