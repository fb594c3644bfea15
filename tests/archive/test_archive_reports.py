"""Reports of storage commitment as rows of the outbox: sent, sent again, given up, and never lost."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers.archive_process import LONG
from helpers.forked import lines
from helpers.index_asking import ask as ask_index
from helpers.index_asking import refuse, refuse_no_more
from helpers.peer import eventually
from helpers.script_places import environment

from asyncdicom import PresentationContext, Request, Response, StatusError, associate, serve
from asyncdicom.archive import Archive, reports
from asyncdicom.archive.dimse import commitment_of, serve_archive
from asyncdicom.archive.index.work import Work
from asyncdicom.archive.operations import METHODS
from asyncdicom.archive.reports import REPORT
from asyncdicom.services.commitment import (
    COMMITMENT_INSTANCE,
    CommitmentResult,
    Reference,
    StorageCommitmentUser,
)
from asyncdicom.services.node import Delivery
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from asyncdicom.uid import STORAGE_COMMITMENT_PUSH_MODEL as MODEL

CT = "1.2.840.10008.5.1.4.1.1.2"
HERE, GONE = Reference(CT, "1.2.3.1.1.1"), Reference(CT, "1.2.9")


class Told:
    """A peer that listens, and what it was told."""

    def __init__(self, *statuses: int) -> None:
        self.results: list[CommitmentResult] = []
        self._statuses = list(statuses)

    async def on_result(self, request: Request, result: CommitmentResult) -> None:
        self.results.append(result)
        if self._statuses and (status := self._statuses.pop(0)):
            raise StatusError(Response(status, error_comment="DOE^JOHN"))


@asynccontextmanager
async def listening(*statuses: int, port: int = 0) -> AsyncIterator[tuple[Told, int]]:
    told = Told(*statuses)
    user = StorageCommitmentUser(told.on_result)
    async with serve(f"WS1@127.0.0.1:{port}", services=[user]) as server:
        yield told, server.port


@asynccontextmanager
async def serving(archive: Archive, port: int | None = None) -> AsyncIterator[str]:
    """Serve with storage commitment; the address of WS1 is known, if it has a port."""
    peers = {"WS1": "" if port is None else f"127.0.0.1:{port}"}
    services = [commitment_of(archive)]
    async with serve_archive(archive, "ARCHIVE@127.0.0.1:0", services=services, access=peers) as server:
        yield f"ARCHIVE@127.0.0.1:{server.port}"


async def ask(address: str, uid: str = "1.2.3", *references: Reference) -> Response:
    """Ask for commitment on an association that takes no reports."""
    items = [
        {"ReferencedSOPClassUID": one.sop_class_uid, "ReferencedSOPInstanceUID": one.sop_instance_uid}
        for one in references or (HERE,)
    ]
    information = {"TransactionUID": uid, "ReferencedSOPSequence": items}
    async with associate(address, contexts=[MODEL], calling_ae_title="WS1") as association:
        return await association.n_action(MODEL, COMMITMENT_INSTANCE, 1, information)


async def owed(archive: Archive) -> list[dict[str, Any]]:
    return [dict(line) async for line in METHODS["outbox list"](archive, {}) if "id" in line]


def opened(path: Path) -> Archive:
    return Archive(path, durability="none", scrub=0, sweep=False)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is to be sent again is due at once."""
    monkeypatch.setattr(reports, "_FIRST_PAUSE", 0.0)
    monkeypatch.setattr(reports, "_LONGEST_PAUSE", 0.0)


@pytest.mark.parametrize("syntax", [EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN])
async def test_a_report_comes_on_the_same_association(tmp_path: Path, tools: Any, syntax: str) -> None:
    user = StorageCommitmentUser()
    async with opened(tmp_path) as archive, serving(archive) as address:
        assert await tools.store(archive, tools.data_set()) == 0
        contexts = [PresentationContext(MODEL, (syntax,))]
        async with associate(
            address, contexts=contexts, services=[user], calling_ae_title="WS1"
        ) as association:
            result = await user.commit(association, [HERE, GONE], transaction_uid="1.2.3")
        assert result == CommitmentResult("1.2.3", frozenset({HERE}), {GONE: 0x0112})
        await eventually(lambda: archive.outbox.happened["done"] == 1)
        assert archive.deliveries.counts() == []


async def test_a_report_comes_on_another_association(tmp_path: Path) -> None:
    async with opened(tmp_path) as archive, listening() as (told, port), serving(archive, port) as address:
        assert (await ask(address)).status == 0
        await eventually(lambda: told.results)
        assert told.results == [CommitmentResult("1.2.3", frozenset(), {HERE: 0x0112})]
        await eventually(lambda: archive.deliveries.counts() == [])  # nothing stays of it


