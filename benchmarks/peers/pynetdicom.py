"""pynetdicom, in a worker, as fast as its options allow, and as its documentation shows.

As fast as it can, both sides move files as they are (`encoded_dataset`, `STORE_SEND_CHUNKED_DATASET`) and
nothing is decoded. Its sockets always get TCP_NODELAY, for which it has no option.
"""

from __future__ import annotations

import itertools
import socket
import time
from typing import Any

from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, _config, evt

from asyncdicom.uid import STUDY_ROOT, VERIFICATION
from benchmarks import identifiers, instances
from benchmarks.measure import Measurement, Sample

_kept: list[Any] = []
_open: list[Any] = []
_DEFAULT_MAXIMUM_LENGTH = 16382
_HANDLERS: list[Any] = [(evt.EVT_CONN_OPEN, lambda event: _no_delay(event))]


def _no_delay(event: Any) -> None:
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _serve(context: str, handlers: list[Any], maximum_length: int = 131072) -> int:
    entity = AE("RECEIVER")
    entity.maximum_pdu_size = maximum_length
    entity.maximum_associations = 2000
    entity.network_timeout = None
    entity.add_supported_context(context, ExplicitVRLittleEndian)
    entity.add_supported_context(VERIFICATION)
    server: Any = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[*_HANDLERS, *handlers])
    _kept.append(server)
    port: int = server.socket.getsockname()[1]
    return port


def _associate(port: int, context: str) -> Any:
    entity = AE("SENDER")
    entity.network_timeout = entity.dimse_timeout = None
    entity.add_requested_context(context, ExplicitVRLittleEndian if context != VERIFICATION else None)
    association = entity.associate("127.0.0.1", port, evt_handlers=_HANDLERS)
    if not association.is_established:
        raise RuntimeError("no association")
    return association


def _checked(response: Any) -> None:
    if not response or response.Status != 0:
        raise RuntimeError(f"the answer was {response}")


def receive(directory: str, maximum_length: int = 131072, shipped: bool = False) -> int:
    """Receive into files, undecoded; or with `shipped` as its documentation shows. Gives the port."""
    numbers = itertools.count()

    def store(event: Any) -> int:
        with open(f"{directory}/{next(numbers):07}.dcm", "wb") as file:
            file.write(event.encoded_dataset())
        return 0

    def store_as_documented(event: Any) -> int:
        dataset = event.dataset
        dataset.file_meta = event.file_meta
        dataset.save_as(f"{directory}/{next(numbers):07}.dcm", enforce_file_format=True)
        return 0

    if shipped:
        return _serve(instances.CT, [(evt.EVT_C_STORE, store_as_documented)], _DEFAULT_MAXIMUM_LENGTH)
    return _serve(instances.CT, [(evt.EVT_C_STORE, store)], maximum_length)


def send(port: int, folder: str, receiver_pid: int, shipped: bool = False) -> Sample:
    """Send the files of a folder one after another."""
    _config.STORE_SEND_CHUNKED_DATASET = not shipped
    paths = instances.files(folder)
    association = _associate(port, instances.CT)
    with Measurement(receiver_pid) as it:
        for path in paths:
            _checked(association.send_c_store(path))
    association.release()
    return it.sample(len(paths), instances.size_of(folder))


def echo(port: int, count: int, receiver_pid: int) -> Sample:
    """Send C-ECHO requests one after another."""
    association = _associate(port, VERIFICATION)
    with Measurement(receiver_pid) as it:
        for _ in range(count):
            _checked(association.send_c_echo())
    association.release()
    return it.sample(count)


def answer_find(matches: int) -> int:
    """Answer each C-FIND with so many matches; gives the port."""

    def find(event: Any) -> Any:
        for number in range(matches):
            if event.is_cancelled:
                yield 0xFE00, None
                return
            yield 0xFF00, identifiers.dataset(number)

    return _serve(STUDY_ROOT.find, [(evt.EVT_C_FIND, find)])


def answer_echo() -> int:
    """Answer C-ECHO; gives the port."""
    return _serve(instances.CT, [])


def open_many(port: int, count: int) -> float:
    """Open associations and keep them."""
    start = time.perf_counter()
    _open.extend(_associate(port, instances.CT) for _ in range(count))
    return time.perf_counter() - start


def close_many() -> None:
    """Abort what `open_many` opened: idle, they would keep the cores busy and spoil everybody's figures."""
    for association in _open:
        association.abort()
    _open.clear()
