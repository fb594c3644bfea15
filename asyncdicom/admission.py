"""Who gets in at a server: its policy and its limits, applied to connections and requests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import NamedTuple

from asyncdicom.access import (
    LOCAL_LIMIT_EXCEEDED,
    REJECTED,
    AccessPolicy,
    Grant,
    Refusal,
    UserIdentityCheck,
    judge,
    permitted,
    service_of,
)
from asyncdicom.net.channel import Channel
from asyncdicom.net.crowd import Crowd, Rates, is_local
from asyncdicom.net.tls import certificate_of
from asyncdicom.services.dispatch import Dispatcher
from asyncdicom.ul.negotiation import USER_REJECTION, Answered, Policy, answer
from asyncdicom.ul.pdu import AAssociateAC, AAssociateRJ, AAssociateRQ

__all__ = ["Admission", "Limits"]

log = logging.getLogger("asyncdicom.server")

_QUIET = 10.0  # seconds between two log lines about connections that are too many


class Limits(NamedTuple):
    """How many may come, and how fast; None is "any number". See `server.serve`."""

    maximum_associations: int
    maximum_associations_per_address: int | None
    maximum_associations_per_ae_title: int | None
    maximum_not_associated: int
    maximum_not_associated_per_address: int | None
    accept_rate: float | None


class Admission:
    """Judges connections and requests for associations, and knows which of them are there."""

    def __init__(
        self,
        access: AccessPolicy,
        offer: Policy,
        limits: Limits,
        spawn: Callable[[Coroutine[object, object, None]], object],
        identity_timeout: float | None,
    ) -> None:
        self.waiting: Crowd[Channel] = Crowd()
        self.associated: Crowd[Channel] = Crowd()
        self.is_closed = False
        self._access = access
        self._offer = offer
        self._offers: dict[frozenset[str] | None, tuple[Policy, Answered]] = {}
        self._limits = limits
        self._rates = Rates(limits.accept_rate) if limits.accept_rate is not None else None
        self._connecting: dict[Channel, asyncio.Task[bool]] = {}
        self._complaints = 0
        self._quiet_until = 0.0
        self._spawn = spawn
        self._identity_timeout = identity_timeout

    # connections

    def admits_connection(self, host: str, now: float) -> bool:
        """Whether one more connection from there may stay; another one may have to make room for it."""
        refusal = self._access.refuses_address(host)
        if refusal is not None:
            log.warning("%s: a connection is closed: %s", host, refusal)
            return False
        crowded = self._crowded(host, now)
        if crowded is not None:
            self._complain(f"too many connections {crowded}, the last from {host}", now)
        return crowded is None

    def _crowded(self, host: str, now: float) -> str | None:
        """What of there is too much for one more connection from there, or None."""
        limits = self._limits
        if not is_local(host):
            limit = limits.maximum_not_associated_per_address
            if limit is not None and self.waiting.count(host) >= limit:
                return "without an association of one host"
            if self._rates is not None and not self._rates.allows(host, now):
                return "a second of one host"
        if len(self.waiting) >= limits.maximum_not_associated and not self._make_room(now):
            return "without an association"
        return None

    def _make_room(self, now: float) -> bool:
        """Close the connection that has waited for longest and is not waiting for us.

        Who means well asks at once, and closes when refused; others could take all the room for themselves.
        """
        oldest = next((channel for channel in self.waiting if self._is_waited_for(channel)), None)
        if oldest is None:
            return False
        self._complain("too many connections without an association", now)
        self.waiting.discard(oldest)
        connecting = self._connecting.get(oldest)
        if connecting is not None:
            connecting.cancel()
        else:
            oldest.transport.abort()
        return True

    def _is_waited_for(self, channel: Channel) -> bool:
        """Whether it is the peer's turn: to finish the TLS handshake, to ask, or to close."""
        return channel in self._connecting or channel.request is None or channel.failure is not None

    def _complain(self, what: str, now: float) -> None:
        """Log that a connection is closed: once in a while, however many there are."""
        self._complaints += 1
        if now >= self._quiet_until:
            log.warning("%s: %d closed", what, self._complaints)
            self._complaints, self._quiet_until = 0, now + _QUIET

    def wait(self, channel: Channel, host: str, connecting: asyncio.Task[bool]) -> None:
        """A connection has come; `connecting` performs its TLS handshake, if there is one."""
        self.waiting.add(channel, host)
        self._connecting[channel] = connecting

    def connected(self, channel: Channel) -> None:
        """`connecting` has ended."""
        self._connecting.pop(channel, None)

    def forget(self, channel: Channel) -> None:
        """The connection is closed."""
        self.waiting.discard(channel)
        self.associated.discard(channel)

    # associations

    def admit(self, channel: Channel, request: AAssociateRQ) -> None:
        """Answer a request for an association, now or when the user identity has been judged."""
        certificate = certificate_of(channel.transport.get_extra_info("ssl_object"))
        verdict = judge(self._access, request, channel.transport.peer[0], certificate)
        if isinstance(verdict, Refusal):
            self._refuse(channel, verdict)
        elif self._access.user_identity is not None:
            self._spawn(self._identify(channel, request, verdict, self._access.user_identity))
        else:
            self._answer(channel, request, verdict, None)

    async def _identify(
        self, channel: Channel, request: AAssociateRQ, grant: Grant, check: UserIdentityCheck
    ) -> None:
        identity = request.user_information.user_identity
        verdict: object = False
        failure: Exception | None = None
        try:
            async with asyncio.timeout(self._identity_timeout):
                verdict = await check(request, identity)
        except Exception as error:
            failure = error
        if channel.failure is not None:
            return
        if verdict is not True and not isinstance(verdict, bytes):
            why = "the user_identity check failed" if failure else "the user identity was not accepted"
            self._refuse(channel, Refusal(REJECTED, why), failure)
            return
        wanted = identity is not None and identity.positive_response_requested
        response = verdict if isinstance(verdict, bytes) else b""
        self._answer(channel, request, grant, response if wanted else None)

    def _exceeded(self, host: str, request: AAssociateRQ) -> str | None:
        """Which limit one more association would exceed, or None."""
        limits, associated = self._limits, self.associated
        if self.is_closed:
            return "the server is being closed"
        if len(associated) >= limits.maximum_associations:
            return "too many associations"
        if is_local(host):
            return None
        wheres = ("address", "AE title")
        numbers = (limits.maximum_associations_per_address, limits.maximum_associations_per_ae_title)
        for where, limit, key in zip(wheres, numbers, _keys(host, request), strict=True):
            if limit is not None and associated.count(key) >= limit:
                return f"too many associations of this {where}"
        return None

    def _answer(
        self, channel: Channel, request: AAssociateRQ, grant: Grant, identity_response: bytes | None
    ) -> None:
        host = channel.transport.peer[0]
        exceeded = self._exceeded(host, request)
        if exceeded is not None:
            self._refuse(channel, Refusal(LOCAL_LIMIT_EXCEEDED, exceeded))
            return
        policy, answered = self._offered(grant)
        verdict = answer(request, policy, user_identity_response=identity_response, answered=answered)
        if isinstance(verdict, AAssociateRJ):
            self._refuse(channel, Refusal(verdict, "the request cannot be taken"))
            return
        self.waiting.discard(channel)
        self.associated.add(channel, *_keys(host, request))
        if isinstance(channel.dispatcher, Dispatcher):
            channel.dispatcher.grant = grant
        channel.accept(*verdict)
        log.info("%s: association established", channel)
        if grant.services is not None:
            _note_denied(channel, request, verdict[0])

    def _offered(self, grant: Grant) -> tuple[Policy, Answered]:
        """What those with this grant are offered; they share the answers, too."""
        found = self._offers.get(grant.services)
        if found is None:
            found = self._offers[grant.services] = permitted(self._offer, grant), {}
        return found

    def _refuse(self, channel: Channel, refusal: Refusal, failure: Exception | None = None) -> None:
        level = logging.ERROR if failure is not None else logging.WARNING
        who = str(channel)  # who keeps log records need not keep the channel
        log.log(level, "%s: refused: %s (%d/%d/%d)", who, refusal.why, *refusal.rejection, exc_info=failure)
        channel.reject(refusal.rejection)


def _note_denied(channel: Channel, request: AAssociateRQ, accept: AAssociateAC) -> None:
    proposed = {context.context_id: context.abstract_syntax for context in request.presentation_contexts}
    denied = {
        service_of(proposed[result.context_id]) or "others"
        for result in accept.presentation_contexts
        if result.result == USER_REJECTION
    }
    if denied:
        log.warning("%s: refused contexts: no permission for %s", channel, ", ".join(sorted(denied)))


def _keys(host: str, request: AAssociateRQ) -> tuple[tuple[str, str], tuple[str, str]]:
    """What associations are counted by."""
    return ("address", host), ("AE title", request.calling_ae_title)
