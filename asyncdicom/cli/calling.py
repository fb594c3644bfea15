"""Functions of somebody else, called where they hold up nobody."""

from __future__ import annotations

import asyncio
import inspect
from threading import Thread
from typing import Any

from asyncdicom.cli.functions import Named
from asyncdicom.net.threads import Told
from asyncdicom.telemetry.log import Log

__all__ = ["Function"]

log = Log("asyncdicom.cli")

_LONG = 60  # seconds


class Function:
    """A function of somebody else: never blocks the event loop, never raises what it raised.

    A coroutine function runs in the event loop, any other one in a thread of its own; at most `maximum` at
    the same time, others wait. Who is cancelled while it runs in a thread leaves it to end by itself. One
    that runs for more than a minute is told: whoever waits for room does not know why.
    """

    def __init__(self, named: Named, maximum: int) -> None:
        self.name = named.name
        self._function = named.function
        self._room = asyncio.Semaphore(maximum)
        call = getattr(named.function, "__call__", None)  # noqa: B004
        self._is_coroutine = inspect.iscoroutinefunction(named.function) or inspect.iscoroutinefunction(call)

    async def __call__(self, argument: object) -> tuple[Any, BaseException | None]:
        """Call it; gives what it returned, and what it raised."""
        await self._room.acquire()
        loop = asyncio.get_running_loop()
        late = loop.call_later(_LONG, log.warning, "%s runs for more than %d s", self.name, _LONG)
        try:
            result = self._function(argument) if self._is_coroutine else await self._in_thread(argument)
            return (await result if inspect.isawaitable(result) else result), None
        except asyncio.CancelledError as error:
            if asyncio.current_task().cancelling():  # type: ignore[union-attr]
                raise
            return None, error
        except BaseException as error:  # also SystemExit: a function does not decide over all others
            return None, error
        finally:
            late.cancel()
            if self._is_coroutine:
                self._room.release()

    async def _in_thread(self, argument: object) -> Any:
        told = Told()
        told.ending.add_done_callback(lambda _: self._room.release())

        def call() -> None:
            try:
                told.tell((self._function(argument), None))
            except BaseException as error:
                told.tell((None, error))

        # A thread that is left behind at the end must not keep the process.
        Thread(target=call, daemon=True, name="asyncdicom-function").start()
        result, error = await asyncio.shield(told.ending)
        if error is not None:
            raise error
        return result
