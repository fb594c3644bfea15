"""What a peer is for: C-ECHO, C-FIND, one image by C-GET and by C-MOVE."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from asyncdicom.client import associate
from asyncdicom.doctor.causes import cause, cause_of_move, cause_of_status
from asyncdicom.doctor.subject import Failed, Seen, Skipped, Subject
from asyncdicom.exceptions import StatusError
from asyncdicom.scu.planning import DEFAULT_PAIRS, SYNTAXES
from asyncdicom.server import serve
from asyncdicom.services.contexts import retrieval_contexts
from asyncdicom.status import Status
from asyncdicom.uid import (
    NON_PATIENT_OBJECT_STORAGE,
    STORAGE,
    STUDY_ROOT,
    VERIFICATION,
    is_usable_uid,
    new_uid,
)
from asyncdicom.ul.events import AssociateIndication
from asyncdicom.ul.negotiation import PresentationContext

if TYPE_CHECKING:
    from asyncdicom.association import Request

__all__ = ["echo", "find", "get", "move"]

_LEVELS = (("STUDY", "StudyInstanceUID"), ("SERIES", "SeriesInstanceUID"), ("IMAGE", "SOPInstanceUID"))
# What a retrieval of nothing is answered with that would be so for an image, too.
_ALWAYS_WRONG = (Status.MOVE_DESTINATION_UNKNOWN, Status.NOT_AUTHORIZED, Status.SOP_CLASS_NOT_SUPPORTED)


class _Receiver:
    """Takes the instance that was asked for, and throws it away; refuses others."""

    def __init__(self, identifier: Mapping[str, str]) -> None:
        self.received = 0
        self.came = False
        self._asked = identifier["SOPInstanceUID"]

    async def __call__(self, request: Request) -> Status:
        if request.affected_sop_instance_uid != self._asked:
            return Status.NOT_AUTHORIZED
        async for _ in request.data.batches():
            pass
        self.received += 1
        return Status.SUCCESS

    def traced(self, direction: str, what: object) -> None:
        """See whether anybody asks for an association."""
        self.came = self.came or isinstance(what, AssociateIndication)


def _check_offered(service: str, subject: Subject, seen: Seen) -> None:
    if service in seen.refused:
        raise Skipped("not accepted by the peer; see contexts")
    if service not in subject.services:
        raise Skipped("not asked for")


async def echo(subject: Subject, seen: Seen, stack: AsyncExitStack) -> str:
    """Ask C-ECHO."""
    _check_offered("echo", subject, seen)
    response = await seen.established.c_echo()
    if not response.status.is_success:
        raise Failed(cause_of_status(response.status, response.error_comment))
    return "answered"


async def find(subject: Subject, seen: Seen, stack: AsyncExitStack) -> str:
    """Ask for a study, a series of it and an image of that; of each the first one, then C-CANCEL."""
    _check_offered("find", subject, seen)
    found: dict[str, str] = {}
    for level, key in _LEVELS:
        wanted = {"QueryRetrieveLevel": level, **found, key: ""}
        if level == "STUDY" and subject.study:
            wanted[key] = subject.study
        if level == "IMAGE":
            wanted["SOPClassUID"] = ""
        match = await _first(seen, wanted)
        uid = str(match.get(key) or "") if match is not None else ""
        if not uid:
            return f"answered; no {level.lower()} was found{f' in {found}' if found else ''}"
        found[key] = uid
        if level == "IMAGE":
            seen.sop_class_uid = str(match.get("SOPClassUID") or "")
    seen.image = {"QueryRetrieveLevel": "IMAGE", **found}
    return f"answered; the image to try with is {found['SOPInstanceUID']}"


async def _first(seen: Seen, wanted: dict[str, str]) -> Any:
    from pydicom import config

    config.settings.reading_validation_mode = config.IGNORE  # what a peer answers is taken as it is
    async with seen.established.c_find(wanted) as matches:
        async for match in matches:
            return match
    return None


def _identifier(seen: Seen) -> dict[str, str]:
    """The image that was found, or one that nobody has."""
    if seen.image is not None:
        return seen.image
    return {"QueryRetrieveLevel": "IMAGE", **{key: new_uid() for _, key in _LEVELS}}


async def get(subject: Subject, seen: Seen, stack: AsyncExitStack) -> str:
    """Have the image sent by C-GET, on an association of its own: it needs other roles."""
    _check_offered("get", subject, seen)
    uid = seen.sop_class_uid
    pairs = [(uid, syntax) for syntax in SYNTAXES] if is_usable_uid(uid) else DEFAULT_PAIRS
    identifier = _identifier(seen)
    receiver = _Receiver(identifier)
    proposed = [PresentationContext(STUDY_ROOT.get or "", SYNTAXES[:2]), *retrieval_contexts(pairs)]
    async with associate(
        subject.address, contexts=proposed, c_store=receiver, **subject.options()
    ) as association:
        if not any(context.as_scp for context in association.contexts.values()):
            raise Failed(cause("no storage role"))
        result = await _result(association.c_get(identifier))
    if receiver.received:
        return f"{receiver.received} received"
    is_refused = result.status.is_failure and not result.failed and seen.image is not None
    if is_refused or result.status in _ALWAYS_WRONG:
        raise Failed(cause_of_status(result.status, result.error_comment))
    if seen.image is None:
        return f"answered with {result.status}; there was no image to try with"
    told = f"{result.status}: {result.error_comment}" if result.error_comment else str(result.status)
    raise Failed(cause("not delivered" if result.status.is_success else "transfer syntax", told))


async def _result(operation: Any) -> Any:
    """How a retrieval ended, also if that is a Failure."""
    try:
        async with operation:
            pass
    except StatusError as error:
        return error.result or operation.result
    return operation.result


async def move(subject: Subject, seen: Seen, stack: AsyncExitStack) -> str:
    """Have the image sent by C-MOVE to a receiver that listens meanwhile."""
    _check_offered("move", subject, seen)
    if subject.receiver is None:
        raise Skipped(subject.no_receiver)
    identifier = _identifier(seen)
    receiver = _Receiver(identifier)
    serving = serve(
        subject.receiver,
        c_store=receiver,
        contexts=(VERIFICATION, *STORAGE, *NON_PATIENT_OBJECT_STORAGE),
        unknown_storage=True,
        access=subject.access,
        ssl=subject.receiver_ssl,
        limits=subject.limits,
        trace=receiver.traced,
    )
    try:
        await stack.enter_async_context(serving)
    except OSError as error:
        raise Failed(cause("receiver", error.strerror or str(error))) from None
    result = await _result(seen.established.c_move(identifier, move_destination=subject.receiver.ae_title))
    if seen.image is None and result.status not in _ALWAYS_WRONG:
        return f"answered with {result.status}; there was no image to try with"
    await _until(lambda: receiver.received > 0 or not result.completed)
    why = cause_of_move(result.status, result.error_comment, came=receiver.came, received=receiver.received)
    if why is not None:
        raise Failed(why)
    return f"{receiver.received} received at {subject.receiver.place}"


async def _until(holds: Callable[[], bool]) -> None:
    """Wait a little for what may still be on its way: the peer may tell before its image has come."""
    for _ in range(20):
        if holds():
            return
        await asyncio.sleep(0.1)
