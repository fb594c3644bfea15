"""The archive as an application entity: it stores, answers queries, and sends what is asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Unpack

from asyncdicom.access import AccessPolicy, Peers
from asyncdicom.address import Address
from asyncdicom.archive.archive import PIECE, Archive
from asyncdicom.archive.matching import IdentifierError
from asyncdicom.exceptions import DataSetError, StatusError
from asyncdicom.net.channel import Trace
from asyncdicom.net.payload import FileSource
from asyncdicom.opening import Opening
from asyncdicom.options import Limits, Timeouts, explains_options
from asyncdicom.server import Server, serve
from asyncdicom.services.contexts import Proposable
from asyncdicom.services.request import EchoHandler, NormalizedHandlers, Request, Retrieval
from asyncdicom.services.responses import Response
from asyncdicom.services.service import Service
from asyncdicom.status import Status
from asyncdicom.uid import PATIENT_ROOT, PATIENT_STUDY_ONLY, STUDY_ROOT, InformationModel

if TYPE_CHECKING:
    from socket import socket
    from ssl import SSLContext

__all__ = ["ArchiveProvider", "serve_archive"]

_MODELS: dict[str, InformationModel] = {
    uid: model
    for model in (PATIENT_ROOT, STUDY_ROOT, PATIENT_STUDY_ONLY)
    for uid in (model.find, model.move, model.get)
}


@explains_options
def serve_archive(
    archive: Archive,
    address: str | Address,
    *,
    c_echo: EchoHandler | None = None,
    services: Iterable[Service] = (),
    contexts: Proposable | Iterable[Proposable] | None = None,
    access: AccessPolicy | Peers | None = None,
    ssl: SSLContext | None = None,
    destination_ssl: SSLContext | None = None,
    sock: socket | None = None,
    reuse_port: bool = False,
    timeouts: Timeouts = Timeouts(),
    limits: Limits = Limits(),
    trace: Trace | None = None,
    **normalized: Unpack[NormalizedHandlers],
) -> Opening[Server]:
    """Serve an open archive: C-ECHO, C-STORE, C-FIND, C-GET and C-MOVE.

    `access`: who may do what, as for `serve`; its peers with an address are the C-MOVE destinations (the
    archive itself never is one). The other arguments are those of `serve`.

    Raises what `serve` raises. Leaving the block closes the server, and leaves the archive open.
    """
    if not isinstance(address, Address):
        address = Address.parse(address)
    policy = access if isinstance(access, AccessPolicy) else AccessPolicy(peers=access)
    provider = ArchiveProvider(archive, address.ae_title)
    destinations = {title: where for title, where in policy.destinations.items() if title != address.ae_title}
    return serve(
        address,
        c_echo=c_echo,
        c_store=provider.store,
        c_find=provider.find,
        c_get=provider.retrieve,
        c_move=provider.retrieve,
        services=services,
        destinations=destinations,
        contexts=contexts,
        unknown_storage=True,
        access=policy,
        ssl=ssl,
        destination_ssl=destination_ssl,
        sock=sock,
        reuse_port=reuse_port,
        timeouts=timeouts,
        limits=limits,
        trace=trace,
        **normalized,
    )


class ArchiveProvider:
    """The handlers of an archive."""

    def __init__(self, archive: Archive, ae_title: str) -> None:
        self.archive = archive
        self.ae_title = ae_title

    async def store(self, request: Request) -> Status:
        """C-STORE: the answer is a Success when the instance is as durable as the archive promises."""
        return await self.archive.store(
            sop_class_uid=request.affected_sop_class_uid,
            sop_instance_uid=request.affected_sop_instance_uid,
            transfer_syntax_uid=request.transfer_syntax_uid,
            batches=request.data.batches(PIECE),
            calling_ae_title=request.calling_ae_title,
        )

    async def find(self, request: Request) -> AsyncIterator[bytes]:
        """C-FIND: encoded identifiers, page by page."""
        model = _model_of(request)
        try:
            identifier = await request.data.read()
            async for match in self.archive.find(
                identifier, request.transfer_syntax_uid, model, retrieve_ae_title=self.ae_title
            ):
                yield match
        except (IdentifierError, DataSetError) as error:
            raise _refusal(error) from None

    async def retrieve(self, request: Request) -> Retrieval:
        """C-GET and C-MOVE: the files that match, to be sent as they are."""
        model = _model_of(request)
        try:
            identifier = await request.data.read()
            found = await self.archive.matching_instances(identifier, request.transfer_syntax_uid, model)
        except (IdentifierError, DataSetError) as error:
            raise _refusal(error) from None
        return Retrieval(
            [
                FileSource(
                    instance.path,
                    sop_class_uid=instance.sop_class_uid,
                    sop_instance_uid=instance.sop_instance_uid,
                    transfer_syntax_uid=instance.transfer_syntax_uid,
                    offset=instance.data_set_offset,
                    length=instance.data_set_length,
                )
                for instance in found
            ]
        )


def _model_of(request: Request) -> InformationModel:
    model = _MODELS.get(request.affected_sop_class_uid)
    if model is None:  # it was asked for by `contexts`, and no service was given for it
        raise StatusError(Response(Status.SOP_CLASS_NOT_SUPPORTED))
    return model


def _refusal(error: IdentifierError | DataSetError) -> StatusError:
    status = error.status if isinstance(error, IdentifierError) else Status.DATA_SET_DOES_NOT_MATCH_SOP_CLASS
    return StatusError(Response(status, error_comment=str(error)))
