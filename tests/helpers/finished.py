"""What is received is finished, as the archive does it."""

from __future__ import annotations

import queue

from asyncdicom.archive.blobs.base import NewBlob


def finished(blob: NewBlob) -> None:
    """Make a blob durable. Raises what that fails with."""
    answers: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
    blob.finish(answers.put)
    if (error := answers.get(timeout=60)) is not None:
        raise error
