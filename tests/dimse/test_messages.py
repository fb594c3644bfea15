from __future__ import annotations

import contextlib
import io
import runpy
import struct
from pathlib import Path
from typing import Any

import pytest
from helpers.peer import encode_elements
from hypothesis import given
from hypothesis import strategies as st
from pydicom.filereader import read_dataset

from asyncdicom.dimse.command import decode_elements
from asyncdicom.dimse.messages import (
    FIELDS,
    MESSAGES,
    Command,
    CommandField,
    MessageType,
    Priority,
    decode,
    encode,
    response_to,
)
from asyncdicom.exceptions import LocalProtocolError, RemoteProtocolError

STANDARD = runpy.run_path(str(Path(__file__).parents[1] / "standard" / "dimse_messages.py"))

printable = st.characters(codec="ascii", min_codepoint=0x20, max_codepoint=0x7E, exclude_characters="\\")


def text(most: int) -> st.SearchStrategy[str]:
    return st.text(printable, min_size=1, max_size=most).map(str.strip).filter(bool)


us = st.integers(0, 0xFFFF)
uid = st.lists(st.integers(0, 99999), min_size=2, max_size=10).map(lambda parts: ".".join(map(str, parts)))
tag_list = st.lists(st.integers(0, 0xFFFFFFFF), min_size=1, max_size=20).map(tuple)
BY_VR = {"US": us, "UI": uid, "AE": text(16), "LO": text(64), "AT": tag_list}


def value_of(name: str) -> st.SearchStrategy[Any]:
    return st.sampled_from(Priority) if name == "priority" else BY_VR[FIELDS[name][1]]


@st.composite
def commands(draw: st.DrawFn) -> Command:
    field = draw(st.sampled_from(CommandField))
    message = MESSAGES[field]
    optional = draw(st.lists(st.sampled_from(message.optional), unique=True)) if message.optional else []
    has_data_set = {"M": True, "U": draw(st.booleans()), "": False}[message.data_set]
    values = {name: draw(value_of(name)) for name in (*message.required, *optional)}
    return Command(field, has_data_set=has_data_set, **values)


def example(field: CommandField, *, with_optional: bool = False) -> Command:
    samples = {"US": 7, "UI": "1.2.840.10008.1.1", "AE": "STORE_SCP", "LO": "a comment", "AT": (0x00100010,)}
    message = MESSAGES[field]
    names = (*message.required, *(message.optional if with_optional else ()))
    values = {name: samples[FIELDS[name][1]] for name in names}
    if "priority" in values:
        values["priority"] = Priority.LOW
    return Command(field, has_data_set=message.data_set == "M", **values)


def edited(command: Command, *, drop: tuple[str, ...] = (), **raw: bytes) -> bytes:
    """The encoded command without the fields in ``drop`` and with raw values in the place of others."""
    elements = decode_elements(encode(command))
    for name in drop:
        del elements[FIELDS[name][0]]
    elements.update({FIELDS[name][0]: value for name, value in raw.items()})
    return encode_elements(sorted(elements.items()))


# --- the tables -----------------------------------------------------------------------------------------


def test_fields_are_those_of_annex_e() -> None:
    theirs = dict(STANDARD["ELEMENTS"])
    del theirs["CommandGroupLength"]
    assert list(FIELDS.values()) == list(theirs.values())
    for name, keyword in zip(FIELDS, theirs, strict=True):
        if name == "has_data_set":
            continue
        spelled = keyword.replace("ApplicationEntity", "Ae").replace("Suboperations", "SubOperations")
        assert name.replace("_", "") == spelled.lower()


def test_messages_are_the_23_of_the_standard() -> None:
    assert {message.name: int(field) for field, message in MESSAGES.items()} == {
        name: field for name, (field, _, _) in STANDARD["MESSAGES"].items()
    }
    assert len(MESSAGES) == len(CommandField) == 23
    for field, message in MESSAGES.items():
        assert field.name == message.name.replace("-", "_")


