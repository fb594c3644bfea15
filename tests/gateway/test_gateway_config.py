"""The destinations of a gateway's configuration."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme

from asyncdicom import Destination, TlsFiles
from asyncdicom.cli.config import _KEYS as KEYS_OF_A_SERVED_FILE
from asyncdicom.gateway.config import GatewayConfigError, parse_gateway, read_gateway
from asyncdicom.gateway.facts import Facts

WHOLE = """
[destinations.PACS]
address = "PACS@10.0.0.5:104"
maximum_associations = 3
operations_invoked = 8
calling_ae_title = "GATE"
rate = 50
bandwidth = 1e7
hours = ["mon-fri 19:00-06:00", "sat-sun 00:00-24:00"]
time_zone = "Europe/Berlin"
also_delivered = [0x0111]

[destinations.AI]
address = "AI@10.0.0.6:104"
ordered = true
hours = "08:00-18:00"

[[routes]]
when = { calling = "CT*" }
to = ["PACS", "AI"]
"""


def test_a_whole_configuration(tmp_path: Path) -> None:
    (tmp_path / "gateway.toml").write_text(WHOLE)
    config = read_gateway(tmp_path / "gateway.toml")
    pacs, ai = config.destinations["PACS"], config.destinations["AI"]
    assert str(pacs.destination.where) == "PACS@10.0.0.5:104"
    assert pacs.options.concurrency == 24
    assert (pacs.options.rate, pacs.options.bandwidth) == (50, 1e7)
    assert pacs.also_delivered == {0x0111}
    assert pacs.options.schedule.is_open(datetime(2026, 11, 26, 20, tzinfo=UTC))
    assert not pacs.options.schedule.is_open(datetime(2026, 11, 26, 17, 30, tzinfo=UTC))
    assert ai.options.ordered


@pytest.mark.parametrize(("window", "under_way"), [(0, 64), (1, 4), (3, 12)])
def test_how_many_are_under_way_at_a_destination(window: int, under_way: int) -> None:
    """0 is any number, which is bounded by ours, and not one."""
    table = f'[destinations.A]\naddress = "A@h:1"\noperations_invoked = {window}\n'
    assert parse_gateway(table).destinations["A"].options.concurrency == under_way


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("rate = 0", ":3: PACS: rate is a number greater than 0"),
        ("rate = '5'", ":3: rate must be of type int or float"),
        ("\nordred = true", ":4: unknown key 'ordred'; did you mean ordered?; known are"),
        ("hours = '8-9'", ":3: hours: '8-9' is no window"),
        ("hours = [8]", ":3: hours is a list of texts"),
        (
            "ordered = true\n[[routes]]\nwhen = {}\nfirst_of = ['PACS']",
            ":3: PACS is ordered and in a first_of",
        ),
        ("tls = 3", ":3: tls must be of type bool or dict"),
        ("tls = { trusted = ['none.pem'] }", ":3: TLS: no usable certificate in none.pem"),
        ("tls = { trust = ['none.pem'] }", ":3: unknown key 'trust'; did you mean trusted?"),
        ("[destinations.PACS.tls]\ntrusted = [1]", ":3: trusted and crl are lists of files"),
        ("folder = '/srv'", ": PACS: a destination has an address"),
        ("[destinations.B]\nfolder = 'srv'", ":4: folder: 'srv' is no absolute path"),
        ("[destinations.B]\nfolder = '/srv/../etc'", ":4: folder: '/srv/../etc': . and .. are no folders"),
        ("[destinations.B]\nfolder = '/srv/{Nothing}'", ":4: folder: 'Nothing' is no keyword"),
        ("[destinations.B]\nfolder = '/srv/{PixelData}'", ":4: folder: PixelData has the VR"),
        ("[destinations.B]\nfolder = '/srv/{PatientID'", ":4: folder: '{PatientID' has a brace"),
        ("[destinations.B]\nfolder = '/srv/a{PatientID}/.x'", ":4: folder: '.x': a name does not begin"),
        ("[destinations.B]\nfolder = '/srv'\ntls = true", ":5: tls is for destinations that are called"),
        ("time_zone = 'Mars'", ":3: there is no time zone 'Mars'"),
        ("time_zone = '../etc'", ":3: there is no time zone"),
        ("also_delivered = ['x']", ":3: also_delivered is a list of statuses"),
        ("maximum_associations = 0", ": PACS: PACS@h:1: at least one association"),
        ("calling_ae_title = ''", ":1: PACS: AE title '' is empty"),
        ("[destinations.'a b']\naddress = 'A@h:1'", ":3: 'a b' is no name"),
        ("[destinations.'a|b']\naddress = 'A@h:1'", ":3: 'a|b' is no name"),
        ("[destinations.B]", ":3: B: a destination has an address"),
        ("[destination.B]\naddress = 'B@h:1'", ":3: unknown table 'destination'; did you mean destinations?"),
        ("[[route]]\nwhen = {}\nto = ['PACS']", ":3: unknown table 'route'; did you mean routes?"),
        ("connect_timeout = -1", ":3: PACS: PACS@h:1: connect_timeout is a positive number of seconds"),
        ("dimse_timeout = nan", ":3: PACS: PACS@h:1: dimse_timeout is a positive number of seconds"),
        (f"rate = 1{'0' * 400}", ":3: rate is too large a number"),
        (f"rate = 1{'0' * 5000}", ": Exceeds the limit"),
        (f"rate = {'[' * 5000}{']' * 5000}", ": "),
        ("tls = { key = 'k.pem' }", ":3: tls: a key needs its certificate"),
        ("[destinations.B]\nfolder = '/srv/{called}'", ":4: folder: {called} is not known any more"),
        ("[destinations]\nB = 3", "destination has an address"),
    ],
)
def test_what_is_wrong_is_told_with_file_and_line(lines: str, message: str) -> None:
    text = "[destinations.PACS]\naddress = 'PACS@h:1'\n" + lines
    if lines.startswith("[destinations]"):
        text = lines
    with pytest.raises(GatewayConfigError, match=r"^g\.toml.*" + re.escape(message)):
        parse_gateway(text, "g.toml")


def test_seconds_that_are_none_are_for_ever_as_those_of_peers() -> None:
    text = "[destinations.A]\naddress = 'A@h:1'\ndimse_timeout = 0\nacse_timeout = 5\n"
    called = parse_gateway(text).destinations["A"].destination
    assert isinstance(called, Destination)
    assert (called.dimse_timeout, called.acse_timeout) == (None, 5)


def test_a_file_of_windows_is_read(tmp_path: Path) -> None:
    (tmp_path / "gateway.toml").write_bytes(b"\xef\xbb\xbf" + WHOLE.replace("\n", "\r\n").encode())
    assert len(read_gateway(tmp_path / "gateway.toml").rules) == 1


@pytest.mark.parametrize("key", sorted(KEYS_OF_A_SERVED_FILE))
def test_what_the_file_of_serve_has_beside_is_no_slip_of_the_pen(key: str) -> None:
    text = f"[destinations.PACS]\naddress = 'PACS@h:1'\n[[{key}]]\n"
    if key not in ("destinations", "routes"):
        assert list(parse_gateway(text, "g.toml").destinations) == ["PACS"]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with entry points."""
    entries = "[asyncdicom.routes]\nnight = ours_routes:night\nslow = ours_routes:slow\ngone = ours_gone:x\n"
    (tmp_path / "ours-1.dist-info").mkdir()
    (tmp_path / "ours-1.dist-info" / "METADATA").write_text("Name: ours\nVersion: 1\n")
    (tmp_path / "ours-1.dist-info" / "entry_points.txt").write_text(entries)
    (tmp_path / "ours_routes.py").write_text(
        "def night(facts):\n    return ['A'] if facts.calling == 'CT1' else []\n"
        "async def slow(facts):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("installed")
def test_a_function_of_an_installed_package_is_found() -> None:
    text = "[destinations.A]\naddress = 'A@h:1'\n[[routes]]\nwhen = {}\nfunction = 'night'\n"
    for rules in (parse_gateway(text).rules, parse_gateway(text, functions={}).rules):
        assert [target.destinations for target in rules.decide(Facts(calling="CT1")).targets] == [("A",)]
        assert rules.decide(Facts(calling="MR1")).is_kept
    own = parse_gateway(text, functions={"night": lambda facts: ["A"]}).rules
    assert own.decide(Facts()).targets


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone", ":3: function 'gone': ours_gone:x cannot be imported: ModuleNotFoundError"),
        ("slow", ":3: function 'slow': ours_routes:slow is no function, or a coroutine function"),
        ("none", ":3: there is no function 'none'"),
    ],
)
def test_what_is_wrong_with_a_function_of_an_installed_package_is_told(name: str, message: str) -> None:
    with pytest.raises(GatewayConfigError, match=re.escape(message)):
        parse_gateway(f"[[routes]]\nwhen = {{}}\nfunction = '{name}'\n", "g.toml")


def test_what_we_are_called_by_destinations_are_called_by_too(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    ours = TlsFiles(trusted=(str(tmp_path / "ca.pem"),))

    def called(tls: str, ours: TlsFiles | None) -> bool:
        config = parse_gateway(f"[destinations.A]\naddress = 'A@h:1'\n{tls}", ours=ours)
        destination = config.destinations["A"].destination
        return isinstance(destination, Destination) and destination.ssl is not None

    assert called("", ours)
    assert called("tls = true", None)
    assert called("tls = { verify = false }", None)
    assert not called("", None)
    assert not called("tls = false", ours)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(GatewayConfigError, match=r"none\.toml: No such file"):
        read_gateway(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b"# \xe4")
    with pytest.raises(GatewayConfigError, match=r"latin\.toml: it is not UTF-8"):
        read_gateway(tmp_path / "latin.toml")
