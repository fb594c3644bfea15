"""Options of DCMTK's tools that ours do not need: accepted where they change nothing, else explained."""

from __future__ import annotations

from typing import Any, NamedTuple

import click

__all__ = ["habits"]

_FILES_DECIDE = "files are sent as they are encoded, and re-encoded only for a peer that does not take that"
_AS_RECEIVED = "what is received is saved as it came, byte for byte; dcmconv changes files"
_AS_IT_IS = "what is sent is not changed"
_NAMED = "files are named SOP-INSTANCE-UID.dcm, and none is replaced"
_BY_TIME = "no folder is named after the time; -su PREFIX, or --folder-template, makes one for each study"
_PASSPHRASE = "private keys are read without a passphrase: openssl pkey -in KEY -out NEW makes one of those"
_BY_OPENSSL = "the Python installation's OpenSSL decides which versions and ciphers of TLS there are"
_SEEDED = "the operating system seeds the random numbers of TLS"
_TOKENS = "of user identities, only names (-usr) and passcodes (-pwd) are sent"
_NO_FAULTS = "it makes no faults on purpose; asyncdicom conformance does, for any peer"
_WHO_MAY = "asyncdicom qrscp --strict --peer AET=HOST:PORT decides who may call"


class _Habit(NamedTuple):
    """Names of an option, how many values it has, and why it is refused ("": it is accepted)."""

    names: str
    why: str = ""
    values: int = 0


_ALL = [
    _Habit("-lc --log-config", "the log is told where to go by --log-file and --log-format", 1),
    _Habit("--arguments"),
    _Habit("--version", "asyncdicom --version tells it"),
    _Habit("-tls --disable-tls"),
    _Habit("-rc --require-peer-cert"),
    _Habit("-vc --verify-peer-cert", "certificates are always required where +cf says whom to trust"),
    _Habit("+cd --add-cert-dir", "name the certificates one by one: +cf FILE", 1),
    _Habit("+crv --enable-crl-vfy"),
    _Habit("+cra --enable-crl-all"),
    _Habit("-pem --pem-keys"),
    _Habit("-der --der-keys", "keys and certificates are PEM files: openssl x509 -inform der -in F"),
    _Habit("-pw --null-passwd"),
    _Habit("+ps --std-passwd", _PASSPHRASE),
    _Habit("+pw --use-passwd", _PASSPHRASE, 1),
    _Habit("+cs --cipher", _BY_OPENSSL, 1),
    _Habit("+cc --list-ciphers", "openssl ciphers -v lists them"),
    _Habit("+px --profile-bcp195", _BY_OPENSSL),
    _Habit("+py --profile-bcp195-nd", _BY_OPENSSL),
    _Habit("+pz --profile-bcp195-ex", _BY_OPENSSL),
    _Habit("+pa --profile-aes", _BY_OPENSSL),
    _Habit("+pn --profile-null", _BY_OPENSSL),
    _Habit("+dp --dhparam", _BY_OPENSSL, 1),
    _Habit("+rs --seed", _SEEDED, 1),
    _Habit("+ws --write-seed", _SEEDED),
    _Habit("+wf --write-seed-file", _SEEDED, 1),
    _Habit("-ts --socket-timeout", values=1),
]
_OF_SCUS = [
    _Habit("-epw --empty-password", _TOKENS),
    _Habit("-kt --kerberos", _TOKENS, 1),
    _Habit("--saml", _TOKENS, 1),
    _Habit("--jwt", _TOKENS, 1),
    _Habit("-rsp --pos-response", "the peer's response to a user identity is not asked for"),
    _Habit("--max-send-pdu", "PDUs are as long as the peer lets them be", 1),
    _Habit("-up --uid-padding"),
    _Habit("+v --verbose-pc", "-d shows all that is proposed and accepted"),
]
# The transfer syntaxes that DCMTK's tools propose or prefer. "-x=" is "-x" with nothing behind "=".
_SYNTAXES = {
    "x": "uncompr",
    "xa": "",
    "xs": "lossless",
    "xy": "jpeg8",
    "xx": "jpeg12",
    "xv": "j2k-lossless",
    "xw": "j2k-lossy",
    "xt": "jls-lossless",
    "xu": "jls-lossy",
    "xm": "mpeg2",
    "xh": "mpeg2-high",
    "xn": "mpeg4",
    "xl": "mpeg4-bd",
    "x2": "mpeg4-2-2d",
    "x3": "mpeg4-2-3d",
    "xo": "mpeg4-2-st",
    "x4": "hevc",
    "x5": "hevc10",
    "xr": "rle",
    "xd": "deflated",
    "xf": "",
}
_UNCOMPRESSED = {"xe": "little", "xb": "big", "xi": "implicit"}


