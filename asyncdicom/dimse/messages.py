"""The 23 DIMSE messages of PS3.7 9.3 and 10.3: which fields each has, and their encoding.

`FIELDS` is Table E.1-1 and `MESSAGES` are the tables of 9.3 and 10.3; the codec follows them.
What we send is held to the tables. What we read needs only as much as makes a message answerable, since
the field is full of peers that leave out the rest.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from functools import lru_cache
from typing import Any, NamedTuple

from asyncdicom.dimse.command import (
    READ_VR,
    WRITE_VR,
    Read,
    Write,
    decode_elements,
    encode_element,
    join_elements,
    read_us,
)
from asyncdicom.exceptions import LocalProtocolError, RemoteProtocolError

__all__ = [
    "FIELDS",
    "MESSAGES",
    "NO_DATA_SET",
    "Command",
    "CommandField",
    "MessageType",
    "Priority",
    "decode",
    "encode",
    "response_to",
]


class CommandField(IntEnum):
    """Command Field (0000,0100): which message this is (PS3.7 E.1)."""

    C_STORE_RQ = 0x0001
    C_STORE_RSP = 0x8001
    C_GET_RQ = 0x0010
    C_GET_RSP = 0x8010
    C_FIND_RQ = 0x0020
    C_FIND_RSP = 0x8020
    C_MOVE_RQ = 0x0021
    C_MOVE_RSP = 0x8021
    C_ECHO_RQ = 0x0030
    C_ECHO_RSP = 0x8030
    N_EVENT_REPORT_RQ = 0x0100
    N_EVENT_REPORT_RSP = 0x8100
    N_GET_RQ = 0x0110
    N_GET_RSP = 0x8110
    N_SET_RQ = 0x0120
    N_SET_RSP = 0x8120
    N_ACTION_RQ = 0x0130
    N_ACTION_RSP = 0x8130
    N_CREATE_RQ = 0x0140
    N_CREATE_RSP = 0x8140
    N_DELETE_RQ = 0x0150
    N_DELETE_RSP = 0x8150
    C_CANCEL_RQ = 0x0FFF


class Priority(IntEnum):
    """Priority (0000,0700) of a C-STORE, C-FIND, C-GET or C-MOVE request."""

    MEDIUM = 0x0000
    HIGH = 0x0001
    LOW = 0x0002


NO_DATA_SET = 0x0101
"""The one value of Command Data Set Type (0000,0800) that says: no Data Set follows."""

_DATA_SET_FOLLOWS = 0x0001  # any other value would do


# PS3.7 E.1: attribute of Command -> (tag, VR).
FIELDS: dict[str, tuple[int, str]] = {
    "affected_sop_class_uid": (0x00000002, "UI"),
    "requested_sop_class_uid": (0x00000003, "UI"),
    "command_field": (0x00000100, "US"),
    "message_id": (0x00000110, "US"),
    "message_id_being_responded_to": (0x00000120, "US"),
    "move_destination": (0x00000600, "AE"),
    "priority": (0x00000700, "US"),
    "has_data_set": (0x00000800, "US"),  # Command Data Set Type
    "status": (0x00000900, "US"),
    "offending_element": (0x00000901, "AT"),
    "error_comment": (0x00000902, "LO"),
    "error_id": (0x00000903, "US"),
    "affected_sop_instance_uid": (0x00001000, "UI"),
    "requested_sop_instance_uid": (0x00001001, "UI"),
    "event_type_id": (0x00001002, "US"),
    "attribute_identifier_list": (0x00001005, "AT"),
    "action_type_id": (0x00001008, "US"),
    "number_of_remaining_sub_operations": (0x00001020, "US"),
    "number_of_completed_sub_operations": (0x00001021, "US"),
    "number_of_failed_sub_operations": (0x00001022, "US"),
    "number_of_warning_sub_operations": (0x00001023, "US"),
    "move_originator_ae_title": (0x00001030, "AE"),
    "move_originator_message_id": (0x00001031, "US"),
}


class MessageType(NamedTuple):
    """One message of PS3.7: its name, its fields, and whether a Data Set goes with it.

    `required` and `optional` leave out Command Field and Command Data Set Type, which all messages have.
    `data_set` is "M" (mandatory), "U" (optional or conditional) or "" (PS3.7 gives the message none).
    """

    name: str
    required: tuple[str, ...]
    optional: tuple[str, ...]
    data_set: str

    @property
    def may_have_data(self) -> bool:
        """Whether PS3.7 lets a Data Set follow this message."""
        return self.data_set != ""


_RESPONSE = ("message_id_being_responded_to", "status")
_C_ERROR = ("offending_element", "error_comment", "error_id")  # PS3.7 Annex C
_N_ERROR = (*_C_ERROR, "attribute_identifier_list")
_AFFECTED = ("affected_sop_class_uid", "affected_sop_instance_uid")
_REQUESTED = ("requested_sop_class_uid", "requested_sop_instance_uid")
_MOVE_ORIGINATOR = ("move_originator_ae_title", "move_originator_message_id")
_SUB_OPERATIONS = (
    "number_of_remaining_sub_operations",
    "number_of_completed_sub_operations",
    "number_of_failed_sub_operations",
    "number_of_warning_sub_operations",
)
_QUERY = ("affected_sop_class_uid", "message_id", "priority")

# fmt: off
MESSAGES: dict[CommandField, MessageType] = {
    # PS3.7 9.3: DIMSE-C.
    CommandField.C_STORE_RQ: MessageType(
        "C-STORE-RQ", (*_AFFECTED, "message_id", "priority"), _MOVE_ORIGINATOR, "M"
    ),
    CommandField.C_STORE_RSP: MessageType("C-STORE-RSP", _RESPONSE, (*_AFFECTED, *_C_ERROR), ""),
    CommandField.C_FIND_RQ: MessageType("C-FIND-RQ", _QUERY, (), "M"),
    CommandField.C_FIND_RSP: MessageType("C-FIND-RSP", _RESPONSE, ("affected_sop_class_uid", *_C_ERROR), "U"),
    CommandField.C_GET_RQ: MessageType("C-GET-RQ", _QUERY, (), "M"),
    CommandField.C_GET_RSP: MessageType(
        "C-GET-RSP", _RESPONSE, ("affected_sop_class_uid", *_SUB_OPERATIONS, *_C_ERROR), "U"
    ),
    CommandField.C_MOVE_RQ: MessageType("C-MOVE-RQ", (*_QUERY, "move_destination"), (), "M"),
    CommandField.C_MOVE_RSP: MessageType(
        "C-MOVE-RSP", _RESPONSE, ("affected_sop_class_uid", *_SUB_OPERATIONS, *_C_ERROR), "U"
    ),
    CommandField.C_ECHO_RQ: MessageType("C-ECHO-RQ", ("affected_sop_class_uid", "message_id"), (), ""),
    CommandField.C_ECHO_RSP: MessageType("C-ECHO-RSP", _RESPONSE, ("affected_sop_class_uid", *_C_ERROR), ""),
    CommandField.C_CANCEL_RQ: MessageType("C-CANCEL-RQ", ("message_id_being_responded_to",), (), ""),
    # PS3.7 10.3: DIMSE-N.
    CommandField.N_EVENT_REPORT_RQ: MessageType(
        "N-EVENT-REPORT-RQ", (*_AFFECTED, "message_id", "event_type_id"), (), "U"
    ),
    CommandField.N_EVENT_REPORT_RSP: MessageType(
        "N-EVENT-REPORT-RSP", _RESPONSE, (*_AFFECTED, "event_type_id", *_N_ERROR), "U"
    ),
    CommandField.N_GET_RQ: MessageType(
        "N-GET-RQ", (*_REQUESTED, "message_id"), ("attribute_identifier_list",), ""
    ),
    CommandField.N_GET_RSP: MessageType("N-GET-RSP", _RESPONSE, (*_AFFECTED, *_N_ERROR), "U"),
    CommandField.N_SET_RQ: MessageType("N-SET-RQ", (*_REQUESTED, "message_id"), (), "M"),
    CommandField.N_SET_RSP: MessageType("N-SET-RSP", _RESPONSE, (*_AFFECTED, *_N_ERROR), "U"),
    CommandField.N_ACTION_RQ: MessageType(
        "N-ACTION-RQ", (*_REQUESTED, "message_id", "action_type_id"), (), "U"
    ),
    CommandField.N_ACTION_RSP: MessageType(
        "N-ACTION-RSP", _RESPONSE, (*_AFFECTED, "action_type_id", *_N_ERROR), "U"
    ),
    CommandField.N_CREATE_RQ: MessageType(
        "N-CREATE-RQ", ("affected_sop_class_uid", "message_id"), ("affected_sop_instance_uid",), "U"
    ),
    CommandField.N_CREATE_RSP: MessageType("N-CREATE-RSP", _RESPONSE, (*_AFFECTED, *_N_ERROR), "U"),
    CommandField.N_DELETE_RQ: MessageType("N-DELETE-RQ", (*_REQUESTED, "message_id"), (), ""),
    CommandField.N_DELETE_RSP: MessageType("N-DELETE-RSP", _RESPONSE, (*_AFFECTED, *_N_ERROR), ""),
}
# fmt: on


class Command:
    """The Command Set of one message: `Command(CommandField.C_ECHO_RQ, message_id=1, ...)`.

    The attributes are the fields of group 0000; None where a message has not got the field. UIDs and AE
    titles are without padding, tags are ints 0xGGGGEEEE, `status` is the bare number, and
    `has_data_set` stands for Command Data Set Type: whether a Data Set follows.
    """

    command_field: CommandField
    message_id: int | None = None
    message_id_being_responded_to: int | None = None
    affected_sop_class_uid: str | None = None
    affected_sop_instance_uid: str | None = None
    requested_sop_class_uid: str | None = None
    requested_sop_instance_uid: str | None = None
    priority: int | None = None
    move_destination: str | None = None
    move_originator_ae_title: str | None = None
    move_originator_message_id: int | None = None
    event_type_id: int | None = None
    action_type_id: int | None = None
    attribute_identifier_list: tuple[int, ...] | None = None
    has_data_set: bool = False
    status: int | None = None
    offending_element: tuple[int, ...] | None = None
    error_comment: str | None = None
    error_id: int | None = None
    number_of_remaining_sub_operations: int | None = None
    number_of_completed_sub_operations: int | None = None
    number_of_failed_sub_operations: int | None = None
    number_of_warning_sub_operations: int | None = None

    def __init__(self, command_field: CommandField, **fields: Any) -> None:
        # Only what is given is stored; the rest is None in the class. So small messages stay cheap.
        self.__dict__ = values = {"command_field": command_field, "has_data_set": False}
        for name, value in fields.items():
            if name not in FIELDS:
                raise TypeError(f"a Command Set has no {name!r}")
            if value is not None:
                values[name] = value

    @property
    def name(self) -> str:
        """The standard's name of the message: "C-STORE-RQ"."""
        return MESSAGES[self.command_field].name

    @property
    def is_response(self) -> bool:
        """Whether this answers a request (bit 15 of Command Field)."""
        return self.command_field >= 0x8000

    @property
    def is_request(self) -> bool:
        """Whether this is a request; C-CANCEL-RQ is one, though nothing answers it."""
        return self.command_field < 0x8000

    def __eq__(self, other: object) -> bool:
        return self.__dict__ == other.__dict__ if isinstance(other, Command) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # it can be changed

    def __repr__(self) -> str:
        fields = [f"{k}={v!r}" for k, v in self.__dict__.items() if k != "command_field" and v is not None]
        return f"<{self.name} {', '.join(fields)}>"


