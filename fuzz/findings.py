"""The corpus: seeds by target, and findings, which become seeds."""

from __future__ import annotations

import hashlib
import importlib
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from fuzz.bounds import TooMuch, check_bounds, timed

HANGS = 5  # seconds of processor time for one input: a busy machine is no finding
CORPUS = Path(__file__).parent / "corpus"


class Hang(TooMuch):
    """An input that takes for ever."""


def load(name: str) -> Any:
    """The module of a target."""
    return importlib.import_module(f"fuzz.{name}")


def seeds(name: str, corpus: Path = CORPUS) -> dict[str, bytes]:
    """The inputs in the corpus by their file names."""
    folder = corpus / name
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*"))} if folder.is_dir() else {}


def examine(target: Any, data: bytes, *, measured: bool = True) -> object:
    """Everything there is to check about one input; the outcome."""
    with guarded():
        outcome = timed(target, data)
        if measured:
            check_bounds(target, data)
    return outcome


@contextmanager
def guarded() -> Iterator[None]:
    """Within: what takes for ever raises `Hang`."""

    def hung(number: int, frame: FrameType | None) -> None:
        raise Hang(f"more than {HANGS} seconds")

    before = signal.signal(signal.SIGPROF, hung)
    signal.setitimer(signal.ITIMER_PROF, HANGS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def key_of(error: BaseException) -> str:
    """What makes two findings the same: the exception and where it came from."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "site-packages" not in f.filename]
    ours = [f for f in frames if "asyncdicom" in Path(f.filename).parts[:-1] or "fuzz" in f.filename]
    where = " ".join(f"{Path(f.filename).name}:{f.lineno}" for f in (ours or frames)[-2:])
    what = "".join(c for c in re.split(r"\.\.\.|['\"]", str(error))[0][:50] if not c.isdigit())
    return f"{type(error).__name__} {where} {what}"


def shorten(data: bytes, head: int, key: str, test: Callable[[bytes], object], seconds: float = 5.0) -> bytes:
    """A shorter input with the same finding: parts are left out as long as it stays."""
    end = time.monotonic() + seconds
    size = max(len(data) // 2, 1)
    while size:
        position = head
        while position < len(data):
            if time.monotonic() > end:
                return data
            shorter = data[:position] + data[position + size :]
            try:
                test(shorter)
            except Exception as error:
                if key_of(error) == key:
                    data = shorter
                    continue
            position += size
        size //= 2
    return data


class Findings:
    """Those of one run of one target: each is shown once and its shortest input is kept in the corpus."""

    def __init__(self, name: str, target: Any, corpus: Path = CORPUS) -> None:
        self.found: dict[str, Path] = {}
        self._name = name
        self._target = target
        self._corpus = corpus

    def add(self, data: bytes, error: Exception) -> None:
        """Take one; what was seen before is passed over."""
        key = key_of(error)
        if key in self.found:
            return
        short = data
        if not isinstance(error, Hang):  # each attempt would take so long
            short = shorten(data, self._target.HEAD, key, lambda each: examine(self._target, each))
        folder = self._corpus / self._name
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"crash-{hashlib.sha256(short).hexdigest()[:12]}"
        path.write_bytes(short)
        self.found[key] = path
        trace = "".join(traceback.format_exception(error)[-3:])
        print(
            f"FINDING {self._name} {path.name} ({len(short)} bytes): {key}\n{trace}",
            file=sys.stderr,
            flush=True,
        )
