"""`associate`: open an association as its requestor."""

from __future__ import annotations

import asyncio
import ssl as ssl_module
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Unpack

from asyncdicom.access import EVERYTHING
from asyncdicom.address import Address, check_ae_title
from asyncdicom.association import Association
from asyncdicom.exceptions import (
    AssociationAborted,
    AssociationClosed,
    AssociationError,
    AssociationRejected,
    AssociationTimeout,
)
from asyncdicom.net.channel import Channel, Trace
from asyncdicom.net.networks import loop_for
from asyncdicom.net.tls import check_context, explain
from asyncdicom.opening import Opening, is_answer
from asyncdicom.options import Limits, Timeouts, explains_options, of_role
from asyncdicom.services.builtin import services_for
from asyncdicom.services.contexts import Proposable, expand
from asyncdicom.services.dispatch import Dispatcher
from asyncdicom.services.request import NormalizedHandlers, StoreHandler
from asyncdicom.services.service import Service, Services
from asyncdicom.telemetry.log import Log
from asyncdicom.uid import VERIFICATION
from asyncdicom.ul.items import UserIdentity
from asyncdicom.ul.negotiation import propose
from asyncdicom.ul.pdu import AAssociateRQ
from asyncdicom.windows import WINDOWS

__all__ = ["associate"]

log = Log("asyncdicom.association")

DEFAULT_CALLING_AE_TITLE = "ASYNCDICOM"

_LINGER = 1.0  # seconds that a peer has to close the connection of an association that failed


@explains_options
def associate(
    address: str | Address,
    *,
    calling_ae_title: str = DEFAULT_CALLING_AE_TITLE,
    contexts: Proposable | Iterable[Proposable] = (VERIFICATION,),
    ssl: ssl_module.SSLContext | None = None,
    server_hostname: str | None = None,
    user_identity: UserIdentity | None = None,
    c_store: StoreHandler | None = None,
    services: Iterable[Service] = (),
    timeouts: Timeouts = Timeouts(),
    limits: Limits = Limits(),
    trace: Trace | None = None,
    **normalized: Unpack[NormalizedHandlers],
) -> Opening[Association]:
    """Open an association (PS3.8 7.1): `async with associate(...)` or `await associate(...)`.

    Leaving the block normally releases it, and so does a `StatusError`: a Failure is an answer, and nothing
    is wrong with the association. Leaving it by another exception or a cancellation aborts it.

    `address`: the peer, "AET@host:port". `calling_ae_title`: ours. `contexts`: what to propose (PS3.8
    7.1.1.13), as abstract syntax UIDs, information models or `PresentationContext`s (see `Proposable`).
    `ssl`: a context for TLS; for a quarter of an hour its sessions are resumed, so the next association costs
    less. `server_hostname`: the name that the peer's certificate must have, by default the host.
    `user_identity`: who asks (PS3.7 D.3.3.7). `c_store`: receives the instances of a C-GET.
    `n_event_report`: performs the event reports of the peer, an SCP (PS3.7 10.1.1); `n_create`, `n_set`,
    `n_get`, `n_action` and `n_delete` its requests where we were given the SCP role. `services`: `Service`
    objects that perform what the peer asks. `timeouts`: how long to wait for what, in seconds, and `limits`:
    how much to take; each field of `Timeouts` and `Limits` says what exceeding it leads to. `trace`: is
    called with ("sent" | "received", command or event) for each message.

    Raises `AssociationRejected`, `AssociationAborted`, `AssociationTimeout`, `AssociationClosed` (no
    connection), ValueError (an impossible address, AE title or context), TypeError (a handler of the wrong
    kind). Cancelled: whatever was opened is aborted and closed.

    An operations window is proposed (`Limits.operations_invoked`, `operations_performed`; PS3.7 D.3.3.3). A
    peer that rejects without a reason, aborts, closes or does not answer is asked again without one, once,
    and for an hour none is proposed to it. A rejection by the service user is final where there is a
    `user_identity`: it is for that, and a wrong password is not sent twice.
    """
    if not isinstance(address, Address):
        address = Address.parse(address)
    request = propose(
        expand(contexts),
        called_ae_title=check_ae_title(address.ae_title),
        calling_ae_title=check_ae_title(calling_ae_title),
        maximum_length=limits.maximum_length,
        operations_invoked=limits.operations_invoked,
        operations_performed=of_role(limits.operations_performed, requestor=True),
        user_identity=user_identity,
    )
    check_context(ssl)
    name = server_hostname or address.host
    own = list(services)
    performing = Services([*own, *services_for({"c_store": c_store, **normalized}, beside=own)])

    async def ask(request: AAssociateRQ) -> Association | AssociationError:
        """Give what became of a request that was sent; raise why none could be."""
        loop = loop_for(address.host)
        channel = Channel(
            loop,
            requestor=True,
            timeouts=timeouts,
            limits=limits,
            on_ended=partial(_ended, address),
            trace=trace,
        )
        association = Association(channel, performing)
        # What we have proposed, the peer may ask for.
        channel.associate(request, Dispatcher(association, EVERYTHING, performing))
        try:
            await _connect(loop, channel, address, ssl, name, timeouts.connect)
            await asyncio.shield(channel.established)
            if ssl is not None:
                _keep_session(loop, channel, address, ssl, name)
        except asyncio.CancelledError:
            channel.abort()
            channel.transport.close()
            raise
        except AssociationError as error:
            if not channel.established.done():
                raise
            await channel.wait_closed(_LINGER)  # there was a connection: nothing of it stays behind
            return error
        return association

    return Opening(partial(_associate, address, request, ask), _leave)


