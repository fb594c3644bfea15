"""How many instances came from whom, and when the last one did; strangers make no entries of their own."""

from __future__ import annotations

from pathlib import Path

from helpers.serving import ct, send

from asyncdicom.archive import Archive
from asyncdicom.archive.dimse import serve_archive
from asyncdicom.archive.senders import Senders


def test_who_is_named_is_counted_by_itself_and_all_others_together() -> None:
    clock = iter(range(11, 2000))
    senders = Senders(lambda: float(next(clock)))
    senders.know(lambda: ("CT1", "MR1", "*"))
    for name in ("CT1", "CT1", "EVIL1", "EVIL2", "*", None):
        senders.note(name)
    assert senders.state() == [
        {"calling": "CT1", "instances": 2, "last": 12.0},
        {"calling": "MR1", "instances": 0, "last": None},
        {"calling": "other", "instances": 4, "last": 16.0},
    ]
    for number in range(1000):
        senders.note(f"EVIL{number}")
    assert set(senders._came) == {"CT1", "other"}


async def test_what_is_stored_is_counted_and_what_is_refused_is_not(tmp_path: Path) -> None:
    async with (
        Archive(tmp_path, durability="none", scrub=0) as archive,
        serve_archive(archive, "PACS@127.0.0.1:0", access={"CT1": None, "*": None}) as server,
    ):
        address = f"PACS@127.0.0.1:{server.port}"
        assert await send(address, "CT1", ct("1.1"), ct("1.2")) == [0, 0]
        assert await send(address, "MR9", ct("1.1")) == [0]  # the same again: it is here
        other = ct("1.3")
        other.sop_instance_uid = "1.4"  # which is not that of the data set
        assert await send(address, "CT1", other) != [0]
        found = {each["calling"]: each["instances"] for each in archive.senders.state()}
        assert found == {"CT1": 2, "other": 1}


async def test_each_server_of_an_archive_names_its_own(tmp_path: Path) -> None:
    def named(archive: Archive) -> set[str]:
        return {each["calling"] for each in archive.senders.state()}

    async with Archive(tmp_path, durability="none", scrub=0) as archive:
        async with serve_archive(archive, "A@127.0.0.1:0", access={"CT1": None, "*": None}) as one:
            async with serve_archive(archive, "B@127.0.0.1:0", access={"MR1": None}) as two:
                assert await send(f"A@127.0.0.1:{one.port}", "CT1", ct("1.1")) == [0]
                assert await send(f"B@127.0.0.1:{two.port}", "MR1", ct("1.2")) == [0]
                assert {each["calling"]: each["instances"] for each in archive.senders.state()} == {
                    "CT1": 1,
                    "MR1": 1,
                    "other": 0,
                }
            assert named(archive) == {"CT1", "other"}
        assert named(archive) == {"other"}
