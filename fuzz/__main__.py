"""`python -m fuzz --seconds 60 [--target NAME]`: all targets in turn, each in its own process."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fuzz import TARGETS
from fuzz.engine import has_atheris, run_atheris, run_plain
from fuzz.findings import CORPUS

_COUNTS = re.compile(r"stat::number_of_executed_units:\s*(\d+)|^(\d+) inputs$", re.MULTILINE)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target (default: 60)")
    parser.add_argument("--target", choices=TARGETS, action="append", help="only this one; may be repeated")
    parser.add_argument("--engine", choices=("auto", "atheris", "plain"), default="auto")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers (default: 0)")
    parser.add_argument("--jobs", type=int, default=1, help="targets at the same time (default: 1)")
    parser.add_argument(
        "--work", type=Path, help="keep what atheris finds interesting here, for the next run"
    )
    parser.add_argument("--corpus", type=Path, default=CORPUS, help=argparse.SUPPRESS)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _inside(options: argparse.Namespace) -> None:
    """In the process of one target."""
    name = options.target[0]
    if options.engine == "atheris":
        run_atheris(
            name, seconds=options.seconds, seed=options.seed, work=options.work / name, corpus=options.corpus
        )
        return
    count, _ = run_plain(name, seconds=options.seconds, seed=options.seed, corpus=options.corpus)
    print(f"{count} inputs")


def _run(name: str, options: argparse.Namespace, engine: str, work: Path) -> tuple[int, int, int]:
    command = [sys.executable, "-m", "fuzz", "--inside", "--target", name, "--engine", engine]
    command += ["--seconds", str(options.seconds), "--seed", str(options.seed), "--work", str(work)]
    command += ["--corpus", str(options.corpus.resolve())]
    ended = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    output = ended.stdout + ended.stderr
    inputs = sum(int(a or b) for a, b in _COUNTS.findall(output))
    found = output.count("\nFINDING ") + output.startswith("FINDING ")
    failed = ended.returncode != 0
    print(f"{name:14} {inputs:10,} inputs  {found} findings{'  FAILED' if failed else ''}", flush=True)
    if found or failed:
        lines = output.splitlines()
        if not found:
            lines = lines[-40:]
        else:
            first = next(i for i, line in enumerate(lines) if line.startswith("FINDING "))
            lines = [line for line in lines[first:] if not line.startswith(("#", "stat::", "INFO:"))]
        print("\n".join(lines), flush=True)
    return inputs, found, int(failed)


def main() -> int:
    """Run what was asked for; 1 if there was a finding."""
    options = _arguments()
    if options.inside:
        _inside(options)
        return 0
    engine = ("atheris" if has_atheris() else "plain") if options.engine == "auto" else options.engine
    names = options.target or TARGETS
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.jobs) as pool:
        work = options.work or Path(folder)
        print(f"engine: {engine}; {options.seconds:g} s for each of {len(names)} targets", flush=True)
        totals = list(pool.map(lambda name: _run(name, options, engine, work), names))
    inputs, found, failed = (sum(column) for column in zip(*totals, strict=True))
    print(f"{'total':14} {inputs:10,} inputs  {found} findings")
    return int(bool(found or failed))


if __name__ == "__main__":
    sys.exit(main())
