"""Studies that wait to be stable, when the rules change meanwhile, or do not know where they go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.gateway import config, gateway, instance, pacs, send, settled
from helpers.peer import eventually

from asyncdicom.archive import stability
from asyncdicom.archive.operations import METHODS
from asyncdicom.gateway.gateway import Gateway


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stability, "_PART", 100)


def when(stable: float, to: str = '"A"') -> str:
    return f"[[routes]]\nwhen = {{ stable = {stable} }}\nto = [{to}]\n"


async def why(running: Gateway, uid: str) -> list[dict[str, Any]]:
    lines = [line async for line in METHODS["outbox why"](running._archive, {"sop_instance_uid": uid})]
    return [dict(line) for line in lines[:-1]]


@pytest.mark.parametrize(("before", "now"), [(3600, 0.1), (0.2, 0.1), (3600, 0.3)])
@pytest.mark.parametrize("again", ["reload", "restart"])
async def test_what_waits_when_the_seconds_change_goes_by_the_new_ones(
    tmp_path: Path, before: float, now: float, again: str
) -> None:
    """Also of several destinations, and of what came hours ago to the one who asked before."""
    async with pacs() as node, pacs() as other:
        ports: dict[str, Any] = {"A": node.server.port, "B": other.server.port}
        old, new = config(when(before), **ports), config(when(now, '"A", "B"'), **ports)
        async with gateway(tmp_path, old) as (running, where):
            await send(where, instance("1.1"), instance("1.2", study="1.2.4"))
            if again == "reload":
                running.renew(new)
                await node.has("1.1", "1.2")
                await other.has("1.1", "1.2")
                await settled(running)
        async with gateway(tmp_path, new) as (running, where):
            await node.has("1.1", "1.2")
            await other.has("1.1", "1.2")
            await settled(running)
    assert set(node.received.values()) == set(other.received.values()) == {1}


async def test_what_comes_while_the_first_such_rule_comes_goes_by_it(tmp_path: Path) -> None:
    """A study that is not stable yet when the rule is there is one that the rule is about."""
    async with pacs() as node:
        nowhere = config("[[routes]]\nwhen = {}\nto = []\n", A=node.server.port)
        async with gateway(tmp_path, nowhere) as (running, where):
            await send(where, instance("1.1"))
            running.renew(config(when(1.0), A=node.server.port))
            await node.has("1.1")


async def test_nobody_holds_what_was_asked_for_before(tmp_path: Path) -> None:
    """Retention waits for who is still to be told; who is no more is waited for no longer."""
    async with pacs() as node:
        async with gateway(tmp_path, config(when(3600), A=node.server.port)) as (running, _):
            asked = running._archive.stability.asked_for
            await eventually(lambda: asked() == {"gateway 3600"})
            running.renew(config(when(1800), A=node.server.port))
            await eventually(lambda: asked() == {"gateway 1800"})
            running.renew(config("", A=node.server.port))
            await eventually(lambda: asked() == set())
            assert not running._watching


async def test_what_cannot_be_routed_is_listed_and_goes_when_it_can_be(tmp_path: Path) -> None:
    async with pacs() as node:
        routes = when(0.1, '"T-{PatientID}"')
        ports: dict[str, Any] = {"T-P1": node.server.port}
        async with gateway(tmp_path, config(routes, **ports)) as (running, where):
            await send(where, instance("1.1"), instance("1.2", study="1.2.4", patient="P2"))
            await node.has("1.1")
            await settled(running, failed=1)
            assert await running.unrouted() == 1
            (row,) = await why(running, "1.2")
            assert (row["kind"], row["state"]) == ("unrouted", "failed")
            assert "'T-{PatientID}'" in row["comment"]
            assert await running._archive.outbox.retry() == 1
            await settled(running, failed=1)  # there is no such destination still
            ports["T-P2"] = node.server.port
            running.renew(config(routes, **ports))
            assert await running._archive.outbox.retry() == 1
            await node.has("1.2")
            await settled(running)
    assert node.received == {"1.1": 1, "1.2": 1}


async def test_what_no_rule_took_goes_by_one_for_stable_studies_when_it_is_tried_again(
    tmp_path: Path,
) -> None:
    async with pacs() as node:
        none = config('[[routes]]\nwhen = { Modality = "MR" }\nto = ["A"]\n', A=node.server.port)
        async with gateway(tmp_path, none) as (running, where):
            await send(where, instance("1.1"), instance("1.2", study="1.2.4"))
            assert await running.unrouted() == 2
        async with gateway(tmp_path, config(when(0.01), A=node.server.port)) as (running, where):
            assert await running._archive.outbox.retry() == 2
            await node.has("1.1", "1.2")
            await settled(running)
    assert node.received == {"1.1": 1, "1.2": 1}
