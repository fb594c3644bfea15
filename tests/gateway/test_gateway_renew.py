"""Rules that are read again: what is in force at once, and what takes a new gateway."""

from __future__ import annotations

from pathlib import Path
from zoneinfo import ZoneInfo

from helpers.serving import ct

from asyncdicom.archive import Archive
from asyncdicom.gateway import Gateway, parse_gateway
from asyncdicom.gateway.schedule import Schedule

HOURS = 'hours = ["mon-fri 19:00-06:00"]\ntime_zone = "Europe/Berlin"\n'


def config(rules: str, *, b: str = "", more: str = "") -> str:
    return (
        '[destinations.A]\naddress = "A@127.0.0.1:1"\n'
        f'[destinations.B]\naddress = "B@127.0.0.1:1"\n{HOURS}{b}{more}\n{rules}'
    )


def to(*names: str, way: str = "to") -> str:
    return f"[[routes]]\ndefault = true\n{way} = [{', '.join(map(repr, names))}]\n"


async def owed(archive: Archive) -> set[str]:
    return {name for _, name, _, _ in await archive.read(archive.deliveries.counts)}


async def test_rules_are_in_force_at_once_and_destinations_stay(tmp_path: Path) -> None:
    third = '[destinations.C]\naddress = "C@127.0.0.1:1"\n'
    async with (
        Archive(tmp_path, durability="none") as archive,
        Gateway(archive, parse_gateway(config(to("A")))) as gateway,
    ):
        assert gateway.renew(parse_gateway(config(to("B")))) == []
        await archive.store(ct("1.1"))
        assert await owed(archive) == {"B"}
        # what it would need another gateway for leaves the rules as they were
        assert gateway.renew(parse_gateway(config(to("A", "C"), more=third))) == ["destinations.C", "routes"]
        assert gateway.renew(parse_gateway(config(to("A", "B", way="first_of")))) == ["routes"]
        await archive.store(ct("1.2"))
        assert await owed(archive) == {"B"}
        # a destination that is written otherwise stays as it is, and the rules are new
        changed = config(to("A"), b="rate = 5\n")
        assert gateway.renew(parse_gateway(changed)) == ["destinations.B"]
        await archive.store(ct("1.3"))
        assert await owed(archive) == {"A", "B"}
        gone = to("A") + '[destinations.A]\naddress = "A@127.0.0.1:1"\n'
        assert gateway.renew(parse_gateway(gone)) == ["destinations.B"]


def test_two_readings_of_the_same_hours_are_equal() -> None:
    first, second = (Schedule(["mon-fri 19:00-06:00"], ZoneInfo("Europe/Berlin")) for _ in range(2))
    assert first == second
    assert hash(first) == hash(second)
    assert first != Schedule(["mon-fri 19:00-06:00"])
    assert first != Schedule(["mon-fri 19:00-07:00"], ZoneInfo("Europe/Berlin"))
    assert first != "mon-fri 19:00-06:00"
