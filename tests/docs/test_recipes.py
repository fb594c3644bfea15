"""The recipes run as they stand there; only places and a short pause are put in, and processes are killed."""

from __future__ import annotations

import re
import socket
from pathlib import Path

from helpers.serving import Sink, ct, send, serving, sinks

from asyncdicom import serve

RECIPES = Path(__file__).parents[2] / "docs" / "recipes"


def recipe(name: str, *places: tuple[str, str]) -> str:
    text: str
    (text,) = re.findall(r"<!-- recipe -->\n```toml\n(.*?)```", (RECIPES / name).read_text(), re.DOTALL)
    for before, after in places:
        assert before in text, before
        text = text.replace(before, after)
    return text


async def test_the_gateway_loses_nothing_when_it_is_killed(tmp_path: Path) -> None:
    config = tmp_path / "gateway.toml"
    late = socket.socket()  # the AI node: nobody answers there yet
    late.bind(("127.0.0.1", 0))
    async with sinks("ARCHIVE") as (archive,):
        config.write_text(
            recipe(
                "gateway.md",
                ("port = 11112", "port = 0\nminimum_free = 0"),
                ("127.0.0.1:11113", archive.place),
                ('127.0.0.1:11114"', f'127.0.0.1:{late.getsockname()[1]}"\nfirst_pause = 0.1'),
            )
        )
        assert config.read_text().count("\n") <= 32
        heads = [ct(f"1.{number}", "HEAD") for number in range(5)]
        chests = [ct(f"2.{number}") for number in range(20)]
        async with serving(config) as gate:
            assert await send(gate.address, "MR1", *heads) == [0] * 5
            assert await send(gate.address, "CT1", *chests) == [0] * 20
            gate.process.kill()
            await gate.ended()

        ai = Sink()
        async with serve("AI@127.0.0.1:0", sock=late, c_store=ai.store), serving(config) as gate:
            everything = [each.sop_instance_uid for each in heads + chests]
            await archive.has(everything)
            await ai.has([each.sop_instance_uid for each in chests])
            gate.process.terminate()
            assert await gate.ended() == 0
        assert set(archive.received) == set(everything)
        assert set(ai.received) == {each.sop_instance_uid for each in chests}
        assert max(map(archive.received.count, everything)) <= 2
