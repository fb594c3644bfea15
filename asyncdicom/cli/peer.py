"""The peer of an SCU tool, and TLS as it is asked for on the command line."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from asyncdicom.address import Address
from asyncdicom.cli.traced import trace_of
from asyncdicom.telemetry.log import Log

if TYPE_CHECKING:
    import ssl as ssl_module

    from asyncdicom.association import Association
    from asyncdicom.endings import Endings
    from asyncdicom.net.tls_files import TlsFiles
    from asyncdicom.options import Limits, Timeouts
    from asyncdicom.services.contexts import Proposable
    from asyncdicom.ul.items import UserIdentity

__all__ = ["Peer", "Tls"]

log = Log("asyncdicom.cli")


class Tls(NamedTuple):
    """The TLS options; `identity` is a key file and a certificate file."""

    system: bool = False
    identity: tuple[str, str] | None = None
    trusted: tuple[str, ...] = ()
    ignore: bool = False
    crl: tuple[str, ...] = ()

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> Tls:
        """Give what the options say; a server has no ``--tls``."""
        names = ("identity", "trusted", "ignore_peer_cert", "crl")
        return cls(parameters.get("tls", False), *(parameters[name] for name in names))

    def client(self) -> ssl_module.SSLContext | None:
        """Give the context to connect with; None without TLS. Raises ``click.UsageError``."""
        return self._made(self.files().client) if any(self) else None

    def server(self) -> ssl_module.SSLContext | None:
        """Give the context to listen with: with ``+cf``, peers have to show a certificate."""
        return None if self.identity is None else self._made(self.files().server)

    def for_destinations(self) -> ssl_module.SSLContext | None:
        """Give the context by which a server calls others: their certificates are always looked at."""
        if self.identity is None:
            return None
        from dataclasses import replace  # which most tools never need

        return self._made(replace(self.files(), verify=True).client)

    def files(self) -> TlsFiles:
        """Give the files."""
        from asyncdicom.net.tls_files import TlsFiles

        key, certificate = self.identity or (None, None)
        return TlsFiles(certificate, key, self.trusted, self.crl, verify=not self.ignore)

    def _made(self, make: Callable[[], ssl_module.SSLContext]) -> ssl_module.SSLContext:
        try:
            return make()
        except ValueError as error:
            raise click.UsageError(str(error)) from None


class Peer(NamedTuple):
    """Whom to associate with, and how."""

    address: Address
    calling_ae_title: str
    timeouts: Timeouts
    limits: Limits
    user_identity: UserIdentity | None
    tls: Tls
    server_hostname: str | None
    debug: bool

    def options(self) -> dict[str, Any]:
        """Give the options for `associate`."""
        options: dict[str, Any] = {
            "timeouts": self.timeouts,
            "limits": self.limits,
            "user_identity": self.user_identity,
            "calling_ae_title": self.calling_ae_title,
            "ssl": _client_context(self.tls),
            "server_hostname": self.server_hostname,
        }
        trace = trace_of(self.debug)
        if trace is not None:
            options["trace"] = trace
        return options

    @asynccontextmanager
    async def associate(
        self, contexts: Iterable[Proposable], *, endings: Endings | None = None, **options: Any
    ) -> AsyncGenerator[Association, None]:
        """Associate as the command line says; `options` are more of those of `associate`.

        With `endings` the block is left without waiting for the end of a release.
        """
        from asyncdicom.client import associate
        from asyncdicom.services.contexts import expand

        proposed = expand(contexts)
        log.info("%s: requesting an association as %s", self.address, self.calling_ae_title)
        opening = associate(self.address, contexts=proposed, **self.options(), **options)
        async with opening if endings is None else endings.instead_of(opening) as association:
            accepted = len(association.contexts)
            log.info("%s: %d of %d presentation contexts accepted", self.address, accepted, len(proposed))
            yield association


@cache
def _client_context(tls: Tls) -> ssl_module.SSLContext | None:
    """One for all associations of a tool: so the next one may resume the session of the one before."""
    return tls.client()
