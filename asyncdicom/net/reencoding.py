"""Sources that are rewritten while they are sent: in another transfer syntax, or for another patient."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Protocol

from asyncdicom.data.amend import Amender, Amendment
from asyncdicom.data.reencode import Reencoder
from asyncdicom.exceptions import DataSetError
from asyncdicom.net.disk import Batch, Buffer
from asyncdicom.net.sources import Source, is_repeatable
from asyncdicom.telemetry.log import Log
from asyncdicom.uid import name_of

__all__ = ["AmendedSource", "ReencodedSource"]

log = Log("asyncdicom.net")

# What is wrong with a data set costs only itself while nothing of it was sent. Later it costs the
# association, because a message that was begun cannot be taken back (PS3.7 9.3.1), and half of an image
# must never look whole. So a short one is kept until it is whole; a longer one is gone through to its
# end, and then read again.
_KEPT = 1 << 20


class _Rewriter(Protocol):
    def feed(self, data: Buffer) -> Iterator[list[Buffer]]: ...

    def finish(self) -> list[Buffer]: ...


class _RewrittenSource:
    """The data set of `source`, as a rewriter gives it. What that raises is raised when it is opened."""

    __slots__ = ("_source", "length", "sop_class_uid", "sop_instance_uid", "transfer_syntax_uid")

    def __init__(self, source: Source, transfer_syntax_uid: str) -> None:
        self._source = source
        self.sop_class_uid = source.sop_class_uid
        self.sop_instance_uid = source.sop_instance_uid
        self.transfer_syntax_uid = transfer_syntax_uid
        self.length: int = 0
        """About how many bytes there are; 0 if the source does not tell."""

    def _rewriter(self) -> _Rewriter:
        raise NotImplementedError

    @property
    def _what(self) -> str:
        """What is done to it."""
        raise NotImplementedError

    def _is_sure(self, rewriter: _Rewriter) -> bool:
        """Whether nothing of what is still to come can be wrong."""
        return False

    def _ended(self, rewriter: _Rewriter) -> None:
        """Everything was given out."""

    def at_hand(self) -> Buffer | None:
        """See `Source`: it takes time, so it is opened."""
        return None

    @property
    def is_repeatable(self) -> bool:
        """See `Source`."""
        return is_repeatable(self._source)

    async def open(self) -> AsyncGenerator[Batch, None]:
        """See `Source`. Headers are rewritten in the event loop, in steps of about a millisecond."""
        rewriter, kept, size = self._rewriter(), list[Buffer](), 0
        async with aclosing(self._pieces(rewriter)) as pieces:
            async for piece in pieces:
                kept += piece
                size += sum(map(len, piece))
                if size > _KEPT:
                    break
            is_last = size <= _KEPT or self._is_sure(rewriter) or not self.is_repeatable
            if is_last:
                if kept:
                    yield kept
                kept = []
                async for piece in pieces:
                    yield piece
            else:
                kept = []
                await self._look(pieces, rewriter)
        if not is_last:
            rewriter = self._rewriter()
            async with aclosing(self._pieces(rewriter)) as pieces:
                async for piece in pieces:
                    yield piece
        self._ended(rewriter)

    async def _look(self, pieces: AsyncGenerator[Batch, None], rewriter: _Rewriter) -> None:
        """Go through what comes until nothing can be wrong any more."""
        async for _ in pieces:
            if self._is_sure(rewriter):
                break
            await asyncio.sleep(0)  # nothing is sent, so nothing else gives others a turn

    async def _pieces(self, rewriter: _Rewriter) -> AsyncGenerator[Batch, None]:
        try:
            async with aclosing(self._source.open()) as batches:
                async for batch in batches:
                    for data in batch:
                        for pieces in rewriter.feed(data):
                            if pieces:
                                yield pieces
                            else:
                                await asyncio.sleep(0)
            yield rewriter.finish()
        except DataSetError as error:
            # What ends early would look whole to the peer, as far as it could be rewritten.
            raise DataSetError(f"it cannot be {self._what}: {error}") from None


class ReencodedSource(_RewrittenSource):
    """The data set of `source` in `transfer_syntax_uid`, one of those that `BECOMES` has for its own.

    What is no data set in the transfer syntax of the source raises `DataSetError` when it is opened.
    """

    __slots__ = ()

    def __init__(self, source: Source, transfer_syntax_uid: str) -> None:
        super().__init__(source, transfer_syntax_uid)
        self.length = getattr(source, "length", 0)

    def _rewriter(self) -> Reencoder:
        own = self._source.transfer_syntax_uid
        return Reencoder(own, self.transfer_syntax_uid, length=self.length or None)

    @property
    def _what(self) -> str:
        return f"re-encoded as {name_of(self.transfer_syntax_uid)}, which the peer takes"

    def _is_sure(self, rewriter: _Rewriter) -> bool:
        return isinstance(rewriter, Reencoder) and rewriter.is_in_last_value

    def _ended(self, rewriter: _Rewriter) -> None:
        if isinstance(rewriter, Reencoder) and (rewriter.unswapped or rewriter.guessed):
            log.warning(
                "%s was re-encoded from %s: %d big endian values of unknown VR were left as they are, "
                "%d VRs are US because Pixel Representation comes too late",
                self.sop_instance_uid,
                name_of(self._source.transfer_syntax_uid),
                rewriter.unswapped,
                rewriter.guessed,
            )


class AmendedSource(_RewrittenSource):
    """The data set of `source` with the values of an amendment, see `Amender`; its length is not told."""

    __slots__ = ("_amendment",)

    def __init__(self, source: Source, amendment: Amendment) -> None:
        super().__init__(source, source.transfer_syntax_uid)
        self._amendment = amendment

    def _rewriter(self) -> Amender:
        return Amender(self.transfer_syntax_uid, self._amendment)

    @property
    def _what(self) -> str:
        return "sent with the patient and study that it belongs to"
