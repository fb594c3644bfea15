"""``asyncdicom bench``: what it counts, and that it writes only when told."""

from __future__ import annotations

from pathlib import Path

from cli.nodes import Instance, Node
from cli.running import Tool, write_instance

from asyncdicom import Request, serve
from asyncdicom.cli.bench import Measured

CT = "1.2.840.10008.5.1.4.1.1.2"
STUDY = [Instance("1.1", "1.1.1", f"1.1.1.{n}") for n in (1, 2)]


async def test_each_kind(tool: Tool, tmp_path: Path) -> None:
    node = Node(STUDY)
    stored: list[str] = []

    async def on_store(request: Request) -> int:
        stored.append(request.affected_sop_instance_uid)
        await request.data.read()
        return 0 if request.affected_sop_instance_uid != "1.2.666" else 0xC000

    for uid in ("1.2.3", "1.2.4", "1.2.666"):
        write_instance(tmp_path / f"{uid}.dcm", CT, uid)
    async with serve("SCP@127.0.0.1:0", c_find=node.find, c_get=node.retrieve, c_store=on_store) as server:
        place = ("127.0.0.1", server.port, "--seconds", 1, "--associations", 2)
        quiet = await tool("bench", *place, "--find", "StudyInstanceUID=1.1", "--get", "1.1", "--json")
        assert stored == [], "nothing is written without --store"
        assert quiet.code == 0
        assert [line["kind"] for line in quiet.json] == ["echo", "find", "get"]
        for line in quiet.json:
            assert line["done"] > 0
            assert line["failed"] == 0
            assert line["p50_ms"] <= line["p95_ms"] <= line["p99_ms"]
        sent = await tool("bench", *place, "--store", tmp_path)
    assert sorted(stored) == ["1.2.3", "1.2.4", "1.2.666"]
    assert sent.code == 1
    assert "1 failed" in sent.out
    assert sent.lines[-1].startswith("store 2 done")


def test_percentiles() -> None:
    measured = Measured("echo", [number / 1000 for number in range(1, 101)], seconds=2.0)
    assert [round(measured.percentile(percent)) for percent in (0, 50, 99, 100)] == [1, 51, 100, 100]
    assert measured.rate == 50
    assert (Measured("echo").percentile(50), Measured("echo").rate) == (0, 0)


async def test_a_plot(tool: Tool, tmp_path: Path) -> None:
    import importlib.util

    async with serve("SCP@127.0.0.1:0") as server:
        result = await tool("bench", "127.0.0.1", server.port, "--seconds", 1, "--plot", tmp_path / "a.png")
    if importlib.util.find_spec("matplotlib") is None:
        assert (result.code, "needs matplotlib" in result.err) == (2, True)
    else:
        assert result.code == 0
        assert (tmp_path / "a.png").stat().st_size > 1000
