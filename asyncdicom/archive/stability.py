"""Studies that are stable: nothing has come for them for a while.

`Quiet` decides, and knows neither clock nor index; `stable_studies` asks the index what has come, and notes
there who was told what, so that a restart tells everybody what is still to be told.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from typing import NamedTuple, Protocol, TypeVar, TypeVarTuple

from asyncdicom.archive.index.leases import Lease, Leases
from asyncdicom.archive.index.stability import (
    Arrived,
    Mark,
    StabilityReader,
    StudyState,
    take_over,
    write_told,
)
from asyncdicom.archive.index.writer import Writer

__all__ = ["Quiet", "StableStudies", "StableStudy", "stable_studies"]

_LONGEST = 5.0  # seconds between two looks
_LEASED = "stable "  # what the leases of names begin with
_PART = 8  # looks in the time that a study has to be quiet

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")


class StableStudy(NamedTuple):
    """A study that nothing has come for since a while."""

    study_instance_uid: str
    patient_id: str
    instances: int
    """How many it has now."""

    last_received: datetime
    """When the last one came."""


class _Armed(NamedTuple):
    before: Mark
    """What came before its first instance that was not told."""

    received: float


class Quiet:
    """Which studies are waited for. Times are in seconds since 1970.

    Args:
        seconds: how long nothing may have come for a study.
        after: the instance up to which everything was told.
    """

    def __init__(self, seconds: float, after: Mark) -> None:
        self._seconds = seconds
        self._armed: dict[int, _Armed] = {}
        self.after = after
        """The last instance that was looked at."""

    def arrived(self, instances: Iterable[Arrived], told: Mapping[int, Mark], now: float) -> None:
        """Instances have come, in their order; what a study was told of, up to a mark, is known."""
        for each in instances:
            before, self.after = self.after, Mark(each.id, each.received)
            mark = told.get(each.study)
            if mark is not None and each.id <= mark.id and each.received <= mark.received:
                continue
            known = self._armed.get(each.study)
            received = _seconds_of(each.received, now)
            if known is not None:
                before, received = known.before, max(known.received, received)
            self._armed[each.study] = _Armed(before, received)

    def stable(self, now: float) -> list[int]:
        """Give the studies that nothing has come for long enough, the longest first."""
        found = [(each.received, study) for study, each in self._armed.items() if self._is_over(each, now)]
        return [study for _, study in sorted(found)]

    def _is_over(self, armed: _Armed, now: float) -> bool:
        return now - armed.received >= self._seconds

    def is_still(self, study: int, received: str, now: float) -> bool:
        """Tell whether a study is stable that was looked at again; if not, it is waited for again.

        `received`: when its last instance came.
        """
        armed = self._armed[study]._replace(received=_seconds_of(received, now))
        self._armed[study] = armed
        return self._is_over(armed, now)

    def told(self, study: int) -> None:
        """A study was told, or is gone."""
        self._armed.pop(study, None)

    @property
    def through(self) -> Mark:
        """The instance up to which everything was told."""
        return min((each.before for each in self._armed.values()), default=self.after)


def _seconds_of(received: str, now: float) -> float:
    """Give a time; one that lies ahead, because the clock was set back, is now."""
    return min(now, datetime.fromisoformat(received).timestamp())


class _InThread(Protocol):
    async def __call__(self, call: Callable[[*_Ts], _T], *arguments: *_Ts) -> _T: ...


class StableStudies:
    """Tells everybody who asks under a name which studies are stable; the arguments: see `stable_studies`."""

    def __init__(
        self,
        reader: StabilityReader,
        change: Callable[[Callable[[Writer], None]], None],
        in_thread: _InThread,
        leases: Leases,
    ) -> None:
        self._parts = reader, change, in_thread
        self._leases = leases
        self._names: set[str] = set()  # of those who are given studies now
        self.asked: set[str] = set()
        """The names that were asked under, until `forget`: nothing goes that they were not told of."""

    def asked_for(self) -> set[str]:
        """Give the names that anybody asks under, in any process. Blocks. Raises `IndexFailed`."""
        return self.asked | {name.removeprefix(_LEASED) for name in self._leases.held(_LEASED)}

    async def take_over(self, beginning: str, quiets: Mapping[str, float]) -> None:
        """Say which names with a beginning there are from now on, and after how many seconds they are told.

        A name that is new is told of the studies that are not stable yet, and of all that those who are no
        more had still to be told of. Raises what the disk or the index raise.
        """
        now = time.time()
        since = {
            name: datetime.fromtimestamp(now - quiet, UTC).isoformat(timespec="milliseconds")
            for name, quiet in quiets.items()
        }
        _, change, in_thread = self._parts
        await in_thread(change, lambda writer: take_over(writer, beginning, since))
        self.asked -= {name for name in self.asked if name.startswith(beginning) and name not in quiets}

    async def studies(self, name: str, quiet: float) -> AsyncGenerator[StableStudy, None]:
        """See `Archive.stable_studies`."""
        if not quiet > 0:
            raise ValueError("quiet is a number of seconds above 0")
        if name in self._names:
            raise ValueError(f"somebody is given the stable studies as {name!r} already")
        self._names.add(name)
        self.asked.add(name)
        try:
            lease = Lease(self._leases, f"{_LEASED}{name}")
            while True:
                if not await self._parts[2](lease.keep):  # another process is given them
                    await asyncio.sleep(min(_LONGEST, quiet / _PART))
                    continue
                studies = stable_studies(*self._parts, name=name, quiet=quiet, is_ours=lease.keep)
                async with aclosing(studies):
                    async for study in studies:
                        yield study
        finally:
            self._names.discard(name)


async def stable_studies(
    reader: StabilityReader,
    change: Callable[[Callable[[Writer], None]], None],
    in_thread: _InThread,
    *,
    name: str,
    quiet: float,
    clock: Callable[[], float] = time.time,
    is_ours: Callable[[], bool] = lambda: True,
) -> AsyncGenerator[StableStudy, None]:
    """See `Archive.stable_studies`. `change` blocks, as the reader does: `in_thread` calls them.

    Ends when the name is not ours any more: another process goes on with it.
    """

    async def note(*told: tuple[int, Mark]) -> None:
        through = waiting.through
        await in_thread(change, lambda writer: write_told(writer, name, through, told))

    waiting = Quiet(quiet, await in_thread(reader.start, name))
    await note()
    while await in_thread(is_ours):
        while page := await in_thread(reader.arrived, waiting.after):
            told = await in_thread(reader.told, name, sorted({each.study for each in page}))
            waiting.arrived(page, told, clock())
        for study in waiting.stable(clock()):
            state = await in_thread(reader.state, study)
            if state is not None:
                if not waiting.is_still(study, state.received, clock()):
                    continue
                yield _told_of(state)
                if not await in_thread(is_ours):  # it took long: perhaps it is told again
                    return
                waiting.told(study)
                await note((study, Mark(state.last, state.received)))
            else:
                waiting.told(study)
        await asyncio.sleep(min(_LONGEST, quiet / _PART))


def _told_of(state: StudyState) -> StableStudy:
    received = datetime.fromisoformat(state.received)
    return StableStudy(state.study_instance_uid, state.patient_id, state.instances, received)
