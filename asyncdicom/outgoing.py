"""Associations that a server opens on behalf of its peers: by TLS or not at all, and not too many."""

from __future__ import annotations

import asyncio
import ssl as ssl_module
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

from asyncdicom.address import Address
from asyncdicom.association import Association, Request
from asyncdicom.breaker import Breaker
from asyncdicom.client import associate
from asyncdicom.destination import Destination
from asyncdicom.endings import Endings
from asyncdicom.exceptions import AssociationError
from asyncdicom.net.reasons import NotAttempted
from asyncdicom.net.sources import Source
from asyncdicom.services.responses import Response
from asyncdicom.ul.negotiation import PresentationContext

__all__ = ["OutgoingAssociations", "context_for"]

_PATIENCE = 30.0  # seconds that somebody waits for the turn to open an association
_REMEMBERED = 1000  # destinations that have failed; a function may find any number of them
_LINGER = 1.0  # seconds for what is being released when the server is closed


def context_for(
    destination: Destination, default: ssl_module.SSLContext | None, *, uses_tls: bool
) -> ssl_module.SSLContext | None:
    """Decide how a destination is called: None is in the clear.

    `default`: for one that has no context of its own. Raises `NotAttempted` where nothing may be sent in the
    clear, because we are called by TLS ourselves (`uses_tls`), and the destination does not say otherwise.
    """
    if destination.plain:
        return None
    context = destination.ssl or default
    if context is None and uses_tls:
        raise NotAttempted(
            f"{destination.where}: nothing is sent to it in the clear, because this server uses TLS: "
            "give the destination a TLS context (ssl=), or allow it (plain=True, in a file tls = false)",
            "not sent in the clear by this server; configure TLS",
        )
    return context


class _Line:
    """One destination: who waits for it and who uses it, and whether it is worth trying."""

    __slots__ = ("breaker", "turns", "users")

    def __init__(self, maximum: int) -> None:
        self.breaker = Breaker()
        self.turns = asyncio.Semaphore(maximum)
        self.users = 0


class _Storer:
    """What the C-MOVE provider sends by: an answer shows that the destination works."""

    def __init__(self, association: Association, breaker: Breaker) -> None:
        self.association = association
        self._breaker = breaker
        self.has_answered = False

    @property
    def operations_invoked(self) -> int:
        """See `Association.operations_invoked`."""
        return self.association.operations_invoked

    async def c_store(
        self,
        source: Source,
        *,
        priority: int = 0,
        move_originator: tuple[str, int] | None = None,
        on_sent: Callable[[], None] | None = None,
    ) -> Response:
        """See `Association.c_store`."""
        response = await self.association.c_store(
            source, priority=priority, move_originator=move_originator, on_sent=on_sent
        )
        self.has_answered = True
        self._breaker.succeeded()
        return response


class OutgoingAssociations:
    """Opens the associations of a server to C-MOVE destinations; all of them are opened here.

    `ae_title`: what we call ourselves unless the destination says otherwise. `uses_tls`: nothing leaves in
    the clear unless the destination says so. `ssl`: the context for destinations that have none of their own.
    `maximum`: how many associations may be open in all. `find` gives the destination that a request names.
    """

    def __init__(
        self, ae_title: str, *, uses_tls: bool, ssl: ssl_module.SSLContext | None, maximum: int
    ) -> None:
        self.ssl = ssl
        self.find: Callable[[Request], Destination | None] = lambda request: None
        self._ae_title = ae_title
        self._uses_tls = uses_tls
        self._turns = asyncio.Semaphore(maximum)
        self._lines: dict[Address, _Line] = {}
        self._endings = Endings(_LINGER)

    @asynccontextmanager
    async def open(
        self, destination: Destination, contexts: Sequence[PresentationContext]
    ) -> AsyncGenerator[_Storer, None]:
        """Open an association. Left normally, it is released, which is not waited for; else it is aborted.

        Raises `NotAttempted` when none may be opened (now), or what `associate` raises.
        """
        context = context_for(destination, self.ssl, uses_tls=self._uses_tls)
        line = await self._take_turn(destination)
        try:
            attempt = _begin(line.breaker, destination.where)
            association = await self._associate(destination, context, contexts, line.breaker, attempt)
        except BaseException:
            self._give_turn(destination, line)
            raise
        storer = _Storer(association, line.breaker)
        end = self._endings.abort
        try:
            yield storer
            end = self._endings.release
        finally:
            if association.is_established or storer.has_answered:
                line.breaker.abandoned(attempt)
            else:
                line.breaker.failed(attempt, _now())
            end(association, partial(self._give_turn, destination, line))

    @asynccontextmanager
    async def lend(
        self, destination: Destination, contexts: Sequence[PresentationContext]
    ) -> AsyncGenerator[Association, None]:
        """The same, and gives the whole association: for what is no C-STORE."""
        async with self.open(destination, contexts) as storer:
            yield storer.association

    async def _associate(
        self,
        destination: Destination,
        context: ssl_module.SSLContext | None,
        contexts: Sequence[PresentationContext],
        breaker: Breaker,
        attempt: int,
    ) -> Association:
        try:
            return await associate(
                destination.where,
                calling_ae_title=destination.calling_ae_title or self._ae_title,
                contexts=contexts,
                ssl=context,
                server_hostname=destination.server_hostname if context is not None else None,
                limits=destination.limits,
                timeouts=destination.timeouts,
            )
        except AssociationError:
            breaker.failed(attempt, _now())
            raise
        except BaseException:
            breaker.abandoned(attempt)
            raise

    # turns

    async def _take_turn(self, destination: Destination) -> _Line:
        line = self._lines.get(destination.where)
        if line is None:
            self._forget_one()
            line = self._lines[destination.where] = _Line(destination.maximum_associations)
        line.users += 1
        taken: list[asyncio.Semaphore] = []
        try:
            async with asyncio.timeout(_PATIENCE):
                for turns in (line.turns, self._turns):
                    await turns.acquire()
                    taken.append(turns)
        except BaseException as error:
            for turns in taken:
                turns.release()
            self._leave(destination, line)
            if isinstance(error, TimeoutError):
                full = "to it" if not taken else "to all destinations"
                raise NotAttempted(
                    f"{destination.where}: too many associations are open {full}; see maximum_associations "
                    "of Destination and maximum_outgoing of Limits",
                    f"too many associations are open {full}",
                ) from None
            raise
        return line

    def _give_turn(self, destination: Destination, line: _Line) -> None:
        self._turns.release()
        line.turns.release()
        self._leave(destination, line)

    def _leave(self, destination: Destination, line: _Line) -> None:
        line.users -= 1
        if not line.users and not line.breaker.failures and self._lines.get(destination.where) is line:
            del self._lines[destination.where]

    def _forget_one(self) -> None:
        if len(self._lines) >= _REMEMBERED:
            idle = next((where for where, line in self._lines.items() if not line.users), None)
            if idle is not None:
                del self._lines[idle]

    # the end

    async def close(self) -> None:
        """Abort what does not end by itself within a second."""
        await self._endings.close()


def _begin(breaker: Breaker, where: Address) -> int:
    attempt = breaker.begin(_now())
    if attempt is None:
        wait = breaker.wait(_now())
        when = f"in {wait:.0f} s" if wait else "already"
        raise NotAttempted(
            f"{where}: not called, it failed {breaker.failures} times; it is tried again {when}",
            f"failed {breaker.failures} times; it is tried again {when}",
        )
    return attempt


def _now() -> float:
    return asyncio.get_running_loop().time()
