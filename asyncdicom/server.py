"""`serve`: accept associations and perform what is asked on them."""

from __future__ import annotations

import asyncio
import inspect
import logging
import socket
import ssl as ssl_module
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, NamedTuple, TypeAlias, TypeVar, Unpack

from asyncdicom.access import AccessPolicy, Grant, Peers, check_services
from asyncdicom.address import Address
from asyncdicom.admission import Admission
from asyncdicom.association import Association, Request
from asyncdicom.destination import Destination, as_destination
from asyncdicom.dimse.messages import CommandField
from asyncdicom.draining import drained
from asyncdicom.net.channel import Channel, Trace
from asyncdicom.net.descriptors import missing_descriptors
from asyncdicom.net.handing import HandedListener
from asyncdicom.net.listener import Acceptor, accept_from, bind
from asyncdicom.net.networks import Listener, loop_for
from asyncdicom.net.proxy import ProxyHeaderError, receive_caller
from asyncdicom.net.tls import Handshakes, check_context, explain, severity
from asyncdicom.opening import Opening
from asyncdicom.options import Limits, Timeouts, explains_options, of_role
from asyncdicom.outgoing import OutgoingAssociations
from asyncdicom.services.builtin import services_for
from asyncdicom.services.contexts import Proposable, expand
from asyncdicom.services.dispatch import Dispatcher
from asyncdicom.services.node import Node as ServerNode
from asyncdicom.services.node import ReportQueue
from asyncdicom.services.request import (
    EchoHandler,
    FindHandler,
    NormalizedHandlers,
    RetrieveHandler,
    StoreHandler,
)
from asyncdicom.services.service import Contexts, Service, Services
from asyncdicom.telemetry.log import Log
from asyncdicom.uid import SOP_CLASSES, STORAGE
from asyncdicom.ul.negotiation import ANY_TRANSFER_SYNTAX, Policy, PresentationContext

__all__ = ["AssociationHook", "Node", "Server", "serve"]

log = Log("asyncdicom.server")


Destinations = Mapping[str, str | Address | Destination] | Callable[[Request], Address | Destination | None]
_T = TypeVar("_T")

Access: TypeAlias = "AccessPolicy | Peers"

AssociationHook: TypeAlias = Callable[[Association], object]
"""A plain function that is told of an association."""

Node: TypeAlias = ServerNode[Association]
"""What `Service.start` gets."""


class _Setup(NamedTuple):
    """What `serve` was asked for."""

    services: Services
    outgoing: OutgoingAssociations
    access: AccessPolicy
    offer: Policy
    contexts: Contexts
    timeouts: Timeouts
    limits: Limits
    ssl: ssl_module.SSLContext | None
    trace: Trace | None
    association_opened: AssociationHook | None
    association_closed: AssociationHook | None


