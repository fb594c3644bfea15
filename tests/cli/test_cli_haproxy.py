"""asyncdicom haproxy: the configuration of a balancer, and what it says of the one it is made from."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli.running import Tool

from asyncdicom.ul.pdu import AAssociateRQ, decode_pdu

RIGHT = """
ae_title = "ARCHIVE"
port = 11112
proxies = ["10.0.0.1"]
[peers]
HAPROXY = ""
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "archive.toml"
    path.write_text(RIGHT)
    return path


async def test_each_node_is_asked_for_verification(tool: Tool, config: Path) -> None:
    made = await tool("haproxy", config, "--node", "10.0.0.2:104", "--node", "[2001:db8::1]:105")
    assert (made.code, made.err) == (0, "")
    assert "server node1 10.0.0.2:104 check\n" in made.out
    assert "server node2 [2001:db8::1]:105 check\n" in made.out
    assert "send-proxy-v2 check-send-proxy\n" in made.out
    assert "bind *:104\n" in made.out
    asked = bytes.fromhex(made.out.split("send-binary ")[1].split("\n")[0])
    request = decode_pdu(asked[0], asked[6:])
    assert isinstance(request, AAssociateRQ)
    assert (request.calling_ae_title, request.called_ae_title) == ("HAPROXY", "ARCHIVE")
    assert [context.abstract_syntax for context in request.presentation_contexts] == ["1.2.840.10008.1.1"]


async def test_the_node_itself_by_default(tool: Tool, config: Path) -> None:
    assert "server node1 127.0.0.1:11112 check\n" in (await tool("haproxy", config)).out
    config.write_text(RIGHT.replace("port = 11112", ""))
    without = await tool("haproxy", config)
    assert (without.code, without.out) == (1, "")
    assert "--node HOST:PORT" in without.err


@pytest.mark.parametrize(
    ("timeouts", "seconds"),
    [
        ("", 330),
        ("idle = 20\nhandler = 50", 80),
        ("handler_deadline = 900", 930),
        ('idle = "off"', 86400),
        ('handler = "off"', 86400),
    ],
)
async def test_the_nodes_know_better_how_long_to_wait(
    timeouts: str, seconds: int, tool: Tool, config: Path
) -> None:
    config.write_text(f"{RIGHT}\n[timeouts]\n{timeouts}\n")
    made = await tool("haproxy", config)
    assert f"timeout client {seconds}s\n    timeout server {seconds}s\n" in made.out


@pytest.mark.parametrize(
    ("timeouts", "is_told"),
    [
        ("", False),
        ("drain_notice = 3", False),
        ("drain_notice = 2.5", True),
        ("drain = 1", True),
    ],
)
async def test_a_node_that_gives_the_balancer_no_time_is_told(
    timeouts: str, is_told: bool, tool: Tool, config: Path
) -> None:
    """By the times of its own checks: two, and what is between them."""
    config.write_text(f"{RIGHT}\n[timeouts]\n{timeouts}\n")
    made = await tool("haproxy", config)
    assert "inter 2s fastinter 500ms downinter 1s fall 2 rise 1 " in made.out
    assert ("the balancer notices after 3 s" in made.err) == is_told


async def test_tls_passes_through_and_the_checks_speak_it(tool: Tool, config: Path) -> None:
    config.write_text(RIGHT + '[tls]\ncertificate = "c.pem"\nkey = "k.pem"\n')
    assert "check-send-proxy check-ssl verify none\n" in (await tool("haproxy", config)).out
    config.write_text(RIGHT + '[tls]\ncertificate = "c.pem"\nkey = "k.pem"\ntrusted = ["ca.pem"]\n')
    with_certificates = (await tool("haproxy", config)).out  # of callers: HAProxy has none to show
    assert ("check-ssl" in with_certificates, "send-binary" in with_certificates) == (False, False)
    assert "tcp-check connect default\n" in with_certificates


@pytest.mark.parametrize(
    ("without", "what"),
    [('proxies = ["10.0.0.1"]', "it has no proxies"), ('HAPROXY = ""', 'add HAPROXY = "" to [peers]')],
)
async def test_what_the_nodes_lack_is_told(without: str, what: str, tool: Tool, config: Path) -> None:
    config.write_text(RIGHT.replace(without, 'CT1 = ""' if "HAPROXY" in without else ""))
    made = await tool("haproxy", config)
    assert (made.code, made.out.startswith("# Made by")) == (0, True)
    assert what in made.err
    assert len(made.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "node", "what"),
    [
        (RIGHT, "10.0.0.2:99999", "99999"),
        ("port = 1\n", "10.0.0.2:104", "no ae_title"),
        ("prot = 1\n", "10.0.0.2:104", "unknown key 'prot'"),
    ],
)
async def test_what_is_wrong_is_one_line(text: str, node: str, what: str, tool: Tool, config: Path) -> None:
    config.write_text(text)
    made = await tool("haproxy", config, "--node", node)
    assert (made.code, made.out) == (1, "")
    assert what in made.err
    assert len(made.err.splitlines()) == 1
