"""``asyncdicom qrscp``: the archive."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import click

from asyncdicom.access import ANYBODY, AccessPolicy, Peer
from asyncdicom.cli.config import ConfigError, parse_peer, read_config, secured
from asyncdicom.cli.options import PORT, server_options
from asyncdicom.cli.output import json_line
from asyncdicom.cli.peer import Tls
from asyncdicom.cli.run import EXIT_CODES, FAILED, complain, run, with_descriptors
from asyncdicom.options import Limits, Timeouts

__all__ = ["command"]

_LOOPBACK = ("localhost", "::1")


def _read_config(ctx: click.Context, param: click.Parameter, path: str | None) -> dict[str, Any]:
    """Let the file's values be the defaults of the other options; gives those that are no options."""
    if path is None:
        nothing: dict[str, Any] = {"access": {"peers": {}}, "peer_tls": {}, "certificates_at": None}
        return nothing | {"limits": Limits(), "timeouts": Timeouts()}
    try:
        config = read_config(path)
    except ConfigError as error:
        raise click.UsageError(str(error)) from None
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


def _peers(ctx: click.Context, param: click.Parameter, texts: tuple[str, ...]) -> dict[str, Peer]:
    peers = {}
    called = {"plain": True} if param.name == "plain_peers" else {}
    for text in texts:
        title, _, where = text.partition("=")
        try:
            peers[title] = parse_peer(title, where, called)
        except ValueError as error:
            raise click.UsageError(f"{param.opts[0]} {text}: {error}; write it as AET=host:port") from None
    return peers


@click.command(epilog=EXIT_CODES)
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
    type=click.IntRange(0),
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
    "--strict/--open",
    "strict",
    default=None,
    help="Let only known peers call, and only by our exact AE title; or anybody, by any. The default is "
    "--open on loopback, --strict elsewhere.",
)
@server_options("ASYNCDICOM")
def command(
    configured: dict[str, Any],
    peers: dict[str, Peer],
    plain_peers: dict[str, Peer],
    aet: str,
    host: str,
    strict: bool | None,
    as_json: bool,
    tls: Tls,
    limits: dict[str, int],
    **options: Any,
) -> int:
    """Run an archive: it receives instances, answers queries and sends what is asked for."""
    everybody: dict[str, Peer] = configured["access"]["peers"] | peers | plain_peers
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
        asked_at = configured.pop("certificates_at")
        secured(everybody, configured.pop("peer_tls"), replace(tls.files(), verify=True))
        access = AccessPolicy(
            **configured["access"] | {"peers": everybody, "called_ae_titles": [aet] if strict else None}
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if access.asks_for_certificates and (tls.identity is None or tls.ignore or not tls.trusted):
        raise click.UsageError(
            f"{asked_at}: certificates of callers are asked for, but nobody can show one: use TLS and say "
            "whom it trusts, with +tls KEY CERT +cf FILE, or in the file with [tls] and its key, certificate "
            "and trusted"
        )
    return run(
        lambda: _serve(
            access,
            who,
            aet,
            host,
            as_json,
            tls=tls,
            limits=with_descriptors(replace(configured["limits"], **limits)),
            timeouts=configured["timeouts"],
            **options,
        )
    )


async def _serve(
    access: AccessPolicy,
    who: str,
    aet: str,
    host: str,
    as_json: bool,
    *,
    port: int,
    data: str,
    durability: str,
    on_conflict: str,
    on_mismatch: str,
    incomplete: str,
    minimum_free: int | None,
    existing: bool,
    limits: Limits,
    timeouts: Timeouts,
    tls: Tls,
    debug: bool,
) -> int:
    from asyncdicom.address import Address
    from asyncdicom.archive import Archive, ArchiveError
    from asyncdicom.archive.scp import serve_archive
    from asyncdicom.cli.dump import trace
    from asyncdicom.running import serve_until_stopped

    try:
        async with (
            Archive(
                data,
                durability=durability,
                on_conflict=on_conflict,
                on_mismatch=on_mismatch,
                incomplete=incomplete,
                minimum_free=None if minimum_free is None else minimum_free << 20,
                existing=existing,
            ) as archive,
            serve_archive(
                archive,
                Address(aet, host, port),
                access=access,
                ssl=tls.server(),
                destination_ssl=tls.for_destinations(),
                timeouts=timeouts,
                limits=limits,
                trace=trace if debug else None,
            ) as server,
        ):
            counts = await archive.counts()
            if as_json:
                json_line(ae_title=aet, host=host, port=server.port, data=archive.directory, counts=counts)
            else:
                where = Address(aet, host, server.port).place
                print(
                    f"{aet} listens on {where}; {who}; durability: {durability}\n"
                    f"{archive.directory}: {counts['study']} studies, {counts['instance']} instances. "
                    "Ctrl-C stops.",
                    flush=True,
                )
            return await serve_until_stopped(server)
    except ArchiveError as error:
        return complain("asyncdicom qrscp", str(error), FAILED)
