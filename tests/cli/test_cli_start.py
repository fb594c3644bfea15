"""What a tool loads until its first A-ASSOCIATE-RQ has left: that is what its start costs, counted.

Each module is compiled code to read and classes to make, 0.1 to 3 ms of the processor. Nobody who sends a
file should pay for what re-encodes, queries, or writes a configuration.
"""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
from pathlib import Path

import pytest
from cli.running import ENVIRONMENT, write_instance

from asyncdicom.cli.run import run

# Coverage loads modules of its own into a process that it measures.
UNMEASURED = {name: value for name, value in ENVIRONMENT.items() if not name.startswith("COVERAGE_")}
PROGRAM = """
import sys
from asyncdicom.__main__ import main
code = main(sys.argv[1:])
print(*sorted(sys.modules))
sys.exit(code)
"""
REJECTED = bytes((3, 0, 0, 0, 0, 4, 0, 1, 1, 7))  # A-ASSOCIATE-RJ: called AE title not recognized
QUERY = ("-S", "-k", "QueryRetrieveLevel=STUDY", "-k", "StudyInstanceUID=1.2")

# What no run loads that only calls a peer.
NEVER = {
    "pydicom",
    "rich",
    "sqlalchemy",
    "tomllib",
    "asyncdicom.archive",
    "asyncdicom.cli.dump",
    "asyncdicom.cli.habits",
    "asyncdicom.data.amend",
    "asyncdicom.data.bare",
    "asyncdicom.data.reencode",
    "asyncdicom.net.tls_sessions",
    "asyncdicom.services.commitment",
    "asyncdicom.services.node",
}
# Nor one that does not retrieve.
TO_RETRIEVE = {
    "ipaddress",
    "pathlib",
    "urllib",
    "dataclasses",
    "hashlib",
    "asyncdicom.data.dictionary",
    "asyncdicom.dataset",
    "asyncdicom.destination",
    "asyncdicom.services.query",
    "asyncdicom.services.retrieve",
}
# Tool -> its command line behind the peer, how many modules of the package it loads at most, and which it
# does not load. The numbers are lowered when less is needed, and not raised.
STARTS: dict[str, tuple[tuple[str, ...], int, set[str]]] = {
    "echoscu": ((), 94, NEVER | TO_RETRIEVE),
    "storescu": (("{file}",), 98, NEVER | TO_RETRIEVE),
    "getscu": ((*QUERY, "--ignore"), 113, NEVER),
    "movescu": ((*QUERY, "-aem", "D"), 106, NEVER),
}


async def loaded(tool: str, *arguments: str) -> set[str]:
    """Run a tool against a peer that rejects it, and give the modules it had loaded."""

    async def reject(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        header = await reader.readexactly(6)
        await reader.readexactly(int.from_bytes(header[2:]))
        writer.write(REJECTED)
        await writer.drain()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(reject, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", PROGRAM, tool, f"SCP@127.0.0.1:{port}", *arguments],
            env=UNMEASURED,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 3, done.stderr
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("tool", STARTS)
async def test_a_start_loads_what_it_needs(tool: str, tmp_path: Path) -> None:
    arguments, most, later = STARTS[tool]
    file = tmp_path / "file.dcm"
    write_instance(file, "1.2.840.10008.5.1.4.1.1.2", "1.2.3")
    modules = await loaded(tool, *(word.format(file=file) for word in arguments))
    assert "asyncdicom.client" in modules
    assert not modules & later
    own = sorted(name for name in modules if name.partition(".")[0] == "asyncdicom")
    print(f"{tool}: {len(own)} modules of the package, {len(modules)} in all")
    assert len(own) <= most, own


async def test_a_habit_of_dcmtk_is_made_when_a_command_line_has_one() -> None:
    assert "asyncdicom.cli.habits" in await loaded("echoscu", "-pts", "3")


async def test_an_option_with_its_value_is_no_habit() -> None:
    assert "asyncdicom.cli.habits" not in await loaded("echoscu", "--repeat=2", "-to", "5")


def test_the_collector_begins_when_a_tool_waits() -> None:
    seen = []

    async def work() -> int:
        seen.append(gc.isenabled())
        await asyncio.sleep(0)
        seen.append(gc.isenabled())
        return 0

    gc.disable()
    try:
        assert run(work) == 0
    finally:
        gc.enable()
    assert seen == [False, True]


SERVED = """
import gc, sys
from asyncdicom.__main__ import main
code = main(sys.argv[1:])
from asyncdicom.archive.index.prepared import Prepared
statements = [each for each in gc.get_objects() if type(each) is Prepared]
compiled = sum("_compiled" in vars(each) for each in statements)
print("loaded", len(statements), compiled, *sorted(sys.modules))
sys.exit(code)
"""
CONFIG = """
host = "127.0.0.1"
port = 0
data = "archive"
strict = false
http = "127.0.0.1:0"

[destinations.A]
address = "A@127.0.0.1:1"

[[routes]]
when = {}
to = ["A"]
"""
# What a server that has just been started needs none of.
NEVER_SERVED = {
    "pydicom",
    "rich",
    "psycopg",
    "obstore",
    "prometheus_client",
    "opentelemetry",
    "sqlalchemy.orm",
}


def test_a_server_loads_what_it_needs_and_compiles_what_it_uses(tmp_path: Path) -> None:
    (tmp_path / "gate.toml").write_text(CONFIG)
    with subprocess.Popen(
        [sys.executable, "-c", SERVED, "serve", "gate.toml"],
        env=UNMEASURED,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            while "listens on" not in process.stdout.readline():
                assert process.poll() is None
            process.terminate()
            last = process.stdout.read().splitlines()[-1].split()
        finally:
            process.kill()
    assert process.returncode == 0
    statements, compiled, modules = int(last[1]), int(last[2]), set(last[3:])
    own = sorted(name for name in modules if name.partition(".")[0] == "asyncdicom")
    print(f"{len(own)} modules of the package, {len(modules)} in all; {compiled} of {statements} statements")
    assert not modules & NEVER_SERVED
    assert len(own) <= 262, own
    assert statements > 80
    assert compiled < statements / 4
