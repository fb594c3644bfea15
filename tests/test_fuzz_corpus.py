"""The fuzz targets on their corpus: recorded conversations, and every input that once found something."""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
if str(ROOT) not in sys.path:  # the fuzz package is not installed
    sys.path.append(str(ROOT))

from fuzz import TARGETS  # noqa: E402
from fuzz.bounds import TooMuch, check_bounds  # noqa: E402
from fuzz.check import Finding  # noqa: E402
from fuzz.engine import run_plain  # noqa: E402
from fuzz.findings import CORPUS, examine, load, seeds  # noqa: E402
from fuzz.mutate import LAYOUTS, join, mutate  # noqa: E402

MUTATIONS = 25  # of each target


@pytest.mark.parametrize("name", TARGETS)
def test_every_seed_keeps_the_promises(name: str) -> None:
    target = load(name)
    found = seeds(name)
    assert found
    for number, (file, data) in enumerate(found.items()):
        try:
            examine(target, data, measured=file.startswith("crash-") or number % 5 == 0)
        except Exception as error:
            pytest.fail(f"fuzz/corpus/{name}/{file}: {error!r}")


@pytest.mark.parametrize("name", TARGETS)
def test_some_mutations_keep_the_promises(name: str) -> None:
    target, random = load(name), Random(f"corpus {name}")
    pool = list(seeds(name).values())
    for number in range(MUTATIONS):
        data = mutate(
            random.choice(pool), random.choice(pool), target.LAYOUT, target.HEAD, random, target.MAXIMUM
        )
        examine(target, data, measured=number % 5 == 0)


def test_the_corpus_is_small() -> None:
    assert sum(path.stat().st_size for path in CORPUS.glob("*/*")) < 1 << 20


@pytest.mark.parametrize("name", TARGETS)
def test_structure_is_kept_by_the_mutator(name: str) -> None:
    target = load(name)
    for data in seeds(name).values():
        head, body = data[: target.HEAD], data[target.HEAD :]
        assert join(LAYOUTS[target.LAYOUT](head, body)) == body


def _target(**parts: Any) -> ModuleType:
    defaults: dict[str, Any] = {
        "HEAD": 1,
        "LAYOUT": "raw",
        "MAXIMUM": 64,
        "LINES": (9, 1),
        "MEMORY": (9999, 1),
    }
    return SimpleNamespace(**defaults | {"once": bytes, "run": bytes} | parts)  # type: ignore[return-value]


def test_a_finding_becomes_a_short_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(data: bytes) -> object:
        if b"\x07" in data[1:]:
            raise Finding("a seven")
        return None

    monkeypatch.setattr("fuzz.engine.load", lambda name: _target(run=run))
    count, findings = run_plain("seven", seconds=10, runs=3000, corpus=tmp_path)
    assert count == 3000
    (path,) = findings.found.values()
    assert path.parent == tmp_path / "seven"
    assert path.read_bytes()[1:] == b"\x07"


def test_too_much_work_is_a_finding() -> None:
    from asyncdicom.uid import is_valid_uid

    with pytest.raises(TooMuch, match="lines ran"):
        check_bounds(_target(once=lambda data: [is_valid_uid("1.2") for _ in range(999)]), b"12")


def test_too_much_memory_is_a_finding() -> None:
    with pytest.raises(TooMuch, match="allocated"):
        check_bounds(_target(once=lambda data: bytes(20000)), b"12")
