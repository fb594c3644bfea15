"""The pytest plugin, in a folder of its own as its users have it."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import asyncdicom

pytest_plugins = ("pytester",)
ROOT = Path(asyncdicom.__file__).parents[1]
RECIPE = (ROOT / "docs" / "recipes" / "testing.md").read_text()

INI = """
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
filterwarnings = error
"""

USES = """
import asyncio
from asyncdicom import STUDY_ROOT, AssociationClosed, AssociationRejected
import pytest

async def one(request):
    yield {"StudyInstanceUID": "1.2.3"}

async def test_what_is_found(dicom_server, dicom_peer):
    async with dicom_server(c_find=one, ae_title="RIS") as server:
        async with dicom_peer(server, contexts=[STUDY_ROOT], calling_ae_title="WS1") as peer:
            (match,) = await peer.c_find({"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": ""})
    assert (server.ae_title, match.StudyInstanceUID) == ("RIS", "1.2.3")

async def test_who_is_rejected(dicom_server, dicom_peer):
    async with dicom_server(access=["FRIEND"]) as server:
        with pytest.raises(AssociationRejected):
            await dicom_peer(server)

async def test_it_is_the_same_in_memory(dicom_server, dicom_peer, dicom_network):
    async with dicom_server(c_find=one, network=dicom_network) as server:
        async with dicom_peer(server, contexts=[STUDY_ROOT]) as peer:
            (match,) = await peer.c_find({"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": ""})
        assert (server.host, match.StudyInstanceUID) == (dicom_network.host, "1.2.3")

async def test_a_connection_is_cut(dicom_server, dicom_peer, dicom_network):
    async with dicom_server(network=dicom_network) as server:
        peer = await dicom_peer(server)
        dicom_network.cut()
        with pytest.raises(AssociationClosed):
            await peer.c_echo()

async def test_nothing_is_left_behind():
    assert asyncio.all_tasks() == {asyncio.current_task()}
"""


def test_the_recipe_tests_a_handler(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makeini(INI)
    recipe, silence = re.findall(r"<!-- recipe: \w+ -->\n```python\n(.*?)```", RECIPE, re.DOTALL)
    pytester.makepyfile(test_uses=USES, test_recipe=recipe, test_silence=silence)
    # The entry point has the module's own name: where it is installed this changes nothing.
    result = pytester.runpytest_subprocess("-p", "asyncdicom.testing")
    result.assert_outcomes(passed=7)


def test_its_fixtures_are_listed_with_their_use(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    result = pytester.runpytest_subprocess("-p", "asyncdicom.testing", "--fixtures")
    result.stdout.fnmatch_lines(
        [
            "dicom_network*",
            "dicom_server*",
            "*async with dicom_server(c_store=handler) as server*",
            "dicom_peer*",
        ]
    )


def test_pytest_finds_it_by_itself() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"asyncdicom.testing": "asyncdicom.testing"}


def test_nothing_else_needs_pytest() -> None:
    code = "import sys, asyncdicom, asyncdicom.server, asyncdicom.client; print('pytest' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert said.stdout == "False\n"
