"""Readable dumps of messages for ``-d``."""

from __future__ import annotations

from collections.abc import Iterator

from asyncdicom.dimse.messages import Command
from asyncdicom.status import Status
from asyncdicom.telemetry.log import Log
from asyncdicom.uid import name_of
from asyncdicom.ul.events import AssociateConfirmation, AssociateIndication, AssociateRejection
from asyncdicom.ul.items import ContextResult
from asyncdicom.ul.negotiation import REASONS
from asyncdicom.ul.pdu import AAssociateAC, AAssociateRQ

__all__ = ["trace"]

log = Log("asyncdicom.cli")

_UPPER_CASE = {"sop", "uid", "id", "ae"}


def trace(direction: str, what: object) -> None:
    """Log a command or an event of the upper layer: for the ``trace`` of `associate` and `serve`."""
    if isinstance(what, (AssociateIndication, AssociateConfirmation, AssociateRejection)):
        (what,) = what  # the PDU
    for line in _lines(what):
        log.debug("%s", line if line[0] == " " else f"{direction} {line}")


def _lines(what: object) -> Iterator[str]:
    if isinstance(what, Command):
        yield what.name
        yield from _command(what)
    elif isinstance(what, AAssociateRQ):
        yield "A-ASSOCIATE-RQ"
        yield from _request(what)
    elif isinstance(what, AAssociateAC):
        yield "A-ASSOCIATE-AC"
        yield from map(_result, what.presentation_contexts)
    else:
        yield repr(what)


def _command(command: Command) -> Iterator[str]:
    for field, value in vars(command).items():
        if field not in ("command_field", "has_data_set") and value is not None:
            yield f"  {_title(field):34}: {_value(field, value)}"
    yield f"  {'Data Set':34}: {'present' if command.has_data_set else 'none'}"


def _title(field: str) -> str:
    words = field.split("_")
    return " ".join(word.upper() if word in _UPPER_CASE else word.capitalize() for word in words)


def _value(field: str, value: object) -> str:
    if field == "status" and isinstance(value, int):
        return str(Status(value))
    if field.endswith("uid"):
        return _named(str(value))
    if isinstance(value, tuple):
        return ", ".join(f"({tag >> 16:04X},{tag & 0xFFFF:04X})" for tag in value)
    return str(value)


def _named(uid: str) -> str:
    name = name_of(uid)
    return uid if name == uid else f"{name} ({uid})"


def _request(request: AAssociateRQ) -> Iterator[str]:
    yield f"  {request.calling_ae_title} calls {request.called_ae_title}"
    for context in request.presentation_contexts:
        yield f"  {context.context_id:3} {_named(context.abstract_syntax)}"
        for uid in context.transfer_syntaxes:
            yield f"        {_named(uid)}"


def _result(context: ContextResult) -> str:
    if context.result == 0:
        return f"  {context.context_id:3} accepted with {_named(context.transfer_syntax or '')}"
    result = REASONS.get(context.result, f"result {context.result}")
    return f"  {context.context_id:3} refused: {result}"