@pytest.mark.parametrize("message", MESSAGES.values(), ids=lambda message: message.name)
def test_fields_of_each_message_are_those_of_the_standard(message: MessageType) -> None:
    _, usages, data_set = STANDARD["MESSAGES"][message.name]
    tags = {STANDARD["ELEMENTS"][keyword][0]: usage == "M" for keyword, usage in usages.items()}
    ours = dict.fromkeys(message.required, True) | dict.fromkeys(message.optional, False)
    assert {FIELDS[name][0]: required for name, required in ours.items()} == tags
    assert message.data_set == {"M": "M", "U": "U", "C": "U", None: ""}[data_set]
    assert message.may_have_data == (data_set is not None)


# --- encoding and decoding ------------------------------------------------------------------------------


@given(commands())
def test_round_trip(command: Command) -> None:
    encoded = encode(command)
    assert len(encoded) % 2 == 0
    decoded = decode(encoded)
    assert decoded == command
    assert encode(decoded) == encoded


@given(commands())
def test_pydicom_reads_what_we_write(command: Command) -> None:
    encoded = encode(command)
    dataset = read_dataset(io.BytesIO(encoded), is_implicit_VR=True, is_little_endian=True)
    assert dataset.CommandGroupLength == len(encoded) - 12
    assert dataset.CommandField == command.command_field
    assert (dataset.CommandDataSetType != 0x0101) == command.has_data_set
    for name, (tag, vr) in FIELDS.items():
        value = getattr(command, name)
        if name in ("command_field", "has_data_set"):
            continue
        assert (tag in dataset) == (value is not None)
        if value is not None:
            theirs = dataset[tag].value
            many = [theirs] if dataset[tag].VM == 1 else theirs
            assert (tuple(many) if vr == "AT" else theirs) == value


@pytest.mark.parametrize("field", CommandField, ids=lambda field: field.name)
def test_every_required_field_is_required(field: CommandField) -> None:
    encode(example(field, with_optional=True))
    for name in MESSAGES[field].required:
        command = example(field)
        setattr(command, name, None)
        with pytest.raises(LocalProtocolError, match=f"needs {name}"):
            encode(command)


@pytest.mark.parametrize("field", CommandField, ids=lambda field: field.name)
def test_fields_of_other_messages_are_refused(field: CommandField) -> None:
    message = MESSAGES[field]
    complete = example(CommandField.C_STORE_RQ, with_optional=True), example(CommandField.N_ACTION_RQ)
    for other in complete:
        for name, value in vars(other).items():
            if name in ("command_field", "has_data_set", *message.required, *message.optional):
                continue
            command = example(field)
            setattr(command, name, value)
            with pytest.raises(LocalProtocolError, match=f"has no {name}"):
                encode(command)


@pytest.mark.parametrize("field", CommandField, ids=lambda field: field.name)
def test_the_data_set_has_to_fit_the_message(field: CommandField) -> None:
    command = example(field)
    command.has_data_set = not command.has_data_set
    if MESSAGES[field].data_set == "U":
        assert decode(encode(command)).has_data_set
    else:
        with pytest.raises(LocalProtocolError, match="Data Set"):
            encode(command)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("message_id", -1),
        ("message_id", 0x10000),
        ("message_id", "1"),
        ("message_id", 1.5),
        ("affected_sop_class_uid", "1.2.\u20ac"),
        ("affected_sop_class_uid", ""),
        ("move_destination", "SEVENTEEN_LETTERS"),
        ("move_destination", "ÖÄÜ\u0416"),
    ],
)
def test_what_cannot_be_represented_is_refused(name: str, value: Any) -> None:
    command = example(CommandField.C_MOVE_RQ)
    setattr(command, name, value)
    with pytest.raises(LocalProtocolError, match=name):
        encode(command)


@pytest.mark.parametrize("tags", [(0x100000000,), (-1,), 0x00100010])
def test_tags_that_are_none_are_refused(tags: Any) -> None:
    command = example(CommandField.N_GET_RQ)
    command.attribute_identifier_list = tags
    with pytest.raises(LocalProtocolError, match="attribute_identifier_list"):
        encode(command)


