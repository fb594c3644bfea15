"""The flat codec of storage commitment, against pydicom and against rubbish."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from asyncdicom import DataSetError
from asyncdicom.dataset import decode, encode
from asyncdicom.services.references import Commitment, Reference, off_the_loop, read, write
from asyncdicom.uid import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
)

SYNTAXES = [
    IMPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
]
UIDS = st.lists(st.integers(0, 99999), min_size=1, max_size=8).map(lambda n: ".".join(map(str, n)))
REFERENCES = st.lists(st.builds(Reference, UIDS, UIDS), max_size=6, unique=True)


def item(reference: Reference, reason: int | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "ReferencedSOPClassUID": reference.sop_class_uid,
        "ReferencedSOPInstanceUID": reference.sop_instance_uid,
    }
    return found if reason is None else found | {"FailureReason": reason}


def by_pydicom(commitment: Commitment) -> dict[str, Any]:
    found: dict[str, Any] = {"TransactionUID": commitment.transaction_uid}
    if commitment.failed:
        found["FailedSOPSequence"] = [item(*each) for each in commitment.failed.items()]
    if commitment.referenced:
        found["ReferencedSOPSequence"] = [item(reference) for reference in commitment.referenced]
    return found


COMMITMENTS = st.builds(
    Commitment,
    UIDS,
    REFERENCES.map(tuple),
    st.dictionaries(st.builds(Reference, UIDS, UIDS), st.integers(1, 0xFFFF), max_size=4),
)


@pytest.mark.parametrize("syntax", SYNTAXES)
@given(commitment=COMMITMENTS)
def test_what_is_written_is_what_pydicom_writes_and_is_read(commitment: Commitment, syntax: str) -> None:
    written = write(commitment, syntax)
    assert decode(written, syntax) == decode(encode(by_pydicom(commitment), syntax), syntax)
    assert read(written, syntax) == commitment
    assert read(encode(by_pydicom(commitment), syntax), syntax) == commitment


@pytest.mark.parametrize("syntax", SYNTAXES[:3])
def test_sequences_and_items_of_undefined_length_and_what_is_in_them(syntax: str) -> None:
    dataset = Dataset()
    dataset.TransactionUID = "1.2.3"
    purpose, deeper = Dataset(), Dataset()
    deeper.ReferencedSOPInstanceUID = "9.9.9"
    purpose.ReferencedSOPSequence = [deeper]
    purpose["ReferencedSOPSequence"].is_undefined_length = True
    deeper.is_undefined_length_sequence_item = True
    one, two = Dataset(), Dataset()
    for each, uid in ((one, "1.2.1"), (two, "1.2.2")):
        each.ReferencedSOPClassUID, each.ReferencedSOPInstanceUID = "1.2", uid
        each.PurposeOfReferenceCodeSequence = [purpose, purpose]
        each.is_undefined_length_sequence_item = True
    one["PurposeOfReferenceCodeSequence"].is_undefined_length = True
    dataset.ReferencedSOPSequence = [one, two, one]
    dataset["ReferencedSOPSequence"].is_undefined_length = True
    found = read(encode(dataset, syntax), syntax)
    assert found == Commitment("1.2.3", (Reference("1.2", "1.2.1"), Reference("1.2", "1.2.2")), {})


def test_nothing() -> None:
    assert read(b"", EXPLICIT_VR_LITTLE_ENDIAN) == Commitment("", (), {})


def test_a_failure_without_a_reason_is_a_failure() -> None:
    failed = {"FailedSOPSequence": [item(Reference("1.2", "1.2.1"))]}
    encoded = encode(failed, EXPLICIT_VR_LITTLE_ENDIAN)
    assert read(encoded, EXPLICIT_VR_LITTLE_ENDIAN).failed == {Reference("1.2", "1.2.1"): 0x0110}


WHOLE = write(
    Commitment("1.2.3", (Reference("1.2", "1.2.1"),), {Reference("1.2", "1.2.2"): 0x0112}),
    IMPLICIT_VR_LITTLE_ENDIAN,
)


@given(
    cut=st.integers(0, len(WHOLE)),
    changes=st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), max_size=4),
)
def test_rubbish_is_refused_or_read_and_nothing_else(cut: int, changes: list[tuple[int, int]]) -> None:
    data = bytearray(WHOLE)
    for position, value in changes:
        data[position] = value
    try:
        found = read(bytes(data[:cut]), IMPLICIT_VR_LITTLE_ENDIAN)
    except DataSetError:
        return
    assert all(reference.sop_instance_uid for reference in found.referenced)


def test_an_item_that_claims_more_than_is_there() -> None:
    items = b"\xfe\xff\x00\xe0\x10\x00\x00\x00" + b"\x08\x00\x55\x11\xff\x00\x00\x00" + b"1.2.3.4\0"
    data = b"\x08\x00\x99\x11" + len(items).to_bytes(4, "little") + items
    with pytest.raises(DataSetError, match="longer than its sequence"):
        read(data, IMPLICIT_VR_LITTLE_ENDIAN)


async def test_much_of_it_is_read_in_a_thread() -> None:
    import threading

    here = threading.get_ident()
    assert await off_the_loop(1000, threading.get_ident) == here
    assert await off_the_loop(1 << 20, threading.get_ident) != here
