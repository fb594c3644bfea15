"""Items and sub-items of the A-ASSOCIATE PDUs (PS3.8 9.3.2, 9.3.3 and Annex D; PS3.7 Annex D.3.3).

Every item is a type, a reserved byte, a 2-byte length and a value. What cannot be read raises
`RemoteProtocolError`; what can be read but not be agreed to (an even context ID, no transfer
syntax) is returned as it is, for `negotiation` to answer.
"""

# No `from __future__ import annotations`: each field that is text costs a NamedTuple a compilation.

from collections.abc import Iterable, Iterator
from functools import lru_cache
from struct import Struct
from typing import NamedTuple

from asyncdicom.exceptions import LocalProtocolError, RemoteProtocolError

APPLICATION_CONTEXT = 0x10
PROPOSED_CONTEXT = 0x20
CONTEXT_RESULT = 0x21
ABSTRACT_SYNTAX = 0x30
TRANSFER_SYNTAX = 0x40
USER_INFORMATION = 0x50
MAXIMUM_LENGTH = 0x51
IMPLEMENTATION_CLASS_UID = 0x52
OPERATIONS_WINDOW = 0x53
ROLE_SELECTION = 0x54
IMPLEMENTATION_VERSION_NAME = 0x55
EXTENDED_NEGOTIATION = 0x56
COMMON_EXTENDED_NEGOTIATION = 0x57
USER_IDENTITY = 0x58
USER_IDENTITY_RESPONSE = 0x59

MAXIMUM_TRANSFER_SYNTAXES = 64  # kept of one proposed context; the rest is skipped
MAXIMUM_USER_SUB_ITEMS = 512
MAXIMUM_RELATED = 16  # kept of the Related General SOP Classes of one sub-item; the rest is skipped
MAXIMUM_ITEMS = 12_000  # items and sub-items of one PDU: 128 contexts of 64 transfer syntaxes are 8,448
_SHARED = 64  # bytes: the longest text that is kept for the next association

_HEADER = Struct(">BxH")
_U16 = Struct(">H")
_U16_PAIR = Struct(">HH")
_U32 = Struct(">I")


class Cursor:
    """Reads forward through bytes and never past its end; `sub` gives a child bound within its parent."""

    __slots__ = ("_data", "_end", "_position")

    def __init__(self, data: bytes, position: int = 0, end: int | None = None) -> None:
        self._data = data
        self._position = position
        self._end = len(data) if end is None else end

    @property
    def remaining(self) -> int:
        """How many bytes are left."""
        return self._end - self._position

    def _advance(self, length: int) -> int:
        start = self._position
        if length > self._end - start:
            raise RemoteProtocolError(f"an item of {length} bytes where only {self._end - start} are left")
        self._position = start + length
        return start

    def u8(self) -> int:
        """The next byte."""
        return self._data[self._advance(1)]

    def u16(self) -> int:
        """The next two bytes, big endian."""
        value: int = _U16.unpack_from(self._data, self._advance(2))[0]
        return value

    def u32(self) -> int:
        """The next four bytes, big endian."""
        value: int = _U32.unpack_from(self._data, self._advance(4))[0]
        return value

    def take(self, length: int) -> bytes:
        """The next `length` bytes."""
        start = self._advance(length)
        return self._data[start : start + length]

    def rest(self) -> bytes:
        """All bytes that are left."""
        return self.take(self.remaining)

    def sub(self, length: int) -> "Cursor":
        """A cursor over the next `length` bytes, which are skipped here."""
        start = self._advance(length)
        return Cursor(self._data, start, start + length)

    def values(self) -> Iterator[tuple[int, bytes]]:
        """The (type, value) of all items that are left, as `items` but without a cursor for each."""
        data, position, end = self._data, self._position, self._end
        while end - position >= _HEADER.size:
            item_type, length = _HEADER.unpack_from(data, position)
            position += _HEADER.size
            if length > end - position:
                raise RemoteProtocolError(f"an item of {length} bytes where only {end - position} are left")
            yield item_type, data[position : position + length]
            position += length
        if any(data[position:end]):
            raise RemoteProtocolError("stray bytes after the last item")

    def items(self) -> Iterator[tuple[int, "Cursor"]]:
        """The (type, value) of all items that are left. Up to three zero bytes of padding may follow them."""
        while self.remaining:
            if self.remaining < _HEADER.size:
                if any(self.rest()):
                    raise RemoteProtocolError("stray bytes after the last item")
                return
            item_type, length = _HEADER.unpack(self.take(_HEADER.size))
            yield item_type, self.sub(length)


