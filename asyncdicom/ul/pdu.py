"""The seven PDUs (PS3.8 9.3): what they hold, how they are written and read."""

# No `from __future__ import annotations`: each field that is text costs a NamedTuple a compilation.

from collections.abc import Callable, Iterable
from struct import Struct
from struct import error as struct_error
from typing import NamedTuple, TypeVar

from asyncdicom.exceptions import LocalProtocolError, RemoteProtocolError
from asyncdicom.uid import APPLICATION_CONTEXT_NAME

from . import encoder, items
from .items import ContextResult, Cursor, ProposedContext, UserInformation

A_ASSOCIATE_RQ = 0x01
A_ASSOCIATE_AC = 0x02
A_ASSOCIATE_RJ = 0x03
P_DATA_TF = 0x04
A_RELEASE_RQ = 0x05
A_RELEASE_RP = 0x06
A_ABORT = 0x07

NAMES = {
    A_ASSOCIATE_RQ: "A-ASSOCIATE-RQ",
    A_ASSOCIATE_AC: "A-ASSOCIATE-AC",
    A_ASSOCIATE_RJ: "A-ASSOCIATE-RJ",
    P_DATA_TF: "P-DATA-TF",
    A_RELEASE_RQ: "A-RELEASE-RQ",
    A_RELEASE_RP: "A-RELEASE-RP",
    A_ABORT: "A-ABORT",
}

ASSOCIATE_FIXED_LENGTH = 68  # of the body: version, reserved, both AE titles, reserved
MAXIMUM_CONTEXTS = 128  # odd IDs from 1 to 255

_FIXED = Struct(">HH32s32s")
_RESERVED = bytes(32)


def ae_title(field: bytes) -> str:
    """The AE title in a field of 16 bytes: cut at a NUL, without the spaces around it (never fails)."""
    return field.partition(b"\0")[0].decode("latin-1").strip(" ")


def _ae_field(title: str) -> bytes:
    try:
        field = title.encode("latin-1")
    except UnicodeEncodeError:
        raise LocalProtocolError(f"not an AE title: {title!r}") from None
    if len(field) > 16:
        raise LocalProtocolError(f"AE title {title!r} is longer than 16 characters")
    return field.ljust(16)


def _associate(pdu: "AAssociateRQ | AAssociateAC", pdu_type: int) -> bytes:
    titles = pdu.ae_title_fields or _ae_field(pdu.called_ae_title) + _ae_field(pdu.calling_ae_title)
    contexts: Iterable[ProposedContext | ContextResult] = pdu.presentation_contexts
    try:
        body = [
            _FIXED.pack(pdu.protocol_version, 0, titles, pdu.reserved),
            items.item(items.APPLICATION_CONTEXT, items.uid_bytes(pdu.application_context_name)),
            *(context.encode() for context in contexts),
            pdu.user_information.encode(),
        ]
    except (struct_error, ValueError) as error:
        raise LocalProtocolError(f"{NAMES[pdu_type]} cannot be encoded: {error}") from None
    return encoder.pdu(pdu_type, b"".join(body))


class AAssociateRQ(NamedTuple):
    """A-ASSOCIATE-RQ (PS3.8 9.3.2).

    `ae_title_fields` are the 32 bytes of both titles as received, empty in what we make ourselves: an
    A-ASSOCIATE-AC has to send them back unchanged.
    """

    called_ae_title: str
    calling_ae_title: str
    presentation_contexts: tuple[ProposedContext, ...]
    user_information: UserInformation
    application_context_name: str = APPLICATION_CONTEXT_NAME
    protocol_version: int = 1
    reserved: bytes = _RESERVED
    ae_title_fields: bytes = b""

    def encode(self) -> bytes:
        """The PDU as sent; raises `LocalProtocolError` for what it cannot hold."""
        return _associate(self, A_ASSOCIATE_RQ)


class AAssociateAC(NamedTuple):
    """A-ASSOCIATE-AC (PS3.8 9.3.3). Its AE titles are those of the request and mean nothing."""

    called_ae_title: str
    calling_ae_title: str
    presentation_contexts: tuple[ContextResult, ...]
    user_information: UserInformation
    application_context_name: str = APPLICATION_CONTEXT_NAME
    protocol_version: int = 1
    reserved: bytes = _RESERVED
    ae_title_fields: bytes = b""

    def encode(self) -> bytes:
        """The PDU as sent; raises `LocalProtocolError` for what it cannot hold."""
        return _associate(self, A_ASSOCIATE_AC)


