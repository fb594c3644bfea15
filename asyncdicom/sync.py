"""`Client` for scripts and notebooks: the same jobs, blocking, without a coroutine in sight.

    from asyncdicom.sync import Client

    with Client("PACS@10.0.0.5:104", calling_ae_title="WS1") as pacs:
        studies = pacs.find({"PatientID": "123"})
        pacs.retrieve(studies, to="images")

The event loop runs in a thread of its own, so this works where another one runs already, as in a notebook.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable, Iterator
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from asyncdicom.address import Address
from asyncdicom.client import DEFAULT_CALLING_AE_TITLE
from asyncdicom.exceptions import LocalProtocolError
from asyncdicom.net.channel import Trace
from asyncdicom.options import Limits, Timeouts
from asyncdicom.running import loop_factory
from asyncdicom.scu.client import Client as AsyncClient
from asyncdicom.scu.identifiers import Keys
from asyncdicom.scu.peering import Method
from asyncdicom.scu.results import Instance, Matches, Retrieved, Stored, StoreResult
from asyncdicom.scu.storing import Storable
from asyncdicom.services.responses import Response
from asyncdicom.services.retrieve import Progress, RetrieveResult
from asyncdicom.ul.items import UserIdentity

if TYPE_CHECKING:
    from ssl import SSLContext

    from pydicom import Dataset

__all__ = ["Client"]

_T = TypeVar("_T")

_TURN = 0.5  # seconds: so often a waiting main thread looks for Ctrl-C, where locks cannot be interrupted
_ENDING = 30.0  # seconds that what was interrupted may take to end


class _Thread:
    """An event loop in a thread, and a client that lives in it."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._is_open = False
        self._thread = threading.Thread(target=self._run, name="asyncdicom-client", daemon=True)
        started = threading.Event()
        self._started = started
        self._thread.start()
        started.wait()
        try:
            self.call(client.__aenter__)
        except BaseException:
            self._end()
            raise
        self._is_open = True

    def _run(self) -> None:
        async def live() -> None:
            self._loop = asyncio.get_running_loop()
            self._stop = asyncio.Event()
            self._started.set()
            await self._stop.wait()

        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(live())

    def call(self, work: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Run a coroutine there and wait for it. Interrupted (Ctrl-C): it is cancelled, and has ended."""
        loop = self._loop
        if threading.current_thread() is self._thread:
            raise LocalProtocolError("a blocking call in a callback would wait for itself for ever")
        if loop is None or not self._thread.is_alive():
            raise LocalProtocolError("the client is closed")
        ended = threading.Event()

        async def run() -> _T:
            try:
                return await work()
            finally:
                ended.set()

        future = asyncio.run_coroutine_threadsafe(run(), loop)
        try:
            while not concurrent.futures.wait([future], timeout=_TURN).done:
                pass
        except BaseException:
            future.cancel()
            ended.wait(_ENDING)
            raise
        return future.result()

    def close(self, error: BaseException | None = None) -> None:
        """Close the client, end the loop, wait for the thread (idempotent)."""
        if not self._is_open:
            return
        self._is_open = False
        kind = None if error is None else type(error)
        try:
            self.call(partial(self._client.__aexit__, kind, error, None))
        finally:
            self._end()

    def _end(self) -> None:
        if self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(_ENDING)


class Client:
    """The daily jobs with one peer, blocking: `with Client("PACS@10.0.0.5:104") as pacs`.

    The arguments, what the methods take and what they raise are those of `asyncdicom.Client`. Ctrl-C ends
    what is under way (C-CANCEL is sent) before KeyboardInterrupt is raised. Without a `with` block it opens
    with the first call, and `close` ends it; so does the end of the program. Its methods may be called from
    any thread; `on_progress` is called in the thread of the event loop.
    """

    def __init__(
        self,
        address: str | Address,
        *,
        associations: int = 4,
        calling_ae_title: str = DEFAULT_CALLING_AE_TITLE,
        ssl: SSLContext | None = None,
        server_hostname: str | None = None,
        user_identity: UserIdentity | None = None,
        listen: str | Address | None = None,
        listen_ssl: SSLContext | None = None,
        method: Method | None = None,
        timeouts: Timeouts = Timeouts(),
        limits: Limits = Limits(),
        trace: Trace | None = None,
    ) -> None:
        self._make = partial(
            AsyncClient,
            address,
            associations=associations,
            calling_ae_title=calling_ae_title,
            ssl=ssl,
            server_hostname=server_hostname,
            user_identity=user_identity,
            listen=listen,
            listen_ssl=listen_ssl,
            method=method,
            timeouts=timeouts,
            limits=limits,
            trace=trace,
        )
        self._client = self._make()  # what is wrong is raised here
        self._thread: _Thread | None = None
        self._opening = threading.Lock()

    def _opened(self) -> _Thread:
        with self._opening:
            if self._thread is None:
                self._thread = _Thread(self._client)
                # At the end of the program, too; the thread knows nothing of this object.
                weakref.finalize(self, self._thread.close)
            return self._thread

    def __enter__(self) -> Self:
        self._opened()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close(error)

    def close(self) -> None:
        """Release the associations and end the thread; a later call opens them anew."""
        self._close(None)

    def _close(self, error: BaseException | None) -> None:
        with self._opening:
            thread, self._thread = self._thread, None
            self._client = self._make()
        if thread is not None:
            thread.close(error)

    @property
    def address(self) -> Address:
        """The peer."""
        return self._client.address

    @property
    def method(self) -> Method | None:
        """How the peer retrieves: "get", "move", or None as long as that is not known."""
        return self._client.method

    @property
    def listens_on(self) -> Address | None:
        """The address that C-MOVE sends to; None without `listen`."""
        return self._client.listens_on

    # the jobs

    def echo(self, *, timeout: float | None = None) -> Response:
        """Verify that the peer is there; see `asyncdicom.Client.echo`."""
        return self._opened().call(lambda: self._client.echo(timeout=timeout))

    def find(self, keys: Keys | None = None, **options: Any) -> Matches:
        """Query, and give all matches; see `asyncdicom.Client.find` for the options."""
        return self._opened().call(lambda: _awaited(self._client.find(keys, **options)))

    def find_each(self, keys: Keys | None = None, **options: Any) -> Iterator[Dataset]:
        """Query, and give one match after another."""
        return self._each(lambda: aiter(self._client.find(keys, **options)))

    def worklist(self, keys: Keys | None = None, **options: Any) -> Matches:
        """Query for worklist items; see `asyncdicom.Client.worklist`."""
        return self._opened().call(lambda: _awaited(self._client.worklist(keys, **options)))

    def retrieve(
        self,
        what: Keys | str | Iterable[Keys | str],
        *,
        to: str | os.PathLike[str],
        on_progress: Callable[[Progress], None] | None = None,
        **options: Any,
    ) -> Retrieved:
        """Retrieve instances into a folder; see `asyncdicom.Client.retrieve`."""
        return self._opened().call(
            lambda: _awaited(self._client.retrieve(what, to=to, on_progress=on_progress, **options))
        )

    def retrieve_each(
        self,
        what: Keys | str | Iterable[Keys | str],
        *,
        to: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> Iterator[Instance]:
        """Retrieve instances, and give each as it comes; without `to` in memory."""
        return self._each(lambda: aiter(self._client.retrieve(what, to=to, **options)))

    def move(
        self, what: Keys | str | Iterable[Keys | str], destination: str, **options: Any
    ) -> RetrieveResult:
        """Have the peer send instances to an AE title; see `asyncdicom.Client.move`."""
        return self._opened().call(lambda: self._client.move(what, destination, **options))

    def store(self, what: Storable | Iterable[Storable], **options: Any) -> StoreResult:
        """Send files, folders, Datasets; see `asyncdicom.Client.store`."""
        return self._opened().call(lambda: _awaited(self._client.store(what, **options)))

    def store_each(self, what: Storable | Iterable[Storable], **options: Any) -> Iterator[Stored]:
        """Send files, folders, Datasets, and tell what becomes of each."""
        return self._each(lambda: aiter(self._client.store(what, **options)))

    def _each(self, start: Callable[[], AsyncGenerator[_T, None]]) -> Iterator[_T]:
        thread = self._opened()

        async def started() -> AsyncGenerator[_T, None]:
            return start()

        items = thread.call(started)
        try:
            while True:
                try:
                    yield thread.call(lambda: _next(items))
                except StopAsyncIteration:
                    return
        finally:
            thread.call(items.aclose)


async def _awaited(work: Awaitable[_T]) -> _T:
    return await work


async def _next(items: AsyncGenerator[_T, None]) -> _T:
    return await anext(items)
