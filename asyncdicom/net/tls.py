"""TLS handshakes of a server, a few at a time, and what TLS tells about a peer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable

from asyncdicom.access import Certificate, certificate_name

__all__ = ["Handshakes", "certificate_of", "check_context", "explain", "explain_loss", "severity"]

_RECORD_HEADER = 5
_HANDSHAKE = 0x16
_LONGEST_RECORD = 1 << 14
_SHORTEST_HANDSHAKE = 0.1  # what is left of the time, when waiting for the turn was not the peer's fault
_TURN = 100  # passes of the event loop; it takes about five
_OTHERS = {
    0x01: "DICOM without TLS",
    0x0D: "a PROXY header before TLS",
    **dict.fromkeys(b"GHDOCT", "HTTP without TLS"),
    ord("P"): "HTTP without TLS, or a PROXY header before it",
    ord("S"): "SSH",
}


class Handshakes:
    """Performs the TLS handshakes of accepted connections, at most `maximum` at a time.

    What a handshake costs is the signature that a ClientHello asks for, a millisecond or more in which
    nobody else is served. So a connection waits until its ClientHello has come, without a buffer, and then
    for its turn; the turn ends when the ClientHello was answered. A peer that stalls never keeps one.
    """

    def __init__(self, context: ssl.SSLContext, maximum: int, timeout: float) -> None:
        self.context = context  # another one is used by the handshakes that begin afterwards
        self._turns = asyncio.Semaphore(maximum)
        self._timeout = timeout

    async def perform(self, factory: Callable[[], asyncio.BaseProtocol], connection: socket.socket) -> None:
        """Make a TLS connection of it; the time that the peer may take does not run while it waits.

        Raises OSError (TimeoutError, `ssl.SSLError`). Raising or cancelled, it leaves the socket to be
        closed.
        """
        loop = asyncio.get_running_loop()
        begun = loop.time()
        try:
            async with asyncio.timeout(self._timeout):
                await _client_hello(loop, connection)
        except TimeoutError:
            raise TimeoutError("no TLS handshake came in time") from None
        left = self._timeout - (loop.time() - begun)
        await self._turns.acquire()
        try:
            handshake = loop.create_task(
                loop.connect_accepted_socket(
                    factory,
                    connection,
                    ssl=self.context,
                    ssl_handshake_timeout=max(left, _SHORTEST_HANDSHAKE),
                )
            )
            try:
                await _taken(connection, handshake)
            except asyncio.CancelledError:
                handshake.cancel()
                await asyncio.wait([handshake])
                raise
        finally:
            self._turns.release()
        await handshake


async def _client_hello(loop: asyncio.AbstractEventLoop, connection: socket.socket) -> None:
    """Wait until the whole first record can be read, and leave it there."""
    wanted = 1
    while True:
        await _readable(loop, connection, wanted)
        there = connection.recv(_LONGEST_RECORD, socket.MSG_PEEK)
        wanted = _missing(there, wanted)
        if not wanted:
            return


def _missing(there: bytes, awaited: int) -> int:
    """How long what has come has to become to be a ClientHello; 0 if it is one, as far as can be known."""
    if not there:
        raise ConnectionResetError("closed by the peer")
    if there[0] != _HANDSHAKE:
        what = _OTHERS.get(there[0], f"something that begins with {there[0]:02X}H")
        raise ConnectionError(f"no TLS handshake; the peer speaks {what}")
    if len(there) < awaited:  # the peer has closed its half, or there is no waiting for a number of bytes
        return 0
    if len(there) < _RECORD_HEADER:
        return _RECORD_HEADER
    length = _RECORD_HEADER + int.from_bytes(there[3:_RECORD_HEADER], "big")
    if length > _LONGEST_RECORD:
        raise ConnectionError("no TLS handshake; the first record is too long")
    return length if len(there) < length else 0


async def _readable(loop: asyncio.AbstractEventLoop, connection: socket.socket, count: int) -> None:
    """Wait until so many bytes can be read, or the peer has closed."""
    if count > 1:
        _set_low_water(connection, count)
    ready = loop.create_future()
    loop.add_reader(connection, _set_result, ready)
    try:
        await ready
    finally:
        loop.remove_reader(connection)
        if count > 1:
            _set_low_water(connection, 1)


def _set_result(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _set_low_water(connection: socket.socket, count: int) -> None:
    # Where there is no such option, fewer bytes have to do: then the turn comes too early.
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)


async def _taken(connection: socket.socket, handshake: asyncio.Task[object]) -> None:
    """Wait until what had come was read: in the same step the event loop has computed the answer."""
    for _ in range(_TURN):
        await asyncio.sleep(0)
        try:
            if handshake.done() or not connection.recv(1, socket.MSG_PEEK):
                return
        except OSError:  # BlockingIOError: nothing is left
            return


def check_context(context: object) -> None:
    """Raise TypeError for what `ssl=` cannot be."""
    if context is not None and not isinstance(context, ssl.SSLContext):
        raise TypeError(
            f"ssl= takes an ssl.SSLContext, such as ssl.create_default_context(), not {context!r:.100}"
        )


def certificate_of(connection: object) -> Certificate | None:
    """The certificate that the peer at the other end of an "ssl_object" has shown and that was verified."""
    if not isinstance(connection, ssl.SSLObject) or connection.context.verify_mode is ssl.CERT_NONE:
        return None
    encoded = connection.getpeercert(binary_form=True)
    if not encoded:
        return None
    names = (connection.getpeercert() or {}).get("subjectAltName", ())
    known = (certificate_name(_KINDS[str(n[0])], str(n[1])) for n in names if n[0] in _KINDS)
    import hashlib  # which only a server needs, for each certificate that it is shown

    return Certificate(hashlib.sha256(encoded).hexdigest(), frozenset(known))


# The kinds of Subject Alternative Names that Python tells, as they are written in a configuration.
_KINDS = {"DNS": "dns", "IP Address": "ip", "URI": "uri", "email": "email"}


def severity(error: OSError) -> int:
    """How loudly to tell why a connection to a server failed: a peer that should get in will try again."""
    is_certificate = isinstance(error, ssl.SSLCertVerificationError)
    return logging.WARNING if is_certificate or _shows_no_certificate(error) else logging.INFO


def _shows_no_certificate(error: OSError) -> bool:
    return isinstance(error, ssl.SSLError) and error.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE"


def explain(error: OSError) -> str:
    """Say in one line why a connection, or its TLS handshake, failed."""
    if isinstance(error, ConnectionRefusedError):
        return "connection refused; is the peer running, and is the port right?"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS: the certificate of the peer was not accepted ({error.verify_message})"
    if _shows_no_certificate(error):
        return "TLS: the peer shows no certificate, which it is asked for"
    if isinstance(error, ssl.SSLError):
        reason = error.reason or ""
        if "_ALERT_" in reason:
            alert = reason.split("_ALERT_")[1].replace("_", " ").lower()
            advice = "; it asks for a certificate of ours" if alert == "certificate required" else ""
            return f"TLS: refused by the peer ({alert}){advice}"
        return f"TLS handshake failed ({error.reason or error}); does the peer speak TLS on this port?"
    # asyncio says nothing
    return error.strerror or str(error) or f"the peer broke off the TLS handshake; {_ASKS_FOR_A_CERTIFICATE}"


_ASKS_FOR_A_CERTIFICATE = "does it ask for a certificate of ours, and trust it?"


def explain_loss(error: Exception | None, *, is_established: bool, is_tls: bool) -> str:
    """Say how the peer closed the connection of an association, as the end of a line."""
    if isinstance(error, ssl.SSLError):
        return f"the connection: {explain(error)}"
    if is_established:
        return "the connection without a release"
    if is_tls:
        return f"the TLS connection instead of answering; {_ASKS_FOR_A_CERTIFICATE}"
    return "the connection instead of answering; does it know us, and does its port want TLS?"