@given(st.text(min_size=1))
def test_no_comment_stops_a_response(comment: str) -> None:
    command = Command(
        CommandField.C_ECHO_RSP, message_id_being_responded_to=1, status=0x0110, error_comment=comment
    )
    raw = decode_elements(encode(command)).get(0x0902, b"")
    assert len(raw) <= 64
    assert len(raw) % 2 == 0
    assert all(0x20 <= byte <= 0x7E and byte != 0x5C for byte in raw)


def test_an_unknown_attribute_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="mesage_id"):
        Command(CommandField.C_ECHO_RQ, mesage_id=1)


# --- what peers do --------------------------------------------------------------------------------------

ECHO_RQ = Command(CommandField.C_ECHO_RQ, message_id=1, affected_sop_class_uid="1.2.840.10008.1.1")
MOVE_RSP = Command(
    CommandField.C_MOVE_RSP,
    message_id_being_responded_to=1,
    status=0xFF00,
    number_of_remaining_sub_operations=4,
)


@pytest.mark.parametrize(
    "raw", [b"1.2.3\0", b"1.2.3 ", b"1.2.3", b"1.2.3\0\0\0", b"1.2.3\0junk", b" 1.2.3  "]
)
def test_padding_of_uids_is_stripped(raw: bytes) -> None:
    assert decode(edited(ECHO_RQ, affected_sop_class_uid=raw)).affected_sop_class_uid == "1.2.3"


def test_bytes_that_no_uid_has_survive_a_round_trip() -> None:
    command = decode(edited(ECHO_RQ, affected_sop_class_uid=b"../\xff\xfe\x80" + b"9" * 100))
    assert decode(encode(command)) == command


@pytest.mark.parametrize("raw", [b"DEST", b"DEST\0\0", b" DEST ", b"DEST\0\xc0\xb3`"])
def test_padding_of_ae_titles_is_stripped(raw: bytes) -> None:
    command = example(CommandField.C_MOVE_RQ)
    assert decode(edited(command, move_destination=raw)).move_destination == "DEST"


@pytest.mark.parametrize("raw", [b"", b"\0\0", b"  "])
def test_an_empty_value_is_an_absent_one(raw: bytes) -> None:
    assert decode(edited(ECHO_RQ, affected_sop_class_uid=raw)).affected_sop_class_uid is None


@pytest.mark.parametrize("field", CommandField, ids=lambda field: field.name)
def test_only_what_an_answer_needs_is_needed(field: CommandField) -> None:
    indispensable = ("message_id", "message_id_being_responded_to", "status")
    command = example(field)
    drop = tuple(name for name in MESSAGES[field].required if name not in indispensable)
    decoded = decode(edited(command, drop=drop))
    assert decoded.command_field is field
    assert decoded.priority == (Priority.MEDIUM if "priority" in drop else None)
    for name in (*MESSAGES[field].required, "has_data_set", "command_field"):
        if name not in drop:
            with pytest.raises(RemoteProtocolError):
                decode(edited(command, drop=(name,)))


def test_an_unknown_priority_is_medium() -> None:
    command = example(CommandField.C_FIND_RQ)
    assert decode(edited(command, priority=b"\7\0")).priority is Priority.MEDIUM
    assert decode(edited(command, priority=b"\1\0")).priority is Priority.HIGH


@pytest.mark.parametrize(("raw", "has_data_set"), [(b"\1\1", False), (b"\0\0", True), (b"\2\1", True)])
def test_0101_and_nothing_else_means_no_data_set(raw: bytes, has_data_set: bool) -> None:
    assert decode(edited(MOVE_RSP, has_data_set=raw)).has_data_set is has_data_set


@pytest.mark.parametrize(("raw", "number"), [(b"\5\0\6\0", 5), (b"", None), (b"\5\0", 5)])
def test_the_first_of_several_numbers_of_sub_operations_counts(raw: bytes, number: int | None) -> None:
    command = decode(edited(MOVE_RSP, number_of_remaining_sub_operations=raw))
    assert command.number_of_remaining_sub_operations == number


