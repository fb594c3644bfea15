"""The open index as the archive holds it, whichever engine has it: what reads, and what writes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import Engine, select, text

from asyncdicom.archive.index.chosen import ChosenReader
from asyncdicom.archive.index.deleting import DeletionReader
from asyncdicom.archive.index.delivery_reader import DeliveryReader
from asyncdicom.archive.index.expired import ExpiryReader
from asyncdicom.archive.index.failing import TRANSLATED
from asyncdicom.archive.index.hints import Hints
from asyncdicom.archive.index.leases import Leases
from asyncdicom.archive.index.peers import Learned, read_learned
from asyncdicom.archive.index.place import Place, read_place
from asyncdicom.archive.index.quarantined import QuarantineReader
from asyncdicom.archive.index.queries import Queries
from asyncdicom.archive.index.schema import archive
from asyncdicom.archive.index.sql import upserting
from asyncdicom.archive.index.stability import StabilityReader
from asyncdicom.archive.index.upkeep import Reader
from asyncdicom.archive.index.writer import Writer

__all__ = ["OpenIndex"]


class OpenIndex(ABC):
    """An open index. ``engine``: its connections; ``upkeep`` looks at it as a whole. Everything blocks."""

    kind: str
    """The name of the engine, as the folder's marker has it."""
    label: str
    """What people call it."""
    _ANY_ROW = "SELECT 1 FROM instance LIMIT 1"

    def __init__(self, engine: Engine, upkeep: Reader) -> None:
        self._engine = engine
        self.upkeep = upkeep
        """Looks at it as a whole."""
        self.quarantine = QuarantineReader(engine)
        """Looks at what is in quarantine."""
        self.deliveries = DeliveryReader(engine)
        """Looks at the work that is to be done."""
        self.chosen = ChosenReader(engine)
        """Looks at the deliveries of what an operator has chosen."""
        self.deletions = DeletionReader(engine)
        """Looks at what is to be deleted, and at what was."""
        self.expiry = ExpiryReader(engine)
        """Looks for what is old enough to go."""
        self.stability = StabilityReader(engine)
        """Looks at the studies that something has come for."""
        self.leases = Leases()
        """What this process alone may do at a time."""
        self.hints = Hints()
        """What processes let one another know of new work."""

    def identity(self) -> tuple[tuple[str, int] | None, bool]:
        """Give the archive's ID and generation, if they are known, and whether there is any instance."""
        with TRANSLATED, self._engine.connect() as connection:
            row = connection.execute(select(archive.c.archive_id, archive.c.generation)).first()
            has_rows = connection.execute(text(self._ANY_ROW)).first() is not None
        return (None if row is None else (row[0], row[1])), has_rows

    def set_identity(self, archive_id: str, generation: int) -> None:
        """Note the archive's ID and generation."""
        with TRANSLATED, self._engine.connect() as connection:
            connection.execute(upserting(archive, id=1, archive_id=archive_id, generation=generation))

    is_shared = False
    """Whether several processes may have it open."""

    @contextmanager
    def joining(self) -> Iterator[Callable[[], bool]]:
        """Let nobody else open it meanwhile; gives what tells whether nobody else has it open.

        Raises `IndexFailed`, as what it gives does.
        """
        yield lambda: True

    def others(self) -> int:
        """Count the other processes that have it open."""
        return 0

    @abstractmethod
    def writer(self) -> Writer:
        """Give what writes. There is one at a time in each process; who has it closes it."""

    @abstractmethod
    def queries(self, threads: int) -> Queries:
        """Give what reads for peers, in so many threads (see `Finding`). Who has it closes it."""

    @abstractmethod
    def copy_to(self, path: str) -> None:
        """Copy all that is committed to a new index at a path; who writes goes on meanwhile.

        Raises ``FileExistsError`` if something is there, and `ArchiveError` where the engine copies itself.
        """

    def place(self) -> Place:
        """Give how far the scrub has come."""
        return read_place(self._engine)

    def learned(self, now: float) -> list[Learned]:
        """Give what was learned of peers and holds now, in seconds since 1970."""
        return read_learned(self._engine, now)

    def close(self) -> None:
        """Give the connections up."""
        self._engine.dispose()
