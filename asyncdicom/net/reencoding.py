"""Sources in another transfer syntax than their own, re-encoded while they are sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from asyncdicom.data.reencode import Reencoder
from asyncdicom.exceptions import DataSetError
from asyncdicom.net.disk import Batch, Buffer
from asyncdicom.net.sources import Source
from asyncdicom.telemetry.log import Log
from asyncdicom.uid import name_of

__all__ = ["ReencodedSource"]

log = Log("asyncdicom.net")

# Most of what is wrong with a data set shows in its first part. While nothing of it was sent, it costs only
# itself; later it costs the association, because the rest of a message can never follow.
_LOOKED_AT_FIRST = 1 << 20


class ReencodedSource:
    """The data set of `source` in `transfer_syntax_uid`, one of those that `BECOMES` has for its own.

    What is no data set in the transfer syntax of the source raises `DataSetError` when it is opened.
    """

    __slots__ = ("_source", "length", "sop_class_uid", "sop_instance_uid", "transfer_syntax_uid")

    def __init__(self, source: Source, transfer_syntax_uid: str) -> None:
        self._source = source
        self.sop_class_uid = source.sop_class_uid
        self.sop_instance_uid = source.sop_instance_uid
        self.transfer_syntax_uid = transfer_syntax_uid
        self.length: int = getattr(source, "length", 0)
        """About how many bytes there are; 0 if the source does not tell."""

    def at_hand(self) -> Buffer | None:
        """See `Source`: it takes time, so it is opened."""
        return None

    async def open(self) -> AsyncGenerator[Batch, None]:
        """See `Source`. Headers are re-encoded in the event loop, in steps of about a millisecond."""
        first: list[Buffer] | None = []
        size = 0
        async with aclosing(self._pieces()) as pieces:
            async for piece in pieces:
                if first is None:
                    yield piece
                    continue
                first += piece
                size += sum(map(len, piece))
                if size > _LOOKED_AT_FIRST:
                    yield first
                    first = None
        if first:
            yield first

    async def _pieces(self) -> AsyncGenerator[Batch, None]:
        source = self._source
        own, target = source.transfer_syntax_uid, self.transfer_syntax_uid
        reencoder = Reencoder(own, target, length=self.length or None)
        try:
            async with aclosing(source.open()) as batches:
                async for batch in batches:
                    for data in batch:
                        for pieces in reencoder.feed(data):
                            if pieces:
                                yield pieces
                            else:
                                await asyncio.sleep(0)
            yield reencoder.finish()
        except DataSetError as error:
            # Re-encoded as far as it goes, what ends early would look whole to the peer.
            why = f"it cannot be re-encoded as {name_of(target)}, which the peer takes: {error}"
            raise DataSetError(why) from None
        if reencoder.unswapped or reencoder.guessed:
            log.warning(
                "%s was re-encoded from %s: %d big endian values of unknown VR were left as they are, "
                "%d VRs are US because Pixel Representation comes too late",
                self.sop_instance_uid,
                name_of(own),
                reencoder.unswapped,
                reencoder.guessed,
            )
