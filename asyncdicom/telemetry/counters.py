"""What a process counts about itself: plain integers, which only grow.

They are counted without a lock: a figure may be a few too low when threads count at the same moment.
"""

from __future__ import annotations

__all__ = ["commands_failed", "log_errors", "log_lines_lost"]

commands_failed = 0
"""Commands for received instances or studies that could not be run, or failed."""

log_errors = 0
"""Log lines that could not be made: a handler or a filter raised, or a line did not format."""

log_lines_lost = 0
"""Log lines that were made and not written: the queue was full, or the file or the pipe did not take them."""
