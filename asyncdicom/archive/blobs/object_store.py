"""An object store that speaks S3: its calls, made by obstore, and what they fail with.

Who waits for a call makes it in a thread, without Python's lock. A PUT is waited for by no thread: it is a
task of an event loop that is for them alone. So many are under way without a thread each, and the loop that
serves peers is woken for none of them. Measured: a PUT costs the same processor time either way, 0.3 ms.

Nothing of what obstore says is passed on but the status and the code of the store: no URL, no header.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from asyncdicom.archive.blobs.base import Unreachable
from asyncdicom.archive.errors import ArchiveError

__all__ = ["PART", "Found", "ObjectStore", "Place", "place_of"]

PART = 5 << 20
"""Bytes of a part of an object that is sent while it is received: the least that S3 takes."""

REQUEST = 30.0  # seconds that one request may take
_AGAIN = 3  # times that what only reads is asked again, by obstore
_PARTS_AT_ONCE = 2  # of one object
_PUTS_AT_ONCE = 64  # more wait: a store that is slow is not made slower
_COPIED_BY_STORE = 256 << 20  # bytes; the store copies more in pieces that we send

_URL = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])((?:/[A-Za-z0-9._-]+)*)/?")
_LOOPBACK = re.compile(r"http://(?:127\.\d+\.\d+\.\d+|localhost|\[::1\])(?::\d+)?(?:/|$)", re.IGNORECASE)
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w{1,40})</Code>")
_NO_BUCKET = "<Code>NoSuchBucket</Code>"
_PASSING = {"408", "429", "500", "502", "503", "504"}  # HTTP: what may be otherwise in a moment

_T = TypeVar("_T")


class Place(NamedTuple):
    """A bucket, and what all keys begin with; empty if nothing."""

    bucket: str
    prefix: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}" if self.prefix else f"s3://{self.bucket}"


def place_of(url: str) -> Place:
    """Take the URL of a bucket apart. Raises `ArchiveError`, which does not repeat it."""
    found = _URL.fullmatch(url)
    if found is None or any(part in (".", "..") for part in found[2].split("/")):
        raise ArchiveError(
            "a bucket is named s3://bucket or s3://bucket/prefix; credentials and endpoint are only taken "
            "from the environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL ...) or the instance"
        )
    return Place(found[1], found[2].strip("/"))


class Found(NamedTuple):
    """An object in a list: its key, bytes, and when it was last written (seconds since 1970)."""

    key: str
    size: int
    written: float


class ObjectStore:
    """One prefix of a bucket. Keys are below it. For many threads, from `start` to `stop`.

    All methods but `spawn` and the coroutines block. They raise `Unreachable`, and
    ``FileNotFoundError`` where there is no such object. ``on_failure`` is told of every failure.
    """

    def __init__(
        self, place: Place, *, on_failure: Callable[[], None] = lambda: None, timeout: float | None = None
    ) -> None:
        try:
            import obstore
            from obstore.store import S3Store
        except ImportError:
            raise ArchiveError("blobs in S3 need obstore: pip install asyncdicom[s3]") from None
        self._obstore = obstore
        self._on_failure = on_failure
        self._timeout = timeout = REQUEST if timeout is None else timeout
        options = {"timeout": timedelta(seconds=timeout), **_connecting(os.environ)}
        config: dict[str, Any] = {"disable_bulk_delete": True}
        if "AWS_CHECKSUM_ALGORITHM" not in os.environ:
            config["checksum_algorithm"] = "SHA256"

        def store(retries: int) -> S3Store:
            return S3Store(
                place.bucket,
                prefix=place.prefix or None,
                config=config,  # type: ignore[arg-type]
                client_options=options,  # type: ignore[arg-type]
                retry_config={"max_retries": retries, "retry_timeout": timedelta(seconds=timeout)},
            )

        try:
            # A PUT is not made again by itself: nobody knows whether the first one has come to be.
            self._once, self._again = store(0), store(_AGAIN)
        except Exception as error:
            raise ArchiveError(
                f"{place} cannot be used: obstore does not take what the environment says "
                f"({type(error).__name__}); see the variables AWS_*"
            ) from None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread of what no thread waits for."""
        self._loop = asyncio.new_event_loop()
        self.ending = asyncio.Event()
        self._places = asyncio.Semaphore(_PUTS_AT_ONCE)
        self._thread = threading.Thread(target=self._loop.run_forever, name="asyncdicom-objects", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Let what is under way come to its end, and end the thread, if there is one. Blocks.

        Who still waits for more of an object looks at `ending`. What blocks can be called afterwards, too.
        """
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self.ending.set)
            self.spawn(_others()).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            self._thread = None

    def spawn(self, work: Coroutine[Any, Any, _T]) -> Future[_T]:
        """Have the thread run a coroutine. Raises `Unreachable` before `start`, and after `stop`."""
        if self._thread is None:
            work.close()
            raise Unreachable(errno.ESHUTDOWN, "the archive is closed")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    # errors

    @contextmanager
    def _telling(self, key: str) -> Iterator[None]:
        """What obstore raises becomes what the archive can tell."""
        try:
            yield
        except FileNotFoundError as error:
            if _NO_BUCKET in str(error):
                self._on_failure()
                raise self._told(str(error)) from None
            raise FileNotFoundError(errno.ENOENT, "no such object", key) from None
        except self._obstore.exceptions.AlreadyExistsError:
            raise FileExistsError(errno.EEXIST, "an object of this name exists", key) from None
        except TimeoutError:
            self._on_failure()
            raise self._late() from None
        except self._obstore.exceptions.BaseError as error:
            self._on_failure()
            raise self._told(str(error)) from None

    def _late(self) -> Unreachable:
        late = Unreachable(errno.ETIMEDOUT, f"the object store did not answer in {self._timeout:g} s")
        late.is_passing = True
        return late

    def _told(self, text: str) -> Unreachable:
        status = _STATUS.search(text)
        if status is None:
            if "TimedOut" in text:
                return self._late()
            told = Unreachable(errno.ECONNABORTED, "the object store cannot be reached")
            told.is_passing = True
            return told
        if _NO_BUCKET in text:
            return Unreachable(errno.ENODEV, "the bucket does not exist")
        code = _CODE.search(text)
        what = f"{status[1]} {code[1]}" if code is not None else status[1]
        told = Unreachable(errno.EACCES, f"the object store answered {what}")
        told.is_passing = status[1] in _PASSING
        return told

    # reading

    def size(self, key: str) -> int | None:
        """Give how many bytes an object has; None if there is none."""
        try:
            with self._telling(key):
                return int(self._obstore.head(self._again, key)["size"])
        except FileNotFoundError:
            return None

    def read(self, key: str, start: int, size: int) -> tuple[memoryview, int]:
        """Read bytes of an object from `start` on, fewer at its end; and give how many it has."""
        with self._telling(key):
            try:
                found = self._obstore.get(self._again, key, options={"range": (start, start + size)})
                return memoryview(found.bytes()), int(found.meta["size"])
            except self._obstore.exceptions.BaseError as error:
                status = _STATUS.search(str(error))
                if status is not None and status[1] == "416":  # it has no more
                    return memoryview(b""), int(self._obstore.head(self._again, key)["size"])
                raise

    async def read_async(self, key: str, start: int, size: int) -> memoryview:
        """As `read`, without blocking, in any event loop."""
        with self._telling(key):
            return memoryview(await self._obstore.get_range_async(self._again, key, start=start, length=size))

    def keys(self, prefix: str) -> Iterator[list[Found]]:
        """Give the objects whose keys begin with a prefix, in their order, by pages."""
        with self._telling(prefix):
            pages = iter(self._obstore.list(self._again, prefix, chunk_size=1000))
        while True:
            with self._telling(prefix):
                page = next(pages, None)
            if page is None:
                return
            yield [Found(each["path"], each["size"], each["last_modified"].timestamp()) for each in page]

    # writing

    def create(self, key: str, data: bytes) -> None:
        """Make a small object. Raises ``FileExistsError`` if there is one."""
        with self._telling(key):
            self._obstore.put(self._once, key, data, mode="create", use_multipart=False)

    def create_of(self, key: str, pieces: Iterator[bytes]) -> None:
        """Make an object of pieces, in place of what is there. They do not come from a store."""
        with self._telling(key):
            self._obstore.put(
                self._again, key, pieces, use_multipart=True, chunk_size=PART, max_concurrency=_PARTS_AT_ONCE
            )

    def remove(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""
        try:
            with self._telling(key):
                self._obstore.delete(self._again, key)
        except FileNotFoundError:
            pass

    def copy(self, key: str, target: str) -> None:
        """Make a copy of an object under a key that nothing has."""
        size = self.size(key)
        if size is None:
            raise FileNotFoundError(errno.ENOENT, "no such object", key)
        if size > _COPIED_BY_STORE:
            self.spawn(self.upload(target, self._pieces(key, size))).result()
        else:
            with self._telling(key):
                self._obstore.copy(self._again, key, target)
        if self.size(target) != size:
            raise Unreachable(errno.ENODATA, "the object store has not made the copy")

    async def _pieces(self, key: str, size: int) -> AsyncGenerator[bytes, None]:
        for start in range(0, size, PART):
            yield bytes(await self.read_async(key, start, PART))

    async def put(self, key: str, data: bytes) -> None:
        """Make an object, in the loop of `spawn`. Raises ``FileExistsError`` if there is one."""
        with self._telling(key):
            async with asyncio.timeout(self._timeout), self._places:  # a long queue is no answer, either
                await self._obstore.put_async(self._once, key, data, mode="create", use_multipart=False)

    async def remove_async(self, key: str) -> None:
        """As `remove`, in the loop of `spawn`; asked once."""
        try:
            with self._telling(key):
                async with asyncio.timeout(self._timeout), self._places:
                    await self._obstore.delete_async(self._once, key)
        except FileNotFoundError:
            pass

    async def upload(self, key: str, pieces: AsyncGenerator[bytes, None]) -> None:
        """Make an object of pieces that come, in the loop of `spawn`; if they break off, there is none."""
        with self._telling(key):
            await self._obstore.put_async(
                self._again,
                key,
                pieces,
                use_multipart=True,
                chunk_size=PART,
                max_concurrency=_PARTS_AT_ONCE,
            )


def _connecting(environment: Mapping[str, str]) -> dict[str, Any]:
    """Give what the environment says of connections, and obstore does not ask it. Raises `ArchiveError`."""
    options: dict[str, Any] = {}
    endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL") or ""
    if endpoint.lower().startswith("http://"):
        is_meant = environment.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true")
        if not is_meant and not _LOOPBACK.match(endpoint):
            raise ArchiveError(
                f"{endpoint} takes images and credentials in the clear: give an https:// endpoint, or set "
                "AWS_ALLOW_HTTP=true if that is meant"
            )
        options["allow_http"] = True
    if bundle := environment.get("AWS_CA_BUNDLE"):
        try:
            options["root_certificate"] = Path(bundle).read_bytes()
        except OSError as error:
            raise ArchiveError(f"AWS_CA_BUNDLE: {bundle}: {error.strerror}") from None
    return options


async def _others() -> None:
    """Wait for all other tasks of the loop."""
    mine = asyncio.current_task()
    while others := {task for task in asyncio.all_tasks() if task is not mine}:
        await asyncio.wait(others)
