"""Deflated data sets as they come: RFC 1951, also behind a header of zlib (RFC 1950)."""

from __future__ import annotations

import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncdicom.data.inflation import Inflater, deflate, inflate
from asyncdicom.exceptions import DataSetError

TEXT = b"\x08\0\x05\0CS\x0a\0ISO_IR 100" * 100
NOISE = random.Random(1).randbytes(70_000)  # longer than a stored block may be


@pytest.mark.parametrize("level", range(10))
@pytest.mark.parametrize("data", [b"", b"a", TEXT, NOISE], ids=["nothing", "a byte", "text", "noise"])
def test_a_header_of_zlib_is_passed_over(level: int, data: bytes) -> None:  # the field, 1.25
    assert inflate(zlib.compress(data, level)) == data
    for window in range(9, 16):
        compressor = zlib.compressobj(level, wbits=window)
        assert inflate(compressor.compress(data) + compressor.flush()) == data


@pytest.mark.parametrize("level", range(10))
@pytest.mark.parametrize("data", [b"", b"a", TEXT, NOISE], ids=["nothing", "a byte", "text", "noise"])
def test_without_one(level: int, data: bytes) -> None:
    compressor = zlib.compressobj(level, wbits=-15)
    assert inflate(compressor.compress(data) + compressor.flush()) == data


def test_a_stored_block_that_looks_like_a_header_is_none() -> None:
    block = b"\x78\x01\x00\xfe\xff" + b"a" + b"\x03\x00"  # its first byte has the bits that do not count set
    assert inflate(block) == b"a"
    assert inflate(block[1:].join([b"\x08", b""])) == b"a"


def test_bytes_behind_the_end_are_ignored() -> None:
    assert inflate(deflate(TEXT) + bytes(100)) == TEXT
    assert inflate(zlib.compress(TEXT)[:-4] + b"abcd" + NOISE) == TEXT, "a wrong checksum, too"


@given(data=st.binary(max_size=300), pieces=st.lists(st.integers(1, 7), min_size=1), header=st.booleans())
def test_in_any_pieces(data: bytes, pieces: list[int], header: bool) -> None:
    compressor = zlib.compressobj(wbits=15 if header else -15)
    deflated = compressor.compress(data) + compressor.flush()
    inflater, found, at, number = Inflater(), b"", 0, 0
    while at < len(deflated):
        size = pieces[number % len(pieces)]
        found += b"".join(inflater.feed(deflated[at : at + size]))
        at, number = at + size, number + 1
    assert (found, inflater.done) == (data, True)


@pytest.mark.parametrize(
    "data", [b"", b"\x78", b"\x78\x9c", b"\x78\x9c\x03", b"\x78\xbb\0\0\0\0\0", b"\x1f\x8b"]
)
def test_what_is_no_deflated_data(data: bytes) -> None:
    with pytest.raises(DataSetError):
        inflate(data)
