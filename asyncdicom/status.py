"""The Status of a DIMSE response (PS3.7 Annex C and the service classes of PS3.4)."""

from __future__ import annotations

from typing import ClassVar

SUCCESS, WARNING, FAILURE, CANCEL, PENDING = "Success", "Warning", "Failure", "Cancel", "Pending"

# PS3.7 Annex C: the same for every service class.
GENERAL: dict[int, str] = {
    0x0000: "",
    0x0105: "no such attribute",
    0x0106: "invalid attribute value",
    0x0107: "attribute list error",
    0x0110: "processing failure",
    0x0111: "duplicate SOP instance",
    0x0112: "no such object instance",
    0x0113: "no such event type",
    0x0114: "no such argument",
    0x0115: "invalid argument value",
    0x0116: "attribute value out of range",
    0x0117: "invalid SOP instance",
    0x0118: "no such SOP class",
    0x0119: "class-instance conflict",
    0x0120: "missing attribute",
    0x0121: "missing attribute value",
    0x0122: "SOP class not supported",
    0x0123: "no such action",
    0x0124: "not authorized",
    0x0210: "duplicate invocation",
    0x0211: "unrecognized operation",
    0x0212: "mistyped argument",
    0x0213: "resource limitation",
    0xFE00: "",
    0xFF00: "",
}

# What most service classes of PS3.4 mean by these, used when the service is not known.
COMMON: dict[int, str] = {
    0x0001: "optional attributes not supported",
    0xA700: "out of resources",
    0xA701: "out of resources, unable to calculate number of matches",
    0xA702: "out of resources, unable to perform sub-operations",
    0xA710: "invalid prior record key",
    0xA801: "move destination unknown",
    0xA900: "data set does not match SOP class",
    0xAA00: "none of the frames requested were found in the SOP instance",
    0xAA01: "unable to create new object for this SOP class",
    0xAA02: "unable to extract frames",
    0xAA03: "time-based request for an original SOP instance that is not time-based",
    0xAA04: "invalid request",
    0xB000: "sub-operations complete with failures or warnings, or data elements coerced",
    0xB006: "elements discarded",
    0xB007: "data set does not match SOP class",
    0xC000: "unable to process",
    0xFF01: "optional keys not supported",
}

_IDENTIFIER = "identifier does not match SOP class"
_RETRIEVE = {0xA900: _IDENTIFIER, 0xB000: "sub-operations complete, one or more failures or warnings"}
_MATCHES = {0xA900: _IDENTIFIER, 0xFF01: "optional keys not supported for this identifier"}

# PS3.4, by the services of SOP_CLASSES; only where they differ from the two tables above.
BY_SERVICE: dict[str, dict[int, str]] = {
    "storage": {  # B.2.3
        0xB000: "coercion of data elements",
        0xB006: "elements discarded",
        0xB007: "data set does not match SOP class",
        0xC000: "cannot understand",
    },
    "non-patient-object-storage": {0xC000: "cannot understand"},  # GG.4.2
    "query-retrieve": {  # C.4.1.1.4, C.4.2.1.5, C.4.3.1.4
        **_RETRIEVE,
        **_MATCHES,
        0xB001: "matching reached response limit, a subsequent request may return more",
    },
    "worklist": _MATCHES,  # K.4.1.1.4
    "hanging-protocol": _RETRIEVE | _MATCHES,
    "color-palette": _RETRIEVE | _MATCHES,
    "implant-template": _RETRIEVE | _MATCHES,
    "defined-procedure": _RETRIEVE | _MATCHES,
    "protocol-approval": _RETRIEVE | _MATCHES,
    "relevant-patient": {  # Q.2.1.1.4
        **_MATCHES,
        0xC100: "more than one match found",
        0xC200: "unable to support requested template",
    },
    "print": {  # H.4
        0xB600: "memory allocation not supported",
        0xB601: "film session printing (collation) not supported",
        0xB602: "film session contains no image boxes (empty page)",
        0xB603: "film box contains no image boxes (empty page)",
        0xB604: "image larger than image box, demagnified",
        0xB605: "requested density outside the range of the printer",
        0xB609: "image larger than image box, cropped",
        0xB60A: "image larger than image box, decimated",
        0xC600: "film session contains no film boxes",
        0xC601: "unable to create print job, print queue is full",
        0xC602: "unable to create print job, print queue is full",
        0xC603: "image larger than image box",
        0xC605: "insufficient memory in printer to store the image",
        0xC613: "combined print image larger than image box",
        0xC616: "a film box has not been printed, a new one will not be created",
    },
    "ups": {  # CC.2
        0xB300: "UPS created with modifications",
        0xB301: "deletion lock not granted",
        0xB304: "UPS already in the requested state of CANCELED",
        0xB305: "invalid values coerced to valid values",
        0xB306: "UPS already in the requested state of COMPLETED",
        0xC300: "UPS may no longer be updated",
        0xC301: "correct Transaction UID not provided",
        0xC302: "UPS already IN PROGRESS",
        0xC303: "UPS may only become SCHEDULED via N-CREATE",
        0xC304: "UPS has not met final state requirements",
        0xC307: "SOP Instance UID is not a UPS managed by this SCP",
        0xC308: "receiving AE title unknown to this SCP",
        0xC309: "UPS state was not SCHEDULED",
        0xC310: "UPS not yet IN PROGRESS",
        0xC311: "UPS already COMPLETED",
        0xC312: "performer cannot be contacted",
        0xC313: "performer chooses not to cancel",
        0xC314: "action not appropriate for the instance",
        0xC315: "SCP does not support event reports",
    },
    "media-creation": {  # S.3.2
        0xA510: "media creation already initiated for this SOP instance",
        0xC201: "media creation request already completed",
        0xC202: "media creation request in progress, cannot be interrupted",
        0xC203: "cancellation denied",
    },
    "event-logging": {  # P.2.2
        0xB101: "synchronization frame of reference does not match",
        0xB102: "logged under a different Study Instance UID",
        0xB104: "IDs inconsistent, event logged",
        0xC101: "logging not available for this Study Instance UID",
        0xC102: "event information does not match template",
        0xC103: "cannot match event to a current study",
        0xC104: "IDs inconsistent, event not logged",
        0xC10E: "operator not authorized to add the entry",
        0xC110: "patient cannot be identified",
        0xC111: "update of medication administration record failed",
    },
    "rt-machine-verification": {  # DD.3.2
        0xC112: "machine verification instance not found",
        0xC221: "referenced fraction group does not exist in the plan",
        0xC222: "no beams within the referenced fraction group",
        0xC223: "already verifying, cannot process this request",
        0xC224: "referenced beam not found within the fraction group",
        0xC225: "referenced device or accessory not supported",
        0xC226: "referenced device or accessory not found within the beam",
        0xC227: "referenced RT plan not found",
    },
    "storage-management": {0xB010: "some key attributes not supported for matching"},
}

