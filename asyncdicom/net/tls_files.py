"""`TlsFiles`: contexts for TLS, made of files, again whenever they are asked for."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

__all__ = ["TlsFiles"]


@dataclass(frozen=True)
class TlsFiles:
    """Keys, certificates and revocation lists in PEM files.

    Each call of `server` and `client` reads them anew: for renewed certificates make the contexts again and
    give them to `Server.renew`.
    """

    certificate: str | None = None
    """Our certificate, with the intermediate ones behind it."""

    key: str | None = None
    """Its private key, without a passphrase; None: in the same file."""

    trusted: tuple[str, ...] = ()
    """Certificates of authorities, or of peers. A server with them asks every caller for a certificate; a
    client without them trusts the authorities of the system."""

    crl: tuple[str, ...] = ()
    """Revocation lists of these authorities. With one, certificates are refused that are on it, and those of
    an authority whose list is missing or out of date."""

    verify: bool = True
    """Whether the certificate of the peer is looked at."""

    def server(self) -> ssl.SSLContext:
        """Make a context to listen with. Raises ValueError, which names the file that is of no use."""
        if self.certificate is None:
            raise ValueError("a server needs a certificate for TLS")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if self.verify and self.trusted:
            context.verify_mode = ssl.CERT_REQUIRED
        elif self.crl:
            raise ValueError("a revocation list is of no use to a server that asks for no certificates")
        return self._loaded(context)

    def client(self) -> ssl.SSLContext:
        """Make a context to connect with. Raises ValueError, which names the file that is of no use."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if not self.verify:
            if self.crl:
                raise ValueError("a revocation list is of no use where certificates are not looked at")
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif not self.trusted:
            context.load_default_certs()
        return self._loaded(context)

    def _loaded(self, context: ssl.SSLContext) -> ssl.SSLContext:
        if self.certificate is not None:
            try:
                context.load_cert_chain(self.certificate, self.key, _no_passphrase)
            except OSError as error:
                files = " and ".join(dict.fromkeys(filter(None, (self.key, self.certificate))))
                raise ValueError(f"TLS: no usable key and certificate in {files}: {_why(error)}") from None
        for file in self.trusted:
            _load(context, file, "certificate", "x509")
        for file in self.crl:
            _load(context, file, "revocation list", "crl")
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        return context


def _no_passphrase() -> str:
    raise ValueError("TLS: the private key has a passphrase; give one without")


def _load(context: ssl.SSLContext, file: str, what: str, kind: str) -> None:
    before = context.cert_store_stats()[kind]
    try:
        context.load_verify_locations(file)
    except OSError as error:
        raise ValueError(f"TLS: no usable {what} in {file}: {_why(error)}") from None
    if context.cert_store_stats()[kind] == before:
        raise ValueError(f"TLS: there is no {what} in {file}, or it was given twice")


def _why(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).replace("_", " ").lower()
    return error.strerror or str(error)