_COMMAND_FIELDS = {int(field): field for field in CommandField}
_PRIORITIES = {int(priority): priority for priority in Priority}


def _write_data_set_type(value: bool) -> bytes:
    return WRITE_VR["US"](_DATA_SET_FOLLOWS if value else NO_DATA_SET)


def _read_data_set_type(raw: bytes) -> bool:
    return read_us(raw) != NO_DATA_SET


def _read_command_field(raw: bytes) -> CommandField | None:
    return _COMMAND_FIELDS.get(read_us(raw))


def _read_priority(raw: bytes) -> Priority:
    return _PRIORITIES.get(read_us(raw), Priority.MEDIUM)


def _read_count(raw: bytes) -> int | None:
    """A number of sub-operations only informs; some peers send several values or none: take the first."""
    return read_us(raw[:2]) if raw else None


_WRITE_FIELD: dict[str, Write] = {"has_data_set": _write_data_set_type}
_READ_FIELD: dict[str, Read] = {
    "command_field": lru_cache(256)(_read_command_field),
    "priority": lru_cache(256)(_read_priority),
    "has_data_set": lru_cache(256)(_read_data_set_type),
    **dict.fromkeys(_SUB_OPERATIONS, _read_count),
}


class _Row(NamedTuple):
    name: str
    write: Write  # the whole element, or nothing where the value is empty
    required: bool


