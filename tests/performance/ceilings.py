"""What the hot paths may cost: figures that do not depend on how fast the machine is.

One row a figure: the ceiling, and behind it what was measured when it was set. Lower a ceiling when the
code gets better; raise one only with a reason. `pytest -s tests/performance` prints what is measured now.
"""

from __future__ import annotations

from typing import NamedTuple

# User-space instructions of our process: callgrind, CPython 3.11, uvloop. A copy costs about 1 a byte. How
# many bytes one read brings depends on the machine: there is more room in the figures of bytes.
INSTRUCTIONS: dict[str, float] = {
    "a byte received into a file": 0.35,  # 0.19 to 0.24
    "a byte received into a file, PDU 16 KiB": 0.90,  # 0.73
    "a byte sent from a file": 0.20,  # 0.09
    "a byte passed on": 0.35,  # 0.23
    "a C-ECHO answered": 260_000,  # 228,800
    "a C-ECHO asked": 310_000,  # 275,500
    "a C-STORE of 39 KiB received": 530_000,  # 475,000
    "a C-STORE of 39 KiB sent": 430_000,  # 385,000
    "a match sent": 58_000,  # 51,300
    "a match received": 190_000,  # 169,600
}

# The same work with one `bytes(view)` more: it has to be above the ceiling of the work without it.
MUTANTS: dict[str, str] = {
    "a byte received into a file, one copy more": "a byte received into a file",  # 1.21
    "a byte sent from a file, one copy more": "a byte sent from a file",  # 1.13
}

# Allocations of any size in the same run, counted at the C library's `malloc`.
ALLOCATIONS: dict[str, float] = {
    "a byte received into a file": 0.00025,  # 0.00013 to 0.00016
    "a byte received into a file, PDU 16 KiB": 0.0011,  # 0.00093
    "a byte sent from a file": 0.00016,  # 0.00008
    "a byte passed on": 0.00025,  # 0.00018
    "a C-ECHO answered": 165,  # 153
    "a C-ECHO asked": 180,  # 169
    "a C-STORE of 39 KiB received": 355,  # 329
    "a C-STORE of 39 KiB sent": 275,  # 256
    "a match sent": 40,  # 37
    "a match received": 100,  # 92
}

# Calls of functions, Python's and C's (`sys.setprofile`), for each PDU of a long data set.
CALLS: dict[str, float] = {
    "a PDU decoded": 2,  # 2: unpack, append
    "a PDU encoded": 2,  # 2: append, append
}


class Work(NamedTuple):
    """What one message takes, both sides together, on asyncio's own loop."""

    calls: float  # of functions, those of the event loop included
    tasks: float
    futures: float  # tasks not counted
    handles: float  # callbacks put into the event loop's queue
    timers: float
    wake_ups: float  # rounds of the event loop


MESSAGES: dict[str, Work] = {
    "a C-ECHO": Work(560, 0, 1, 3, 0, 3),  # 542, 0, 1, 3, 0, 3
    "a match": Work(215, 0, 0.1, 0.25, 0, 0.1),  # 203, 0, 0.03, 0.09, 0, 0.03
    "a C-STORE of 39 KiB": Work(930, 1, 1.5, 6, 0, 5),  # 899, 1, 1, 5, 0, 4
}
