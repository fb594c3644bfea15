"""What an operator has sent once more, what comes again, what the destination has already, stable studies."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from helpers.gateway import CT, EVERYTHING, MR, QUICK, Pacs, config, gateway, instance, pacs, send, settled
from helpers.peer import eventually

from asyncdicom import Request, Response, StatusError, associate, serve
from asyncdicom.archive import Archive, stability
from asyncdicom.archive.errors import ArchiveError
from asyncdicom.archive.index import chosen
from asyncdicom.archive.index.work import State, is_revision_of, repeated_revision, revision_of
from asyncdicom.gateway import gateway as gateway_module
from asyncdicom.gateway.config import GatewayConfigError, parse_gateway
from asyncdicom.gateway.gateway import Gateway
from asyncdicom.gateway.methods import methods_of
from asyncdicom.gateway.resending import deliver_stable


async def resend(running: Gateway, **arguments: Any) -> dict[str, Any]:
    """Give the result."""
    lines = [line async for line in methods_of(running)["route resend"](running._archive, arguments)]
    return dict(lines[-1])


async def given(running: Gateway, number: int) -> None:
    """Wait until so many deliveries were done since the start."""
    await eventually(lambda: running._archive.outbox.happened["done"] == number)


STUDIES = [instance(f"1.{study}.{n}", study=f"1.2.{study}") for study in range(3) for n in range(3)]


@pytest.mark.parametrize(
    ("what", "uids"),
    [
        ({"study_instance_uid": "1.2.1"}, ["1.1.0", "1.1.1", "1.1.2"]),
        ({"series_instance_uid": "1.2.2.1"}, ["1.2.0", "1.2.1", "1.2.2"]),
        ({"sop_instance_uid": "1.0.1"}, ["1.0.1"]),
        ({"study_instance_uid": "1.2.1", "sop_instance_uid": "1.0.1"}, []),
        ({"since": "2020-01-01", "study_instance_uid": "1.2.0"}, ["1.0.0", "1.0.1", "1.0.2"]),
        ({"until": "2020-01-01T00:00:00+02:00"}, []),
        ({"study_instance_uid": "1.2.9"}, []),
    ],
)
async def test_what_is_chosen_is_sent_once_more(
    tmp_path: Path, what: dict[str, str], uids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chosen, "PAGE", 2)
    async with pacs() as node:
        async with gateway(tmp_path, config(EVERYTHING.format('"A"'), A=node.server.port)) as (
            running,
            where,
        ):
            await send(where, *STUDIES)
            await given(running, len(STUDIES))
            would = await resend(running, destination="A", **what)
            assert (would["instances"], would["resent"], would["confirmed"]) == (len(uids), 0, False)
            assert would["studies"] == bool(uids)
            assert node.received.total() == len(STUDIES)
            did = await resend(running, destination="A", confirmed=True, **what)
            assert (did["instances"], did["resent"]) == (len(uids), len(uids))
            await given(running, len(STUDIES) + len(uids))
            await settled(running)
    assert sorted(node.received - Counter(set(node.received))) == uids


async def test_what_still_waits_is_not_sent_twice_and_each_time_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pacs() as node:
        async with gateway(tmp_path, config(EVERYTHING.format('"A"'), A=node.server.port)) as (
            running,
            where,
        ):
            outbox = running._archive.outbox
            await running.pause("A", paused=True)
            await send(where, instance("1.1"))
            for _ in range(3):
                await resend(running, destination="A", sop_instance_uid="1.1", confirmed=True)
            await running.pause("A", paused=False)
            await given(running, 1)
            for second in (10, 20):
                now = outbox.clock() + second
                monkeypatch.setattr(outbox, "clock", lambda now=now: now)
                await resend(running, destination="A", sop_instance_uid="1.1", confirmed=True)
                await given(running, 1 + second // 10)
            rows = running._archive.deliveries.of_instance("1.1")
            assert [row.state for row in rows] == [State.DONE] * 3
    assert node.received == {"1.1": 3}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"destination": "A"}, "say what"),
        ({"destination": "B", "sop_instance_uid": "1"}, "there is no destination 'B'; there are A"),
        ({"sop_instance_uid": "1"}, "there is no destination None"),
        ({"destination": "A", "since": "noon"}, "since is a time"),
        ({"destination": "A", "until": "9999-12-31T23:59-14:00"}, "until is a time"),
        ({"destination": "A", "study_instance_uid": ""}, "texts that are not empty"),
        ({"destination": "A", "study_instance_uid": 7}, "texts that are not empty"),
        ({"destination": "A", "sop_instance_uid": "1", "priority": "now"}, "priority is one of urgent"),
    ],
)
async def test_what_cannot_be_meant_is_told(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    async with gateway(tmp_path, config(EVERYTHING.format('"A"'), A=1)) as (running, _):
        with pytest.raises(ArchiveError, match=message):
            await resend(running, **arguments)


def test_a_number_says_whose_bytes_it_is_about() -> None:
    one, other = "0123456789abcdef" * 4, "fedcba9876543210" * 4
    for digest in (one, other, "f" * 64, "0" * 64):
        again = repeated_revision(digest, 2e9)
        assert -(1 << 63) <= again < 0 <= revision_of(digest) < 1 << 63
        assert is_revision_of(digest, again)
        assert is_revision_of(digest, revision_of(digest))
        assert again != repeated_revision(digest, 2e9 + 1)
    assert not is_revision_of(one, revision_of(other))
    assert not is_revision_of(one, repeated_revision(other, 2e9))


@pytest.mark.parametrize(("word", "times"), [("changed", 1), ("resend", 3), ("skip", 1)])
async def test_what_comes_again(
    tmp_path: Path, word: str, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pacs() as node:
        more = f'{QUICK}on_duplicate = "{word}"\n'
        async with gateway(tmp_path, config(EVERYTHING.format('"A"'), more, A=node.server.port)) as (
            running,
            where,
        ):
            for number in range(3):
                began = running._archive._ingest._writer
                monkeypatch.setattr(type(began), "began", 2e9 + 10 * number, raising=False)
                await send(where, instance("1.1"))
                await given(running, min(number + 1, times))
    assert node.received == {"1.1": times}


@pytest.mark.parametrize("is_last", [True, False], ids=["the newest row", "an old row"])
@pytest.mark.parametrize(
    ("word", "was_sent", "times"),
    [
        ("changed", False, 1),
        ("changed", True, 2),
        ("resend", False, 1),
        ("resend", True, 2),
        ("skip", False, 1),
        ("skip", True, 2),
    ],
)
async def test_what_takes_the_place_of_another_one_is_new(
    tmp_path: Path, word: str, was_sent: bool, times: int, is_last: bool
) -> None:
    """Whatever its row: that of the newest instance is given again."""
    async with pacs() as node:
        more = f'{QUICK}on_duplicate = "{word}"\n'
        setting = config(EVERYTHING.format('"A"'), more, A=node.server.port)
        async with (
            Archive(tmp_path, durability="none", scrub=0, on_conflict="replace") as archive,
            Gateway(archive, setting) as running,
        ):
            await running.pause("A", paused=not was_sent)
            await archive.store(instance("1.1", patient="P1"))
            if was_sent:
                await given(running, 1)
            if not is_last:
                await archive.store(instance("1.2"))
            assert (await archive.store(instance("1.1", patient="P2"))).is_here
            await running.pause("A", paused=False)
            await given(running, times + (not is_last))
            await settled(running)  # and nothing has failed
    assert node.received["1.1"] == times


class Answering(Pacs):
    """A destination that can be asked what it has, and says more than it was asked for."""

    def __init__(self, *has: str, fails: int = 0) -> None:
        super().__init__()
        self.has_them = set(has)
        self.asked_for: list[Any] = []
        self._fails = fails

    async def on_find(self, request: Request) -> AsyncIterator[dict[str, str]]:
        identifier = await request.identifier()
        self.asked_for.append(identifier)
        if self._fails:
            raise StatusError(Response(self._fails))
        for uid in self.has_them:
            yield {"QueryRetrieveLevel": "IMAGE", "SOPInstanceUID": uid}


@pytest.mark.parametrize("by", ["", 'group_by = "study"\n'])
async def test_what_a_destination_has_is_not_sent(tmp_path: Path, by: str) -> None:
    node = Answering("1.1", "1.9")
    async with serve("PACS@127.0.0.1:0", c_store=node.on_store, c_find=node.on_find) as server:
        more = f'{QUICK}{by}check_before = "cfind"\n'
        async with gateway(tmp_path, config(EVERYTHING.format('"A"'), more, A=server.port)) as (
            running,
            where,
        ):
            await send(where, instance("1.1"), instance("1.2"))
            await given(running, 2)
            (row,) = running._archive.deliveries.of_instance("1.1")
            assert "it has it already" in row.comment
            (row,) = running._archive.deliveries.of_instance("1.2")
            assert row.comment == ""
    assert node.received == {"1.2": 1}
    asked = node.asked_for[0]
    assert (asked.StudyInstanceUID, asked.SeriesInstanceUID) == ("1.2.3", "1.2.3.1")
    assert {each.SOPInstanceUID for each in node.asked_for} == {"1.1", "1.2"}


@pytest.mark.parametrize("fails", [0xA700, None])
async def test_who_cannot_be_asked_is_sent_all(
    tmp_path: Path, fails: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    node = Answering("1.1", fails=fails or 0)
    more = f'{QUICK}check_before = "cfind"\n'
    finding: dict[str, Any] = {} if fails is None else {"c_find": node.on_find}
    async with serve("PACS@127.0.0.1:0", c_store=node.on_store, **finding) as server:
        async with gateway(tmp_path, config(EVERYTHING.format('"A"'), more, A=server.port)) as (
            running,
            where,
        ):
            await send(where, instance("1.1"), instance("1.2"))
            await given(running, 2)
    assert node.received == {"1.1": 1, "1.2": 1}
    assert caplog.text.count("A cannot be asked what it has, and is sent all") == 1


async def test_an_association_that_is_lost_while_it_is_asked_is_lost(tmp_path: Path) -> None:
    node = Answering()
    asked = 0

    async def on_find(request: Request) -> AsyncIterator[dict[str, str]]:
        nonlocal asked
        asked += 1
        if asked == 1:
            await request.association.abort()
        async for match in node.on_find(request):
            yield match

    more = f'{QUICK}check_before = "cfind"\n'
    async with serve("PACS@127.0.0.1:0", c_store=node.on_store, c_find=on_find) as server:
        async with gateway(tmp_path, config(EVERYTHING.format('"A"'), more, A=server.port)) as (
            running,
            where,
        ):
            await send(where, instance("1.1"))
            await given(running, 1)
    assert node.received == {"1.1": 1}
    assert asked == 2


@pytest.mark.parametrize("by", ["", 'group_by = "study"\n'])
async def test_a_destination_is_called_as_whoever_has_sent(tmp_path: Path, by: str) -> None:
    async with pacs() as node:
        more = f"{QUICK}{by}pass_calling_ae_title = true\nmaximum_associations = 1\n"
        setting = config(EVERYTHING.format('"A"'), more, A=node.server.port)
        async with gateway(tmp_path, setting) as (running, where):
            for number, calling in enumerate(["CT1", "MR1", "CT1", "US1", "MR1"]):
                await send(where, instance(f"1.{number}"), calling=calling)
                await given(running, number + 1)
            await running._archive.store(instance("2.1"))  # which nobody has sent
            await given(running, 6)
        callers = {each.affected_sop_instance_uid: each.calling_ae_title for each in node.requests}
    assert callers == {"1.0": "CT1", "1.1": "MR1", "1.2": "CT1", "1.3": "US1", "1.4": "MR1", "2.1": "GATE"}


@pytest.mark.parametrize("passes", [True, False])
async def test_a_move_originator_is_forwarded_when_it_is_asked_for(tmp_path: Path, passes: bool) -> None:
    async with pacs() as node:
        more = f"{QUICK}pass_move_originator = {str(passes).lower()}\n"
        setting = config(EVERYTHING.format('"A"'), more, A=node.server.port)
        async with gateway(tmp_path, setting) as (running, where):
            async with associate(where, contexts=[CT]) as association:
                await association.c_store(instance("1.1"), move_originator=("WS1", 77))
                await association.c_store(instance("1.2"))
            await given(running, 2)
        said = {
            each.affected_sop_instance_uid: (
                each.command.move_originator_ae_title,
                each.command.move_originator_message_id,
            )
            for each in node.requests
        }
    assert said == {"1.1": ("WS1", 77) if passes else (None, None), "1.2": (None, None)}


# names that are made


async def test_a_destination_is_named_by_what_an_instance_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with pacs() as first, pacs() as second:
        routes = '[[routes]]\nwhen = {}\nto = ["TENANT-{calling}-{Modality}"]\n'
        ports = {"TENANT-A-CT": first.server.port, "TENANT-B-MR": second.server.port}
        text = "".join(
            f'[destinations."{name}"]\naddress = "X@127.0.0.1:{port}"\n{QUICK}'
            for name, port in ports.items()
        )
        async with gateway(tmp_path, parse_gateway(text + routes)) as (running, where):
            await send(where, instance("1.1"), calling="A")
            await send(where, instance("1.2", sop_class=MR), calling="B")
            await send(where, instance("1.3"), calling="B")
            await first.has("1.1")
            await second.has("1.2")
            await settled(running, failed=1)
            assert await running.unrouted() == 1
    assert "no destination of the name that 'TENANT-{calling}-{Modality}' gives" in caplog.text


@pytest.mark.parametrize(
    ("routes", "message"),
    [
        ('when = {}\nto = ["{calling"]', "brace without its other one"),
        ('when = {}\nto = ["{Nonsense}"]', "is no keyword"),
        ('when = {}\nfirst_of = ["{calling}"]', "there is no destination"),
        ('when = {}\nto = ["{calling}", "{calling}"]', "names a destination twice"),
        ('when = "unstable"\nto = []', "when is a table of conditions"),
        ("when = { stable = 0 }\nto = []", "stable is a number of seconds"),
        ("when = { stable = true }\nto = []", "stable is a number of seconds"),
        ('when = { stable = 60, called = "A" }\nto = []', "called is not known any more"),
        ('when = { stable = 60, not.address = "10.0.0.7" }\nto = []', "address is not known any more"),
        ("when = 7\nto = []", "when must be of type dict or str"),
    ],
)
def test_what_is_wrong_with_a_route_is_told(routes: str, message: str) -> None:
    with pytest.raises(GatewayConfigError, match=message):
        parse_gateway(f"[[routes]]\n{routes}\n")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('on_duplicate = "never"', "on_duplicate is one of changed, resend, skip"),
        ('check_before = "qido"', "check_before is one of cfind"),
        ('pass_calling_ae_title = true\ncalling_ae_title = "G"', "exclude each other"),
    ],
)
def test_what_is_wrong_with_a_destination_is_told(lines: str, message: str) -> None:
    with pytest.raises(GatewayConfigError, match=message):
        parse_gateway(f'[destinations.A]\naddress = "A@h:1"\n{lines}\n')


# stable studies


async def test_a_study_goes_when_it_is_stable_and_what_comes_later_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stability, "_PART", 100)
    async with pacs() as node, pacs() as other:
        text = (
            f'[destinations.A]\naddress = "A@127.0.0.1:{node.server.port}"\ngroup_by = "study"\n{QUICK}'
            f'[destinations.B]\naddress = "B@127.0.0.1:{other.server.port}"\n{QUICK}'
            '[[routes]]\nwhen = { stable = 1, Modality = "CT" }\nto = ["A"]\n'
            '[[routes]]\ndefault = true\nto = ["B"]\n'
        )
        async with gateway(tmp_path, parse_gateway(text)) as (running, where):
            await send(where, instance("1.1"), instance("1.2"), instance("1.3", sop_class=MR))
            await other.has("1.3")  # at once, as no other rule takes it
            assert not node.received
            await node.has("1.1", "1.2")
            assert len(node.studies) == 1  # on one association
            await send(where, instance("1.4"))
            await node.has("1.4")
            await settled(running)
            assert await running.unrouted() == 0
    assert node.received == {"1.1": 1, "1.2": 1, "1.4": 1}
    assert other.received == {"1.3": 1}


async def test_a_study_that_became_stable_while_nobody_looked_goes_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stability, "_PART", 100)
    async with pacs() as node:
        setting = config('[[routes]]\nwhen = "stable"\nto = ["A"]\n', A=node.server.port)
        assert setting.rules.quiets == {60.0}
        routes = '[[routes]]\nwhen = { stable = 0.1 }\nto = ["A"]\n'
        setting = config(routes, A=node.server.port)
        async with gateway(tmp_path, setting):
            await eventually(lambda: _has_begun(tmp_path))
        async with Archive(tmp_path, durability="none", scrub=0) as archive:
            await archive.store(instance("1.1"))
        assert not node.received
        async with gateway(tmp_path, setting) as (running, _):
            await node.has("1.1")
            await settled(running)


def _has_begun(path: Path) -> bool:
    """Whether it is noted up to where everything was told."""
    with closing(sqlite3.connect(path / "index.sqlite")) as connection:
        return bool(connection.execute("SELECT count(*) FROM stability").fetchone()[0])


async def test_what_cannot_be_read_or_decided_of_a_stable_study_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with pacs() as node:
        routes = '[[routes]]\nwhen = { stable = 3600, Modality = "CT" }\nto = ["{PatientID}"]\n'
        async with gateway(tmp_path, config(routes, A=node.server.port)) as (running, where):
            archive = running._archive
            await send(where, instance("1.1", patient="A"), instance("1.2", patient="A"))
            await send(where, instance("1.3", patient="NOBODY", study="1.2.4"))
            (lost,) = archive.chosen.page(chosen.Choice(sop_instance_uid="1.1"))
            (path,) = (tmp_path / "objects").rglob(Path(lost.file).name)
            saved = path.read_bytes()
            path.unlink()
            assert await deliver_stable(archive, running._routing, 3600.0, "1.2.3") == 1
            assert await deliver_stable(archive, running._routing, 3600.0, "1.2.4") == 0
            await node.has("1.2")
            reasons = [row.comment for row in archive.deliveries.page(State.FAILED)]
            assert "its file cannot be read (FileNotFoundError)" in reasons
            assert await running.unrouted() == len(reasons) == 2
            Path(path).write_bytes(saved)
            assert await archive.outbox.retry() == 2  # what can be read now goes: nothing else comes for it
            await node.has("1.1")
            await settled(running, failed=1)
    assert "1.1 of a stable study is not routed: its file cannot be read (FileNotFoundError)" in caplog.text
    assert "1.3 of a stable study is not routed" in caplog.text
    assert node.received == {"1.1": 1, "1.2": 1}


async def test_an_index_that_fails_is_asked_for_stable_studies_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(stability, "_PART", 100)
    monkeypatch.setattr(gateway_module, "_AFTER_ERROR", 0.01)
    async with pacs() as node:
        routes = '[[routes]]\nwhen = { stable = 0.1 }\nto = ["A"]\n'
        async with gateway(tmp_path, config(routes, A=node.server.port)) as (running, where):
            await eventually(lambda: _has_begun(tmp_path))
            change = running._archive._ingest.change
            forbid = "CREATE TRIGGER no BEFORE INSERT ON delivery BEGIN SELECT RAISE(ABORT, 'no'); END"
            change(lambda writer: writer._cursor.execute(forbid))
            await send(where, instance("1.1"))
            await eventually(lambda: "stable studies cannot be sent on" in caplog.text)
            change(lambda writer: writer._cursor.execute("DROP TRIGGER no"))
            await node.has("1.1")
