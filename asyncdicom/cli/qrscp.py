"""``asyncdicom qrscp``: the archive."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from asyncdicom.access import ANYBODY, AccessPolicy, Peer
from asyncdicom.cli.config import ConfigError, parse_peer, read_config, secured
from asyncdicom.cli.functions import function_of
from asyncdicom.cli.number import Number
from asyncdicom.cli.options import PORT, server_options
from asyncdicom.cli.output import warn
from asyncdicom.cli.peer import Tls
from asyncdicom.cli.reloading import Rereadable, arguments_of
from asyncdicom.cli.run import EXIT_CODES, OK, run, with_descriptors
from asyncdicom.cli.serving import Known, Setup, doubts, serve_all
from asyncdicom.options import Limits, Timeouts

if TYPE_CHECKING:
    from asyncdicom.gateway.config import GatewayConfig

__all__ = ["ONLY_CHECK", "command"]

ONLY_CHECK = "asyncdicom.only_check"
_PLACE_OF = "asyncdicom.place_of"
# Parameter -> the key of the file that it has another name in.
_KEYS = {
    "aet": ("ae_title",),
    "identity": ("tls", "certificate"),
    "trusted": ("tls", "trusted"),
    "crl": ("tls", "crl"),
}
_LOOPBACK = ("localhost", "::1")
_NO_OPTIONS = ("access", "limits", "timeouts", "peer_tls", "certificates_at", "webhook", "retention")
_OF_ARCHIVE = ("durability", "on_conflict", "on_mismatch", "incomplete", "existing", "index", "blobs", "ack")


def _read_config(ctx: click.Context, param: click.Parameter, path: str | None) -> dict[str, Any]:
    """Let the file's values be the defaults of the other options; gives those that are no options."""
    if path is None:
        nothing: dict[str, Any] = {"access": {"peers": {}}, "peer_tls": {}, "certificates_at": None}
        return nothing | {"limits": Limits(), "timeouts": Timeouts(), "webhook": None, "retention": ()}
    try:
        config = read_config(path)
    except ConfigError as error:
        raise click.UsageError(str(error)) from None
    ctx.meta[_PLACE_OF] = config.pop("place_of")
    others = {key: config.pop(key, None) for key in _NO_OPTIONS}
    if config.pop("has_gateway", False):
        config["gateway"] = path
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


def _place(ctx: click.Context, param: click.Parameter, text: str | None) -> tuple[str, int] | None:
    """Read where to listen."""
    if text is None:
        return None
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdigit() and int(port) < 1 << 16):
        raise click.BadParameter(f"{text!r} is no place to listen at: write HOST:PORT, or PORT")
    return host.removeprefix("[").removesuffix("]") or "127.0.0.1", int(port)


