"""The benchmark of durable ingest: who takes part, what each promises, and what the disk does."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from benchmarks.harness import open_bench
from benchmarks.peers import archive, orthanc
from benchmarks.processes import ROOT
from benchmarks.scenarios.ingest import SCENARIO


def test_all_send_the_same_to_the_same_disk_and_say_what_they_promise(tmp_path: Path) -> None:
    with open_bench(quick=True, memory=tmp_path, disk=tmp_path, report=print) as bench:
        contenders = {each.name: each for each in SCENARIO.contenders(bench)}
        note = SCENARIO.note(bench)
    assert {each.sender for each in contenders.values()} == {"asyncdicom", "-"}
    promises = {each.receiver.split(",")[0]: each.durability for each in contenders.values()}
    assert promises["Orthanc"] == "power: file"
    assert promises["dcmqrscp"] == "process"
    assert promises["create"] == "power"
    for said in ("SyncStorageArea", "dcmqrscp syncs nothing", "its index is not synced"):
        assert said in note
    named = {name for headline in SCENARIO.headlines for name in (headline.ours, *headline.peers)}
    assert named <= set(contenders)


def test_an_older_checkout_takes_part_and_runs_its_own_code(tmp_path: Path) -> None:
    """What a change is worth is told by turns, since machines differ, and one is not as fast all the time."""
    peers = tmp_path / "older" / "benchmarks" / "peers"
    peers.mkdir(parents=True)
    (peers / "__init__.py").touch()
    (peers / "archive.py").write_text("def who():\n    return __file__\n", "utf-8")
    (peers.parent / "__init__.py").touch()
    (peers.parent / "worker.py").write_bytes((ROOT / "benchmarks" / "worker.py").read_bytes())
    with open_bench(quick=True, memory=tmp_path, disk=tmp_path, report=print) as bench, ExitStack() as stack:
        bench.against = tmp_path / "older"
        assert SCENARIO.contenders(bench)[0].name == "the archive of older, 64 associations"
        assert bench.worker(stack, "archive", checkout=bench.against).call("who") == str(peers / "archive.py")


def test_orthanc_syncs_and_takes_all_associations_at_once(tmp_path: Path) -> None:
    settings = orthanc.settings(tmp_path, 104, 64)
    assert settings["SyncStorageArea"] is True
    assert settings["DicomThreadsCount"] == 64
    assert settings["StorageDirectory"].startswith(str(tmp_path))


def test_the_disk_writes_as_many_files_as_it_says(tmp_path: Path) -> None:
    sample = archive.write_files(str(tmp_path), count=5, size=1000, threads=2, group=2)
    assert sample["operations"] == 5
    assert sorted(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) == [1000] * 5
