"""Small data sets made by hand, and an archive in a temporary folder."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from helpers.buckets import BUCKETS, PLACES, Bucket, below, bucket, bucket_of, file_at, files_in
from helpers.index_asking import NEW, URLS, database_of
from helpers.places import PLACE, in_every_run, is_left_out
from helpers.postgres import Server, server

from asyncdicom.archive import Archive, Stored
from asyncdicom.archive.blobs.s3 import S3Blobs
from asyncdicom.archive.dimse import find as find_encoded
from asyncdicom.archive.dimse import status_of
from asyncdicom.archive.index.schema import BY_TAG
from asyncdicom.archive.verifying import Verified
from asyncdicom.data.elements import decode, encode
from asyncdicom.status import Status
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN, STUDY_ROOT, InformationModel, transfer_syntax

CT = "1.2.840.10008.5.1.4.1.1.2"

# keyword -> (tag, VR) of everything the tests put into data sets and identifiers
TAGS = {attribute.keyword: (tag, attribute.vr) for tag, (_, attribute) in BY_TAG.items()} | {
    "SpecificCharacterSet": (0x00080005, "CS"),
    "QueryRetrieveLevel": (0x00080052, "CS"),
    "RetrieveAETitle": (0x00080054, "AE"),
    "InstanceAvailability": (0x00080056, "CS"),
    "ModalitiesInStudy": (0x00080061, "CS"),
    "SOPClassesInStudy": (0x00080062, "UI"),
    "AvailableTransferSyntaxUID": (0x00083002, "UI"),
    "TimezoneOffsetFromUTC": (0x00080201, "SH"),
    "ReferencedStudySequence": (0x00081110, "SQ"),
    "NumberOfPatientRelatedStudies": (0x00201200, "IS"),
    "NumberOfPatientRelatedSeries": (0x00201202, "IS"),
    "NumberOfPatientRelatedInstances": (0x00201204, "IS"),
    "NumberOfStudyRelatedSeries": (0x00201206, "IS"),
    "NumberOfStudyRelatedInstances": (0x00201208, "IS"),
    "NumberOfSeriesRelatedInstances": (0x00201209, "IS"),
    "PixelData": (0x7FE00010, "OW"),
}
KEYWORDS = {tag: keyword for keyword, (tag, _) in TAGS.items()}


def encode_keywords(keywords: dict[str, Any], syntax: str = EXPLICIT_VR_LITTLE_ENDIAN) -> bytes:
    order = "little" if transfer_syntax(syntax).little_endian else "big"
    elements = []
    for keyword, value in keywords.items():
        tag, vr = TAGS[keyword]
        if isinstance(value, int) and vr == "US":
            value = value.to_bytes(2, order)  # type: ignore[arg-type]
        elements.append((tag, vr, value if isinstance(value, bytes) else str(value).encode()))
    return encode(sorted(elements), syntax)


def data_set(syntax: str = EXPLICIT_VR_LITTLE_ENDIAN, **keywords: Any) -> bytes:
    """A whole instance; a keyword with None leaves the attribute out."""
    values: dict[str, Any] = {
        "SOPClassUID": CT,
        "SOPInstanceUID": "1.2.3.1.1.1",
        "StudyInstanceUID": "1.2.3.1",
        "SeriesInstanceUID": "1.2.3.1.1",
        "PatientID": "P1",
        "PatientName": "DOE^JOHN",
        "Modality": "CT",
        "PixelData": b"\1\2\3\4",
    }
    values |= keywords
    return encode_keywords({k: v for k, v in values.items() if v is not None}, syntax)


async def in_batches(data: bytes, size: int) -> AsyncIterator[list[memoryview]]:
    for start in range(0, len(data), size):
        piece = memoryview(data)[start : start + size]
        yield [piece[:7], piece[7:]]


async def store(archive: Archive, data: bytes, size: int = 1 << 20, **options: Any) -> Status:
    """Store as a peer would, and give the Status alone: see `stored`."""
    return status_of(await stored(archive, data, size, **options))


async def stored(archive: Archive, data: bytes, size: int = 1 << 20, **options: Any) -> Stored:
    """Store as a peer would whose command agrees with its data set (unless ``options`` say otherwise)."""
    syntax = options.setdefault("transfer_syntax_uid", EXPLICIT_VR_LITTLE_ENDIAN)
    try:
        found = {
            element.tag: element.value.rstrip(b"\0").decode("latin-1") for element in decode(data, syntax)
        }
    except ValueError:
        found = {}
    options.setdefault("sop_class_uid", found.get(0x00080016, CT))
    options.setdefault("sop_instance_uid", found.get(0x00080018, "1.2.3"))
    return await archive.receive(batches=in_batches(data, size), calling_ae_title="MODALITY", **options)


def read_answer(answer: bytes, syntax: str = EXPLICIT_VR_LITTLE_ENDIAN) -> dict[str, str]:
    order = "little" if transfer_syntax(syntax).little_endian else "big"
    result = {}
    for tag, _, value in decode(answer, syntax):
        keyword = KEYWORDS[tag]
        if TAGS[keyword][1] == "US":
            result[keyword] = str(int.from_bytes(value, order)) if value else ""  # type: ignore[arg-type]
        else:
            result[keyword] = value.decode("utf-8").rstrip(" \0")
    return result


async def find(
    archive: Archive,
    model: InformationModel = STUDY_ROOT,
    level: str = "STUDY",
    syntax: str = EXPLICIT_VR_LITTLE_ENDIAN,
    options: dict[str, Any] | None = None,
    **keywords: Any,
) -> list[dict[str, str]]:
    identifier = encode_keywords({"QueryRetrieveLevel": level, **keywords}, syntax)
    answers = find_encoded(archive, identifier, syntax, model, **(options or {}))
    return [read_answer(answer, syntax) async for answer in answers]


class Tools:
    """What a test needs, as one fixture: tests folders are no packages."""

    ct = CT
    data_set = staticmethod(data_set)
    encode = staticmethod(encode_keywords)
    in_batches = staticmethod(in_batches)
    store = staticmethod(store)
    stored = staticmethod(stored)
    find = staticmethod(find)

    @staticmethod
    def read(path: str) -> bytes:
        return file_at(path).read_bytes()

    @staticmethod
    async def unsound(folder: Path) -> list[Verified]:
        """What in an archive that nobody serves is not as its row says."""
        async with Archive(folder, durability="none", existing=True, sweep=False, scrub=0) as archive:
            found = await archive.read(lambda: list(archive.care.verify(lambda size: None)))
        return [each for each in found if not each.is_sound]

    @staticmethod
    def names_in(folder: Path) -> list[str]:
        return sorted(path.name for path in below(folder).iterdir())

    @staticmethod
    def files_below(folder: Path) -> list[Path]:
        return sorted(path for path in files_in(below(folder)) if path.suffix == ".dcm")

    @staticmethod
    async def left_below(folder: Path, number: int) -> list[Path]:
        """The files, which are so many: who refuses an object does not wait until it is gone."""
        while len(found := Tools.files_below(folder)) != number and PLACES:
            await asyncio.sleep(0.01)
        assert len(found) == number
        return found


@pytest.fixture
def tools() -> type[Tools]:
    return Tools


@pytest.fixture(scope="session")
def found_postgres() -> Server | None:
    """A PostgreSQL server for all tests of a run, which ends behind them; None where there is none."""
    try:
        return _ENDING.enter_context(server())
    except RuntimeError:
        if os.environ.get("ASYNCDICOM_REQUIRE_PEERS"):
            raise
        return None


_ENDING = ExitStack()


def pytest_sessionfinish() -> None:
    """What the server leaves are very many files: no test is to take so long."""
    _ENDING.close()


@pytest.fixture(scope="session")
def postgres(found_postgres: Server | None) -> Server:
    if found_postgres is None:
        pytest.skip("PostgreSQL's server is not here: apt-get install postgresql")
    return found_postgres


@pytest.fixture
def own_server(postgres: Server) -> Iterator[Server]:
    """Another one, to be stopped and killed."""
    with server() as started:
        yield started


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    module = metafunc.module.__name__.rpartition(".")[2]
    test = metafunc.function.__name__
    for what, kinds in in_every_run(module, test).items():
        metafunc.parametrize(what, kinds, indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With PostgreSQL or S3 one event loop is enough: it sees little of them."""
    left_out = [item for item in items if _is_left_out(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def _is_left_out(item: pytest.Item) -> bool:
    if item.path.parent != Path(__file__).parent:
        return False
    test = getattr(item, "originalname", item.name)
    is_elsewhere = bool(PLACE) or _is_elsewhere(item)
    return (is_elsewhere and "asyncio" in _parameters(item)) or is_left_out(item.path.stem, test)


def _parameters(item: pytest.Item) -> list[str]:
    return item.name.partition("[")[2].rstrip("]").split("-")


_ALONE = (
    *("test_archive_postgres.py", "test_archive_processes.py", "test_archive_several.py"),
    *("test_archive_s3.py", "test_archive_s3_kill.py"),
)


def _is_elsewhere(item: pytest.Item) -> bool:
    return not {"postgresql", "s3"}.isdisjoint(_parameters(item)) or item.path.name in _ALONE


@pytest.fixture(autouse=True)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """What has the indexes of a test's archives: where nothing is said of it, each folder has its own."""
    engine: str = getattr(request, "param", PLACE.partition("+")[0] or "sqlite")
    if engine == "postgresql":
        started: Server = request.getfixturevalue("postgres")
        init = Archive.__init__

        NEW.append(started.url)

        def on_postgres(archive: Archive, directory: str | Path, **options: Any) -> None:
            init(archive, directory, **{"index": database_of(directory)} | options)

        monkeypatch.setattr(Archive, "__init__", on_postgres)
    yield engine
    NEW.clear()
    URLS.clear()


@pytest.fixture(autouse=True)
def blobs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket | None]:
    """What has the instances of a test's archives: their folders, or a bucket, each below its own prefix."""
    if getattr(request, "param", PLACE.partition("+")[2] or "folder") == "folder":
        yield None
        return
    init = Archive.__init__
    with bucket(request.getfixturevalue("tmp_path_factory").mktemp("store")) as made:
        for name, value in made.environment.items():
            monkeypatch.setenv(name, value)

        monkeypatch.setattr(S3Blobs, "YOUNG", 0.0)  # no other process of a test stores

        BUCKETS.append(made)

        def in_bucket(archive: Archive, directory: str | Path, **options: Any) -> None:
            if "blobs" not in options:
                options["blobs"] = bucket_of(directory)
            init(archive, directory, **options)

        monkeypatch.setattr(Archive, "__init__", in_bucket)
        yield made
        BUCKETS.clear()
        PLACES.clear()


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    async with Archive(tmp_path / "archive", durability="none") as opened:
        yield opened