@explains_options
def serve(
    address: str | Address,
    *,
    c_echo: EchoHandler | None = None,
    c_store: StoreHandler | None = None,
    c_find: FindHandler | None = None,
    c_get: RetrieveHandler | None = None,
    c_move: RetrieveHandler | None = None,
    services: Iterable[Service] = (),
    destinations: Destinations | None = None,
    destination_ssl: ssl_module.SSLContext | None = None,
    contexts: Proposable | Iterable[Proposable] | None = None,
    unknown_storage: bool = False,
    access: Access | None = None,
    ssl: ssl_module.SSLContext | None = None,
    sock: socket.socket | None = None,
    reuse_port: bool = False,
    association_opened: AssociationHook | None = None,
    association_closed: AssociationHook | None = None,
    timeouts: Timeouts = Timeouts(),
    limits: Limits = Limits(),
    trace: Trace | None = None,
    **normalized: Unpack[NormalizedHandlers],
) -> Opening[Server]:
    """Serve DICOM: `async with serve(...) as server` or `server = await serve(...)`.

    `address`: "AET@host:port"; port 0 takes a free one (`Server.port`). Each service is offered if it has a
    handler: `c_store`, `c_get` and `c_move` are coroutine functions, `c_find` is an asynchronous generator;
    C-ECHO is always offered, and `c_echo` is asked if it is given. `n_create`, `n_set`, `n_get`, `n_action`,
    `n_delete` and `n_event_report` are coroutine functions for the SOP classes that `contexts` names (see
    `NormalizedService`). `services`: `Service` objects, beside what the handlers stand for; each offers its
    own SOP classes. `destinations`: the AE titles that C-MOVE may send to, each with its "host:port" or a
    `Destination`, which says how it is called, or a function that finds the one for a request; by default the
    peers of `access` that have an address. `destination_ssl`: the context for TLS with those that have none
    of their own. A server that uses TLS, or asks for certificates, sends nothing in the clear: the C-MOVE to
    a destination that has no context, and does not say `plain=True`, fails with 0xA702 and an Error
    Comment. `contexts`: the abstract syntaxes to accept for the handlers, by default whatever they imply (see
    `Proposable`; the roles of a `PresentationContext` are those that a peer may take); `unknown_storage`:
    also storage SOP classes that are not in the standard.

    `access`: who may come and do what, an `AccessPolicy`, or just its `peers`, the AE titles that may
    call; by default anybody may do everything. `ssl`: a context for TLS. `sock`: a listening or bound
    socket to use instead of the address; `reuse_port`: let other processes listen there too.

    `association_opened` and `association_closed`: plain functions that are called with the `Association`, in
    the event loop, when one was accepted, and when it has ended, however it did; what they raise is logged.

    `timeouts`: how long to wait for what, in seconds, and `limits`: how many may come, and how much is
    taken of them; each field of `Timeouts` and `Limits` says what exceeding it leads to. `trace`: is called
    with ("sent" | "received", command or event) for each message.

    Raises ValueError (an impossible address, AE title, context or name of a service), TypeError (a handler of
    the wrong kind) and OSError (the address cannot be listened on). Cancelled while it is opened: nothing
    listens.

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
    check_context(ssl)
    check_context(destination_ssl)
    for hook in (association_opened, association_closed):
        _check_hook(hook)
    own = list(services)
    wanted = expand(contexts) if contexts is not None else None
    handlers = {
        "c_echo": c_echo,
        "c_store": c_store,
        "c_find": c_find,
        "c_get": c_get,
        "c_move": c_move,
        **normalized,
    }
    implied = services_for(
        handlers,
        [context.abstract_syntax for context in wanted or ()],
        destination=lambda request: outgoing.find(request),
        open_association=outgoing.open,
        beside=own,
    )
    performing = Services([*own, *implied])
    check_services(policy, performing.names)
    offered = performing.contexts(wanted, implied)
    setup = _Setup(
        services=performing,
        outgoing=outgoing,
        access=policy,
        offer=Policy(
            performed=offered.performed,
            invoked=offered.invoked,
            unknown_storage=ANY_TRANSFER_SYNTAX if unknown_storage and c_store is not None else None,
            unknown_retrieval=ANY_TRANSFER_SYNTAX if performing.has(CommandField.C_GET_RQ) else None,
            not_storage=frozenset(SOP_CLASSES) - frozenset(STORAGE),
            maximum_length=limits.maximum_length,
            operations_invoked=limits.operations_invoked,
            operations_performed=of_role(limits.operations_performed, requestor=False),
            negotiate=performing.negotiate,
            prefer=performing.prefer,
        ),
        contexts=offered,
        timeouts=timeouts,
        limits=limits,
        ssl=ssl,
        trace=trace,
        association_opened=association_opened,
        association_closed=association_closed,
    )

    async def start() -> Server:
        server = Server(address, [sock] if sock is not None else await bind(address, reuse_port), setup)
        await server._start()
        return server

    return Opening(start, _leave)


def _check_hook(hook: object) -> None:
    if hook is not None and (not callable(hook) or inspect.iscoroutinefunction(hook)):
        raise TypeError(f"association_opened and association_closed are plain functions, not {hook!r:.100}")


def _tell(hook: AssociationHook, association: Association) -> None:
    try:
        hook(association)
    except Exception:
        log.exception("%s: a hook of the server failed", association)


class _Telling(Dispatcher):
    """A dispatcher that tells a hook of the end of its association."""

    def __init__(
        self, association: Association, grant: Grant, services: Services, hook: AssociationHook
    ) -> None:
        super().__init__(association, grant, services)
        self._hook = partial(_tell, hook, association)

    def association_ended(self) -> None:
        """Tell the services, and the hook."""
        super().association_ended()
        self._hook()


def _finder(destinations: Destinations) -> Callable[[Request], Destination | None]:
    if callable(destinations):
        find = destinations

        def found(request: Request) -> Destination | None:
            where = find(request)
            return None if where is None else as_destination(where)

        return found
    if not isinstance(destinations, Mapping):
        raise TypeError(f"destinations= takes a mapping or a function, not {destinations!r:.100}")
    known = ((title, as_destination(where).named(title)) for title, where in destinations.items())
    return _KnownDestinations(known)


class _KnownDestinations(dict[str, Destination]):
    """Destinations by their AE titles: what finds the one for a request."""

    def __call__(self, request: Request) -> Destination | None:
        return self.get(request.move_destination)


class Server:
    """A listening application entity and its associations."""

    def __init__(self, address: Address, sockets: list[socket.socket], setup: _Setup) -> None:
        self.ae_title = address.ae_title
        self.host = address.host
        self.port: int = sockets[0].getsockname()[1]
        self._setup = setup
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing: asyncio.Task[None] | None = None
        self._draining: asyncio.Task[None] | None = None
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._reports = ReportQueue(self._open_to)
        self._admission = Admission(
            setup.access,
            setup.offer,
            setup.contexts,
            setup.limits,
            self._dispatcher,
            self._spawn,
            setup.timeouts.handler,
            sockets[0] if isinstance(sockets[0], HandedListener) else None,
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
        self._address = address
        self._sockets = sockets
        self._acceptors: list[Acceptor | Listener] = []
        self._started: list[Service] = []

    async def _start(self) -> None:
        """Start the services, then accept. What keeps one from serving is raised, and nothing stays open."""
        loop = asyncio.get_running_loop()
        node = ServerNode(self.ae_title, self._open_to, self._reports, loop.time)
        try:
            for service in self._setup.services:
                await service.start(node)
                self._started.append(service)
        except BaseException:
            await self._stop_services()
            for listener in self._sockets:
                listener.close()
            raise
        self._acceptors = [accept_from(listener, self._take) for listener in self._sockets]
        log.info("%s listens on %s", self.ae_title, self._address._replace(port=self.port).place)

    def _open_to(
        self, ae_title: str, contexts: Sequence[PresentationContext]
    ) -> AbstractAsyncContextManager[Association] | None:
        """What a service opens associations with: to AE titles that are listed in `destinations`."""
        outgoing = self._setup.outgoing
        known = outgoing.find
        destination = known.get(ae_title) if isinstance(known, _KnownDestinations) else None
        return None if destination is None else outgoing.lend(destination, contexts)

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

    @property
    def maximum_associations(self) -> int:
        """How many associations may be open."""
        return self._setup.limits.maximum_associations

    @property
    def is_closing(self) -> bool:
        """Whether it is about to end: nobody new is to come."""
        return self._admission.is_closed or self._draining is not None

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
        """How long `drain` waits for associations, and `close` for operations, in seconds."""
        return self._setup.timeouts.drain

    async def serve_forever(self) -> None:
        """Wait until the server is closed; cancelled: close it (see `close`) and go on being cancelled."""
        try:
            await asyncio.wait([self._closed])
        except asyncio.CancelledError:
            await self.close()
            raise

    async def drain(self) -> None:
        """Let associations end by themselves within `Timeouts.drain`, then close (idempotent).

        The server `is_closing` from now on. Where the access policy names `proxies`, it goes on accepting
        for `Timeouts.drain_notice`, and closes the connections that a proxy makes for itself, which are its
        checks (PROXY protocol, LOCAL): so a balancer sends nobody any more before nobody is let in.
        Associations that are there go on. One that had nothing under way for `Timeouts.drain_idle` is
        released (PS3.8 7.2); what is left in the end is aborted. `close` breaks it off. Cancelled: it goes
        on.
        """
        if self._draining is None and self._closing is None:
            draining = drained(self.host, self._admission, self._acceptors, self._setup.timeouts)
            self._draining = asyncio.get_running_loop().create_task(draining)
        if self._draining is not None:
            await asyncio.wait([self._draining])
        await self._end(0.0)

    async def close(self) -> None:
        """Stop accepting, let operations end within `Timeouts.drain`, abort what is left (idempotent).

        An association that is between two operations is aborted: `drain` lets it go on.
        """
        self._admission.is_closed = True
        if self._draining is not None:
            self._draining.cancel()
        await self._end(self.drain_timeout)

    async def _end(self, patience: float) -> None:
        self._admission.is_closed = True
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close(patience))
        await asyncio.shield(self._closing)

    # accepting

    def _dispatcher(self, channel: Channel, grant: Grant) -> Dispatcher:
        setup = self._setup
        association = Association(channel, setup.services)
        if setup.association_opened is not None:  # when it has been accepted
            asyncio.get_running_loop().call_soon(_tell, setup.association_opened, association)
        if setup.association_closed is None:
            return Dispatcher(association, grant, setup.services)
        return _Telling(association, grant, setup.services, setup.association_closed)

    def _take(self, connection: socket.socket, host: str) -> None:
        loop = loop_for(self.host)
        admission, now = self._admission, loop.time()
        is_proxy = self._setup.access.trusts(host)
        if not (admission.admits_proxy(now) if is_proxy else admission.admits_connection(host, now)):
            connection.close()
            return
        channel = Channel(
            loop,
            requestor=False,
            timeouts=self._setup.timeouts,
            limits=self._setup.limits,
            admit=self._admission.admit,
            on_closed=self._admission.forget,
            trace=self._setup.trace,
        )
        connect = self._connect_by_proxy if is_proxy else self._connect
        connecting = self._spawn(connect(channel, connection, host))
        admission.wait(channel, host, connecting)

        def connected(task: asyncio.Task[bool]) -> None:
            admission.connected(channel)
            failure = None if task.cancelled() else task.exception()
            if failure is not None:
                log.error("%s: a connection is closed", host, fields={"address": host}, exc_info=failure)
            if task.cancelled() or failure is not None or not task.result():
                channel.transport.abort()
                channel.transport.connection_lost(None)  # it may have been made: uvloop does not tell
                connection.close()

        connecting.add_done_callback(connected)  # a task cancelled before its first step runs nothing

    async def _connect_by_proxy(self, channel: Channel, connection: socket.socket, host: str) -> bool:
        """Let a proxy say who calls, then connect."""
        try:
            async with asyncio.timeout(self._setup.timeouts.artim):
                who = await receive_caller(connection)
        except TimeoutError:
            return self._closes(host, ProxyHeaderError("the proxy did not say in time who calls"))
        except OSError as error:
            return self._closes(host, error)
        if who is None and self._draining is not None:
            log.debug("%s: the check of a proxy is closed: the server drains", host)
            return False
        if who is not None:
            channel.transport.speaks_for(who)
            if not self._admission.speaks_for(channel, who[0], asyncio.get_running_loop().time()):
                return False
        return await self._connect(channel, connection, host if who is None else who[0])

    async def _connect(self, channel: Channel, connection: socket.socket, host: str) -> bool:
        try:
            if self._handshakes is None:
                loop = loop_for(self.host)
                await loop.connect_accepted_socket(lambda: channel.transport, connection)
            else:
                await self._handshakes.perform(lambda: channel.transport, connection)
        except OSError as error:
            return self._closes(host, error)
        return True

    def _closes(self, host: str, error: OSError) -> bool:
        told = "%s: a connection is closed: %s"
        level = logging.WARNING if isinstance(error, ProxyHeaderError) else severity(error)
        log.log(level, told, host, explain(error), fields={"address": host})
        return False

    # the end

    async def _close(self, patience: float) -> None:
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
            await asyncio.wait([asyncio.ensure_future(channel.stop(patience)) for channel in channels])
        everybody = channels + list(self._waiting)
        if everybody:
            await asyncio.wait([asyncio.ensure_future(channel.wait_closed(1.0)) for channel in everybody])
        await self._reports.close()
        await self._stop_services()
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