def text(data: bytes) -> str:
    """A UID or name as sent, without the NUL or space padding some peers add (never fails).

    The same few UIDs come with every association, which share one string as long as it is remembered. What a
    peer sent must never be interned: in Python 3.12 that is for good.
    """
    return _shared_text(data) if len(data) <= _SHARED else data.decode("latin-1").strip("\0 ")


@lru_cache(1024)
def _shared_text(data: bytes) -> str:
    return data.decode("latin-1").strip("\0 ")


# The items that have sub-items, and how many bytes stand before these.
_NESTING = {PROPOSED_CONTEXT: 4, CONTEXT_RESULT: 4, USER_INFORMATION: 0}


def check_number(data: bytes, position: int) -> None:
    """Raise `RemoteProtocolError` for more than `MAXIMUM_ITEMS` items and sub-items in what follows.

    A PDU of 256 KiB has room for 65,000 empty items: they are counted before anything is made of them.
    """
    unpack, end = _HEADER.unpack_from, len(data)
    left = MAXIMUM_ITEMS
    while position + 4 <= end and left >= 0:
        item_type, length = unpack(data, position)
        position += 4
        left -= 1
        stop = min(position + length, end)
        if item_type in _NESTING:
            position += _NESTING[item_type]
            while position + 4 <= stop and left >= 0:
                position += 4 + unpack(data, position)[1]
                left -= 1
        position = stop
    if left < 0:
        raise RemoteProtocolError(f"more than {MAXIMUM_ITEMS} items and sub-items in one PDU")


def item(item_type: int, value: bytes) -> bytes:
    """One encoded item; raises `LocalProtocolError` if its length does not fit the 16 bits it has."""
    if len(value) > 0xFFFF:
        raise LocalProtocolError(f"item {item_type:02X}H cannot hold {len(value)} bytes (at most 65535)")
    return _HEADER.pack(item_type, len(value)) + value


def uid_bytes(uid: str) -> bytes:
    """The characters of a UID, never padded (PS3.8 Annex F); whatever `text` read can be written again."""
    try:
        return uid.encode("latin-1")
    except UnicodeEncodeError:
        raise LocalProtocolError(f"not a UID: {uid!r}") from None


def _counted(value: bytes) -> bytes:
    if len(value) > 0xFFFF:
        raise LocalProtocolError(f"a field of {len(value)} bytes cannot be encoded (at most 65535)")
    return _U16.pack(len(value)) + value


class ProposedContext(NamedTuple):
    """A presentation context as the requestor proposes it (PS3.8 9.3.2.2).

    `abstract_syntax` is empty where the peer sent none, or more than one.
    """

    context_id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]

    def encode(self) -> bytes:
        """The item as sent."""
        parts = [bytes((self.context_id, 0, 0, 0)), item(ABSTRACT_SYNTAX, uid_bytes(self.abstract_syntax))]
        parts += [item(TRANSFER_SYNTAX, uid_bytes(uid)) for uid in self.transfer_syntaxes]
        return item(PROPOSED_CONTEXT, b"".join(parts))


class ContextResult(NamedTuple):
    """The acceptor's answer to one proposed context (PS3.8 9.3.3.2): 0 is acceptance.

    `transfer_syntax` is None where the peer sent none, or more than one; it means nothing unless accepted.
    """

    context_id: int
    result: int
    transfer_syntax: str | None = None

    def encode(self) -> bytes:
        """The item as sent; a rejected context has its transfer syntax sub-item too, not significant."""
        value = item(TRANSFER_SYNTAX, uid_bytes(self.transfer_syntax or ""))
        return item(CONTEXT_RESULT, bytes((self.context_id, 0, self.result, 0)) + value)


