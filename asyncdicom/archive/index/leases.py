"""What one process of an archive does at a time: it is leased, and free again when it is not renewed.

One process alone needs none of it: `Leases` gives whatever is asked for. Times are those of the server that
has the index, whose clock is the same for everybody.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

from sqlalchemy import Engine, text

from asyncdicom.archive.index.failing import TRANSLATED

__all__ = ["SECONDS", "Lease", "Leases", "SharedLeases"]

SECONDS = 60.0
"""How long a lease lasts that nobody renews."""

_PART = 4  # it is renewed when this part of it has passed

_TAKE = text("""
    INSERT INTO lease (name, holder, until)
    VALUES (:name, :holder, extract(epoch FROM clock_timestamp()) + :seconds)
    ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until
    WHERE lease.holder = excluded.holder OR lease.until <= extract(epoch FROM clock_timestamp())
""")
_GIVE_BACK = text("DELETE FROM lease WHERE name = :name AND holder = :holder")
_GIVE_ALL_BACK = text("DELETE FROM lease WHERE holder = :holder")
_FREE_ALL = text("DELETE FROM lease")
_HELD = text(
    "SELECT name FROM lease WHERE until > extract(epoch FROM clock_timestamp()) AND name LIKE :beginning"
)


class Leases:
    """The leases of one process that is alone: it has them all."""

    def take(self, name: str) -> bool:
        """Take a lease, or renew it; tells whether it is ours now. Blocks. Raises `IndexFailed`."""
        return True

    def give_back(self, name: str) -> None:
        """Let others have it at once. Blocks. Raises `IndexFailed`."""

    def give_all_back(self) -> None:
        """Let others have all that are ours. Blocks. Raises `IndexFailed`."""

    def free_all(self) -> None:
        """Nobody else is there: what a process has left behind is free. Blocks. Raises `IndexFailed`."""

    def held(self, beginning: str) -> set[str]:
        """Give the names of those with a beginning that anybody has. Blocks. Raises `IndexFailed`."""
        return set()


class SharedLeases(Leases):
    """Those of a process among several, as rows of the index. For any thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._holder = secrets.token_hex(8)

    def take(self, name: str) -> bool:
        """See `Leases`."""
        row = {"name": name, "holder": self._holder, "seconds": SECONDS}
        with TRANSLATED, self._engine.connect() as connection:
            return bool(connection.execute(_TAKE, row).rowcount)

    def give_back(self, name: str) -> None:
        """See `Leases`."""
        with TRANSLATED, self._engine.connect() as connection:
            connection.execute(_GIVE_BACK, {"name": name, "holder": self._holder})

    def give_all_back(self) -> None:
        """See `Leases`."""
        with TRANSLATED, self._engine.connect() as connection:
            connection.execute(_GIVE_ALL_BACK, {"holder": self._holder})

    def free_all(self) -> None:
        """See `Leases`."""
        with TRANSLATED, self._engine.connect() as connection:
            connection.execute(_FREE_ALL)

    def held(self, beginning: str) -> set[str]:
        """See `Leases`."""
        with TRANSLATED, self._engine.connect() as connection:
            return set(connection.scalars(_HELD, {"beginning": f"{beginning}%"}))


class Lease:
    """One of them, kept while something takes long: `keep` is called again and again. For one thread."""

    def __init__(self, leases: Leases, name: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._leases = leases
        self._name = name
        self._clock = clock
        self._until = float("-inf")  # it is asked for again

    def keep(self) -> bool:
        """Tell whether it is ours, or can be: it is taken, or renewed now and then. Blocks.

        Raises `IndexFailed`: then it is not known, and nothing may go on that needs it.
        """
        now = self._clock()
        if now < self._until:
            return True
        if not self._leases.take(self._name):
            return False
        self._until = now + SECONDS / _PART
        return True

    def give_back(self) -> None:
        """Let others have it at once. Blocks. Raises `IndexFailed`."""
        self._until = float("-inf")
        self._leases.give_back(self._name)
