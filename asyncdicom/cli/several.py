"""Several processes of a server, looked at as one: what is asked for is asked of one of them, or of all."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from asyncdicom.address import Address
from asyncdicom.archive.control import Control, NotServed, ask_at
from asyncdicom.archive.errors import ArchiveError
from asyncdicom.cli.output import json_text
from asyncdicom.cli.supervisor import Supervisor
from asyncdicom.telemetry.log import Log

if TYPE_CHECKING:
    from asyncdicom.archive.operations import Line, Method
    from asyncdicom.net.http_get import Pages

__all__ = ["Several", "summed", "supervise"]

log = Log("asyncdicom.cli")

# What each process counts by itself: of the state, of `stat`, and of a destination.
_SUMMED = ("associations", "events", "delivery_events", "log")
_OF_STAT = (
    *("conflicts", "refused_conflicts", "healed", "set_aside", "superseded", "same", "incomplete"),
    *("strange", "mismatch", "divided", "returned"),
)
_OF_DESTINATION = ("under_way", "delivered_since_start")


# Seconds that the others have to answer when one has: who hangs does not keep the rest from being looked at.
_LATE = 3.0


class _Folder(NamedTuple):
    """What the control channel has to know of an archive."""

    directory: str
    is_shared: bool = True


class Several:
    """The processes of a supervisor that serve the archive in a folder."""

    def __init__(self, directory: str, supervisor: Supervisor) -> None:
        self._path = os.path.join(directory, "control")
        self._supervisor = supervisor

    def _paths(self) -> list[str]:
        ready = [each for each in self._supervisor.workers.values() if each.takes]
        return [f"{self._path}-{each.process.pid}" for each in ready]

    # as an observer

    def why_not_ready(self) -> list[str]:
        """Say what keeps all of them from taking instances, as far as that is known."""
        if self._supervisor.is_stopping:
            return ["it is being stopped"]
        return [] if self._paths() else ["none of its processes is ready"]

    async def state(self) -> Mapping[str, Any]:
        """Give the state of all of them together. Raises `ArchiveError` if none says it."""
        return summed(await self._all("top", {}))

    # as a control channel

    async def _all(self, method: str, arguments: Mapping[str, Any]) -> list[Line]:
        """Ask all, and give their last lines; who is just dying, or hangs, is left out."""
        asking = {asyncio.ensure_future(_last(path, method, arguments)): path for path in self._paths()}
        try:
            if asking:
                await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
                await asyncio.wait(asking, timeout=_LATE)
            lines = [each.result() for each in asking if each.done() and each.exception() is None]
            late = [path.rpartition("-")[2] for each, path in asking.items() if not each.done()]
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
            if together is not None:
                yield together(await self._all(name, arguments))
                return
            for path in self._paths():
                try:
                    async with aclosing(ask_at(path, name, arguments)) as lines:
                        async for line in lines:
                            yield line
                    return
                except NotServed:
                    continue  # it is just dying
            raise ArchiveError("none of its processes answers")

        return asked


async def _last(path: str, method: str, arguments: Mapping[str, Any]) -> Line:
    async with aclosing(ask_at(path, method, arguments)) as lines:
        *_, last = [line async for line in lines]
    return last


def summed(states: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Give the state of several processes: what each counts by itself together, the rest of the first."""
    first = dict(states[0])
    for key in _SUMMED:
        first[key] = _added([each[key] for each in states])
    first["associations"]["limit"] = states[0]["associations"]["limit"]  # it is one for all of them
    first["commands_failed"] = sum(each["commands_failed"] for each in states)
    operations: Counter[tuple[str, str]] = Counter()
    for state in states:
        for each in state["operations"]:
            operations[each["operation"], each["outcome"]] += each["number"]
    first["operations"] = [
        {"operation": name, "outcome": what, "number": n} for (name, what), n in sorted(operations.items())
    ]
    first["senders"] = _senders([each.get("senders", ()) for each in states])
    first["processes"] = len(states)
    first["ready"] = any(each["ready"] for each in states)
    first["why_not"] = [] if first["ready"] else states[0]["why_not"]
    if "archive" in first:
        first["archive"] = _summed_stat([each["archive"] for each in states if "archive" in each])
    if "destinations" in first:
        first["destinations"] = _destinations([each.get("destinations", ()) for each in states])
    return first


def _added(mappings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    total: Counter[str] = Counter()
    for each in mappings:
        total.update(each)
    return dict(total)


def _summed_stat(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    own = _added([{key: each[key] for key in _OF_STAT if key in each} for each in lines])
    return {**lines[0], **own}


def _destinations(lists: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    by_name: dict[str, dict[str, Any]] = {}
    for each in (destination for some in lists for destination in some):
        known = by_name.setdefault(each["destination"], {**each, **dict.fromkeys(_OF_DESTINATION, 0)})
        for key in _OF_DESTINATION:
            known[key] += each[key]
    return list(by_name.values())


def _senders(lists: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    by_name: dict[str, dict[str, Any]] = {}
    for each in (sender for some in lists for sender in some):
        known = by_name.setdefault(each["calling"], {**each, "instances": 0})
        known["instances"] += each["instances"]
        known["last"] = max((last for last in (known["last"], each["last"]) if last), default=None)
    return list(by_name.values())


def _first(lines: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    return lines[0]


_TOGETHER: dict[str, Callable[[Sequence[Mapping[str, Any]]], Mapping[str, Any]]] = {
    "top": summed,
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
            pages = await _answer_for(stack, Several(directory, supervisor), directory, http)
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
