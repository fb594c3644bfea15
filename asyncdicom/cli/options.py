"""The options that tools have in common. They keep DCMTK's names and meaning."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable
from os.path import exists
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from asyncdicom.address import ANY_SCP, DEFAULT_PORT, Address, check_ae_title
from asyncdicom.cli.fields import FieldOption
from asyncdicom.cli.logs import LOG_OPTIONS, set_up_logging
from asyncdicom.cli.named import find_peer
from asyncdicom.cli.number import Number
from asyncdicom.cli.peer import Peer, Tls
from asyncdicom.cli.run import EXIT_CODES
from asyncdicom.cli.traced import TRACE_OPTIONS
from asyncdicom.options import Limits, Timeouts

if TYPE_CHECKING:
    from asyncdicom.telemetry.log_output import LogFormat
    from asyncdicom.ul.items import UserIdentity

__all__ = [
    "AE_TITLE",
    "EPILOG",
    "EXIT_CODES",
    "PORT",
    "directory_options",
    "key_options",
    "output_options",
    "peer_options",
    "receiving_host",
    "server_options",
]

EPILOG = (
    f"PEER is AET@host:port, or host [PORT] with -aec (default {ANY_SCP}), or a name (asyncdicom peers). "
    f"{EXIT_CODES}"
)

Function = Callable[..., int]
Option = Callable[[Function], Function]


class _AETitle(click.ParamType[str]):
    name = "AE title"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return check_ae_title(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


AE_TITLE = _AETitle()
LEVELS = ("PATIENT", "STUDY", "SERIES", "IMAGE")
PORT = Number(0, 65535)
_FILE = click.Path(exists=True, dir_okay=False)

_LOGGING = [
    click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line."),
    click.option(
        "-v",
        "--verbose",
        is_flag=True,
        help="Log what is done: each association, instance, query and retrieval, with its outcome and time.",
    ),
    click.option("-d", "--debug", is_flag=True, help="Log that and all commands that are sent and received."),
    click.option("-q", "--quiet", is_flag=True, help="Log errors only; the default is warnings, too."),
    click.option(
        "-ll",
        "--log-level",
        type=click.Choice(["fatal", "error", "warn", "info", "debug", "trace"], case_sensitive=False),
        hidden=True,
        help="As DCMTK's tools have it: error is -q, info is -v, debug is -d.",
    ),
]
_TLS = [
    click.option(
        "--tls",
        "+tla",
        "--anonymous-tls",
        "tls",
        is_flag=True,
        help="Use TLS and trust what the system trusts.",
    ),
    click.option(
        "+tls",
        "--enable-tls",
        "identity",
        nargs=2,
        type=_FILE,
        metavar="KEY CERT",
        help="Use TLS with this key and certificate.",
    ),
    click.option(
        "+cf",
        "--add-cert-file",
        "trusted",
        multiple=True,
        type=_FILE,
        metavar="FILE",
        help="Use TLS and trust this certificate.",
    ),
    click.option(
        "--crl",
        "+crl",
        "--add-crl-file",
        "crl",
        multiple=True,
        type=_FILE,
        metavar="FILE",
        help="A revocation list: certificates on it are refused.",
    ),
    click.option("-ic", "--ignore-peer-cert", is_flag=True, help="Use TLS and trust anybody."),
]
_IDENTITY = [
    click.option("-usr", "--user", metavar="NAME", help="Tell who asks (User Identity)."),
    click.option(
        "-pwd",
        "--password",
        envvar="ASYNCDICOM_PASSWORD",
        metavar="PASSCODE",
        help="The user's passcode, sent over TLS only; the place for it is $ASYNCDICOM_PASSWORD.",
    ),
    click.option("--cleartext-password", is_flag=True, help="Send the passcode without TLS, too."),
]
_WORKLIST = [click.option("-W", "--worklist", "model", flag_value="worklist", help="Modality Worklist.")]


def _field(
    *names: str, of: type[Timeouts] | type[Limits], field: str, requestor: bool, **attributes: Any
) -> Option:
    return click.option(*names, cls=FieldOption, of=of, field=field, requestor=requestor, **attributes)


def _timeout(short: str, long: str, field: str) -> Option:
    return _field(
        short, long, of=Timeouts, field=field, requestor=True, type=Number(whole=False), metavar="S"
    )


def _limit(*names: str, field: str, least: int, most: int | None = None) -> Option:
    return _field(*names, of=Limits, field=field, requestor=False, type=Number(least, most), metavar="N")


_PDU = _limit("-pdu", "--max-pdu", field="maximum_length", least=4096, most=1 << 24)


def _our_ae_title(default: str) -> Option:
    return click.option(
        "-aet",
        "--aetitle",
        "aet",
        type=AE_TITLE,
        default=default,
        show_default=True,
        metavar="AET",
        help="Our AE title.",
    )


def output_options(function: Function) -> Function:
    """``--json``, ``-v``, ``-d`` and ``-q``; sets up logging. The function gets ``as_json`` and ``debug``."""

    @functools.wraps(function)
    def logged(
        *,
        verbose: bool,
        debug: bool,
        quiet: bool,
        log_level: str | None,
        log_file: str | None = None,
        log_format: LogFormat = "short",
        **options: Any,
    ) -> int:
        if not (debug or verbose or quiet):  # these win over the configuration file
            debug = log_level in ("debug", "trace")
            verbose = log_level == "info"
            quiet = log_level in ("fatal", "error")
        level = logging.DEBUG if debug else logging.INFO if verbose else logging.WARNING
        set_up_logging(logging.ERROR if quiet else level, log_file, log_format)
        return function(debug=debug, **options)

    return _apply(_LOGGING, logged)


def peer_options(ae_title: str, *, more: str = "") -> Option:
    """PEER and how to associate with it: the function gets a ``peer``.

    `ae_title`: what ``-aet`` is by default. `more`: the arguments that may follow PEER; they are in
    ``arguments``.
    """
    options: list[Option] = [
        click.argument("arguments", nargs=-1, required=True, metavar=f"PEER [PORT] {more}".rstrip()),
        _our_ae_title(ae_title),
        click.option("-aec", "--call", "aec", type=AE_TITLE, metavar="AET", help="The peer's AE title."),
        _timeout("-to", "--timeout", "connect"),
        _timeout("-ta", "--acse-timeout", "acse"),
        _timeout("-td", "--dimse-timeout", "dimse"),
        _PDU,
        *_IDENTITY,
        *_TLS,
        *TRACE_OPTIONS,
        click.option("--server-hostname", metavar="NAME", help="The host name in the peer's certificate."),
    ]

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def with_peer(
            *,
            arguments: tuple[str, ...],
            aet: str,
            aec: str | None,
            timeout: float | None,
            acse_timeout: float | None,
            dimse_timeout: float | None,
            max_pdu: int,
            user: str | None,
            password: str | None,
            cleartext_password: bool,
            tls: bool,
            identity: tuple[str, str] | None,
            trusted: tuple[str, ...],
            ignore_peer_cert: bool,
            crl: tuple[str, ...],
            server_hostname: str | None,
            debug: bool,
            **others: Any,
        ) -> int:
            address, rest = _split_peer(arguments, aec)
            if rest and not more:
                hint = f"; keys are written -k {rest[0]}" if "=" in rest[0] else ""
                raise click.UsageError(f"{rest[0]!r} is one argument too many{hint}")
            security = Tls(tls, identity, trusted, ignore_peer_cert, crl)
            is_safe = (any(security) and not security.ignore) or cleartext_password
            peer = Peer(
                address,
                aet,
                Timeouts(connect=timeout, acse=acse_timeout, dimse=dimse_timeout),
                Limits(maximum_length=max_pdu),
                _user_identity(user, password, is_safe),
                security,
                server_hostname,
                debug,
            )
            if more:
                others["arguments"] = rest
            return function(peer=peer, **others)

        return output_options(_apply(options, with_peer))

    return decorate


# Option -> field of `Limits`.
_SERVER_LIMITS = {
    "max_pdu": "maximum_length",
    "max_associations": "maximum_associations",
    "operations": "operations_performed",
}


def without_brackets(context: click.Context, param: click.Parameter, host: str) -> str:
    """Take an IPv6 address to listen on as it stands in an URL, too."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


