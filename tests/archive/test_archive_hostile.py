"""The network never names a file, a log line or a query.

Hostile strings in UIDs, AE titles and keys open nothing outside the archive's folder (seen by Python's audit
hook, and from outside by strace), put nothing into logs but themselves escaped, and cost linear time.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers.archive_process import CT, LONG, long_test, needs_strace, qrscp, strace
from helpers.index_asking import tables_of
from helpers.peer import Peer, find_rq, fragments, message, store_rq
from sqlalchemy import Engine, create_engine, insert
from sqlalchemy.pool import StaticPool

from asyncdicom.archive import Archive, IdentifierError, Problem
from asyncdicom.archive.dimse import find, matching_instances
from asyncdicom.archive.index.matching import MAXIMUM_CHARACTERS
from asyncdicom.archive.index.query import find_query
from asyncdicom.archive.index.reader import FREE_COST, Statements, matches
from asyncdicom.archive.index.schema import LEVELS, METADATA, patient, study
from asyncdicom.archive.index.text import fold_name, normalise, values_of
from asyncdicom.data.elements import Element, encode
from asyncdicom.dimse.messages import Command, CommandField
from asyncdicom.dimse.messages import encode as encode_command
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, STUDY_ROOT
from asyncdicom.ul.negotiation import PresentationContext, propose

WORDS = r"""
    ../ ../../../../etc/passwd /etc/passwd .. . / // ~ ~root C:\Windows \\host\share ..\..\ CON NUL.dcm
    file:///etc/passwd ${jndi:ldap://x/a} $(reboot) `reboot` ;reboot |reboot &&reboot
    ' '' " ';-- ');-- 'OR'1'='1 ';DROP%20TABLE%20instance;-- ATTACH%20'/tmp/x'%20AS%20x ? :1 @x [ [^ ]] [!a-z]
    %s %n %d%d%d %(name)s {} {0.__class__} {self} \x00 \u0000 %00 %2e%2e%2f 1.2.3 1.2..3 .1.2 1.2. 01.2 -1
    index.sqlite index.sqlite-wal objects quarantine objects/../../x .dcm * ? ** *?*? *a*a*a*a_b %_ ^^^^ ====
    1.2.840.10008.1.1 9999999999999999999999 -9999 1e999 20040101-20030101 - 2004
    """
FRAGMENTS = (
    *map(str.encode, WORDS.split()),
    b"\r\nINJECTED: ",
    b"\nINJECTED: ",
    b"\0",
    b"a\0../../b",
    b"\x1b[31mRED\x1b[0m",
    b"\x1b]0;title\x07",
    b"\x08\x08\x08\x7f",
    b"\xc0\xae\xc0\xae/\xc0\xae\xc0\xae/",
    b"\xff\xfe\xfd",
    b"\x85\x9b31m",
    "\u202e\u2028\u2029\u0130\ufb01\ufdfa".encode(),
    b"\xed\xa0\x80",
    b" ",
    b"a" * 64,
    b"1." * 40,
    b"../" * 30,
    b"*" * 80,
    b"*a" * 60,
    b"\\" * 70,
    b"=" * 20,
)


def hostile(count: int) -> Iterator[bytes]:
    """The fragments alone, then glued together; always the same ones."""
    yield from FRAGMENTS[:count]
    chance = random.Random(2026)
    for _ in range(count - len(FRAGMENTS)):
        yield b"".join(chance.choices(FRAGMENTS, k=chance.randrange(2, 5)))


class Log(logging.Handler):
    """Looks at every line that is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(levelname).1s: %(message)s"))
        self.bad: list[str] = []
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1
        line = self.format(record)
        if not line.isprintable() or record.exc_info:
            self.bad.append(line)


@contextmanager
def log_lines() -> Iterator[Log]:
    log, logger = Log(), logging.getLogger("asyncdicom")
    level = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(log)
    try:
        yield log
    finally:
        logger.removeHandler(log)
        logger.setLevel(level)


class _Audit:
    """The one audit hook (they cannot be removed): collects paths while somebody wants them."""

    paths: set[str] | None = None

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.paths is not None and (
            event == "open" or event.startswith(("os.", "shutil.", "sqlite3.connect"))
        ):
            self.paths.update(a for a in arguments if isinstance(a, str) and ("/" in a or ".." in a))


