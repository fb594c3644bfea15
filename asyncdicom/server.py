"""`serve`: accept associations and perform what is asked on them."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl as ssl_module
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from typing import NamedTuple

from asyncdicom.address import Address, check_ae_title
from asyncdicom.association import Association
from asyncdicom.client import associate
from asyncdicom.exceptions import AssociationRejected
from asyncdicom.net.channel import Channel, Trace
from asyncdicom.net.crowd import Crowd, Rates, is_local
from asyncdicom.net.settings import Settings
from asyncdicom.opening import Opening
from asyncdicom.services.contexts import Proposable
from asyncdicom.services.dispatch import Dispatcher
from asyncdicom.services.handlers import (
    EchoHandler,
    FindHandler,
    Handlers,
    OpenAssociation,
    Request,
    RetrieveHandler,
    StoreHandler,
)
from asyncdicom.services.offered import offer
from asyncdicom.ul.items import UserIdentity, UserInformation
from asyncdicom.ul.negotiation import Answered, Policy, PresentationContext, answer
from asyncdicom.ul.pdu import AAssociateRJ, AAssociateRQ
from asyncdicom.ul.protocol import Timeouts

__all__ = ["Server", "serve"]

log = logging.getLogger("asyncdicom.server")

# PS3.8 Table 9-21: result, source, reason.
_REJECTED = AAssociateRJ(1, 1, 1)
_CALLING_NOT_RECOGNIZED = AAssociateRJ(1, 1, 3)
_CALLED_NOT_RECOGNIZED = AAssociateRJ(1, 1, 7)
_LOCAL_LIMIT_EXCEEDED = AAssociateRJ(2, 3, 2)

_NO_DESCRIPTORS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_BACKLOG = 1024
_QUIET = 10.0  # seconds between two log lines about connections that are too many

Destinations = Mapping[str, str | Address] | Callable[[Request], Address | None]
UserIdentityCheck = Callable[[AAssociateRQ, UserIdentity | None], Awaitable[bool | bytes]]


class _Setup(NamedTuple):
    """What `serve` was asked for."""

    handlers: Handlers
    policy: Policy
    settings: Settings
    ssl: ssl_module.SSLContext | None
    user_identity: UserIdentityCheck | None
    trace: Trace | None
    drain_timeout: float
    maximum_associations: int
    maximum_associations_per_address: int | None
    maximum_associations_per_ae_title: int | None
    maximum_not_associated: int
    maximum_not_associated_per_address: int | None
    accept_rate: float | None
    called_ae_title: str | None
    calling_ae_titles: Collection[str] | None
    tls_handshake_timeout: float


def serve(
    address: str | Address,
    *,
    c_echo: EchoHandler | None = None,
    c_store: StoreHandler | None = None,
    c_find: FindHandler | None = None,
    c_get: RetrieveHandler | None = None,
    c_move: RetrieveHandler | None = None,
    destinations: Destinations | None = None,
    contexts: Iterable[Proposable] | None = None,
    unknown_storage: bool = False,
    # Who may come.
    require_called_ae_title: bool = False,
    calling_ae_titles: Collection[str] | None = None,
    user_identity: UserIdentityCheck | None = None,
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

    `address`: "AET@host:port"; port 0 takes a free one (`Server.port`). Each service is offered if it
    has a handler: `c_store`, `c_get` and `c_move` are coroutine functions, `c_find` is an asynchronous
    generator; C-ECHO is always offered, and `c_echo` is asked if it is given. `destinations`: the AE
    titles that C-MOVE may send to, with their "host:port", or a function that finds the address for a
    request. `contexts`: the abstract syntaxes to accept, by default whatever the handlers imply;
    `unknown_storage`: also storage SOP classes that are not in the standard.

    `require_called_ae_title`: refuse associations for another AE title; `calling_ae_titles`: the only
    ones that may call; `user_identity`: a coroutine function that judges the request's user identity
    (bytes: the server response to send back). `ssl`: a context for TLS. `sock`: a listening or bound
    socket to use instead of the address; `reuse_port`: let other processes listen there too.

    `maximum_associations`: more are refused with "local limit exceeded"; `..._per_address` and
    `..._per_ae_title`: how many of them one host, or one calling AE title, may have.
    `maximum_not_associated`: connections without an association, the oldest makes room for the next;
    `..._per_address`: of one host, the next is closed. `accept_rate`: connections a second of one host,
    two seconds' worth at once. Limits for each host or AE title do not apply to peers on this machine;
    None switches one off. `maximum_matches`: how many Identifiers a C-FIND may give (then 0xA700; None:
    any number). `artim_timeout`: how long a new connection may wait with its A-ASSOCIATE-RQ, after the
    TLS handshake, which may take `tls_handshake_timeout`. `drain_timeout`: how long `Server.close` waits
    for operations. The others are as for `associate`. README.md has a table of all limits, and of what
    exceeding them leads to.

    Leaving the block closes the server (`Server.close`).
    """
    if not isinstance(address, Address):
        address = Address.parse(address)
    handlers = Handlers(
        c_echo=c_echo,
        c_store=c_store,
        c_find=c_find,
        c_get=c_get,
        c_move=c_move,
        destination=_finder(destinations),
        open_association=_opener(address.ae_title),
    )
    setup = _Setup(
        handlers=handlers,
        policy=offer(handlers, contexts, unknown_storage)._replace(
            maximum_length=maximum_length,
            operations_invoked=operations_invoked,
            operations_performed=operations_performed,
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
        user_identity=user_identity,
        trace=trace,
        drain_timeout=drain_timeout,
        maximum_associations=maximum_associations,
        maximum_associations_per_address=maximum_associations_per_address,
        maximum_associations_per_ae_title=maximum_associations_per_ae_title,
        maximum_not_associated=maximum_not_associated,
        maximum_not_associated_per_address=maximum_not_associated_per_address,
        accept_rate=accept_rate,
        called_ae_title=check_ae_title(address.ae_title) if require_called_ae_title else None,
        calling_ae_titles=calling_ae_titles,
        tls_handshake_timeout=tls_handshake_timeout,
    )

    async def start() -> Server:
        return Server(address, [sock] if sock is not None else await _bind(address, reuse_port), setup)

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


async def _bind(address: Address, reuse_port: bool) -> list[socket.socket]:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(
        address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, where in dict.fromkeys(found):
            listener = socket.socket(family, kind, protocol)
            sockets.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if where[1] == 0 and len(sockets) > 1:  # all families on one free port
                where = (where[0], sockets[0].getsockname()[1], *where[2:])
            listener.bind(where)
    except OSError as error:
        for listener in sockets:
            listener.close()
        raise OSError(
            error.errno, f"cannot listen on {address.host}:{address.port}: {error.strerror}"
        ) from None
    return sockets


class Server:
    """A listening application entity and its associations."""

    def __init__(self, address: Address, sockets: list[socket.socket], setup: _Setup) -> None:
        self.ae_title = address.ae_title
        self.host = address.host
        self.port: int = sockets[0].getsockname()[1]
        self._sockets = sockets
        self._setup = setup
        self._answered: Answered = {}
        self._waiting: Crowd[Channel] = Crowd()
        self._associated: Crowd[Channel] = Crowd()
        self._rates = Rates(setup.accept_rate) if setup.accept_rate is not None else None
        self._tasks: set[asyncio.Task[None]] = set()
        self._connecting: dict[Channel, asyncio.Task[None]] = {}
        self._complaints = 0
        self._quiet_until = 0.0
        self._closing: asyncio.Task[None] | None = None
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        for listener in sockets:
            listener.setblocking(False)
            listener.listen(_BACKLOG)
            self._spawn(self._accept(listener))
        log.info("%s listens on %s:%d", self.ae_title, self.host, self.port)

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
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close())
        await asyncio.shield(self._closing)

    # accepting

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(listener)
            except OSError as error:
                if error.errno not in _NO_DESCRIPTORS:
                    log.debug("accept: %s", error)  # the peer was gone before it was accepted
                    await asyncio.sleep(0)
                    continue
                log.error("cannot accept connections now: %s", error.strerror)
                await asyncio.sleep(0.2)
                continue
            host = str(address[0]) if isinstance(address, tuple) else "?"
            now = loop.time()
            crowded = self._crowded(host, now)
            if crowded:
                self._complain(f"too many connections {crowded}, the last from {host}", now)
                connection.close()
            else:
                self._spawn(self._connect(connection, host))
            await asyncio.sleep(0)  # count this one first; and a flood of them must not hold up the others

    def _crowded(self, host: str, now: float) -> str | None:
        """What of there is too much for one more connection from there, or None."""
        setup, waiting = self._setup, self._waiting
        if not is_local(host):
            limit = setup.maximum_not_associated_per_address
            if limit is not None and waiting.count(host) >= limit:
                return "without an association of one host"
            if self._rates is not None and not self._rates.allows(host, now):
                return "a second of one host"
        if len(waiting) >= setup.maximum_not_associated and not self._make_room(now):
            return "without an association"
        return None

    def _make_room(self, now: float) -> bool:
        """Close the connection that has waited for longest and is not waiting for us.

        Who means well asks at once, and closes when refused; others could take all the room for themselves.
        """
        oldest = next((channel for channel in self._waiting if self._is_waited_for(channel)), None)
        if oldest is None:
            return False
        self._complain("too many connections without an association", now)
        self._waiting.discard(oldest)
        handshake = self._connecting.get(oldest)
        if handshake is not None:
            handshake.cancel()
        else:
            oldest.transport.abort()
        return True

    def _is_waited_for(self, channel: Channel) -> bool:
        """Whether it is the peer's turn: to finish the TLS handshake, to ask, or to close."""
        if channel in self._connecting:
            return self._setup.ssl is not None
        return channel.request is None or channel.failure is not None

    def _complain(self, what: str, now: float) -> None:
        """Log that a connection is closed: once in a while, however many there are."""
        self._complaints += 1
        if now >= self._quiet_until:
            log.warning("%s: %d closed", what, self._complaints)
            self._complaints, self._quiet_until = 0, now + _QUIET

    async def _connect(self, connection: socket.socket, host: str) -> None:
        loop = asyncio.get_running_loop()
        dispatcher = Dispatcher(self._setup.handlers)
        channel = Channel(
            loop,
            requestor=False,
            settings=self._setup.settings,
            dispatcher=dispatcher,
            admit=self._admit,
            on_closed=self._on_closed,
            trace=self._setup.trace,
        )
        Association(channel, dispatcher)
        self._waiting.add(channel, host)
        if (task := asyncio.current_task()) is not None:
            self._connecting[channel] = task
        try:
            await loop.connect_accepted_socket(
                lambda: channel.transport,
                connection,
                ssl=self._setup.ssl,
                ssl_handshake_timeout=self._setup.tls_handshake_timeout
                if self._setup.ssl is not None
                else None,
            )
        except BaseException as error:
            channel.transport.connection_lost(None)  # it may have been made: uvloop does not tell
            connection.close()
            if not isinstance(error, OSError):
                raise
            log.info("TLS handshake failed: %s", error)
        finally:
            self._connecting.pop(channel, None)

    def _on_closed(self, channel: Channel) -> None:
        self._waiting.discard(channel)
        self._associated.discard(channel)

    def _admit(self, channel: Channel, request: AAssociateRQ) -> None:
        rejection = self._refusal(channel, request)
        if rejection is not None:
            self._reject(channel, rejection)
        elif self._setup.user_identity is not None:
            self._spawn(self._identify(channel, request, self._setup.user_identity))
        else:
            self._answer(channel, request, None)

    def _refusal(self, channel: Channel, request: AAssociateRQ) -> AAssociateRJ | None:
        setup = self._setup
        if setup.called_ae_title is not None and request.called_ae_title != setup.called_ae_title:
            return _CALLED_NOT_RECOGNIZED
        if setup.calling_ae_titles is not None and request.calling_ae_title not in setup.calling_ae_titles:
            return _CALLING_NOT_RECOGNIZED
        if len(self._associated) >= setup.maximum_associations or self._closing is not None:
            return _LOCAL_LIMIT_EXCEEDED
        host = channel.transport.peer[0]
        limits = (setup.maximum_associations_per_address, setup.maximum_associations_per_ae_title)
        for limit, key in zip(limits, _keys(host, request), strict=True):
            if limit is not None and self._associated.count(key) >= limit and not is_local(host):
                return _LOCAL_LIMIT_EXCEEDED
        return None

    async def _identify(self, channel: Channel, request: AAssociateRQ, check: UserIdentityCheck) -> None:
        identity = request.user_information.user_identity
        verdict: object = False
        try:
            async with asyncio.timeout(self._setup.settings.handler_timeout):
                verdict = await check(request, identity)
        except Exception:
            log.exception("the user_identity check failed")
        if channel.failure is not None:
            return
        # Time has passed: meanwhile others have come, or the server is being closed.
        rejection = None if verdict is True or isinstance(verdict, bytes) else _REJECTED
        rejection = rejection or self._refusal(channel, request)
        if rejection is not None:
            self._reject(channel, rejection)
        else:
            wanted = identity is not None and identity.positive_response_requested
            self._answer(
                channel, request, (verdict if isinstance(verdict, bytes) else b"") if wanted else None
            )

    def _answer(self, channel: Channel, request: AAssociateRQ, identity_response: bytes | None) -> None:
        verdict = answer(
            request,
            self._setup.policy,
            user_identity_response=identity_response,
            answered=self._answered,
        )
        if isinstance(verdict, AAssociateRJ):
            self._reject(channel, verdict)
            return
        self._waiting.discard(channel)
        self._associated.add(channel, *_keys(channel.transport.peer[0], request))
        channel.accept(*verdict)
        channel.request = request._replace(presentation_contexts=(), user_information=UserInformation())
        log.info("%s: association established", channel)

    def _reject(self, channel: Channel, rejection: AAssociateRJ) -> None:
        log.info("%s: refused an association: %s", channel, AssociationRejected(*rejection))
        channel.reject(rejection)

    # the end

    async def _close(self) -> None:
        accepting, self._tasks = self._tasks, set()
        for task in accepting:
            task.cancel()
        if accepting:
            await asyncio.wait(accepting)
        for listener in self._sockets:
            listener.close()
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
        if not self._closed.done():
            self._closed.set_result(None)

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _keys(host: str, request: AAssociateRQ) -> tuple[tuple[str, str], tuple[str, str]]:
    """What associations are counted by."""
    return ("address", host), ("AE title", request.calling_ae_title)


async def _leave(server: Server, error: BaseException | None) -> None:
    await server.close()
