"""The way to the peer: its name, TCP, TLS, an association, AE titles, presentation contexts."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import AsyncExitStack

from asyncdicom.address import place_of
from asyncdicom.client import associate
from asyncdicom.doctor.causes import (
    Probed,
    cause,
    cause_of_association,
    cause_of_connection,
    cause_of_tls,
    is_about_titles,
)
from asyncdicom.doctor.probe import connection, speaks_dicom, speaks_tls
from asyncdicom.doctor.subject import SERVICES, Failed, Seen, Skipped, Subject, Warned
from asyncdicom.exceptions import AssociationError, AssociationRejected
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from asyncdicom.ul.negotiation import PresentationContext

__all__ = ["association", "contexts", "name", "tcp", "titles", "tls"]

# One context for each transfer syntax: with both in one the peer would choose, and hide what else it takes.
_PROPOSED = [
    PresentationContext(uid, (syntax,))
    for uids in SERVICES.values()
    for uid in uids
    for syntax in (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)
]


async def name(subject: Subject, seen: Seen, stack: AsyncExitStack) -> str:
    """Look the host up."""
    host = subject.address.host
    try:
        async with asyncio.timeout(subject.timeouts.connect):
            found = await asyncio.get_running_loop().getaddrinfo(host, subject.address.port)
    except TimeoutError:
        raise Failed(cause("unknown host name", "the name server does not answer")) from None
    except (OSError, UnicodeError) as error:
        raise Failed(cause("unknown host name", getattr(error, "strerror", "") or str(error))) from None
    return ", ".join(dict.fromkeys(str(where[0]) for *_, where in found))


async def tcp(subject: Subject, seen: Seen, stack: AsyncExitStack) -> str:
    """Connect, and close."""
    host, port = subject.address.host, subject.address.port
    try:
        async with connection(host, port, subject.timeouts.connect):
            return f"{place_of(host, port)} takes connections"
    except OSError as error:
        raise Failed(cause_of_connection(error)) from None


async def tls(subject: Subject, seen: Seen, stack: AsyncExitStack) -> str:
    """Make a TLS handshake, and look whether the port speaks DICOM without, if it fails."""
    if subject.ssl is None:
        raise Skipped("not asked for")
    host, port = subject.address.host, subject.address.port
    timeout = subject.timeouts.connect
    called = subject.server_hostname or host
    try:
        async with connection(host, port, timeout, ssl=subject.ssl, server_hostname=called) as (_, writer):
            session = writer.get_extra_info("ssl_object")
            return f"{session.version()}, {(session.cipher() or ('?',))[0]}"
    except OSError as error:
        plain = None
        if not isinstance(error, ssl.SSLCertVerificationError):
            plain = await speaks_dicom(
                host, port, (subject.address.ae_title, subject.calling_ae_title), timeout
            )
        raise Failed(cause_of_tls(error, Probed(dicom=plain))) from None


async def association(subject: Subject, seen: Seen, stack: AsyncExitStack) -> str:
    """Ask for an association with all contexts; one that is rejected for a title is for the next step."""
    try:
        opened = associate(subject.address, contexts=_PROPOSED, **subject.options())
        seen.association = await stack.enter_async_context(opened)
    except AssociationError as error:
        if is_about_titles(error):
            seen.rejection = error
            return "answered"
        has_answered = isinstance(error, AssociationRejected)
        probed = None
        if subject.ssl is None and not has_answered:
            probed = await speaks_tls(subject.address.host, subject.address.port, subject.timeouts.connect)
        raise Failed(cause_of_association(error, Probed(tls=probed))) from None
    return "accepted"


async def titles(subject: Subject, seen: Seen, stack: AsyncExitStack) -> str:
    """Tell whether the AE titles were taken."""
    if seen.rejection is not None:
        raise Failed(cause_of_association(seen.rejection, Probed()))
    return f"{subject.calling_ae_title} may call {subject.address.ae_title}"


async def contexts(subject: Subject, seen: Seen, stack: AsyncExitStack) -> str:
    """Tell which of the services were accepted, and in which transfer syntaxes."""
    accepted = seen.established.contexts.values()
    offered = {context.abstract_syntax for context in accepted}
    seen.refused = {service for service, uids in SERVICES.items() if offered.isdisjoint(uids)}
    missing = [service for service in subject.services if service in seen.refused]
    if missing:
        taken = ", ".join(service for service in SERVICES if service not in seen.refused) or "nothing"
        raise Failed(cause("no context", f"refused: {', '.join(missing)}; accepted: {taken}"))
    images = [context for context in accepted if context.abstract_syntax in SERVICES["store"]]
    syntaxes = {context.transfer_syntax for context in images or accepted}
    if syntaxes == {IMPLICIT_VR_LITTLE_ENDIAN}:
        raise Warned(cause("Implicit only"))
    return ", ".join(service for service in SERVICES if service not in seen.refused)
