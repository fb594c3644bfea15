"""``asyncdicom qrscp``: whom its configuration lets in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli.running import Start, Tool

from asyncdicom import (
    STUDY_ROOT,
    VERIFICATION,
    AccessPolicy,
    Address,
    AssociationRejected,
    Limits,
    Proposable,
    StatusError,
    Timeouts,
    associate,
)
from asyncdicom.cli.config import ConfigError, parse_peer, read_config
from asyncdicom.cli.serving import Known

CT = "1.2.840.10008.5.1.4.1.1.2"
CONFIG = """
ae_title = "ARCHIVE"
port = 0
strict = true
networks = ["127.0.0.0/8"]

[peers]
WORKSTATION = "127.0.0.1:1"
ROUTER = ""

[peers.CT2]
networks = ["127.0.0.1"]
services = ["echo", "store"]

[peers.WS2]
address = "[::1]:2"
services = ["find", "move"]
move_destinations = ["WS2"]

[peers.FAR]
networks = ["10.0.0.0/8"]

"""
SECURE = """
[peers.SECURE]
certificates = ["ws.example"]
"""


def test_a_peer_is_a_line_or_a_table(tmp_path: Path) -> None:
    (tmp_path / "archive.toml").write_text(CONFIG + SECURE)
    config = read_config(tmp_path / "archive.toml")
    access = config.pop("access")
    assert config.pop("peer_tls") == {}
    assert config.pop("place_of")(("peers", "FAR", "networks")) == f"{tmp_path / 'archive.toml'}:21"
    assert config.pop("certificates_at") == f"{tmp_path / 'archive.toml'}:25"
    assert config == {
        "ae_title": "ARCHIVE",
        "port": 0,
        "strict": True,
        "limits": Limits(),
        "timeouts": Timeouts(),
        "retention": (),
    }
    assert access.keys() == {"networks", "peers"}
    peers = access["peers"]
    assert {title: peer.address for title, peer in peers.items() if peer.address} == {
        "WORKSTATION": Address("WORKSTATION", "127.0.0.1", 1),
        "WS2": Address("WS2", "::1", 2),
    }
    assert peers["ROUTER"].grant == (None, None)
    assert peers["CT2"].grant.services == {"echo", "store"}
    assert peers["WS2"].grant.move_destinations == {"WS2"}
    assert peers["SECURE"].certificates == {"dns:ws.example"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[peers", "Expected"),
        ("speed = 3", "archive.toml:1: unknown key 'speed'"),
        ("\nminimum_fre = 3", "archive.toml:2: unknown key 'minimum_fre'; did you mean minimum_free? Known"),
        ("[tls]\ntrusted = ['c']", "archive.toml:1: tls: a server needs a certificate"),
        (
            "[tls]\ncertificate = 'c'\ncrls = ['x']",
            ":3: tls: unknown key 'crls'; did you mean crl?",
        ),
        ("[peers.A]\naddress = 'h:1'\ntls = 3", "archive.toml:3: peers.A: tls must be of type bool or dict"),
        (
            "[peers.A]\ntls = true",
            ":2: peers.A: tls is for C-MOVE to it, which needs its",
        ),
        (
            "[peers.A]\naddress = 'h:1'\n[peers.A.tls]\nkey = 'k'",
            ":4: peers.A.tls: a key needs its",
        ),
        ("[peers]\nB = ''\n[peers.A]\nserver_hostnam = 'x'", "4: peers.A: unknown key"),
        (
            "peers.A = {address = 'h:1', maximum_associations = 0}",
            "toml:1: peers.A: A@h:1: at least one association",
        ),
        ("port = '104'", "port must be of type int"),
        ("networks = '10.0.0.0/8'", "networks must be of type list"),
        ("networks = [10]", "networks must be a list of texts"),
        ("peers.CT1 = 104", 'peers.CT1: write "host:port", "" for a peer that only calls, or a table'),
        ("peers.CT1 = 'host:port'", "peers.CT1: address"),
        (
            "peers.CT1.network = ['10.0.0.7']",
            "peers.CT1: unknown key 'network'; did you mean networks? Known are address, networks, ",
        ),
        ("peers.CT1.networks = ['10.0.0.7/8']", "peers.CT1: 10.0.0.7/8 has host bits set"),
        ("peers.CT1.services = ['prints']", "peers.CT1: 'prints' is no service; they are commitment, echo, "),
        ("peers.CT1.certificates = ['sha256:1']", "peers.CT1: 'sha256:1' is no fingerprint"),
        ("peers.A-VERY-LONG-AE-TITLE = ''", "16 are allowed"),
        ("limits = 5", "limits must be of type dict"),
        ("limits.maximum_length = 7", "Limits.maximum_length must be even, and 0 or at least 8, not 7"),
        ("limits.maximum_length = 'off'", "Limits.maximum_length must be a whole number, not None"),
        ("limits.max_pdu = 16384", "Limits has no 'max_pdu'; "),
        ("timeouts.dimse = 'never'", "Timeouts.dimse must be a number or None, not 'never'"),
        ("timeouts.dimse_timeout = 5", "Timeouts has no 'dimse_timeout'; did you mean dimse?"),
        ("\n[peers", "archive.toml:2: Expected ']'"),
        ("port = 1\n\na = ]\n", "archive.toml:3: Invalid value"),
        ("\nnetworks = ['10.0.0.0/33']", "archive.toml:2: networks: '10.0.0.0/33' does not appear"),
        ("certificates = ['sha256:1']", "archive.toml:1: certificates: 'sha256:1' is no fingerprint"),
        (
            "[peers.A]\naddress = 'h:1'\ndimse_timeout = -3",
            "archive.toml:3: peers.A: dimse_timeout is a number",
        ),
        (
            "[peers.A]\naddress = 'h:1'\nacse_timeout = nan",
            "archive.toml:3: peers.A: acse_timeout is a number",
        ),
        (
            "[peers.A]\naddress = 'h:1'\n\noperations_invoked = 70000",
            "archive.toml:4: peers.A: A@h:1: at least",
        ),
        ("[peers.A]\n\nservices = ['stor']", "archive.toml:3: peers.A: 'stor' is no service"),
        (
            "[peers.A]\naddress = 'h:1'\n[peers.A.tls]\ntrustd = []",
            "archive.toml:4: peers.A.tls: unknown key 'trustd'",
        ),
        (
            "maximum_associations = 3",
            ":1: unknown key 'maximum_associations'; did you mean maximum_associations in [limits]?",
        ),
        (
            "[tls]\nlog_file = 'x'",
            ":2: tls: unknown key 'log_file'; did you mean log_file at the beginning of the file",
        ),
        ("log_fromat = 'json'", "unknown key 'log_fromat'; did you mean log_format?"),
    ],
)
def test_a_wrong_configuration(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "archive.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_config(tmp_path / "archive.toml")
    assert says in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_limits_and_time_outs(tmp_path: Path) -> None:
    (tmp_path / "archive.toml").write_text(
        "[limits]\nmaximum_length = 16384\naccept_rate = 'off'\n[timeouts]\nidle = 'off'\ndimse = 5\n"
    )
    config = read_config(tmp_path / "archive.toml")
    assert config["limits"] == Limits(maximum_length=16384, accept_rate=None)
    assert config["timeouts"] == Timeouts(idle=None, dimse=5)


async def test_what_is_said_on_the_command_line_wins(start: Start, tmp_path: Path) -> None:
    """What the file says may be anything; an option that was not given does not take it back."""
    (tmp_path / "archive.toml").write_text("[limits]\nmaximum_length = 1000\nmaximum_associations = 1\n")
    options = ("--config", tmp_path / "archive.toml", "--data", tmp_path / "data", "--port", 0, "--json")
    async with start("qrscp", *options, "--max-associations", 2) as process:
        port = json.loads(await process.stdout.readline())["port"]
        address = f"ANY@127.0.0.1:{port}"
        async with associate(address) as first, associate(address):
            negotiated = first._channel.negotiated
            assert negotiated is not None
            assert negotiated.maximum_length == 1000
            with pytest.raises(AssociationRejected):
                await associate(address)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("\nport = 70000", ":2: port: it has to be a whole number from 0 to 65535, not 70000"),
        ("durability = 'pwer'", ":1: durability: 'pwer' is not one of"),
        ("log_format = 'xml'", ":1: log_format: 'xml' is not one of"),
        ("log_level = 'loud'", ":1: log_level: 'loud' is not one of"),
        ("ae_title = ''", ":1: ae_title: AE title '' is empty"),
        ("minimum_free = -1", ":1: minimum_free: it has to be a whole number of at least 0, not -1"),
        ("[tls]\ncertificate = 'no.pem'", ":2: tls.certificate: File 'no.pem' does not exist"),
        ("[tls]\ncertificate = '/dev/null'\nkey = 'no.key'", ":3: tls.key: File 'no.key' does not exist"),
        ("[tls]\nkey = '/dev/null'\ncertificate = 'no.pem'", ":3: tls.certificate: File 'no.pem' does not"),
        (
            "[tls]\ncertificate = '/dev/null'\n\ntrusted = ['no.pem']",
            ":4: tls.trusted: File 'no.pem' does not",
        ),
    ],
)
async def test_options_that_are_wrong_in_the_file(tool: Tool, tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "archive.toml").write_text(text)
    code, _, err = await tool("qrscp", "--config", tmp_path / "archive.toml")
    assert (code, err.count("\n")) == (2, 1)
    assert f"{tmp_path / 'archive.toml'}{says}" in err


@pytest.mark.parametrize(
    ("peers", "says"),
    [
        ({}, "no C-MOVE destinations"),
        ({"FOO": ""}, "no C-MOVE destinations (no address of FOO)"),
        ({"FOO": "", "BAR": "127.0.0.1:1", "US": "127.0.0.1:2"}, "C-MOVE to BAR (no address of FOO)"),
        (
            {f"WS{n}": "127.0.0.1:1" for n in range(10)},
            f"C-MOVE to {', '.join(f'WS{n}' for n in range(8))} and 2 more",
        ),
    ],
)
def test_it_says_where_c_move_sends_to(peers: dict[str, str], says: str) -> None:
    named = {title: parse_peer(title, where) for title, where in peers.items()}
    known = Known(AccessPolicy(peers=named), "", None, None, None)
    assert known.sends_to("US", named) == says


async def test_callers_may_leave_out_the_keys_of_upper_levels(start: Start, tmp_path: Path) -> None:
    """Those that the file names, or the command line."""
    (tmp_path / "archive.toml").write_text('relational = ["OLD"]\n')
    options = ("--config", tmp_path / "archive.toml", "--data", tmp_path / "data", "--port", 0, "--json")
    series = {"QueryRetrieveLevel": "SERIES", "SeriesInstanceUID": ""}
    async with start("qrscp", *options) as process:
        address = f"ANY@127.0.0.1:{json.loads(await process.stdout.readline())['port']}"
        async with associate(address, calling_ae_title="OLD", contexts=[STUDY_ROOT]) as association:
            assert await association.c_find(series) == []
        async with associate(address, calling_ae_title="NEW", contexts=[STUDY_ROOT]) as association:
            with pytest.raises(StatusError, match="StudyInstanceUID needs a single value"):
                await association.c_find(series)


async def test_a_peer_that_is_sent_to_in_the_clear_needs_an_address(tool: Tool) -> None:
    code, _, err = await tool("qrscp", "--plain-peer", "FOO")
    assert code == 2
    assert (
        "--plain-peer FOO: it is for C-MOVE to it, which needs its address; write it as AET=host:port" in err
    )


async def test_a_gateway_without_routes_is_told(start: Start, tmp_path: Path) -> None:
    (tmp_path / "gateway.toml").write_text('[destinations.A]\naddress = "A@127.0.0.1:1"\n')
    log = tmp_path / "log"
    options = ("--gateway", tmp_path / "gateway.toml", "--log-file", log)
    async with start("qrscp", "--data", tmp_path / "data", "--port", 0, "--peer", "FOO", *options) as process:
        assert "no C-MOVE destinations (no address of FOO);" in (await process.stdout.readline()).decode()
    assert "the gateway's file has no [[routes]]: nothing is sent on" in log.read_text()


def test_a_file_that_is_not_utf_8(tmp_path: Path) -> None:
    (tmp_path / "archive.toml").write_bytes(b"port = 1\n# \xfc\n")
    with pytest.raises(ConfigError, match=r"archive.toml:2: it is not UTF-8"):
        read_config(tmp_path / "archive.toml")


async def test_networks_are_checked_before_it_starts(tool: Tool, tmp_path: Path) -> None:
    (tmp_path / "archive.toml").write_text("networks = ['10.0.0.7/8']")
    code, _, err = await tool("qrscp", "--config", tmp_path / "archive.toml")
    assert (code, err.count("\n")) == (2, 1)
    assert "10.0.0.7/8 has host bits set" in err


async def test_it_is_what_the_archive_does(start: Start, tmp_path: Path) -> None:
    (tmp_path / "archive.toml").write_text(CONFIG)
    options = ("--config", tmp_path / "archive.toml", "--data", tmp_path / "data", "--json")
    async with start("qrscp", *options) as process:
        port = json.loads(await process.stdout.readline())["port"]

        def call(title: str, called: str = "ARCHIVE") -> Any:
            contexts: list[Proposable] = [VERIFICATION, CT, STUDY_ROOT]
            return associate(f"{called}@127.0.0.1:{port}", calling_ae_title=title, contexts=contexts)

        for title, called, reason in (
            ("ROUTER", "OTHER", 7),
            ("STRANGER", "ARCHIVE", 3),
            ("FAR", "ARCHIVE", 3),
        ):
            with pytest.raises(AssociationRejected) as caught:
                await call(title, called)
            assert caught.value.reason == reason
        async with call("ROUTER") as association:
            assert len(association.contexts) == 5
        async with call("CT2") as association:
            assert {context.abstract_syntax for context in association.contexts.values()} == {
                VERIFICATION,
                CT,
            }
        async with call("WS2") as association:
            assert {c.abstract_syntax for c in association.contexts.values()} == {
                STUDY_ROOT.find,
                STUDY_ROOT.move,
            }
            study = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "1.2.3"}
            with pytest.raises(StatusError) as refused:
                await association.c_move(study, move_destination="WORKSTATION")
            assert refused.value.status == 0xA801
            assert (await association.c_move(study, move_destination="WS2")).status == 0
        process.terminate()
        lines = (await process.stderr.read()).decode().splitlines()
    refusals = [line.partition("refused")[2] for line in lines]
    assert all(refusals), "nothing else is to be told"
    assert len(refusals) == 3 + 2 + 1, refusals


async def test_certificates_without_tls_are_an_error(tool: Tool, tmp_path: Path) -> None:
    (tmp_path / "archive.toml").write_text(CONFIG + SECURE)
    code, _, err = await tool("qrscp", "--config", tmp_path / "archive.toml")
    assert (code, err.count("\n")) == (2, 1)
    assert "archive.toml:25: certificates of callers are asked for, but nobody can show one" in err
