"""Attacks on what was acknowledged: indexes that are old, lost or damaged, files that are gone or changed.

Each is played on an archive in this process, through its port, its folder and its tools. What is counted is
what a sender would have lost, or a patient been given, so that 0 is right.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import os
import shutil
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

from endurance.attack import PATIENCE, Attack, Counts
from helpers.archive_process import CT, SERIES, STUDY, Node

from asyncdicom import PATIENT_ROOT, Association, BytesSource, Limits, StatusError
from asyncdicom.__main__ import main
from asyncdicom.archive import Archive, ArchiveError
from asyncdicom.archive.dimse import serve_archive
from asyncdicom.conformance import build
from asyncdicom.exceptions import AssociationError
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN

STUDY_KEYS = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": STUDY}
IMAGE_KEYS = {
    "QueryRetrieveLevel": "IMAGE",
    "StudyInstanceUID": STUDY,
    "SeriesInstanceUID": SERIES,
    "SOPInstanceUID": "",
}
SIXTEEN = Limits(operations_invoked=16)
Kept = dict[str, bytes]
"""What was acknowledged: SOP Instance UID -> data set."""


class Told(logging.Handler):
    """The warnings and errors that were logged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


class Served(Node):
    """An archive in this process."""

    def __init__(self, port: int, told: Told) -> None:
        self.port = port
        self.told = told

    async def keep(self, images: Kept) -> Kept:
        """Store, and see that it is acknowledged."""
        statuses = await send(self, images)
        assert set(statuses) == {0}, statuses
        return images

    async def found(self) -> set[str]:
        """The SOP Instance UIDs that C-FIND gives. Raises `StatusError`."""
        async with self.associate() as association:
            return {str(match.SOPInstanceUID) for match in await association.c_find(IMAGE_KEYS)}


@asynccontextmanager
async def served(folder: Path, **options: Any) -> AsyncIterator[Served]:
    told, logger = Told(), logging.getLogger("asyncdicom")
    logger.addHandler(told)
    try:
        async with (
            Archive(folder, durability="none", **options) as archive,
            serve_archive(archive, "ARCHIVE@127.0.0.1:0") as server,
        ):
            yield Served(server.port, told)
    finally:
        logger.removeHandler(told)


def image(number: int, **changes: bytes | None) -> tuple[str, bytes]:
    """A small image: its UID and its data set. ``x00100020=b"P2"``: with another value, None: without it."""
    uid = f"{SERIES}.{number}"
    values = {"x00080018": uid.encode(), "x0020000D": STUDY.encode(), "x0020000E": SERIES.encode()}
    return uid, build.explicit_data(build.attributes("attack", **values | changes))


def images(first: int, last: int) -> Kept:
    return dict(image(number) for number in range(first, last + 1))


def source(uid: str, data: bytes) -> BytesSource:
    return BytesSource(CT, uid, EXPLICIT_VR_LITTLE_ENDIAN, data)


async def send(node: Node, kept: Kept, patience: float = PATIENCE) -> list[int]:
    """Store over one association; the statuses, -1 for each without an answer in time."""
    statuses: list[int] = []
    for uid, data in kept.items():
        try:
            async with asyncio.timeout(patience), node.associate() as association:
                statuses.append(int((await association.c_store(source(uid, data))).status))
        except (AssociationError, TimeoutError):
            statuses.append(-1)
    return statuses


async def given(node: Node, keys: dict[str, str] | bytes = STUDY_KEYS, model: object = None) -> Kept:
    """What a C-GET gives, also one that ends in a Failure or with a warning."""
    with contextlib.suppress(StatusError):
        return dict(await node.get(keys, PATIENT_ROOT) if model else await node.get(keys))
    return {}


