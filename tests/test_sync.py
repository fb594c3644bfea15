"""`asyncdicom.sync.Client`: blocking, beside an event loop that runs, in a process that ends."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cli.nodes import Instance, Node, data_sets, expected
from helpers.peer import eventually, instance

from asyncdicom import AssociationClosed, LocalProtocolError, Request, Server, serve
from asyncdicom.sync import Client

STUDY = [Instance("1.1", "1.1.1", f"1.1.1.{n}") for n in (1, 2)]
REPOSITORY = Path(__file__).parents[1]


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    node = Node(STUDY)

    async def on_store(request: Request) -> int:
        await request.data.read()
        return 0

    handlers: dict[str, Any] = {"c_find": node.find, "c_get": node.retrieve, "c_store": on_store}
    async with serve("SCP@127.0.0.1:0", **handlers) as server:
        yield server
        await eventually(lambda: server.associations == 0)
    await eventually(lambda: not [t for t in threading.enumerate() if t.name == "asyncdicom-client"])


def address(server: Server) -> str:
    return f"SCP@127.0.0.1:{server.port}"


async def test_the_daily_jobs(server: Server, tmp_path: Path) -> None:
    def script() -> None:
        with Client(address(server), calling_ae_title="WS1") as pacs:
            assert pacs.address.ae_title == "SCP"
            assert pacs.listens_on is None
            assert pacs.echo().status.is_success
            assert len(pacs.find({"StudyInstanceUID": "1.1"}, returned=[])) == 1
            assert [match.StudyInstanceUID for match in pacs.find_each(returned=[])] == ["1.1"]
            retrieved = pacs.retrieve("1.1", to=tmp_path)
            assert len(retrieved.raise_for_failures().instances) == 2
            assert pacs.method == "get"
            for one in pacs.retrieve_each("1.1"):
                assert one.data
                break
            assert pacs.store(instance()).sent == 1
            assert [stored.is_stored for stored in pacs.store_each([instance()])] == [True]
            for not_there in (pacs.worklist, lambda: pacs.move("1.1", "WS1")):
                with pytest.raises(Exception, match="presentation context"):
                    not_there()

    await asyncio.to_thread(script)
    assert data_sets(tmp_path) == expected(STUDY)


async def test_without_a_block(server: Server) -> None:
    def script() -> None:
        pacs = Client(address(server))
        pacs.close()
        assert pacs.echo().status.is_success
        pacs.close()
        assert pacs.echo().status.is_success, "it opens anew"
        thread = pacs._opened()
        del pacs  # nobody has it any more
        with pytest.raises(LocalProtocolError, match="is closed"):
            thread.call(lambda: asyncio.sleep(0))

    await asyncio.to_thread(script)


async def test_errors_come_out_as_they_are(server: Server) -> None:
    with pytest.raises(ValueError, match="needs listen="):
        Client(address(server), method="move")
    with pytest.raises(OSError, match=r"bind|address|assign"), Client(address(server), listen="192.0.2.1:0"):
        pass
    closed = await serve("SCP@127.0.0.1:0")
    await closed.close()

    def script() -> None:
        with pytest.raises(AssociationClosed), Client(address(closed)) as pacs:
            pacs.echo()

    await asyncio.to_thread(script)


async def test_a_callback_cannot_wait_for_its_own_thread(server: Server) -> None:
    told: list[BaseException] = []

    def script() -> None:
        with Client(address(server)) as pacs:

            def on_progress(stored: object) -> None:
                try:
                    pacs.echo()
                except LocalProtocolError as error:
                    told.append(error)

            pacs.store(instance(), on_progress=on_progress)

    await asyncio.to_thread(script)
    assert len(told) == 1


PROGRAM = """
import asyncio, os, signal, sys, threading
from asyncdicom import serve
from asyncdicom.sync import Client

asked, started, done, ports = threading.Event(), threading.Event(), threading.Event(), []

async def never(request):
    asked.set()
    await asyncio.Event().wait()
    yield {}

async def serve_until_done():
    async with serve("SCP@127.0.0.1:0", c_find=never) as server:
        ports.append(server.port)
        started.set()
        await asyncio.to_thread(done.wait)

def interrupt():
    asked.wait()
    os.kill(os.getpid(), signal.SIGINT)

async def notebook():
    return pacs.echo().status.is_success

threading.Thread(target=asyncio.run, args=(serve_until_done(),)).start()
started.wait()
threading.Thread(target=interrupt, daemon=True).start()
pacs = Client(f"SCP@127.0.0.1:{ports[0]}")
try:
    pacs.find()
except KeyboardInterrupt:
    print("interrupted", pacs.echo().status.is_success)
print("within a running loop", asyncio.run(notebook()))
done.set()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT cannot be sent")
def test_ctrl_c_a_running_loop_and_the_end_of_the_program() -> None:
    """The client is not closed: the end of the program does it."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "interrupted True\nwithin a running loop True\n"
