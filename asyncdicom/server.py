"""`serve`: accept associations and perform what is asked on them."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl as ssl_module
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from asyncdicom.access import AccessPolicy, Grant, Peers, check_services
from asyncdicom.address import Address, check_ae_title
from asyncdicom.admission import Admission, Limits
from asyncdicom.association import Association
from asyncdicom.client import associate
from asyncdicom.net.channel import Channel, Trace
from asyncdicom.net.listener import Acceptor, bind
from asyncdicom.net.settings import Settings
from asyncdicom.net.tls import Handshakes, check_context, explain
from asyncdicom.opening import Opening
from asyncdicom.services.builtin import services_for
from asyncdicom.services.contexts import Proposable, expand
from asyncdicom.services.dispatch import Dispatcher
from asyncdicom.services.node import Node, OpenTo, ReportQueue
from asyncdicom.services.request import (
    EchoHandler,
    FindHandler,
    NormalizedHandler,
    OpenAssociation,
    Request,
    RetrieveHandler,
    StoreHandler,
)
from asyncdicom.services.service import Contexts, Service, Services
from asyncdicom.uid import SOP_CLASSES, STORAGE
from asyncdicom.ul.negotiation import ANY_TRANSFER_SYNTAX, Policy, PresentationContext
from asyncdicom.ul.protocol import Timeouts

__all__ = ["Server", "serve"]

log = logging.getLogger("asyncdicom.server")


Destinations = Mapping[str, str | Address] | Callable[[Request], Address | None]
_T = TypeVar("_T")

Access = AccessPolicy | Peers


class _Setup(NamedTuple):
    """What `serve` was asked for."""

    services: Services
    open_to: OpenTo
    access: AccessPolicy
    offer: Policy
    contexts: Contexts
    limits: Limits
    settings: Settings
    ssl: ssl_module.SSLContext | None
    maximum_tls_handshakes: int
    tls_handshake_timeout: float
    trace: Trace | None
    drain_timeout: float


def serve(
    address: str | Address,
    *,
    c_echo: EchoHandler | None = None,
    c_store: StoreHandler | None = None,
    c_find: FindHandler | None = None,
    c_get: RetrieveHandler | None = None,
    c_move: RetrieveHandler | None = None,
    n_create: NormalizedHandler | None = None,
    n_set: NormalizedHandler | None = None,
    n_get: NormalizedHandler | None = None,
    n_action: NormalizedHandler | None = None,
    n_delete: NormalizedHandler | None = None,
    n_event_report: NormalizedHandler | None = None,
    services: Iterable[Service] = (),
    destinations: Destinations | None = None,
    contexts: Proposable | Iterable[Proposable] | None = None,
    unknown_storage: bool = False,
    # Who may come.
    access: Access | None = None,
    ssl: ssl_module.SSLContext | None = None,
    sock: socket.socket | None = None,
    reuse_port: bool = False,
    # Sizes, in bytes, and numbers.
    maximum_associations: int = 2000,
    maximum_associations_per_address: int | None = 200,
    maximum_associations_per_ae_title: int | None = 100,
    maximum_not_associated: int = 512,
    maximum_not_associated_per_address: int | None = 32,
    accept_rate: float | None = 100.0,
    maximum_tls_handshakes: int = 2,
    maximum_associate_length: int = 262144,
    maximum_length: int = 262144,
    operations_invoked: int = 1,
    operations_performed: int = 16,
    read_budget: int = 1 << 20,
    maximum_matches: int | None = 100_000,
    maximum_data_set: int = 16 << 20,
    maximum_discarded: int = 1 << 30,
    # Deadlines, in seconds; None is "never".
    artim_timeout: float | None = 10.0,
    close_timeout: float | None = 5.0,
    tls_handshake_timeout: float = 10.0,
    dimse_timeout: float | None = 120.0,
    release_timeout: float | None = 10.0,
    cancel_timeout: float = 10.0,
    receive_timeout: float | None = 60.0,
    write_timeout: float | None = 30.0,
    handler_timeout: float | None = 120.0,
    idle_timeout: float | None = 300.0,
    drain_timeout: float = 30.0,
    # To look inside.
    trace: Trace | None = None,
) -> Opening[Server]:
    """Serve DICOM: ``async with serve(...) as server`` or ``server = await serve(...)``.

    `address`: "AET@host:port"; port 0 takes a free one (`Server.port`). Each service is offered if it has a
    handler: `c_store`, `c_get` and `c_move` are coroutine functions, `c_find` is an asynchronous generator;
    C-ECHO is always offered, and `c_echo` is asked if it is given. `n_create`, `n_set`, `n_get`, `n_action`,
    `n_delete` and `n_event_report` are coroutine functions for the SOP classes that `contexts` names (see
    `NormalizedService`). `services`: `Service` objects, beside what the handlers stand for; each offers its
    own SOP classes. `destinations`: the AE titles that C-MOVE may send to, with their "host:port", or a
    function that finds the address for a request; by default the peers of `access` that have an address.
    `contexts`: the abstract syntaxes to accept for the handlers, by default whatever they imply (see
    `Proposable`; the roles of a `PresentationContext` are those that a peer may take); `unknown_storage`:
    also storage SOP classes that are not in the standard.

    `access`: who may come and do what, an `AccessPolicy`, or just its `peers`, the AE titles that may
    call; by default anybody may do everything. `ssl`: a context for TLS. `sock`: a listening or bound
    socket to use instead of the address; `reuse_port`: let other processes listen there too.

    `maximum_associations`: more are refused with "local limit exceeded"; `..._per_address` and
    `..._per_ae_title`: how many of them one host, or one calling AE title, may have.
    `maximum_not_associated`: connections without an association, the oldest silent one makes room for the
    next; `..._per_address`: of one host, the next is closed. `accept_rate`: connections a second of one
    host, two seconds' worth at once. Limits for each host or AE title do not apply to peers on this
    machine; None switches one off. `maximum_tls_handshakes`: computed at once, others wait for their turn.
    `maximum_matches`: how many Identifiers a C-FIND may give (then 0xA700; None: any number).
    `artim_timeout`: how long a new connection may wait with its A-ASSOCIATE-RQ, after the TLS handshake,
    which may take `tls_handshake_timeout`. `drain_timeout`: how long `Server.close` waits for operations.
    The others are as for `associate`. README.md has a table of all limits, and of what exceeding them
    leads to.

    Leaving the block closes the server (`Server.close`).
    """
    if not isinstance(address, Address):
        address = Address.parse(address)
    policy = access if isinstance(access, AccessPolicy) else AccessPolicy(peers=access)
    check_context(ssl)
    own = list(services)
    wanted = expand(contexts) if contexts is not None else None
    handlers = {
        "c_echo": c_echo,
        "c_store": c_store,
        "c_find": c_find,
        "c_get": c_get,
        "c_move": c_move,
        "n_create": n_create,
        "n_set": n_set,
        "n_get": n_get,
        "n_action": n_action,
        "n_delete": n_delete,
        "n_event_report": n_event_report,
    }
    implied = services_for(
        handlers,
        [context.abstract_syntax for context in wanted or ()],
        destination=_finder(destinations if destinations is not None else policy.addresses or None),
        open_association=_opener(address.ae_title),
        beside=own,
    )
    performing = Services([*own, *implied])
    check_services(policy, performing.names)
    offered = performing.contexts(wanted, implied)
    setup = _Setup(
        services=performing,
        open_to=_opener_to(address.ae_title, policy.addresses if destinations is None else destinations),
        access=policy,
        offer=Policy(
            performed=offered.performed,
            invoked=offered.invoked,
            unknown_storage=ANY_TRANSFER_SYNTAX if unknown_storage and c_store is not None else None,
            not_storage=frozenset(SOP_CLASSES) - frozenset(STORAGE),
            maximum_length=maximum_length,
            operations_invoked=operations_invoked,
            operations_performed=operations_performed,
        ),
        contexts=offered,
        limits=Limits(
            maximum_associations=maximum_associations,
            maximum_associations_per_address=maximum_associations_per_address,
            maximum_associations_per_ae_title=maximum_associations_per_ae_title,
            maximum_not_associated=maximum_not_associated,
            maximum_not_associated_per_address=maximum_not_associated_per_address,
            accept_rate=accept_rate,
        ),
        settings=Settings(
            maximum_length=maximum_length,
            maximum_associate_length=maximum_associate_length,
            timeouts=Timeouts(
                artim=artim_timeout,
                close=close_timeout,
                release=release_timeout,
                receive=receive_timeout,
                idle=idle_timeout,
            ),
            dimse_timeout=dimse_timeout,
            cancel_timeout=cancel_timeout,
            write_timeout=write_timeout,
            handler_timeout=handler_timeout,
            read_budget=read_budget,
            maximum_matches=maximum_matches,
            maximum_data_set=maximum_data_set,
            maximum_discarded=maximum_discarded,
        ),
        ssl=ssl,
        maximum_tls_handshakes=maximum_tls_handshakes,
        tls_handshake_timeout=tls_handshake_timeout,
        trace=trace,
        drain_timeout=drain_timeout,
    )

    async def start() -> Server:
        server = Server(address, [sock] if sock is not None else await bind(address, reuse_port), setup)
        await server._start()
        return server

    return Opening(start, _leave)


def _finder(destinations: Destinations | None) -> Callable[[Request], Address | None] | None:
    if destinations is None or callable(destinations):
        return destinations
    table = {}
    for ae_title, where in destinations.items():
        found = where if isinstance(where, Address) else Address.parse(where)
        table[ae_title] = found._replace(ae_title=check_ae_title(ae_title))
    return lambda request: table.get(request.move_destination)


def _opener(ae_title: str) -> OpenAssociation:
    def open_association(
        destination: Address, contexts: Sequence[PresentationContext]
    ) -> Opening[Association]:
        return associate(destination, calling_ae_title=ae_title, contexts=contexts)

    return open_association


def _opener_to(ae_title: str, addresses: Destinations) -> OpenTo:
    """What a service opens associations with: to the AE titles that are listed, not to those that are
    found."""
    known = addresses if not callable(addresses) else {}

    def open_to(destination: str, contexts: Sequence[PresentationContext]) -> Opening[Association] | None:
        where = known.get(destination)
        if where is None:
            return None
        address = where if isinstance(where, Address) else Address.parse(where)
        return associate(address._replace(ae_title=destination), calling_ae_title=ae_title, contexts=contexts)

    return open_to


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
        self._reports = ReportQueue(setup.open_to)
        self._admission = Admission(
            setup.access,
            setup.offer,
            setup.contexts,
            setup.limits,
            self._dispatcher,
            self._spawn,
            setup.settings.handler_timeout,
        )
        self._waiting, self._associated = self._admission.waiting, self._admission.associated
        self._handshakes = (
            Handshakes(setup.ssl, setup.maximum_tls_handshakes, setup.tls_handshake_timeout)
            if setup.ssl is not None
            else None
        )
        self._sockets = sockets
        self._acceptors: list[Acceptor] = []
        self._started: list[Service] = []

    async def _start(self) -> None:
        """Start the services, then accept. What keeps one from serving is raised, and nothing stays open."""
        loop = asyncio.get_running_loop()
        node = Node(self.ae_title, self._setup.open_to, self._reports, loop.time)
        try:
            for service in self._setup.services:
                await service.start(node)
                self._started.append(service)
        except BaseException:
            await self._stop_services()
            for listener in self._sockets:
                listener.close()
            raise
        self._acceptors = [Acceptor(listener, self._take) for listener in self._sockets]
        log.info("%s listens on %s:%d", self.ae_title, self.host, self.port)

    async def _stop_services(self) -> None:
        started, self._started = self._started, []
        for service in reversed(started):
            try:
                await service.stop()
            except Exception:
                log.exception("%s: the service %s cannot be stopped", self.ae_title, service.name)

    @property
    def associations(self) -> int:
        """How many associations are open."""
        return len(self._associated)

    async def serve_forever(self) -> None:
        """Wait until the server is closed; cancelled: close it (see `close`) and go on being cancelled."""
        try:
            await asyncio.wait([self._closed])
        except asyncio.CancelledError:
            await self.close()
            raise

    async def close(self) -> None:
        """Stop accepting, let operations end for `drain_timeout` seconds, abort what is left (idempotent)."""
        self._admission.is_closed = True
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close())
        await asyncio.shield(self._closing)

    # accepting

    def _dispatcher(self, channel: Channel, grant: Grant) -> Dispatcher:
        services = self._setup.services
        return Dispatcher(Association(channel, services), grant, services)

    def _take(self, connection: socket.socket, host: str) -> None:
        loop = asyncio.get_running_loop()
        if not self._admission.admits_connection(host, loop.time()):
            connection.close()
            return
        channel = Channel(
            loop,
            requestor=False,
            settings=self._setup.settings,
            admit=self._admission.admit,
            on_closed=self._admission.forget,
            trace=self._setup.trace,
        )
        connecting = self._spawn(self._connect(channel, connection, host))
        self._admission.wait(channel, host, connecting)

        def connected(task: asyncio.Task[bool]) -> None:
            self._admission.connected(channel)
            failure = None if task.cancelled() else task.exception()
            if failure is not None:
                log.error("%s: a connection is closed", host, exc_info=failure)
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
            log.info("%s: a connection is closed: %s", host, explain(error))
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
                [asyncio.ensure_future(channel.stop(self._setup.drain_timeout)) for channel in channels]
            )
        everybody = channels + list(self._waiting)
        if everybody:
            await asyncio.wait([asyncio.ensure_future(channel.wait_closed(1.0)) for channel in everybody])
        await self._reports.close()
        await self._stop_services()
        if not self._closed.done():
            self._closed.set_result(None)

    def _spawn(self, work: Coroutine[object, object, _T]) -> asyncio.Task[_T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _leave(server: Server, error: BaseException | None) -> None:
    await server.close()