@pytest.mark.parametrize("raw", [b"", b"\1", b"\1\0\0\0"])
@pytest.mark.parametrize("name", ["message_id", "command_field", "has_data_set"])
def test_numbers_of_a_wrong_length_are_refused(name: str, raw: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match=name):
        decode(edited(ECHO_RQ, drop=(), **{name: raw}))


def test_an_attribute_identifier_list_of_a_wrong_length_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="attribute_identifier_list"):
        decode(edited(example(CommandField.N_GET_RQ), attribute_identifier_list=b"\0" * 6))


@pytest.mark.parametrize("number", [0x0000, 0x7777, 0x8000, 0x8FFF])
def test_an_unknown_command_field_is_told(number: int) -> None:
    with pytest.raises(RemoteProtocolError, match=f"{number:04X}H"):
        decode(edited(ECHO_RQ, command_field=struct.pack("<H", number)))


def test_elements_that_the_standard_does_not_know_are_passed_over() -> None:
    elements = [*decode_elements(encode(ECHO_RQ)).items(), (0x0001, b"\0" * 4), (0x5110, b"odd")]
    assert decode(encode_elements(sorted(elements))) == ECHO_RQ


@given(commands(), st.data())
def test_damaged_commands_decode_or_are_protocol_errors(command: Command, data: st.DataObject) -> None:
    damaged = bytearray(encode(command))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(RemoteProtocolError):
        decode(bytes(damaged[: data.draw(st.integers(0, len(damaged)))]))


# --- responses ------------------------------------------------------------------------------------------

REQUESTS = [field for field in CommandField if field < 0x8000 and field is not CommandField.C_CANCEL_RQ]


@pytest.mark.parametrize("field", REQUESTS, ids=lambda field: field.name)
def test_the_response_answers_its_request(field: CommandField) -> None:
    request = example(field)
    response = response_to(request, 0x0110, error_comment="internal error")
    assert response.name == request.name.replace("RQ", "RSP")
    assert response.is_response
    assert not response.is_request
    assert request.is_request
    assert response.message_id_being_responded_to == request.message_id
    assert response.status == 0x0110
    assert response.affected_sop_class_uid == "1.2.840.10008.1.1"
    if field in (CommandField.C_STORE_RQ, CommandField.N_EVENT_REPORT_RQ, CommandField.N_DELETE_RQ):
        assert response.affected_sop_instance_uid == "1.2.840.10008.1.1"
    assert response.event_type_id == request.event_type_id
    assert response.action_type_id == request.action_type_id
    assert decode(encode(response)) == response


def test_what_the_caller_gives_wins_over_the_echo() -> None:
    request = Command(CommandField.N_CREATE_RQ, message_id=9, affected_sop_class_uid="1.2")
    response = response_to(request, 0, affected_sop_instance_uid="2.25.1", has_data_set=True)
    assert response.affected_sop_instance_uid == "2.25.1"
    assert response.has_data_set


@pytest.mark.parametrize("field", [CommandField.C_CANCEL_RQ, CommandField.C_ECHO_RSP])
def test_some_messages_have_no_response(field: CommandField) -> None:
    with pytest.raises(LocalProtocolError, match="no response"):
        response_to(example(field), 0)


def test_repr_shows_what_is_there() -> None:
    assert repr(ECHO_RQ).startswith("<C-ECHO-RQ ")
    assert "message_id=1" in repr(ECHO_RQ)
    assert "status" not in repr(ECHO_RQ)


def test_an_empty_comment_is_not_sent() -> None:
    def response(**more: Any) -> bytes:
        command = Command(
            CommandField.C_ECHO_RSP,
            message_id_being_responded_to=1,
            affected_sop_class_uid="1.2.840.10008.1.1",
            status=0x0110,
            **more,
        )
        return encode(command)

    assert response(error_comment="") == response()
    assert response(error_comment="why") != response()
