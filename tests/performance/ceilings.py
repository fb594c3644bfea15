"""What the hot paths may cost: figures that do not depend on how fast the machine is.

One row a figure: the ceiling, and behind it what was measured when it was set. Lower a ceiling when the
code gets better; raise one only with a reason. `pytest -s tests/performance` prints what is measured now.
"""

from __future__ import annotations

from typing import NamedTuple

# User-space instructions of our process: callgrind, CPython 3.11, uvloop. A copy costs about 1 a byte. How
# many bytes one read brings depends on the machine: there is more room in the figures of bytes.
INSTRUCTIONS: dict[str, float] = {
    "a byte received into a file": 0.30,  # 0.16
    "a byte received into a file, PDU 16 KiB": 0.70,  # 0.49
    "a byte sent from a file": 0.35,  # 0.21: pieces of 272 KiB, which stay in the cache
    "a byte passed on": 0.40,  # 0.27
    "a C-ECHO answered": 180_000,  # 158,400
    "a C-ECHO asked": 245_000,  # 215,400
    "a C-STORE of 39 KiB received": 390_000,  # 346,400
    "a C-STORE of 39 KiB sent": 305_000,  # 268,500
    "a match sent": 38_000,  # 33,100
    "a match received": 158_000,  # 139,600
}

# The same work with one `bytes(view)` more: it has to be above the ceiling of the work without it.
MUTANTS: dict[str, str] = {
    "a byte received into a file, one copy more": "a byte received into a file",  # 1.16
    "a byte sent from a file, one copy more": "a byte sent from a file",  # 1.24
}

# Allocations of any size in the same run, counted at the C library's `malloc`.
ALLOCATIONS: dict[str, float] = {
    "a byte received into a file": 0.00025,  # 0.00013 to 0.00016
    "a byte received into a file, PDU 16 KiB": 0.0009,  # 0.00067
    "a byte sent from a file": 0.00035,  # 0.00025
    "a byte passed on": 0.0003,  # 0.00021
    "a C-ECHO answered": 90,  # 80
    "a C-ECHO asked": 123,  # 111
    "a C-STORE of 39 KiB received": 232,  # 210
    "a C-STORE of 39 KiB sent": 174,  # 157
    "a match sent": 25,  # 21.7
    "a match received": 86,  # 76
}

# Calls of functions, Python's and C's (`sys.setprofile`), for each PDU of a long data set; and for what the
# archive does to know where a data set ends.
CALLS: dict[str, float] = {
    "an element walked": 1.1,  # 1: unpack; the steps come on top
    "a piece of Pixel Data walked": 5,  # 4: by arithmetic, however long the piece is
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
    "a C-ECHO": Work(425, 0, 1, 3, 0, 3),  # 402, 0, 1, 3, 0, 3
    "a match": Work(155, 0, 0.1, 0.25, 0, 0.1),  # 142, 0, 0.03, 0.18, 0, 0.06
    "a C-STORE of 39 KiB": Work(640, 1, 1.5, 5, 0, 5),  # 605, 1, 1, 4, 0, 4
}
