"""What an attack is, as a row of a table, and how what was measured is judged and kept.

The rows are in `attacks_kept` (what was acknowledged), `attacks_time` (time and memory), `attacks_stuck`,
`attacks_disks` and `attacks_leaving` (who may, and what leaves). ``measured.json`` keeps what they gave, for
the table in tests/README.md.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, NamedTuple

Counts = dict[str, float]
"""What was counted or measured in an attack, by its name."""

MEASURED = Path(__file__).parent / "measured.json"
RECORD = os.environ.get("ASYNCDICOM_RECORD", "")  # "before" or "now": the column that this run fills
GOALS_MISSED = "goals missed"  # only counted in the long form; always 0 at most
PATIENCE = 5.0  # seconds; who is not served within them is counted as not served


class Attack(NamedTuple):
    """One row. ``bounds``: what is counted, and the most that is right.

    ``fails``: why it is not held today, "" once it is. ``only_long``: too long or too large for the suite.
    """

    name: str
    what: str
    make: Callable[[Path], Coroutine[Any, Any, Counts]]
    bounds: Mapping[str, float]
    fails: str = ""
    only_long: bool = False


def judge(attack: Attack, counts: Counts) -> list[str]:
    """What exceeds its bound; everything that has one must have been counted."""
    bounds = dict(attack.bounds)
    if GOALS_MISSED in counts:
        bounds[GOALS_MISSED] = 0
    return [
        f"{what}: {counts[what]:g}, at most {bound:g}"
        for what, bound in bounds.items()
        if counts[what] > bound
    ]


def record(attack: Attack, counts: Counts, file: Path = MEASURED) -> None:
    """Keep what was measured in the column that this run is to fill, if it is to fill one."""
    if not RECORD:
        return
    kept = json.loads(file.read_text()) if file.exists() else {}
    kept.setdefault(attack.name, {})[RECORD] = {what: round(count, 1) for what, count in counts.items()}
    file.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