def tool(*words: object) -> tuple[int, str]:
    """Run a tool: its exit code and what it says."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main([str(word) for word in words])
    return code, said.getvalue()


async def missing(node: Served, kept: Kept, folder: Path) -> int:
    """How many acknowledged instances are not found, or come back otherwise; waits for what a start does."""
    until = time.monotonic() + PATIENCE
    while kept.keys() - await node.found() and time.monotonic() < until:
        if len(list(folder.rglob("*.dcm"))) < len(kept):
            break
        await asyncio.sleep(0.05)
    back = await given(node)
    return sum(back.get(uid) != data for uid, data in kept.items())


async def after_a_start(folder: Path, kept: Kept) -> Counts:
    """Start, and if that does not find everything, do what an operator can: ``reindex``, and start again."""
    files = len(list(folder.rglob("*.dcm")))
    lost = len(kept)
    for _ in range(2):
        try:
            async with served(folder) as node:
                lost = await missing(node, kept, folder)
        except (ArchiveError, StatusError):
            pass  # it does not start, or cannot answer
        if not lost:
            break
        await asyncio.to_thread(tool, "archive", folder, "reindex")
    gone = files - len(list(folder.rglob("*.dcm")))
    return {"files unlinked": max(gone, 0), "acknowledged and lost": lost}


def index_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("index.sqlite*"))


def put_back(copy: dict[str, bytes], folder: Path) -> None:
    for file in index_files(folder):
        file.unlink()
    for name, content in copy.items():
        (folder / name).write_bytes(content)


OWN_ONLY = {"images of another patient": 0, "own images not given": 0}
NOTHING_LOST = {"files unlinked": 0, "acknowledged and lost": 0}


async def old_index_put_back(folder: Path) -> Counts:
    async with served(folder) as node:
        kept = await node.keep(images(101, 140))
    copy = {file.name: file.read_bytes() for file in index_files(folder)}
    async with served(folder) as node:
        kept |= await node.keep(images(141, 170))
    put_back(copy, folder)
    return await after_a_start(folder, kept)


async def index_lost_and_grown(folder: Path) -> Counts:
    async with served(folder) as node:
        kept = await node.keep(images(101, 120))
    aside = folder.parent / "objects aside"
    (folder / "objects").rename(aside)  # as a disk that was not mounted, so that nothing indexes it again
    (folder / "objects").mkdir()
    put_back({}, folder)
    try:
        async with served(folder) as node:
            kept |= await node.keep(images(121, 145))
    except (ArchiveError, AssertionError):
        pass  # it would not take anything there: that is right, too
    shutil.copytree(aside, folder / "objects", dirs_exist_ok=True)
    return await after_a_start(folder, {uid: data for uid, data in kept.items() if on_disk(folder, uid)})


def on_disk(folder: Path, uid: str) -> bool:
    return any(uid.encode() in file.read_bytes() for file in (folder / "objects").rglob("*.dcm"))


async def index_without_wal(folder: Path) -> Counts:
    async with served(folder) as node:
        kept = await node.keep(images(101, 140))
    async with served(folder) as node:
        kept |= await node.keep(images(141, 160))
        copy = {"index.sqlite": (folder / "index.sqlite").read_bytes()}
    put_back(copy, folder)
    return await after_a_start(folder, kept)


def damage_tables(index: Path) -> None:
    """Rubbish over the first page of each table, so that what is opened well fails later."""
    with closing(sqlite3.connect(index)) as connection:
        [[size]] = connection.execute("PRAGMA page_size")
        pages = connection.execute("SELECT rootpage FROM sqlite_master WHERE type = 'table'").fetchall()
    content = bytearray(index.read_bytes())
    for (page,) in pages:
        content[(page - 1) * size : page * size] = b"\xff" * size
    index.write_bytes(content)


async def index_damaged(folder: Path) -> Counts:
    async with served(folder) as node:
        kept = await node.keep(images(101, 110))
    damage_tables(folder / "index.sqlite")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "asyncdicom", "qrscp", "--port", "0", "--data", str(folder)),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(4 * PATIENCE):
            assert process.stderr is not None
            said = await process.stderr.read(1 << 20)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
    lines = {"lines of a traceback": said.decode().count("  File ")}
    return lines | await after_a_start(folder, kept)


async def file_gone_and_sent_again(folder: Path) -> Counts:
    async with served(folder) as node:
        kept = await node.keep(images(101, 103))
        for file in (folder / "objects").rglob("*.dcm"):
            file.unlink()
        acknowledged = (await send(node, kept)).count(0)
        back = await given(node)
    return {"acknowledged without a file": acknowledged - sum(back.get(uid) == kept[uid] for uid in kept)}


async def bit_flipped(folder: Path) -> Counts:
    async with served(folder) as node:
        kept = await node.keep(images(101, 101))
    [(uid, data)] = kept.items()
    [file] = (folder / "objects").rglob("*.dcm")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    code, said = await asyncio.to_thread(tool, "archive", folder, "verify")
    unseen = not (code == 1 and uid in said)
    async with served(folder) as node:
        statuses = await send(node, kept)
        back = await given(node)
    return {
        "not seen by verify": unseen,
        "not healed by a good copy": statuses != [0] or back.get(uid) != data,
    }


async def truncated_then_whole(folder: Path) -> Counts:
    async with served(folder) as node:
        kept = images(101, 101)
        [(uid, data)] = kept.items()
        torsos = (await send(node, {uid: data[:-3]})).count(0)
        statuses = await send(node, kept)
        back = await given(node)
    return {"torsos with Success": torsos, "whole ones not kept": statuses != [0] or back.get(uid) != data}


async def rubbish_under_the_next_uid(folder: Path) -> Counts:
    async with served(folder) as node:
        uid, rubbish = image(101, x0020000D=b"1.2.3.9", x00100020=b"RUBBISH")
        await node.keep({uid: rubbish})
        [status] = await send(node, images(101, 101))
    code, said = await asyncio.to_thread(tool, "archive", folder, "quarantine", "list")
    return {"conflicts nobody can see": status not in (0, 0xB007) or code != 0 or uid not in said}


async def the_same_by_another_tool(folder: Path) -> Counts:
    """What differs: padding behind the data set, trailing zeros of UIDs as spaces, a group length."""
    async with served(folder) as node:
        kept = await node.keep(images(101, 110))
        again = {
            uid: build.explicit(0x00080000, b"UL", b"\0\1\0\0") + data
            if number % 2
            else data + build.explicit(0xFFFCFFFC, b"OB", bytes(126))
            for number, (uid, data) in enumerate(kept.items())
        }
        return {"in quarantine": len([status for status in await send(node, again) if status != 0])}


def patient_keys(patient_id: bytes, charset: bytes = b"") -> bytes:
    keys = [(0x00080052, b"CS", b"PATIENT"), (0x00100020, b"LO", patient_id)]
    if charset:
        keys.insert(0, (0x00080005, b"CS", charset))
    return b"".join(build.explicit(tag, vr, build.even(value, b" ")) for tag, vr, value in keys)


async def of_others(folder: Path, ids: list[bytes], charset: bytes | None) -> Counts:
    """Store one image for each patient: what does a C-GET of each give of others, and not of its own?"""
    async with served(folder) as node:
        kept: list[Kept] = []
        for number, patient_id in enumerate(ids, 101):
            changes = {"x0020000D": b"1.2.4.%d" % number, "x0020000E": b"1.2.4.%d.1" % number}
            uid, data = image(number, x00100020=patient_id, x00080005=charset, **changes)
            kept.append(await node.keep({uid: data}))
        others = own_missing = 0
        for patient_id, own in zip(ids, kept, strict=True):
            back = await given(node, patient_keys(patient_id, charset or b""), PATIENT_ROOT)
            others += len(back.keys() - own.keys())
            own_missing += len(own.keys() - back.keys())
        return {"images of another patient": others, "own images not given": own_missing}


async def undeclared_patient_ids(folder: Path) -> Counts:
    return await of_others(folder, [b"caf\xe9", b"caf\xc3\xa9", b"\x1b%Fa", b"\x1b%Ha"], None)


async def patient_ids_in_a_wrong_charset(folder: Path) -> Counts:
    return await of_others(folder, [b"\xc4\xd6\xdc1", b"\xc0\xc1\xc21"], b"ISO_IR 192")


async def patient_ids_that_look_alike(folder: Path) -> Counts:
    ids = [b"123", b"1\x0023", b"12\x013", b"\x7f123", b"123\x02", b"123\x1f"]
    return await of_others(folder, ids, None)


async def one_study_of_two_patients(folder: Path) -> Counts:
    async with served(folder) as node:
        first = await node.keep(dict([image(101, x00100020=b"P1")]))
        second = dict([image(102, x00100020=b"P2")])
        [status] = await send(node, second)
        told = len(node.told.lines) > 0
        back = await given(node)
    return {
        "images of another patient": len(back.keys() - first.keys()),
        "not told": not told,
        "refused": status not in (0, 0xB000, 0xB007),
    }


async def patient_id_given_twice(folder: Path) -> Counts:
    uid, data = image(101)
    at = data.index(build.explicit(0x00100020, b"LO", b"CONFORMANCE "))
    twice = data[:at] + build.explicit(0x00100020, b"LO", b"OTHER1") + data[at:]
    async with served(folder) as node:
        [status] = await send(node, {uid: twice})
        return {"not told": status == 0 and not node.told.lines}


async def quarantine_missing(folder: Path) -> Counts:
    """A conflict amid others' stores, where the folder for conflicts is gone."""
    async with served(folder) as node:
        await node.keep(images(101, 101))
        (folder / "quarantine").rmdir()
        failed = 0

        async def store(association: Association, uid: str, data: bytes) -> bool:
            return (await association.c_store(source(uid, data))).status.is_success

        async with node.associate(limits=SIXTEEN) as association:
            for number in range(5):
                start = 200 + 20 * number
                others = [store(association, *image(each)) for each in range(start, start + 15)]
                conflict = store(association, image(101)[0], image(101, x00100020=b"P%d" % number)[1])
                stored = await asyncio.gather(*others[:7], conflict, *others[7:])
                failed += stored[:7].count(False) + stored[8:].count(False)
    return {"others' stores that failed": failed}


