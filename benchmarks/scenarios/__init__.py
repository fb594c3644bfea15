"""The scenarios, in the order in which they are run."""

from __future__ import annotations

from benchmarks.harness import Scenario
from benchmarks.scenarios import (
    associations,
    backlog,
    balance,
    bulk,
    distance,
    echo,
    find,
    gateway,
    handshakes,
    idle,
    in_to_out,
    index,
    ingest,
    memory,
    nagle,
    retrieve,
    scale,
    senders,
    startup,
    store,
    windows,
)

SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        *store.SCENARIOS,
        nagle.SCENARIO,
        echo.SCENARIO,
        senders.SCENARIO,
        find.SCENARIO,
        memory.SCENARIO,
        idle.SCENARIO,
        startup.SCENARIO,
        *associations.SCENARIOS,
        handshakes.SCENARIO,
        ingest.SCENARIO,
        index.SCENARIO,
    )
}

DISTANCE: dict[str, Scenario] = {scenario.name: scenario for scenario in (*distance.SCENARIOS, bulk.SCENARIO)}
"""What is done over distance; it is a run of its own."""

WINDOWS: dict[str, Scenario] = {scenario.name: scenario for scenario in windows.SCENARIOS}
"""Why the operations window is as large as it is."""

GATEWAY: dict[str, Scenario] = {
    scenario.name: scenario for scenario in (*gateway.SCENARIOS, in_to_out.SCENARIO)
}
"""What a gateway does; a run of its own, too."""

BACKLOG: dict[str, Scenario] = {scenario.name: scenario for scenario in backlog.SCENARIOS}
"""What a gateway does while a destination is down, and when it is back; a run of its own."""

SCALE: dict[str, Scenario] = {
    scenario.name: scenario for scenario in (*scale.SCENARIOS, balance.SCENARIO, *retrieve.SCENARIOS)
}
"""Past one process: a run of its own."""

GROUPS = {
    "speed": SCENARIOS,
    "distance": DISTANCE,
    "windows": WINDOWS,
    "gateway": GATEWAY,
    "backlog": BACKLOG,
    "scale": SCALE,
}
