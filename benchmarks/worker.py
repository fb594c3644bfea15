"""A worker: ``python -m benchmarks.worker MODULE LOOP`` runs functions of MODULE, one JSON line each.

It ends at the end of its input, so it cannot outlive the one who started it.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import os
import selectors
import sys
import traceback

_LONGEST_LINE = 1 << 24


def precise_loop() -> asyncio.AbstractEventLoop:
    """Give a loop whose timers are right to microseconds; with epoll and in uvloop it is a millisecond."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


async def main(name: str) -> None:
    """Answer until the input ends."""
    replies = os.dup(1)
    os.dup2(2, 1)  # whatever is printed must not get between the replies
    module = importlib.import_module(name)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=_LONGEST_LINE)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(0, "rb"))
    while line := await reader.readline():
        request = json.loads(line)
        try:
            result = getattr(module, request["call"])(**request["arguments"])
            if inspect.isawaitable(result):
                result = await result
            reply = {"result": result}
        except Exception:
            reply = {"error": traceback.format_exc()}
        text = json.dumps(reply).encode() + b"\n"
        while text:
            text = text[os.write(replies, text) :]
    os._exit(0)  # servers, threads and sockets go with it


if __name__ == "__main__":
    if sys.argv[2] == "uvloop":
        import uvloop

        uvloop.run(main(sys.argv[1]))
    else:
        factory = precise_loop if sys.argv[2] == "precise" else None
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(main(sys.argv[1]))
