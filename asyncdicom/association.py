"""`Association`: what users hold, on either side."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

from asyncdicom.dimse.messages import CommandField
from asyncdicom.exceptions import LocalProtocolError
from asyncdicom.net.channel import Channel
from asyncdicom.net.sources import Source
from asyncdicom.services import storage, verification
from asyncdicom.services.builtin import check_handlers
from asyncdicom.services.contexts import check_storage_contexts, find_normalized_context
from asyncdicom.services.normalized import invoke
from asyncdicom.services.request import ReceivedRequest, StoreHandler
from asyncdicom.services.responses import Identifier, Response
from asyncdicom.services.service import Services
from asyncdicom.services.storage import Storage
from asyncdicom.uid import STUDY_ROOT, InformationModel
from asyncdicom.ul.negotiation import AcceptedContext

if TYPE_CHECKING:
    from pydicom import Dataset

    from asyncdicom.services.query import Query
    from asyncdicom.services.retrieve import RetrieveOperation

__all__ = ["Association", "Request"]

_ABORT_LINGER = 1.0


class Association:
    """An established association (PS3.8 7.1): invoke operations on it, from as many tasks as you like.

    Operations run in parallel as far as the Asynchronous Operations Window was negotiated (by default
    one at a time); others wait their turn. When the association is gone, the next call raises what
    ended it (`AssociationError`); `wait_closed` tells it too.

    What a cancellation does, unless a method says otherwise: while waiting for its turn, nothing was
    sent; while a data set is being sent, the association is aborted, because the message can never be
    completed; while waiting for a response, the response is dropped when it comes, and the association
    stays usable.
    """

    def __init__(self, channel: Channel, services: Services) -> None:
        self._channel = channel
        self._services = services

    # what was negotiated

    @property
    def is_established(self) -> bool:
        """Whether operations can be invoked."""
        return self._channel.is_established

    @property
    def calling_ae_title(self) -> str:
        """The calling AE title of the A-ASSOCIATE-RQ."""
        return self._channel.request.calling_ae_title if self._channel.request is not None else ""

    @property
    def called_ae_title(self) -> str:
        """The called AE title of the A-ASSOCIATE-RQ."""
        return self._channel.request.called_ae_title if self._channel.request is not None else ""

    @property
    def peer(self) -> tuple[str, int]:
        """Host and port of the peer."""
        return self._channel.transport.peer

    @property
    def contexts(self) -> Mapping[int, AcceptedContext]:
        """The accepted presentation contexts by their ID."""
        return self._channel.contexts

    @property
    def operations_invoked(self) -> int:
        """How many operations may be outstanding (0: unlimited; PS3.7 D.3.3.3)."""
        negotiated = self._channel.negotiated
        return negotiated.operations_invoked if negotiated is not None else 1

    @property
    def unanswered(self) -> int:
        """How many operations of ours had not been answered when the association ended."""
        return self._channel.core.unanswered

    def get_extra_info(self, name: str) -> Any:
        """Give what the transport knows, such as "ssl_object" (see `asyncio.BaseTransport`)."""
        return self._channel.transport.get_extra_info(name)

    # operations

    async def c_echo(self, *, timeout: float | None = None) -> Response:
        """Verify that the peer is there (PS3.7 9.1.5). `timeout`: seconds to wait for the response."""
        return await verification.echo(self._channel, timeout=timeout)

    async def c_store(
        self,
        instance: str | os.PathLike[str] | Dataset | Source,
        *,
        priority: int = 0,
        move_originator: tuple[str, int] | None = None,
        timeout: float | None = None,
        on_sent: Callable[[], None] | None = None,
    ) -> Response:
        """Send one instance (PS3.7 9.1.1): a DICOM file, a pydicom Dataset or a `Source`.

        A file is streamed as it is. An uncompressed one whose transfer syntax the peer did not accept is
        re-encoded as Explicit or Implicit VR Little Endian on the way, and its pixel data is not touched.
        `move_originator`: AE title and Message ID of the C-MOVE that this is a sub-operation of.
        `timeout`: seconds to wait for the response once the last byte has left; `on_sent` is called then.

        Raises `PresentationContextError` if no accepted context fits, `DataSetError` or `OSError` if
        the file cannot be read, `AssociationAborted` if it failed in the middle.
        """
        source: Any
        if hasattr(instance, "sop_class_uid") and hasattr(instance, "open"):
            source = instance  # first, because it is often one; a path has an `open`, too
        elif isinstance(instance, (str, os.PathLike)):
            source = await storage.open_file(instance)
        else:
            source = storage.dataset_source(self._channel, instance)
        return await storage.store(
            self._channel,
            source,
            priority=priority,
            move_originator=move_originator,
            timeout=timeout,
            on_sent=on_sent,
        )

    @overload
    def c_find(
        self,
        identifier: Identifier,
        *,
        information_model: InformationModel | str = ...,
        priority: int = ...,
        raw: Literal[False] = ...,
        maximum_matches: int = ...,
        maximum_bytes: int = ...,
        timeout: float | None = ...,
    ) -> Query[Dataset]: ...

    @overload
    def c_find(
        self,
        identifier: Identifier,
        *,
        information_model: InformationModel | str = ...,
        priority: int = ...,
        raw: Literal[True],
        maximum_matches: int = ...,
        maximum_bytes: int = ...,
        timeout: float | None = ...,
    ) -> Query[bytes]: ...

    def c_find(
        self,
        identifier: Identifier,
        *,
        information_model: InformationModel | str = STUDY_ROOT,
        priority: int = 0,
        raw: bool = False,
        maximum_matches: int = 100_000,
        maximum_bytes: int = 32 << 20,
        timeout: float | None = None,
    ) -> Query[Any]:
        """Query (PS3.7 9.1.2): `await` gives a list, `async with` something to iterate over.

        `identifier`: a pydicom Dataset, a mapping of keywords, or encoded bytes. `raw`: give matches
        as encoded bytes. `timeout`: seconds to wait for each response. `maximum_matches` and
        `maximum_bytes` (as encoded): the longest list that `await` gives; of a longer one the rest is
        cancelled, and `DicomNetworkError` raised. Leaving the block early sends C-CANCEL; see
        `ResponseStream`.
        """
        sop_class = information_model if isinstance(information_model, str) else information_model.find
        from asyncdicom.services.query import find  # loaded by those who query

        return find(
            self._channel,
            sop_class,
            identifier,
            priority=priority,
            raw=raw,
            maximum_matches=maximum_matches,
            maximum_bytes=maximum_bytes,
            timeout=timeout,
        )

    def c_move(
        self,
        identifier: Identifier,
        *,
        information_model: InformationModel | str = STUDY_ROOT,
        move_destination: str,
        priority: int = 0,
        timeout: float | None = None,
    ) -> RetrieveOperation:
        """Have the peer send instances to `move_destination`, an AE title that it knows (PS3.7 9.1.4).

        `await` gives a `RetrieveResult`, `async with` something to iterate over for `Progress`.
        Leaving the block early sends C-CANCEL. `timeout`: seconds to wait for each response.
        """
        from asyncdicom.services.retrieve import retrieve  # loaded by those who retrieve

        sop_class = information_model if isinstance(information_model, str) else information_model.move
        return retrieve(
            self._channel,
            CommandField.C_MOVE_RQ,
            sop_class,
            identifier,
            move_destination=move_destination,
            priority=priority,
            timeout=timeout,
        )

    def c_get(
        self,
        identifier: Identifier,
        *,
        information_model: InformationModel | str = STUDY_ROOT,
        c_store: StoreHandler | None = None,
        priority: int = 0,
        timeout: float | None = None,
    ) -> RetrieveOperation:
        """Have the peer send instances on this association (PS3.7 9.1.3).

        `c_store`: the handler that receives them (by default the one given to `associate`); the storage
        contexts must have been proposed with the SCP role (`retrieval_contexts`). One C-GET at a time.
        """
        from asyncdicom.services.retrieve import retrieve  # loaded by those who retrieve

        sop_class = information_model if isinstance(information_model, str) else information_model.get
        if c_store is None and not any(
            isinstance(service, Storage) and service.handler is not None for service in self._services
        ):
            raise LocalProtocolError("a C-GET needs a c_store handler, to receive the instances")
        if c_store is not None:
            check_handlers({"c_store": c_store})
        check_storage_contexts(self._channel)
        return retrieve(
            self._channel,
            CommandField.C_GET_RQ,
            sop_class,
            identifier,
            priority=priority,
            timeout=timeout,
            receiver=c_store,
        )

    # DIMSE-N

    def context_for(self, sop_class: str, command_field: CommandField) -> AcceptedContext:
        """The context that a DIMSE-N request about a SOP class is sent on; `PresentationContextError` for
        none."""
        return find_normalized_context(self._channel, sop_class, command_field)

    async def n_create(
        self,
        sop_class: str,
        attributes: Identifier | None = None,
        *,
        sop_instance_uid: str | None = None,
        context: str | AcceptedContext | None = None,
        timeout: float | None = None,
    ) -> Response:
        """Have the peer create an instance of a SOP class (PS3.7 10.1.5).

        `sop_instance_uid`: its UID; without it the peer makes one, which the response has. For `context`,
        `timeout` and what is raised see `n_set`.
        """
        return await invoke(
            self._channel,
            CommandField.N_CREATE_RQ,
            sop_class,
            attributes,
            sop_instance_uid=sop_instance_uid,
            context=context,
            timeout=timeout,
        )

    async def n_set(
        self,
        sop_class: str,
        sop_instance_uid: str,
        modifications: Identifier,
        *,
        context: str | AcceptedContext | None = None,
        timeout: float | None = None,
    ) -> Response:
        """Modify attributes of an instance (PS3.7 10.1.3).

        `modifications`: the new values: a pydicom Dataset, a mapping of keywords, or encoded bytes.
        `context`: the accepted context to use, or its abstract syntax; by default the one of the SOP class or
        of its family (UPS, print, MPPS). `timeout`: seconds to wait for the response. The response has
        `attributes` if the peer tells the values as they are now.

        Raises `PresentationContextError` if no accepted context fits, `DataSetError` if the data set cannot
        be encoded, `AssociationError` if the association is over.
        """
        return await invoke(
            self._channel,
            CommandField.N_SET_RQ,
            sop_class,
            modifications,
            sop_instance_uid=sop_instance_uid,
            context=context,
            timeout=timeout,
        )

    async def n_get(
        self,
        sop_class: str,
        sop_instance_uid: str,
        attributes: Iterable[int | str] = (),
        *,
        context: str | AcceptedContext | None = None,
        timeout: float | None = None,
    ) -> Response:
        """Ask for attributes of an instance (PS3.7 10.1.2).

        `attributes`: tags or keywords, by default all. For `context`, `timeout` and what is raised see
        `n_set`; also ValueError for what is no attribute.
        """
        from asyncdicom.dataset import as_tags  # loaded by those who decode or encode

        return await invoke(
            self._channel,
            CommandField.N_GET_RQ,
            sop_class,
            sop_instance_uid=sop_instance_uid,
            attribute_identifier_list=as_tags(attributes) or None,
            context=context,
            timeout=timeout,
        )

    async def n_action(
        self,
        sop_class: str,
        sop_instance_uid: str,
        action_type_id: int,
        information: Identifier | None = None,
        *,
        context: str | AcceptedContext | None = None,
        timeout: float | None = None,
    ) -> Response:
        """Have the peer do something with an instance (PS3.7 10.1.4).

        `action_type_id`: what, as PS3.4 numbers it for the SOP class; `information`: the Action Information.
        The response has `attributes` if there is an Action Reply. For the others see `n_set`.
        """
        return await invoke(
            self._channel,
            CommandField.N_ACTION_RQ,
            sop_class,
            information,
            sop_instance_uid=sop_instance_uid,
            action_type_id=action_type_id,
            context=context,
            timeout=timeout,
        )

    async def n_delete(
        self,
        sop_class: str,
        sop_instance_uid: str,
        *,
        context: str | AcceptedContext | None = None,
        timeout: float | None = None,
    ) -> Response:
        """Have the peer delete an instance (PS3.7 10.1.6). For the arguments see `n_set`."""
        return await invoke(
            self._channel,
            CommandField.N_DELETE_RQ,
            sop_class,
            sop_instance_uid=sop_instance_uid,
            context=context,
            timeout=timeout,
        )

    async def n_event_report(
        self,
        sop_class: str,
        sop_instance_uid: str,
        event_type_id: int,
        information: Identifier | None = None,
        *,
        context: str | AcceptedContext | None = None,
        timeout: float | None = None,
    ) -> Response:
        """Tell the peer, an SCU, what happened to an instance of ours (PS3.7 10.1.1).

        It needs a context on which we are the SCP. `event_type_id`: what, as PS3.4 numbers it for the SOP
        class; `information`: the Event Information. The response has `attributes` if there is an Event Reply.
        For the others see `n_set`.
        """
        return await invoke(
            self._channel,
            CommandField.N_EVENT_REPORT_RQ,
            sop_class,
            information,
            sop_instance_uid=sop_instance_uid,
            event_type_id=event_type_id,
            context=context,
            timeout=timeout,
        )

    # the end

    async def release(self) -> None:
        """Let what is under way end, then release (PS3.8 7.2); abort if that takes too long."""
        await self._channel.release()
        await self._channel.wait_closed()

    async def abort(self) -> None:
        """Abort the association at once (PS3.8 7.3)."""
        self._channel.abort()
        await self._channel.wait_closed(_ABORT_LINGER)

    async def wait_closed(self) -> None:
        """Wait until the association has ended, whoever ended it."""
        await asyncio.wait([self._channel.closed])

    def __repr__(self) -> str:
        state = "established" if self.is_established else "closed"
        return f"<Association {self._channel} {state}>"


Request: TypeAlias = ReceivedRequest[Association]
"""What handlers and services get."""
