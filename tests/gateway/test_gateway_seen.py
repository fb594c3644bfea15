"""What rules and functions see of an instance is the same wherever it is looked at, in any character set."""

from __future__ import annotations

import asyncio
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from helpers.gateway import CT, QUICK, config, gateway, pacs, send, settled
from helpers.programs import fences

from asyncdicom import BytesSource
from asyncdicom.archive import stability
from asyncdicom.data.elements import encode
from asyncdicom.data.part10 import encode_file_meta
from asyncdicom.gateway.config import GatewayConfigError, parse_gateway
from asyncdicom.gateway.facts import Facts
from asyncdicom.gateway.files import facts_of_file
from asyncdicom.naming import safe_name
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN

TEXTS = [
    ("ISO_IR 100", "latin-1", "Schädel"),
    ("ISO_IR 144", "iso8859-5", "Голова"),
    ("ISO_IR 192", "utf-8", "頭部"),
    ("ISO_IR 13", "shift_jis", "ｱﾀﾏ"),
    ("GB18030", "gb18030", "头部"),
]


def described(name: str, codec: str, text: str) -> BytesSource:
    elements = [
        (0x00080005, "CS", name.encode()),
        (0x00080016, "UI", CT.encode()),
        (0x00080018, "UI", b"1.1"),
        (0x00081030, "LO", text.encode(codec)),
        (0x00100020, "LO", b"P1"),
        (0x0020000D, "UI", b"1.2.3"),
        (0x0020000E, "UI", b"1.2.3.1"),
    ]
    return BytesSource(
        CT, "1.1", EXPLICIT_VR_LITTLE_ENDIAN, bytes(encode(elements, EXPLICIT_VR_LITTLE_ENDIAN))
    )


def when(text: str, more: str = "") -> str:
    return f'[[routes]]\nwhen = {{ {more}StudyDescription = "{text}" }}\nto = ["A"]\n'


@pytest.mark.parametrize(("name", "codec", "text"), TEXTS)
@pytest.mark.parametrize("way", ["stored", "stable", "tried again", "streamed"])
async def test_texts_are_read_by_their_character_set(
    tmp_path: Path, way: str, name: str, codec: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stability, "_PART", 100)
    sent = described(name, codec, text)
    async with pacs() as node:
        routes = when(text, "stable = 0.1, " if way == "stable" else "")
        setting = config(
            routes, QUICK + 'mode = "stream"\n' if way == "streamed" else QUICK, A=node.server.port
        )
        if way == "tried again":
            async with gateway(tmp_path, config(when("other"), A=node.server.port)) as (running, where):
                await send(where, sent)
                assert await running.unrouted() == 1
        async with gateway(tmp_path, setting) as (running, where):
            if way == "tried again":
                await running._archive.outbox.retry()
            else:
                await send(where, sent)
            await node.has("1.1")
            await settled(running)
            assert running._archive.outbox.happened["streamed"] == (way == "streamed")


@pytest.mark.parametrize(("name", "codec", "text"), TEXTS)
async def test_files_and_folders_are_read_by_it_too(tmp_path: Path, name: str, codec: str, text: str) -> None:
    sent = described(name, codec, text)
    path = tmp_path / "file.dcm"
    path.write_bytes(encode_file_meta(CT, "1.1", EXPLICIT_VR_LITTLE_ENDIAN) + bytes(sent.data))
    rules = config(when(text), A=1).rules
    assert [each.fits for each in rules.explain(facts_of_file(path, rules.tags, Facts()))] == [True]
    folder = tmp_path / "folder"
    folder.mkdir()
    to = f'[destinations.A]\nfolder = "{folder}/{{StudyDescription}}"\n[[routes]]\nwhen = {{}}\nto = ["A"]\n'
    async with gateway(tmp_path / "archive", parse_gateway(to)) as (running, where):
        await send(where, sent)
        async with asyncio.timeout(30):
            while not list(folder.rglob("1.1.dcm")):
                await asyncio.sleep(0.01)
        await settled(running)
    assert [each.name for each in folder.iterdir()] == [safe_name(text)]


# functions

ENTRIES = """[asyncdicom.routes]
by_text = hospital_routes:by_text
broken = hospital_routes:nothing
no_function = hospital_routes:NUMBER
"""
MODULE = """NUMBER = 7
def by_text(facts):
    return ["A"] if facts.text(0x00081030, "LO") == "Голова" and facts.calling == "CT1" else []
"""


@pytest.fixture
def _package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package that has functions for rules."""
    (tmp_path / "hospital_routes.py").write_text(MODULE, "utf-8")
    about = tmp_path / "hospital_routes-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: hospital-routes\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(ENTRIES)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("_package")
@pytest.mark.parametrize("stable", ["", "stable = 0.1"])
async def test_a_function_of_an_installed_package_sees_what_the_index_has(
    tmp_path: Path, stable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stability, "_PART", 100)
    sent = described("ISO_IR 144", "iso8859-5", "Голова")
    path = tmp_path / "file.dcm"
    path.write_bytes(encode_file_meta(CT, "1.1", EXPLICIT_VR_LITTLE_ENDIAN) + bytes(sent.data))
    async with pacs() as node:
        setting = config(f'[[routes]]\nwhen = {{ {stable} }}\nfunction = "by_text"\n', A=node.server.port)
        (said,) = setting.rules.explain(facts_of_file(path, setting.rules.tags, Facts("CT1")))
        assert [target.destinations for target in said.targets] == [("A",)]
        async with gateway(tmp_path / "archive", setting) as (running, where):
            await send(where, sent)
            await node.has("1.1")
            await settled(running)


@pytest.mark.usefixtures("_package")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", ":3: function 'broken': hospital_routes:nothing cannot be imported: AttributeError"),
        ("no_function", ":3: function 'no_function': hospital_routes:NUMBER is no function"),
        ("by_test", ":3: there is no function 'by_test'"),
    ],
)
def test_what_is_no_function_of_an_installed_package_is_told(name: str, message: str) -> None:
    with pytest.raises(GatewayConfigError, match=message):
        parse_gateway(f'[[routes]]\nwhen = {{}}\nfunction = "{name}"\n')


@pytest.mark.usefixtures("_package")
def test_what_a_program_gives_comes_first() -> None:
    def own(facts: Any) -> list[str]:
        return []

    text = '[destinations.A]\naddress = "A@h:1"\n[[routes]]\nwhen = {}\nfunction = "by_text"\n'
    own_rules = parse_gateway(text, functions={"by_text": own}).rules
    assert own_rules.decide(Facts("CT1")).targets == ()


def test_the_function_of_the_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (text,) = (fence.text for fence in fences("python") if fence.mark == "route function")
    (tmp_path / "route_of_the_docs.py").write_text(text, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    by_text = import_module("route_of_the_docs").by_text
    path = tmp_path / "file.dcm"
    for description, names in (("CHEST PA", ["PACS"]), ("HEAD", [])):
        data = bytes(described("ISO_IR 100", "latin-1", description).data)
        path.write_bytes(encode_file_meta(CT, "1.1", EXPLICIT_VR_LITTLE_ENDIAN) + data)
        routes = '[destinations.PACS]\naddress = "P@h:1"\n[[routes]]\nwhen = {}\nfunction = "f"\n'
        rules = parse_gateway(routes, functions={"f": by_text}).rules
        decision = rules.decide(facts_of_file(path, rules.tags, Facts()))
        assert [target.destinations for target in decision.targets] == [(name,) for name in names]
