"""`serve`: accept associations and perform what is asked on them."""

from __future__ import annotations

import asyncio
import socket
import ssl as ssl_module
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

from asyncdicom.access import AccessPolicy, Peers
from asyncdicom.address import Address
from asyncdicom.admission import Admission
from asyncdicom.association import Association
from asyncdicom.destination import Destination, as_destination
from asyncdicom.net.channel import Channel, Trace
from asyncdicom.net.descriptors import missing_descriptors
from asyncdicom.net.listener import Acceptor, bind
from asyncdicom.net.tls import Handshakes, explain, severity
from asyncdicom.opening import Opening
from asyncdicom.options import Limits, Timeouts, explains_options, of_role
from asyncdicom.outgoing import OutgoingAssociations
from asyncdicom.services.contexts import Proposable
from asyncdicom.services.dispatch import Dispatcher
from asyncdicom.services.handlers import (
    EchoHandler,
    FindHandler,
    Handlers,
    Request,
    RetrieveHandler,
    StoreHandler,
)
from asyncdicom.services.offered import offer
from asyncdicom.telemetry.log import Log
from asyncdicom.ul.negotiation import Policy

__all__ = ["Server", "serve"]

log = Log("asyncdicom.server")


Destinations = Mapping[str, str | Address | Destination] | Callable[[Request], Address | Destination | None]
_T = TypeVar("_T")

Access = AccessPolicy | Peers


class _Setup(NamedTuple):
    """What `serve` was asked for."""

    handlers: Handlers
    outgoing: OutgoingAssociations
    access: AccessPolicy
    offer: Policy
    timeouts: Timeouts
    limits: Limits
    ssl: ssl_module.SSLContext | None
    trace: Trace | None


@explains_options
def serve(
    address: str | Address,
    *,
    c_echo: EchoHandler | None = None,
    c_store: StoreHandler | None = None,
    c_find: FindHandler | None = None,
    c_get: RetrieveHandler | None = None,
    c_move: RetrieveHandler | None = None,
    destinations: Destinations | None = None,
    destination_ssl: ssl_module.SSLContext | None = None,
    contexts: Iterable[Proposable] | None = None,
    unknown_storage: bool = False,
    access: Access | None = None,
    ssl: ssl_module.SSLContext | None = None,
    sock: socket.socket | None = None,
    reuse_port: bool = False,
    timeouts: Timeouts = Timeouts(),
    limits: Limits = Limits(),
    trace: Trace | None = None,
) -> Opening[Server]:
    """Serve DICOM: ``async with serve(...) as server`` or ``server = await serve(...)``.

    `address`: "AET@host:port"; port 0 takes a free one (`Server.port`). Each service is offered if it
    has a handler: `c_store`, `c_get` and `c_move` are coroutine functions, `c_find` is an asynchronous
    generator; C-ECHO is always offered, and `c_echo` is asked if it is given. `destinations`: the AE
    titles that C-MOVE may send to, each with its "host:port" or a `Destination`, which says how it is called,
    or a function that finds the one for a request; by default the peers of `access` that have an address.
    `destination_ssl`: the context for TLS with those that have none of their own. A server that uses TLS, or
    asks for certificates, sends nothing in the clear: the C-MOVE to a destination that has no context, and
    does not say ``plain=True``, fails with 0xA702 and an Error Comment. `contexts`: the abstract syntaxes to
    accept, by default whatever the handlers imply; `unknown_storage`: also storage SOP classes that are
    not in the standard.

    `access`: who may come and do what, an `AccessPolicy`, or just its `peers`, the AE titles that may
    call; by default anybody may do everything. `ssl`: a context for TLS. `sock`: a listening or bound
    socket to use instead of the address; `reuse_port`: let other processes listen there too.

    `timeouts`: how long to wait for what, in seconds, and `limits`: how many may come, and how much is
    taken of them; each field of `Timeouts` and `Limits` says what exceeding it leads to. `trace`: is called
    with ("sent" | "received", command or event) for each message.

    Raises ValueError (an impossible address or AE title) and OSError (the address cannot be
    listened on). Cancelled while it is opened: nothing listens.

    Leaving the block closes the server (`Server.close`).
    """
    if not isinstance(address, Address):
        address = Address.parse(address)
    policy = access if isinstance(access, AccessPolicy) else AccessPolicy(peers=access)
    outgoing = OutgoingAssociations(
        address.ae_title,
        uses_tls=ssl is not None or policy.asks_for_certificates,
        ssl=destination_ssl,
        maximum=limits.maximum_outgoing,
    )
    outgoing.find = _finder(destinations if destinations is not None else policy.destinations)
    can_move = destinations is not None or policy.destinations
    handlers = Handlers(
        c_echo=c_echo,
        c_store=c_store,
        c_find=c_find,
        c_get=c_get,
        c_move=c_move,
        destination=(lambda request: outgoing.find(request)) if can_move else None,
        open_association=outgoing.open,
    )
    setup = _Setup(
        handlers=handlers,
        outgoing=outgoing,
        access=policy,
        offer=offer(handlers, contexts, unknown_storage)._replace(
            maximum_length=limits.maximum_length,
            operations_invoked=limits.operations_invoked,
            operations_performed=of_role(limits.operations_performed, requestor=False),
        ),
        timeouts=timeouts,
        limits=limits,
        ssl=ssl,
        trace=trace,
    )

    async def start() -> Server:
        return Server(address, [sock] if sock is not None else await bind(address, reuse_port), setup)

    return Opening(start, _leave)


