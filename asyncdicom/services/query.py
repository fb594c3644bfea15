"""Query: C-FIND (PS3.4 Annex C.4.1)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, TypeVar, cast

from asyncdicom.dimse.messages import Command, CommandField, Priority, response_to
from asyncdicom.exceptions import DicomNetworkError
from asyncdicom.net.channel import Channel
from asyncdicom.net.operation import IncomingRequest, Interrupted, Reply
from asyncdicom.services.contexts import find_context
from asyncdicom.services.handlers import Handlers, Identifier, Request, Response
from asyncdicom.services.streams import ResponseStream
from asyncdicom.status import Status

__all__ = ["Query", "encode_identifier", "find", "provide"]

_MAXIMUM_MATCHES = 100_000
_MAXIMUM_ELEMENTS = 16_384  # of one match, those in sequences included
# Where neither handler nor socket ever waits, others (and a C-CANCEL) have to get their turn all the same.
_RESPONSES_IN_A_ROW = 16


_Match = TypeVar("_Match")  # Dataset, or bytes with raw=True


class Query(ResponseStream[_Match, list[_Match]]):
    """A C-FIND: gives one Identifier a match, a pydicom Dataset, or its bytes with ``raw=True``."""

    def __init__(self, *args: Any, raw: bool, maximum_matches: int) -> None:
        super().__init__(*args)
        self._raw = raw
        self._maximum_matches = maximum_matches
        self.optional_keys_supported = True
        """False when the peer said that it ignored an optional key (status FF01H)."""

    def _pending(self, reply: Reply) -> _Match:
        if reply.command.status == Status.PENDING_WARNING:
            self.optional_keys_supported = False
        data = reply.data or b""
        if self._raw:
            return cast("_Match", data)
        from asyncdicom.dataset import decode

        match = decode(data, self._context.transfer_syntax, maximum_elements=_MAXIMUM_ELEMENTS)
        del match.file_meta  # an Identifier is no file
        return cast("_Match", match)

    async def _whole(self) -> list[_Match]:
        matches: list[_Match] = []
        async with self:
            async for match in self:
                matches.append(match)
                if len(matches) > self._maximum_matches:
                    raise DicomNetworkError(
                        f"more than {self._maximum_matches} matches: iterate over them, or ask for less"
                    )
        return matches


def find(
    channel: Channel,
    sop_class_uid: str,
    identifier: Identifier,
    *,
    priority: int = Priority.MEDIUM,
    raw: bool = False,
    maximum_matches: int = _MAXIMUM_MATCHES,
    timeout: float | None = None,
) -> Query[Any]:
    """Prepare a C-FIND; it starts with ``async with`` or ``await``."""
    context = find_context(channel, sop_class_uid)
    command = Command(
        CommandField.C_FIND_RQ, affected_sop_class_uid=sop_class_uid, priority=Priority(priority)
    )
    data = encode_identifier(identifier, context.transfer_syntax)
    return Query(channel, context, command, data, timeout, raw=raw, maximum_matches=maximum_matches)


def encode_identifier(identifier: Identifier, transfer_syntax_uid: str) -> bytes:
    """Encode an Identifier; bytes are taken to be encoded already."""
    if isinstance(identifier, bytes):
        return identifier
    from asyncdicom.dataset import encode

    return encode(identifier, transfer_syntax_uid)


async def provide(incoming: IncomingRequest, request: Request, handlers: Handlers) -> Response:
    """Send what the handler yields as Pending responses; its end is Success."""
    if handlers.c_find is None:
        return Response(Status.SOP_CLASS_NOT_SUPPORTED)
    if incoming.data is None:
        return Response(Status.DATA_SET_DOES_NOT_MATCH_SOP_CLASS, error_comment="no identifier")
    pending = response_to(incoming.command, Status.PENDING, has_data_set=True)
    maximum = incoming.channel.limits.maximum_matches
    matches = cast("Any", handlers.c_find(request))
    async with aclosing(_Closable(matches)):
        iterator: AsyncIterator[Identifier] = aiter(matches)
        while True:
            try:
                match = await incoming.guard(anext(iterator))
            except StopAsyncIteration:
                return Response(Status.SUCCESS)
            if incoming.is_interrupted:
                raise Interrupted  # the handler swallowed its cancellation
            if incoming.matches == maximum:
                return Response(Status.OUT_OF_RESOURCES, error_comment=f"more than {maximum} matches")
            data = encode_identifier(match, incoming.context.transfer_syntax)
            await incoming.channel.performer.respond(incoming, pending, data)
            incoming.matches += 1
            if incoming.matches % _RESPONSES_IN_A_ROW == 0:
                await asyncio.sleep(0)


class _Closable:
    """Any async iterator, with the `aclose` that only generators have."""

    __slots__ = ("_iterator",)

    def __init__(self, iterator: Any) -> None:
        self._iterator = iterator

    async def aclose(self) -> None:
        close = getattr(self._iterator, "aclose", None)
        if close is not None:
            await close()
