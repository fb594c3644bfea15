"""The DICOM network stack for asyncio.

`associate` opens an association, `serve` accepts them; see the README for twelve jobs with a few lines each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncdicom._version import __version__

if TYPE_CHECKING:
    from asyncdicom.access import AccessPolicy, Peer, Peers, UserIdentityCheck
    from asyncdicom.address import Address
    from asyncdicom.association import Association, Request
    from asyncdicom.client import associate
    from asyncdicom.data.elements import Skipped
    from asyncdicom.destination import Destination
    from asyncdicom.dimse.messages import Command, CommandField
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
    from asyncdicom.naming import safe_name
    from asyncdicom.net.channel import Trace
    from asyncdicom.net.sources import BytesSource, FileSource, Source
    from asyncdicom.net.stream import DataStream
    from asyncdicom.net.tls_files import TlsFiles
    from asyncdicom.opening import Opening
    from asyncdicom.options import ByRole, Limits, Timeouts
    from asyncdicom.pool import AssociationPool
    from asyncdicom.running import run, serve_until_stopped
    from asyncdicom.scu.client import Client
    from asyncdicom.scu.finding import Finding
    from asyncdicom.scu.results import (
        Instance,
        Matches,
        ReceivedInstance,
        ReceivedStudy,
        Retrieved,
        Stored,
        StoreResult,
    )
    from asyncdicom.scu.retrieving import Retrieving
    from asyncdicom.scu.storing import Storable, Storing
    from asyncdicom.server import AssociationHook, Node, Server, serve
    from asyncdicom.services.commitment import (
        CommitmentCheck,
        CommitmentResult,
        Reference,
        StorageCommitment,
        StorageCommitmentUser,
    )
    from asyncdicom.services.contexts import Proposable, retrieval_contexts, storage_contexts
    from asyncdicom.services.node import Delivery
    from asyncdicom.services.normalized import NormalizedService
    from asyncdicom.services.query import Query, QueryService
    from asyncdicom.services.request import (
        EchoHandler,
        FindHandler,
        LazySources,
        NormalizedHandler,
        NormalizedHandlers,
        Retrieval,
        RetrieveHandler,
        StoreHandler,
    )
    from asyncdicom.services.responses import Answer, Identifier, Response
    from asyncdicom.services.retrieve import (
        GetService,
        MoveService,
        Progress,
        RetrieveOperation,
        RetrieveResult,
    )
    from asyncdicom.services.service import Service
    from asyncdicom.services.storage import Storage, file_source, open_file
    from asyncdicom.services.verification import Verification
    from asyncdicom.services.worklist import Worklist
    from asyncdicom.status import Status
    from asyncdicom.uid import (
        MODALITY_WORKLIST,
        PATIENT_ROOT,
        PATIENT_STUDY_ONLY,
        STORAGE,
        STORAGE_COMMITMENT_PUSH_MODEL,
        STUDY_ROOT,
        VERIFICATION,
        InformationModel,
        new_uid,
    )
    from asyncdicom.ul.items import UserIdentity
    from asyncdicom.ul.negotiation import AcceptedContext, PresentationContext

__all__ = [
    "MODALITY_WORKLIST",
    "PATIENT_ROOT",
    "PATIENT_STUDY_ONLY",
    "STORAGE",
    "STORAGE_COMMITMENT_PUSH_MODEL",
    "STUDY_ROOT",
    "VERIFICATION",
    "AcceptedContext",
    "AccessPolicy",
    "Address",
    "Answer",
    "Association",
    "AssociationAborted",
    "AssociationClosed",
    "AssociationError",
    "AssociationHook",
    "AssociationPool",
    "AssociationRejected",
    "AssociationReleased",
    "AssociationTimeout",
    "ByRole",
    "BytesSource",
    "Client",
    "Command",
    "CommandField",
    "CommitmentCheck",
    "CommitmentResult",
    "DataSetError",
    "DataStream",
    "Delivery",
    "Destination",
    "DicomNetworkError",
    "EchoHandler",
    "FileSource",
    "FindHandler",
    "Finding",
    "GetService",
    "Identifier",
    "InformationModel",
    "Instance",
    "LazySources",
    "Limits",
    "LocalProtocolError",
    "Matches",
    "MoveService",
    "Node",
    "NormalizedHandler",
    "NormalizedHandlers",
    "NormalizedService",
    "Opening",
    "Peer",
    "Peers",
    "PresentationContext",
    "PresentationContextError",
    "Progress",
    "Proposable",
    "ProtocolError",
    "Query",
    "QueryService",
    "ReceivedInstance",
    "ReceivedStudy",
    "Reference",
    "RemoteProtocolError",
    "Request",
    "Response",
    "Retrieval",
    "RetrieveHandler",
    "RetrieveOperation",
    "RetrieveResult",
    "Retrieved",
    "Retrieving",
    "Server",
    "Service",
    "Skipped",
    "Source",
    "Status",
    "StatusError",
    "Storable",
    "Storage",
    "StorageCommitment",
    "StorageCommitmentUser",
    "StoreHandler",
    "StoreResult",
    "Stored",
    "Storing",
    "Timeouts",
    "TlsFiles",
    "Trace",
    "UserIdentity",
    "UserIdentityCheck",
    "Verification",
    "Worklist",
    "__version__",
    "associate",
    "file_source",
    "new_uid",
    "open_file",
    "retrieval_contexts",
    "run",
    "safe_name",
    "serve",
    "serve_until_stopped",
    "storage_contexts",
]

# Where the public names live. They are imported when they are first used: a tool that only prints its
# help, or only parses an address, does not load the event loop, TLS and all services.
_MODULES = {
    "access": "AccessPolicy Peer Peers UserIdentityCheck",
    "address": "Address",
    "association": "Association Request",
    "client": "associate",
    "data.elements": "Skipped",
    "destination": "Destination",
    "dimse.messages": "Command CommandField",
    "exceptions": (
        "AssociationAborted AssociationClosed AssociationError AssociationRejected "
        "AssociationReleased AssociationTimeout DataSetError DicomNetworkError "
        "LocalProtocolError PresentationContextError ProtocolError RemoteProtocolError "
        "StatusError"
    ),
    "net.channel": "Trace",
    "net.sources": "BytesSource FileSource Source",
    "net.stream": "DataStream",
    "net.tls_files": "TlsFiles",
    "opening": "Opening",
    "options": "ByRole Limits Timeouts",
    "pool": "AssociationPool",
    "running": "run serve_until_stopped",
    "scu.client": "Client",
    "scu.finding": "Finding",
    "scu.results": "Instance Matches ReceivedInstance ReceivedStudy Retrieved Stored StoreResult",
    "scu.retrieving": "Retrieving",
    "scu.storing": "Storable Storing",
    "server": "AssociationHook Node Server serve",
    "services.commitment": (
        "CommitmentCheck CommitmentResult Reference StorageCommitment StorageCommitmentUser"
    ),
    "services.contexts": "Proposable retrieval_contexts storage_contexts",
    "services.node": "Delivery",
    "services.normalized": "NormalizedService",
    "services.query": "Query QueryService",
    "services.request": (
        "EchoHandler FindHandler LazySources NormalizedHandler NormalizedHandlers Retrieval "
        "RetrieveHandler StoreHandler"
    ),
    "services.responses": "Answer Identifier Response",
    "services.retrieve": "GetService MoveService Progress RetrieveOperation RetrieveResult",
    "services.service": "Service",
    "services.storage": "Storage file_source open_file",
    "services.verification": "Verification",
    "services.worklist": "Worklist",
    "status": "Status",
    "naming": "safe_name",
    "uid": (
        "MODALITY_WORKLIST PATIENT_ROOT PATIENT_STUDY_ONLY STORAGE "
        "STORAGE_COMMITMENT_PUSH_MODEL STUDY_ROOT VERIFICATION InformationModel new_uid"
    ),
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
