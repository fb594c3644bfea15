"""/healthz, /readyz and /metrics of a process that serves, and the state that they are made of."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.get_page import ask
from helpers.serving import ct, send

from asyncdicom import Server
from asyncdicom.archive import Archive
from asyncdicom.archive.dimse import serve_archive
from asyncdicom.archive.errors import ArchiveError
from asyncdicom.archive.index.work import Work
from asyncdicom.cli.observing import observing_methods, pages_of
from asyncdicom.cli.several import Several
from asyncdicom.cli.state import Observer
from asyncdicom.data.steps import finish
from asyncdicom.gateway.config import parse_gateway
from asyncdicom.gateway.gateway import Gateway
from asyncdicom.net.http_get import Pages
from asyncdicom.telemetry import prometheus

ALERTS = Path(__file__).parents[2] / "docs" / "alerts.yml"
GATEWAY = """
[destinations.PACS]
address = "PACS@127.0.0.1:1"
failures = 1
[[routes]]
when = { calling = "CT*" }
to = ["PACS"]
"""


@asynccontextmanager
async def observed(folder: Path, **options: Any) -> AsyncIterator[tuple[Observer, Server, Pages]]:
    async with (
        Archive(folder, durability="none", **options) as archive,
        Gateway(archive, parse_gateway(GATEWAY)) as gateway,
        serve_archive(archive, "GATE@127.0.0.1:0") as server,
    ):
        observer = Observer(archive, server, gateway)
        async with pages_of(observer, "127.0.0.1", 0) as pages:
            yield observer, server, pages
        await observer.close()


async def get(pages: Pages, path: str) -> tuple[str, str]:
    status, _, body = await ask(pages.port, f"GET {path} HTTP/1.1\r\n\r\n".encode())
    return status.removeprefix("HTTP/1.1 "), body.decode()


async def measured(pages: Pages) -> dict[str, float]:
    status, text = await get(pages, "/metrics")
    assert status == "200 OK"
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


async def test_metrics_tell_what_happens(tmp_path: Path) -> None:
    async with observed(tmp_path) as (observer, server, pages):
        address = f"GATE@127.0.0.1:{server.port}"
        before = await measured(pages)
        assert await send(address, "CT1", ct("1.1")) == [0]
        assert await send(address, "MR1", ct("1.2")) == [0]
        async with asyncio.timeout(60):
            while (after := await measured(pages))['asyncdicom_destination_up{destination="PACS"}']:
                observer._until = 0
        assert after["asyncdicom_instances"] == 2
        assert after["asyncdicom_unrouted_instances"] == 1
        stored = 'asyncdicom_operations_total{operation="C-STORE",outcome="Success"}'
        assert after[stored] - before.get(stored, 0) == 2
        accepted = "asyncdicom_associations_accepted_total"
        assert after[accepted] - before[accepted] == 2
        assert after['asyncdicom_destination_state{destination="PACS",state="open"}'] == 1
        assert (
            sum(after[f'asyncdicom_deliveries{{destination="PACS",state="{s}"}}'] for s in prometheus._OWED)
            == 1
        )
        assert after['asyncdicom_oldest_delivery_age_seconds{destination="PACS"}'] >= 0
        assert after['asyncdicom_received_instances_total{calling="other"}'] == 2
        assert after['asyncdicom_last_received_timestamp_seconds{calling="other"}'] > 1.7e9
        assert after["asyncdicom_ready"] == 1
        assert after["process_open_fds"] > 0
        assert not any("1.1" in name or "CT1" in name for name in after)


async def test_the_oldest_delivery_has_an_age(tmp_path: Path) -> None:
    async with Archive(tmp_path, durability="none") as archive:
        archive.outbox.clock = lambda: 1000.0
        await archive.outbox.enqueue([Work("store", "A"), Work("store", "A", 0), Work("report", "B")])
        archive.outbox.clock = lambda: 2000.0
        await archive.outbox.enqueue([Work("store", "A", 0), Work("store", "C")])
        assert archive.deliveries.oldest() == {
            ("store", "A"): 1000.0, ("report", "B"): 1000.0, ("store", "C"): 2000.0,
        }  # fmt: skip
        (claimed,) = await archive.outbox.claim("report", "B", 1)
        assert archive.deliveries.oldest()["report", "B"] == 1000.0
        assert claimed.destination == "B"


async def test_it_is_told_why_it_is_not_ready(tmp_path: Path) -> None:
    async with observed(tmp_path, minimum_free=1 << 60) as (_, _, pages):
        assert await get(pages, "/healthz") == ("200 OK", "ok\n")
        status, why = await get(pages, "/readyz")
        assert (status, "0xA700" in why) == ("503 Service Unavailable", True)
        assert (await measured(pages))["asyncdicom_disk_is_short"] == 1
    async with observed(tmp_path / "other") as (observer, server, pages):
        assert await get(pages, "/readyz") == ("200 OK", "ready\n")
        await server.close()
        assert (await get(pages, "/readyz"))[1] == "it is being stopped\n"
        await observer.archive.close()
        assert (await get(pages, "/readyz"))[1] == "it is being stopped\nthe index's writer has ended\n"
        observer._until = 0
        after = await measured(pages)  # also without an index
        assert after["asyncdicom_ready"] == 0
        assert "asyncdicom_instances" not in after


async def test_who_asks_without_end_gets_the_same(tmp_path: Path) -> None:
    async with observed(tmp_path) as (observer, _, _):
        first = await asyncio.gather(*(observer.state() for _ in range(50)))
        assert all(each is first[0] for each in first)
        top = observing_methods(observer)["top"]
        assert [line async for line in top(observer.archive, {})] == [first[0]]
        observer._until = 0
        assert await observer.state() is not first[0]


async def test_metrics_are_made_once_of_a_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with observed(tmp_path) as (observer, _, pages):
        observer._until, observer._finding = float("inf"), asyncio.ensure_future(observer._find())
        made = Counter[str]()

        def counted(state: Any) -> Any:
            made["texts"] += 1
            return prometheus.exposition(state)

        monkeypatch.setattr("asyncdicom.cli.observing.exposition", counted)
        answers = await asyncio.gather(*(get(pages, "/metrics") for _ in range(20)))
        assert {status for status, _ in answers} == {"200 OK"}
        assert made["texts"] == 1


async def test_several_processes_are_asked_once_for_all_who_ask() -> None:
    class Asked(Several):
        asked = 0

        async def _all(self, method: str, arguments: Any) -> Any:
            self.asked += 1
            await asyncio.sleep(0)
            raise ArchiveError("none of its processes answers")

    several = Asked("", SimpleNamespace(is_stopping=False, workers=[SimpleNamespace(takes=True)]))  # type: ignore[arg-type]
    async with pages_of(several, "127.0.0.1", 0) as pages:
        paths = ["/readyz", "/metrics"] * 10
        answers = await asyncio.gather(*(get(pages, path) for path in paths))
    assert set(answers) == {("503 Service Unavailable", "none of its processes answers\n")}
    assert several.asked == 1


async def test_metrics_say_what_they_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncdicom.cli.observing.find_spec", lambda name: None)
    async with observed(tmp_path) as (_, _, pages):
        status, text = await get(pages, "/metrics")
        assert status == "501 Not Implemented"
        assert "pip install 'asyncdicom[metrics]'" in text


NAME = re.compile(r"asyncdicom_[a-z][a-z_]*[a-z]").fullmatch
OF_ARCHIVE = ("instance", "quarantine", "quarantine_bytes", "missing", "damaged", "lost")


def state_of_all() -> dict[str, Any]:
    """A state in which every metric has a sample."""
    destination = {
        "destination": "PACS", "state": "ok", "ready": 1, "waiting": 0, "leased": 0, "failed": 0,
        "under_way": 0,
        "delivered_since_start": 0, "oldest_seconds": 3.5, "failures_in_a_row": 0,
    }  # fmt: skip
    return {
        "version": '1"0\n', "started": 0.0, "ready": True, "unrouted": 0, "commands_failed": 0,
        "associations": dict.fromkeys(("open", "limit", "accepted", "rejected", "connections_refused"), 1),
        "operations": [{"operation": "C-STORE", "outcome": "Success", "number": 1}],
        "senders": [{"calling": "CT1", "instances": 1, "last": 1.0}],
        "archive": dict.fromkeys(OF_ARCHIVE, 1),
        "events": {"same": 1}, "delivery_events": {"done": 1}, "webhook": {"sent": 1},
        "disk": {"total": 1, "free": 1, "reserve": 1, "is_short": False},
        "destinations": [destination], "log": {"errors": 0, "lines_lost": 0},
    }  # fmt: skip


def test_every_metric_is_exposed_and_well_named() -> None:
    text = finish(prometheus.exposition(state_of_all())).decode()
    for metric in prometheus.METRICS:
        name = f"asyncdicom_{metric.name}"
        assert NAME(name)
        assert metric.help.endswith(".")
        assert f"# TYPE {name} {'counter' if metric.is_counter else 'gauge'}\n" in text
        assert re.search(rf"^{name}[{{ ]", text, re.MULTILINE), name
        assert set(metric.labels) <= {
            *("destination", "state", "event", "operation", "outcome", "version", "calling")
        }
    if (promtool := shutil.which("promtool")) is not None:
        done = subprocess.run([promtool, "check", "metrics"], input=text, text=True, capture_output=True)
        assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_alerts_are_about_metrics_that_there_are() -> None:
    text = ALERTS.read_text()
    named = set(re.findall(r"\b(asyncdicom_\w+)", text))
    assert named <= {f"asyncdicom_{metric.name}" for metric in prometheus.METRICS}
    assert len(named) >= 8
    if (promtool := shutil.which("promtool")) is not None:
        done = subprocess.run([promtool, "check", "rules", str(ALERTS)], text=True, capture_output=True)
        assert done.returncode == 0, done.stdout + done.stderr
