"""Running a server as a process: signals, draining, and an end in any case."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from inspect import isawaitable
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any, NoReturn, Protocol

from asyncdicom.telemetry.log import Log
from asyncdicom.telemetry.log_output import close_logs, log_to, reopen_logs

__all__ = [
    "HUNG",
    "INTERRUPTED",
    "STOPPED",
    "Stoppable",
    "collected_seldom",
    "hold_reloads",
    "loop_factory",
    "run",
    "run_coroutine",
    "serve_until_stopped",
]

log = Log("asyncdicom.server")

STOPPED, HUNG, INTERRUPTED = 0, 4, 130

_GRACE = 15.0  # seconds for what comes after `drain_timeout`: handlers that were cancelled, files, the index
_AT_ONCE = 5.0  # seconds after a second signal
_PATIENCE = 1.0  # seconds that a server may take to stop without telling why
_TELLING = 2.0  # seconds for the last words
_SELDOM = 5000  # objects that were made and are still there, before the collector looks at them

# Where a thread is when it has nothing to do, or waits for another one.
_IDLE = frozenset({"_worker", "_run", "_take", "_watch", "_wait_for_tstate_lock", "join", "wait"})

_SIGNALS = {signal.SIGTERM: STOPPED, signal.SIGINT: INTERRUPTED}
_RELOAD = getattr(signal, "SIGHUP", None)  # not on Windows


class Stoppable(Protocol):
    """What can be served until it is stopped: a `Server`."""

    @property
    def associations(self) -> int:
        """How many associations are open."""

    @property
    def drain_timeout(self) -> float:
        """How long `drain` and `close` wait, in seconds."""

    async def serve_forever(self) -> None:
        """Wait until it is closed."""

    async def drain(self) -> None:
        """Let those who are there go on until they are done, and close."""

    async def close(self) -> None:
        """Let what is under way end, and close; breaks off `drain`."""


def run(
    serving: AbstractAsyncContextManager[Stoppable],
    *,
    on_reload: Sequence[Callable[[], object]] = (),
    grace: float = _GRACE,
) -> int:
    """Serve until a signal ends it; for programs that do nothing else: `sys.exit(run(serve(...)))`.

    `serving`: what `serve` gives, or another context manager that gives the server, for programs that open
    and close more. It is entered in a new event loop (uvloop where there is one). Signals, `on_reload`,
    `grace` and what is returned: see `serve_until_stopped`. Where logging is not set up, warnings go to
    stderr through a bounded queue, so that a log that takes nothing holds up nobody. A SIGHUP that comes
    before the server is there is acted upon when it is.
    """
    log_to()
    hold_reloads()

    async def serve() -> int:
        async with serving as server:
            return await serve_until_stopped(server, on_reload=on_reload, grace=grace)

    return run_coroutine(serve)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes event loops: uvloop's, or None for asyncio's own where there is no uvloop."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def run_coroutine(work: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Run a coroutine on uvloop (on asyncio's own loop where there is no uvloop); cancelled: gives 130."""
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        try:
            return runner.run(work())
        except asyncio.CancelledError:  # by a second signal
            return INTERRUPTED


class _Held:
    """Takes SIGHUP until there is a server to act upon it."""

    def __init__(self) -> None:
        self.came = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.came = True


def hold_reloads() -> None:
    """Keep a SIGHUP for `serve_until_stopped`: by itself the signal would end the process.

    For programs that have something to reload, before they read it first. Does nothing outside the main
    thread.
    """
    if _RELOAD is not None and threading.current_thread() is threading.main_thread():
        signal.signal(_RELOAD, _Held())


async def serve_until_stopped(
    server: Stoppable,
    *,
    on_reload: Sequence[Callable[[], object]] = (),
    on_ready: Callable[[], object] | None = None,
    grace: float = _GRACE,
) -> int:
    """Serve until SIGTERM or SIGINT (Ctrl-C), close the server, and give the exit code: 0 or 130.

    The first signal closes it. At SIGTERM, which is what service managers send, associations may end by
    themselves (`Server.drain`); at Ctrl-C only what is under way may end (`Server.close`). A second one
    cancels all tasks, which aborts the associations. From the first signal on the *process* has
    `server.drain_timeout` and `grace` seconds to end, from the second one 5 seconds; a third one ends it at
    once. A process that does not end (a thread waits for a disk that hangs, say) is ended with exit code 4,
    and its log says where which thread was.

    SIGHUP calls each function of `on_reload`, in the event loop, and awaits the coroutine functions among
    them, one after another; log files that `log_to` opened are opened anew before. One that raises is logged,
    and the others are called all the same. `on_ready` is called as soon as signals are taken: the place to
    tell others that the server listens, as a signal may come in answer.

    Signals are left alone outside the main thread. Gives 0 as well when the server is closed by others.
    Cancelled: closes the server.
    """
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[int] = loop.create_future()

    def stop(number: int) -> None:
        if not stopped.done():
            stopped.set_result(_SIGNALS[signal.Signals(number)])
        else:
            for task in asyncio.all_tasks(loop):
                task.cancel()

    watch = _Watch(loop, stop, _Reloads(on_reload).ask, server.drain_timeout + grace)
    watch.start()
    serving = asyncio.ensure_future(server.serve_forever())
    ends: list[asyncio.Future[Any]] = [stopped, serving]
    try:
        if on_ready is not None:
            on_ready()
        with collected_seldom():
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if not stopped.done():
            watch.end()
            return STOPPED
    except BaseException:
        watch.end()
        serving.cancel()
        await asyncio.wait([serving])
        raise
    is_patient = stopped.result() == STOPPED
    closing = asyncio.ensure_future(server.drain() if is_patient else server.close())
    if not (await asyncio.wait([closing], timeout=_PATIENCE))[0]:
        log.warning("waiting for %d associations to end; a second signal aborts them", server.associations)
    await closing
    return stopped.result()