async def foreign_files(folder: Path) -> Counts:
    """A note in quarantine/, and a folder behind a link that looks like one of the archive's."""
    async with served(folder) as node:
        await node.keep(images(101, 120))
    elsewhere = folder.parent / "elsewhere"
    (elsewhere / "ab").mkdir(parents=True)
    files = [folder / "quarantine" / "note.txt", elsewhere / "ab" / ("0" * 32 + ".dcm")]
    for file in files:
        file.write_text("mine")
    (folder / "objects" / "zz").symlink_to(elsewhere)
    async with served(folder):
        until = time.monotonic() + 1
        while all(file.exists() for file in files) and time.monotonic() < until:
            await asyncio.sleep(0.02)
    return {"foreign files unlinked": sum(not file.exists() for file in files)}


async def objects_not_mounted(folder: Path) -> Counts:
    """The disk of objects/ is not mounted: there is an empty folder in its place."""
    async with served(folder) as node:
        await node.keep(images(101, 110))
    (folder / "objects").rename(folder.parent / "aside")
    (folder / "objects").mkdir()
    statuses: list[int] = []
    with contextlib.suppress(ArchiveError):
        async with served(folder) as node:
            statuses = await send(node, images(111, 112))
    return {"stored on the wrong disk": statuses.count(0)}


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


