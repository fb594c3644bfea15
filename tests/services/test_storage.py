"""C-STORE from end to end: what is sent arrives, byte for byte, whatever its size and its source."""

from __future__ import annotations

import os
from pathlib import Path
from struct import pack

import pytest
from helpers.peer import CT, MR, eventually, instance
from pydicom import Dataset

from asyncdicom import (
    BytesSource,
    DataSetError,
    Limits,
    PresentationContext,
    PresentationContextError,
    Request,
    Response,
    Status,
    associate,
    file_source,
    open_file,
    serve,
    storage_contexts,
)
from asyncdicom.data.elements import encode
from asyncdicom.data.part10 import encode_file_meta
from asyncdicom.uid import (
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    JPEG_BASELINE_8BIT,
)


class Received:
    """A handler that keeps what it gets."""

    def __init__(self, status: int = Status.SUCCESS) -> None:
        self.status = status
        self.data: dict[str, bytes] = {}
        self.requests: list[Request] = []

    async def __call__(self, request: Request) -> int:
        self.requests.append(request)
        self.data[request.affected_sop_instance_uid] = await request.data.read(1 << 30)
        return self.status


def write_part10(path: Path, source: BytesSource) -> Path:
    meta = encode_file_meta(source.sop_class_uid, source.sop_instance_uid, source.transfer_syntax_uid)
    path.write_bytes(meta + bytes(source.data))
    return path


@pytest.mark.parametrize("maximum_length", [0, 20, 4094, 16384, 262144])
@pytest.mark.parametrize("size", [0, 1, 2, 4088, 4089, 100_001])
async def test_every_size_arrives_whatever_the_maximum_length(size: int, maximum_length: int) -> None:
    if size > 100_000 and maximum_length == 20:
        size = 10_001  # each PDU carries 14 bytes
    received = Received()
    source = instance(size)
    async with (
        serve("SCP@127.0.0.1:0", c_store=received, limits=Limits(maximum_length=maximum_length)) as server,
        associate(f"SCP@127.0.0.1:{server.port}", contexts=storage_contexts([source])) as association,
    ):
        response = await association.c_store(source)
    assert response.status == Status.SUCCESS
    assert received.data == {source.sop_instance_uid: source.data}


async def test_a_large_instance_arrives_from_memory_and_from_a_file(tmp_path: Path) -> None:
    received = Received()
    data = os.urandom(5 << 20) + b"odd"
    from_memory = BytesSource(CT, "1.2.1", EXPLICIT_VR_LITTLE_ENDIAN, data)
    path = write_part10(tmp_path / "large.dcm", BytesSource(CT, "1.2.2", EXPLICIT_VR_LITTLE_ENDIAN, data))
    async with (
        serve("SCP@127.0.0.1:0", c_store=received) as server,
        associate(f"SCP@127.0.0.1:{server.port}", contexts=storage_contexts([from_memory])) as association,
    ):
        await association.c_store(from_memory)
        await association.c_store(path)
    assert received.data == {"1.2.1": data, "1.2.2": data}


async def test_the_handler_knows_the_command_before_the_data() -> None:
    seen = []

    async def on_store(request: Request) -> int:
        seen.append(request.data.received)
        assert request.command.name == "C-STORE-RQ"
        assert (request.affected_sop_class_uid, request.affected_sop_instance_uid) == (CT, "1.2.3")
        assert request.transfer_syntax_uid == JPEG_BASELINE_8BIT
        assert (request.calling_ae_title, request.called_ae_title) == ("WS1", "SCP")
        assert request.context.abstract_syntax == CT
        assert request.association.is_established
        assert not request.is_cancelled
        assert len(await request.data.read()) == 3 << 20
        return 0

    source = BytesSource(CT, "1.2.3", JPEG_BASELINE_8BIT, bytes(3 << 20))
    async with (
        serve("SCP@127.0.0.1:0", c_store=on_store) as server,
        associate(
            f"SCP@127.0.0.1:{server.port}", calling_ae_title="WS1", contexts=storage_contexts([source])
        ) as association,
    ):
        assert (await association.c_store(source)).status == 0
    assert seen[0] < 3 << 20


