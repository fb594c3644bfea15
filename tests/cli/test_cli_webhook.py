"""What an operator is told by the webhook, and how it gets there."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme
from helpers.receiver import receiving

from asyncdicom.cli import webhook as module
from asyncdicom.cli.alarms import Alarms, Message, WebhookOptions
from asyncdicom.cli.webhook import Webhook, watching

URL = "https://hooks.example/x"
MESSAGE = Message("disk", "", 5, False, "little")


def destination(**fields: Any) -> dict[str, Any]:
    usual = {"destination": "PACS", "state": "ok", "failed": 0, "oldest_seconds": 0.0, "failures_in_a_row": 0}
    return usual | fields


def state(*destinations: dict[str, Any], unrouted: int = 0, free: int = 1 << 40) -> dict[str, Any]:
    disk = {"free": free, "is_short": free < 1 << 30}
    return {"destinations": list(destinations), "unrouted": unrouted, "disk": disk}


def looked(options: WebhookOptions, *states: dict[str, Any]) -> list[list[tuple[str, str, bool]]]:
    """What is told of states that come 100 seconds after each other."""
    alarms = Alarms(options)
    return [
        [(each.alarm, each.destination, each.is_over) for each in alarms.look(one, 100.0 * number)]
        for number, one in enumerate(states)
    ]


def test_a_destination_has_to_be_down_for_a_while() -> None:
    down, probed = destination(state="open", failures_in_a_row=3), destination(state="half-open")
    options = WebhookOptions(URL, down=150)
    assert looked(options, state(down), state(probed), state(down), state(down), state(destination())) == [
        [], [], [("destination down", "PACS", False)], [], [("destination down", "PACS", True)],
    ]  # fmt: skip
    assert looked(options, state(down), state(destination()), state(down)) == [[], [], []]
    assert looked(WebhookOptions(URL, down=None), state(down), state(down), state(down)) == [[], [], []]


def test_what_lasts_is_told_again() -> None:
    failed = state(destination(failed=2), unrouted=1)
    told = [("delivery failed", "PACS", False), ("unrouted", "", False)]
    options = WebhookOptions(URL, repeat=200)
    assert looked(options, failed, failed, failed) == [told, [], told]
    assert looked(WebhookOptions(URL, failed=3, unrouted=2), failed) == [[]]
    assert looked(WebhookOptions(URL, failed=0, unrouted=0), state(destination())) == [[]]
    assert looked(WebhookOptions(URL, failed=None, unrouted=None), failed) == [[]]


def test_what_waits_on_purpose_is_not_old() -> None:
    old = destination(oldest_seconds=4000.0)
    assert looked(WebhookOptions(URL), state(old)) == [[("delivery old", "PACS", False)]]
    for why in ("paused", "outside hours"):
        assert looked(WebhookOptions(URL), state(old | {"state": why})) == [[]]
    assert looked(WebhookOptions(URL, oldest=None), state(old)) == [[]]


def test_a_disk_that_has_little_room() -> None:
    assert looked(WebhookOptions(URL), state(free=1 << 29), state()) == [
        [("disk", "", False)], [("disk", "", True)]
    ]  # fmt: skip
    assert looked(WebhookOptions(URL, disk=4096), state(free=2 << 30)) == [[("disk", "", False)]]
    assert looked(WebhookOptions(URL, disk=None), state(free=0)) == [[]]


def test_what_is_not_known_is_not_over() -> None:
    failed = state(destination(failed=1))
    assert looked(WebhookOptions(URL), failed, {}, failed, state(destination()))[1:] == [
        [], [], [("delivery failed", "PACS", True)]
    ]  # fmt: skip


def test_what_a_peer_has_said_is_not_told() -> None:
    words = destination(state="open", failed=1, oldest_seconds=1e6, last_trouble="Doe^Jane")
    messages = Alarms(WebhookOptions(URL, down=0)).look(state(words), 0.0)
    assert len(messages) == 3
    assert "Doe" not in repr(messages)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"url": "ftp://x/"}, "url is where"),
        ({"url": "https://user:secret@x/"}, "url is where"),
        ({"url": "https://x/ y"}, "url is where"),
        ({"url": 5}, "url is where"),
        ({"url": "https://[::1/x"}, "url is where"),
        ({"url": "https://[bad]/x"}, "url is where"),
        ({"url": "https://x:y/x"}, "url is where"),
        ({"url": "https://x:70000/x"}, "url is where"),
        ({"url": "https://a..b/x"}, "url is where"),
        ({}, "url is where"),
        ({"headers": 5}, "headers is a table"),
        ({"headers": {"A": "x\r\nB: y"}}, "headers: 'A'"),
        ({"headers": {"A:": "x"}}, "headers: 'A:'"),
        ({"headers": {"A": 5}}, "headers: 'A'"),
        ({"trusted": 5}, "trusted is a file"),
        ({"down": -1}, "down is a number"),
        ({"failed": True}, "failed is a number"),
        ({"oldest": float("nan")}, "oldest is a number"),
        ({"interval": 0}, "interval is a number of seconds"),
        ({"timeout": None}, "timeout is a number of seconds"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], told: str) -> None:
    if options and "url" not in options:
        options = {"url": URL, **options}
    with pytest.raises(ValueError, match=told):
        WebhookOptions(**options)


def test_what_comes_and_goes_is_no_storm() -> None:
    """A disk at its limit, from which retention deletes: both told at each look would hide all else."""
    little, enough = state(free=1 << 29), state()
    told = looked(WebhookOptions(URL), *[little, enough] * 7)  # 1,400 seconds
    assert [each for each in told if each] == [
        [("disk", "", False)], [("disk", "", True)], [("disk", "", False)], [("disk", "", True)],
        [("disk", "", False)], [("disk", "", True)],
    ]  # fmt: skip
    often = looked(WebhookOptions(URL, repeat=100), *[little, enough] * 2)
    assert all(often)


def test_an_index_that_cannot_be_read_is_told() -> None:
    failing = {"disk": state()["disk"], "ready": False, "why_not": ["the index failed"], "is_stopping": False}
    assert looked(WebhookOptions(URL), failing, failing, state() | {"ready": True}) == [
        [], [("disk", "", False)], [("disk", "", True)]
    ]  # fmt: skip
    without = {key: value for key, value in failing.items() if key != "disk"}
    assert looked(WebhookOptions(URL), without, without)[1] == [("disk", "", False)]
    alarms = Alarms(WebhookOptions(URL))
    assert alarms.look(failing, 0.0) == []
    assert alarms.look(failing, 40.0)[0].text == "nothing can be stored: the index failed"
    assert looked(WebhookOptions(URL), *[failing | {"is_stopping": True}] * 2) == [[], []]
    assert looked(WebhookOptions(URL, disk=None), failing, failing) == [[], []]


async def settled(webhook: Webhook, **counts: int) -> None:
    async with asyncio.timeout(60):
        while dict(webhook.counts) != counts:
            await asyncio.sleep(0.01)


async def test_a_message_is_sent_again_until_it_is_taken() -> None:
    async with receiving("503 Busy", "429 Later") as receiver:
        options = WebhookOptions(f"http://127.0.0.1:{receiver.port}/x", headers={"Authorization": "Bearer 1"})
        async with Webhook(options, "GATE", first_pause=0.01) as webhook:
            webhook.tell(MESSAGE)
            webhook.tell(Message("unrouted", "", 0, True, "over"))
            await settled(webhook, retried=2, sent=2)
    first, *_, last = receiver.bodies
    assert receiver.bodies[:3] == [first] * 3
    assert (first["alarm"], first["state"], first["destination"]) == ("disk", "raised", None)
    assert (first["value"], first["text"], first["ae_title"]) == (5, "GATE: little", "GATE")
    assert (last["alarm"], last["state"]) == ("unrouted", "over")
    assert receiver.heads[0].startswith("POST /x HTTP/1.1\r\n")
    assert "Authorization: Bearer 1\r\n" in receiver.heads[0]


async def test_what_is_of_no_use_is_not_repeated() -> None:
    async with receiving("404 Not Found", "302 Found", "200 OK") as receiver:
        options = WebhookOptions(f"http://127.0.0.1:{receiver.port}/")
        async with Webhook(options, "GATE") as webhook:
            for _ in range(3):
                webhook.tell(MESSAGE)
            await settled(webhook, failed=2, sent=1)
    assert len(receiver.bodies) == 3


async def test_the_certificate_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ATTEMPTS", 1)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    async with receiving(context=context) as receiver:
        url = f"https://127.0.0.1:{receiver.port}/"
        async with Webhook(WebhookOptions(url, trusted=str(tmp_path / "ca.pem")), "GATE") as webhook:
            webhook.tell(MESSAGE)
            await settled(webhook, sent=1)
        async with Webhook(WebhookOptions(url), "GATE") as webhook:
            webhook.tell(MESSAGE)
            await settled(webhook, failed=1)
    for text in ("", "not a certificate"):
        (tmp_path / "ca.pem").write_text(text)
        with pytest.raises(ValueError, match=r"webhook\.trusted"):
            Webhook(WebhookOptions(url, trusted=str(tmp_path / "ca.pem")), "GATE")


async def test_a_receiver_that_does_not_answer_holds_up_nobody() -> None:
    options = WebhookOptions("http://127.0.0.1:1/")
    waiting = Webhook(options, "GATE")
    for _ in range(103):
        waiting.tell(MESSAGE)
    assert waiting.counts["dropped"] == 3
    async with waiting as webhook:  # it is refused, waits to try again, and ends at once
        async with asyncio.timeout(60):
            while not webhook.counts["retried"]:
                await asyncio.sleep(0.01)
    assert webhook.counts == {"dropped": 102, "retried": 1, "failed": 1}


def test_a_secret_in_a_url_is_not_told() -> None:
    with pytest.raises(ValueError, match="url is where") as told:
        WebhookOptions("https://user:secret@x/secret")
    assert "secret" not in str(told.value)


async def test_the_words_of_a_proxy_without_sense_are_not_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("http_proxy", "http:secret")  # is quoted as a port
    monkeypatch.setattr(module, "_ATTEMPTS", 1)
    async with Webhook(WebhookOptions("http://hooks.example/"), "GATE") as webhook:
        webhook.tell(MESSAGE)
        webhook.tell(MESSAGE)
        await settled(webhook, failed=2)
    assert "the webhook did not take a message: InvalidURL" in caplog.text
    assert "secret" not in caplog.text


async def test_a_look_that_fails_is_not_the_last_one() -> None:
    states = iter([KeyError("x"), state(unrouted=1)])
    told: list[Message] = []

    async def state_of() -> Any:
        found = next(states)
        if isinstance(found, Exception):
            raise found
        return found

    task = asyncio.ensure_future(watching(state_of, WebhookOptions(URL, interval=0.01), told.append))
    async with asyncio.timeout(60):
        while not told:
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait((task,))
    assert told[0].alarm == "unrouted"
