"""`mode = "stream"`: an instance is sent on while it is still being received, and nothing of it is kept.

Who sends it is answered with what the destination says. There is no durability and no second attempt: what
the destination does not take, the sender has to send again. A destination that is slow makes the sender slow,
as nothing more is read from him than fits into some buffers. One that fails before the first byte has left
is answered for with 0xA700, or 0x0122 if it does not take such instances, and the reason.

It holds for instances that go to this one destination and nowhere else. Those that go elsewhere, too, or that
a rule wants here (`to = []`, or one for stable studies), are stored and sent on from there.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime

from asyncdicom.archive.origin import Origin
from asyncdicom.association import Association, Request
from asyncdicom.breaker import Breaker
from asyncdicom.data.scanner import Scanner
from asyncdicom.dimse.messages import Priority
from asyncdicom.exceptions import DataSetError
from asyncdicom.gateway.courier import Courier
from asyncdicom.gateway.facts import Facts
from asyncdicom.gateway.link import Link
from asyncdicom.gateway.rules import Decision, Rules
from asyncdicom.gateway.verdicts import Verdict, verdict_of_error
from asyncdicom.net.threads import file_threads, in_thread
from asyncdicom.services.responses import Response
from asyncdicom.status import Status
from asyncdicom.telemetry.log import Log

__all__ = ["Streaming"]

_LOG = Log("asyncdicom.gateway")

_STATUS = {
    Verdict.REFUSED: Status.SOP_CLASS_NOT_SUPPORTED,
    Verdict.UNREADABLE: Status.CANNOT_UNDERSTAND,
}


_ON_PURPOSE = ("paused", "outside hours")


class Streaming:
    """Answers C-STORE requests that pass through; `find` gives the link to a destination.

    `happened` counts what was "streamed", and what was "not_streamed" because the destination failed.
    """

    def __init__(
        self, rules: Rules, names: frozenset[str], find: Callable[[str], Link | None], happened: Counter[str]
    ) -> None:
        self._rules = rules
        self._names = names
        self._find = find
        self._happened = happened
        self._breakers = {name: Breaker() for name in names}

    async def answer(self, request: Request, origin: Origin) -> Response | None:
        """Send it on, if it passes through, and give the answer; None: it is to be stored.

        Cancelled, because the sender has gone: the association to the destination is aborted, if something of
        it has left.
        """
        name = await self._destination_of(request, origin)
        link = None if name is None else self._find(name)
        if link is None or link.courier is None:
            return None
        response, why = await self._pass(request, link, link.courier)
        if not (response.status.is_success or response.status.is_warning):
            self._happened["not_streamed"] += 1
            _LOG.warning(
                "%s from %s was not taken by %s, to which it was passed on: %s",
                request.affected_sop_instance_uid,
                request.calling_ae_title,
                link.destination.name,
                why,
            )
        else:
            self._happened["streamed"] += 1
            link.count_delivered()
        return response

    async def _pass(self, request: Request, link: Link, courier: Courier) -> tuple[Response, str]:
        """Send it on; gives the answer, and what is logged: nothing that a peer has said in words."""
        breaker, now = self._breakers[link.destination.name], asyncio.get_running_loop().time
        state = link.sender.state(now(), datetime.now(UTC))
        if state in _ON_PURPOSE:
            return _refused(f"nothing is sent to its destination now: {state}")
        attempt = breaker.begin(now())
        if attempt is None:
            return _refused("its destination has failed several times: try again later")
        sending = _Sending(request, passes_originator=link.destination.pass_move_originator)
        try:
            response = await courier.forward(request.data, request.calling_ae_title, sending.store)
        except Exception as error:
            verdict = verdict_of_error(error, was_sending=sending.is_begun)
            if verdict in (Verdict.DESTINATION, Verdict.BROKEN):
                breaker.failed(attempt, now())
            else:
                breaker.abandoned(attempt)
            why = link.sender.last_trouble = str(error) or type(error).__name__
            status = _STATUS.get(verdict, Status.OUT_OF_RESOURCES)
            return Response(status, error_comment=verdict.value[:64]), why
        except BaseException:
            breaker.abandoned(attempt)
            raise
        breaker.succeeded()
        link.last_status = int(response.status)
        said = Response(response.status, error_comment=response.error_comment)
        return said, f"status {response.status}"

    async def _destination_of(self, request: Request, origin: Origin) -> str | None:
        """Give the destination that it passes through to; None if it is to be stored."""
        scanner = Scanner(request.transfer_syntax_uid, self._rules.tags)
        try:
            if self._rules.tags:
                await request.data.peek(scanner.feed)
        except DataSetError:
            return None  # the archive says what is wrong with it
        facts = Facts(
            calling=origin.calling,
            called=origin.called,
            address=origin.address,
            certificate=origin.certificate,
            sop_class=request.affected_sop_class_uid,
            transfer_syntax=request.transfer_syntax_uid,
            elements=scanner.found,
        )
        if self._rules.has_functions:
            decision: Decision = await in_thread(file_threads(), self._rules.decide, facts)
        else:
            decision = self._rules.decide(facts)
        names = [target.destinations for target in decision.targets]
        if decision.unrouted or decision.is_kept or len(names) != 1 or len(names[0]) != 1:
            return None
        return names[0][0] if names[0][0] in self._names else None


class _Sending:
    """Sends on what comes with a request, and tells whether that has begun."""

    def __init__(self, request: Request, *, passes_originator: bool) -> None:
        self._request = request
        self._passes_originator = passes_originator
        self.is_begun = False

    async def store(self, association: Association) -> Response:
        self.is_begun = True
        command = self._request.command
        originator = None
        if self._passes_originator and command.move_originator_ae_title:
            originator = command.move_originator_ae_title, command.move_originator_message_id or 0
        return await association.c_store(
            self._request.data, priority=command.priority or Priority.MEDIUM, move_originator=originator
        )


def _refused(why: str) -> tuple[Response, str]:
    return Response(Status.OUT_OF_RESOURCES, error_comment=why[:64]), why
