"""TLS sessions of the peers that were called before.

With one the next handshake costs no signature and no certificates (RFC 8446 2.2), and where it is by TLS 1.2
one round trip instead of two (RFC 5246 7.3).
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Hashable

__all__ = ["SESSIONS", "Sessions", "resuming"]

_MAXIMUM = 256  # sessions that are kept
# Seconds. A session stands for a certificate that was verified when it began, so it is not kept for long.
_LIFETIME = 900.0


class _Kept(NamedTuple):
    session: ssl.SSLSession
    until: float


class Sessions:
    """Keeps one session for each peer and context, for a quarter of an hour. Time is an argument, in seconds.

    Only the context that a session was made with gets it, for the same address and the same name of the
    certificate, and only while it asks for the same verification by the same trusted certificates and
    revocation lists: a resumed session is not verified again.
    """

    def __init__(self, maximum: int = _MAXIMUM, lifetime: float = _LIFETIME) -> None:
        self._maximum = maximum
        self._lifetime = lifetime
        self._kept: dict[Hashable, _Kept] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def get(
        self, context: ssl.SSLContext, where: tuple[str, int], name: str, now: float
    ) -> ssl.SSLSession | None:
        """Give the session to resume with a peer; `name`: the one that its certificate must have."""
        kept = self._kept.get(_key(context, where, name))
        return kept.session if kept is not None and now < kept.until else None

    def keep(
        self,
        context: ssl.SSLContext,
        where: tuple[str, int],
        name: str,
        connection: object,
        now: float,
    ) -> None:
        """Keep the session of an "ssl_object", if it can be resumed, in the place of an older one.

        With TLS 1.3 a server sends it behind its part of the handshake: so it is there with the first answer.
        """
        session = connection.session if isinstance(connection, ssl.SSLObject) else None
        if session is None:
            return
        self._forget_old(now)
        key = _key(context, where, name)
        kept = self._kept.pop(key, None)
        # A resumed session is as old as the handshake in which the certificate was verified.
        is_same_age = kept is not None and isinstance(connection, ssl.SSLObject) and connection.session_reused
        until = kept.until if kept is not None and is_same_age else now + self._lifetime
        if len(self._kept) >= self._maximum:
            del self._kept[next(iter(self._kept))]
        self._kept[key] = _Kept(session, until)

    def forget(self, context: ssl.SSLContext, where: tuple[str, int], name: str) -> None:
        """Forget the session with a peer: it does not get along with it."""
        self._kept.pop(_key(context, where, name), None)

    def clear(self) -> None:
        """Forget all."""
        self._kept.clear()

    def _forget_old(self, now: float) -> None:
        for key in [key for key, kept in self._kept.items() if now >= kept.until]:
            del self._kept[key]


def _key(context: ssl.SSLContext, where: tuple[str, int], name: str) -> Hashable:
    trusted = tuple(context.cert_store_stats().values())
    return context, where, name, context.verify_mode, context.check_hostname, context.verify_flags, trusted


class _Resuming:
    """A context whose connections begin with a session. Event loops ask a context for nothing but `wrap_bio`,
    and take no session themselves.
    """

    def __init__(self, context: ssl.SSLContext, session: ssl.SSLSession) -> None:
        self._context = context
        self._session = session

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | None = None,
    ) -> ssl.SSLObject:
        return self._context.wrap_bio(incoming, outgoing, server_side, server_hostname, session=self._session)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


def resuming(context: ssl.SSLContext, session: ssl.SSLSession | None) -> Any:
    """Give what `create_connection` takes as `ssl`: the context, with the session it begins with."""
    return context if session is None else _Resuming(context, session)


SESSIONS = Sessions()
"""Those of this process."""
