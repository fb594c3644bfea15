"""What goes by itself, by written rules; without a rule nothing does.

Slowly, all the time: 500 instances are looked at, then what may go of them is deleted in one transaction, as
`Archive.delete` does it. Nothing goes that a delivery or a storage commitment is open for, and nothing whose
delivery has failed, unless a rule says so. It is told in the log, and counted as "expired".
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple

from asyncdicom.archive.archive import Archive
from asyncdicom.archive.errors import reason
from asyncdicom.archive.index.expired import Candidate, Criteria, Total
from asyncdicom.archive.index.leases import Lease
from asyncdicom.archive.index.work import COMMITTED
from asyncdicom.telemetry.log import Log

__all__ = ["Expired", "Retention", "RetentionRule", "expired", "parse_retention", "tables_of"]

_LOG = Log("asyncdicom.archive")

_KINDS = {"": "", "delivered": "store", "committed": COMMITTED}
_FIRST = 60.0  # seconds after the start: who asks for stable studies is known by then
_TURN = 0.2  # seconds between two transactions: who stores has the index for himself
_ROUND = 30.0  # seconds between two times round, or as long as one has taken
_GIB = 1 << 30
_DAY = 86400.0
_LONGEST = 36500  # days
_ANY_TIME = "9999"  # where days do not count: also later than now, by a clock that was wrong


@dataclass(frozen=True)
class RetentionRule:
    """Which instances go: those that all of this is true of."""

    days: float = 0.0
    """They were received so many days ago, or more."""

    calling: tuple[str, ...] = ()
    """One of these AE titles has sent them; none: any."""

    only: str = ""
    """"delivered": deliveries of them are done, and none is open or has failed; "committed": a peer has said
    that it keeps them (`Archive.note_committed`)."""

    to: tuple[str, ...] = ()
    """With `only`: to each of these destinations."""

    maximum_gib: float | None = None
    """All data sets of the archive together take more than so many GiB: the oldest go, until they do not."""

    even_failed: bool = False
    """Also those whose delivery has failed."""

    name: str = ""
    """What the log and the tombstones call it."""

    def __post_init__(self) -> None:
        """Check it. Raises ValueError, which names the field."""
        if not 0 <= self.days <= _LONGEST:
            raise ValueError(f"days is a number from 0 to {_LONGEST}")
        if self.only not in _KINDS:
            raise ValueError('only is "delivered" or "committed"')
        if self.to and not self.only:
            raise ValueError('to goes with only = "delivered" or "committed"')
        if self.maximum_gib is not None and not self.maximum_gib >= 0:
            raise ValueError("maximum_gib is a number of GiB")
        if not (self.days or self.only or self.maximum_gib is not None):
            raise ValueError("days, only or maximum_gib is missing: without any of them all would go")

    @property
    def why(self) -> str:
        """What the tombstones say."""
        return f"by the retention rule {self.called}"

    @property
    def called(self) -> str:
        """Its name, or what it says."""
        return self.name or ", ".join(f"{key}={value}" for key, value in self.said().items()) or "days=0"

    def said(self) -> dict[str, Any]:
        """Give the fields that are not as they are by default."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {each.name: values[each.name] for each in fields(self) if values[each.name] != each.default}

    def criteria(self, now: float) -> Criteria:
        """Give what to look for; `now` in seconds since 1970."""
        when = datetime.fromtimestamp(now, UTC)
        until = _as_text(when - timedelta(days=self.days)) if self.days else _ANY_TIME
        return Criteria(until, _as_text(when), self.calling, _KINDS[self.only], self.to, self.even_failed)


def _as_text(when: datetime) -> str:
    return when.isoformat(timespec="milliseconds")


_LISTS = ("calling", "to")
_TYPES: dict[str, tuple[type, ...]] = {
    "days": (int, float),
    "calling": (list,),
    "only": (str,),
    "to": (list,),
    "maximum_gib": (int, float),
    "even_failed": (bool,),
    "name": (str,),
}


def parse_retention(tables: object) -> tuple[RetentionRule, ...]:
    """Make rules of the tables [[retention]] of a file. Raises `RetentionError`."""
    if not isinstance(tables, list):
        raise RetentionError("retention are tables in an order: [[retention]]")
    return tuple(_rule(number, table) for number, table in enumerate(tables))


class RetentionError(ValueError):
    """A rule is wrong; `key` is the way to it in the file."""

    def __init__(self, message: str, *key: str | int) -> None:
        super().__init__(message)
        self.key = ("retention", *key)


def _rule(number: int, table: object) -> RetentionRule:
    if not isinstance(table, dict):
        raise RetentionError("retention are tables in an order: [[retention]]")
    for key, value in table.items():
        if key not in _TYPES:
            known = ", ".join(_TYPES)
            raise RetentionError(f"retention: unknown key {key!r}; known are {known}", number, key)
        texts = key in _LISTS and isinstance(value, list)
        if type(value) not in _TYPES[key] or (texts and not all(isinstance(each, str) for each in value)):
            kinds = "a list of texts" if key in _LISTS else " or ".join(t.__name__ for t in _TYPES[key])
            raise RetentionError(f"retention: {key} must be {kinds}", number, key)
    lists = {key: tuple(table[key]) for key in _LISTS if key in table}
    try:
        return RetentionRule(**{**table, **lists})
    except ValueError as error:
        raise RetentionError(f"retention: {error}", number) from None


