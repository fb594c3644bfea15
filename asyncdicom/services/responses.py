"""Responses: what a request is answered with, and how the responses to a request of ours are awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeAlias, TypeVar

from asyncdicom.dimse.messages import Command
from asyncdicom.exceptions import AssociationError, DicomNetworkError, LocalProtocolError, StatusError
from asyncdicom.net.channel import Channel
from asyncdicom.net.operation import Operation, Reply
from asyncdicom.status import Status
from asyncdicom.ul.negotiation import AcceptedContext

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = [
    "MAXIMUM_UNWANTED",
    "Answer",
    "Identifier",
    "Response",
    "ResponseStream",
    "encode_identifier",
    "final_response",
    "response_of",
]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

MAXIMUM_UNWANTED = 8 << 20
"""Bytes of responses that may still come after a C-CANCEL of ours: what was on its way, or in buffers."""

Identifier: TypeAlias = "Dataset | Mapping[str, Any] | bytes"
"""A data set: a pydicom Dataset, a mapping of keywords, or the encoded bytes."""


def encode_identifier(identifier: Identifier, transfer_syntax_uid: str) -> bytes:
    """Encode a data set; bytes are taken to be encoded already.

    Raises `DataSetError` for an unknown keyword or a value that cannot be encoded, TypeError for what is no
    data set at all.
    """
    if isinstance(identifier, bytes):
        return identifier
    from asyncdicom.dataset import encode

    return encode(identifier, transfer_syntax_uid)


class Response:
    """A DIMSE response: what a request was answered with, or what a handler wants to answer.

    `status` is data, not an exception; `raise_for_status` makes it one. Beside it there may be (PS3.7 Annex
    C) `error_comment`, of which 64 characters are sent; `offending_elements`, tags; `error_id`. Responses of
    DIMSE-N also have `attribute_identifier_list`, the tags that a status is about; `sop_instance_uid`, the
    Affected SOP Instance UID, where it differs from that of the request or the request had none; and
    `attributes`, a data set: a pydicom Dataset, a mapping of keywords, or encoded bytes.

    A response that was received has its whole command set in `command`, and `attributes` is a Dataset.
    `counters` (numbers of sub-operations) and `data` (an encoded data set) are for services.
    """

    __slots__ = (
        "_transfer_syntax_uid",
        "attribute_identifier_list",
        "command",
        "content",
        "counters",
        "data",
        "error_comment",
        "error_id",
        "offending_elements",
        "sop_instance_uid",
        "status",
    )

    def __init__(
        self,
        status: int,
        *,
        error_comment: str | None = None,
        offending_elements: Iterable[int] = (),
        error_id: int | None = None,
        attribute_identifier_list: Iterable[int] = (),
        sop_instance_uid: str | None = None,
        attributes: Identifier | None = None,
        command: Command | None = None,
        counters: dict[str, int] | None = None,
        data: bytes | None = None,
    ) -> None:
        self.status = status if type(status) is Status else Status(status)
        self.error_comment = error_comment
        self.offending_elements = tuple(offending_elements)
        self.error_id = error_id
        self.attribute_identifier_list = tuple(attribute_identifier_list)
        self.sop_instance_uid = sop_instance_uid
        self.command = command
        self.counters = counters
        self.data = data
        self.content = attributes
        self._transfer_syntax_uid: str | None = None

    @classmethod
    def received(
        cls, command: Command, data: bytes | None = None, transfer_syntax_uid: str | None = None
    ) -> Response:
        """Wrap the command set and the data set of a response."""
        status = Status.PROCESSING_FAILURE if command.status is None else command.status
        response = cls(
            status,
            error_comment=command.error_comment,
            offending_elements=command.offending_element or (),
            error_id=command.error_id,
            attribute_identifier_list=command.attribute_identifier_list or (),
            sop_instance_uid=command.affected_sop_instance_uid,
            command=command,
            data=data,
        )
        response._transfer_syntax_uid = transfer_syntax_uid
        return response

    @property
    def attributes(self) -> Any:
        """The data set: a pydicom Dataset if it was received, else what was given; None if there is none.

        Raises `DataSetError` if what was received cannot be decoded; the bytes are in `data`.
        """
        if self.content is None and self.data is not None and self._transfer_syntax_uid is not None:
            from asyncdicom.dataset import decode

            dataset = decode(self.data, self._transfer_syntax_uid)
            del dataset.file_meta  # it is no file
            self.content = dataset
        return self.content

    def encode(self, transfer_syntax_uid: str) -> None:
        """Encode the attributes that were given, for a transfer syntax, into `data`."""
        if self.content is not None and self.data is None:
            self.data = encode_identifier(self.content, transfer_syntax_uid)

    def fields(self) -> dict[str, Any]:
        """What the command set of this response has beside the status."""
        fields: dict[str, Any] = dict(self.counters) if self.counters else {}
        if self.error_comment is not None:
            fields["error_comment"] = self.error_comment
        if self.offending_elements:
            fields["offending_element"] = self.offending_elements
        if self.error_id is not None:
            fields["error_id"] = self.error_id
        if self.attribute_identifier_list:
            fields["attribute_identifier_list"] = self.attribute_identifier_list
        if self.sop_instance_uid is not None:
            fields["affected_sop_instance_uid"] = self.sop_instance_uid
        if self.data is not None:
            fields["has_data_set"] = True
        return fields

    def raise_for_status(self) -> Response:
        """Raise `StatusError` if the status is a Failure; otherwise give the response itself."""
        if self.status.is_failure:
            raise StatusError(self)
        return self

    def __repr__(self) -> str:
        comment = f", error_comment={self.error_comment!r}" if self.error_comment else ""
        return f"Response({self.status}{comment})"


Answer: TypeAlias = "Status | int | Response"
"""What a handler may answer with: a status, or a `Response`."""


def response_of(result: Any) -> Response:
    """Make a response of what a handler returned: a status, or a `Response`.

    Raises TypeError for what is no answer (None, True and False too: a handler that tells success by them
    would be misunderstood), ValueError for a status that ends nothing.
    """
    if isinstance(result, int) and not isinstance(result, bool):
        result = Response(result)
    if not isinstance(result, Response):
        raise TypeError(f"a handler returns a Status or a Response, not {result!r:.100}")
    if result.status.is_pending or not 0 <= result.status <= 0xFFFF:
        raise ValueError(f"a response does not end with the status {result.status}")
    return result


async def final_response(channel: Channel, operation: Operation) -> Response:
    """Wait for the response. Cancelled: the response is dropped when it comes, the association goes on."""
    try:
        while True:
            reply = await operation.reply()
            response = Response.received(reply.command, reply.data, operation.context.transfer_syntax)
            if not response.status.is_pending:
                return response
    except BaseException:
        channel.invoker.abandon(operation)
        raise


class ResponseStream(Generic[_Item, _Result]):
    """One C-FIND, C-GET or C-MOVE that we invoked.

    `async with` opens it, `async for` gives what its Pending responses say. Leaving the block
    before its end (`break`, an exception, a cancellation) sends C-CANCEL and takes what still comes,
    so that the association stays usable; if the peer does not end it within `Timeouts.cancel`, or sends
    more than `MAXIMUM_UNWANTED` bytes all the same, the association is aborted. A final status that is a
    Failure raises `StatusError` when the block ends.
    """

    def __init__(
        self,
        channel: Channel,
        context: AcceptedContext,
        command: Command,
        identifier: bytes,
        timeout: float | None,
        receiver: Any = None,
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

    def _pending(self, reply: Reply) -> _Item | None:
        """What is given for a Pending response; None for nothing."""
        raise NotImplementedError

    def _final(self, reply: Reply) -> None:
        """Look at the final response."""

    async def _whole(self) -> _Result:
        raise NotImplementedError

    def _so_far(self) -> Any:
        """What an error that breaks it off has as its `result`."""
        return None

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
        while (reply := await self._next()) is not None:
            item = self._pending(reply)
            if item is not None:
                return item
        raise StopAsyncIteration

    async def _next(self) -> Reply | None:
        if self.response is not None or self._operation is None:
            return None
        try:
            reply = await self._operation.reply()
        except DicomNetworkError as error:
            raise error.having(self._so_far()) from error.__cause__
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
            raise StatusError(self.response).having(self._so_far())

    async def _end(self, *, cancel: bool) -> None:
        if cancel:
            await self.cancel()
        unwanted = 0
        while (reply := await self._next()) is not None:
            unwanted += len(reply.data or b"")
            if cancel and unwanted > MAXIMUM_UNWANTED:
                self._channel.abort(f"more than {MAXIMUM_UNWANTED} bytes of responses came after C-CANCEL")