_LONGEST_UID = 64  # characters
# What many messages have alike is encoded once.
_ALIKE = {"command_field", "has_data_set", "priority", "status", "affected_sop_class_uid"}


def _element_writer(name: str) -> Write:
    tag, vr = FIELDS[name]
    write = _WRITE_FIELD.get(name, WRITE_VR[vr])

    def write_element(value: Any) -> bytes:
        raw = write(value)
        return encode_element(tag, raw) if raw else b""

    if name not in _ALIKE:
        return write_element
    cached = lru_cache(1024)(write_element)
    if vr != "UI":
        return cached
    # A peer that names its SOP class with 64 KiB must not have that remembered a thousand times.
    return lambda value: cached(value) if len(value) <= _LONGEST_UID else write_element(value)


_WRITERS = {name: _element_writer(name) for name in FIELDS}


def _rows(message: MessageType) -> tuple[_Row, ...]:
    """The fields of a message in the order in which they are encoded."""
    required = {*message.required, "command_field", "has_data_set"}
    return tuple(
        _Row(name, _WRITERS[name], name in required)
        for name in FIELDS
        if name in required or name in message.optional
    )


_ROWS = {field: _rows(message) for field, message in MESSAGES.items()}
_READERS = {tag: (name, _READ_FIELD.get(name, READ_VR[vr])) for name, (tag, vr) in FIELDS.items()}
# What makes a message answerable, or an answer of use: reading insists on no more than these.
_INDISPENSABLE = {
    field: tuple(name for name in ("message_id", *_RESPONSE) if name in message.required)
    for field, message in MESSAGES.items()
}
_WITH_PRIORITY = frozenset(field for field, message in MESSAGES.items() if "priority" in message.required)


