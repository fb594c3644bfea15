"""What a port speaks, asked by a few bytes that change nothing at the peer."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator

from asyncdicom.services.contexts import expand
from asyncdicom.uid import VERIFICATION
from asyncdicom.ul.negotiation import propose
from asyncdicom.ul.pdu import A_ABORT, A_ASSOCIATE_AC, A_ASSOCIATE_RJ, AAbort

__all__ = ["connection", "speaks_dicom", "speaks_tls"]

_ANSWERS = (A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ABORT)


@contextlib.asynccontextmanager
async def connection(
    host: str,
    port: int,
    timeout: float | None,
    *,
    ssl: ssl.SSLContext | None = None,
    server_hostname: str | None = None,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect within `timeout` seconds, and close in the end; raises OSError (also of `ssl`)."""
    async with asyncio.timeout(timeout):
        reader, writer = await asyncio.open_connection(host, port, ssl=ssl, server_hostname=server_hostname)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()  # nobody waits for a TLS peer that does not say goodbye
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def speaks_tls(host: str, port: int, timeout: float | None) -> bool:
    """Whether the port answers a TLS handshake, by whatever certificate, or refuses it as TLS does."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        async with connection(host, port, timeout, ssl=context, server_hostname=host):
            return True
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")
    except OSError:
        return False


async def speaks_dicom(host: str, port: int, titles: tuple[str, str], timeout: float | None) -> bool:
    """Whether the port answers an A-ASSOCIATE-RQ without TLS. `titles`: the called and the calling one."""
    called, calling = titles
    request = propose(expand(VERIFICATION), called_ae_title=called, calling_ae_title=calling)
    try:
        async with connection(host, port, timeout) as (reader, writer):
            writer.write(request.encode())
            async with asyncio.timeout(timeout):
                first = await reader.read(1)
            writer.write(AAbort(0, 0).encode())
            return first != b"" and first[0] in _ANSWERS
    except OSError:
        return False
