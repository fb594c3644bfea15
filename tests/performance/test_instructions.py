"""Instructions and allocations, counted by callgrind: the speed cannot be lost unseen.

One run of `workload.py` measures everything. No figure depends on how fast the machine is, or how busy.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from performance.ceilings import ALLOCATIONS, INSTRUCTIONS, MUTANTS

import asyncdicom

WORKLOAD = Path(__file__).with_name("workload.py")
# PyMalloc would hide most allocations; the order of sets and dicts must not change from run to run.
ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(Path(asyncdicom.__file__).parents[1]),
    "PYTHONMALLOC": "malloc",
    "PYTHONHASHSEED": "0",
}
FUNCTION = re.compile(r"(c?)fn=\((\d+)\)(?: (.*))?")
ALLOCATING = re.compile(r"(malloc|calloc|realloc)('\d+)?$")

pytestmark = pytest.mark.timeout(600)  # whichever test is the first one runs callgrind


class Cost(NamedTuple):
    instructions: float
    allocations: float


def read_dump(path: Path) -> Cost:
    """What was executed between two dumps (the format: valgrind.org/docs/manual/cl-format.html)."""
    names: dict[str, str] = {}
    total = allocations = 0
    called = ""
    for line in path.read_text("utf-8", "replace").splitlines():
        if match := FUNCTION.match(line):
            is_callee, number, name = match.groups()
            if name is not None:
                names[number] = name
            if is_callee:
                called = names[number]
        elif line.startswith("calls=") and ALLOCATING.match(called):
            allocations += int(line[6:].split()[0])
        elif line.startswith("totals:"):
            total = int(line.split()[1])
    return Cost(total, allocations)


@pytest.fixture(scope="module")
def costs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Cost]:
    """What one unit of each phase costs."""
    if shutil.which("valgrind") is None:
        missing = pytest.fail if os.environ.get("ASYNCDICOM_REQUIRE_PEERS") else pytest.skip
        missing("needs valgrind: apt-get install valgrind")
    folder = tmp_path_factory.mktemp("callgrind")
    out = folder / "out"
    (folder / "files").mkdir()
    options = ["--tool=callgrind", "--dump-before=getppid", f"--callgrind-out-file={out}"]
    done = subprocess.run(
        ["valgrind", *options, sys.executable, str(WORKLOAD), str(folder / "files")],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = {}
    for number, line in enumerate(done.stdout.splitlines()):
        name, amount = json.loads(line)
        little, much = (read_dump(Path(f"{out}.{3 * number + part}")) for part in (2, 3))
        found[name] = Cost(*((b - a) / amount for a, b in zip(little, much, strict=True)))
    for name, cost in found.items():
        print(f"{name:45} {cost.instructions:12.4f} instructions {cost.allocations:12.6f} allocations")
    return found


@pytest.mark.parametrize("what", INSTRUCTIONS)
def test_instructions(what: str, costs: dict[str, Cost]) -> None:
    assert 0 < costs[what].instructions <= INSTRUCTIONS[what]


@pytest.mark.parametrize("what", ALLOCATIONS)
def test_allocations(what: str, costs: dict[str, Cost]) -> None:
    assert 0 < costs[what].allocations <= ALLOCATIONS[what]


@pytest.mark.parametrize("mutant", MUTANTS)
def test_one_copy_more_is_noticed(mutant: str, costs: dict[str, Cost]) -> None:
    assert costs[mutant].instructions > 2 * INSTRUCTIONS[MUTANTS[mutant]]


def test_everything_measured_has_a_ceiling(costs: dict[str, Cost]) -> None:
    assert set(costs) == set(INSTRUCTIONS) | set(MUTANTS)
    assert set(ALLOCATIONS) == set(INSTRUCTIONS)
