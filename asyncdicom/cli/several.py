"""Several processes of a server, looked at as one: what is asked for is asked of one of them, or of all."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from asyncdicom.address import Address
from asyncdicom.archive.control import Control, NotReached, NotServed, ask_at
from asyncdicom.archive.errors import ArchiveError
from asyncdicom.cli.output import json_text
from asyncdicom.cli.state import Looking, counted
from asyncdicom.cli.supervisor import Supervisor, Worker
from asyncdicom.telemetry.log import Log

if TYPE_CHECKING:
    from asyncdicom.archive.operations import Line, Method
    from asyncdicom.net.http_get import Pages

__all__ = ["Several", "summed", "supervise"]

log = Log("asyncdicom.cli")

_TABLES = ("associations", "events", "delivery_events", "log")  # of the state, which each process counts

# Seconds that the others have to answer when one has: who hangs does not keep the rest from being looked at.
_LATE = 3.0


class _Folder(NamedTuple):
    """What the control channel has to know of an archive."""

    directory: str
    is_shared: bool = True


class Several(Looking):
    """The processes of a supervisor that serve the archive in a folder."""

    _share = 0.0  # each of them looks at the index as seldom as it should

    def __init__(self, directory: str, supervisor: Supervisor) -> None:
        self._path = os.path.join(directory, "control")
        self._supervisor = supervisor
        self._started = time.time()
        self._last: dict[str, float] = {}  # when the last instance of a sender came, to whichever process

    def _paths(self) -> dict[Worker, str]:
        """Give where those are asked that serve, also those that take no more connections."""
        ready = [each for each in self._supervisor.workers if each.ready is not None]
        ready.sort(key=lambda each: not each.takes)
        return {each: f"{self._path}-{each.process.pid}" for each in ready}

    # as an observer

    def why_not_ready(self) -> list[str]:
        """Say what keeps all of them from taking instances, as far as that is known."""
        if self._supervisor.is_stopping:
            return ["it is being stopped"]
        takes = any(each.takes for each in self._supervisor.workers)
        return [] if takes else ["none of its processes is ready"]

    async def _find(self) -> Mapping[str, Any]:
        """Find out the state of all of them together. Raises `ArchiveError` if none says it.

        What is counted never falls: also of those that have ended, or do not answer, there is what they told.
        """
        answers = await self._all("top", {})
        workers = self._supervisor.workers
        there = {each: state for each, state in answers.items() if each in workers}
        for each, state in there.items():
            each.counted |= counted(state)
        total = sum((each.counted for each in workers), self._supervisor.counted.copy())
        uptime = {"started": self._started, "uptime": round(time.time() - self._started, 3)}
        together = summed(list((there or answers).values()), total)
        for sender in together["senders"]:
            last = max((sender["last"] or 0.0, self._last.get(sender["calling"], 0.0)))
            if last:
                sender["last"] = self._last[sender["calling"]] = last
        return {**together, **uptime}

    # as a control channel

    async def _all(self, method: str, arguments: Mapping[str, Any]) -> dict[Worker, Line]:
        """Ask all, and give their last lines; who is just dying, or hangs, is left out."""
        asking = {
            asyncio.ensure_future(_last(path, method, arguments)): worker
            for worker, path in self._paths().items()
        }
        try:
            if asking:
                await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
                await asyncio.wait(asking, timeout=_LATE)
            lines = {
                who: each.result() for each, who in asking.items() if each.done() and each.exception() is None
            }
            late = [str(who.process.pid) for each, who in asking.items() if not each.done()]
        finally:
            for each in asking:
                each.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        if late:
            log.warning("what is told of all processes lacks some: pid %s has not answered", ", ".join(late))
        if not lines:
            raise ArchiveError("none of its processes answers")
        return lines

    def method(self, name: str) -> Method:
        """Give what asks the processes by the name of a method."""
        together = _TOGETHER.get(name)

        async def asked(archive: object, arguments: Mapping[str, Any]) -> AsyncGenerator[Line, None]:
            if name == "top":
                yield await self.state()
                return
            if name == "route status" and "destinations" in (state := await self.state()):
                for line in _route_status(state):
                    yield line
                return
            if together is not None:
                yield together(list((await self._all(name, arguments)).values()))
                return
            for path in self._paths().values():
                try:
                    async with aclosing(ask_at(path, name, arguments)) as lines:
                        async for line in lines:
                            yield line
                    return
                except (NotServed, NotReached):
                    continue  # it is just dying, or hangs
            raise ArchiveError("none of its processes answers")

        return asked


def _route_status(state: Mapping[str, Any]) -> Iterator[Line]:
    """Give what `route status` of one process gives, of all together."""
    yield from state["destinations"]
    totals = {"unrouted": state["unrouted"], "since_start": state["delivery_events"]}
    yield {"destinations": len(state["destinations"]), **totals}


async def _last(path: str, method: str, arguments: Mapping[str, Any]) -> Line:
    async with aclosing(ask_at(path, method, arguments)) as lines:
        *_, last = [line async for line in lines]
    return last


def summed(
    states: Sequence[Mapping[str, Any]], total: Counter[tuple[str, ...]] | None = None
) -> Mapping[str, Any]:
    """Give the state of several processes: what each counts by itself together, the rest of the first.

    ``total``: what all have counted, if that is more than these.
    """
    if total is None:
        total = sum(map(counted, states), Counter[tuple[str, ...]]())
    first = dict(states[0])
    for table in _TABLES:
        first[table] = _of_table(table, first.get(table, {}), total)
    first["associations"]["open"] = sum(each["associations"]["open"] for each in states)
    first["commands_failed"] = total["commands_failed",]
    first["operations"] = [
        {"operation": key[1], "outcome": key[2], "number": number}
        for key, number in sorted(total.items())
        if key[0] == "operations"
    ]
    first["senders"] = _senders([each.get("senders", ()) for each in states], total)
    first["processes"] = len(states)
    first["ready"] = any(each["ready"] for each in states)
    first["why_not"] = [] if first["ready"] else states[0]["why_not"]
    if "archive" in first:
        first["archive"] = _of_table("archive", first["archive"], total)
    if "webhook" in first or any(key[0] == "webhook" for key in total):
        first["webhook"] = _of_table("webhook", first.get("webhook", {}), total)
    if "destinations" in first:
        first["destinations"] = _destinations([each.get("destinations", ()) for each in states], total)
    return first


def _of_table(table: str, values: Mapping[str, Any], total: Counter[tuple[str, ...]]) -> dict[str, Any]:
    return {**values, **{key[1]: number for key, number in total.items() if key[0] == table}}


def _destinations(
    lists: Sequence[Sequence[Mapping[str, Any]]], total: Counter[tuple[str, ...]]
) -> list[dict[str, Any]]:
    by_name: dict[str, dict[str, Any]] = {}
    for each in (destination for some in lists for destination in some):
        name = each["destination"]
        known = by_name.setdefault(name, {**each, "under_way": 0})
        known["under_way"] += each["under_way"]
        known["delivered_since_start"] = total["destinations", name]
    return list(by_name.values())


def _summed_stat(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    total = sum((counted({"archive": each}) for each in lines), Counter[tuple[str, ...]]())
    return _of_table("archive", lines[0], total)


def _senders(
    lists: Sequence[Sequence[Mapping[str, Any]]], total: Counter[tuple[str, ...]]
) -> list[dict[str, Any]]:
    by_name: dict[str, dict[str, Any]] = {}
    for each in (sender for some in lists for sender in some):
        known = by_name.setdefault(each["calling"], {**each})
        known["instances"] = total["senders", each["calling"]]
        known["last"] = max((last for last in (known["last"], each["last"]) if last), default=None)
    return list(by_name.values())


def _first(lines: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    return lines[0]


_TOGETHER: dict[str, Callable[[Sequence[Mapping[str, Any]]], Mapping[str, Any]]] = {
    "stat": _summed_stat,
    "reload": _first,
}


async def supervise(
    words: Sequence[str],
    number: int,
    address: Address,
    directory: str,
    http: tuple[str, int] | None,
    *,
    as_json: bool = False,
) -> int:
    """Run so many processes of a tool, by its name and arguments, and answer for them; gives the exit code.

    `directory`: the folder of their archive; `http`: where the pages for machines are; `as_json`: how
    they tell that they are ready. SIGTERM, SIGINT and
    SIGHUP: see `Supervisor.run`. Raises ``OSError`` if it cannot listen.
    """
    supervisor = Supervisor([sys.executable, "-m", "asyncdicom", *words], number, address)
    running = asyncio.ensure_future(supervisor.run())
    coming_up = asyncio.ensure_future(supervisor.up.wait())
    async with AsyncExitStack() as stack:
        await asyncio.wait((running, coming_up), return_when=asyncio.FIRST_COMPLETED)
        coming_up.cancel()
        if not running.done():
            several = Several(directory, supervisor)
            stack.push_async_callback(several.close)
            pages = await _answer_for(stack, several, directory, http)
            line = supervisor.first["line"]
            if as_json and pages is not None:
                line = json_text({**json.loads(line), "http": pages.port})
            with suppress(OSError):
                print(line, flush=True)
            log.info("%d processes serve %s", number, address.place)
        return await running


async def _answer_for(
    stack: AsyncExitStack, several: Any, directory: str, http: tuple[str, int] | None
) -> Pages | None:
    from asyncdicom.cli.observing import pages_of

    folder: Any = _Folder(directory)
    await stack.enter_async_context(Control(folder, forward=several.method))
    if http is None:
        return None
    pages = await stack.enter_async_context(pages_of(several, *http))
    log.info("/healthz, /readyz and /metrics are at http://%s", Address("", pages.host, pages.port).place)
    return pages