@click.command(cls=_Configured, habits_of="ASYNCDICOM", server=True, epilog=EXIT_CODES)
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
    "--index",
    metavar="URL",
    envvar="ASYNCDICOM_INDEX",
    help="Have the index in a PostgreSQL database instead of a file of the folder: "
    "postgresql://user@host/database (needs asyncdicom[postgres]). $ASYNCDICOM_INDEX is for all tools.",
)
@click.option(
    "--processes",
    type=Number(1),
    default=1,
    show_default=True,
    metavar="N",
    help="Serve in so many processes, on as many cores: for an index in PostgreSQL. One more accepts the "
    "connections, and hands each to the process that has the fewest.",
)
@click.option(
    "--blobs",
    metavar="URL",
    envvar="ASYNCDICOM_BLOBS",
    help="Have the instances in a bucket that speaks S3 instead of the folder: s3://bucket/prefix (needs "
    "asyncdicom[s3]; credentials and endpoint are taken from AWS_* or the instance). $ASYNCDICOM_BLOBS is "
    "for all tools.",
)
@click.option(
    "--ack",
    type=click.Choice(["object", "spool"]),
    default="object",
    show_default=True,
    help="Where an instance is when Success is answered, with --blobs: in the bucket; or in the folder, from "
    "where it is moved to the bucket afterwards.",
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
    "route check). Without it, by those of the configuration file, if it has any.",
)
@click.option(
    "--commitment",
    is_flag=True,
    help="Take part in storage commitment: say of stored instances that they are kept. The callers need an "
    "address in the configuration, where they get the answer.",
)
@click.option(
    "--worklist",
    metavar="MODULE:FUNCTION",
    callback=function_of,
    help="Answer Modality Worklist queries with what this Python function yields (see asyncdicom.Worklist).",
)
@click.option(
    "--http",
    metavar="[HOST:]PORT",
    callback=_place,
    help="Answer GET of /healthz, /readyz and /metrics here (Prometheus; needs asyncdicom[metrics]). Without "
    "HOST it is 127.0.0.1: who can connect needs no password.",
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
    **options: Any,
) -> int:
    """Run an archive: it receives instances, answers queries and sends what is asked for.

    SIGHUP reads the configuration file, the certificates and the gateway's file again: who may call, C-MOVE
    destinations, TLS, routes and where they lead are then what they say; the rest takes a restart. What is
    wrong is logged, and changes nothing.
    """
    context = click.get_current_context()

    def find(parameters: Mapping[str, Any]) -> Known:
        return _known(parameters, aet, host, Tls.of(parameters))

    setup = Setup(
        name=context.command_path,
        context=context,
        find=find,
        known=find(context.params),
        ae_title=aet,
        host=host,
        port=options["port"],
        as_json=as_json,
        debug=options["debug"],
        archive={name: options[name] for name in _OF_ARCHIVE} | _of_archive(options),
        limits=with_descriptors(replace(configured["limits"], **limits)),
        timeouts=configured["timeouts"],
        commitment=options["commitment"],
        worklist=options["worklist"],
        http=options["http"],
        relational=options["relational"],
        webhook=configured["webhook"],
        retention=configured["retention"],
    )
    if options["processes"] > 1 and options["index"] is None:
        raise click.UsageError(
            f"{options['processes']} processes need the index in PostgreSQL: name the database with --index "
            "(docs/postgresql.md); with SQLite it is one process"
        )
    if options["processes"] > 1 and options["ack"] == "spool":
        raise click.UsageError(
            f"{options['processes']} processes need each instance where all find it: with --ack spool it is "
            "one process (docs/s3.md)"
        )
    if context.meta.get(ONLY_CHECK):
        for doubt in doubts(setup):
            warn(doubt)
        return OK
    if options["processes"] == 1:
        return run(lambda: serve_all(setup))
    return _run_several(setup, options["processes"])


def _run_several(setup: Setup, number: int) -> int:
    """Be one of several processes, or the one that starts them."""
    from asyncdicom.address import Address
    from asyncdicom.cli.several import supervise
    from asyncdicom.cli.supervisor import Place

    setup.place = Place.found()
    if setup.place is None:
        arguments = arguments_of(setup.context)
        address = Address(setup.ae_title, setup.host, setup.port)
        directory = os.path.abspath(setup.archive["directory"])
        words = ["qrscp", *arguments]
        return run(lambda: supervise(words, number, address, directory, setup.http, as_json=setup.as_json))
    setup.archive["sweep"], setup.http = setup.place.sweeps, None
    if setup.place.number:
        setup.webhook = None  # one of them tells
    return run(lambda: serve_all(setup))


def _of_archive(options: Mapping[str, Any]) -> dict[str, Any]:
    """Give what `Archive` calls otherwise, or measures otherwise."""
    minimum = options["minimum_free"]
    return {
        "directory": options["data"],
        "minimum_free": None if minimum is None else minimum << 20,
        "scrub": options["scrub"] << 20,
        "maximum_quarantined": options["quarantine_limit"],
    }


def _read_gateway(path: str, tls: Tls) -> GatewayConfig:
    from asyncdicom.gateway.config import GatewayConfigError, read_gateway

    ours = None if tls.identity is None else replace(tls.files(), verify=True)
    try:
        return read_gateway(path, ours=ours)
    except GatewayConfigError as error:
        raise click.UsageError(str(error)) from None


def _known(parameters: Mapping[str, Any], aet: str, host: str, tls: Tls) -> Known:
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
    gateway = parameters["gateway"]
    routes = None if gateway is None else _read_gateway(gateway, tls)
    return Known(access, who, tls.server(), tls.for_destinations(), routes)
