"""The wire suite against software that we did not write: what tests/README.md says about it comes from here.

    python tests/conformance/others.py [CASE ...]

Each case gets a process of its own: what one case does to it is no matter of the next.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import tempfile
from asyncio.subprocess import DEVNULL, Process
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from asyncdicom.address import Address
from asyncdicom.archive import Archive
from asyncdicom.archive.dimse import serve_archive
from asyncdicom.conformance.case import Case, Verdict
from asyncdicom.conformance.cases import select
from asyncdicom.conformance.tcp import play_with_acceptor, play_with_requestor

SERVERS = {
    "DCMTK storescp": ("storescp", "-od", "{folder}", "{port}"),
    "pynetdicom storescp": (sys.executable, "-m", "pynetdicom", "storescp", "{port}", "-od", "{folder}"),
}
CLIENTS = {
    "DCMTK echoscu": ("echoscu", "127.0.0.1", "{port}"),
    "pynetdicom echoscu": (sys.executable, "-m", "pynetdicom", "echoscu", "127.0.0.1", "{port}"),
}
RESULTS = ("passed", "tolerated", "failed", "skipped")
PATIENCE = 2.0
START = 10.0
AT_ONCE = 3


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@asynccontextmanager
async def running(program: tuple[str, ...], port: int) -> AsyncIterator[Process]:
    with tempfile.TemporaryDirectory() as folder:
        arguments = [part.format(port=port, folder=folder) for part in program]
        process = await asyncio.create_subprocess_exec(*arguments, cwd=folder, stdout=DEVNULL, stderr=DEVNULL)
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def with_a_fresh_server(case: Case, program: tuple[str, ...]) -> Verdict:
    port = free_port()
    async with running(program, port) as server, asyncio.timeout(START + 3 * PATIENCE):
        address = Address("STORESCP", "127.0.0.1", port)
        while True:
            try:
                verdict = await play_with_acceptor(case, address, patience=PATIENCE)
                break
            except ConnectionRefusedError:
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.05)
        crashed = server.returncode is not None
        return verdict._replace(result="failed", why=f"it died: {server.returncode}") if crashed else verdict


async def with_a_fresh_client(case: Case, program: tuple[str, ...]) -> Verdict:
    verdicts: asyncio.Queue[Verdict] = asyncio.Queue()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        verdicts.put_nowait(await play_with_requestor(case, reader, writer, patience=PATIENCE))

    listener = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with listener, running(program, listener.sockets[0].getsockname()[1]):
        return await asyncio.wait_for(verdicts.get(), START + 3 * PATIENCE)


async def others(cases: list[Case], program: tuple[str, ...]) -> list[Verdict]:
    room = asyncio.Semaphore(AT_ONCE)

    async def one(case: Case) -> Verdict:
        async with room:
            return await (with_a_fresh_server if case.is_acceptor else with_a_fresh_client)(case, program)

    return list(await asyncio.gather(*map(one, cases)))


async def ourselves(cases: list[Case]) -> list[Verdict]:
    with tempfile.TemporaryDirectory() as folder:
        async with Archive(folder) as archive, serve_archive(archive, "ARCHIVE@127.0.0.1:0") as server:
            address = Address("ARCHIVE", "127.0.0.1", server.port)
            return [await play_with_acceptor(case, address) for case in cases]


def table(verdicts: list[Verdict]) -> list[str]:
    counts = Counter((verdict.case.id[0], verdict.result) for verdict in verdicts)
    tables = list(dict.fromkeys(verdict.case.id[0] for verdict in verdicts))
    cells = [[name, *(str(counts[name, result]) for result in RESULTS)] for name in tables]
    cells.append(["all", *(str(sum(v.result == result for v in verdicts)) for result in RESULTS)])
    head = ["table", *RESULTS]
    return ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *cells)]


async def main(wanted: tuple[str, ...]) -> None:
    played = {"asyncdicom": await ourselves(select(wanted))}
    for acceptor, programs in ((True, SERVERS), (False, CLIENTS)):
        for name, program in programs.items():
            played[name] = await others(select(wanted, acceptor=acceptor), program)
    for name, verdicts in played.items():
        print(f"\n### {name}\n")
        print("\n".join(table(verdicts)))
        for result in ("failed", "tolerated"):
            found = [verdict for verdict in verdicts if verdict.result == result]
            print(f"\n{result}:")
            for each in found:
                why = f" ({each.why})" if each.why else ""
                print(f"  {each.case.id:6} {each.case.what}: {each.got}{why}, not {each.case.expect}")


if __name__ == "__main__":
    asyncio.run(main(tuple(sys.argv[1:])))