@contextmanager
def collected_seldom() -> Iterator[None]:
    """Have the garbage collector leave alone what is there now, and look seldom at what comes.

    What is there now stays for as long as the program runs: otherwise it goes through all of it again and
    again, and holds up everybody for 50 ms each time. And what an operation makes has no cycles: it goes
    without the collector, which would look at all that is under way every few operations.
    """
    gc.collect()
    gc.freeze()
    often, *others = gc.get_threshold()
    if often:  # otherwise somebody has switched it off
        gc.set_threshold(max(often, _SELDOM), *others)
    try:
        yield
    finally:
        gc.set_threshold(often, *others)
        gc.unfreeze()


class _Reloads:
    """Reloads in one task; signals that come meanwhile lead to one more round, however many they are."""

    def __init__(self, calls: Sequence[Callable[[], object]]) -> None:
        self._calls = calls
        self._is_asked = False
        self._task: asyncio.Task[None] | None = None

    def ask(self) -> None:
        """Reload; called in the event loop."""
        self._is_asked = True
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while self._is_asked:
            self._is_asked = False
            log.info("SIGHUP: log files are opened anew, and %d more reloaded", len(self._calls))
            for call in self._calls:
                try:
                    result = call()
                    if isawaitable(result):
                        await result
                except Exception:
                    log.exception("a reload failed; what was loaded before goes on")


class _Watch:
    """Takes the signals in a thread of its own, and sees to it that the process ends.

    The handler of a signal only puts a number into a queue: it may have interrupted anything. The thread
    tells the event loop, and needs nobody's help when that hangs.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        stop: Callable[[int], None],
        reload: Callable[[], None],
        patience: float,
    ) -> None:
        self._loop = loop
        self._stop = stop
        self._reload = reload
        self._patience = patience
        self._queue: SimpleQueue[int] = SimpleQueue()
        self._before: dict[int, Any] = {}

    def start(self) -> None:
        """Take the signals; does nothing outside the main thread."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (*_SIGNALS, *([_RELOAD] if _RELOAD is not None else [])):
            self._before[number] = signal.signal(number, self._put)
            before = self._before[number]
            if isinstance(before, _Held) and before.came:
                before.came = False
                self._queue.put(number)
        threading.Thread(target=self._watch, name="asyncdicom-signals", daemon=True).start()

    def _put(self, number: int, frame: FrameType | None) -> None:
        self._queue.put(number)

    def end(self) -> None:
        """Give the signals back."""
        for number, before in self._before.items():
            signal.signal(number, signal.SIG_DFL if before is None else before)
        self._queue.put(0)

    def _watch(self) -> None:
        signals = 0
        deadline: float | None = None
        while True:
            try:
                number = self._queue.get(timeout=_left(deadline))
            except Empty:
                _end_the_process("it did not end in time")
            if number == 0:
                return
            if number == _RELOAD:
                reopen_logs()
                self._call(self._reload)
                continue
            signals += 1
            if signals > 2:
                _end_the_process("a third signal came")
            patience = self._patience if deadline is None else _AT_ONCE
            deadline = min(deadline or float("inf"), time.monotonic() + patience)
            self._call(self._stop, number)

    def _call(self, call: Callable[..., None], *arguments: int) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:  # the loop is closed: the process is at its end
            pass


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(deadline - time.monotonic(), 0.0)


def _end_the_process(why: str) -> NoReturn:
    """End it here and now, and say what hung, if the log takes it."""
    words = threading.Thread(target=_last_words, args=(why,), daemon=True)
    words.start()
    words.join(_TELLING)
    os._exit(HUNG)


def _last_words(why: str) -> None:
    places = "; ".join(_places()) or "no thread"
    log.error("the process is ended by force: %s. At work: %s", why, places)
    close_logs()


def _places() -> Iterator[str]:
    """Where the threads are that are not idle: the innermost function of each."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        code = frame.f_code
        if ident != threading.get_ident() and code.co_name not in _IDLE:
            file = "/".join(code.co_filename.split(os.sep)[-2:])
            yield f"{names.get(ident, ident)} in {code.co_name} ({file}:{frame.f_lineno})"
