"""The DICOM network stack for asyncio.

`associate` opens an association, `serve` accepts them; see the README for ten jobs with a few lines each.
"""

from asyncdicom._version import __version__
from asyncdicom.address import Address
from asyncdicom.association import Association
from asyncdicom.client import associate
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
from asyncdicom.pool import AssociationPool
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
    "Address",
    "Association",
    "AssociationAborted",
    "AssociationClosed",
    "AssociationError",
    "AssociationPool",
    "AssociationRejected",
    "AssociationReleased",
    "AssociationTimeout",
    "BytesSource",
    "DataSetError",
    "DataStream",
    "DicomNetworkError",
    "FileSource",
    "InformationModel",
    "LocalProtocolError",
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
    "UserIdentity",
    "__version__",
    "associate",
    "file_source",
    "new_uid",
    "open_file",
    "retrieval_contexts",
    "serve",
    "storage_contexts",
]