_audit = _Audit()


@contextmanager
def audited() -> Iterator[set[str]]:
    if not hasattr(_audit, "added"):
        sys.addaudithook(_audit)
        _audit.added = True  # type: ignore[attr-defined]
    paths: set[str] = set()
    _audit.paths = paths
    try:
        yield paths
    finally:
        _audit.paths = None


def outside(paths: set[str], *allowed: Path | str) -> list[str]:
    return [
        path
        for path in paths
        if not path.startswith(tuple(map(str, (*allowed, sys.prefix, sys.base_prefix))))
    ]


UIDS = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID")
TEXTS = (
    "PatientID",
    "PatientName",
    "IssuerOfPatientID",
    "StudyDate",
    "ImageType",
    "Modality",
    "InstanceNumber",
)
KEYS = tuple(
    (level, attribute.keyword)
    for level in ("STUDY", "IMAGE")
    for attribute in (*LEVELS["STUDY"], *LEVELS[level])
)


@long_test
def test_in_data_sets_and_identifiers(tmp_path: Path, tools: Any) -> None:
    asyncio.run(attack_in_process(tmp_path, tools))


async def attack_in_process(tmp_path: Path, tools: Any) -> None:
    asyncio.get_running_loop().set_debug(False)  # with -X dev it reads source files
    strings = list(hostile(10_000 if LONG else 400))
    kept = answered = refused = 0
    comments: set[str] = set()
    with log_lines() as log, audited() as paths:
        async with Archive(tmp_path / "archive", durability="none") as archive:
            for number, string in enumerate(strings):
                uid, keyword = UIDS[number % 4], TEXTS[number % 7]
                options = {"sop_class_uid": tools.ct, "sop_instance_uid": "1.2.3.1.1.1"}
                if number % 3 == 0:
                    options["sop_instance_uid"] = string.decode("latin-1")
                bad = tools.data_set(**{uid: string})
                assert await tools.store(archive, bad, **options) in (0xA900, 0xC000, 0x0000, 0xB007)
                fine = tools.data_set(
                    **{
                        keyword: string,
                        "SOPInstanceUID": f"1.2.3.{number}",
                        "SpecificCharacterSet": "ISO_IR 192",
                    }
                )
                kept += await tools.store(archive, fine) == 0x0000
                level, key = KEYS[number % len(KEYS)]
                query = {
                    "QueryRetrieveLevel": level,
                    "StudyInstanceUID": "1.2.3.1",
                    "SeriesInstanceUID": "1.2.3.1.1",
                }
                identifier = tools.encode({**query, key: string})
                try:
                    async for _ in find(archive, identifier, EXPLICIT_VR_LITTLE_ENDIAN, STUDY_ROOT):
                        break
                    found = await matching_instances(
                        archive,
                        tools.encode({**query, "QueryRetrieveLevel": "IMAGE", "SOPInstanceUID": string}),
                        EXPLICIT_VR_LITTLE_ENDIAN,
                        STUDY_ROOT,
                    )
                    async for instance in found:
                        assert instance is not None
                        assert instance.sop_instance_uid.encode() in string
                    answered += 1
                except IdentifierError as error:
                    comments.add(str(error))
                    refused += 1
            counts = await archive.counts()
    assert kept == len(strings)
    assert answered > refused
    assert len(comments) < 20  # none has anything of what was received
    here = tmp_path / "archive"
    assert outside(paths, here) == []
    assert log.count
    assert log.bad == []
    assert counts["instance"] + counts["quarantine"] == len(tools.files_below(tmp_path))
    assert tools.names_in(tmp_path) == ["archive"]
    assert set(tools.names_in(here)) - {"index.sqlite"} == {"archive.json", "objects", "quarantine"}
    names = re.compile(r"objects/[0-9a-f]{2}/[0-9a-f]{2}/[0-9a-f]{32}\.dcm|quarantine/[0-9a-f]{32}\.dcm")
    for path in tools.files_below(tmp_path):
        assert names.fullmatch(str(path.relative_to(here)))
    assert tables_of(here) - {"schema_version", "lease"} == {
        *("archive", "patient", "study", "series", "instance", "quarantine"),
        *("scrub", "tombstone", "delivery", "destination", "reassignment", "peer", "stability"),
        *("deletion", "deletion_log"),
    }
    print(f"{len(strings)} strings: {kept} kept, {answered} queries answered, {refused} refused")


