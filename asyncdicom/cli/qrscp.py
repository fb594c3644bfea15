"""``asyncdicom qrscp``: the archive."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from asyncdicom.access import ANYBODY, AccessPolicy, Peer
from asyncdicom.cli.config import ConfigError, parse_peer, read_config, secured
from asyncdicom.cli.number import Number
from asyncdicom.cli.options import PORT, server_options
from asyncdicom.cli.output import json_text
from asyncdicom.cli.peer import Tls
from asyncdicom.cli.reloading import Rereadable, parameters_again, reload_with
from asyncdicom.cli.run import EXIT_CODES, FAILED, complain, run, with_descriptors
from asyncdicom.options import Limits, Timeouts
from asyncdicom.telemetry.log import Log

if TYPE_CHECKING:
    from ssl import SSLContext

    from asyncdicom.archive import Archive
    from asyncdicom.archive.operations import Method
    from asyncdicom.gateway.config import GatewayConfig
    from asyncdicom.server import Server

__all__ = ["command"]

log = Log("asyncdicom.cli")

_PLACE_OF = "asyncdicom.place_of"
# Parameter -> the key of the file that it has another name in.
_KEYS = {
    "aet": ("ae_title",),
    "identity": ("tls", "certificate"),
    "trusted": ("tls", "trusted"),
    "crl": ("tls", "crl"),
}
_LOOPBACK = ("localhost", "::1")
_MOST_TOLD = 8  # destinations by name
# The parameters that SIGHUP reads again; what else has changed takes a restart.
_RELOADED = {"configured", "peers", "plain_peers", "strict", "identity", "trusted", "crl", "ignore_peer_cert"}


def _read_config(ctx: click.Context, param: click.Parameter, path: str | None) -> dict[str, Any]:
    """Let the file's values be the defaults of the other options; gives those that are no options."""
    if path is None:
        nothing: dict[str, Any] = {"access": {"peers": {}}, "peer_tls": {}, "certificates_at": None}
        return nothing | {"limits": Limits(), "timeouts": Timeouts()}
    try:
        config = read_config(path)
    except ConfigError as error:
        raise click.UsageError(str(error)) from None
    ctx.meta[_PLACE_OF] = config.pop("place_of")
    others = {key: config.pop(key) for key in ("access", "limits", "timeouts", "peer_tls", "certificates_at")}
    tls = config.pop("tls", None)
    if tls is not None:
        config["identity"] = (tls.get("key", tls["certificate"]), tls["certificate"])
        config |= {"trusted": tls.get("trusted", []), "crl": tls.get("crl", [])}
        config["ignore_peer_cert"] = not tls.get("verify", True)
    if "ae_title" in config:
        config["aet"] = config.pop("ae_title")
    ctx.default_map = config
    return others


class _Configured(Rereadable):
    """A command with a configuration file: what is wrong in it is told with its line."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Read the command line, and the file that it names."""
        try:
            return super().make_context(info_name, list(args), parent, **extra)
        except click.BadParameter as error:
            name = None if error.param is None else error.param.name
            if error.ctx is None or name is None:
                raise
            # (Some versions of click note a value's source only when the value is right, so ask the parser.)
            given, _, _ = self.make_parser(error.ctx).parse_args(list(args))
            of_file = error.ctx.default_map or {}
            if name in given or name not in of_file:
                raise
            key = _key_of(name, of_file[name], error.message)
            place = error.ctx.meta[_PLACE_OF](key)
            raise click.UsageError(f"{place}: {'.'.join(key)}: {error.message}") from None


def _key_of(name: str, value: Any, message: str) -> tuple[str, ...]:
    """Give the key of the file that a parameter with a wrong value comes from."""
    if name == "identity" and value[0] != value[1] and repr(value[0]) in message:
        return ("tls", "key")
    return _KEYS.get(name, (name,))


