"""What a handler gets and gives: `Request`, `Retrieval`, and the types of handlers."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeAlias, TypedDict, TypeVar, overload

from asyncdicom.data.scanner import Scanner
from asyncdicom.dimse.messages import Command, CommandField
from asyncdicom.exceptions import DataSetError
from asyncdicom.net.channel import IncomingRequest
from asyncdicom.net.disk import Batch, Buffer
from asyncdicom.net.sources import Source
from asyncdicom.net.stream import DataStream
from asyncdicom.services.responses import Answer, Identifier, Response
from asyncdicom.ul.negotiation import AcceptedContext, PresentationContext

if TYPE_CHECKING:
    from pydicom import Dataset

    from asyncdicom.destination import Destination

__all__ = [
    "EchoHandler",
    "FindHandler",
    "LazySources",
    "NormalizedHandler",
    "NormalizedHandlers",
    "NormalizedUser",
    "OpenAssociation",
    "ReceivedRequest",
    "Request",
    "Retrieval",
    "RetrieveHandler",
    "StoreHandler",
    "Storer",
]

_T = TypeVar("_T")
_Association = TypeVar("_Association")

_SPECIFIC_CHARACTER_SET = 0x00080005

MAXIMUM_IDENTIFIER = 1 << 20
"""Bytes of an Identifier that is decoded: a list of 10,000 UIDs has 650,000."""


class ReceivedRequest(Generic[_Association]):
    """A DIMSE request as its handler sees it. The data set has not been read when it comes.

    `asyncdicom.Request` is one that came on an `Association`.
    """

    __slots__ = ("_association", "_ignores_keys", "data", "incoming")

    def __init__(self, incoming: IncomingRequest, association: _Association) -> None:
        self._ignores_keys = False
        self.incoming = incoming
        self._association = association
        self.data: DataStream = incoming.data or _no_data(incoming.context.transfer_syntax)

    @property
    def command(self) -> Command:
        """The command set, as received."""
        return self.incoming.command

    @property
    def context(self) -> AcceptedContext:
        """The presentation context that the request came on."""
        return self.incoming.context

    @property
    def association(self) -> _Association:
        """The association it came on; the handler may send requests on it."""
        return self._association

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
        """The Affected SOP Instance UID (C-STORE, N-CREATE, N-EVENT-REPORT)."""
        return self.command.affected_sop_instance_uid or ""

    @property
    def sop_class_uid(self) -> str:
        """The SOP class that the request names, as the Affected or the Requested one.

        On the context of a family (UPS, print, MPPS; PS3.4 CC.3.1, H.3) it may differ from the abstract
        syntax.
        """
        command = self.command
        return command.requested_sop_class_uid or self.affected_sop_class_uid

    @property
    def sop_instance_uid(self) -> str:
        """The SOP instance that the request names, as the Affected or the Requested one; "" for none."""
        command = self.command
        return command.requested_sop_instance_uid or command.affected_sop_instance_uid or ""

    @property
    def event_type_id(self) -> int:
        """The Event Type ID (N-EVENT-REPORT)."""
        return self.command.event_type_id or 0

    @property
    def action_type_id(self) -> int:
        """The Action Type ID (N-ACTION)."""
        return self.command.action_type_id or 0

    @property
    def attribute_identifier_list(self) -> tuple[int, ...]:
        """The tags that an N-GET asks for; none of them means all attributes."""
        return self.command.attribute_identifier_list or ()

    @property
    def extended_negotiation(self) -> bytes | None:
        """What was agreed for the SOP class of the context (PS3.7 D.3.3.5); None if nothing was."""
        negotiated = self.incoming.channel.negotiated
        return negotiated.extended.get(self.context.abstract_syntax) if negotiated is not None else None

    @property
    def optional_keys_supported(self) -> bool:
        """Whether the matches of a C-FIND are all that it asks for.

        A handler that ignores a key sets it to False: its matches are then warnings (0xFF01; PS3.4
        C.4.1.1.4).
        """
        return not self._ignores_keys

    @optional_keys_supported.setter
    def optional_keys_supported(self, value: bool) -> None:
        self._ignores_keys = not value

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
        request = self.incoming.channel.request
        return request.calling_ae_title if request is not None else ""

    @property
    def called_ae_title(self) -> str:
        """The called AE title of the association."""
        request = self.incoming.channel.request
        return request.called_ae_title if request is not None else ""

    @property
    def is_cancelled(self) -> bool:
        """Whether the peer sent C-CANCEL for this request."""
        return self.incoming.is_cancelled

    @property
    def is_interrupted(self) -> bool:
        """Whether the answer is not wanted any more: C-CANCEL came, or the handler took too long."""
        return self.incoming.is_interrupted

    async def identifier(self) -> Dataset:
        """Give the Identifier of a C-FIND, C-GET or C-MOVE request; `DataSetError` if it is unreadable."""
        return await self.data.dataset(MAXIMUM_IDENTIFIER)

    async def attributes(self) -> Dataset:
        """Give the data set of a DIMSE-N request: Attribute List, Modification List, Action or Event
        Information.

        It is empty where the request has none (PS3.7 10.3). Raises `DataSetError` if it is unreadable.
        """
        if self.incoming.data is None:
            from pydicom import Dataset

            return Dataset()
        return await self.data.dataset()

    async def head(self, keys: Iterable[int | str]) -> Dataset:
        """Look at elements of a data set that is still to be received: nothing of it is taken.

        `keys`: keywords or tags of the top level, no sequences; SpecificCharacterSet is given beside. What is
        not there, is behind the Pixel Data or behind more than may wait (`Limits.read_budget`, 1 MiB), or
        cannot be read, is left out. Waits until they have come; a lost association raises. ValueError for
        what is no keyword.
        """
        picker = _Picker(self.transfer_syntax_uid, keys)
        await self.data.peek(picker.feed)
        return picker.dataset()

    @overload
    async def save(
        self, path: str | os.PathLike[str], *, keys: None = None, maximum: int | None = None
    ) -> int: ...

    @overload
    async def save(
        self, path: str | os.PathLike[str], *, keys: Iterable[int | str], maximum: int | None = None
    ) -> Dataset: ...

    async def save(
        self,
        path: str | os.PathLike[str],
        *,
        keys: Iterable[int | str] | None = None,
        maximum: int | None = None,
    ) -> int | Dataset:
        """Write the instance as a DICOM file, with who has sent it: see `DataStream.save`.

        With `keys` (keywords or tags of the top level, no sequences) it gives a Dataset with those that were
        there, found while it was written: the file is not read again. Otherwise it gives the length of the
        data set.
        """
        sender = self.calling_ae_title or None
        if keys is None:
            return await self.data.save(path, source_ae_title=sender, maximum=maximum)
        picker = _Picker(self.transfer_syntax_uid, keys)
        await self.data.save(path, source_ae_title=sender, maximum=maximum, look=picker.feed_all)
        return picker.dataset()

    async def guard(self, work: Awaitable[_T]) -> _T:
        """Await `work` (a handler's code), which C-CANCEL and the deadlines of handlers may cancel.

        For the `perform` of a service: what is awaited without it is not stopped. Raises what the work
        raises.
        """
        return await self.incoming.guard(work)


class _Picker:
    """Picks elements out of a data set that goes by; where it cannot be read, no more of them."""

    def __init__(self, transfer_syntax_uid: str, keys: Iterable[int | str]) -> None:
        from asyncdicom.dataset import as_tags

        self._transfer_syntax_uid = transfer_syntax_uid
        # Text is decoded by the Specific Character Set, which is given beside.
        self._scanner = Scanner(transfer_syntax_uid, frozenset({_SPECIFIC_CHARACTER_SET, *as_tags(keys)}))
        self._is_over = False

    def feed(self, view: Buffer) -> bool:
        """Look at the next piece; True when no more is needed."""
        if not self._is_over:
            try:
                self._scanner.feed(view)
                self._is_over = self._scanner.done
            except DataSetError:
                self._is_over = True
        return self._is_over

    def feed_all(self, batch: Batch) -> None:
        """Look at the next pieces."""
        for view in batch:
            self.feed(view)

    def dataset(self) -> Dataset:
        """What was found."""
        from asyncdicom.dataset import picked

        return picked(self._scanner.found, self._transfer_syntax_uid)


Request: TypeAlias = ReceivedRequest[Any]
"""For services, which stand below `Association`."""


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

    `ended` is called when nothing of it is sent any more, however it ended. `comment` is the Error Comment
    of the final response, unless something failed.
    """

    sources: Sequence[Source] | LazySources
    ended: Callable[[], None] = lambda: None
    comment: str | None = None


class Storer(Protocol):
    """What the C-MOVE provider needs of an association to the destination."""

    @property
    def operations_invoked(self) -> int:
        """How many C-STOREs may be outstanding (0: unlimited; PS3.7 D.3.3.3)."""

    async def c_store(
        self,
        source: Source,
        *,
        priority: int = 0,
        move_originator: tuple[str, int] | None = None,
        on_sent: Callable[[], None] | None = None,
    ) -> Response:
        """Send one instance; call `on_sent` when the last byte has left."""


class NormalizedUser(Protocol):
    """What services need to send DIMSE-N requests of their own: an association."""

    def context_for(self, sop_class: str, command_field: CommandField, /) -> AcceptedContext:
        """Give the context that such a request is sent on."""

    async def n_action(
        self,
        sop_class: str,
        sop_instance_uid: str,
        action_type_id: int,
        information: Identifier | None = None,
        *,
        context: str | AcceptedContext | None = None,
    ) -> Response:
        """Have the peer do something."""

    async def n_event_report(
        self,
        sop_class: str,
        sop_instance_uid: str,
        event_type_id: int,
        information: Identifier | None = None,
        *,
        context: str | AcceptedContext | None = None,
    ) -> Response:
        """Tell the peer what has happened."""


EchoHandler: TypeAlias = Callable[[Request], Awaitable["Answer"]]
StoreHandler: TypeAlias = Callable[[Request], Awaitable["Answer"]]
FindHandler: TypeAlias = Callable[[Request], AsyncIterator["Identifier"]]
RetrieveHandler: TypeAlias = Callable[[Request], Awaitable["Retrieval | Answer"]]
NormalizedHandler: TypeAlias = Callable[[Request], Awaitable["Answer | Identifier"]]
OpenAssociation: TypeAlias = Callable[
    ["Destination", Sequence[PresentationContext]], AbstractAsyncContextManager[Storer]
]


class NormalizedHandlers(TypedDict, total=False):
    """The handlers of DIMSE-N that `serve`, `associate` and their like take (see `NormalizedService`)."""

    n_create: NormalizedHandler | None
    n_set: NormalizedHandler | None
    n_get: NormalizedHandler | None
    n_action: NormalizedHandler | None
    n_delete: NormalizedHandler | None
    n_event_report: NormalizedHandler | None