async def umask_of_zero(folder: Path) -> Counts:
    with umask(0):
        async with served(folder) as node:
            await node.keep(images(101, 101))
            modes = [path.stat().st_mode for path in (folder, *folder.rglob("*")) if not path.is_socket()]
    return {"readable by others": sum(mode & 0o027 != 0 for mode in modes)}


async def nothing_to_look_after_it(folder: Path) -> Counts:
    """What an operator needs, as tools that are there and succeed on a small archive."""
    async with served(folder) as node:
        await node.keep(images(101, 101))
    jobs = (("reindex",), ("verify",), ("quarantine", "list"))
    codes = [await asyncio.to_thread(tool, "archive", folder, *job) for job in jobs]
    return {"tools that are missing": sum(code != 0 for code, _ in codes)}


ATTACKS = (
    Attack("old index put back", "a copy of the index, made before 30 of 70 stores, is put back",
           old_index_put_back, NOTHING_LOST),
    Attack("index lost and grown", "the index is lost, a new one has 25 rows, then 20 old files are back",
           index_lost_and_grown, NOTHING_LOST),
    Attack("index without wal", "index.sqlite is copied without its -wal, and put back",
           index_without_wal, NOTHING_LOST),
    Attack("index damaged", "the first page of each table is rubbish at start",
           index_damaged, NOTHING_LOST | {"lines of a traceback": 0}),
    Attack("file gone and sent again", "files are gone, their senders send them again",
           file_gone_and_sent_again, {"acknowledged without a file": 0}),
    Attack("bit flipped", "a bit of a stored file flips, then a good copy comes",
           bit_flipped, {"not seen by verify": 0, "not healed by a good copy": 0}),
    Attack("truncated then whole", "an image cut in Pixel Data comes before the whole one",
           truncated_then_whole, {"torsos with Success": 0, "whole ones not kept": 0}),
    Attack("rubbish under the next UID", "another study's image has taken the UID of the next one",
           rubbish_under_the_next_uid, {"conflicts nobody can see": 0}),
    Attack("the same by another tool", "10 images come again with padding or a group length",
           the_same_by_another_tool, {"in quarantine": 0}),
    Attack("undeclared Patient IDs", "four Patient IDs beyond ASCII, no character set declared",
           undeclared_patient_ids, OWN_ONLY),
    Attack("Patient IDs in a wrong charset", "two Patient IDs in Latin-1, UTF-8 declared",
           patient_ids_in_a_wrong_charset, OWN_ONLY),
    Attack("Patient IDs that look alike", "six Patient IDs that differ in control characters",
           patient_ids_that_look_alike, OWN_ONLY),
    Attack("one study of two patients", "one Study Instance UID under two Patient IDs, then a C-GET by it",
           one_study_of_two_patients, {"images of another patient": 0, "not told": 0, "refused": 0}),
    Attack("Patient ID given twice", "a data set has two Patient IDs",
           patient_id_given_twice, {"not told": 0}),
    Attack("quarantine missing", "quarantine/ is gone; 5 conflicts amid 75 stores",
           quarantine_missing, {"others' stores that failed": 0}),
    Attack("foreign files", "a note in quarantine/, and a folder behind a link",
           foreign_files, {"foreign files unlinked": 0}),
    Attack("objects not mounted", "objects/ is an empty folder at start",
           objects_not_mounted, {"stored on the wrong disk": 0}),
    Attack("umask 0", "the archive is started with umask 0",
           umask_of_zero, {"readable by others": 0}),
    Attack("nothing to look after it", "reindex, verify and quarantine list, on a small archive",
           nothing_to_look_after_it, {"tools that are missing": 0}),
)  # fmt: skip
