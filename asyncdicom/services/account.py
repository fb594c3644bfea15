"""What the log says about each request that was performed: who asked, for what, and how it ended."""

from __future__ import annotations

import logging

from asyncdicom.dimse.messages import Command, CommandField
from asyncdicom.net.channel import IncomingRequest
from asyncdicom.services.responses import Response
from asyncdicom.telemetry.log import Log
from asyncdicom.uid import name_of

__all__ = ["tell"]

log = Log("asyncdicom.services")


def tell(incoming: IncomingRequest, response: Response) -> None:
    """Write one line: a warning for a Failure, else information. It names UIDs, and never a person.

    Called when the response is on its way: nobody waits for the log.
    """
    level = logging.WARNING if response.status.is_failure else logging.INFO
    if not log.is_enabled_for(level):
        return
    command = incoming.command
    name = command.name.removesuffix("-RQ")
    more = [f"{incoming.matches} matches"] if command.command_field is CommandField.C_FIND_RQ else []
    if incoming.remark:
        more.append(incoming.remark)
    if response.counters:
        more += [f"{count} {_COUNTERS[field]}" for field, count in response.counters.items()]
    if response.error_comment:
        more.append(response.error_comment)
    log.log(
        level,
        "%s: %s %s: status %s%s",
        incoming.channel,
        name,
        _subject(incoming),
        response.status,
        "".join(f", {word}" for word in more),
        fields={"command": name, "status": f"0x{int(response.status):04X}", **_fields(incoming)},
    )


_COUNTERS = {
    "number_of_remaining_sub_operations": "remaining",
    "number_of_completed_sub_operations": "completed",
    "number_of_failed_sub_operations": "failed",
    "number_of_warning_sub_operations": "warned",
}


def _subject(incoming: IncomingRequest) -> str:
    command = incoming.command
    named, instance = _uids(command)
    what = name_of(named or incoming.context.abstract_syntax)
    if command.move_destination is not None:
        return f"to {command.move_destination} ({what})"
    if instance is None:
        return f"({what})"
    size = f", {incoming.data.received} bytes" if incoming.data is not None else ""
    return f"of {what} {instance}{size}"


def _uids(command: Command) -> tuple[str | None, str | None]:
    """The SOP class and instance that a request names, as the affected or the requested ones."""
    return (
        command.requested_sop_class_uid or command.affected_sop_class_uid,
        command.requested_sop_instance_uid or command.affected_sop_instance_uid,
    )


def _fields(incoming: IncomingRequest) -> dict[str, object]:
    command = incoming.command
    named, instance = _uids(command)
    fields = {
        "message_id": command.message_id,
        "sop_class_uid": named,
        "sop_instance_uid": instance,
        "move_destination": command.move_destination,
    }
    return {name: value for name, value in fields.items() if value is not None}
