"""``asyncdicom serve``: what is wrong with a file is told with its line, and nothing is started."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.serving import ct, send, serving, sinks

from asyncdicom import MODALITY_WORKLIST, associate

GATEWAY = """
[destinations.PACS]
address = "PACS@127.0.0.1:1"
[[routes]]
default = true
to = ["PACS"]
"""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("port = 0\nprot = 1\n", "gate.toml:2: unknown key 'prot'; did you mean port?"),
        ("port = 0\n[destination.A]\n", "gate.toml:2: unknown key 'destination'; did you mean destinations?"),
        (f"port = 0\ngateway = 'x.toml'\n{GATEWAY}", "gate.toml:2: gateway names a file, and destinations"),
        (GATEWAY.replace("address", "adress"), "gate.toml:2: PACS: a destination has an address"),
        (GATEWAY.replace('"PACS"', '"PAX"'), "gate.toml:6: "),
        (f"port = 'x'\n{GATEWAY}", "gate.toml:1: port must be of type int"),
        ("port = 99999\n", "gate.toml:1: port: it has to be a whole number from 0 to 65535, not 99999"),
        ("worklist = 'nowhere_at_all:find'\n", "gate.toml:1: worklist: nowhere_at_all:find: No module named"),
        ("worklist = 'json:nothing'\n", "gate.toml:1: worklist: json:nothing: json has no 'nothing'"),
        ("worklist = 'json'\n", "gate.toml:1: worklist: json: json has no ''"),
        ("worklist = ':find'\n", "gate.toml:1: worklist: :find: it has no 'find'"),
        ("worklist = 'json:__name__'\n", "gate.toml:1: worklist: json:__name__ is no function"),
        ("commitment = 1\n", "gate.toml:1: commitment must be of type bool"),
        ("http = '1.2.3.4:x'\n", "gate.toml:1: http: '1.2.3.4:x' is no place to listen at"),
        ("http = '70000'\n", "gate.toml:1: http: '70000' is no place to listen at"),
        ("[peers", "gate.toml:1: "),
    ],
)
async def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, tool: Any, text: str, told: str) -> None:
    config = tmp_path / "gate.toml"
    config.write_text(text)
    result = await tool("serve", config)
    assert result.code == 2
    assert f"{tmp_path}/{told}" in result.err
    assert result.err.startswith("asyncdicom serve: ")
    assert result.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["gate.toml"]


async def test_a_file_that_is_not_there_and_an_archive_that_is_not(tmp_path: Path, tool: Any) -> None:
    missing = await tool("serve", tmp_path / "gate.toml")
    assert missing.code == 2
    assert f"{tmp_path}/gate.toml: No such file" in missing.err
    assert (await tool("serve")).code == 2
    (tmp_path / "gate.toml").write_text(f"port = 0\nexisting = true\ndata = '{tmp_path}/data'\n")
    refused = await tool("serve", tmp_path / "gate.toml", "--json", "--log-format", "text", "-q")
    assert refused.code == 1
    assert refused.err.startswith("asyncdicom serve: ")
    assert not (tmp_path / "data").exists()


WORKLIST = """
async def find(request):
    identifier = await request.identifier()
    yield {"PatientID": identifier.PatientID, "PatientName": "Doe^Jane"}
"""


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
async def test_a_worklist_and_what_a_reload_cannot_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hospital.py").write_text(WORKLIST)
    monkeypatch.setitem(
        sys.modules["helpers.serving"].ENVIRONMENT,
        "PYTHONPATH",
        f"{sys.modules['helpers.serving'].ENVIRONMENT['PYTHONPATH']}:{tmp_path}",
    )
    start = f"port = 0\ndata = '{tmp_path}/data'\nworklist = 'hospital:find'\n"
    config = tmp_path / "gate.toml"
    async with sinks("PACS", "AI") as (pacs, ai):
        text = start + GATEWAY.replace("127.0.0.1:1", pacs.place)
        config.write_text(text)
        async with serving(config, "-v") as gate:
            async with associate(gate.address, contexts=[MODALITY_WORKLIST]) as association:
                found = await association.c_find({"PatientID": "7"}, information_model=MODALITY_WORKLIST)
                assert [(item.PatientID, item.PatientName) for item in found] == [("7", "Doe^Jane")]

            more = f'\n[destinations.AI]\naddress = "AI@{ai.place}"\n[[routes]]\nwhen = {{}}\nto = ["AI"]\n'
            config.write_text(text.replace("address", "rate = 5\naddress") + more)
            gate.process.send_signal(signal.SIGHUP)
            told = await gate.logged("a restart is needed")
            assert "for what changed of destinations.AI, destinations.PACS, routes" in told
            assert await send(gate.address, "CT1", ct("1.1")) == [0]
            await pacs.has(["1.1"])

            config.write_text(start)
            gate.process.send_signal(signal.SIGHUP)
            assert "for what changed of gateway" in await gate.logged("a restart is needed")
            assert await send(gate.address, "CT1", ct("1.2")) == [0]
            await pacs.has(["1.2"])
            gate.process.terminate()
            assert await gate.ended() == 0
        assert ai.received == []
