"""`asyncdicom serve` with `processes = 2`: limits, routes, pages and signals are those of one server."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from helpers.get_page import ask
from helpers.postgres import Server
from helpers.proxying import header, proxy
from helpers.serving import Running, ct, send, serving, sinks

from asyncdicom import AssociationRejected, associate
from asyncdicom.cli.asking import ask_archive, result_of

# Who calls, and whether there is room for one more: addresses, AE titles and strangers are counted together.
CALLERS = (
    ("10.0.0.1", "A", True),
    ("10.0.0.1", "A", False),
    ("10.0.0.1", "B", True),
    ("10.0.0.1", "C", False),
    ("10.0.0.2", "D", True),
    ("10.0.0.3", "E", True),
    ("10.0.0.4", "F", False),  # the rest is for peers that are known
    ("10.9.0.1", "KNOWN", True),
    ("10.9.0.1", "KNOWN", False),
)


def config_of(folder: Path, postgres: Server, pacs: str) -> str:
    return f"""
port = 0
http = "0"
processes = 2
durability = "process"
data = "{folder}/data"
index = "{postgres.url()}"
proxies = ["127.0.0.1"]
[limits]
maximum_associations = 5
maximum_associations_per_address = 2
maximum_associations_per_ae_title = 1
[peers.KNOWN]
networks = ["10.9.0.0/16"]
[destinations.PACS]
address = "PACS@{pacs}"
[[routes]]
default = true
to = ["PACS"]
"""


def workers_of(gate: Running) -> list[int]:
    pid = gate.process.pid
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def page(gate: Running, path: str) -> tuple[str, str]:
    status, _, body = await ask(gate.told["http"], f"GET {path} HTTP/1.1\r\n\r\n".encode())
    return status.partition(" ")[2], body.decode()


async def state(folder: Path) -> dict[str, Any]:
    return dict(await result_of(str(folder / "data"), "top"))


def test_limits_routes_and_pages_are_of_all_together(postgres: Server, tmp_path: Path) -> None:
    """Once: the event loop of the test is not what is tested."""
    asyncio.run(_used(postgres, tmp_path))


def test_signals_while_one_starts_and_while_one_hangs(postgres: Server, tmp_path: Path) -> None:
    """SIGHUP ends none that is not ready for it, and one that hangs does not hide the rest."""
    asyncio.run(_signalled(postgres, tmp_path))


async def _used(postgres: Server, tmp_path: Path) -> None:
    async with sinks("PACS") as (pacs,):
        config = tmp_path / "gate.toml"
        config.write_text(config_of(tmp_path, postgres, pacs.place))
        async with serving(config) as gate:
            headers = [header(host) for host, _, _ in CALLERS]
            async with proxy(gate.told["port"], *headers) as port, AsyncExitStack() as stack:
                for _, title, has_room in CALLERS:
                    calling = associate(f"ANY@127.0.0.1:{port}", calling_ae_title=title)
                    try:
                        await stack.enter_async_context(calling)
                    except AssociationRejected:
                        assert not has_room, title
                    else:
                        assert has_room, title
                assert (await state(tmp_path))["associations"]["open"] == 5
                assert "asyncdicom_associations 5.0" in (await page(gate, "/metrics"))[1]
            uids = [f"1.2.{sender}.{n}" for sender in (1, 2) for n in range(8)]
            async with proxy(gate.told["port"], header("10.0.1.1")) as port:
                there = f"ANY@127.0.0.1:{port}"
                sending = [send(there, f"CT{n}", *map(ct, uids[n::2])) for n in (0, 1)]
                assert await asyncio.gather(*sending) == [[0] * 8, [0] * 8]
            await pacs.has(uids)
            async with asyncio.timeout(100):
                while True:  # whichever process has sent them
                    told = [line async for line in ask_archive(str(tmp_path / "data"), "route status")]
                    if told[0]["delivered_since_start"] == len(uids):
                        break
                    await asyncio.sleep(0.05)
            assert (told[-1]["destinations"], told[-1]["since_start"]["done"]) == (1, len(uids))
            gate.process.terminate()
            assert await gate.ended() == 0
        assert sorted(pacs.received) == sorted(uids)  # each once


async def _signalled(postgres: Server, tmp_path: Path) -> None:
    config = tmp_path / "gate.toml"
    config.write_text(config_of(tmp_path, postgres, "127.0.0.1:1"))
    async with serving(config) as gate:
        os.kill(workers_of(gate)[0], signal.SIGKILL)
        await gate.logged("was killed by SIGKILL: it is started again")
        async with asyncio.timeout(100):
            while (await state(tmp_path))["processes"] != 2:
                gate.process.send_signal(signal.SIGHUP)
                await asyncio.sleep(0.02)
        hanging, _ = workers_of(gate)
        os.kill(hanging, signal.SIGSTOP)
        try:
            async with asyncio.timeout(100):
                while (await state(tmp_path))["processes"] != 1:  # what was found out is told for a second
                    await asyncio.sleep(0.02)
            assert await page(gate, "/readyz") == ("200 OK", "ready\n")
        finally:
            os.kill(hanging, signal.SIGCONT)
        await gate.logged(f"pid {hanging} has not answered")
        os.kill(hanging, signal.SIGKILL)
        await gate.logged("was killed by SIGKILL: it is started again")
        gate.process.terminate()  # the new one may not serve yet
        assert await gate.ended() == 0
    assert not any("killed by SIGHUP" in line for line in gate.log)
