"""What a process that serves an archive runs, from its first file to its last: archive, gateway, services."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from asyncdicom.access import AccessPolicy, Peer
from asyncdicom.cli.output import json_text
from asyncdicom.cli.reloading import parameters_again, reload_with
from asyncdicom.cli.run import FAILED, complain
from asyncdicom.options import Limits, Timeouts
from asyncdicom.telemetry.log import Log

if TYPE_CHECKING:
    from ssl import SSLContext

    from asyncdicom.archive import Archive
    from asyncdicom.archive.retention import RetentionRule
    from asyncdicom.cli.alarms import WebhookOptions
    from asyncdicom.cli.state import Observer
    from asyncdicom.cli.supervisor import Place
    from asyncdicom.gateway.config import GatewayConfig
    from asyncdicom.gateway.gateway import Gateway
    from asyncdicom.server import Server
    from asyncdicom.services.request import FindHandler
    from asyncdicom.services.service import Service

__all__ = ["Known", "Setup", "doubts", "serve_all"]

log = Log("asyncdicom.cli")

# The parameters that SIGHUP reads again; what else has changed takes a restart.
_RELOADED = {"configured", "peers", "plain_peers", "strict", "identity", "trusted", "crl", "ignore_peer_cert"}


_MOST_TOLD = 8  # destinations by name


class Known(NamedTuple):
    """Who may do what, by which certificates, and what is sent on where: what can change meanwhile."""

    access: AccessPolicy
    told: str
    ssl: SSLContext | None
    destination_ssl: SSLContext | None
    gateway: GatewayConfig | None

    def destinations(self, ae_title: str) -> dict[str, Any]:
        """Where C-MOVE may send to: the archive itself is none of them."""
        return {title: where for title, where in self.access.destinations.items() if title != ae_title}

    def sends_to(self, ae_title: str, named: Mapping[str, Peer]) -> str:
        """Say where C-MOVE may send to, and of which peers that were `named` the address is missing."""
        titles = list(self.destinations(ae_title))
        more = f" and {len(titles) - _MOST_TOLD} more" if len(titles) > _MOST_TOLD else ""
        told = f"C-MOVE to {', '.join(titles[:_MOST_TOLD])}{more}" if titles else "no C-MOVE destinations"
        silent = [title for title, peer in named.items() if peer.destination is None]
        return f"{told} (no address of {', '.join(silent)})" if silent else told


@dataclass
class Setup:
    """What was asked for. `find` finds out again who is known now, of the parameters of the command line."""

    name: str
    context: click.Context
    find: Callable[[Mapping[str, Any]], Known]
    known: Known
    ae_title: str
    host: str
    port: int
    as_json: bool
    debug: bool
    archive: dict[str, Any]
    limits: Limits
    timeouts: Timeouts
    commitment: bool = False
    worklist: FindHandler | None = None
    http: tuple[str, int] | None = None
    relational: tuple[str, ...] = ()
    webhook: WebhookOptions | None = None
    retention: tuple[RetentionRule, ...] = ()
    place: Place | None = None
    """Its place among several processes, if it has one."""


class _Reload:
    """What SIGHUP does: finds out who is known now, and lets the server and the gateway know."""

    def __init__(self, server: Server, gateway: Gateway | None, setup: Setup) -> None:
        self._server = server
        self._gateway = gateway
        self._setup = setup
        self._known = setup.known
        self._before = setup.context.params

    def load(self) -> tuple[Known, dict[str, Any]]:
        """Read everything again."""
        parameters = parameters_again(self._setup.context)
        known = self._setup.find(parameters)
        if (known.ssl is None) != (self._known.ssl is None):
            raise click.UsageError("TLS cannot begin or end while the archive serves: restart it for that")
        return known, parameters

    def use(self, loaded: tuple[Known, dict[str, Any]]) -> None:
        """Let it be in force; tells what is not."""
        known, parameters = loaded
        self._server.renew(
            ssl=known.ssl,
            destination_ssl=known.destination_ssl,
            destinations=known.destinations(self._setup.ae_title),
        )
        self._known.access.renew(known.access)
        before, self._before = self._before, parameters
        changed = [name for name in parameters if name not in _RELOADED and parameters[name] != before[name]]
        now, then = parameters["configured"], before["configured"]
        changed += [
            table for table in ("limits", "timeouts", "webhook", "retention") if now[table] != then[table]
        ]
        if self._gateway is not None and known.gateway is not None:
            self._gateway.renew(known.gateway)
            changed = [name for name in changed if name != "gateway"]
        if changed:
            log.warning("SIGHUP: a restart is needed for what changed of %s", ", ".join(changed))


@asynccontextmanager
async def _gateway(archive: Archive, setup: Setup) -> AsyncGenerator[Gateway | None, None]:
    """Send on what the archive receives, if anything is to be."""
    from asyncdicom.gateway.gateway import Gateway

    if setup.known.gateway is None:
        yield None
        return
    if not setup.known.gateway.rules:
        log.warning("the gateway's file has no [[routes]]: nothing is sent on")
    async with Gateway(archive, setup.known.gateway, ae_title=setup.ae_title) as gateway:
        yield gateway


@asynccontextmanager
async def _alarms(observer: Observer, options: WebhookOptions, source: str) -> AsyncGenerator[None, None]:
    """Tell the webhook what goes wrong."""
    from asyncio import create_task, wait

    from asyncdicom.cli.webhook import Webhook, watching

    try:
        receiver = Webhook(options, source)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    async with receiver as webhook:
        observer.extra["webhook"] = webhook.counts
        task = create_task(watching(observer.state, options, webhook.tell))
        try:
            yield
        finally:
            task.cancel()
            await wait((task,))


def _services(archive: Archive, setup: Setup) -> list[Service]:
    """Give the services beside those of every archive."""
    from asyncdicom.archive.dimse import commitment_of
    from asyncdicom.services.worklist import Worklist

    services: list[Service] = []
    if setup.commitment:
        services.append(commitment_of(archive))
    if setup.worklist is not None:
        services.append(Worklist(setup.worklist))
    return services


def doubts(setup: Setup) -> list[str]:
    """Say by which names rules of retention ask for deliveries that the gateway does not make."""
    if setup.known.gateway is None:
        return []
    from asyncdicom.gateway.routing import line_of

    groups = {line_of(group): group for group in setup.known.gateway.rules.groups}
    names = [*setup.known.gateway.destinations, *sorted(groups)]
    said: list[str] = []
    for rule in setup.retention:
        for name in rule.to if rule.only == "delivered" else ():
            lines = [line for line, group in groups.items() if name in group]
            if name not in names:
                said.append(
                    f"retention {rule.called}: there is no destination {name!r}, so nothing goes by it; "
                    f"there are {', '.join(names)}"
                )
            elif lines:
                said.append(
                    f"retention {rule.called}: what a first_of sends counts for none of its destinations: "
                    f"write {' or '.join(repr(line) for line in sorted(lines))} for it, and not {name!r}"
                )
    return said


async def serve_all(setup: Setup) -> int:
    """Open the archive, and serve until a signal ends it; gives the exit code.

    What runs is ended in the opposite order: no more associations, what is being sent on, the index.
    """
    from asyncdicom.archive import Archive, ArchiveError, Retention

    for doubt in doubts(setup):
        log.warning("%s", doubt)
    try:
        async with AsyncExitStack() as stack:
            archive = await stack.enter_async_context(Archive(**setup.archive))
            gateway = await stack.enter_async_context(_gateway(archive, setup))
            await stack.enter_async_context(Retention(archive, setup.retention))
            return await _serve(stack, archive, gateway, setup)
    except ArchiveError as error:
        return complain(setup.name, str(error), FAILED)


async def _serve(stack: AsyncExitStack, archive: Archive, gateway: Gateway | None, setup: Setup) -> int:
    from asyncdicom.address import Address
    from asyncdicom.archive.control import Control
    from asyncdicom.archive.dimse import serve_archive
    from asyncdicom.cli.observing import observing_methods, pages_of
    from asyncdicom.cli.printing import Printer
    from asyncdicom.cli.state import Observer
    from asyncdicom.cli.traced import trace_of
    from asyncdicom.gateway.methods import methods_of
    from asyncdicom.running import serve_until_stopped
    from asyncdicom.telemetry.log_output import reopen_logs

    printer = stack.enter_context(Printer(as_json=setup.as_json))
    server = await stack.enter_async_context(
        serve_archive(
            archive,
            Address(setup.ae_title, setup.host, setup.port),
            services=_services(archive, setup),
            access=setup.known.access,
            relational=setup.relational,
            ssl=setup.known.ssl,
            destination_ssl=setup.known.destination_ssl,
            timeouts=setup.timeouts,
            limits=setup.limits,
            trace=trace_of(setup.debug),
            sock=None if setup.place is None else setup.place.listener,
        )
    )
    observer = Observer(archive, server, gateway)
    stack.push_async_callback(observer.close)
    told = await _told(archive, server, setup)
    if setup.http is not None:
        pages = await stack.enter_async_context(pages_of(observer, *setup.http))
        log.info("/healthz, /readyz and /metrics are at http://%s", Address("", pages.host, pages.port).place)
        told["http"] = pages.port
    if setup.webhook is not None:
        await stack.enter_async_context(_alarms(observer, setup.webhook, setup.ae_title))
    reload = _Reload(server, gateway, setup)
    on_reload = reload_with(reload.load, reload.use)

    async def again() -> None:
        reopen_logs()
        await on_reload()

    methods = observing_methods(observer) | ({} if gateway is None else methods_of(gateway))
    is_one = setup.place is not None
    await stack.enter_async_context(
        Control(archive, on_reload=again, methods=methods, is_one_of_several=is_one)
    )
    tell = printer.line if setup.place is None else setup.place.tell_ready
    code = await serve_until_stopped(
        server, on_reload=[on_reload], on_ready=lambda: tell(_ready(told, setup))
    )
    if setup.place is not None:
        setup.place.tell_counted(observer.counts())
    return code


async def _told(archive: Archive, server: Server, setup: Setup) -> dict[str, Any]:
    return {
        "ae_title": setup.ae_title,
        "host": setup.host,
        "port": server.port,
        "data": archive.directory,
        "destinations": list(setup.known.destinations(setup.ae_title)),
        "counts": await archive.counts(),
    }


def _ready(told: Mapping[str, Any], setup: Setup) -> str:
    """Say that it listens, and what is there."""
    from asyncdicom.address import Address

    if setup.as_json:
        return json_text(told)
    where = Address(setup.ae_title, setup.host, told["port"]).place
    destinations = setup.known.sends_to(setup.ae_title, setup.context.params["peers"])
    counts = told["counts"]
    return (
        f"{setup.ae_title} listens on {where}; {setup.known.told}; {destinations}; "
        f"durability: {setup.archive['durability']}\n"
        f"{told['data']}: {counts['study']} studies, {counts['instance']} instances. Ctrl-C stops."
    )
