"""Operations with many responses, as SCU: iterate over the Pending ones, or await the whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator
from types import TracebackType
from typing import Generic, Self, TypeVar

from asyncdicom.dimse.messages import Command
from asyncdicom.exceptions import AssociationError, LocalProtocolError, StatusError
from asyncdicom.net.channel import Channel
from asyncdicom.net.operation import Operation, Reply
from asyncdicom.services.handlers import Response, StoreHandler
from asyncdicom.status import Status
from asyncdicom.ul.negotiation import AcceptedContext

__all__ = ["ResponseStream"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class ResponseStream(Generic[_Item, _Result]):
    """One C-FIND, C-GET or C-MOVE that we invoked.

    ``async with`` opens it, ``async for`` gives what its Pending responses say. Leaving the block
    before its end (`break`, an exception, a cancellation) sends C-CANCEL and takes what still comes,
    so that the association stays usable; if the peer does not end it within ``cancel_timeout``, the
    association is aborted. A final status that is a Failure raises `StatusError` when the block ends.
    """

    def __init__(
        self,
        channel: Channel,
        context: AcceptedContext,
        command: Command,
        identifier: bytes,
        timeout: float | None,
        receiver: StoreHandler | None = None,
    ) -> None:
        self._channel = channel
        self._context = context
        self._command = command
        self._identifier = identifier
        self._timeout = timeout
        self._receiver = receiver
        self._operation: Operation | None = None
        self._iterated = False
        self.response: Response | None = None
        """The final response, once the operation has ended."""

    @property
    def status(self) -> Status | None:
        """The final status, once the operation has ended."""
        return self.response.status if self.response is not None else None

    # what the kinds of operation differ in

    def _pending(self, reply: Reply) -> _Item:
        raise NotImplementedError

    def _final(self, reply: Reply) -> None:
        """Look at the final response."""

    async def _whole(self) -> _Result:
        raise NotImplementedError

    # iterating

    def __await__(self) -> Generator[object, None, _Result]:
        return self._whole().__await__()

    async def __aenter__(self) -> Self:
        if self._operation is not None:
            raise LocalProtocolError("this operation was started before; ask for a new one")
        self._command.has_data_set = True
        self._operation = await self._channel.invoker.invoke(
            self._context,
            self._command,
            self._identifier,
            timeout=self._timeout,
            held=True,
            receiver=self._receiver,
        )
        return self

    def __aiter__(self) -> AsyncIterator[_Item]:
        return self

    async def __anext__(self) -> _Item:
        if self._operation is None:
            raise LocalProtocolError("use 'async with ... as stream' before 'async for'")
        self._iterated = True
        reply = await self._next()
        if reply is None:
            raise StopAsyncIteration
        return self._pending(reply)

    async def _next(self) -> Reply | None:
        if self.response is not None or self._operation is None:
            return None
        reply = await self._operation.reply()
        response = Response.received(reply.command)
        if response.status.is_pending:
            return reply
        self.response = response
        self._final(reply)
        return None

    async def cancel(self) -> None:
        """Send C-CANCEL now; the final response (usually Cancel) still comes by iterating."""
        if self._operation is not None:
            await self._channel.invoker.cancel(self._operation)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.response is None:
            try:
                await self._end(cancel=error is not None or self._iterated)
            except AssociationError:
                if error is None:
                    raise
            except asyncio.CancelledError:
                self._channel.abort()  # cancelled again while the rest came in
                raise
        if error is None and self.response is not None and self.response.status.is_failure:
            raise StatusError(self.response)

    async def _end(self, *, cancel: bool) -> None:
        if cancel:
            await self.cancel()
        while await self._next() is not None:
            pass
