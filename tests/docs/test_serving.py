"""The example of docs/serving.md runs as it stands there; only places are put in."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
from helpers.get_page import ask
from helpers.serving import Running, Sink, ct, send, serving, sinks

from asyncdicom import AssociationRejected, Reference, StorageCommitmentUser, associate, serve
from asyncdicom.uid import STORAGE_COMMITMENT_PUSH_MODEL

DOCS = Path(__file__).parents[2] / "docs"
(EXAMPLE,) = re.findall(r"<!-- example -->\n```toml\n(.*?)```", (DOCS / "serving.md").read_text(), re.DOTALL)
CT = "1.2.840.10008.5.1.4.1.1.2"

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")


def placed(text: str, folder: Path, pacs: Sink, ai: Sink, workstation: str = "127.0.0.1:1") -> str:
    for before, after in (
        ("port = 11112", "port = 0"),
        ("127.0.0.1:8042", "0"),
        ("/var/lib/asyncdicom", f"{folder}/data"),
        ("minimum_free = 2048", "minimum_free = 0"),
        ("127.0.0.1:11113", workstation),
        ("127.0.0.1:11114", pacs.place),
        ("127.0.0.1:11115", ai.place),
    ):
        assert before in text, before
        text = text.replace(before, after)
    return text


async def test_the_example_serves_sends_on_reloads_and_ends(tmp_path: Path) -> None:
    config = tmp_path / "gate.toml"
    user = StorageCommitmentUser()
    async with (
        sinks("PACS", "AI") as (pacs, ai),
        serve("WORKSTATION@127.0.0.1:0", services=[user]) as workstation,
    ):
        config.write_text(text := placed(EXAMPLE, tmp_path, pacs, ai, f"127.0.0.1:{workstation.port}"))
        async with serving(config) as gate:
            status, _, ready = await ask(gate.told["http"], b"GET /readyz HTTP/1.1\r\n\r\n")
            assert (status, ready) == ("HTTP/1.1 200 OK", b"ready\n")
            assert gate.told["data"] == f"{tmp_path}/data"
            assert await send(gate.address, "CT1", ct("1.1"), ct("1.2", "HEAD")) == [0, 0]
            await pacs.has(["1.1", "1.2"])
            await ai.has(["1.1"])
            with pytest.raises(AssociationRejected):
                await send(gate.address, "MR2")
            await commits(gate, user)

            config.write_text(text.replace('MR1 = ""', 'MR2 = ""').replace('"CT*"', '"MR*"'))
            gate.process.send_signal(signal.SIGHUP)
            await gate.logged("read again and in force")
            assert await send(gate.address, "MR2", ct("1.3")) == [0]
            await ai.has(["1.3"])
            config.write_text(text.replace("networks", "network"))
            gate.process.send_signal(signal.SIGHUP)
            line = text[: text.index("networks")].count("\n") + 1
            told = await gate.logged("stays in force")
            assert f"gate.toml:{line}: peers.OLD: unknown key 'network'" in told
            assert await send(gate.address, "MR2", ct("1.4")) == [0]
            await ai.has(["1.4"])

            gate.process.terminate()
            assert await gate.ended() == 0
            assert not any("a restart is needed" in line for line in gate.log)
            assert ai.received == ["1.1", "1.3", "1.4"]
    assert not (tmp_path / "data" / "control").exists()


async def commits(gate: Running, user: StorageCommitmentUser) -> None:
    contexts = [STORAGE_COMMITMENT_PUSH_MODEL]
    asked = [Reference(CT, "1.1"), Reference(CT, "1.9"), Reference("1.2.840.10008.5.1.4.1.1.4", "1.2")]
    async with associate(
        gate.address, calling_ae_title="WORKSTATION", contexts=contexts, services=[user]
    ) as association:
        result = await user.commit(association, asked, timeout=60)
    assert result.committed == {asked[0]}
    assert result.failed == {asked[1]: 0x0112, asked[2]: 0x0119}