def _echoes(request: MessageType, response: MessageType) -> list[tuple[str, str]]:
    """What a response repeats, as (its attribute, that of the request); some peers insist on the optional."""
    echoes = []
    for name in (*_AFFECTED, "event_type_id", "action_type_id"):
        requested = name.replace("affected", "requested")
        if name in response.optional:
            echoes.append((name, requested if requested in request.required else name))
    return echoes


_RESPONSES = {
    field: (_COMMAND_FIELDS[field | 0x8000], _echoes(message, MESSAGES[_COMMAND_FIELDS[field | 0x8000]]))
    for field, message in MESSAGES.items()
    if field | 0x8000 in _COMMAND_FIELDS and field < 0x8000
}


def encode(command: Command) -> bytes:
    """Encode a Command Set; `error_comment` is cut to what an LO can hold.

    Raises LocalProtocolError where a field is missing, is not one of this message, or does not fit its VR.
    """
    values = command.__dict__
    if None in values.values():
        values = {name: value for name, value in values.items() if value is not None}
    elements = []
    for name, write, required in _plan(command.command_field, tuple(values)):
        try:
            element = write(values[name])
        except (struct.error, ValueError, TypeError) as error:
            raise LocalProtocolError(f"{command.name}: {name} cannot be {values[name]!r}: {error}") from None
        if element:
            elements.append(element)
        elif required:
            raise LocalProtocolError(f"{command.name} needs {name}")
    data_set = MESSAGES[command.command_field].data_set
    if command.has_data_set:
        if not data_set:
            raise LocalProtocolError(f"PS3.7 gives {command.name} no Data Set")
    elif data_set == "M":
        raise LocalProtocolError(f"{command.name} needs a Data Set")
    return join_elements(elements)