_CATEGORIES = {
    0x0000: SUCCESS,
    0x0001: WARNING,
    0x0107: WARNING,
    0x0116: WARNING,
    0xFE00: CANCEL,
    0xFF00: PENDING,
    0xFF01: PENDING,
}


class Status(int):
    """A DIMSE Status: an ``int`` that knows its category. Any 16-bit value is one, also an unknown one."""

    __slots__ = ()

    SUCCESS: ClassVar[Status]
    CANCEL: ClassVar[Status]
    PENDING: ClassVar[Status]
    PENDING_WARNING: ClassVar[Status]
    OPTIONAL_ATTRIBUTES_NOT_SUPPORTED: ClassVar[Status]
    NO_SUCH_ATTRIBUTE: ClassVar[Status]
    INVALID_ATTRIBUTE_VALUE: ClassVar[Status]
    ATTRIBUTE_LIST_ERROR: ClassVar[Status]
    PROCESSING_FAILURE: ClassVar[Status]
    DUPLICATE_SOP_INSTANCE: ClassVar[Status]
    NO_SUCH_OBJECT_INSTANCE: ClassVar[Status]
    NO_SUCH_EVENT_TYPE: ClassVar[Status]
    NO_SUCH_ARGUMENT: ClassVar[Status]
    INVALID_ARGUMENT_VALUE: ClassVar[Status]
    ATTRIBUTE_VALUE_OUT_OF_RANGE: ClassVar[Status]
    INVALID_SOP_INSTANCE: ClassVar[Status]
    NO_SUCH_SOP_CLASS: ClassVar[Status]
    CLASS_INSTANCE_CONFLICT: ClassVar[Status]
    MISSING_ATTRIBUTE: ClassVar[Status]
    MISSING_ATTRIBUTE_VALUE: ClassVar[Status]
    SOP_CLASS_NOT_SUPPORTED: ClassVar[Status]
    NO_SUCH_ACTION: ClassVar[Status]
    NOT_AUTHORIZED: ClassVar[Status]
    DUPLICATE_INVOCATION: ClassVar[Status]
    UNRECOGNIZED_OPERATION: ClassVar[Status]
    MISTYPED_ARGUMENT: ClassVar[Status]
    RESOURCE_LIMITATION: ClassVar[Status]
    OUT_OF_RESOURCES: ClassVar[Status]
    UNABLE_TO_CALCULATE_NUMBER_OF_MATCHES: ClassVar[Status]
    UNABLE_TO_PERFORM_SUB_OPERATIONS: ClassVar[Status]
    MOVE_DESTINATION_UNKNOWN: ClassVar[Status]
    DATA_SET_DOES_NOT_MATCH_SOP_CLASS: ClassVar[Status]
    SUB_OPERATIONS_WARNING: ClassVar[Status]
    COERCION_OF_DATA_ELEMENTS: ClassVar[Status]
    ELEMENTS_DISCARDED: ClassVar[Status]
    DATA_SET_DOES_NOT_MATCH_SOP_CLASS_WARNING: ClassVar[Status]
    CANNOT_UNDERSTAND: ClassVar[Status]
    UNABLE_TO_PROCESS: ClassVar[Status]

    @property
    def category(self) -> str:
        """Success, Pending, Warning, Failure or Cancel; an unknown code is a Failure (PS3.7 Annex C)."""
        return _CATEGORIES.get(self) or (WARNING if self >> 12 == 0xB else FAILURE)

    @property
    def is_success(self) -> bool:
        """Whether the operation was performed as asked."""
        return self == 0

    @property
    def is_pending(self) -> bool:
        """Whether more responses follow."""
        return self == 0xFF00 or self == 0xFF01

    @property
    def is_warning(self) -> bool:
        """Whether the operation was performed, but not quite as asked."""
        return self.category == WARNING

    @property
    def is_failure(self) -> bool:
        """Whether the operation was not performed."""
        return self != 0 and self.category == FAILURE

    @property
    def is_cancel(self) -> bool:
        """Whether the operation was ended by C-CANCEL."""
        return self.category == CANCEL

    def meaning(self, service: str | None = None) -> str:
        """What the code means, as far as is known; ``service`` is one of the services of ``SOP_CLASSES``."""
        for table in (BY_SERVICE.get(service or "", {}), GENERAL, COMMON):
            if self in table:
                return table[self]
        # A7xx, A9xx and Cxxx are whole ranges in PS3.4, the low digits are the implementation's.
        family = int(self) & (0xF000 if self >> 12 == 0xC else 0xFF00)
        if family in (0xA700, 0xA900, 0xC000):
            return Status(family).meaning(service) if self != family else ""
        return ""

    def __str__(self) -> str:
        meaning = self.meaning()
        return f"0x{int(self):04X} ({self.category}{': ' if meaning else ''}{meaning})"

    def __repr__(self) -> str:
        return f"Status(0x{int(self):04X})"


