"""What a process counts about itself: plain integers, which only grow.

They are counted without a lock: a figure may be a few too low when threads count at the same moment.
"""

from __future__ import annotations

from collections import Counter

__all__ = [
    "answered",
    "associations_accepted",
    "associations_rejected",
    "commands_failed",
    "connections_refused",
    "log_errors",
    "log_lines_lost",
]

answered: Counter[tuple[int, int]] = Counter()
"""Requests of peers that were answered, by the Command Field of the request and the final Status."""

associations_accepted = 0
"""Associations that peers have asked for, and got."""

associations_rejected = 0
"""Associations that peers have asked for, and did not get."""

connections_refused = 0
"""Connections that were closed before they could ask: by their address, or because there were too many."""

commands_failed = 0
"""Commands and functions for received instances or studies that could not be run, or failed."""

log_errors = 0
"""Log lines that could not be made: a handler or a filter raised, or a line did not format."""

log_lines_lost = 0
"""Log lines that were made and not written: the queue was full, or the file or the pipe did not take them."""