def _peers(ctx: click.Context, param: click.Parameter, texts: tuple[str, ...]) -> dict[str, Peer]:
    peers = {}
    called = {"plain": True} if param.name == "plain_peers" else {}
    for text in texts:
        title, _, where = text.partition("=")
        try:
            if called and not where:
                raise ValueError("it is for C-MOVE to it, which needs its address")
            peers[title] = parse_peer(title, where, called)
        except ValueError as error:
            raise click.UsageError(f"{param.opts[0]} {text}: {error}; write it as AET=host:port") from None
    return peers


@click.command(cls=_Configured, epilog=EXIT_CODES)
@click.option(
    "--config",
    "configured",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    is_eager=True,
    callback=_read_config,
    help="Read a configuration file (TOML); options given here win.",
)
@click.option(
    "--data", default="asyncdicom-archive", show_default=True, metavar="DIR", help="The archive's folder."
)
@click.option(
    "--port", type=PORT, default=11112, show_default=True, metavar="N", help="The port; 0 is a free one."
)
@click.option(
    "--peer",
    "peers",
    multiple=True,
    metavar="AET=HOST:PORT",
    callback=_peers,
    help="A known AE title: it may call a strict archive, and with an address it is a C-MOVE destination "
    "(by TLS, with +tls).",
)
@click.option(
    "--plain-peer",
    "plain_peers",
    multiple=True,
    metavar="AET=HOST:PORT",
    callback=_peers,
    help="The same, but what is sent to it is sent in the clear, with +tls, too.",
)
@click.option(
    "--relational",
    multiple=True,
    metavar="AET",
    help="A caller that may leave out the Unique Keys above the level of its query without having "
    "negotiated that; * is every caller.",
)
@click.option(
    "--durability",
    type=click.Choice(["power", "process", "none"]),
    default="power",
    show_default=True,
    help="What a stored instance has survived when Success is answered.",
)
@click.option(
    "--on-conflict",
    type=click.Choice(["quarantine", "keep", "replace"]),
    default="quarantine",
    show_default=True,
    help="What becomes of other data under a known SOP Instance UID: kept aside (0xB007), refused "
    "(0x0111), or put in place of the first. The same data in another encoding are a Success.",
)
@click.option(
    "--on-mismatch",
    type=click.Choice(["separate", "quarantine"]),
    default="separate",
    show_default=True,
    help="What becomes of an instance with two Patient IDs, or of a study of another patient: kept under its "
    "own Patient ID with a warning, or put aside (0xB007).",
)
@click.option(
    "--incomplete",
    type=click.Choice(["refuse", "store"]),
    default="refuse",
    show_default=True,
    help="What becomes of a data set that ends within an element: refused (0xC000), or kept and marked.",
)
@click.option(
    "--minimum-free",
    type=Number(0),
    metavar="MIB",
    help="How much of the disk is kept free, in MiB: with less, C-STORE is answered with 0xA700. The "
    "default is 2048, or 5 % of a disk smaller than 40 GiB.",
)
@click.option(
    "--existing",
    is_flag=True,
    help="Refuse to start a new archive: a disk that is not mounted looks like a new folder.",
)
@click.option(
    "--scrub",
    type=Number(0),
    default=1,
    show_default=True,
    metavar="MIB",
    help="Compare stored files with their digests, all the time, at so many MiB a second; 0: never.",
)
@click.option(
    "--gateway",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Send on what is received, to the destinations and by the routes in this file (TOML; see asyncdicom "
    "route check).",
)
@click.option(
    "--quarantine-limit",
    type=Number(0),
    default=10_000,
    show_default=True,
    metavar="N",
    help="How many conflicting instances are kept aside; more are refused (0xA700).",
)
@click.option(
    "--strict/--open",
    "strict",
    default=None,
    help="Let only known peers call, and only by our exact AE title; or anybody, by any. The default is "
    "--open on loopback, --strict elsewhere.",
)
@server_options("ASYNCDICOM")
def command(
    configured: dict[str, Any],
    aet: str,
    host: str,
    as_json: bool,
    tls: Tls,
    limits: dict[str, int],
    peers: dict[str, Peer],
    plain_peers: dict[str, Peer],
    strict: bool | None,
    gateway: str | None,
    **options: Any,
) -> int:
    """Run an archive: it receives instances, answers queries and sends what is asked for.

    SIGHUP reads the configuration file and the certificates again: who may call, C-MOVE destinations and TLS
    are then what they say; the rest takes a restart. What is wrong is logged, and changes nothing.
    """
    context = click.get_current_context()
    known = _known(context.params, aet, host, tls)
    routes = None if gateway is None else _read_gateway(gateway, tls)
    return run(
        lambda: _serve(
            known,
            context,
            aet,
            host,
            as_json,
            limits=with_descriptors(replace(configured["limits"], **limits)),
            timeouts=configured["timeouts"],
            gateway=routes,
            **options,
        )
    )


def _read_gateway(path: str, tls: Tls) -> GatewayConfig:
    from asyncdicom.gateway.config import GatewayConfigError, read_gateway

    ours = None if tls.identity is None else replace(tls.files(), verify=True)
    try:
        return read_gateway(path, ours=ours)
    except GatewayConfigError as error:
        raise click.UsageError(str(error)) from None


@asynccontextmanager
async def _sending_on(
    archive: Archive, config: GatewayConfig | None, ae_title: str
) -> AsyncGenerator[dict[str, Method], None]:
    """Send on what the archive receives; gives what an operator can ask of that."""
    from asyncdicom.gateway.gateway import Gateway
    from asyncdicom.gateway.methods import methods_of

    if config is None:
        yield {}
        return
    if not config.rules:
        log.warning("the gateway's file has no [[routes]]: nothing is sent on")
    async with Gateway(archive, config, ae_title=ae_title) as gateway:
        yield methods_of(gateway)


class _Known(NamedTuple):
    """Who may do what, and by which certificates: what can change while the archive serves."""

    access: AccessPolicy
    told: str
    ssl: SSLContext | None
    destination_ssl: SSLContext | None

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


def _known(parameters: Mapping[str, Any], aet: str, host: str, tls: Tls) -> _Known:
    """Find out of the command line and the files that it names. Raises ``click.UsageError``."""
    configured, strict = parameters["configured"], parameters["strict"]
    everybody: dict[str, Peer] = (
        configured["access"]["peers"] | parameters["peers"] | parameters["plain_peers"]
    )
    if strict is None:
        strict = not (host in _LOOPBACK or host.startswith("127."))
    if strict and not everybody:
        raise click.UsageError(
            f"on {host} only known peers may call, and none is known: "
            "name them with --peer AET=HOST:PORT, or let everybody in with --open"
        )
    who = f"{len(everybody)} known AE titles may call" if strict else "any AE title may call"
    if not strict:
        everybody = {ANYBODY: Peer()} | everybody
    try:
        secured(everybody, configured["peer_tls"], replace(tls.files(), verify=True))
        access = AccessPolicy(
            **configured["access"] | {"peers": everybody, "called_ae_titles": [aet] if strict else None}
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if access.asks_for_certificates and (tls.identity is None or tls.ignore or not tls.trusted):
        raise click.UsageError(
            f"{configured['certificates_at']}: certificates of callers are asked for, but nobody can show "
            "one: use TLS and say whom it trusts, with +tls KEY CERT +cf FILE, or in the file with [tls] and "
            "its key, certificate and trusted"
        )
    return _Known(access, who, tls.server(), tls.for_destinations())


class _Reload:
    """What SIGHUP does: finds out who is known now, and lets the server know."""

    def __init__(self, server: Server, known: _Known, context: click.Context, aet: str, host: str) -> None:
        self._server = server
        self._known = known
        self._context = context
        self._before = context.params
        self._aet = aet
        self._host = host

    def load(self) -> tuple[_Known, dict[str, Any]]:
        """Read everything again."""
        parameters = parameters_again(self._context)
        tls = Tls.of(parameters)
        if (tls.identity is None) != (self._known.ssl is None):
            raise click.UsageError("TLS cannot begin or end while the archive serves: restart it for that")
        return _known(parameters, self._aet, self._host, tls), parameters

    def use(self, loaded: tuple[_Known, dict[str, Any]]) -> None:
        """Let it be in force; tells what is not."""
        known, parameters = loaded
        self._server.renew(
            ssl=known.ssl,
            destination_ssl=known.destination_ssl,
            destinations=known.destinations(self._aet),
        )
        self._known.access.renew(known.access)
        before, self._before = self._before, parameters
        changed = [name for name in parameters if name not in _RELOADED and parameters[name] != before[name]]
        now, then = parameters["configured"], before["configured"]
        changed += [table for table in ("limits", "timeouts") if now[table] != then[table]]
        if changed:
            log.warning("SIGHUP: a restart is needed for what changed of %s", ", ".join(changed))


async def _serve(
    known: _Known,
    context: click.Context,
    aet: str,
    host: str,
    as_json: bool,
    *,
    port: int,
    data: str,
    relational: tuple[str, ...],
    durability: str,
    on_conflict: str,
    on_mismatch: str,
    incomplete: str,
    minimum_free: int | None,
    existing: bool,
    scrub: int,
    quarantine_limit: int,
    gateway: GatewayConfig | None,
    limits: Limits,
    timeouts: Timeouts,
    debug: bool,
) -> int:
    from asyncdicom.address import Address
    from asyncdicom.archive import Archive, ArchiveError
    from asyncdicom.archive.control import Control
    from asyncdicom.archive.dimse import serve_archive
    from asyncdicom.cli.dump import trace
    from asyncdicom.cli.printing import Printer
    from asyncdicom.running import serve_until_stopped
    from asyncdicom.telemetry.log_output import reopen_logs

    try:
        with Printer(as_json=as_json) as printer:
            async with (
                Archive(
                    data,
                    durability=durability,
                    on_conflict=on_conflict,
                    on_mismatch=on_mismatch,
                    incomplete=incomplete,
                    minimum_free=None if minimum_free is None else minimum_free << 20,
                    existing=existing,
                    scrub=scrub << 20,
                    maximum_quarantined=quarantine_limit,
                ) as archive,
                _sending_on(archive, gateway, aet) as methods,
                serve_archive(
                    archive,
                    Address(aet, host, port),
                    access=known.access,
                    relational=relational,
                    ssl=known.ssl,
                    destination_ssl=known.destination_ssl,
                    timeouts=timeouts,
                    limits=limits,
                    trace=trace if debug else None,
                ) as server,
            ):
                counts = await archive.counts()
                where = Address(aet, host, server.port).place
                told = {
                    "ae_title": aet,
                    "host": host,
                    "port": server.port,
                    "data": archive.directory,
                    "destinations": list(known.destinations(aet)),
                    "counts": counts,
                }
                text = (
                    f"{aet} listens on {where}; {known.told}; "
                    f"{known.sends_to(aet, context.params['peers'])}; durability: {durability}\n"
                    f"{archive.directory}: {counts['study']} studies, {counts['instance']} instances. "
                    "Ctrl-C stops."
                )
                reload = _Reload(server, known, context, aet, host)
                on_reload = reload_with(reload.load, reload.use)

                async def again() -> None:
                    reopen_logs()
                    await on_reload()

                async with Control(archive, on_reload=again, methods=methods):
                    return await serve_until_stopped(
                        server,
                        on_reload=[on_reload],
                        on_ready=lambda: printer.line(json_text(told) if as_json else text),
                    )
    except ArchiveError as error:
        return complain("asyncdicom qrscp", str(error), FAILED)
