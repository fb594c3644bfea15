"""`associate`: open an association as its requestor."""

from __future__ import annotations

import asyncio
import ssl as ssl_module
from collections.abc import Iterable

from asyncdicom.access import EVERYTHING
from asyncdicom.address import Address, check_ae_title
from asyncdicom.association import Association
from asyncdicom.exceptions import AssociationClosed, AssociationError, AssociationTimeout
from asyncdicom.net.channel import Channel, Trace
from asyncdicom.net.settings import Settings
from asyncdicom.net.tls import check_context, explain
from asyncdicom.opening import Opening
from asyncdicom.services.builtin import services_for
from asyncdicom.services.contexts import Proposable, expand
from asyncdicom.services.dispatch import Dispatcher
from asyncdicom.services.request import NormalizedHandler, StoreHandler
from asyncdicom.services.service import Service, Services
from asyncdicom.uid import VERIFICATION
from asyncdicom.ul.items import UserIdentity
from asyncdicom.ul.negotiation import propose
from asyncdicom.ul.protocol import Timeouts

__all__ = ["associate"]

DEFAULT_CALLING_AE_TITLE = "ASYNCDICOM"

_LINGER = 1.0  # seconds that a peer has to close the connection of an association that failed


def associate(
    address: str | Address,
    *,
    calling_ae_title: str = DEFAULT_CALLING_AE_TITLE,
    contexts: Proposable | Iterable[Proposable] = (VERIFICATION,),
    ssl: ssl_module.SSLContext | None = None,
    server_hostname: str | None = None,
    user_identity: UserIdentity | None = None,
    c_store: StoreHandler | None = None,
    n_create: NormalizedHandler | None = None,
    n_set: NormalizedHandler | None = None,
    n_get: NormalizedHandler | None = None,
    n_action: NormalizedHandler | None = None,
    n_delete: NormalizedHandler | None = None,
    n_event_report: NormalizedHandler | None = None,
    services: Iterable[Service] = (),
    # Sizes, in bytes, and numbers.
    maximum_associate_length: int = 262144,
    maximum_length: int = 262144,
    operations_invoked: int = 1,
    operations_performed: int = 1,
    read_budget: int = 1 << 20,
    maximum_data_set: int = 16 << 20,
    maximum_discarded: int = 1 << 30,
    # Deadlines, in seconds; None is "never".
    connect_timeout: float | None = 10.0,
    acse_timeout: float | None = 30.0,
    close_timeout: float | None = 5.0,
    dimse_timeout: float | None = 120.0,
    release_timeout: float | None = 10.0,
    cancel_timeout: float = 10.0,
    receive_timeout: float | None = 60.0,
    write_timeout: float | None = 30.0,
    handler_timeout: float | None = 120.0,
    idle_timeout: float | None = None,
    # To look inside.
    trace: Trace | None = None,
) -> Opening[Association]:
    """Open an association (PS3.8 7.1): ``async with associate(...)`` or ``await associate(...)``.

    Leaving the block normally releases it; leaving it by an exception or a cancellation aborts it.

    `address`: "AET@host:port". `calling_ae_title`: ours. `contexts`: what to propose, as abstract syntax
    UIDs, information models or `PresentationContext`s (see `Proposable`). `ssl`: a context for TLS;
    `server_hostname`: the name its certificate must have (default: the host). `user_identity`: who asks
    (PS3.7 D.3.3.7). `c_store`: receives the instances of a C-GET. `n_event_report`: performs the event
    reports of the peer, an SCP (PS3.7 10.1.1); `n_create`, `n_set`, `n_get`, `n_action` and `n_delete` its
    requests where we were given the SCP role. `services`: `Service` objects that perform what the peer asks.
    `maximum_length`: the Maximum Length of P-DATA-TF PDUs that we announce; `maximum_associate_length`: the
    longest A-ASSOCIATE PDU, and `maximum_data_set`: the largest data set of a response, that we take.
    `operations_invoked`, `operations_performed`: the Asynchronous Operations Window to propose (proposed only
    if not 1). `read_budget`: how much received data may wait for its handlers before reading pauses;
    `maximum_discarded`: how much of a data set that its handler does not want is waited for.
    `connect_timeout` covers name resolution, TCP and TLS; `acse_timeout` the answer to the A-ASSOCIATE-RQ;
    `dimse_timeout` each response; `release_timeout` what is under way when the association is released, and
    then the answer to the A-RELEASE-RQ; `cancel_timeout` the end of what was cancelled; `receive_timeout` the
    rest of a message that has begun to come; `write_timeout` is how long the peer may take nothing of what is
    sent, `handler_timeout` how long a handler may take nothing of what waits for it. After `idle_timeout`
    without an operation the association is ended; then the peer has `close_timeout` to close the connection.
    `trace`: is called with ("sent" | "received", command or event) for each message.

    Raises `AssociationRejected`, `AssociationAborted`, `AssociationTimeout`, `AssociationClosed` (no
    connection), ValueError (an impossible address, AE title or context), TypeError (a handler of the wrong
    kind). Cancelled: whatever was opened is
    aborted and closed.
    """
    if not isinstance(address, Address):
        address = Address.parse(address)
    request = propose(
        expand(contexts),
        called_ae_title=check_ae_title(address.ae_title),
        calling_ae_title=check_ae_title(calling_ae_title),
        maximum_length=maximum_length,
        operations_invoked=operations_invoked,
        operations_performed=operations_performed,
        user_identity=user_identity,
    )
    settings = Settings(
        maximum_length=maximum_length,
        maximum_associate_length=maximum_associate_length,
        timeouts=Timeouts(
            close=close_timeout,
            association=acse_timeout,
            release=release_timeout,
            receive=receive_timeout,
            idle=idle_timeout,
        ),
        dimse_timeout=dimse_timeout,
        cancel_timeout=cancel_timeout,
        write_timeout=write_timeout,
        handler_timeout=handler_timeout,
        read_budget=read_budget,
        maximum_data_set=maximum_data_set,
        maximum_discarded=maximum_discarded,
    )
    check_context(ssl)
    handlers = {
        "c_store": c_store,
        "n_create": n_create,
        "n_set": n_set,
        "n_get": n_get,
        "n_action": n_action,
        "n_delete": n_delete,
        "n_event_report": n_event_report,
    }
    own = list(services)
    performing = Services([*own, *services_for(handlers, beside=own)])

    async def connect() -> Association:
        loop = asyncio.get_running_loop()
        channel = Channel(loop, requestor=True, settings=settings, trace=trace)
        association = Association(channel, performing)
        # What we have proposed, the peer may ask for.
        channel.associate(request, Dispatcher(association, EVERYTHING, performing))
        try:
            await _connect(loop, channel, address, ssl, server_hostname, connect_timeout)
            await asyncio.shield(channel.established)
        except asyncio.CancelledError:
            channel.abort()
            channel.transport.close()
            raise
        except AssociationError:
            if channel.established.done():  # then there was a connection: nothing of it stays behind
                await channel.wait_closed(_LINGER)
            raise
        return association

    return Opening(connect, _leave)


async def _connect(
    loop: asyncio.AbstractEventLoop,
    channel: Channel,
    address: Address,
    ssl: ssl_module.SSLContext | None,
    server_hostname: str | None,
    timeout: float | None,
) -> None:
    try:
        async with asyncio.timeout(timeout):
            await loop.create_connection(
                lambda: channel.transport,
                address.host,
                address.port,
                ssl=ssl,
                server_hostname=(server_hostname or address.host) if ssl is not None else None,
            )
    except asyncio.CancelledError:
        channel.transport.connection_lost(None)  # the event loop has closed it; uvloop does not say so
        raise
    except TimeoutError as error:
        message = f"{address}: no connection within {timeout:g} s; check host, port and firewall"
        raise AssociationTimeout(message, which="connect") from error
    except OSError as error:
        raise AssociationClosed(f"{address}: {explain(error)}") from error


async def _leave(association: Association, error: BaseException | None) -> None:
    if error is None:
        await association.release()
    else:
        await association.abort()