_BY_USER = 1
_SAID_WHY = {(1, 2), (1, 3), (1, 7), (2, 2), (3, 1), (3, 2)}  # source and reason (PS3.8 Table 9-21)


async def _associate(
    address: Address,
    request: AAssociateRQ,
    ask: Callable[[AAssociateRQ], Awaitable[Association | AssociationError]],
) -> Association:
    """Ask for an association; without the operations window, if that may be what it failed for.

    A peer that minds the window rejects without a reason, aborts, closes or does not answer. It is asked once
    more, at once; what came of it is remembered, so that the next association costs one request again.
    """
    time = asyncio.get_running_loop().time
    without = request._replace(user_information=request.user_information._replace(operations_window=None))
    is_plain = request == without or not WINDOWS.may_propose(address, time())
    outcome = await ask(without if is_plain else request)
    if isinstance(outcome, Association):
        return outcome
    if is_plain or not _may_mind_window(outcome, request) or not WINDOWS.may_ask_again(address, time()):
        raise outcome
    log.info("%s: %s; it is asked again without an operations window", address, outcome)
    second = await ask(without)
    if isinstance(second, AssociationError):
        WINDOWS.cleared(address, time())
        raise second
    WINDOWS.minds(address, time())
    return second


def _may_mind_window(error: AssociationError, request: AAssociateRQ) -> bool:
    if isinstance(error, AssociationRejected):
        if request.user_information.user_identity is not None and error.source == _BY_USER:
            return False  # for who asks, more likely; and a wrong password must not count twice
        return (error.source, error.reason) not in _SAID_WHY
    if isinstance(error, AssociationTimeout):
        return error.which == "acse"
    if isinstance(error, AssociationAborted):
        return not error.message  # it was the peer, and not we who did not understand its answer
    return not isinstance(error.__cause__, ssl_module.SSLError)


def _ended(address: Address, channel: Channel) -> None:
    """See whether an association has ended because several operations were outstanding."""
    is_broken = channel.core.is_broken_by_window
    if is_broken is not False and WINDOWS.lost(address, channel.time(), is_certain=is_broken is True):
        log.warning(
            "%s: it ended an association when several operations were outstanding, and is sent one at a time "
            "from now on (for an hour)",
            address,
        )


async def _connect(
    loop: asyncio.AbstractEventLoop,
    channel: Channel,
    address: Address,
    ssl: ssl_module.SSLContext | None,
    name: str,
    timeout: float | None,
) -> None:
    """Open the connection."""
    where = address.host, address.port
    try:
        async with asyncio.timeout(timeout):
            if ssl is None:
                await loop.create_connection(lambda: channel.transport, *where)
            else:
                await _connect_by_tls(loop, channel, where, ssl, name)
    except asyncio.CancelledError:
        channel.transport.connection_lost(None)  # the event loop has closed it; uvloop does not say so
        raise
    except TimeoutError as error:
        message = f"{address}: no connection within {timeout:g} s; check host, port and firewall"
        raise AssociationTimeout(message, which="connect") from error
    except OSError as error:
        raise AssociationClosed(f"{address}: {explain(error)}") from error


# Those who do not use TLS do not load what keeps its sessions.


async def _connect_by_tls(
    loop: asyncio.AbstractEventLoop,
    channel: Channel,
    where: tuple[str, int],
    ssl: ssl_module.SSLContext,
    name: str,
) -> None:
    """Open the connection with the session of the last one, and without if the peer minds that."""
    from asyncdicom.net.tls_sessions import SESSIONS, resuming

    async def open_with(session: ssl_module.SSLSession | None) -> None:
        context = resuming(ssl, session)
        await loop.create_connection(lambda: channel.transport, *where, ssl=context, server_hostname=name)

    session = SESSIONS.get(ssl, where, name, loop.time())
    try:
        await open_with(session)
    except (ssl_module.SSLError, ConnectionResetError, ConnectionAbortedError):
        if session is None:
            raise
        SESSIONS.forget(ssl, where, name)
        await open_with(None)


def _keep_session(
    loop: asyncio.AbstractEventLoop,
    channel: Channel,
    address: Address,
    ssl: ssl_module.SSLContext,
    name: str,
) -> None:
    from asyncdicom.net.tls_sessions import SESSIONS

    connection = channel.transport.get_extra_info("ssl_object")
    SESSIONS.keep(ssl, (address.host, address.port), name, connection, loop.time())


async def _leave(association: Association, error: BaseException | None) -> None:
    if error is None or is_answer(error):
        await association.release()
    else:
        await association.abort()
