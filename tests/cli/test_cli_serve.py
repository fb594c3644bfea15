"""``asyncdicom serve``: what is wrong with a file is told with its line, and nothing is started."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.get_page import ask
from helpers.receiver import receiving
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
        ("[webhook]\n", "gate.toml:1: url is where to POST to"),
        (
            "[webhook]\nurl = 'https://x/'\ndwon = 1\n",
            "gate.toml:3: webhook: unknown key 'dwon'; did you mean down?",
        ),
        ("[webhook]\nurl = 'https://x/'\ndown = 'of'\n", 'gate.toml:3: down is a number, or "off"'),
        ("[[retention]]\ndays = 1\n[[retention]]\nage = 1\n", "gate.toml:4: retention: unknown key 'age'"),
        (
            "[[retention]]\ncalling = ['CT1']\n",
            "gate.toml:1: retention: days, only or maximum_gib",
        ),
        ("retention = 1\n", "gate.toml:1: retention are tables"),
        ("keep = '1'\n", "gate.toml:1: keep is a number of days"),
        ("keep = -1\n", "gate.toml:1: keep: days is a number from 0"),
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


async def test_a_file_can_be_checked_alone(tmp_path: Path, tool: Any) -> None:
    config = tmp_path / "gate.toml"
    config.write_text(f"data = '{tmp_path}/data'\n{GATEWAY}")
    checked = await tool("serve", config, "--check")
    assert (checked.code, checked.out) == (0, f"{config}: it can be served\n")
    config.write_text(f"data = 5\n{GATEWAY}")
    wrong = await tool("serve", "--check", config)
    assert (wrong.code, f"{config}:1: data must be" in wrong.err) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["gate.toml"]


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ('to = ["PCAS"]', "there is no destination 'PCAS', so nothing goes by it; there are A, B, C, A|B\n"),
        ('to = ["C", "A"]', "for none of its destinations: write 'A|B' for it, and not 'A'\n"),
        ('to = ["A|B", "C"]', ""),
        ("days = 1", ""),
    ],
)
async def test_retention_that_waits_for_what_is_never_sent_is_told(
    tmp_path: Path, tool: Any, rule: str, told: str
) -> None:
    config = tmp_path / "gate.toml"
    destinations = "".join(f'[destinations.{name}]\naddress = "{name}@h:1"\n' for name in "ABC")
    routes = '[[routes]]\nwhen = {}\nfirst_of = ["A", "B"]\n[[routes]]\nwhen = {}\nto = ["C"]\n'
    config.write_text(f'[[retention]]\nname = "R"\nonly = "delivered"\n{rule}\n{destinations}{routes}')
    checked = await tool("serve", config, "--check")
    assert checked.code == 0
    assert checked.err.startswith("retention R: " if told else "")
    assert checked.err.endswith(told)
    assert checked.err.count("\n") == bool(told)


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


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
async def test_the_webhook_is_told_of_a_disk_with_little_room(tmp_path: Path, tool: Any) -> None:
    start = f"port = 0\nhttp = '0'\ndata = '{tmp_path}/data'\nminimum_free = 0\n[webhook]\n"
    config = tmp_path / "gate.toml"
    async with receiving() as receiver:
        url = f"url = 'http://127.0.0.1:{receiver.port}/'\n"
        config.write_text(f"{start}{url}disk = 999999999999\nunrouted = 'off'\ninterval = 0.1\n")
        async with serving(config) as gate:
            await receiver.has(1)
            config.write_text(f"{start}{url}")
            gate.process.send_signal(signal.SIGHUP)
            assert "for what changed of webhook" in await gate.logged("a restart is needed")
            text = b""
            async with asyncio.timeout(60):
                while b'webhook_messages_total{outcome="sent"} 1.0' not in text:
                    _, _, text = await ask(gate.told["http"], b"GET /metrics HTTP/1.1\r\n\r\n")
            gate.process.terminate()
            assert await gate.ended() == 0
        (message,) = receiver.bodies
        assert (message["alarm"], message["ae_title"]) == ("disk", "ASYNCDICOM")
        assert "MiB of the archive's disk are free" in message["text"]
    config.write_text(f"{start}url = 'https://127.0.0.1/'\ntrusted = '{config}'\n")
    refused = await tool("serve", config)
    assert (refused.code, "webhook.trusted" in refused.err) == (2, True)


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
            await gate.logged("instances are sent on to AI")
            assert await send(gate.address, "CT1", ct("1.1")) == [0]
            await ai.has(["1.1"])

            config.write_text(start)
            gate.process.send_signal(signal.SIGHUP)
            assert "for what changed of gateway" in await gate.logged("a restart is needed")
            assert await send(gate.address, "CT1", ct("1.2")) == [0]
            await ai.has(["1.2"])
            gate.process.terminate()
            assert await gate.ended() == 0
        assert pacs.received == []  # it is the default only