# over the network, seen from outside

MOVE = Command(
    CommandField.C_MOVE_RQ,
    message_id=4,
    affected_sop_class_uid=STUDY_ROOT.move,
    priority=0,
    move_destination="PLACEHOLDER",
    has_data_set=True,
)


def _data_set(uid: bytes, instance: bytes) -> bytes:
    elements = [(0x00080016, "UI", CT.encode()), (0x00080018, "UI", instance), (0x00100010, "PN", uid)]
    elements += [(0x00100020, "LO", uid), (0x0020000D, "UI", uid), (0x0020000E, "UI", uid)]
    return encode(elements, IMPLICIT_VR_LITTLE_ENDIAN)


def _command(command: Command, placeholder: bytes, value: bytes) -> bytes:
    return encode_command(command).replace(placeholder, value)


def _messages(string: bytes) -> Iterator[bytes]:
    """Requests with the string where a UID, a key or an AE title belongs."""
    even = string[:64] + b"\0" * (len(string[:64]) % 2)
    placeholder = b"9" * len(even)
    store = store_rq(1, placeholder.decode())
    if len(even) >= 6:
        yield fragments(3, True, _command(store, placeholder, even)) + fragments(
            3, False, _data_set(even, even)
        )
    yield message(3, store_rq(2, "1.2.3.4"), _data_set(string, b"1.2.3.4"))
    keys = [(0x00080052, "CS", b"STUDY"), (0x00100010, "PN", string), (0x00100020, "LO", string)]
    identifier = encode([*keys, (0x0020000D, "UI", string)], IMPLICIT_VR_LITTLE_ENDIAN)
    yield message(5, find_rq(3), identifier)
    title = string[:11].ljust(11)
    yield fragments(7, True, _command(MOVE, b"PLACEHOLDER", title)) + fragments(7, False, identifier)


async def attack(port: int, string: bytes) -> None:
    contexts = [
        PresentationContext(uid, (IMPLICIT_VR_LITTLE_ENDIAN,))
        for uid in (CT, CT, STUDY_ROOT.find, STUDY_ROOT.move)
    ]
    request = bytearray(propose(contexts, called_ae_title="CALLED", calling_ae_title="CALLING").encode())
    request[10:42] = (string[:16].ljust(16) + string[-16:].rjust(16))[:32]
    for each in _messages(string):
        async with await Peer.connect(port) as peer:
            peer.write(bytes(request))
            if (await peer.pdu())[0] != 2:
                continue
            peer.write(each)
            assert (await peer.pdu())[0] in (0, 4, 7)


@needs_strace
@long_test
def test_over_the_network_seen_from_outside(tmp_path: Path) -> None:
    strings = list(hostile(10_000 if LONG else 100))
    calls = ["-f", "--seccomp-bpf", "-s", "300", "-e", "trace=%file"]

    async def work() -> Path:
        async with qrscp(tmp_path / "archive", "-d", "--durability", "none") as archive:
            await attack(archive.port, b"warm up")  # what Python imports on first use
            async with strace(archive.pid, *calls, output=tmp_path / "trace"):
                for string in strings:
                    await attack(archive.port, string)
            assert await archive.echo()
            return archive.log

    log = asyncio.run(work())
    # With a descriptor, no path is the status of a file that is open already.
    trace = re.sub(r'newfstatat\(\d+, "", ', "newfstatat(", (tmp_path / "trace").read_text())
    opened = set(re.findall(r'"((?:[^"\\]|\\.)*)"', trace))
    assert opened, "it has stored something"
    here = str(Path(__file__).parents[2])
    # Python reads the last one when it makes a pool of threads.
    known = ("/proc/self", "/dev/urandom", "/sys/devices/system/cpu/online")
    assert outside(opened, tmp_path / "archive", here, *known) == []
    lines = log.read_bytes().split(b"\n")
    assert len(lines) > len(strings)
    assert [line for line in lines if not line.decode().replace("\t", " ").isprintable()] == []
    assert [line for line in lines if re.match(rb"\s*INJECTED", line)] == []
    assert [line for line in lines if line.startswith(b"Traceback")] == []
    print(f"{len(strings)} strings, {len(opened)} paths, {len(lines)} log lines")


