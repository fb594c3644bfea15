"""The two engines: our own, guided by the outcomes of a target, and atheris, guided by coverage."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from fuzz.bounds import check_bounds, timed
from fuzz.findings import CORPUS, HANGS, Findings, examine, load, seeds
from fuzz.mutate import mutate, pick

MEASURED = 200  # of so many inputs one is measured too
ADDRESS_SPACE = 4 << 30
_POOL = 4000


def has_atheris() -> bool:
    """Whether coverage guidance is possible."""
    return importlib.util.find_spec("atheris") is not None


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Within: no input takes all the memory."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def run_plain(
    name: str, *, seconds: float, runs: int = 0, seed: int = 0, corpus: Path = CORPUS
) -> tuple[int, Findings]:
    """Fuzz one target with our mutator; an input with a new outcome joins the pool.

    Ends after `seconds`, or `runs` inputs. The same seed, corpus and code give the same inputs.
    """
    target, random = load(name), Random(f"{name} {seed}")
    findings = Findings(name, target, corpus)
    pool, outcomes, count = [b"\0" * target.HEAD], set[object](), 0
    with limited():
        for data in seeds(name, corpus).values():
            pool.append(data)
            count += 1
            try:
                outcomes.add(examine(target, data))
            except Exception as error:
                findings.add(data, error)
        end = time.monotonic() + seconds
        while (not runs or count < runs) and time.monotonic() < end:
            data = mutate(
                pick(random, pool), pick(random, pool), target.LAYOUT, target.HEAD, random, target.MAXIMUM
            )
            count += 1
            try:
                outcome = examine(target, data, measured=count % MEASURED == 0)
                if outcome not in outcomes:
                    outcomes.add(outcome)
                    pool[1:] = [*pool[-_POOL:], data] if len(pool) > _POOL else [*pool[1:], data]
            except Exception as error:
                findings.add(data, error)
    return count, findings


def run_atheris(name: str, *, seconds: float, seed: int = 0, work: Path, corpus: Path = CORPUS) -> None:
    """Fuzz one target with libFuzzer, which ends the process; what it finds interesting goes to `work`.

    A finding is written to the corpus and does not end the run. Counts are in libFuzzer's own last lines.
    """
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["asyncdicom"]):
        target = load(name)
    findings = Findings(name, target, corpus)
    pool = [b"\0" * target.HEAD, *seeds(name, corpus).values()]
    count = 0

    def test(data: bytes) -> None:
        nonlocal count
        count += 1
        try:
            timed(target, data)  # libFuzzer has its own alarm
            if count % MEASURED == 0:
                check_bounds(target, data)
        except Exception as error:
            findings.add(data, error)

    def change(data: bytes, maximum: int, number: int) -> bytes:
        random = Random(number)
        if random.random() < 0.4:
            return bytes(atheris.Mutate(data, maximum))
        limit = min(maximum, target.MAXIMUM)
        return mutate(data, random.choice(pool), target.LAYOUT, target.HEAD, random, limit)

    for data in pool:
        with contextlib.suppress(Exception):
            test(data)
    work.mkdir(parents=True, exist_ok=True)
    arguments = [
        sys.argv[0],
        f"-max_total_time={max(int(seconds), 1)}",
        f"-max_len={target.MAXIMUM}",
        f"-timeout={4 * HANGS}",
        f"-rss_limit_mb={ADDRESS_SPACE >> 20}",
        f"-artifact_prefix={corpus / name / 'crash-'}",
        "-print_final_stats=1",
        f"-seed={seed + 1}",
        str(work),
        *([str(corpus / name)] if (corpus / name).is_dir() else []),
    ]
    os.environ.setdefault("PYTHONHASHSEED", "0")
    atheris.Setup(arguments, test, custom_mutator=change)
    atheris.Fuzz()