async def test_a_report_that_nobody_takes_is_a_row_a_number_and_a_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path) as archive:
        async with serving(archive) as address:
            assert (await ask(address)).status == 0
            await eventually(lambda: archive.outbox.happened["failed"] == 1)
            (row,) = await owed(archive)
        assert (row["kind"], row["destination"], row["state"]) == (REPORT, "WS1", "failed")
        assert row["comment"] == "its address is not known here"
        assert "to WS1 is given up" in caplog.text
        # its address is known now, and an operator has it tried again
        async with listening() as (told, port), serving(archive, port):
            assert await archive.outbox.retry(destination="WS1") == 1
            await eventually(lambda: told.results)
            await eventually(lambda: archive.deliveries.counts() == [])


async def test_what_an_operator_drops_is_not_sent(tmp_path: Path) -> None:
    async with opened(tmp_path) as archive:
        async with serving(archive) as address:
            assert (await ask(address)).status == 0
            await eventually(lambda: archive.outbox.happened["failed"] == 1)
            assert await archive.outbox.drop(destination="WS1") == 1
        async with listening() as (told, port), serving(archive, port) as address:
            assert (await ask(address, "1.2.4")).status == 0
            await eventually(lambda: told.results)
            assert [each.transaction_uid for each in told.results] == ["1.2.4"]
            await eventually(lambda: archive.deliveries.counts() == [])