async def test_save_writes_a_part_10_file_with_the_bytes_as_received(tmp_path: Path) -> None:
    small, large = instance(100), instance(2_500_001)

    async def on_store(request: Request) -> int:
        path = tmp_path / f"{request.affected_sop_instance_uid}.dcm"
        length = await request.data.save(path, source_ae_title=request.calling_ae_title)
        return 0 if length == path.stat().st_size - (await open_file(path)).offset else 0xC001

    async with (
        serve("SCP@127.0.0.1:0", c_store=on_store) as server,
        associate(f"SCP@127.0.0.1:{server.port}", contexts=storage_contexts([small, large])) as association,
    ):
        for source in (small, large):
            assert (await association.c_store(source)).status == Status.SUCCESS
    for source in (small, large):
        path = tmp_path / f"{source.sop_instance_uid}.dcm"
        saved = file_source(path)
        assert path.read_bytes()[saved.offset :] == source.data
        assert saved.transfer_syntax_uid == source.transfer_syntax_uid
        assert saved.sop_instance_uid == source.sop_instance_uid
    assert len(list(tmp_path.iterdir())) == 2


async def test_save_replaces_an_existing_file(tmp_path: Path) -> None:
    path = tmp_path / "one.dcm"
    path.write_bytes(b"old")

    async def on_store(request: Request) -> int:
        await request.data.save(path)
        return 0

    source = instance(10)
    async with (
        serve("SCP@127.0.0.1:0", c_store=on_store) as server,
        associate(f"SCP@127.0.0.1:{server.port}", contexts=[CT]) as association,
    ):
        await association.c_store(source)
    assert path.read_bytes().endswith(source.data)
    assert list(tmp_path.iterdir()) == [path]


async def test_a_dataset_is_sent_in_an_accepted_transfer_syntax(pydicom_files: Path) -> None:
    from pydicom import dcmread

    got = []

    async def on_store(request: Request) -> int:
        got.append((request.transfer_syntax_uid, await request.data.dataset()))
        return 0

    dataset = dcmread(pydicom_files / "MR_small.dcm")
    own = Dataset()
    own.SOPClassUID, own.SOPInstanceUID, own.PatientName = MR, "1.2.3", "Grün^Ä"
    contexts = [PresentationContext(MR, (IMPLICIT_VR_LITTLE_ENDIAN,))]
    async with (
        serve("SCP@127.0.0.1:0", c_store=on_store) as server,
        associate(f"SCP@127.0.0.1:{server.port}", contexts=contexts) as association,
    ):
        await association.c_store(dataset)
        await association.c_store(own)
    assert [syntax for syntax, _ in got] == [IMPLICIT_VR_LITTLE_ENDIAN] * 2
    assert got[0][1].PixelData == dataset.PixelData
    assert got[1][1].PatientName == "Grün^Ä"


async def test_nothing_is_sent_in_a_transfer_syntax_that_was_not_accepted(pydicom_files: Path) -> None:
    from pydicom import dcmread

    received = Received()
    contexts = [PresentationContext(MR, (IMPLICIT_VR_LITTLE_ENDIAN,))]
    compressed = pydicom_files / "MR_small_RLE.dcm"
    async with (
        serve("SCP@127.0.0.1:0", c_store=received) as server,
        associate(f"SCP@127.0.0.1:{server.port}", contexts=contexts) as association,
    ):
        for instance_or_path in (compressed, dcmread(compressed), instance(sop_class=CT)):
            with pytest.raises(PresentationContextError):
                await association.c_store(instance_or_path)
        assert association.is_established
    assert not received.requests