receiving_host: Option = click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    callback=without_brackets,
    help="With --port: the address to listen on.",
)
"""Where a requestor receives what it has the peer send."""


def server_options(ae_title: str) -> Option:
    """What a server has: ``aet``, ``host``, ``tls``, and ``limits`` (the fields that are given)."""
    options: list[Option] = [
        _our_ae_title(ae_title),
        click.option(
            "--host",
            default="127.0.0.1",
            show_default=True,
            callback=without_brackets,
            help="The address to listen on; 0.0.0.0 is every one of IPv4, :: of IPv6 and IPv4.",
        ),
        _limit("--max-associations", field="maximum_associations", least=1),
        _limit("--operations", field="operations_performed", least=1, most=65535),
        _PDU,
        *_TLS[1:],
        *LOG_OPTIONS,
        *TRACE_OPTIONS,
    ]

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def with_tls(
            *,
            identity: tuple[str, str] | None,
            trusted: tuple[str, ...],
            ignore_peer_cert: bool,
            crl: tuple[str, ...],
            **others: Any,
        ) -> int:
            given = {name: others.pop(name) for name in _SERVER_LIMITS}
            source_of = click.get_current_context().get_parameter_source
            limits = {
                _SERVER_LIMITS[name]: value
                for name, value in given.items()
                if source_of(name) is not ParameterSource.DEFAULT
            }
            if identity is None and (trusted or ignore_peer_cert or crl):
                raise click.UsageError("a server needs a certificate for TLS: add +tls KEY CERT")
            from asyncdicom.running import hold_reloads  # with asyncio, which --help does not need

            hold_reloads()
            tls = Tls(False, identity, trusted, ignore_peer_cert, crl)
            return function(tls=tls, limits=limits, **others)

        return output_options(_apply(options, with_tls))

    return decorate


