"""The DICOM network stack for asyncio.

`associate` opens an association, `serve` accepts them; see the README for ten jobs with a few lines each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncdicom._version import __version__

if TYPE_CHECKING:
    from asyncdicom.access import AccessPolicy, Peer
    from asyncdicom.address import Address
    from asyncdicom.association import Association
    from asyncdicom.client import associate
    from asyncdicom.destination import Destination
    from asyncdicom.exceptions import (
        AssociationAborted,
        AssociationClosed,
        AssociationError,
        AssociationRejected,
        AssociationReleased,
        AssociationTimeout,
        DataSetError,
        DicomNetworkError,
        LocalProtocolError,
        PresentationContextError,
        ProtocolError,
        RemoteProtocolError,
        StatusError,
    )
    from asyncdicom.net.payload import BytesSource, DataStream, FileSource, Source
    from asyncdicom.net.tls_files import TlsFiles
    from asyncdicom.options import ByRole, Limits, Timeouts
    from asyncdicom.pool import AssociationPool
    from asyncdicom.running import run, serve_until_stopped
    from asyncdicom.server import Server, serve
    from asyncdicom.services.contexts import retrieval_contexts, storage_contexts
    from asyncdicom.services.handlers import Request, Response, Retrieval
    from asyncdicom.services.retrieve import Progress, RetrieveResult
    from asyncdicom.services.storage import file_source, open_file
    from asyncdicom.status import Status
    from asyncdicom.uid import (
        PATIENT_ROOT,
        PATIENT_STUDY_ONLY,
        STORAGE,
        STUDY_ROOT,
        VERIFICATION,
        InformationModel,
        new_uid,
    )
    from asyncdicom.ul.items import UserIdentity
    from asyncdicom.ul.negotiation import AcceptedContext, PresentationContext

__all__ = [
    "PATIENT_ROOT",
    "PATIENT_STUDY_ONLY",
    "STORAGE",
    "STUDY_ROOT",
    "VERIFICATION",
    "AcceptedContext",
    "AccessPolicy",
    "Address",
    "Association",
    "AssociationAborted",
    "AssociationClosed",
    "AssociationError",
    "AssociationPool",
    "AssociationRejected",
    "AssociationReleased",
    "AssociationTimeout",
    "ByRole",
    "BytesSource",
    "DataSetError",
    "DataStream",
    "Destination",
    "DicomNetworkError",
    "FileSource",
    "InformationModel",
    "Limits",
    "LocalProtocolError",
    "Peer",
    "PresentationContext",
    "PresentationContextError",
    "Progress",
    "ProtocolError",
    "RemoteProtocolError",
    "Request",
    "Response",
    "Retrieval",
    "RetrieveResult",
    "Server",
    "Source",
    "Status",
    "StatusError",
    "Timeouts",
    "TlsFiles",
    "UserIdentity",
    "__version__",
    "associate",
    "file_source",
    "new_uid",
    "open_file",
    "retrieval_contexts",
    "run",
    "serve",
    "serve_until_stopped",
    "storage_contexts",
]

# Where the public names live. They are imported when they are first used: a tool that only prints its
# help, or only parses an address, does not load the event loop, TLS and all services.
_MODULES = {
    "access": "AccessPolicy Peer",
    "address": "Address",
    "association": "Association",
    "client": "associate",
    "destination": "Destination",
    "exceptions": (
        "AssociationAborted AssociationClosed AssociationError AssociationRejected "
        "AssociationReleased AssociationTimeout DataSetError DicomNetworkError LocalProtocolError "
        "PresentationContextError ProtocolError RemoteProtocolError StatusError"
    ),
    "net.payload": "BytesSource DataStream FileSource Source",
    "net.tls_files": "TlsFiles",
    "options": "ByRole Limits Timeouts",
    "pool": "AssociationPool",
    "running": "run serve_until_stopped",
    "server": "Server serve",
    "services.contexts": "retrieval_contexts storage_contexts",
    "services.handlers": "Request Response Retrieval",
    "services.retrieve": "Progress RetrieveResult",
    "services.storage": "file_source open_file",
    "status": "Status",
    "uid": "PATIENT_ROOT PATIENT_STUDY_ONLY STORAGE STUDY_ROOT VERIFICATION InformationModel new_uid",
    "ul.items": "UserIdentity",
    "ul.negotiation": "AcceptedContext PresentationContext",
}
_HOME = {name: f"asyncdicom.{module}" for module, names in _MODULES.items() for name in names.split()}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'asyncdicom' has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
