"""Who gets in at a server: its policy and its limits, applied to connections and requests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Hashable
from functools import partial

from asyncdicom.access import (
    LOCAL_LIMIT_EXCEEDED,
    REJECTED,
    AccessPolicy,
    Certificate,
    Grant,
    Refusal,
    UserIdentityCheck,
    judge,
    permitted,
)
from asyncdicom.net.channel import Channel
from asyncdicom.net.counting import ConnectionRates, CountedSet, is_local, origin_of
from asyncdicom.net.handing import HandedListener
from asyncdicom.net.performer import Dispatch
from asyncdicom.net.tls import certificate_of
from asyncdicom.options import Limits
from asyncdicom.services.service import Contexts
from asyncdicom.telemetry import counters
from asyncdicom.telemetry.log import Log
from asyncdicom.ul.negotiation import USER_REJECTION, Answered, Policy, answer
from asyncdicom.ul.pdu import AAssociateAC, AAssociateRJ, AAssociateRQ

__all__ = ["Admission"]

log = Log("asyncdicom.server")

_QUIET = 10.0  # seconds between two log lines about connections that are too many
_CLOSING = "the server is being closed"
_OF_STRANGERS = "strangers; the rest is for peers known by address or certificate"
_STRANGER = "stranger"  # what those are counted by that the access policy knows nothing about
_STRANGERS_SHARE = 0.8  # of the associations and connections, where the access policy knows anybody


class Admission:
    """Judges connections and requests for associations, and knows which of them are there."""

    def __init__(
        self,
        access: AccessPolicy,
        offer: Policy,
        contexts: Contexts,
        limits: Limits,
        dispatcher: Callable[[Channel, Grant], Dispatch],
        spawn: Callable[[Coroutine[object, object, None]], object],
        identity_timeout: float | None,
        shares: HandedListener | None = None,
    ) -> None:
        self.waiting: CountedSet[Channel] = CountedSet()
        self.associated: CountedSet[Channel] = CountedSet()
        self.is_closed = False
        self._drain_idle: float | None = None
        self.emptied: Callable[[], object] | None = None
        """Is called when nobody is there any more."""
        self._access = access
        self._offer = offer
        self._contexts = contexts
        self._dispatcher = dispatcher
        self._offers: dict[frozenset[str] | None, tuple[Policy, Answered]] = {}
        self._limits = limits
        self._rates = ConnectionRates(limits.accept_rate) if limits.accept_rate is not None else None
        self._connecting: dict[Channel, asyncio.Task[bool]] = {}
        self._complaints = 0
        self._quiet_until = 0.0
        self._spawn = spawn
        self._identity_timeout = identity_timeout
        self._shares = shares  # of what several processes may have together
        self._shared: dict[Channel, int] = {}

    # connections

    def admits_connection(self, host: str, now: float) -> bool:
        """Whether one more connection from there may stay; another one may have to make room for it."""
        refusal = self._access.refuses_address(host)
        if refusal is not None:
            counters.connections_refused += 1
            log.warning("%s: a connection is closed: %s", host, refusal, fields={"address": host})
            return False
        exceeded = self._exceeded_by_connection(host, now)
        if exceeded is not None:
            self._complain(f"too many connections {exceeded}, the last from {host}", now)
        return exceeded is None

    def admits_proxy(self, now: float) -> bool:
        """Whether one more connection of a proxy may stay until it has said who calls (see `speaks_for`)."""
        is_full = len(self.waiting) >= self._limits.maximum_not_associated
        if is_full and not self._make_room(now, only_strangers=False):
            self._complain("too many connections without an association, the last by a proxy", now)
            return False
        return True

    def speaks_for(self, channel: Channel, host: str, now: float) -> bool:
        """A proxy says who calls: whether the connection may stay; from now on it counts as the caller's."""
        connecting = self._connecting[channel]
        self.waiting.discard(channel)
        if not self.admits_connection(host, now):
            return False
        self.wait(channel, host, connecting)
        return True

    def _exceeded_by_connection(self, host: str, now: float) -> str | None:
        """What of there is too much for one more connection from there, or None."""
        limits = self._limits
        origin = origin_of(host)
        if not is_local(host):
            limit = limits.maximum_not_associated_per_address
            if limit is not None and self.waiting.count(origin) >= limit:
                return "without an association of one host"
            if self._rates is not None and not self._rates.allows(origin, now):
                return "a second of one host"
        full = len(self.waiting) >= limits.maximum_not_associated
        is_stranger = not self._access.knows_address(host)
        if is_stranger and self._access.knows_addresses:
            full = full or self.waiting.count(_STRANGER) >= _share(limits.maximum_not_associated)
        if full and not self._make_room(now, only_strangers=is_stranger):
            return "without an association"
        return None

    def _make_room(self, now: float, *, only_strangers: bool) -> bool:
        """Close the connection that has waited for longest and is not waiting for us, a stranger's first.

        A peer that means well asks at once, and closes when it was refused. One that does not could keep all
        the room for itself.
        """
        silent = [channel for channel in self.waiting if self._is_waited_for(channel)]
        oldest = next((channel for channel in silent if self.waiting.has(channel, _STRANGER)), None)
        if oldest is None and silent and not only_strangers:
            oldest = silent[0]
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
        counters.connections_refused += 1
        if now >= self._quiet_until:
            log.warning("%s: %d closed", what, self._complaints)
            self._complaints, self._quiet_until = 0, now + _QUIET

    def wait(self, channel: Channel, host: str, connecting: asyncio.Task[bool]) -> None:
        """A connection has come; `connecting` performs its TLS handshake, if there is one."""
        strangers = () if self._access.knows_address(host) else (_STRANGER,)
        self.waiting.add(channel, origin_of(host), *strangers)
        self._connecting[channel] = connecting

    def connected(self, channel: Channel) -> None:
        """`connecting` has ended."""
        self._connecting.pop(channel, None)

    def forget(self, channel: Channel) -> None:
        """The connection is closed."""
        self.waiting.discard(channel)
        self.associated.discard(channel)
        if self._shares is not None and channel in self._shared:
            self._shares.give_share_back(self._shared.pop(channel))
        if self.emptied is not None and self.is_empty:
            self.emptied()

    @property
    def is_behind_proxies(self) -> bool:
        """Whether there may be a balancer before us."""
        return bool(self._access.proxies)

    def drain(self, idle: float) -> None:
        """Release associations that are idle for so many seconds, also those that are yet to be accepted."""
        self._drain_idle = idle
        for channel in self.associated:
            channel.drain(idle)

    @property
    def is_empty(self) -> bool:
        """Whether there is no connection."""
        return not len(self.waiting) and not len(self.associated)

    # associations

    def admit(self, channel: Channel, request: AAssociateRQ) -> None:
        """Answer a request for an association, now or when the user identity has been judged."""
        certificate = certificate_of(channel.transport.get_extra_info("ssl_object"))
        verdict = judge(self._access, request, channel.transport.peer[0], certificate)
        if isinstance(verdict, Refusal):
            self._refuse(channel, verdict)
        elif self._access.user_identity is not None:
            self._spawn(self._identify(channel, request, verdict, self._access.user_identity, certificate))
        else:
            self._answer(channel, request, verdict, None, certificate)

    async def _identify(
        self,
        channel: Channel,
        request: AAssociateRQ,
        grant: Grant,
        check: UserIdentityCheck,
        certificate: Certificate | None,
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
        self._answer(channel, request, grant, response if wanted else None, certificate)

    def _exceeded(self, host: str, keys: tuple[Hashable, ...]) -> str | None:
        """Which limit one more association with these keys would exceed, or None."""
        limits, associated = self._limits, self.associated
        if self.is_closed:
            return _CLOSING
        if len(associated) >= limits.maximum_associations:
            return "too many associations"
        for what, key, limit in self._bounds(host, keys):
            if associated.count(key) >= limit:
                return f"too many associations of {what}"
        return None

    def _bounds(self, host: str, keys: tuple[Hashable, ...]) -> list[tuple[str, Hashable, int]]:
        """Give what else bounds associations with these keys: whose, what they are counted by, how many."""
        limits = self._limits
        bounds: list[tuple[str, Hashable, int]] = []
        if _STRANGER in keys and self._access.knows_anybody:
            bounds.append((_OF_STRANGERS, _STRANGER, _share(limits.maximum_associations)))
        if not is_local(host):
            whose = ("this address", "this AE title")
            numbers = (limits.maximum_associations_per_address, limits.maximum_associations_per_ae_title)
            for what, key, limit in zip(whose, keys, numbers, strict=False):
                if limit is not None:
                    bounds.append((what, key, limit))
        return bounds

    def _answer(
        self,
        channel: Channel,
        request: AAssociateRQ,
        grant: Grant,
        identity_response: bytes | None,
        certificate: Certificate | None,
    ) -> None:
        host = channel.transport.peer[0]
        keys = self._keys(host, request.calling_ae_title, certificate)
        exceeded = self._exceeded(host, keys)
        accept = partial(self._accept, channel, request, grant, identity_response, keys)
        if exceeded is not None:
            self._refuse(channel, Refusal(LOCAL_LIMIT_EXCEEDED, exceeded))
        elif self._shares is None:
            accept()
        else:
            self._spawn(self._take_share(self._shares, channel, keys, accept))

    async def _take_share(
        self,
        shares: HandedListener,
        channel: Channel,
        keys: tuple[Hashable, ...],
        accept: Callable[[], None],
    ) -> None:
        """Accept it if the limits hold for all processes together, with what the others have."""
        bounds = self._bounds(channel.transport.peer[0], keys)
        wanted = [("associations", self._limits.maximum_associations)]
        wanted += [(f"associations of {what} ({key!r})", limit) for what, key, limit in bounds]
        try:
            number, exceeded = await shares.take_share(wanted)
        except (OSError, TimeoutError) as error:
            if channel.failure is None:
                why = "it is unknown what the other processes have"
                self._refuse(channel, Refusal(LOCAL_LIMIT_EXCEEDED, why), error)
            return
        if exceeded is not None and channel.failure is None:
            why = f"in all processes together, there are too many {exceeded.partition(' (')[0]}"
            self._refuse(channel, Refusal(LOCAL_LIMIT_EXCEEDED, why))
        elif self.is_closed and channel.failure is None:
            shares.give_share_back(number)
            self._refuse(channel, Refusal(LOCAL_LIMIT_EXCEEDED, _CLOSING))
        elif channel.failure is not None:
            shares.give_share_back(number)
        else:
            self._shared[channel] = number
            accept()

    def _accept(
        self,
        channel: Channel,
        request: AAssociateRQ,
        grant: Grant,
        identity_response: bytes | None,
        keys: tuple[Hashable, ...],
    ) -> None:
        policy, answered = self._offered(grant)
        verdict = answer(request, policy, user_identity_response=identity_response, answered=answered)
        if isinstance(verdict, AAssociateRJ):
            self._refuse(channel, Refusal(verdict, "the request cannot be taken"))
            return
        self.waiting.discard(channel)
        self.associated.add(channel, *keys)
        counters.associations_accepted += 1
        channel.accept(*verdict, self._dispatcher(channel, grant))
        if self._drain_idle is not None:
            channel.drain(self._drain_idle)
        log.info("%s: association established", channel)
        if grant.services is not None:
            _note_denied(channel, request, verdict[0], self._contexts)

    def _keys(
        self, host: str, calling_ae_title: str, certificate: Certificate | None
    ) -> tuple[Hashable, ...]:
        """What an association is counted by. An AE title alone is what anybody can call himself."""
        origin = origin_of(host)
        who = origin if certificate is None else certificate.fingerprint
        is_known = self._access.knows(calling_ae_title, host, certificate)
        keys: tuple[Hashable, ...] = (("address", origin), ("AE title", calling_ae_title, who))
        return keys if is_known else (*keys, _STRANGER)

    def _offered(self, grant: Grant) -> tuple[Policy, Answered]:
        """What those with this grant are offered; they share the answers, too."""
        found = self._offers.get(grant.services)
        if found is None:
            found = self._offers[grant.services] = self._permitted(grant), {}
        return found

    def _permitted(self, grant: Grant) -> Policy:
        return permitted(self._offer, grant, self._contexts.performed_by, self._contexts.invoked_by)

    def _refuse(self, channel: Channel, refusal: Refusal, failure: Exception | None = None) -> None:
        counters.associations_rejected += 1
        channel.reject(refusal.rejection)
        level = logging.ERROR if failure is not None else logging.WARNING
        rejection = "/".join(map(str, refusal.rejection))
        log.log(level, "%s: refused: %s (%s)", channel, refusal.why, rejection, exc_info=failure)


def _note_denied(channel: Channel, request: AAssociateRQ, accept: AAssociateAC, contexts: Contexts) -> None:
    proposed = {context.context_id: context.abstract_syntax for context in request.presentation_contexts}
    denied: set[str] = set()
    for result in accept.presentation_contexts:
        if result.result == USER_REJECTION:
            uid = proposed[result.context_id]
            denied |= contexts.performed_by.get(uid) or contexts.invoked_by.get(uid) or {"store"}
    if denied:
        log.warning("%s: refused contexts: no permission for %s", channel, ", ".join(sorted(denied)))


def _share(maximum: int) -> int:
    """What strangers may have of it."""
    return int(maximum * _STRANGERS_SHARE)