async def test_files_that_cannot_be_sent_leave_the_association_usable(tmp_path: Path) -> None:
    no_dicom = tmp_path / "text"
    no_dicom.write_text("no DICOM here" * 100)
    received = Received()
    async with (
        serve("SCP@127.0.0.1:0", c_store=received) as server,
        associate(f"SCP@127.0.0.1:{server.port}", contexts=[CT]) as association,
    ):
        with pytest.raises(DataSetError):
            await association.c_store(no_dicom)
        with pytest.raises(DataSetError, match="regular file"):
            await association.c_store("/dev/null")
        with pytest.raises(FileNotFoundError):
            await association.c_store(tmp_path / "missing.dcm")
        for nothing in (5, None, b"DICM", {"SOPClassUID": CT}):
            with pytest.raises(TypeError, match="files, sources and datasets can be sent, not"):
                await association.c_store(nothing)  # type: ignore[arg-type]
        with pytest.raises(DataSetError, match="without SOP Class UID or SOP Instance UID"):
            await association.c_store(Dataset())
        source = await open_file(write_part10(tmp_path / "gone.dcm", instance(1000)))
        os.unlink(tmp_path / "gone.dcm")
        with pytest.raises(FileNotFoundError):
            await association.c_store(source)  # noticed before anything was sent
        assert (await association.c_store(instance(10))).status == 0
    assert len(received.requests) == 1


@pytest.mark.parametrize("status", [0x0000, 0xB000, 0xB007, 0xA700, 0xA900, 0xC123, 0x0124])
async def test_the_status_is_what_the_handler_returned(status: int) -> None:
    async with (
        serve("SCP@127.0.0.1:0", c_store=Received(status)) as server,
        associate(f"SCP@127.0.0.1:{server.port}", contexts=[CT]) as association,
    ):
        response = await association.c_store(instance(10))
        assert response.status == status
        assert (await association.c_store(instance(10))).status == status


async def test_a_response_with_comment_and_offending_elements_arrives() -> None:
    async def on_store(request: Request) -> Response:
        return Response(0xA900, error_comment="wrong class", offending_elements=[0x00080016, 0x00080018])

    async with (
        serve("SCP@127.0.0.1:0", c_store=on_store) as server,
        associate(f"SCP@127.0.0.1:{server.port}", contexts=[CT]) as association,
    ):
        response = await association.c_store(instance(10))
    assert response.status == 0xA900
    assert response.error_comment == "wrong class"
    assert response.offending_elements == (0x00080016, 0x00080018)
    assert response.command is not None
    assert response.command.name == "C-STORE-RSP"


async def test_what_a_store_receives_can_be_sent_on_while_it_comes() -> None:
    received = Received()
    source = instance(3_000_000)
    async with serve("END@127.0.0.1:0", c_store=received) as end:

        async def forward(request: Request) -> Response:
            contexts = [PresentationContext(request.affected_sop_class_uid, (request.transfer_syntax_uid,))]
            async with associate(f"END@127.0.0.1:{end.port}", contexts=contexts) as onward:
                return await onward.c_store(request.data)

        async with (
            serve("ROUTER@127.0.0.1:0", c_store=forward) as router,
            associate(f"ROUTER@127.0.0.1:{router.port}", contexts=[CT]) as association,
        ):
            assert (await association.c_store(source)).status == Status.SUCCESS
    assert received.data == {source.sop_instance_uid: source.data}


async def test_a_data_set_can_be_read_in_pieces() -> None:
    got = bytearray()
    views = []

    async def on_store(request: Request) -> int:
        async for view in request.data:
            assert view.readonly
            views.append(view)
            got.extend(view)
        assert await request.data.next_batch() is None  # and stays at its end
        return 0

    source = instance(700_000)
    async with (
        serve("SCP@127.0.0.1:0", c_store=on_store) as server,
        associate(f"SCP@127.0.0.1:{server.port}", contexts=[CT]) as association,
    ):
        await association.c_store(source)
    assert bytes(got) == source.data
    assert len(views) > 2


async def test_a_data_set_larger_than_the_reader_wants_is_an_error_and_not_a_risk() -> None:
    errors = []

    async def on_store(request: Request) -> int:
        try:
            await request.data.read(1000)
        except DataSetError as error:
            errors.append(str(error))
            return 0xA700
        return 0

    async with (
        serve("SCP@127.0.0.1:0", c_store=on_store) as server,
        associate(f"SCP@127.0.0.1:{server.port}", contexts=[CT]) as association,
    ):
        assert (await association.c_store(instance(1_000_000))).status == 0xA700
        assert (await association.c_store(instance(1000))).status == 0
    [error] = errors
    assert error.startswith("the data set has more than 1000 bytes")
    assert "save()" in error, "what to do instead"


