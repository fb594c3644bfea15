"""What `FileSource` gives of a file."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from asyncdicom import FileSource
from asyncdicom.uid import DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN


@pytest.mark.parametrize("length", [0, 1, 2, 1 << 18, (1 << 18) + 1, (1 << 19) + 1])
@pytest.mark.parametrize("syntax", [EXPLICIT_VR_LITTLE_ENDIAN, DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN])
async def test_a_deflated_data_set_has_an_even_length(tmp_path: Path, length: int, syntax: str) -> None:
    """PS3.5 A.5; DCMTK aborts an association on which a fragment of odd length comes (PS3.8 E.1)."""
    data = bytes(range(1, 256)) * (length // 255 + 1)
    path = tmp_path / "file"
    path.write_bytes(b"HEAD" + data)
    source = FileSource(
        path,
        sop_class_uid="1.2",
        sop_instance_uid="1.3",
        transfer_syntax_uid=syntax,
        offset=4,
        length=length,
    )
    sent = b"".join([bytes(buffer) async for batch in source.open() for buffer in batch])
    padding = b"\0" if length % 2 and syntax == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN else b""
    assert sent == data[:length] + padding


@pytest.mark.parametrize("length", [10, (1 << 20) + 1])
async def test_what_is_read_in_threads_is_never_touched_in_the_event_loop(
    tmp_path: Path, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(length))
    touched: set[int] = set()
    opened = os.open

    def note(*arguments: Any, **options: Any) -> int:
        touched.add(threading.get_ident())
        return opened(*arguments, **options)

    monkeypatch.setattr(os, "open", note)
    source = FileSource(
        path,
        sop_class_uid="1.2",
        sop_instance_uid="1.3",
        transfer_syntax_uid=EXPLICIT_VR_LITTLE_ENDIAN,
        offset=0,
        length=length,
        in_threads=True,
    )
    assert source.read_at_once() is None
    assert sum([len(buffer) async for batch in source.open() for buffer in batch]) == length
    assert touched
    assert threading.get_ident() not in touched