def _finder(destinations: Destinations) -> Callable[[Request], Destination | None]:
    if callable(destinations):
        find = destinations

        def found(request: Request) -> Destination | None:
            where = find(request)
            return None if where is None else as_destination(where)

        return found
    table = {title: as_destination(where).named(title) for title, where in destinations.items()}
    return lambda request: table.get(request.move_destination)


class Server:
    """A listening application entity and its associations."""

    def __init__(self, address: Address, sockets: list[socket.socket], setup: _Setup) -> None:
        self.ae_title = address.ae_title
        self.host = address.host
        self.port: int = sockets[0].getsockname()[1]
        self._setup = setup
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing: asyncio.Task[None] | None = None
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._admission = Admission(
            setup.access, setup.offer, setup.limits, self._spawn, setup.timeouts.handler
        )
        self._waiting, self._associated = self._admission.waiting, self._admission.associated
        self._handshakes = (
            Handshakes(setup.ssl, setup.limits.maximum_tls_handshakes, setup.timeouts.tls_handshake)
            if setup.ssl is not None
            else None
        )
        too_few = missing_descriptors(setup.limits)
        if too_few is not None:
            log.warning("%s", too_few)
        self._acceptors = [Acceptor(listener, self._take) for listener in sockets]
        log.info("%s listens on %s", self.ae_title, address._replace(port=self.port).place)

    @property
    def associations(self) -> int:
        """How many associations are open."""
        return len(self._associated)

    def renew(
        self,
        *,
        ssl: ssl_module.SSLContext | None = None,
        destination_ssl: ssl_module.SSLContext | None = None,
        destinations: Destinations | None = None,
    ) -> None:
        """Use other certificates, or other destinations, from now on; None leaves what there is.

        `ssl`: for the TLS handshakes that begin after this; associations that stand go on. `destination_ssl`
        and `destinations`: as for `serve`, for C-MOVE requests that come after this. Made for certificates
        that were renewed and for revocation lists: make the contexts again (`TlsFiles`), for instance at
        SIGHUP. Raises ValueError, and changes nothing, for a server without TLS that is given `ssl`, and for
        destinations that cannot be understood.
        """
        if ssl is not None and self._handshakes is None:
            raise ValueError("this server was started without TLS")
        find = None if destinations is None else _finder(destinations)
        if ssl is not None and self._handshakes is not None:
            self._handshakes.context = ssl
        if destination_ssl is not None:
            self._setup.outgoing.ssl = destination_ssl
        if find is not None:
            self._setup.outgoing.find = find

    @property
    def drain_timeout(self) -> float:
        """How long `close` waits for operations, in seconds."""
        return self._setup.timeouts.drain

    async def serve_forever(self) -> None:
        """Wait until the server is closed; cancelled: close it (see `close`) and go on being cancelled."""
        try:
            await asyncio.wait([self._closed])
        except asyncio.CancelledError:
            await self.close()
            raise

    async def close(self) -> None:
        """Stop accepting, let operations end within `Timeouts.drain`, abort what is left (idempotent)."""
        self._admission.is_closed = True
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close())
        await asyncio.shield(self._closing)

    # accepting

    def _take(self, connection: socket.socket, host: str) -> None:
        loop = asyncio.get_running_loop()
        if not self._admission.admits_connection(host, loop.time()):
            connection.close()
            return
        dispatcher = Dispatcher(self._setup.handlers)
        channel = Channel(
            loop,
            requestor=False,
            timeouts=self._setup.timeouts,
            limits=self._setup.limits,
            dispatcher=dispatcher,
            admit=self._admission.admit,
            on_closed=self._admission.forget,
            trace=self._setup.trace,
        )
        Association(channel, dispatcher)
        connecting = self._spawn(self._connect(channel, connection, host))
        self._admission.wait(channel, host, connecting)

        def connected(task: asyncio.Task[bool]) -> None:
            self._admission.connected(channel)
            failure = None if task.cancelled() else task.exception()
            if failure is not None:
                log.error("%s: a connection is closed", host, fields={"address": host}, exc_info=failure)
            if task.cancelled() or failure is not None or not task.result():
                channel.transport.abort()
                channel.transport.connection_lost(None)  # it may have been made: uvloop does not tell
                connection.close()

        connecting.add_done_callback(connected)  # a task cancelled before its first step runs nothing

    async def _connect(self, channel: Channel, connection: socket.socket, host: str) -> bool:
        try:
            if self._handshakes is None:
                loop = asyncio.get_running_loop()
                await loop.connect_accepted_socket(lambda: channel.transport, connection)
            else:
                await self._handshakes.perform(lambda: channel.transport, connection)
        except OSError as error:
            told = "%s: a connection is closed: %s"
            log.log(severity(error), told, host, explain(error), fields={"address": host})
            return False
        return True

    # the end

    async def _close(self) -> None:
        for acceptor in self._acceptors:
            acceptor.close()
        connecting, self._tasks = self._tasks, set()
        for task in connecting:
            task.cancel()
        if connecting:
            await asyncio.wait(connecting)
        for channel in list(self._waiting):
            channel.transport.abort()
        channels = list(self._associated)
        if channels:
            await asyncio.wait(
                [asyncio.ensure_future(channel.stop(self._setup.timeouts.drain)) for channel in channels]
            )
        everybody = channels + list(self._waiting)
        if everybody:
            await asyncio.wait([asyncio.ensure_future(channel.wait_closed(1.0)) for channel in everybody])
        await self._setup.outgoing.close()
        if not self._closed.done():
            self._closed.set_result(None)

    def _spawn(self, work: Coroutine[object, object, _T]) -> asyncio.Task[_T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _leave(server: Server, error: BaseException | None) -> None:
    await server.close()