@lru_cache(1024)
def _plan(field: CommandField, names: tuple[str, ...]) -> tuple[_Row, ...]:
    """Give the rows of a message that has these fields: many are sent, with few different sets of them.

    Raises LocalProtocolError for a field that is missing, and for one that is not of this message.
    """
    rows = _ROWS[field]
    missing = [row.name for row in rows if row.required and row.name not in names]
    if missing:
        raise LocalProtocolError(f"{MESSAGES[field].name} needs {missing[0]}")
    own = {row.name for row in rows}
    others = [name for name in names if name not in own]
    if others:
        raise LocalProtocolError(f"{MESSAGES[field].name} has no {', '.join(others)}")
    return tuple(row for row in rows if row.name in names)


def decode(data: bytes) -> Command:
    """Decode a Command Set as tolerantly as is safe.

    A missing or unknown Priority becomes MEDIUM, several numbers of sub-operations become the first, elements
    that PS3.7 does not define are passed over, and so is the absence of all that is not needed to answer.
    Raises RemoteProtocolError for the rest.
    """
    values: dict[str, Any] = {}
    elements = decode_elements(data)
    find = _READERS.get
    for tag, raw in elements.items():
        reader = find(tag)
        if reader is None:
            continue
        name, read = reader
        try:
            value = read(raw)
        except struct.error:
            raise RemoteProtocolError(f"Command Set: {name} of {len(raw)} bytes") from None
        if value is not None:
            values[name] = value
    field = values.get("command_field")
    if field is None:
        unknown = elements.get(FIELDS["command_field"][0])
        what = f"of unknown Command Field {read_us(unknown):04X}H" if unknown else "without Command Field"
        raise RemoteProtocolError(f"Command Set {what}")
    if "has_data_set" not in values:
        raise RemoteProtocolError(f"{MESSAGES[field].name} without Command Data Set Type")
    for name in _INDISPENSABLE[field]:
        if name not in values:
            raise RemoteProtocolError(f"{MESSAGES[field].name} without {name}")
    if field in _WITH_PRIORITY and "priority" not in values:
        values["priority"] = Priority.MEDIUM
    return _made_of(values)


def _made_of(values: dict[str, Any]) -> Command:
    """Make a command of fields that are known to be some."""
    command = Command.__new__(Command)
    command.__dict__ = values
    return command


def response_to(request: Command, status: int, **fields: Any) -> Command:
    """Build the response to `request`, for its Message ID and with the SOP class and instance it names.

    `fields` are more attributes of Command. Raises LocalProtocolError for a message that has no response.
    """
    response = _RESPONSES.get(request.command_field)
    if response is None:
        raise LocalProtocolError(f"there is no response to {request.name}")
    field, echoes = response
    get = request.__dict__.get
    values: dict[str, Any] = {"message_id_being_responded_to": request.message_id, "status": status}
    for name, source in echoes:
        value = get(source)
        if value is not None:
            values[name] = value
    if fields:
        return Command(field, **{**values, **fields})
    values["command_field"], values["has_data_set"] = field, False
    return _made_of(values)
