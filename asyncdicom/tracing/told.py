"""PDUs and messages as one line each: AE titles, UIDs, statuses and sizes; nothing about a patient."""

from __future__ import annotations

from asyncdicom.data.elements import decode
from asyncdicom.dimse.messages import Command
from asyncdicom.exceptions import AssociationAborted, AssociationRejected, DataSetError
from asyncdicom.status import Status
from asyncdicom.telemetry.text import printable
from asyncdicom.uid import name_of
from asyncdicom.ul.items import UserInformation
from asyncdicom.ul.pdu import PDU, AAbort, AAssociateAC, AAssociateRJ, AAssociateRQ

__all__ = ["command_line", "data_lines", "fields_of", "pdu_line"]

_MOST_VALUES = 100  # elements of a data set that are shown
_LONGEST_VALUE = 200  # bytes
_MOST_INFLATED = 1 << 20  # bytes
_COUNTERS = ("remaining", "completed", "failed", "warning")


def pdu_line(name: str, pdu: PDU | None, proposed: int = 0) -> str:
    """Tell what a PDU says. `proposed`: how many contexts were, for the answer."""
    if isinstance(pdu, AAssociateRQ):
        who = f"{pdu.calling_ae_title} calls {pdu.called_ae_title}"
        said = f"{who}, {len(pdu.presentation_contexts)} contexts{_user(pdu.user_information)}"
    elif isinstance(pdu, AAssociateAC):
        accepted = sum(context.result == 0 for context in pdu.presentation_contexts)
        said = f"{accepted} of {proposed} contexts accepted{_user(pdu.user_information)}"
    elif isinstance(pdu, AAssociateRJ):
        said = str(AssociationRejected(*pdu))
    elif isinstance(pdu, AAbort):
        said = str(AssociationAborted(*pdu))
    else:
        return name
    return printable(f"{name} {said}")


def _user(user: UserInformation) -> str:
    length = user.maximum_length
    said = f", PDUs of {length} bytes at most" if length else ", PDUs of any length"
    if user.operations_window is not None:
        said += f", window {user.operations_window[0]}/{user.operations_window[1]}"
    if user.user_identity is not None:
        said += f", a user identity of type {user.user_identity[0]}"
    if user.implementation_version_name:
        said += f", {user.implementation_version_name}"
    return said


def command_line(command: Command, took: float | None, *, comment: bool = False) -> str:
    """Tell what a message says. `took`: seconds since its request; `comment`: with the Error Comment."""
    number = command.message_id_being_responded_to if command.is_response else command.message_id
    if number is None:
        number = command.message_id_being_responded_to
    words = [f"{command.name} {number}"]
    uid = command.affected_sop_class_uid or command.requested_sop_class_uid
    if uid and not command.is_response:
        words.append(name_of(uid))
    instance = command.affected_sop_instance_uid or command.requested_sop_instance_uid
    if instance and not command.is_response:
        words.append(instance)
    if command.move_destination:
        words.append(f"to {command.move_destination}")
    if command.status is not None:
        words.append(str(Status(command.status)))
    counts = [getattr(command, f"number_of_{name}_sub_operations") for name in _COUNTERS]
    if any(count is not None for count in counts):
        words.append(
            ", ".join(f"{count} {name}" for name, count in zip(_COUNTERS, counts, strict=True) if count)
        )
    if comment and command.error_comment:
        words.append(f"({command.error_comment})")
    if took is not None:
        words.append(f"after {took * 1e3:.1f} ms")
    return printable(" ".join(filter(None, words)))


def fields_of(command: Command) -> dict[str, object]:
    """Give what a program reads of a message."""
    number = command.message_id_being_responded_to if command.is_response else command.message_id
    fields: dict[str, object] = {"message": command.name, "message_id": number}
    for name in (
        "affected_sop_class_uid",
        "affected_sop_instance_uid",
        "requested_sop_class_uid",
        "requested_sop_instance_uid",
        "move_destination",
        "status",
    ):
        value = getattr(command, name)
        if value is not None:
            fields[name] = value
    return fields


def data_lines(head: bytes, length: int, transfer_syntax: str) -> list[str]:
    """Show the values of a data set, as far as they were kept (of patients, too: only when asked for)."""
    try:
        elements = decode(head, transfer_syntax, strict=False, maximum_inflated=_MOST_INFLATED)
    except (DataSetError, ValueError) as error:
        return [f"the data set cannot be read: {printable(str(error))}"]
    lines = []
    for element in elements[:_MOST_VALUES]:
        text = repr(bytes(element.value[:_LONGEST_VALUE]).decode("latin-1").rstrip("\0 "))
        shown = text if len(element.value) <= _LONGEST_VALUE else f"{text}..."
        lines.append(f"({element.tag >> 16:04X},{element.tag & 0xFFFF:04X}) {element.vr} {shown}")
    if len(elements) > _MOST_VALUES or len(head) < length:
        lines.append("...")
    return [printable(line) for line in lines]