async def test_what_was_owed_is_sent_by_the_next_process(
    tmp_path: Path, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with listening() as (told, port):
        pass  # nobody listens there any more
    async with opened(tmp_path) as archive, serving(archive, port) as address:
        for number in range(9):
            assert (await ask(address, f"1.2.{number}", HERE, GONE)).status == 0
        await eventually(lambda: archive.outbox.happened["waiting"] > 20)  # again and again, and not given up
        assert archive.outbox.happened["failed"] == 0
    async with opened(tmp_path) as archive, listening(port=port) as (told, _), serving(archive, port):
        await eventually(lambda: archive.deliveries.counts() == [])
    assert {each.transaction_uid for each in told.results} == {f"1.2.{number}" for number in range(9)}


async def test_what_is_claimed_while_the_server_ends_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would wait for a minute, as if nobody served under that title any more."""
    async with opened(tmp_path) as archive, listening() as (told, port):
        outbox = archive.outbox
        proper, is_claimed, goes_on = outbox.claim, asyncio.Event(), asyncio.Event()

        async def slow(*arguments: Any, **options: Any) -> Any:
            found = await proper(*arguments, **options)
            is_claimed.set()
            await goes_on.wait()
            return found

        monkeypatch.setattr(outbox, "claim", slow)
        async with serving(archive, port):
            await archive.reports.add("ARCHIVE", Delivery("WS1", MODEL, COMMITMENT_INSTANCE, 1, b""))
            await is_claimed.wait()
            leaving = asyncio.ensure_future(archive.reports.leave("ARCHIVE"))
            await asyncio.sleep(0)
            goes_on.set()
            await leaving
        (left,) = await owed(archive)
        assert (left["state"], left["attempts"]) == ("ready", 0)
        assert not told.results


async def test_what_is_to_be_sent_as_the_server_ends_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as archive, listening() as (told, port):

        async def left(delivery: Delivery) -> object:
            archive.reports._open.clear()
            return "there is no such association"

        monkeypatch.setattr(reports, "report_on_same", left)
        async with serving(archive, port):
            await archive.reports.add("ARCHIVE", Delivery("WS1", MODEL, COMMITMENT_INSTANCE, 1, b""))
            await eventually(lambda: not archive.reports._open)
        (kept,) = await owed(archive)
        assert (kept["state"], kept["attempts"]) == ("ready", 0)
        assert not told.results


async def test_who_cannot_be_reached_for_days_is_given_up(
    tmp_path: Path, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with listening() as (_, port):
        pass
    monkeypatch.setattr(reports, "_GIVEN_UP", 0.0)
    async with opened(tmp_path) as archive, serving(archive, port) as address:
        assert (await ask(address)).status == 0
        await eventually(lambda: archive.outbox.happened["failed"] == 1)


async def test_a_report_that_is_refused_is_sent_some_times(
    tmp_path: Path, at_once: None, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path) as archive, listening(*[0x0110] * 6) as (told, port):
        async with serving(archive, port) as address:
            assert (await ask(address)).status == 0
            await eventually(lambda: archive.outbox.happened["failed"] == 1)
            assert len(told.results) == 6
            (row,) = await owed(archive)
            assert (row["status"], row["attempts"]) == ("0x0110", 6)
            said = [each.getMessage() for each in caplog.records if each.name == "asyncdicom.archive"]
            assert said
            assert "DOE" not in "".join(said)  # what a peer says may name a patient
            assert await archive.outbox.retry() == 1
            await eventually(lambda: archive.deliveries.counts() == [])


async def test_what_takes_long_stays_claimed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = asyncio.Event()

    async def slow(request: Request) -> int:
        await answer.wait()
        return 0

    monkeypatch.setattr(reports, "LEASE", 0.003)
    async with (
        serve("WS1@127.0.0.1:0", contexts=[MODEL], n_event_report=slow) as peer,
        opened(tmp_path) as archive,
        serving(archive, peer.port),
    ):
        await archive.reports.add("ARCHIVE", Delivery("WS1", MODEL, COMMITMENT_INSTANCE, 1, b""))
        leased_until = "SELECT leased_until FROM delivery WHERE state = 2"

        def lease() -> float:
            found = ask_index(tmp_path, leased_until)
            return float(found[0][0]) if found else 0.0

        await eventually(lease)
        first = lease()
        await eventually(lambda: lease() > first)
        answer.set()
        await eventually(lambda: archive.deliveries.counts() == [])


async def test_a_peer_that_hangs_holds_up_nobody(tmp_path: Path) -> None:
    """What it has is taken back when the server ends, and sent again by the next one."""
    hanging = asyncio.Event()

    async def hang(request: Request) -> int:
        hanging.set()
        await asyncio.Event().wait()
        return 0

    async with opened(tmp_path) as archive, listening() as (told, port):
        async with serve("SLOW@127.0.0.1:0", contexts=[MODEL], n_event_report=hang) as slow:
            peers = {"WS1": f"127.0.0.1:{port}", "SLOW": f"127.0.0.1:{slow.port}"}
            async with serve_archive(
                archive, "ARCHIVE@127.0.0.1:0", services=[commitment_of(archive)], access=peers
            ):
                await archive.reports.add("ARCHIVE", Delivery("SLOW", MODEL, COMMITMENT_INSTANCE, 1, b""))
                await hanging.wait()
                report = Delivery("WS1", MODEL, COMMITMENT_INSTANCE, 1, {"TransactionUID": "1.2"})
                await archive.reports.add("ARCHIVE", report)
                await eventually(lambda: told.results and archive.outbox.happened["done"] == 1)
        (left,) = await owed(archive)
        assert (left["destination"], left["state"], left["attempts"]) == ("SLOW", "ready", 0)


async def test_too_many_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reports, "_MOST_OF_ONE", 1)
    async with opened(tmp_path) as archive, serving(archive) as address:
        await archive.outbox.enqueue([Work("store", "WS1")])  # which is no report
        assert (await ask(address)).status == 0
        await eventually(lambda: archive.outbox.happened["failed"] == 1)
        response = await ask(address, "1.2.4")
        assert (response.status, response.error_comment) == (0x0213, "too many reports wait")
        assert "one more to WS1 is refused" in caplog.text
        await archive.outbox.drop(destination="WS1")
        assert (await ask(address, "1.2.5")).status == 0x0213  # they are not counted again each time
        monkeypatch.setattr(reports, "_COUNTED_AGAIN", 0.0)
        assert (await ask(address, "1.2.6")).status == 0


async def test_what_cannot_be_kept_is_not_promised(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with opened(tmp_path) as archive, listening() as (told, port), serving(archive, port) as address:
        refuse(tmp_path, "INSERT", "delivery")
        response = await ask(address)
        assert (response.status, response.error_comment) == (
            0x0213,
            "the report cannot be kept: try again later",
        )
        assert "a report to WS1 cannot be kept" in caplog.text
        assert not told.results


async def test_a_row_that_cannot_be_understood_is_given_up(tmp_path: Path) -> None:
    async with opened(tmp_path) as archive, listening() as (_, port):
        await archive.outbox.enqueue([Work(REPORT, "WS1", payload=payload) for payload in ("", "{}", "[]")])
        await archive.outbox.enqueue([Work(REPORT, "WS1", payload=json.dumps({"information": "!"}))])
        async with serving(archive, port):
            await eventually(lambda: archive.outbox.happened["failed"] == 4)
        assert {row["comment"] for row in await owed(archive)} == {"its row cannot be understood"}


async def test_a_report_of_a_server_that_is_gone_waits_for_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as archive, listening() as (told, port):
        report = Delivery("WS1", MODEL, COMMITMENT_INSTANCE, 1, {"TransactionUID": "1.2"})
        await archive.reports.add("OTHER", report)
        async with serving(archive, port):
            await eventually(lambda: archive.outbox.happened["waiting"] == 1)
            assert archive.outbox.happened["failed"] == 0
            archive.reports.serve("OTHER", archive.reports._open["ARCHIVE"])
            await archive.outbox.retry()
            await eventually(lambda: told.results)
            await archive.reports.leave("OTHER")
            await eventually(lambda: archive.deliveries.counts() == [])


async def test_an_index_that_cannot_be_read_is_asked_again(
    tmp_path: Path, at_once: None, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path) as archive, listening() as (told, port):
        report = Delivery("WS1", MODEL, COMMITMENT_INSTANCE, 1, {"TransactionUID": "1.2"})
        await archive.reports.add("ARCHIVE", report)
        hide = "ALTER TABLE delivery RENAME TO hidden"
        archive._ingest.change(lambda writer: writer._cursor.execute(hide))
        async with serving(archive, port):
            await eventually(lambda: "the reports that are owed cannot be looked at" in caplog.text)
            show = "ALTER TABLE hidden RENAME TO delivery"
            archive._ingest.change(lambda writer: writer._cursor.execute(show))
            await eventually(lambda: told.results)


async def test_an_index_that_fails_is_asked_again(
    tmp_path: Path, at_once: None, caplog: pytest.LogCaptureFixture
) -> None:
    """A claim that fails leaves the report where it is."""
    async with opened(tmp_path) as archive, listening() as (told, port):
        refuse(tmp_path, "UPDATE", "delivery")
        async with serving(archive, port) as address:
            assert (await ask(address)).status == 0
            await eventually(lambda: "the reports to WS1 have to wait" in caplog.text)
            assert not told.results
            refuse_no_more(tmp_path, "delivery")
            archive.outbox.tell()
            await eventually(lambda: told.results)


# kill -9

SCRIPT = """
import asyncio, os, signal, sys
from pathlib import Path
from asyncdicom import serve
from asyncdicom.archive import Archive
from asyncdicom.archive.dimse import commitment_of, serve_archive
from asyncdicom.services.commitment import COMMITMENT_INSTANCE, StorageCommitmentUser
from asyncdicom.services.node import Delivery
from asyncdicom.uid import STORAGE_COMMITMENT_PUSH_MODEL as MODEL
from asyncdicom.dataset import encode
from helpers.forked import lives, note
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN
from helpers.script_places import before_each_statement, places_of

encode({"TransactionUID": "1.2"}, EXPLICIT_VR_LITTLE_ENDIAN)  # so that its imports are paid once
root, step = Path(sys.argv[1]), int(sys.argv[2])

async def live(folder, kill_at):
    left = kill_at
    def count(sql):
        nonlocal left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    async def on_result(request, result):
        note(folder / "delivered", result.transaction_uid)

    user = StorageCommitmentUser(on_result)
    options = {"durability": "process", "scrub": 0, "sweep": False, **places_of(folder)}
    async with (
        serve("WS1@127.0.0.1:0", services=[user]) as peer,
        Archive(folder / "archive", **options) as archive,
    ):
        if kill_at:
            before_each_statement(archive, count)
        access = {"WS1": f"127.0.0.1:{peer.port}"}
        async with serve_archive(archive, "ARCHIVE@127.0.0.1:0", access=access):
            if kill_at:
                for uid in ("1.2.1", "1.2.2", "1.2.3"):
                    report = Delivery("WS1", MODEL, COMMITMENT_INSTANCE, 1, {"TransactionUID": uid})
                    await archive.reports.add("ARCHIVE", report)
                    note(folder / "promised", uid)
            async with asyncio.timeout(60):
                while archive.deliveries.counts():
                    await asyncio.sleep(0.005)

lives(root, step, live)
"""


def test_kill_at_every_statement(tmp_path: Path) -> None:
    step = 1 if LONG else 4
    subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), str(step)], check=True, env=environment(), timeout=110
    )
    folders = list(tmp_path.iterdir())
    assert len(folders) > 12 / step
    partly = twice = 0
    for folder in folders:
        promised, delivered = lines(folder / "promised"), lines(folder / "delivered")
        partly += 0 < len(promised) < 3
        twice += len(delivered) > len(set(delivered))
        for uid in promised:
            assert 1 <= delivered.count(uid) <= 2, (folder, uid)
    assert partly
    assert twice
