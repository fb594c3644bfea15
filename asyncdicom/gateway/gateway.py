"""`Gateway`: what an archive receives is sent on, by rules, and kept until it has arrived."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from asyncdicom.archive.archive import Archive
from asyncdicom.archive.errors import ArchiveError
from asyncdicom.archive.index.work import LEASE, State
from asyncdicom.destination import Destination
from asyncdicom.gateway.config import GatewayConfig, GatewayDestination
from asyncdicom.gateway.link import Link
from asyncdicom.gateway.rerouting import reroute
from asyncdicom.gateway.resending import deliver_stable
from asyncdicom.gateway.routing import DELIVERY, UNROUTED, Routing, line_of, members_of
from asyncdicom.gateway.sender import Sender, first_available
from asyncdicom.gateway.streaming import Streaming
from asyncdicom.services.contexts import Kind
from asyncdicom.telemetry.log import Log

__all__ = ["Gateway"]

_LOG = Log("asyncdicom.gateway")


# What is owed to a destination that the configuration does not have is seen beside what others are owed.
_GONE: Mapping[str, Any] = {
    "address": "nowhere",
    "state": "not configured",
    "under_way": 0,
    "delivered_since_start": 0,
    "failures_in_a_row": 0,
    "last_status": None,
    "last_trouble": "",
}
_AFTER_ERROR = 5.0  # seconds, when the index could not be asked for stable studies
_ASKS = "gateway "  # what the names begin with under which it asks for them


class Gateway:
    """Routes what an open archive receives. Use it with ``async with``, before the archive is served::

        async with Archive("spool") as archive, Gateway(archive, read_gateway("gateway.toml")):
            async with serve_archive(archive, "GATE@0.0.0.0:104") as server:
                await server.serve_forever()

    A Success to the sender says that the instance and all its deliveries are as durable as the archive
    promises. Each delivery arrives at least once: after a crash what was under way is sent again.
    `ae_title`: what we call ourselves towards destinations that do not say otherwise. `patience`: seconds
    that what is being sent has at the end; what is cut off then is sent again after the next start.
    """

    def __init__(
        self, archive: Archive, config: GatewayConfig, *, ae_title: str = "ASYNCDICOM", patience: float = 10.0
    ) -> None:
        self.config = config
        self._archive = archive
        self._ae_title = ae_title
        self._patience = patience
        self._links: dict[str, Link] = {}
        self._delivered: Counter[str] = Counter()  # by destination, whatever links it had since the start
        self._unsubscribe: Callable[[], None] | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._rerouting: asyncio.Task[None] | None = None
        self._asks_again = asyncio.Event()
        self._watching: dict[float, asyncio.Task[None]] = {}  # by the seconds that studies have to be quiet
        self._naming: set[asyncio.Task[None]] = set()
        self._names_turn = asyncio.Lock()
        self._connecting: list[asyncio.Task[None]] = []
        self._turn = asyncio.Lock()
        self._kinds: list[Kind] = []

    async def __aenter__(self) -> Gateway:
        self._route()  # before anything is waited for: the archive's sweep has not begun yet
        try:
            recent = await self._archive.recent_kinds()
            self._kinds = [kind for kind, _ in recent.most_common()]
            await self._connect()
        except BaseException:
            self._unroute()
            raise
        self._unsubscribe = self._archive.outbox.subscribe(self._wake)
        self._watch()
        self._renewing = asyncio.ensure_future(self._renew())
        self._rerouting = asyncio.ensure_future(self._reroute())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._unsubscribe is not None:
            self._unsubscribe()
        await _end([self._rerouting, *self._watching.values(), *self._naming])
        if self._connecting:
            await asyncio.wait(self._connecting)
        await asyncio.gather(*(link.stop(self._patience) for link in self._links.values()))
        await _end([self._renewing])  # only now: the patience may be longer than a lease
        self._unroute()

    def _unroute(self) -> None:
        self._archive.route(None)
        self._archive.passing = None

    def renew(self, config: GatewayConfig) -> None:
        """Let another configuration be in force: its rules at once, its destinations as soon as may be.

        What is under way to a destination that has changed or gone is finished first, as at the end. What
        waits for one that has gone stays, and is told. What has no rule stays unrouted until a retry.
        """
        self.config = config
        self._route()
        self._watch()
        self._connecting.append(asyncio.ensure_future(self._reconnect()))

    def _route(self) -> None:
        self._routing = Routing(self.config.rules, self.config.destinations)
        self._archive.route(self._routing)
        streams = frozenset(name for name, each in self.config.destinations.items() if each.mode == "stream")
        find, happened = lambda name: self._links.get(name), self._archive.outbox.happened  # they are renewed
        streaming = Streaming(self.config.rules, streams, find, happened)
        self._archive.passing = streaming.answer if streams else None

    async def _reconnect(self) -> None:
        async with self._turn:  # of several, the last one has the last word
            try:
                await self._connect()
            except Exception as error:
                _LOG.error(
                    "the destinations of the new configuration are not in force: %s",
                    error or type(error).__name__,
                )
        self._connecting = [task for task in self._connecting if not task.done()]

    async def _connect(self) -> None:
        """Have a link for each destination; those that are as they were go on."""
        waiting = await self._archive.read(self._archive.deliveries.lines, DELIVERY)
        config = self.config
        lost = await self._lost(waiting, config)
        lines = waiting.union(map(line_of, config.rules.groups))
        links: dict[str, Link] = {}
        for name, destination in config.destinations.items():
            own = (name, *sorted(line for line in lines if line != name and name in members_of(line)))
            before = self._links.get(name)
            if before is not None and (before.destination, before.lines) == (destination, own):
                links[name] = before
            else:
                links[name] = self._link(destination, own)
        new = [link for name, link in links.items() if link is not self._links.get(name)]
        old = [link for name, link in self._links.items() if link is not links.get(name)]
        await asyncio.gather(*(link.stop(self._patience) for link in old))
        self._links = links
        self._tell_where(new)
        _tell_lost(lost)
        for link in new:
            link.start()

    def _link(self, destination: GatewayDestination, lines: Sequence[str]) -> Link:
        return Link(
            self._archive,
            destination,
            lines,
            calling_ae_title=self._ae_title,
            kinds=self._kinds,
            choose=self._choose,
            on_trouble=self._trouble,
            delivered=self._delivered,
        )

    def _tell_where(self, links: Iterable[Link]) -> None:
        """Say where instances are sent, and how: that it is in the clear has to be seen."""
        for link in links:
            called = link.destination.destination
            how = "as files"
            if isinstance(called, Destination):
                how = "by TLS" if called.ssl is not None else "in the clear, without TLS"
            _LOG.info("instances are sent on to %s (%s) %s", link.destination.name, called.where, how)
        if not self.config.destinations:
            _LOG.warning("the gateway has no destination: nothing is sent on")

    async def _lost(self, waiting: Iterable[str], config: GatewayConfig) -> list[tuple[str, int]]:
        """Give what waits for destinations that a configuration does not have, and how much that is."""
        read, number = self._archive.read, self._archive.deliveries.number
        lost = [line for line in sorted(waiting) if config.destinations.keys().isdisjoint(members_of(line))]
        return [(line, await read(number, DELIVERY, line)) for line in lost]

    # who sends what

    def _choose(self, line: str) -> Sender | None:
        senders = {name: link.sender for name, link in self._links.items()}
        names = [name for name in members_of(line) if name in senders]
        now, clock = asyncio.get_running_loop().time(), datetime.now(UTC)
        return first_available(names, senders, now, clock)

    def _wake(self, destinations: Mapping[str, int] | None) -> None:
        for link in self._links.values():
            link.wake(destinations)
        if destinations is None:
            self._asks_again.set()

    def _trouble(self, troubled: Link) -> None:
        """The others of its groups may have to take over."""
        for link in self._links.values():
            if link is not troubled and not set(link.lines).isdisjoint(troubled.lines):
                link.wake()

    async def _renew(self) -> None:
        """Keep the leases of what is claimed while it takes its time."""
        while True:
            await asyncio.sleep(LEASE / 3)
            ids = [each for link in self._links.values() for each in link.claimed()]
            if ids:
                with suppress(Exception):  # the outbox tells of the disk; then it is perhaps sent twice
                    await self._archive.outbox.renew(ids)

    async def _reroute(self) -> None:
        """Ask the rules again about what was not routed, when an operator has it tried again."""
        while True:
            try:
                await reroute(self._archive, self._routing)
            except Exception as error:
                _LOG.error("what is not routed could not be looked at: %s", error or type(error).__name__)
            await self._asks_again.wait()
            self._asks_again.clear()

    # stable studies

    def _watch(self) -> None:
        """Wait for stable studies, as the rules say; the index knows by name what each was told."""
        quiets = self.config.rules.quiets
        for quiet in [each for each in self._watching if each not in quiets]:
            self._watching.pop(quiet).cancel()
        naming = asyncio.ensure_future(self._name())
        self._naming.add(naming)
        naming.add_done_callback(self._naming.discard)
        for quiet in quiets - self._watching.keys():
            self._watching[quiet] = asyncio.ensure_future(self._deliver_stable(quiet, naming))

    async def _name(self) -> None:
        """Let what waited for other seconds of quiet before go by those that there are now."""
        async with self._names_turn:
            while True:
                names = {f"{_ASKS}{quiet:g}": quiet for quiet in self.config.rules.quiets}
                try:
                    return await self._archive.stability.take_over(_ASKS, names)
                except Exception as error:
                    _LOG.error("stable studies cannot be sent on: %s", error or type(error).__name__)
                    await asyncio.sleep(_AFTER_ERROR)

    async def _deliver_stable(self, quiet: float, naming: asyncio.Task[None]) -> None:
        await asyncio.wait((naming,))
        while True:
            try:
                studies = self._archive.stable_studies(quiet=quiet, name=f"{_ASKS}{quiet:g}")
                async with aclosing(studies):
                    async for study in studies:
                        uid = study.study_instance_uid
                        await deliver_stable(self._archive, self._routing, quiet, uid)
                return  # the archive is closed
            except Exception as error:
                _LOG.error("stable studies cannot be sent on: %s", error or type(error).__name__)
                await asyncio.sleep(_AFTER_ERROR)

    # the operator

    async def pause(self, name: str, *, paused: bool) -> None:
        """Pause a destination, or go on; it stays so after a start.

        Raises `ArchiveError` for a destination that there is not.
        """
        if name not in self._links:
            raise ArchiveError(f"there is no destination {name!r}; there are {', '.join(self._links)}")
        await self._archive.outbox.pause(name, paused=paused)
        self._links[name].pause(paused=paused)

    async def status(self) -> list[dict[str, Any]]:
        """Give, of each destination, its state and what waits for it; of those that are gone, too.

        Raises `ArchiveError`.
        """
        counts = await self._archive.read(self._archive.deliveries.counts)
        oldest = await self._archive.read(self._archive.deliveries.oldest)
        now = self._archive.outbox.clock()
        served = {line for link in self._links.values() for line in link.lines}
        lost = sorted({line for kind, line, _, _ in counts if kind == DELIVERY} - served)
        known = [(link.status(), link.lines) for link in self._links.values()]
        known += [({"destination": line, **_GONE}, (line,)) for line in lost]
        return [
            {**status, **_of_lines(counts, lines), "oldest_seconds": _age(oldest, lines, now)}
            for status, lines in known
        ]

    async def unrouted(self) -> int:
        """Count the instances that nobody knows where to send. Raises `ArchiveError`."""
        return await self._archive.read(self._archive.deliveries.number, UNROUTED, "")


async def _end(tasks: Iterable[asyncio.Task[None] | None]) -> None:
    """Cancel tasks, and wait for their end."""
    begun = [task for task in tasks if task is not None]
    for task in begun:
        task.cancel()
    if begun:
        await asyncio.wait(begun)


def _tell_lost(lost: Iterable[tuple[str, int]]) -> None:
    for line, number in lost:
        _LOG.error(
            "%d deliveries wait for %s, which the configuration does not have: name it there again, or give "
            "them up with asyncdicom outbox drop",
            number,
            line,
        )


def _age(oldest: Mapping[tuple[str, str], float], lines: Collection[str], now: float) -> float:
    """Give for how many seconds the oldest delivery of some lines is owed; 0: none is."""
    since = min((oldest.get((DELIVERY, line), now) for line in lines), default=now)
    return round(max(now - since, 0.0), 1)


def _of_lines(counts: Iterable[tuple[str, str, int, int]], lines: Collection[str]) -> dict[str, int]:
    """Give how many deliveries of some lines there are in each state that is not the end."""
    found = {"ready": 0, "waiting": 0, "leased": 0, "failed": 0}
    for kind, line, state, number in counts:
        if kind == DELIVERY and line in lines:
            found[State(state).name.lower()] += number
    return found
