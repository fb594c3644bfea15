"""The table of attacks in tests/README.md: ``python -m endurance.table`` writes it from ``measured.json``."""

from __future__ import annotations

import json
from pathlib import Path

from endurance.attack import MEASURED, Attack, Counts
from endurance.test_attacks import ATTACKS

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- attacks: written by endurance/table.py -->\n", "<!-- end of attacks -->\n"
PRINTED = ("C-ECHO p99 ms", "C-ECHO max ms", "C-STORE max ms", "C-FIND max ms", "MiB")
HEAD = "| attack | what is done | right | before | now |\n| --- | --- | --- | --- | --- |\n"


def shown(attack: Attack, counts: Counts | None) -> str:
    """What has a bound, and of the neighbour what is only looked at."""
    if counts is None:
        return "not measured"
    whats = [*attack.bounds, *(what for what in PRINTED if what in counts and what not in attack.bounds)]
    return "; ".join(f"{what} {counts[what]:,g}" for what in whats if what in counts)


def table(measured: dict[str, dict[str, Counts]]) -> str:
    """The rows, in the order of the attacks."""
    lines = []
    for attack in ATTACKS:
        columns = measured.get(attack.name, {})
        right = "; ".join(f"{what} at most {bound:,g}" for what, bound in attack.bounds.items())
        cells = (attack.name, attack.what, right, *(shown(attack, columns.get(c)) for c in ("before", "now")))
        lines.append(f"| {' | '.join(cells)} |\n")
    return HEAD + "".join(lines)


def with_table(readme: str) -> str:
    """The page with the table that belongs there now."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + "\n" + table(json.loads(MEASURED.read_text())) + "\n" + END + after


if __name__ == "__main__":
    README.write_text(with_table(README.read_text()))
