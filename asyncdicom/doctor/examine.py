"""The steps of an examination, in their order. Nothing is changed at the peer.

    name -> tcp -> tls -> association -> ae titles -> contexts -> echo -> find -> get -> move

A step that fails on the way ends it there: those that follow are skipped, and say what they need.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack

from asyncdicom.doctor import operations, way
from asyncdicom.doctor.causes import Finding, Result, cause_of_error
from asyncdicom.doctor.subject import Failed, Seen, Skipped, Step, Subject, Warned
from asyncdicom.exceptions import DicomNetworkError
from asyncdicom.telemetry.text import printable

__all__ = ["STEPS", "WAY", "examine"]

STEPS: dict[str, Step] = {
    "name": way.name,
    "tcp": way.tcp,
    "tls": way.tls,
    "association": way.association,
    "ae titles": way.titles,
    "contexts": way.contexts,
    "echo": operations.echo,
    "find": operations.find,
    "get": operations.get,
    "move": operations.move,
}
"""What is looked at, one after the other."""

WAY = ("name", "tcp", "tls", "association", "ae titles")
"""The steps without which there is no association: after one that fails nothing else can be tried."""


async def examine(subject: Subject) -> AsyncGenerator[Finding, None]:
    """Go through the steps and give what each has found; raises nothing that the peer is to blame for.

    It associates with the peer twice, asks C-ECHO and C-FIND, has one image sent here by C-GET and, where
    there is a receiver, by C-MOVE, and throws them away. Close the generator (`contextlib.aclosing`); left
    early or cancelled, it closes what was opened.
    """
    seen = Seen()
    needed = ""
    async with AsyncExitStack() as stack:
        for name, step in STEPS.items():
            if needed:
                yield Finding(name, "skipped", f"needs: {needed}")
                continue
            started = time.perf_counter()
            finding = await _go(name, step, subject, seen, stack)
            yield finding._replace(seconds=round(time.perf_counter() - started, 6))
            is_lost = seen.association is not None and not seen.association.is_established
            if finding.result == "failed" and (name in WAY or is_lost):
                needed = name


async def _go(name: str, step: Step, subject: Subject, seen: Seen, stack: AsyncExitStack) -> Finding:
    result: Result = "failed"
    try:
        return Finding(name, "ok", printable(await step(subject, seen, stack)))
    except Skipped as why:
        return Finding(name, "skipped", str(why))
    except Failed as failure:
        result, found = "warning" if isinstance(failure, Warned) else "failed", failure.cause
    except DicomNetworkError as error:
        found = cause_of_error(error)
    return Finding(name, result, found.name, found._replace(why=printable(found.why)))
