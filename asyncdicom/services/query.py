"""Query: C-FIND (PS3.4 Annex C.4.1)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, TypeVar, cast

from asyncdicom.data.elements import Skipped
from asyncdicom.dimse.messages import Command, CommandField, Priority, response_to
from asyncdicom.exceptions import DataSetError, DicomNetworkError
from asyncdicom.net.channel import Channel
from asyncdicom.net.operation import Interrupted, Reply
from asyncdicom.net.turns import turns
from asyncdicom.services.classes import C_FIND_CLASSES, permission_of
from asyncdicom.services.contexts import find_context
from asyncdicom.services.request import FindHandler, Request
from asyncdicom.services.responses import Answer, Identifier, Response, ResponseStream, encode_identifier
from asyncdicom.services.service import Service
from asyncdicom.status import Status
from asyncdicom.telemetry.log import Log
from asyncdicom.uid import PATIENT_ROOT, PATIENT_STUDY_ONLY, SOP_CLASSES, STUDY_ROOT

__all__ = ["MAXIMUM_UNREADABLE", "Query", "QueryService", "find"]

log = Log("asyncdicom.services")

_MAXIMUM_MATCHES = 100_000
_MAXIMUM_BYTES = 32 << 20  # of an awaited list, as they are encoded
_MAXIMUM_ELEMENTS = 16_384  # of one match, those in sequences included
_KEPT_UNREADABLE = 100
MAXIMUM_UNREADABLE = 10_000
"""So many matches of one query may be unreadable: they are given to nobody, who would end it."""
# Where neither handler nor socket ever waits, others (and a C-CANCEL) have to get their turn all the same: so
# many responses are made in a turn of the event loop, however many queries are answered.
_RESPONSES_IN_A_ROW = 16


_Match = TypeVar("_Match")  # Dataset, or bytes with raw=True


class Query(ResponseStream[_Match, list[_Match]]):
    """A C-FIND: gives one Identifier a match, a pydicom Dataset, or its bytes with `raw=True`.

    A match that cannot be read costs only itself, and so does an element of one: it is left out, counted and
    logged. More than `MAXIMUM_UNREADABLE` end the query with `DicomNetworkError`.
    """

    def __init__(self, *args: Any, raw: bool, maximum_matches: int, maximum_bytes: int) -> None:
        super().__init__(*args)
        self._raw = raw
        self._maximum_matches = maximum_matches
        self._maximum_bytes = maximum_bytes
        self._bytes = 0  # of the matches so far
        self._matches: list[_Match] | None = None  # of one that is awaited
        self.optional_keys_supported = True
        """False when the peer said that it ignored an optional key (status FF01H)."""
        self.number_unreadable = 0
        """How many matches could not be read: they are left out, the others are given."""
        self.unreadable: list[bytes] = []
        """The first hundred of those, as they were received."""
        self.skipped = Skipped()
        """The elements of other matches that could not be read: those are given without them."""

    def _pending(self, reply: Reply) -> _Match | None:
        if reply.command.status == Status.PENDING_WARNING:
            self.optional_keys_supported = False
        data = reply.data or b""
        self._bytes += len(data)
        if self._raw:
            return cast("_Match", data)
        from asyncdicom.dataset import decode

        skipped = Skipped()
        try:
            match = decode(
                data,
                self._context.transfer_syntax,
                strict=False,
                skipped=skipped,
                maximum_elements=_MAXIMUM_ELEMENTS,
            )
        except DataSetError as error:
            self.number_unreadable += 1
            if len(self.unreadable) < _KEPT_UNREADABLE:
                self.unreadable.append(data)
            log.warning("%s: a match of a C-FIND cannot be read, and is left out: %s", self._channel, error)
            if self.number_unreadable > MAXIMUM_UNREADABLE:
                raise DicomNetworkError(
                    f"more than {MAXIMUM_UNREADABLE} matches that cannot be read: {error}"
                ).having(self._so_far()) from None
            return None
        if skipped.count:
            self.skipped.add(skipped.why, skipped.count)
            log.warning("%s: a match of a C-FIND is not complete: %s", self._channel, skipped)
        del match.file_meta  # an Identifier is no file
        return cast("_Match", match)

    async def _whole(self) -> list[_Match]:
        matches = self._matches = []
        async with self:
            async for match in self:
                matches.append(match)
                if too_much := self._too_much(len(matches)):
                    raise DicomNetworkError(
                        f"more than {too_much}: iterate over them (async with association.c_find(...)), or "
                        "ask for less"
                    ).having(matches)
        return matches

    def _too_much(self, count: int) -> str:
        """Say what the list that is awaited has too much of, if it has."""
        if count > self._maximum_matches:
            return f"{self._maximum_matches} matches (maximum_matches)"
        if self._bytes > self._maximum_bytes:
            return f"{self._maximum_bytes} bytes of matches (maximum_bytes)"
        return ""

    def _so_far(self) -> list[_Match] | None:
        return self._matches


def find(
    channel: Channel,
    sop_class_uid: str,
    identifier: Identifier,
    *,
    priority: int = Priority.MEDIUM,
    raw: bool = False,
    maximum_matches: int = _MAXIMUM_MATCHES,
    maximum_bytes: int = _MAXIMUM_BYTES,
    timeout: float | None = None,
) -> Query[Any]:
    """Prepare a C-FIND; it starts with `async with` or `await`."""
    context = find_context(channel, sop_class_uid)
    command = Command(
        CommandField.C_FIND_RQ, affected_sop_class_uid=sop_class_uid, priority=Priority(priority)
    )
    data = encode_identifier(identifier, context.transfer_syntax)
    return Query(
        channel,
        context,
        command,
        data,
        timeout,
        raw=raw,
        maximum_matches=maximum_matches,
        maximum_bytes=maximum_bytes,
    )


class QueryService(Service):
    """Answers C-FIND with what `handler` yields, an asynchronous generator function of the request.

    Offered are the three Query/Retrieve information models (PS3.4 C.3); with `contexts=` of `serve` any other
    one.
    """

    name = "query"
    permission = "find"
    sop_classes: tuple[str, ...] = (PATIENT_ROOT.find, STUDY_ROOT.find, PATIENT_STUDY_ONLY.find)
    commands = frozenset({CommandField.C_FIND_RQ})

    def __init__(self, handler: FindHandler) -> None:
        self.handler = handler

    def takes(self, abstract_syntax: str) -> bool:
        """Every SOP class that has C-FIND, and what the standard does not know."""
        return abstract_syntax in C_FIND_CLASSES or abstract_syntax not in SOP_CLASSES

    def permission_for(self, abstract_syntax: str) -> str:
        """Queries for work items and procedure steps have names of their own."""
        return permission_of(abstract_syntax, self.permission)

    async def perform(self, request: Request) -> Answer:
        """Send what the handler yields as Pending responses; its end is Success."""
        return await provide(request, self.handler)


async def provide(request: Request, handler: FindHandler) -> Response:
    """Send what the handler yields as Pending responses; its end is Success."""
    incoming = request.incoming
    if incoming.data is None:
        return Response(Status.DATA_SET_DOES_NOT_MATCH_SOP_CLASS, error_comment="no identifier")
    pending, is_complete = None, True  # the response is the same for all matches, mostly
    maximum = incoming.channel.limits.maximum_matches
    taking_turns = turns()
    await taking_turns.take(incoming.channel)
    matches = cast("Any", handler(request))
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
            if incoming.matches == 0:
                await taking_turns.take(incoming.channel)
            data = encode_identifier(match, incoming.context.transfer_syntax)
            if pending is None or request.optional_keys_supported is not is_complete:
                is_complete = request.optional_keys_supported
                status = Status.PENDING if is_complete else Status.PENDING_WARNING
                pending = response_to(incoming.command, status, has_data_set=True)
            await incoming.channel.performer.respond(incoming, pending, data)
            incoming.matches += 1
            if incoming.matches % _RESPONSES_IN_A_ROW == 0:
                await taking_turns.take(incoming.channel)


class _Closable:
    """Any async iterator, with the `aclose` that only generators have."""

    __slots__ = ("_iterator",)

    def __init__(self, iterator: Any) -> None:
        self._iterator = iterator

    async def aclose(self) -> None:
        close = getattr(self._iterator, "aclose", None)
        if close is not None:
            await close()
