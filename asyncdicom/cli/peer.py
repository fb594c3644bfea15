"""The peer of an SCU tool, and TLS as it is asked for on the command line."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from asyncdicom.address import Address
from asyncdicom.telemetry.log import Log

if TYPE_CHECKING:
    import ssl as ssl_module

    from asyncdicom.association import Association
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

    def client(self) -> ssl_module.SSLContext | None:
        """Give the context to connect with; None without TLS. Raises ``click.UsageError``."""
        if not any(self):
            return None
        context = self._context(client=True)
        if not self.trusted:
            context.load_default_certs()
        return context

    def server(self) -> ssl_module.SSLContext | None:
        """Give the context to listen with: with ``+cf``, peers have to show a certificate."""
        if self.identity is None:
            return None
        return self._context(client=False)

    def _context(self, *, client: bool) -> ssl_module.SSLContext:
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT if client else ssl.PROTOCOL_TLS_SERVER)
        if self.ignore:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif self.trusted:
            context.verify_mode = ssl.CERT_REQUIRED
        try:
            if self.identity is not None:
                key, certificate = self.identity
                context.load_cert_chain(certificate, key)
            for file in self.trusted:
                context.load_verify_locations(file)
        except OSError as error:
            files = " ".join((*(self.identity or ()), *self.trusted))
            raise click.UsageError(f"TLS: no usable key and certificates in {files} ({error})") from None
        return context


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
            "ssl": self.tls.client(),
            "server_hostname": self.server_hostname,
        }
        if self.debug:
            from asyncdicom.cli.dump import trace

            options["trace"] = trace
        return options

    @asynccontextmanager
    async def associate(
        self, contexts: Iterable[Proposable], **options: Any
    ) -> AsyncGenerator[Association, None]:
        """Associate as the command line says; `options` are more of those of `associate`."""
        from asyncdicom.client import associate
        from asyncdicom.services.contexts import expand

        proposed = expand(contexts)
        log.info("%s: requesting an association as %s", self.address, self.calling_ae_title)
        async with associate(self.address, contexts=proposed, **self.options(), **options) as association:
            accepted = len(association.contexts)
            log.info("%s: %d of %d presentation contexts accepted", self.address, accepted, len(proposed))
            yield association
