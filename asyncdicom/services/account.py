"""What the log says about each request that was performed: who asked, for what, and how it ended."""

from __future__ import annotations

import logging
import re

from asyncdicom.data.scanner import Scanner
from asyncdicom.dimse.messages import Command, CommandField
from asyncdicom.exceptions import DataSetError
from asyncdicom.net.channel import Channel, IncomingRequest
from asyncdicom.services.responses import Response
from asyncdicom.telemetry import counters
from asyncdicom.telemetry.log import Log
from asyncdicom.uid import is_usable_uid, name_of, transfer_syntax

__all__ = ["note_asked", "takes", "tell", "tell_lost"]

log = Log("asyncdicom.services")

_COUNTERS = {
    "number_of_remaining_sub_operations": "remaining",
    "number_of_completed_sub_operations": "completed",
    "number_of_failed_sub_operations": "failed",
    "number_of_warning_sub_operations": "warned",
}
_LEVEL = 0x00080052
# What is said of an identifier: UIDs, and never what else a patient is found by.
_ASKED = {_LEVEL: "level", 0x0020000D: "study", 0x0020000E: "series", 0x00080018: "instance"}
_LONGEST = 1 << 14  # bytes of an identifier that is looked at: the log costs nobody his turn
_UIDS = 3  # of a list
_HARMLESS = re.compile(r"[0-9.]{1,64}|PATIENT|STUDY|SERIES|IMAGE").fullmatch  # whatever the peer puts there


def note_asked(incoming: IncomingRequest, identifier: bytes) -> None:
    """Note the level and the UIDs of a query or retrieval, if anybody wants to read them in the log."""
    syntax = incoming.context.transfer_syntax
    is_long = len(identifier) > _LONGEST or transfer_syntax(syntax).deflated
    if is_long or not log.is_enabled_for(logging.INFO):
        return
    scanner = Scanner(syntax, frozenset(_ASKED))
    try:
        scanner.feed(identifier)
    except DataSetError:
        pass  # what was read before it counts
    said = []
    for tag, name in _ASKED.items():
        element = scanner.found.get(tag)
        values = [] if element is None else bytes(element.value).decode("ascii", "replace").split("\\")
        shown = [value for value in (value.strip("\0 ") for value in values[:_UIDS]) if _HARMLESS(value)]
        if shown:
            more = f" and {len(values) - _UIDS} more" if len(values) > _UIDS else ""
            said.append(f"{name} {', '.join(shown)}{more}")
    incoming.subject = ", ".join(said)


_ODD_UID = "a UID that breaks PS3.5 9.1"


def takes(channel: Channel, uid: str) -> bool:
    """Whether a received UID is taken that breaks PS3.5 9.1; that is said once an association."""
    if not is_usable_uid(uid):
        return False
    if _ODD_UID not in channel.told:
        channel.told |= {_ODD_UID}
        log.warning(
            "%s: sends UIDs that break PS3.5 9.1, such as %s: they are kept as they come", channel, uid
        )
    return True


def tell(incoming: IncomingRequest, response: Response) -> None:
    """Write one line: a warning for a Failure that the log does not know yet, else information.

    It names UIDs, and never a person. Called when the response is on its way: nobody waits for the log.
    """
    counters.answered[incoming.command.command_field, response.status] += 1
    is_news = response.status.is_failure and not incoming.is_told
    level = logging.WARNING if is_news else logging.INFO
    if not log.is_enabled_for(level):
        return
    more = [_matches(incoming)] if incoming.command.command_field is CommandField.C_FIND_RQ else []
    if incoming.remark:
        more.append(incoming.remark)
    if response.counters:
        more += [f"{count} {_COUNTERS[field]}" for field, count in response.counters.items()]
    if response.error_comment:
        more.append(response.error_comment)
    _write(
        level,
        incoming,
        f"status {response.status}{''.join(f', {word}' for word in more)}",
        {"status": f"0x{int(response.status):04X}", **_outcome(incoming, response)},
    )


def tell_lost(incoming: IncomingRequest) -> None:
    """Write one line about a request that nobody is left to answer."""
    if log.is_enabled_for(logging.INFO):
        _write(logging.INFO, incoming, "not answered, the association is lost", {})


def _write(level: int, incoming: IncomingRequest, outcome: str, fields: dict[str, object]) -> None:
    channel = incoming.channel
    name = incoming.command.name.removesuffix("-RQ")
    seconds = channel.time() - incoming.began
    log.log(
        level,
        "%s: %s %s: %s (%.3f s)",
        channel,
        name,
        _subject(incoming),
        outcome,
        seconds,
        fields={"command": name, **_fields(incoming), **fields, "seconds": round(seconds, 6)},
    )


def _matches(incoming: IncomingRequest) -> str:
    return f"{incoming.matches} {'match' if incoming.matches == 1 else 'matches'}"


def _outcome(incoming: IncomingRequest, response: Response) -> dict[str, object]:
    found: dict[str, object] = {}
    if response.error_comment or incoming.remark:
        found["reason"] = incoming.remark or response.error_comment
    if incoming.command.command_field is CommandField.C_FIND_RQ:
        found["matches"] = incoming.matches
    for field, count in (response.counters or {}).items():
        found[_COUNTERS[field]] = count
    return found


def _subject(incoming: IncomingRequest) -> str:
    command = incoming.command
    named, instance = _uids(command)
    what = name_of(named or incoming.context.abstract_syntax)
    if incoming.subject:
        what = f"{what}; {incoming.subject}"
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
        "bytes": None if incoming.data is None or instance is None else incoming.data.received,
        "asked": incoming.subject or None,
    }
    return {name: value for name, value in fields.items() if value is not None}