class AAssociateRJ(NamedTuple):
    """A-ASSOCIATE-RJ (PS3.8 9.3.4), with the numbers of Table 9-21."""

    result: int
    source: int
    reason: int

    def encode(self) -> bytes:
        """The PDU as sent."""
        return encoder.pdu(A_ASSOCIATE_RJ, bytes((0, self.result, self.source, self.reason)))


class AAbort(NamedTuple):
    """A-ABORT (PS3.8 9.3.8): source 0 is the service user, 2 the provider; a reason only from a provider."""

    source: int
    reason: int

    def encode(self) -> bytes:
        """The PDU as sent."""
        return encoder.pdu(A_ABORT, bytes((0, 0, self.source, self.reason)))


class _Release:
    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self)

    def __hash__(self) -> int:
        return hash(type(self))

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class AReleaseRQ(_Release):
    """A-RELEASE-RQ (PS3.8 9.3.6)."""

    __slots__ = ()

    def encode(self) -> bytes:
        """The PDU as sent."""
        return encoder.pdu(A_RELEASE_RQ, bytes(4))


class AReleaseRP(_Release):
    """A-RELEASE-RP (PS3.8 9.3.7)."""

    __slots__ = ()

    def encode(self) -> bytes:
        """The PDU as sent."""
        return encoder.pdu(A_RELEASE_RP, bytes(4))


PDU = AAssociateRQ | AAssociateAC | AAssociateRJ | AReleaseRQ | AReleaseRP | AAbort


def decode_pdu(pdu_type: int, body: bytes | memoryview) -> PDU:
    """Read a PDU of this type from its body (all but the 6 bytes of its header).

    P-DATA-TF is none of them: `ul.decoder` takes it apart while it comes. Raises `RemoteProtocolError` for a
    type that does not exist or a body that cannot be read.
    """
    body = bytes(body)
    match pdu_type:
        case 0x01:
            return AAssociateRQ(
                *_associate_fields(body, items.PROPOSED_CONTEXT, items.decode_proposed_context)
            )
        case 0x02:
            return AAssociateAC(*_associate_fields(body, items.CONTEXT_RESULT, items.decode_context_result))
        case 0x03:
            _expect_four(pdu_type, body)
            return AAssociateRJ(body[1], body[2], body[3])
        case 0x05:
            _expect_four(pdu_type, body)
            return AReleaseRQ()
        case 0x06:
            _expect_four(pdu_type, body)
            return AReleaseRP()
        case 0x07:
            # An abort is an abort, whatever its length.
            source, reason = body[2:4] if len(body) >= 4 else (0, 0)
            return AAbort(source, reason)
    raise RemoteProtocolError(f"unrecognized PDU type {pdu_type:02X}H", reason=1)


def _expect_four(pdu_type: int, body: bytes) -> None:
    if len(body) != 4:
        raise RemoteProtocolError(f"{NAMES[pdu_type]} with a length of {len(body)}, not 4")


Context = TypeVar("Context", ProposedContext, ContextResult)
_Fields = tuple[str, str, tuple[Context, ...], UserInformation, str, int, bytes, bytes]


def _associate_fields(
    body: bytes, context_type: int, decode_context: Callable[[Cursor], Context]
) -> _Fields[Context]:
    """The fields of both A-ASSOCIATE PDUs in the order of their attributes; items may come in any order."""
    if len(body) < ASSOCIATE_FIXED_LENGTH:
        raise RemoteProtocolError(f"A-ASSOCIATE of {len(body)} bytes, shorter than its fixed part")
    items.check_number(body, ASSOCIATE_FIXED_LENGTH)
    version, _, titles, reserved = _FIXED.unpack_from(body)
    contexts: dict[int, Context] = {}
    application_context_name: str | None = None
    user_information: UserInformation | None = None
    for item_type, value in Cursor(body, ASSOCIATE_FIXED_LENGTH).items():
        if item_type == items.APPLICATION_CONTEXT:
            if application_context_name is not None:
                raise RemoteProtocolError("two Application Context items")
            application_context_name = items.text(value.rest())
        elif item_type == context_type:
            context = decode_context(value)
            if context.context_id in contexts or len(contexts) == MAXIMUM_CONTEXTS:
                raise RemoteProtocolError("two presentation contexts with the same ID, or more than 128")
            contexts[context.context_id] = context
        elif item_type == items.USER_INFORMATION:
            if user_information is not None:
                raise RemoteProtocolError("two User Information items")
            user_information = items.decode_user_information(value)
    return (
        ae_title(titles[:16]),
        ae_title(titles[16:]),
        tuple(contexts.values()),
        user_information or UserInformation(),
        application_context_name or "",
        version,
        reserved,
        titles,
    )
