"""Data sets on their way in."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from helpers.peer import CT
from net.streams import received
from pydicom import Dataset, dcmread

from asyncdicom import DataSetError, DataStream, LocalProtocolError, file_source
from asyncdicom.dataset import encode, from_mapping
from asyncdicom.uid import DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN as DEFLATED
from asyncdicom.uid import EXPLICIT_VR_BIG_ENDIAN as BIG
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN as EXPLICIT
from asyncdicom.uid import IMPLEMENTATION_CLASS_UID
from asyncdicom.uid import IMPLICIT_VR_LITTLE_ENDIAN as IMPLICIT


async def test_a_batch_is_all_that_came() -> None:
    data = received(b"abc", b"de", ended=False)
    assert [bytes(view) for view in await data.next_batch() or ()] == [b"abc", b"de"]
    waiting = asyncio.create_task(data.next_batch())
    await asyncio.sleep(0)
    assert not waiting.done()
    data.feed([memoryview(b"f")], 1, True)
    assert [bytes(view) for view in await waiting or ()] == [b"f"]
    assert await data.next_batch() is None
    assert data.received == 6


async def test_a_cancellation_loses_nothing() -> None:
    data = received(ended=False)
    waiting = asyncio.create_task(data.next_batch())
    await asyncio.sleep(0)
    data.feed([memoryview(b"abc")], 3, True)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await data.read() == b"abc"


async def test_what_was_received_before_a_failure_comes_before_it() -> None:
    data = received(b"abc", ended=False)
    data.fail(ConnectionError("gone"))
    assert await data.next_batch() is not None
    for _ in range(2):
        with pytest.raises(ConnectionError, match="gone"):
            await data.next_batch()
    assert not data.is_complete


async def test_a_failure_after_the_end_does_not_matter() -> None:
    data = received(b"abc")
    data.fail(ConnectionError("gone"))
    assert await data.read() == b"abc"
    assert data.is_complete


async def test_two_tasks_cannot_read_one_data_set() -> None:
    data = received(ended=False)
    first = asyncio.create_task(data.read())
    await asyncio.sleep(0)
    with pytest.raises(LocalProtocolError, match="two tasks"):
        await data.read()
    data.feed([memoryview(b"abc")], 3, True)
    assert await first == b"abc"


async def test_what_was_discarded_is_neither_data_nor_an_end() -> None:
    counted: list[int] = []
    data = DataStream(EXPLICIT, CT, "1.2.3", taken=counted.append)
    data.feed([memoryview(b"abc")], 3, False)
    data.discard()
    data.feed([memoryview(b"de")], 2, True)
    assert data.discarded == 5
    assert sum(counted) == 5
    with pytest.raises(LocalProtocolError, match="no longer wanted"):
        await data.read()


async def test_who_waits_when_it_is_discarded_is_told() -> None:
    data = received(ended=False)
    reading = asyncio.create_task(data.read())
    finishing = []
    await asyncio.sleep(0)
    data.discard()
    finishing.append(asyncio.create_task(data.finished()))
    with pytest.raises(LocalProtocolError, match="no longer wanted"):
        await reading
    assert not finishing[0].done()
    data.feed([memoryview(b"abc")], 3, True)
    await finishing[0]


async def test_an_instance_is_a_source_too() -> None:
    data = received(b"abc", b"de")
    assert (data.sop_class_uid, data.sop_instance_uid) == (CT, "1.2.3")
    assert b"".join([bytes(view) for batch in [b async for b in data.open()] for view in batch]) == b"abcde"


# dataset


async def dataset_of(syntax: str, uid: str, size: int = 0) -> Dataset:
    """What a handler gets of an instance."""
    sent = {"SOPClassUID": CT, "SOPInstanceUID": uid, "PatientName": "DOE^J", "PatientComments": size * "x"}
    data = encode(from_mapping(sent), syntax)
    stream = DataStream(syntax, CT, uid)
    stream.feed([memoryview(data)], len(data), True)
    return await stream.dataset()


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, DEFLATED, BIG])
@pytest.mark.parametrize("uid", ["1.2.3", "1.2.03.4", "not-a-uid", "1.2.3.45678901234567890"])
@pytest.mark.parametrize("size", [0, 10_000])
@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")  # by pydicom, when it writes
async def test_its_dataset_is_saved_as_a_file_that_can_be_read(
    tmp_path: Path, syntax: str, uid: str, size: int
) -> None:
    path = tmp_path / "one.dcm"
    dataset = await dataset_of(syntax, uid, size)
    dataset.PatientName = "ROE^J"
    dataset.save_as(path)
    read = dcmread(path)
    assert (read.PatientName, len(read.PatientComments)) == ("ROE^J", size)
    source = file_source(path)
    assert (source.sop_class_uid, source.sop_instance_uid) == (CT, uid)
    assert source.transfer_syntax_uid == syntax
    meta = read.file_meta
    assert (meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID) == (CT, uid)
    assert meta.FileMetaInformationGroupLength > 0
    assert meta.ImplementationClassUID == IMPLEMENTATION_CLASS_UID


async def test_a_file_format_that_pydicom_enforces(tmp_path: Path) -> None:
    (await dataset_of(EXPLICIT, "1.2.3")).save_as(tmp_path / "one.dcm", enforce_file_format=True)
    assert dcmread(tmp_path / "one.dcm").SOPInstanceUID == "1.2.3"


async def test_a_dataset_that_is_too_long_for_memory_says_what_to_do() -> None:
    with pytest.raises(DataSetError, match=r"more than 10 bytes.*maximum=.*save\(\)"):
        await received(bytes(11)).dataset(10)
    with pytest.raises(DataSetError, match="more than 16777216 bytes"):
        await received(*[bytes(1 << 20)] * 17).dataset()