async def test_unknown_storage_is_taken_only_when_asked_for() -> None:
    private = "1.3.6.1.4.1.99999.1.2"
    received = Received()
    source = instance(10, sop_class=private)
    for unknown_storage in (False, True):
        async with (
            serve("SCP@127.0.0.1:0", c_store=received, unknown_storage=unknown_storage) as server,
            associate(f"SCP@127.0.0.1:{server.port}", contexts=[private]) as association,
        ):
            if unknown_storage:
                assert (await association.c_store(source)).status == 0
            else:
                with pytest.raises(PresentationContextError):
                    await association.c_store(source)


async def test_the_move_originator_reaches_the_receiver() -> None:
    received = Received()
    async with (
        serve("SCP@127.0.0.1:0", c_store=received) as server,
        associate(f"SCP@127.0.0.1:{server.port}", contexts=[CT]) as association,
    ):
        await association.c_store(instance(10), move_originator=("MOVER", 77), priority=1)
        await association.c_store(instance(10))
    first, second = (request.command for request in received.requests)
    assert (first.move_originator_ae_title, first.move_originator_message_id, first.priority) == (
        "MOVER",
        77,
        1,
    )
    assert (second.move_originator_ae_title, second.move_originator_message_id) == (None, None)


@pytest.mark.parametrize("uid", ["1.2.../../../etc/passwd", "1.2 3", "1.2*", "1." + "2" * 64])
async def test_an_invalid_instance_uid_never_reaches_the_handler(uid: str) -> None:
    received = Received()
    async with (
        serve("SCP@127.0.0.1:0", c_store=received) as server,
        associate(f"SCP@127.0.0.1:{server.port}", contexts=[CT]) as association,
    ):
        source = BytesSource(CT, uid, EXPLICIT_VR_LITTLE_ENDIAN, b"1234")
        assert (await association.c_store(source)).status == Status.INVALID_SOP_INSTANCE
    assert not received.requests


def test_file_source_reads_the_head_only(pydicom_files: Path) -> None:
    source = file_source(pydicom_files / "CT_small.dcm")
    assert source.sop_class_uid == CT
    assert source.transfer_syntax_uid == EXPLICIT_VR_LITTLE_ENDIAN
    assert source.offset + source.length == (pydicom_files / "CT_small.dcm").stat().st_size


def test_the_data_set_is_believed_where_the_file_meta_information_differs(tmp_path: Path) -> None:
    data = bytes.fromhex("080016005549") + b"\x1a\x00" + b"1.2.840.10008.5.1.4.1.1.4\0"
    data += bytes.fromhex("080018005549") + b"\x06\x00" + b"1.2.9\0"
    path = write_part10(tmp_path / "a.dcm", BytesSource(CT, "1.2.3", EXPLICIT_VR_LITTLE_ENDIAN, data))
    source = file_source(path)
    assert (source.sop_class_uid, source.sop_instance_uid) == (MR, "1.2.9")


def attributes(syntax: str, uid: str, *, pixels: bytes = b"\0\1" * 10_000) -> bytes:
    elements = [(0x00080016, "UI", CT.encode()), (0x00080018, "UI", uid.encode()), (0x7FE00010, "OW", pixels)]
    return encode(elements, syntax)


UNCOMPRESSED = [IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN]