def key_options(*, worklist: bool = False) -> Option:
    """Which information model, level and keys: ``model``, ``level``, ``keys`` (see `keys.wanted`)."""
    options: list[Option] = [
        click.option(
            "-S", "--study", "model", flag_value="study", help="Study Root information model (the default)."
        ),
        click.option(
            "-P", "--patient", "model", flag_value="patient", help="Patient Root information model."
        ),
        click.option(
            "-O", "--psonly", "model", flag_value="patient-study", help="Patient/Study Only (retired)."
        ),
        *(_WORKLIST if worklist else ()),
        click.option(
            "-L",
            "--level",
            type=click.Choice(LEVELS, case_sensitive=False),
            help="The level; by default that of the lowest UID among the keys.",
        ),
        click.option(
            "-k",
            "--key",
            "keys",
            multiple=True,
            metavar="KEY[=VALUE]",
            help="A key by keyword or gggg,eeee; without a value: to be returned. Repeat it for more.",
        ),
    ]
    return lambda function: _apply(options, function)


def directory_options(function: Function) -> Function:
    """Where to put what is received: ``output_directory``, None for nowhere; ``keep_incomplete``."""

    @functools.wraps(function)
    def with_directory(*, output_directory: str, ignore: bool, incomplete: str, **others: Any) -> int:
        directory = None if ignore else output_directory
        return function(output_directory=directory, keep_incomplete=incomplete == "store", **others)

    options: list[Option] = [
        click.option(
            "-od",
            "--output-directory",
            type=click.Path(file_okay=False),
            default=".",
            show_default=True,
            metavar="DIR",
            help="The folder to save files in.",
        ),
        click.option("--ignore", is_flag=True, help="Receive, but save nothing."),
        click.option(
            "--incomplete",
            type=click.Choice(["refuse", "store"]),
            default="refuse",
            show_default=True,
            help="What becomes of a data set that ends within an element: refused (0xC000), or kept as "
            "NAME.dcm.incomplete (0xB007).",
        ),
    ]
    return _apply(options, with_directory)


def _user_identity(user: str | None, password: str | None, is_safe: bool) -> UserIdentity | None:
    if user is None:
        return None
    from asyncdicom.ul.items import UserIdentity

    if password is None:
        return UserIdentity(1, user.encode())
    if not is_safe:
        raise click.UsageError(
            "a passcode is sent over TLS, to a peer that is trusted: add --tls, or --cleartext-password"
        )
    return UserIdentity(2, user.encode(), password.encode())


def _apply(options: Iterable[Option], function: Function) -> Function:
    for option in reversed(list(options)):
        function = option(function)
    return function


def _split_peer(arguments: tuple[str, ...], aec: str | None) -> tuple[Address, tuple[str, ...]]:
    """Read ``AET@host:port`` or ``host port``; gives the address and the arguments after it."""
    text, rest = arguments[0], arguments[1:]
    named = None if rest and rest[0].isdigit() else find_peer(text)
    if named is not None:
        return (named if aec is None else named._replace(ae_title=aec)), rest
    if rest and "@" in rest[-1] and exists(text) and not exists(rest[-1]):
        raise click.UsageError(f"PEER comes before what is sent: {rest[-1]} {text}")
    try:
        if "@" not in text and rest and rest[0].isdigit():
            if text.count(":") > 1 and "[" not in text:
                text = f"[{text}]"  # with a port of its own there is no doubt where an IPv6 address ends
            if ":" not in text.rpartition("]")[2]:
                text, rest = f"{text}:{rest[0]}", rest[1:]
        address = Address.parse(text, DEFAULT_PORT)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    return (address if aec is None else address._replace(ae_title=aec)), rest
