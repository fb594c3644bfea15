"""Options of DCMTK's tools that ours do not need: accepted where they change nothing, else explained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import click

__all__ = ["habits"]

_FILES_DECIDE = "files are sent as they are encoded, if the peer takes them so; what is proposed comes from them"
_SORTED = "files are named after their SOP Instance UIDs in one folder; sort them by what --json tells"
_PASSPHRASE = "private keys are read without a passphrase: openssl pkey -in KEY -out NEW makes one of those"
_BY_OPENSSL = "the Python installation's OpenSSL decides which versions and ciphers of TLS there are"
_JSON_IN_A_PIPE = "nothing is executed; a program can read what was received: storescp --json PORT | PROGRAM"


class _Habit(NamedTuple):
    """Names of an option, how many values it has, and why it is refused ("": it is accepted)."""

    names: str
    why: str = ""
    values: int = 0


_ALL = [
    _Habit("-lc --log-config", "the log is told where to go by --log-file and --log-format", 1),
    _Habit("-tls --disable-tls"),
    _Habit("-rc --require-peer-cert"),
    _Habit("-vc --verify-peer-cert", "certificates are always required where +cf says whom to trust"),
    _Habit("+cd --add-cert-dir", "name the certificates one by one: +cf FILE", 1),
    _Habit("-pem --pem-keys"),
    _Habit("-der --der-keys", "keys and certificates are PEM files: openssl x509 -inform der -in F"),
    _Habit("-pw --null-passwd"),
    _Habit("+ps --std-passwd", _PASSPHRASE),
    _Habit("+pw --use-passwd", _PASSPHRASE, 1),
    _Habit("+cs --cipher", _BY_OPENSSL, 1),
    _Habit("+px --tls-profile", _BY_OPENSSL, 1),
    _Habit("+dp --dhparam", _BY_OPENSSL, 1),
]
# "-x=" is "-x" with nothing behind "=".
_SYNTAXES = "x xa xs xy xx xv xw xt xu xm xh xn xl xr xd xf"
_PREFERRED = [_Habit(f"+{name}", values=int(name == "x")) for name in (*_SYNTAXES.split(), "xe", "xb", "xi")]
_RECEIVING = [
    *_PREFERRED,
    _Habit("+B --bit-preserving"),
    _Habit("-B --normal"),
]
_OF_TOOL = {
    "ECHOSCU": [],
    "STORESCU": [
        _Habit("+sd --scan-directories"),
        _Habit("+r --recurse"),
        _Habit("-r --no-recurse", "folders are sent with those in them; name files instead: FOLDER/*"),
        _Habit("+sp --scan-pattern", "the shell finds files by patterns: FOLDER/*.dcm", 1),
        _Habit("-nh --no-halt"),
        _Habit("-R --required"),
        _Habit("+C --combine"),
        _Habit("-nip --no-illegal-proposal"),
        *(_Habit(f"-{name}", values=int(name == "x")) for name in _SYNTAXES.split()),
        *(_Habit(f"-{name}", _FILES_DECIDE) for name in ("xe", "xb", "xi")),
    ],
    "FINDSCU": [
        _Habit("-X --extract", "nothing is written to files; --json prints each match on a line"),
        _Habit("+sr --show-responses"),
    ],
    "GETSCU": _RECEIVING,
    "MOVESCU": [*_RECEIVING, _Habit("--no-port")],
    "STORESCP": [
        *_RECEIVING,
        _Habit("-xcr --exec-on-reception", _JSON_IN_A_PIPE, 1),
        _Habit("-xcs --exec-on-eostudy", _JSON_IN_A_PIPE, 1),
        _Habit("-rns --rename-on-eostudy", _SORTED),
        _Habit("-ss --sort-conc-studies", _SORTED, 1),
        _Habit("-su --sort-on-study-uid", _SORTED, 1),
        _Habit("-sp --sort-on-patientname", _SORTED),
        _Habit("-uf --default-filenames"),
        _Habit("+uf --unique-filenames", "files are named SOP-INSTANCE-UID.dcm, and none is replaced"),
        _Habit("-fe --filename-extension", "files are named SOP-INSTANCE-UID.dcm", 1),
        _Habit("-pm --promiscuous"),
        _Habit("-dhl --disable-host-lookup"),
        _Habit("--fork"),
        _Habit("--single-process"),
    ],
}
_OF_SERVERS = [_Habit("+tla --anonymous-tls", "a server needs a certificate for TLS: add +tls KEY CERT")]


def habits(ae_title: str, *, server: bool = False) -> list[Callable[[Any], Any]]:
    """Give the options of the tool that has this AE title by default; ``--help`` does not show them."""
    known = [*_ALL, *(_OF_SERVERS if server else ()), *_OF_TOOL.get(ae_title, ())]
    return [_option(number, habit) for number, habit in enumerate(known)]


def _option(number: int, habit: _Habit) -> Callable[[Any], Any]:
    name, *_ = names = habit.names.split()

    def explain(ctx: click.Context, param: click.Parameter, value: object) -> None:
        if habit.why and value not in (None, False):
            raise click.UsageError(f"{name}: {habit.why}")

    kind: dict[str, Any] = {"nargs": 1} if habit.values else {"is_flag": True}
    return click.option(*names, f"habit_{number}", hidden=True, expose_value=False, callback=explain, **kind)
