"""The limits and deadlines of one association."""

from __future__ import annotations

from typing import NamedTuple

from asyncdicom.ul.protocol import Timeouts

__all__ = ["Settings"]


class Settings(NamedTuple):
    """Limits and deadlines of one association; times in seconds, sizes in bytes, None is "off"."""

    maximum_length: int = 262144
    maximum_associate_length: int = 262144
    timeouts: Timeouts = Timeouts()
    dimse_timeout: float | None = 120.0
    cancel_timeout: float = 10.0
    write_timeout: float | None = 30.0
    handler_timeout: float | None = 120.0
    read_budget: int = 1 << 20
    maximum_matches: int | None = 100_000
    maximum_data_set: int = 16 << 20
    maximum_discarded: int = 1 << 30

    def shortest_timeout(self) -> float:
        """No deadline can come up that is nearer than this."""
        timeouts = (
            *self.timeouts,
            self.dimse_timeout,
            self.cancel_timeout,
            self.write_timeout,
            self.handler_timeout,
        )
        return min(timeout for timeout in timeouts if timeout is not None)