class RoleSelection(NamedTuple):
    """SCP/SCU Role Selection (PS3.7 D.3.3.4): the roles of the *requestor* for one SOP class."""

    sop_class_uid: str
    scu_role: bool
    scp_role: bool

    def encode(self) -> bytes:
        """The sub-item as sent."""
        return item(
            ROLE_SELECTION, _counted(uid_bytes(self.sop_class_uid)) + bytes((self.scu_role, self.scp_role))
        )


class ExtendedNegotiation(NamedTuple):
    """SOP Class Extended Negotiation (PS3.7 D.3.3.5); the information is the service class's."""

    sop_class_uid: str
    information: bytes

    def encode(self) -> bytes:
        """The sub-item as sent."""
        return item(EXTENDED_NEGOTIATION, _counted(uid_bytes(self.sop_class_uid)) + self.information)


class CommonExtendedNegotiation(NamedTuple):
    """SOP Class Common Extended Negotiation (PS3.7 D.3.3.6)."""

    sop_class_uid: str
    service_class_uid: str
    related_general_sop_class_uids: tuple[str, ...] = ()

    def encode(self) -> bytes:
        """The sub-item as sent."""
        related = b"".join(_counted(uid_bytes(uid)) for uid in self.related_general_sop_class_uids)
        fields = (uid_bytes(self.sop_class_uid), uid_bytes(self.service_class_uid), related)
        return item(COMMON_EXTENDED_NEGOTIATION, b"".join(map(_counted, fields)))


class UserIdentity(NamedTuple):
    """User Identity (PS3.7 D.3.3.7): 1 name, 2 name and passcode, 3 Kerberos, 4 SAML, 5 JWT."""

    type: int
    primary: bytes
    secondary: bytes = b""
    positive_response_requested: bool = False

    def __repr__(self) -> str:
        """Without the credentials: this ends up in logs."""
        return f"UserIdentity(type={self.type}, <{len(self.primary)} and {len(self.secondary)} bytes>)"

    def encode(self) -> bytes:
        """The sub-item as sent."""
        head = bytes((self.type, self.positive_response_requested))
        return item(USER_IDENTITY, head + _counted(self.primary) + _counted(self.secondary))


class UserInformation(NamedTuple):
    """The User Information item (PS3.8 9.3.2.3). `operations_window` is (invoked, performed)."""

    maximum_length: int = 0
    implementation_class_uid: str | None = None
    implementation_version_name: str | None = None
    operations_window: tuple[int, int] | None = None
    role_selections: tuple[RoleSelection, ...] = ()
    extended_negotiations: tuple[ExtendedNegotiation, ...] = ()
    common_extended_negotiations: tuple[CommonExtendedNegotiation, ...] = ()
    user_identity: UserIdentity | None = None
    user_identity_response: bytes | None = None

    def encode(self) -> bytes:
        """The item as sent, its sub-items in increasing order of their types (PS3.8 9.3.1)."""
        parts = [item(MAXIMUM_LENGTH, _U32.pack(self.maximum_length))]
        if self.implementation_class_uid is not None:
            parts.append(item(IMPLEMENTATION_CLASS_UID, uid_bytes(self.implementation_class_uid)))
        if self.operations_window is not None:
            parts.append(item(OPERATIONS_WINDOW, _U16_PAIR.pack(*self.operations_window)))
        parts += [role.encode() for role in self.role_selections]
        if self.implementation_version_name is not None:
            name = self.implementation_version_name.encode("latin-1", "replace")[:16]
            parts.append(item(IMPLEMENTATION_VERSION_NAME, name))
        parts += [negotiation.encode() for negotiation in self.extended_negotiations]
        parts += [negotiation.encode() for negotiation in self.common_extended_negotiations]
        if self.user_identity is not None:
            parts.append(self.user_identity.encode())
        if self.user_identity_response is not None:
            parts.append(item(USER_IDENTITY_RESPONSE, _counted(self.user_identity_response)))
        return item(USER_INFORMATION, b"".join(parts))


def _only(values: Iterable[str]) -> str | None:
    """The one value there is; None if there is none, or if there are several and none can be preferred."""
    found = list(values)
    return found[0] if len(found) == 1 else None