class Expired(NamedTuple):
    """Instances that a rule means, some at a time: those that may go, and how many are held by open work."""

    rule: RetentionRule
    criteria: Criteria
    going: list[Candidate]
    held: int


class _Size:
    """The bytes of all data sets: added up once for a rule, then what comes and goes."""

    def __init__(self, archive: Archive, gone: int = 0) -> None:
        self._archive = archive
        self._total = Total()
        self.gone = gone
        """How much was deleted since, or would be."""

    async def look(self) -> int:
        """Give how much it is now."""
        while True:
            before = self._total
            self._total = await self._archive.read(self._archive.expiry.total, before)
            if self._total.last == before.last:
                return self._total.size - self.gone


async def expired(
    archive: Archive, rules: Sequence[RetentionRule], *, clock: Callable[[], float] = time.time
) -> AsyncGenerator[Expired, None]:
    """Give what may go now by the rules, some at a time. Raises `ArchiveError`."""
    gone = 0
    seen: set[int] = set()
    for rule in rules:
        size = _Size(archive, gone)
        async with aclosing(_of_rule(archive, rule, size, clock())) as pages:
            async for page in pages:
                new = [each for each in page.going if each.id not in seen]
                if len(rules) > 1:
                    seen.update(each.id for each in new)
                size.gone += sum(each.size for each in new)
                yield page._replace(going=new)
        gone = size.gone


async def _of_rule(
    archive: Archive, rule: RetentionRule, size: _Size, now: float
) -> AsyncGenerator[Expired, None]:
    """Give what a rule means, some at a time; who deletes it has `size` know it before he goes on."""
    told = tuple(sorted(await archive.read(archive.stability.asked_for)))
    criteria = rule.criteria(now)._replace(told=told)
    after, is_last = 0, False
    while not is_last:
        excess: float | None = None
        if rule.maximum_gib is not None:
            excess = await size.look() - rule.maximum_gib * _GIB
            if excess <= 0:
                return
        found, after, is_last = await archive.read(archive.expiry.page, criteria, after)
        going = []
        for each in found:
            if not each.is_held and (excess is None or excess > 0):
                going.append(each)
                excess = None if excess is None else excess - each.size
        yield Expired(rule, criteria, going, sum(each.is_held for each in found))


class Retention:
    """Deletes what rules say, as long as its block lasts::

        async with Archive("spool") as archive, Retention(archive, [RetentionRule(days=30)]):
            async with serve_archive(archive, "ARCHIVE@0.0.0.0:104") as server:
                await server.serve_forever()

    What somebody has yet to be told of, because he asks for stable studies, is held, too. `first`: seconds
    until it begins; `turn`: between two transactions; `round`: between two times round; `clock` gives the
    seconds since 1970.
    """

    def __init__(
        self,
        archive: Archive,
        rules: Sequence[RetentionRule],
        *,
        first: float = _FIRST,
        turn: float = _TURN,
        round: float = _ROUND,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._archive = archive
        self.rules = tuple(rules)
        self._first = first
        self._turn = turn
        self._round = round
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        self.rounds = 0
        """How many times it has been all round."""

    async def __aenter__(self) -> Retention:
        for rule in self.rules:
            _LOG.info("instances are deleted %s", rule.why)
        if self.rules:
            self._task = asyncio.get_running_loop().create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def _run(self) -> None:
        await asyncio.sleep(self._first)
        lease = Lease(self._archive.leases, "retention")
        while True:
            began = time.monotonic()
            try:
                for rule in self.rules:
                    await self._apply(rule, lease)
                self.rounds += 1
            except Exception as error:
                _LOG.error("what should go by the rules of retention stays for now: %s", reason(error))
            await asyncio.sleep(max(self._round, time.monotonic() - began) if self._round else 0)

    async def _apply(self, rule: RetentionRule, lease: Lease) -> None:
        """Apply a rule, if no other process does; as long as none has taken over."""
        gone = held = 0
        size = _Size(self._archive)
        try:
            async with aclosing(_of_rule(self._archive, rule, size, self._clock())) as pages:
                async for page in pages:
                    if not await self._archive.read(lease.keep):
                        return
                    held += page.held
                    if not page.going:
                        await asyncio.sleep(self._turn / 10)
                        continue
                    ids = [each.id for each in page.going]
                    deleting, until = self._archive.deleting, max(each.received for each in page.going)
                    step = await self._archive.upkeep(
                        partial(deleting.chosen, ids, until, rule.why, even_failed=rule.even_failed)
                    )
                    size.gone += step.size
                    gone, held = gone + step.instances, held + len(step.refused)
                    self._archive.happened["expired"] += step.instances
                    await asyncio.sleep(self._turn)
        finally:
            if gone:
                _LOG.info(
                    "%d instances (%d bytes) were deleted %s; %d are held", gone, size.gone, rule.why, held
                )


def tables_of(rules: Sequence[RetentionRule]) -> list[dict[str, Any]]:
    """Give rules as `parse_retention` reads them."""
    return [
        {key: list(value) if key in _LISTS else value for key, value in each.said().items()} for each in rules
    ]
