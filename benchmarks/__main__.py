"""``python -m benchmarks``: run the scenarios, print the tables, write JSON and plots."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import harness, lines, machine, plots, publish, report
from benchmarks.scenarios import GROUPS


def main() -> int:
    """Run the command line."""
    options = _parse()
    if options.list:
        for group in GROUPS.values():
            for scenario in group.values():
                print(f"{scenario.name:14} {scenario.title}")
        return 0
    options.output.mkdir(parents=True, exist_ok=True)
    if options.replot is not None:
        document = {"group": "speed"} | json.loads(options.replot.read_text("utf-8"))
        _print(document["scenarios"])
        return _finish(document, options)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    document = {
        "machine": machine.describe(),
        "quick": options.quick,
        "group": options.group,
        "scenarios": [],
    }
    for line in report.machine_lines(document["machine"]):
        print(line)
    began = time.monotonic()
    with harness.open_bench(
        quick=options.quick, memory=options.memory, disk=options.disk, report=_Progress()
    ) as bench:
        bench.backlog, bench.rounds, bench.against = options.backlog, options.rounds, options.against
        scenarios = GROUPS[options.group]
        names = list(dict.fromkeys(options.only or scenarios))
        for number, name in enumerate(names, 1):
            bench.progress = f"{number}/{len(names)} "
            result = harness.run_scenario(scenarios[name], bench, options.rounds)
            document["scenarios"].append(result)
            _Progress.clear()
            _print([result])
            _write(document, options.output)  # what was measured is kept, whatever happens later
    print(f"\n{time.monotonic() - began:.0f} s; everything that was measured: {options.output}/results.json")
    return _finish(document, options)


def _finish(document: dict[str, Any], options: argparse.Namespace) -> int:
    """Print all targets once more, draw, and with ``--write-summary`` renew what README shows."""
    print()
    for line in report.summary_lines(document):
        print(line)
    (options.output / "summary.md").write_text(report.summary_markdown(document) + "\n", "utf-8")
    if not options.no_plots:
        _draw(document["scenarios"], options.output)
    if options.write_summary:
        publish.publish(document)
        print(f"README.md shows this run; its figures and plot are in {publish.RESULTS}")
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "group", nargs="?", choices=GROUPS, default="speed", help="what is measured (%(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, few rounds: under two minutes")
    parser.add_argument("--only", action="append", metavar="NAME", help="run this scenario (repeatable)")
    parser.add_argument("--rounds", type=int, help="so many rounds instead of those of the scenario")
    parser.add_argument(
        "--backlog", type=int, metavar="N", help="deliveries that wait (1000000; with --quick 20000)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("build/benchmarks"),
        help="where results and plots go (%(default)s)",
    )
    parser.add_argument("--memory", type=Path, help="where files are sent from and received (/dev/shm)")
    parser.add_argument("--disk", type=Path, help="where archives are, on a real disk (the temporary folder)")
    parser.add_argument(
        "--against",
        type=Path,
        metavar="DIR",
        help="another checkout of this project: ingest measures its archive, too, by turns",
    )
    parser.add_argument("--no-plots", action="store_true", help="do not draw")
    parser.add_argument(
        "--replot", type=Path, metavar="JSON", help="print and draw an earlier run; run nothing"
    )
    parser.add_argument(
        "--write-summary",
        action="store_true",
        help="show this run (or that of --replot) in README.md, and keep it in benchmarks/results",
    )
    parser.add_argument("--list", action="store_true", help="list the scenarios")
    options = parser.parse_args()
    unknown = set(options.only or ()) - set(GROUPS[options.group])
    if unknown:
        parser.error(f"{options.group} has no scenario {', '.join(sorted(unknown))}: see --list")
    if options.write_summary and options.group not in publish.PUBLICATIONS:
        parser.error(f"the figures of {options.group} are not published")
    return options


def _print(results: list[dict[str, Any]]) -> None:
    for result in results:
        print()
        for line in report.scenario_lines(result):
            print(line)
        sys.stdout.flush()


def _write(document: dict[str, Any], folder: Path) -> None:
    (folder / "results.json").write_text(json.dumps(document, indent=1), "utf-8")


def _draw(results: list[dict[str, Any]], folder: Path) -> None:
    try:
        drawn = [
            *plots.draw(results, folder),
            *plots.draw_summary(results, folder),
            *lines.draw(results, folder),
        ]
    except plots.NoMatplotlib as error:
        print(error, file=sys.stderr)
    else:
        print(f"{len(drawn)} plots in {folder}")


class _Progress:
    """Says on stderr what is being done: one line on a terminal, many lines elsewhere."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def __call__(self, text: str) -> None:
        line = f"[{time.monotonic() - self._began:4.0f} s] {text}"
        if sys.stderr.isatty():
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)

    @staticmethod
    def clear() -> None:
        if sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
