"""Fuzzing of everything that reads what a peer sent: `python -m fuzz --seconds 60`. See README.md here."""

TARGETS = (
    "pdu_stream",
    "associate",
    "command",
    "data_set",
    "text",
    "part10",
    "matching",
    "peer",
    "conversation",
)
"""The modules of this package that are targets.

Each has `run(data)`: all checks on one input, giving a short outcome; `once(data)`: the library's part
of it, to be measured against `LINES` and `MEMORY` (base, per byte); `LAYOUT`, `HEAD` and
`MAXIMUM`: its structure for the mutator, how many bytes of it choose the set-up, how long it may be.
"""
