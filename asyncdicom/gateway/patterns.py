"""The patterns of routing rules: what a value is compared with. Nothing of them is ever run as code.

"CT1"            this text                "CT_*", "CT?"     * is any text, ? one character
["CT", "PT"]     one of these             "/CHEST|HEAD/i"   a regular expression, found anywhere
512, "> 100 MiB", "<= 3"   a number       "=CT*"            this text, whatever is in it
"10.0.0.0/16"    of an address: from this network; "10.0.0.7": from there, in whatever words it comes
""               it is empty, or not there
"""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Iterable
from fnmatch import translate

from asyncdicom.address import check_ae_title
from asyncdicom.gateway.facts import LONGEST_VALUE, NAMES
from asyncdicom.uid import STORAGE, TRANSFER_SYNTAXES, name_of

__all__ = ["Test", "test_of"]

Test = Callable[[str], bool]
"""Tells whether one value fits."""

_COMPARISON = re.compile(r"\s*(<=|>=|<|>)\s*(-?[0-9]+(?:\.[0-9]+)?)\s*(KiB|MiB|GiB|)\s*").fullmatch
_COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_EXPRESSION = re.compile(r"/(.*)/(i?)", re.DOTALL).fullmatch
_SIGNS = ("<", ">", "!")
_LARGEST = 1 << 64
_MAPPED = 96  # bits before an IPv4 address in an IPv6 one
_MOST_REPEATS = 2
_UID = re.compile(r"[0-9.*?]+").fullmatch


def test_of(pattern: object, name: str) -> Test:
    """Make the test of a pattern; `name` is what it is about. Raises ValueError for what is none."""
    if isinstance(pattern, list):
        if not pattern:
            raise ValueError("an empty list fits nothing")
        tests = [test_of(one, name) for one in pattern]
        return lambda value: any(test(value) for test in tests)
    if isinstance(pattern, bool) or not isinstance(pattern, str | int | float):
        raise ValueError(f"a pattern is a text, a number or a list of them, not {pattern!r}")
    if not isinstance(pattern, str):
        if not abs(pattern) <= _LARGEST:  # nan is not, either
            raise ValueError(f"{pattern!r:.40} is no number that a value may have")
        return _number(operator.eq, float(pattern))
    if (comparison := _COMPARISON(pattern)) is not None:
        return _number(_COMPARE[comparison[1]], float(comparison[2]) * _UNITS[comparison[3]])
    if pattern.startswith("="):
        return pattern[1:].__eq__
    if (expression := _EXPRESSION(pattern)) is not None:
        return _expression(*expression.groups())
    if name == "size":
        raise ValueError(f'size is compared with a number, or as "> 100 MiB", not {pattern!r}')
    if pattern.startswith(_SIGNS) or (pattern.startswith("/") and name != "address"):
        raise ValueError(
            f'{pattern!r} is no regular expression ("/.../" or "/.../i"), no comparison ("> 3") and no other '
            f'pattern; "not" is a key: not.Modality = "SR"; for just this text write {"=" + pattern!r}'
        )
    if "*" in pattern or "?" in pattern:
        return _wildcards(pattern)
    if name == "address" and pattern:
        return _network(pattern)
    _check_text(pattern, name)
    _check_name(pattern, name)
    return pattern.__eq__


def _number(compare: Callable[[float, float], bool], wanted: float) -> Test:
    def test(value: str) -> bool:
        try:
            return compare(float(value), wanted)
        except ValueError:  # it is no number, so it does not fit
            return False

    return test


def _wildcards(pattern: str) -> Test:
    fits = re.compile(translate(pattern.replace("[", "[[]"))).match
    return lambda value: fits(value) is not None


def _network(pattern: str) -> Test:
    from ipaddress import ip_address, ip_network

    network = ip_network(pattern)
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is not None and network.prefixlen >= _MAPPED:
        network = ip_network((mapped, network.prefixlen - _MAPPED))

    def test(value: str) -> bool:
        try:
            address = ip_address(value.partition("%")[0])
        except ValueError:  # a Unix socket
            return False
        return (getattr(address, "ipv4_mapped", None) or address) in network

    return test


def _expression(text: str, flag: str) -> Test:
    try:
        found = re.compile(text, re.IGNORECASE if flag else 0).search
    except re.error as error:
        raise ValueError(f"/{text}/ is no regular expression: {error}") from None
    _check_repeats(text)
    return lambda value: found(value) is not None


def _check_repeats(text: str) -> None:
    """Raise ValueError for an expression that may take for ever over a value that a peer has chosen."""
    plain = re.sub(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", "x", text)  # escapes and sets are one character each
    if re.search(r"\)[*+{]", plain):
        raise ValueError(f"/{text}/ repeats a group, which can take for ever: write what is repeated out")
    if len(re.findall(r"[*+]|\{[0-9]*,[0-9]*\}", plain)) > _MOST_REPEATS:
        raise ValueError(f"/{text}/ has more than {_MOST_REPEATS} repeats, which can take very long")
    if re.search(r"\(\?P?[=<(]|\\[1-9]", re.sub(r"\\\\", "", text)):
        raise ValueError(f"/{text}/ looks back or refers to a group, which can take very long")


def _check_text(pattern: str, name: str) -> None:
    """Raise ValueError for a text that no value is."""
    if name in ("calling", "called") and pattern.strip():
        check_ae_title(pattern)
    if pattern != pattern.strip(" "):
        raise ValueError(f"{pattern!r}: values are compared without the spaces around them")
    if name not in NAMES and len(pattern) > LONGEST_VALUE:
        raise ValueError(f"of a value the first {LONGEST_VALUE} characters are compared, and this is longer")


def _check_name(pattern: str, name: str) -> None:
    """Raise ValueError for a name of a SOP class or transfer syntax that there is not: it never fits."""
    known: Iterable[str] = {"sop_class": STORAGE, "transfer_syntax": TRANSFER_SYNTAXES}.get(name, ())
    names = [name_of(uid) for uid in known]
    if not names or _UID(pattern) or pattern in names:
        return
    near = difflib.get_close_matches(pattern, names, 1)
    meant = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{pattern!r} is no UID and no name of PS3.6{meant}")
