"""Start-up: importing the package, and a C-ECHO from the command line, each in a new process."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

from benchmarks.harness import Bench, Column, Contender, Headline, Measure, Medians, Scenario, Target
from benchmarks.measure import Sample
from benchmarks.processes import ROOT, Missing, run

_BASE, _PACKAGE = "import asyncio, ssl", "import asyncio, ssl, asyncdicom"
_IMPORT = "from asyncdicom import associate, serve"  # the package itself imports what is asked for
_ECHO, _PYNETDICOM = "asyncdicom echoscu", "pynetdicom echoscu"

# pydicom imports NumPy where it is installed, as the plots need it here: without it the peer is at its best.
_PYNETDICOM_MAIN = (
    "import sys; sys.modules['numpy'] = None; sys.argv = ['echoscu', 'echoscu', '127.0.0.1', '{port}']; "
    "import runpy; runpy.run_module('pynetdicom', run_name='__main__')"
)


def _command(bench: Bench, command: list[str], stack: ExitStack) -> Measure:
    work = bench.folder(stack)
    env = os.environ | {
        "PYTHONPATH": str(ROOT),
        "TCP_NODELAY": "1",
        "PYTHONWARNINGS": "ignore",
        # As installed: with all modules compiled, whatever this process was told.
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPYCACHEPREFIX": str(bench.folder(stack)),
    }
    run(command, cwd=work, env=env)  # compiles what has to be compiled

    def measure() -> Sample:
        usages = [run(command, cwd=work, env=env) for _ in range(bench.pick(5, 3))]
        return {
            "wall_ms": min(usage.wall for usage in usages) * 1e3,
            "cpu_ms": min(usage.cpu for usage in usages) * 1e3,
        }

    return measure


def _python(bench: Bench, code: str, stack: ExitStack) -> Measure:
    return _command(bench, [sys.executable, "-c", code], stack)


def _echo(bench: Bench, command: list[str], stack: ExitStack) -> Measure:
    if shutil.which(command[0]) is None:
        raise Missing(f"{command[0]} is not installed")
    port = str(bench.worker(stack, "ours").call("answer_echo"))
    return _command(bench, [part.replace("{port}", port) for part in command], stack)


def _contenders(bench: Bench) -> Sequence[Contender]:
    python = sys.executable
    echoes = {
        _ECHO: [python, "-m", "asyncdicom", "echoscu", "RECEIVER@127.0.0.1:{port}"],
        _PYNETDICOM: [python, "-c", _PYNETDICOM_MAIN],
        "DCMTK echoscu": ["echoscu", "127.0.0.1", "{port}"],
    }
    return [
        Contender(_BASE, "-", "-", partial(_python, bench, _BASE), "-", "-"),
        Contender(_PACKAGE, "-", "-", partial(_python, bench, _PACKAGE), "-", "-"),
        Contender(_IMPORT, "-", "-", partial(_python, bench, _IMPORT), "-", "-"),
        Contender("import pynetdicom", "-", "-", partial(_python, bench, _WITHOUT_NUMPY), "-", "-"),
        *(
            Contender(name, name, "asyncdicom", partial(_echo, bench, command), "both", "-")
            for name, command in echoes.items()
        ),
    ]


_WITHOUT_NUMPY = "import sys; sys.modules['numpy'] = None; import pynetdicom"


def _above_base(code: str, medians: Medians) -> float:
    return medians(code, "cpu_ms") - medians(_BASE, "cpu_ms")  # it waits for nothing


SCENARIO = Scenario(
    "startup",
    "start-up, each in a new process",
    (Column("wall_ms", "ms", ".1f", True), Column("cpu_ms", "CPU ms", ".1f", True)),
    _contenders,
    (
        Target(
            "import asyncdicom: at most 25 ms of CPU above asyncio and ssl",
            partial(_above_base, _PACKAGE),
            at_most=25.0,
        ),
        Target(
            "with associate and serve: at most 25 ms of CPU above them",
            partial(_above_base, _IMPORT),
            at_most=25.0,
        ),
        Target(
            "echoscu at least 3 x as fast as pynetdicom's",
            lambda medians: medians.ratio("wall_ms", _PYNETDICOM, _ECHO),
            3.0,
        ),
    ),
    (Headline("echoscu, start to end", _ECHO, "wall_ms", ("DCMTK echoscu", _PYNETDICOM), True),),
    quick_rounds=1,
    note=lambda bench: f"the best of {bench.pick(5, 3)} starts a round",
)
