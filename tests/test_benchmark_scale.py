"""The benchmarks past one process: who takes part, what each promises, and that what is counted was done."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from helpers.postgres import programs

from benchmarks.harness import Bench, Medians, Scenario, open_bench
from benchmarks.peers import orthanc
from benchmarks.processes import Missing
from benchmarks.scenarios import scale

needs_postgres = pytest.mark.skipif(
    programs() is None and "ASYNCDICOM_REQUIRE_PEERS" not in os.environ,
    reason="PostgreSQL's server is not here",
)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with open_bench(quick=True, memory=tmp_path, disk=tmp_path, report=print) as made:
        yield made


@pytest.mark.parametrize("scenario", scale.SCENARIOS, ids=lambda each: each.name)
def test_all_are_sent_the_same_and_say_what_they_promise(bench: Bench, scenario: Scenario) -> None:
    contenders = {each.name: each for each in scenario.contenders(bench)}
    assert {each.sender for each in contenders.values()} == {"asyncdicom"}
    for name, each in contenders.items():
        expected = {"Orthanc, SQLite": "power: file"}.get(name, "power: file, row")
        assert each.durability == ("power" if name.startswith("asyncdicom") else expected)
    named = {name for headline in scenario.headlines for name in (headline.ours, *headline.peers)}
    assert named <= set(contenders)


def _medians(**rates: float) -> Medians:
    def summary(value: float) -> dict[str, dict[str, float]]:
        return {key: {"median": value} for key in ("ops_per_s", "ops_per_cpu_s")}

    return Medians([{"name": name, "summary": summary(value)} for name, value in rates.items()])


def test_a_speed_up_is_measured_only_where_there_are_cores_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    medians = _medians(one=1000.0, two=1800.0)
    monkeypatch.setattr(scale, "_CORES", 4)
    assert scale._speed_up("one", "two", 4, medians) == pytest.approx(1.8)
    monkeypatch.setattr(scale, "_CORES", 2)
    with pytest.raises(KeyError, match="only 2 cores"):
        scale._speed_up("one", "two", 4, medians)


def test_orthanc_keeps_its_rows_in_the_database_and_its_files_in_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orthanc, "_PLUGIN", tmp_path)
    settings = orthanc.settings(tmp_path, 104, 64) | orthanc.in_postgres("dbname=x")
    assert settings["Plugins"] == [str(tmp_path)]
    assert settings["PostgreSQL"]["ConnectionUri"] == "dbname=x"
    assert (settings["PostgreSQL"]["EnableIndex"], settings["PostgreSQL"]["EnableStorage"]) == (True, False)
    assert settings["SyncStorageArea"] is True


def test_without_its_plug_in_orthanc_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orthanc, "_PLUGIN", tmp_path / "none.so")
    with pytest.raises(Missing, match="apt-get install orthanc-postgresql"):
        orthanc.in_postgres("dbname=x")


@needs_postgres
def test_what_two_processes_take_is_in_the_database_and_their_time_is_counted(bench: Bench) -> None:
    database = scale.database_of(bench)
    with ExitStack() as stack:
        archives = scale._ours(bench, database, 2, 1, True, stack)
        sender = bench.worker(stack, "ours")
        server = database(stack)
        assert server is database(stack)
        sample = scale._send([sender], archives, server, count=24, associations=4)
        (schema,) = server.run("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'index_%'").split()
        assert server.run(f"SELECT count(*) FROM {schema}.instance") == "24"
        assert server.run(f"SELECT count(*) FROM {schema}.study") == "4"
        assert server.run("SHOW fsync") == "on"
    assert sample["operations"] == 24
    assert sample["cpu_us_per_op_database"] > 0
    assert sample["ops_per_cpu_s"] == pytest.approx(1e6 / sample["cpu_us_per_op_receiver"])