# linear time


TEXT = 1024  # the longest text of the index
PATTERNS = {
    "one star": lambda n: "*" + "a" * 16 + "b",
    "a tail": lambda n: "*" + "a" * (n - 2) + "b",
    "stars": lambda n: "*a" * (n // 2 - 1) + "*b",
    "marks": lambda n: "*" + "?" * (n - 2) + "b",
    "brackets": lambda n: "*" + "[a]" * (n // 3 - 1) + "b",
    "stars and marks": lambda n: "*?" * (n // 2 - 1) + "b",
    "a list": lambda n: "a*b",
}


def matches_of(pattern: str, text: str, rows: int = 200) -> list[int]:
    """How many of so many studies with this description, and this physician, match."""
    engine = create_engine("sqlite://", poolclass=StaticPool)
    try:
        return _matches_in(engine, pattern, text, rows)
    finally:
        engine.dispose()


def _matches_in(engine: Engine, pattern: str, text: str, rows: int) -> list[int]:
    METADATA.create_all(engine)
    texts = {c.name: text if c.name in _FILLED else "" for c in study.c if c.name not in ("id", "parent")}
    with engine.begin() as connection:
        connection.execute(insert(patient).values({c.name: "" for c in patient.c if c.name != "id"}))
        connection.execute(
            insert(study), [{**texts, "study_instance_uid": str(n), "parent": 1} for n in range(rows)]
        )
    found = []
    driver = engine.raw_connection().driver_connection
    assert driver is not None
    for tag, vr in ((0x00081030, "LO"), (0x00080090, "PN")):
        elements = [Element(0x00080052, "CS", b"STUDY"), Element(tag, vr, pattern.encode())]
        query = find_query(elements, STUDY_ROOT, little_endian=True)
        found.append(len(list(matches(Statements(), query).page(driver.execute, 0, rows))))
    return found


_FILLED = {"study_description", "referring_physician_name_alphabetic"}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", PATTERNS)
def test_the_worst_patterns_come_to_an_end(name: str) -> None:
    """A matcher that backtracks without bound would not be done with any of these before the time-out."""
    assert matches_of(PATTERNS[name](FREE_COST), "a" * TEXT) == [0, 0]
    assert matches_of(PATTERNS[name](MAXIMUM_CHARACTERS), "a" * 63) == [0, 0]


@pytest.mark.parametrize("name", sorted(set(PATTERNS) - {"one star", "a list"}))
def test_what_would_take_too_long_is_refused_before_it_runs(name: str) -> None:
    with pytest.raises(IdentifierError) as caught:
        matches_of(PATTERNS[name](MAXIMUM_CHARACTERS), "a" * TEXT, rows=1)
    assert caught.value.problem is Problem.TOO_MUCH
    assert caught.value.comment == "patterns too long for the stored texts"


def test_a_longer_pattern_is_refused() -> None:
    with pytest.raises(IdentifierError):
        matches_of("*" + "a" * MAXIMUM_CHARACTERS, "")


VALUES = {
    "carets": "^",
    "equals": "=",
    "backslashes": "\\",
    "spaces": " ",
    "expanding": "\ufdfa",
    "digits": "0",
    "dots": ".",
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", VALUES)
def test_long_values_come_to_an_end(name: str) -> None:
    """A quarter of a million characters in a key: quadratic work would not be done before the time-out."""
    value = VALUES[name] * (1 << 18)
    for vr in ("PN", "LO", "LT"):
        for part in values_of(value, vr):
            folded = fold_name(part)
            assert sum(map(len, folded)) <= 18 * len(part)  # the longest expansion there is
            for other in ("IS", "DA", "TM"):
                assert len(normalise(part, other)) <= max(len(part), 16)
