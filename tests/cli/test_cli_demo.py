from __future__ import annotations

from pathlib import Path

import pytest
from cli.running import Tool

from asyncdicom import file_source

STEPS = ("C-ECHO", "C-STORE", "C-FIND", "C-GET", "C-MOVE", "The end")


@pytest.mark.parametrize("keeps", [True, False])
async def test_every_step_succeeds_and_is_told(
    tool: Tool, tmp_path: Path, keeps: bool, caplog: pytest.LogCaptureFixture
) -> None:
    options = ("--keep", tmp_path / "demo") if keeps else ()
    code, out, err = await tool("demo", *options)
    assert (code, err) == (0, "")
    assert caplog.messages == []  # what is refused on purpose is no line of the log
    titles = [line for line in out.splitlines() if line and not line.startswith(" ")]
    places = [next(place for place, title in enumerate(titles) if step in title) for step in STEPS]
    assert places == sorted(places)
    answers = [line.partition("status ")[2] for line in out.splitlines() if "status " in line]
    assert all(answer.startswith("0x0000 (Success)") for answer in answers[:-1])
    assert len(answers) == 6
    assert answers[-1].startswith("0xA801"), "a destination that the archive does not know"
    assert "2 patients, 2 studies, 2 instances" in out
    if keeps:  # one by C-GET, one by C-MOVE
        received = [file_source(path) for path in (tmp_path / "demo" / "workstation").iterdir()]
        assert len({source.sop_instance_uid for source in received}) == 2
