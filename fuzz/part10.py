"""The head of a file: `data.part10`.

Reading raises `DataSetError` and nothing else; what is written reads the same.
"""

from __future__ import annotations

from asyncdicom.data.part10 import HEAD_SIZE, encode_file_meta, read_file_meta
from asyncdicom.exceptions import DataSetError
from fuzz.check import Head, check, check_equal, words

HEAD = 2
LAYOUT = "part10"
MAXIMUM = 70000
LINES = (3000, 1)
MEMORY = (262144, 2)


def _body(data: bytes) -> bytes:
    head = Head(data, HEAD)
    if head.byte() & 1:  # as is
        return head.body
    return bytes(128) + b"DICM" + head.body  # lest every input has to find these out


def once(data: bytes) -> None:
    """What is measured."""
    try:
        read_file_meta(_body(data))
    except DataSetError:
        return


def run(data: bytes) -> object:
    """All checks."""
    body = _body(data)
    try:
        meta = read_file_meta(body)
    except DataSetError as error:
        return words(error)
    check(132 <= meta.offset <= min(len(body), HEAD_SIZE), "the data set begins outside the head")
    check_equal(read_file_meta(memoryview(body)), meta, "from a view")
    try:
        written = encode_file_meta(*meta[:3], source_ae_title="Ünïcode \udcff")
    except DataSetError:
        return "not encoded"
    check_equal(
        read_file_meta(written + body[meta.offset : meta.offset + 64])[:3], meta[:3], "there and back"
    )
    return meta.transfer_syntax_uid[:24], bool(meta.sop_class_uid), bool(meta.sop_instance_uid)
