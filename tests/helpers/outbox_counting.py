"""What the writer of an archive's index is given to do, counted."""

from __future__ import annotations

from collections import Counter

from asyncdicom.archive import Archive


class counting:
    """Count the statements that the driver gets, by their first word."""

    def __init__(self, archive: Archive) -> None:
        self._connection = archive._ingest._writer._fairy.driver_connection
        self.counts: Counter[str] = Counter()

    def __enter__(self) -> Counter[str]:
        self._connection.set_trace_callback(lambda sql: self.counts.update([sql.split(None, 1)[0]]))
        return self.counts

    def __exit__(self, *_: object) -> None:
        self._connection.set_trace_callback(None)