_NAMES = {
    "SUCCESS": 0x0000,
    "CANCEL": 0xFE00,
    "PENDING": 0xFF00,
    "PENDING_WARNING": 0xFF01,
    "OPTIONAL_ATTRIBUTES_NOT_SUPPORTED": 0x0001,
    "NO_SUCH_ATTRIBUTE": 0x0105,
    "INVALID_ATTRIBUTE_VALUE": 0x0106,
    "ATTRIBUTE_LIST_ERROR": 0x0107,
    "PROCESSING_FAILURE": 0x0110,
    "DUPLICATE_SOP_INSTANCE": 0x0111,
    "NO_SUCH_OBJECT_INSTANCE": 0x0112,
    "NO_SUCH_EVENT_TYPE": 0x0113,
    "NO_SUCH_ARGUMENT": 0x0114,
    "INVALID_ARGUMENT_VALUE": 0x0115,
    "ATTRIBUTE_VALUE_OUT_OF_RANGE": 0x0116,
    "INVALID_SOP_INSTANCE": 0x0117,
    "NO_SUCH_SOP_CLASS": 0x0118,
    "CLASS_INSTANCE_CONFLICT": 0x0119,
    "MISSING_ATTRIBUTE": 0x0120,
    "MISSING_ATTRIBUTE_VALUE": 0x0121,
    "SOP_CLASS_NOT_SUPPORTED": 0x0122,
    "NO_SUCH_ACTION": 0x0123,
    "NOT_AUTHORIZED": 0x0124,
    "DUPLICATE_INVOCATION": 0x0210,
    "UNRECOGNIZED_OPERATION": 0x0211,
    "MISTYPED_ARGUMENT": 0x0212,
    "RESOURCE_LIMITATION": 0x0213,
    "OUT_OF_RESOURCES": 0xA700,
    "UNABLE_TO_CALCULATE_NUMBER_OF_MATCHES": 0xA701,
    "UNABLE_TO_PERFORM_SUB_OPERATIONS": 0xA702,
    "MOVE_DESTINATION_UNKNOWN": 0xA801,
    "DATA_SET_DOES_NOT_MATCH_SOP_CLASS": 0xA900,
    "SUB_OPERATIONS_WARNING": 0xB000,
    "COERCION_OF_DATA_ELEMENTS": 0xB000,
    "ELEMENTS_DISCARDED": 0xB006,
    "DATA_SET_DOES_NOT_MATCH_SOP_CLASS_WARNING": 0xB007,
    "CANNOT_UNDERSTAND": 0xC000,
    "UNABLE_TO_PROCESS": 0xC000,
}
for _name, _code in _NAMES.items():
    setattr(Status, _name, Status(_code))