def decode_proposed_context(cursor: Cursor) -> ProposedContext:
    """Read the value of a 20H item; of 64 transfer syntaxes and more only the first 64 are kept."""
    context_id = cursor.u8()
    cursor.take(3)
    abstract_syntaxes: list[str] = []
    transfer_syntaxes: list[str] = []
    for item_type, value in cursor.values():
        if item_type == ABSTRACT_SYNTAX:
            abstract_syntaxes.append(text(value))
        elif item_type == TRANSFER_SYNTAX and len(transfer_syntaxes) < MAXIMUM_TRANSFER_SYNTAXES:
            transfer_syntaxes.append(text(value))
    return ProposedContext(context_id, _only(abstract_syntaxes) or "", tuple(transfer_syntaxes))


def decode_context_result(cursor: Cursor) -> ContextResult:
    """Read the value of a 21H item. The sub-items of a rejected context are not tested (Table 9-18)."""
    context_id = cursor.u8()
    cursor.take(1)
    result = cursor.u8()
    cursor.take(1)
    if result:
        return ContextResult(context_id, result)
    syntaxes = (text(value) for item_type, value in cursor.values() if item_type == TRANSFER_SYNTAX)
    return ContextResult(context_id, result, _only(syntaxes))


def _role_selection(cursor: Cursor) -> RoleSelection:
    return RoleSelection(text(cursor.take(cursor.u16())), bool(cursor.u8()), bool(cursor.u8()))


def _extended(cursor: Cursor) -> ExtendedNegotiation:
    return ExtendedNegotiation(text(cursor.take(cursor.u16())), cursor.rest())


def _common_extended(cursor: Cursor) -> CommonExtendedNegotiation:
    sop_class_uid = text(cursor.take(cursor.u16()))
    service_class_uid = text(cursor.take(cursor.u16()))
    related = cursor.sub(cursor.u16())
    uids: list[str] = []
    while related.remaining and len(uids) < MAXIMUM_RELATED:
        uids.append(text(related.take(related.u16())))
    return CommonExtendedNegotiation(sop_class_uid, service_class_uid, tuple(uids))


def _user_identity(cursor: Cursor) -> UserIdentity:
    identity_type = cursor.u8()
    positive_response_requested = bool(cursor.u8())
    primary = cursor.take(cursor.u16())
    return UserIdentity(identity_type, primary, cursor.take(cursor.u16()), positive_response_requested)


def _maximum_length(cursor: Cursor) -> int:
    if cursor.remaining != 4:
        raise RemoteProtocolError(f"a Maximum Length sub-item of {cursor.remaining} bytes, not 4")
    return cursor.u32()


def decode_user_information(cursor: Cursor) -> UserInformation:
    """Read the value of a 50H item. Sub-items that are not known are skipped (PS3.8 D.2)."""
    information = UserInformation()
    roles: list[RoleSelection] = []
    extended: list[ExtendedNegotiation] = []
    common: list[CommonExtendedNegotiation] = []
    for count, (item_type, value) in enumerate(cursor.items()):
        if count >= MAXIMUM_USER_SUB_ITEMS:
            raise RemoteProtocolError(f"more than {MAXIMUM_USER_SUB_ITEMS} user information sub-items")
        match item_type:
            case 0x51:
                information = information._replace(maximum_length=_maximum_length(value))
            case 0x52:
                information = information._replace(implementation_class_uid=text(value.rest()))
            case 0x53:
                information = information._replace(operations_window=(value.u16(), value.u16()))
            case 0x54:
                roles.append(_role_selection(value))
            case 0x55:
                information = information._replace(implementation_version_name=text(value.rest()[:16]))
            case 0x56:
                extended.append(_extended(value))
            case 0x57:
                common.append(_common_extended(value))
            case 0x58:
                if information.user_identity is not None:
                    raise RemoteProtocolError("two User Identity sub-items")
                information = information._replace(user_identity=_user_identity(value))
            case 0x59:
                information = information._replace(user_identity_response=value.take(value.u16()))
    return information._replace(
        role_selections=tuple(roles),
        extended_negotiations=tuple(extended),
        common_extended_negotiations=tuple(common),
    )
