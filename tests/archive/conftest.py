"""Small data sets made by hand, and an archive in a temporary folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from helpers.buckets import PLACES, Bucket, below, bucket
from helpers.index_asking import URLS
from helpers.postgres import Server, server

from asyncdicom.archive import Archive, Stored
from asyncdicom.archive.dimse import find as find_encoded
from asyncdicom.archive.dimse import status_of
from asyncdicom.archive.index.schema import BY_TAG
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
        return Path(path).read_bytes()

    @staticmethod
    def names_in(folder: Path) -> list[str]:
        return sorted(path.name for path in folder.iterdir())

    @staticmethod
    def files_below(folder: Path) -> list[Path]:
        return sorted(path for path in below(folder).rglob("*.dcm") if path.is_file())


@pytest.fixture
def tools() -> type[Tools]:
    return Tools


@pytest.fixture(scope="session")
def found_postgres() -> Iterator[Server | None]:
    """A PostgreSQL server for all tests of a run, which ends with them; None where there is none."""
    with ExitStack() as stack:
        try:
            started = stack.enter_context(server())
        except RuntimeError:
            if os.environ.get("ASYNCDICOM_REQUIRE_PEERS"):
                raise
            yield None
        else:
            yield started


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


# The tests of these modules run with both engines, but those named, which are about SQLite or its file.
ON_BOTH: dict[str, tuple[str, ...]] = {
    "test_archive_delete": (
        "test_sent_again_it_is_stored_again",
        "test_it_outlives_the_index_and_the_folder",
        "test_the_file_of_others_deletes_nothing",
        "test_a_file_that_is_read_piece_by_piece",
    ),
    "test_archive_durability": (),
    "test_archive_faults": (
        "test_what_was_uncertain_goes_with_the_next_commit",
        "test_a_damaged_index_is_told_and_sweeps_nothing",
        *("test_a_full_disk", "test_a_disk_that_is_nearly_full", "test_a_fault_at_a_system_call"),
        *("test_many_leftovers_are_swept_while_serving", "test_an_archive_with_unreadable_ancestors_opens"),
    ),
    "test_archive_find": (),
    "test_archive_outbox": (
        "test_what_is_indexed_again_leads_to_its_work",
        "test_a_transaction_that_fails_leaves_neither",
        "test_what_cannot_be_written_fails_alone_and_is_told",
        "test_who_asks_at_the_same_time_shares_a_transaction",
        "test_only_what_has_to_be_durable_is_synced",
        "test_settlements_wait_for_others_and_for_nothing_else",
        "test_20_000_deliveries_cost_three_statements_a_batch_and_no_scan",
        "test_a_backlog_costs_others_no_row",
        "test_every_statement_goes_by_an_index",
        "test_what_waits_is_ready_when_it_is_due",
    ),
    "test_archive_outbox_many": (
        "test_what_is_done_reads_no_more_rows_because_many_wait",
        "test_a_delivery_is_written_by_two_statements_and_read_by_its_number",
        "test_all_is_counted_once_for_what_an_operator_looks_at",
        "test_a_retry_of_very_many_is_made_page_by_page",
        "test_what_is_due_all_at_once_is_made_ready_page_by_page",
    ),
    "test_archive_reassign": (
        "test_it_outlives_the_index",
        "test_an_index_that_knows_one_that_was_undone_since",
    ),
    "test_archive_stability": ("test_a_study_that_is_gone_is_not_given",),
}

# The tests of these modules run with the instances in a folder and in a bucket, but those named, which are
# about the files of a folder.
IN_BUCKET: dict[str, tuple[str, ...]] = {
    "test_archive_dimse": (
        "test_two_hundred_associations_store_at_the_same_time_in_few_threads",
        "test_who_may_leave_out_the_keys_of_upper_levels",
    ),
    "test_archive_store": (
        "test_a_restart_keeps_everything",
        "test_an_unreadable_data_set_is_refused",
        "test_another_transfer_syntax_is_the_same_instance",
        "test_any_pieces_give_the_same_file",
        "test_every_encoding",
        "test_every_instance_of_pydicom",
        "test_leftovers_of_a_crash_are_swept",
        "test_on_conflict_keep",
        "test_one_uid_at_the_same_time",
        "test_other_bytes_go_to_quarantine",
        "test_the_same_bytes_twice_are_kept_once",
        "test_what_cannot_be_indexed_is_refused_and_not_kept",
    ),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    module = metafunc.module.__name__.rpartition(".")[2]
    only_sqlite = ON_BOTH.get(module)
    if only_sqlite is not None and metafunc.function.__name__ not in only_sqlite:
        metafunc.parametrize("engine", ["sqlite", "postgresql"], indirect=True)
    if metafunc.function.__name__ not in IN_BUCKET.get(module, (metafunc.function.__name__,)):
        metafunc.parametrize("blobs", ["folder", "s3"], indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With PostgreSQL or S3 one event loop is enough: it sees little of them."""
    left_out = [item for item in items if _is_elsewhere(item) and "asyncio" in _parameters(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


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
    engine: str = getattr(request, "param", "sqlite")
    if engine == "postgresql":
        started: Server = request.getfixturevalue("postgres")
        init = Archive.__init__

        def on_postgres(archive: Archive, directory: str | Path, **options: Any) -> None:
            folder = os.path.abspath(directory)
            options.setdefault("index", URLS.get(folder) or URLS.setdefault(folder, started.url()))
            init(archive, directory, **options)

        monkeypatch.setattr(Archive, "__init__", on_postgres)
    yield engine
    URLS.clear()


@pytest.fixture(autouse=True)
def blobs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket | None]:
    """What has the instances of a test's archives: their folders, or a bucket, each below its own prefix."""
    if getattr(request, "param", "folder") == "folder":
        yield None
        return
    init = Archive.__init__
    with bucket(request.getfixturevalue("tmp_path_factory").mktemp("store")) as made:
        for name, value in made.environment.items():
            monkeypatch.setenv(name, value)

        def in_bucket(archive: Archive, directory: str | Path, **options: Any) -> None:
            folder = os.path.abspath(directory)
            prefix = hashlib.sha256(folder.encode()).hexdigest()[:16]
            if options.setdefault("blobs", f"{made.url}/{prefix}"):
                PLACES[folder] = made.file(prefix)
            init(archive, directory, **options)

        monkeypatch.setattr(Archive, "__init__", in_bucket)
        yield made
        PLACES.clear()


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    async with Archive(tmp_path / "archive", durability="none") as opened:
        yield opened