def _syntaxes(sign: str, word: str, names: dict[str, str], why: str = "") -> list[_Habit]:
    return [
        _Habit(f"{sign}{name}{f' --{word}-{long}' if long else ''}", why, int(name == "x"))
        for name, long in names.items()
    ]


_PREFERRED = [
    *_syntaxes("+", "prefer", _SYNTAXES),
    *_syntaxes("+", "prefer", {"xe": "little", "xb": "big"}),
    _Habit("--accept-all"),
]
_RECEIVING = [
    *_PREFERRED,
    _Habit("+B --bit-preserving"),
    _Habit("-B --normal"),
    _Habit("+F --write-file"),
    _Habit("-F --write-dataset", "files have File Meta Information: dcmconv -F writes data sets alone"),
    *(
        _Habit(names, _AS_RECEIVED)
        for names in (
            "+te --write-xfer-little",
            "+tb --write-xfer-big",
            "+ti --write-xfer-implicit",
            "+td --write-xfer-deflated",
            "-u --disable-new-vr",
            "+g --group-length-create",
            "-g --group-length-remove",
            "--group-length-recalc",
            "-e --length-undefined",
            "+uc --convert-un",
        )
    ),
    _Habit("+t --write-xfer-same", values=1),  # "+t="
    _Habit("+u --enable-new-vr"),
    _Habit("+e --length-explicit"),
    _Habit("-p --padding-off"),
    _Habit("+p --padding-create", _AS_RECEIVED, 2),
    _Habit("-uc --retain-un"),
    _Habit("+cl --compression-level", _AS_RECEIVED, 1),
]
_ASKING = [
    *_syntaxes("-", "propose", {"x": "uncompr", "xd": "deflated", **_UNCOMPRESSED}),
    _Habit("--repeat", "run it again for that", 1),
    _Habit("--abort", "associations are released"),
]
_MOVING = [
    _Habit("--no-port"),
    _Habit("-pi --pending-ignore"),
    _Habit("-pr --pending-read"),
    _Habit("--cancel", "Ctrl-C cancels it", 1),
]
_OF_TOOL = {
    "ECHOSCU": [
        _Habit("+vc --verify-cert", "openssl verify -CAfile FILE CERTIFICATE does that", 1),
        _Habit("+rc --is-root-cert", "openssl x509 -noout -subject -issuer -in FILE shows it", 1),
        *_OF_SCUS,
        _Habit("-pts --propose-ts", values=1),
        _Habit("-ppc --propose-pc", values=1),
    ],
    "STORESCU": [
        *_OF_SCUS,
        _Habit("+f --read-file"),
        _Habit("+fo --read-file-only"),
        _Habit("-f --read-dataset"),
        _Habit("-rn --no-rename"),
        _Habit("+rn --rename", "--json tells what became of each file, and the files stay as they are"),
        _Habit("+sd --scan-directories"),
        _Habit("+r --recurse"),
        _Habit("-r --no-recurse", "folders are sent with those in them; name files instead: FOLDER/*"),
        _Habit("+sp --scan-pattern", "the shell finds files by patterns: FOLDER/*.dcm", 1),
        _Habit("-nh --no-halt"),
        _Habit("-R --required"),
        _Habit("+C --combine"),
        _Habit("-nip --no-illegal-proposal"),
        *_syntaxes("-", "propose", _SYNTAXES),
        _Habit("--config-file", _FILES_DECIDE, 2),
        *_syntaxes("-", "propose", _UNCOMPRESSED, _FILES_DECIDE),
        _Habit("+u --enable-new-vr"),
        _Habit("-u --disable-new-vr", _AS_IT_IS),
        _Habit("+cl --compression-level", _AS_IT_IS, 1),
        _Habit("+II --invent-instance", _AS_IT_IS),
        _Habit("+IR --invent-series", _AS_IT_IS, 1),
        _Habit("+IS --invent-study", _AS_IT_IS, 1),
        _Habit("+IP --invent-patient", _AS_IT_IS, 1),
        _Habit("--repeat", "name the files once for each time", 1),
        _Habit("--abort", "associations are released"),
    ],
    "FINDSCU": [
        *_OF_SCUS,
        *_ASKING,
        _Habit("-X --extract", "nothing is written to files; --json prints each match on a line"),
        _Habit("-Xx --extract-xml", "--json prints each match on a line, as DICOM JSON"),
        _Habit("-Xs --extract-xml-single", "--json prints each match on a line, as DICOM JSON", 1),
        _Habit("-Xlo --limit-output", "--cancel N ends it after N matches", 1),
        _Habit("-od --output-directory", "nothing is written to files; --json prints each match", 1),
        _Habit("+sr --show-responses"),
        _Habit("-sr --hide-responses", "send them to /dev/null; the status is in the last line"),
        _Habit("+dc --enable-correction"),
        _Habit("-dc --disable-correction"),
        _Habit("+u --enable-new-vr"),
        _Habit("-u --disable-new-vr", _AS_IT_IS),
        _Habit("+cl --compression-level", _AS_IT_IS, 1),
    ],
    "GETSCU": [
        *_OF_SCUS,
        *_ASKING,
        *_RECEIVING,
        _Habit("+xi --implicit", "what is proposed comes from what PEER tells about the instances"),
    ],
    "MOVESCU": [
        *_OF_SCUS,
        *_ASKING,
        *_MOVING,
        *_RECEIVING,
        _Habit("+xi --implicit", _AS_RECEIVED),
        _Habit("-dhl --disable-host-lookup"),
        _Habit("-ac --access-full", "with --port, only PEER may send"),
        _Habit("+ac --access-control", "with --port, only PEER may send", 1),
    ],
    "STORESCP": [
        *_RECEIVING,
        _Habit("+v --verbose-pc", "-d shows all that is proposed and accepted"),
        _Habit("-xf --config-file", "all storage SOP classes and transfer syntaxes are accepted", 2),
        _Habit("-ta --acse-timeout", "qrscp --config FILE has time-outs; storescp has the usual ones", 1),
        _Habit("-td --dimse-timeout", "qrscp --config FILE has time-outs; storescp has the usual ones", 1),
        _Habit("-rns --rename-on-eostudy", _NAMED),
        _Habit("-ss --sort-conc-studies", _BY_TIME, 1),
        _Habit("-sp --sort-on-patientname", _BY_TIME),
        _Habit("-uf --default-filenames"),
        _Habit("+uf --unique-filenames", _NAMED),
        _Habit("-tn --timenames", _NAMED),
        _Habit("-fe --filename-extension", _NAMED, 1),
        _Habit("-xs --exec-sync", "--exec-limit 1 runs one command after another"),
        _Habit("-pm --promiscuous"),
        _Habit("-dhl --disable-host-lookup"),
        _Habit("-up --uid-padding"),
        _Habit("--fork"),
        _Habit("--single-process"),
        _Habit("-id --inetd", "it listens itself; a port of 0 is any free one"),
        _Habit("-ac --access-full"),
        _Habit("+ac --access-control", _WHO_MAY, 1),
        _Habit("--refuse", _NO_FAULTS),
        _Habit("--reject", _NO_FAULTS),
        _Habit("--sleep-after", _NO_FAULTS, 1),
        _Habit("--sleep-during", _NO_FAULTS, 1),
        _Habit("--abort-after", _NO_FAULTS),
        _Habit("--abort-during", _NO_FAULTS),
    ],
}
_OF_SERVERS = [
    _Habit("+tla --anonymous-tls", "a server needs a certificate for TLS: add +tls KEY CERT"),
]


def habits(ae_title: str, *, server: bool = False) -> list[click.Option]:
    """Make the options of the tool that has this AE title by default; ``--help`` does not show them."""
    known = [*_ALL, *(_OF_SERVERS if server else ()), *_OF_TOOL.get(ae_title, ())]
    return [_option(number, habit) for number, habit in enumerate(known)]


def _option(number: int, habit: _Habit) -> click.Option:
    name, *_ = names = habit.names.split()

    def explain(ctx: click.Context, param: click.Parameter, value: object) -> None:
        if habit.why and value not in (None, False):
            raise click.UsageError(f"{name}: {habit.why}")

    kind: dict[str, Any] = {"nargs": 1} if habit.values else {"is_flag": True}
    declared = [*names, f"habit_{number}"]
    return click.Option(declared, hidden=True, expose_value=False, callback=explain, **kind)
