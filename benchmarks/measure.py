"""The clocks of one measurement: wall time, and the CPU time of sender and receiver."""

from __future__ import annotations

import time
from typing import Self

from benchmarks.processes import cpu_seconds_with_children

Sample = dict[str, float]


class Measurement:
    """``with Measurement(receiver_pid) as it: ...`` in the sender's process; then `it.sample(...)`."""

    def __init__(self, receiver_pid: int) -> None:
        self._receiver_pid = receiver_pid

    def __enter__(self) -> Self:
        self._receiver = cpu_seconds_with_children(self._receiver_pid)
        self._sender = time.process_time()
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._start
        self.cpu_sender = time.process_time() - self._sender
        self.cpu_receiver = cpu_seconds_with_children(self._receiver_pid) - self._receiver

    def sample(self, operations: int, size: int = 0) -> Sample:
        """Give the figures of `operations` that moved `size` bytes in all."""
        return sample(self.seconds, operations, size, self.cpu_sender, self.cpu_receiver)


def sample(seconds: float, operations: int, size: int, cpu_sender: float, cpu_receiver: float) -> Sample:
    """Give the figures that most tables show."""
    cpu = cpu_sender + cpu_receiver
    figures = {
        "seconds": seconds,
        "operations": operations,
        "bytes": size,
        "ops_per_s": operations / seconds,
        "us_per_op": seconds / operations * 1e6,
        "cpu_us_per_op": cpu / operations * 1e6,
        "cpu_us_per_op_sender": cpu_sender / operations * 1e6,
        "cpu_us_per_op_receiver": cpu_receiver / operations * 1e6,
    }
    if size:
        figures |= {
            "mb_per_s": size / seconds / 1e6,
            "cpu_s_per_gb": cpu / size * 1e9,
            "cpu_s_per_gb_sender": cpu_sender / size * 1e9,
            "cpu_s_per_gb_receiver": cpu_receiver / size * 1e9,
        }
    return figures
