"""A destination that is a folder: files under safe names, whole or not at all, until they are there."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path
from typing import Any

import pytest
from helpers.gateway import EVERYTHING, QUICK, gateway, instance, send, settled

from asyncdicom import file_source
from asyncdicom.archive import Retention, RetentionRule
from asyncdicom.archive.index.work import State
from asyncdicom.gateway.config import parse_gateway
from asyncdicom.gateway.folder import parse_template
from asyncdicom.naming import safe_name

pytestmark = pytest.mark.skipif(os.name != "posix", reason="folders as destinations need POSIX")


def to_folder(folder: str, more: str = QUICK) -> Any:
    return parse_gateway(
        f'[destinations.F]\nfolder = "{folder}"\n{more}{EVERYTHING.format(chr(34) + "F" + chr(34))}'
    )


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


async def test_instances_are_files_by_their_elements(tmp_path: Path) -> None:
    (out := tmp_path / "out").mkdir()
    setting = to_folder(f"{out}/of {{Modality}}-{{calling}}/{{PatientID}}/{{StationName}}")
    async with gateway(tmp_path / "archive", setting) as (running, where):
        sent = instance("1.1", patient="p1")
        await send(where, sent, instance("1.2", patient="../../etc/passwd"))
        await settled(running)
        assert (
            running._links["F"].status()["address"]
            == f"{out}/of {{Modality}}-{{calling}}/{{PatientID}}/{{StationName}}"
        )
    first = f"of {safe_name('CT')}-{safe_name('CT1')}"
    assert files_below(out) == sorted(
        [f"{first}/p1/none/1.1.dcm", f"{first}/{safe_name('../../etc/passwd')}/none/1.2.dcm"]
    )
    source = file_source(out / first / "p1" / "none" / "1.1.dcm")
    assert (source.sop_class_uid, source.sop_instance_uid) == (sent.sop_class_uid, "1.1")
    assert source.length == sent.length
    assert (out / first / "p1" / "none" / "1.1.dcm").read_bytes().endswith(sent.data)


async def test_no_copy_is_kept_of_what_is_there(tmp_path: Path) -> None:
    (out := tmp_path / "out").mkdir()
    rule = RetentionRule(only="delivered")  # as keep = 0
    async with gateway(tmp_path / "archive", to_folder(f"{out}/{{PatientID}}")) as (running, where):
        archive = running._archive
        async with Retention(archive, [rule], first=0, turn=0, round=0):
            for number in range(3):
                await send(where, instance(f"1.{number}"))
            async with asyncio.timeout(60):
                while (await archive.counts())["instance"]:
                    await asyncio.sleep(0.01)
            await send(where, instance("1.1"))  # it is taken, and sent on, once more
            async with asyncio.timeout(60):
                while archive.happened["expired"] < 4:
                    await asyncio.sleep(0.01)
    assert [os.path.basename(name) for name in files_below(out)] == ["1.0.dcm", "1.1.dcm", "1.2.dcm"]
    assert not list((tmp_path / "archive" / "objects").rglob("*.dcm"))


async def test_what_is_not_mounted_is_waited_for_and_never_made(tmp_path: Path) -> None:
    out = tmp_path / "disk"
    async with gateway(tmp_path / "archive", to_folder(f"{out}/{{PatientID}}")) as (running, where):
        await send(where, instance("1.1", patient="secret"), instance("1.2", patient="secret"))
        sender = running._links["F"].sender
        async with asyncio.timeout(60):
            while not sender.last_trouble:
                await asyncio.sleep(0.01)
        assert sender.last_trouble == f"[Errno 2] {out}: No such file or directory"
        assert not out.exists()
        out.mkdir()
        await settled(running)
    assert files_below(out) == ["secret/1.1.dcm", "secret/1.2.dcm"]


async def test_a_full_disk_burns_no_attempts_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (out := tmp_path / "out").mkdir()
    async with gateway(tmp_path / "archive", to_folder(f"{out}/{{PatientID}}")) as (running, where):
        proper, failed = os.replace, 0

        def full(*arguments: Any, **options: Any) -> None:
            nonlocal failed
            if str(arguments[0]).endswith(".part") and failed < 5:
                failed += 1
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), arguments[1])
            proper(*arguments, **options)

        monkeypatch.setattr(os, "replace", full)
        await send(where, instance("1.1", patient="secret"))
        await settled(running)
        (row,) = await running._archive.read(running._archive.deliveries.of_instance, "1.1")
        assert (row.state, row.attempts, failed) == (State.DONE, 1, 5)
    assert files_below(out) == ["secret/1.1.dcm"]
    assert "No space left" in caplog.text
    assert "secret" not in caplog.text


async def test_no_link_is_followed(tmp_path: Path) -> None:
    (out := tmp_path / "out").mkdir()
    (elsewhere := tmp_path / "elsewhere").mkdir()
    (out / "p1").symlink_to(elsewhere)
    (out / "p2").mkdir()
    (elsewhere / "kept").write_text("kept")
    (out / "p2" / "1.2.dcm").symlink_to(elsewhere / "kept")
    async with gateway(tmp_path / "archive", to_folder(f"{out}/{{PatientID}}")) as (running, where):
        await send(where, instance("1.2", patient="p2"))
        await settled(running)
        await send(where, instance("1.1", patient="p1"))
        async with asyncio.timeout(60):
            while not running._links["F"].sender.last_trouble:
                await asyncio.sleep(0.01)
    assert files_below(elsewhere) == ["kept"]
    assert (elsewhere / "kept").read_text() == "kept"  # the link itself was replaced
    assert not (out / "p2" / "1.2.dcm").is_symlink()


@pytest.mark.parametrize("cut", [True, False])
async def test_what_cannot_be_read_here_is_not_the_folder_s_fault(tmp_path: Path, cut: bool) -> None:
    (out := tmp_path / "out").mkdir()
    setting = to_folder(f"{out}/{{PatientID}}", f"{QUICK}object_attempts = 1\n")
    async with gateway(tmp_path / "archive", setting) as (running, where):
        await running.pause("F", paused=True)
        await send(where, instance("1.1"))
        (file,) = (tmp_path / "archive" / "objects").rglob("*.dcm")
        if cut:
            os.truncate(file, file.stat().st_size - 2)
        else:
            file.unlink()
        await running.pause("F", paused=False)
        await settled(running, failed=1)
        (row,) = await running._archive.read(running._archive.deliveries.page, State.FAILED)
        assert ("became shorter" if cut else "it cannot be read here: No such file") in row.comment
    assert files_below(out) == []


def test_a_template_says_what_it_needs() -> None:
    template = parse_template("/srv//a/{PatientID}-{sop_class}/x")
    assert str(template) == template.where == "/srv/a/{PatientID}-{sop_class}/x"
    assert (template.root, template.tags) == ("/srv/a", {0x00080005, 0x00100020})
    assert str(parse_template("/")) == ""