@pytest.mark.parametrize("syntax", UNCOMPRESSED)
async def test_files_without_preamble_or_meta_are_sent(tmp_path: Path, syntax: str) -> None:
    data, received = attributes(syntax, "1.2.3"), Received()
    head = encode_file_meta(CT, "1.2.3", syntax)
    files = {
        "whole": head,
        "no preamble": head[132:],
        "DICM alone": head[128:],
        "nothing": b"",
        "a preamble alone": bytes(128) + b"DICM",
        "no transfer syntax": bytes(128) + b"DICM\2\0\2\0UI\4\0001.2\0",
        "a wrong transfer syntax": encode_file_meta(
            CT, "1.2.3", next(other for other in UNCOMPRESSED if other != syntax)
        ),
        "elements of group 0002 again": head + head[144:158],
        "elements of a command set": head + pack("<HHLHHHLH", 0, 0x100, 2, 1, 0, 0x110, 2, 7),
    }
    contexts = [PresentationContext(CT, (syntax,))]
    async with (
        serve("SCP@127.0.0.1:0", c_store=received) as server,
        associate(f"SCP@127.0.0.1:{server.port}", contexts=contexts) as association,
    ):
        for name, begin in files.items():
            (tmp_path / name).write_bytes(begin + data)
            assert (await association.c_store(tmp_path / name)).status == 0, name
            assert received.data.pop("1.2.3") == data, name


def test_a_file_that_cannot_be_read_safely_is_refused_with_the_reason(tmp_path: Path) -> None:
    data = attributes(EXPLICIT_VR_LITTLE_ENDIAN, "1.2.3")
    for content, said in {
        data[
            :-1
        ]: "not a DICOM Part 10 file: no DICM after 128 bytes of preamble; as Explicit VR .* truncated",
        data[:40]: "no DICM .* truncated",
        b"hello" * 100: "not a DICOM Part 10 file: .*; it does not begin as a data set does",
        bytes(128) + b"DICM" + data[:-1]: "the file tells no valid Transfer Syntax UID: '';.* truncated",
    }.items():
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(DataSetError, match=said):
            file_source(tmp_path / "file")


async def test_messages_of_many_tasks_never_mix() -> None:
    import asyncio

    received = Received()
    sources = [instance(size) for size in (1_500_000, 10, 300_000, 0, 50_000, 2_000_000, 77)]
    async with (
        serve("SCP@127.0.0.1:0", c_store=received, limits=Limits(operations_performed=16)) as server,
        associate(
            f"SCP@127.0.0.1:{server.port}", contexts=[CT], limits=Limits(operations_invoked=16)
        ) as association,
    ):
        assert association.operations_invoked == 16
        async with asyncio.TaskGroup() as group:
            for source in sources:
                group.create_task(association.c_store(source))
    assert received.data == {source.sop_instance_uid: source.data for source in sources}


async def test_the_server_frees_what_a_handler_did_not_read() -> None:
    async def on_store(request: Request) -> int:
        return 0

    async with (
        serve("SCP@127.0.0.1:0", c_store=on_store) as server,
        associate(f"SCP@127.0.0.1:{server.port}", contexts=[CT]) as association,
    ):
        for _ in range(20):
            assert (await association.c_store(instance(500_000))).status == 0
        await eventually(lambda: association.is_established)


async def test_uids_that_break_the_rules_are_taken_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    uids = []

    async def on_store(request: Request) -> Status:
        uids.append(request.affected_sop_instance_uid)
        return Status.SUCCESS

    data = encode([(0x00100020, "LO", b"1")], EXPLICIT_VR_LITTLE_ENDIAN)
    contexts = [PresentationContext(CT, (EXPLICIT_VR_LITTLE_ENDIAN,))]
    async with serve("SCP@127.0.0.1:0", c_store=on_store) as server:
        for _ in range(2):
            async with associate(f"SCP@127.0.0.1:{server.port}", contexts=contexts) as association:
                for uid in ("1.2.3", "1.2.03.4", "SERIES1", "a/b"):
                    stored = await association.c_store(BytesSource(CT, uid, EXPLICIT_VR_LITTLE_ENDIAN, data))
                    assert stored.status == (0x0117 if uid == "a/b" else 0)
    assert uids == 2 * ["1.2.3", "1.2.03.4", "SERIES1"]
    lines = [line for line in caplog.messages if "PS3.5 9.1" in line]
    assert len(lines) == 2
    assert all("1.2.03.4" in line for line in lines)
