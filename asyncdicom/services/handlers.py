"""What the provider's code gets and gives: `Request`, `Response`, `Retrieval`, `Handlers`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from asyncdicom.destination import Destination
from asyncdicom.dimse.messages import Command
from asyncdicom.exceptions import StatusError
from asyncdicom.net.payload import DataStream, Source
from asyncdicom.status import Status
from asyncdicom.ul.negotiation import AcceptedContext, PresentationContext

if TYPE_CHECKING:
    from pydicom import Dataset

    from asyncdicom.association import Association
    from asyncdicom.net.operation import IncomingRequest

__all__ = ["Handlers", "Identifier", "LazySources", "Request", "Response", "Retrieval", "Storer"]

MAXIMUM_IDENTIFIER = 1 << 20
"""Bytes of an Identifier that is decoded: a list of 10,000 UIDs has 650,000."""

Identifier: TypeAlias = "Dataset | Mapping[str, Any] | bytes"
"""A pydicom Dataset, a mapping of keywords, or the encoded bytes."""


class Response:
    """A DIMSE response: what a request was answered with, or what a handler wants to answer.

    ``status`` is data, not an exception; `raise_for_status` makes it one. ``command`` is the whole
    command set of a response that was received. ``counters`` and ``data`` are the sub-operation
    counters and the encoded data set of a response to be sent.
    """

    __slots__ = ("command", "counters", "data", "error_comment", "offending_elements", "status")

    def __init__(
        self,
        status: int,
        *,
        error_comment: str | None = None,
        offending_elements: Iterable[int] = (),
        command: Command | None = None,
        counters: dict[str, int] | None = None,
        data: bytes | None = None,
    ) -> None:
        self.status = Status(status)
        self.error_comment = error_comment
        self.offending_elements = tuple(offending_elements)
        self.command = command
        self.counters = counters
        self.data = data

    @classmethod
    def received(cls, command: Command) -> Response:
        """Wrap the command set of a response."""
        status = Status.PROCESSING_FAILURE if command.status is None else command.status
        return cls(
            status,
            error_comment=command.error_comment,
            offending_elements=command.offending_element or (),
            command=command,
        )

    def fields(self) -> dict[str, Any]:
        """What the command set of this response has beside the status."""
        fields: dict[str, Any] = dict(self.counters) if self.counters else {}
        if self.error_comment is not None:
            fields["error_comment"] = self.error_comment
        if self.offending_elements:
            fields["offending_element"] = self.offending_elements
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


class Request:
    """A DIMSE request as its handler sees it. The data set has not been read when it comes."""

    __slots__ = ("_incoming", "data")

    def __init__(self, incoming: IncomingRequest) -> None:
        self._incoming = incoming
        self.data: DataStream = incoming.data or _no_data(incoming.context.transfer_syntax)

    @property
    def command(self) -> Command:
        """The command set, as received."""
        return self._incoming.command

    @property
    def context(self) -> AcceptedContext:
        """The presentation context that the request came on."""
        return self._incoming.context

    @property
    def association(self) -> Association:
        """The association it came on; the handler may send requests on it."""
        association: Association = self._incoming.channel.owner
        return association

    @property
    def message_id(self) -> int:
        """The Message ID."""
        return self.command.message_id or 0

    @property
    def affected_sop_class_uid(self) -> str:
        """The Affected SOP Class UID; the context's abstract syntax if the peer left it out."""
        return self.command.affected_sop_class_uid or self.context.abstract_syntax

    @property
    def affected_sop_instance_uid(self) -> str:
        """The Affected SOP Instance UID (C-STORE)."""
        return self.command.affected_sop_instance_uid or ""

    @property
    def transfer_syntax_uid(self) -> str:
        """The transfer syntax of the data set."""
        return self.context.transfer_syntax

    @property
    def move_destination(self) -> str:
        """The Move Destination (C-MOVE)."""
        return self.command.move_destination or ""

    @property
    def calling_ae_title(self) -> str:
        """The calling AE title of the association."""
        request = self._incoming.channel.request
        return request.calling_ae_title if request is not None else ""

    @property
    def called_ae_title(self) -> str:
        """The called AE title of the association."""
        request = self._incoming.channel.request
        return request.called_ae_title if request is not None else ""

    @property
    def is_cancelled(self) -> bool:
        """Whether the peer sent C-CANCEL for this request."""
        return self._incoming.is_cancelled

    @property
    def is_interrupted(self) -> bool:
        """Whether the work is unwanted by now: C-CANCEL came, or the handler took no data for too long."""
        return self._incoming.is_interrupted

    async def identifier(self) -> Dataset:
        """Give the Identifier of a C-FIND, C-GET or C-MOVE request; `DataSetError` if it is unreadable."""
        return await self.data.dataset(MAXIMUM_IDENTIFIER)


def _no_data(transfer_syntax_uid: str) -> DataStream:
    data = DataStream(transfer_syntax_uid)
    data.feed([], 0, True)
    return data


class LazySources(Protocol):
    """Sources that are made while they are sent: their number is known, and what contexts they need.

    Iterating (`async for`) gives a `Source` each, or None for one that cannot be sent any more.
    """

    @property
    def kinds(self) -> Collection[tuple[str, str]]:
        """Every pair of SOP Class UID and Transfer Syntax UID that occurs."""

    def __len__(self) -> int:
        """Tell how many there are."""

    def __aiter__(self) -> AsyncIterator[Source | None]:
        """Give one after another, from the beginning."""


class Retrieval(NamedTuple):
    """What a C-GET or C-MOVE handler wants sent: the sources, opened one after another.

    `ended` is called when nothing of it is sent any more, however it ended.
    """

    sources: Sequence[Source] | LazySources
    ended: Callable[[], None] = lambda: None


class Storer(Protocol):
    """Something with `c_store`, as the C-MOVE provider needs it: an association to the destination."""

    async def c_store(
        self, source: Source, *, priority: int = 0, move_originator: tuple[str, int] | None = None
    ) -> Response:
        """Send one instance."""


Outcome: TypeAlias = "Status | int | Response"
EchoHandler: TypeAlias = Callable[[Request], Awaitable["Outcome"]]
StoreHandler: TypeAlias = Callable[[Request], Awaitable["Outcome"]]
FindHandler: TypeAlias = Callable[[Request], AsyncIterator["Identifier"]]
RetrieveHandler: TypeAlias = Callable[[Request], Awaitable["Retrieval | Outcome"]]
OpenAssociation: TypeAlias = Callable[
    [Destination, Sequence[PresentationContext]], AbstractAsyncContextManager[Storer]
]


class Handlers(NamedTuple):
    """One handler a service; a service without a handler is not offered (C-ECHO always is).

    ``destination`` finds the C-MOVE destination for the request that names it (None: unknown),
    ``open_association`` opens the association that the instances are sent on.
    """

    c_echo: EchoHandler | None = None
    c_store: StoreHandler | None = None
    c_find: FindHandler | None = None
    c_get: RetrieveHandler | None = None
    c_move: RetrieveHandler | None = None
    destination: Callable[[Request], Destination | None] | None = None
    open_association: OpenAssociation | None = None
