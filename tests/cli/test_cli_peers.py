"""Names of peers, from one file."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli.running import Tool

from asyncdicom import serve


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "peers.toml"
    monkeypatch.setenv("ASYNCDICOM_PEERS", str(path))
    return path


async def test_every_tool_takes_a_name(tool: Tool, file: Path) -> None:
    async with serve("SCP@127.0.0.1:0") as server:
        file.write_text(f'pacs = "SCP@127.0.0.1:{server.port}"\nris = "RIS@[::1]:104"\n')
        assert (await tool("echoscu", "pacs")).code == 0
        assert (await tool("echoscu", "-aec", "OTHER", "pacs")).code == 0
        assert (await tool("echoscu", "127.0.0.1", server.port)).code == 0
    listed = await tool("peers")
    assert listed.out == f"pacs  SCP@127.0.0.1:{server.port}\nris   RIS@[::1]:104\n"
    assert (await tool("peers", "--json", "ris")).json == [
        {"name": "ris", "ae_title": "RIS", "host": "::1", "port": 104}
    ]
    missing = await tool("peers", "nobody")
    assert (missing.code, "has no nobody" in missing.err) == (1, True)


async def test_no_file_yet(tool: Tool, file: Path) -> None:
    listed = await tool("peers")
    assert (listed.code, listed.out) == (0, "")
    assert str(file) in listed.err


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('a = "A@1.2.3.4"\nb = 5\n', "peers.toml:2: a peer is written b ="),
        ('a = "A@host:99999"\n', "peers.toml:1: address"),
        ('"a b" = "A@host"\n', "is no name"),
        ("a = \n", "peers.toml"),
    ],
)
async def test_a_file_that_is_wrong_is_told_with_its_line(
    tool: Tool, file: Path, text: str, what: str
) -> None:
    file.write_text(text)
    result = await tool("peers")
    assert result.code == 2
    assert what in result.err
    file.write_bytes(b"\xff\xfe")
    assert (await tool("peers")).code == 2


def test_where_the_file_is(monkeypatch: pytest.MonkeyPatch) -> None:
    from asyncdicom.cli.named import peers_file

    for name in ("ASYNCDICOM_PEERS", "XDG_CONFIG_HOME", "APPDATA"):
        monkeypatch.delenv(name, raising=False)
    assert Path(peers_file()) == Path.home() / ".config" / "asyncdicom" / "peers.toml"
    monkeypatch.setenv("XDG_CONFIG_HOME", "/etc/xdg")
    assert Path(peers_file()) == Path("/etc/xdg/asyncdicom/peers.toml")
