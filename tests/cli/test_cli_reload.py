"""SIGHUP at storescp and qrscp: files are read again, and what is wrong changes nothing."""

from __future__ import annotations

import asyncio
import json
import signal
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme
from cli.running import Start

from asyncdicom import AssociationRejected, associate

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def renew(authority: trustme.CA, folder: Path) -> bytes:
    """Write own.pem and own.key anew, and give the certificate as peers see it."""
    own = authority.issue_cert("127.0.0.1")
    own.cert_chain_pems[0].write_to_path(str(folder / "own.pem"))
    own.private_key_pem.write_to_path(str(folder / "own.key"))
    return ssl.PEM_cert_to_DER_cert(own.cert_chain_pems[0].bytes().decode())


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    return context


def shown(association: Any) -> bytes:
    certificate: bytes = association.get_extra_info("ssl_object").getpeercert(binary_form=True)
    return certificate


async def hang_up(process: Any, tells: str) -> str:
    """Send SIGHUP, and wait for the line that tells this."""
    process.send_signal(signal.SIGHUP)
    async with asyncio.timeout(30):
        while tells not in (line := (await process.stderr.readline()).decode()):
            assert line, "the tool has ended"
    return str(line)


async def test_new_certificates_of_storescp(start: Start, authority: trustme.CA, tmp_path: Path) -> None:
    first = renew(authority, tmp_path)
    files = ("+tls", tmp_path / "own.key", tmp_path / "own.pem")
    async with start("storescp", 0, "--ignore", "-v", *files) as process:
        port = int((await process.stdout.readline()).decode().partition(",")[0].rpartition(":")[2])
        address, context = f"ANY@127.0.0.1:{port}", trusting(authority)
        async with associate(address, ssl=context) as old:
            second = renew(authority, tmp_path)
            await hang_up(process, "SIGHUP: certificates and configuration are read again")
            async with associate(address, ssl=context) as new:
                assert (shown(old), shown(new)) == (first, second)
            assert (await old.c_echo()).status == 0

            (tmp_path / "own.pem").write_text("not a certificate")
            line = await hang_up(process, "what was read before stays in force")
            assert f"SIGHUP: TLS: no usable key and certificate in {tmp_path / 'own.key'}" in line
            async with associate(address, ssl=context) as new:
                assert shown(new) == second
            (tmp_path / "own.pem").unlink()
            await hang_up(process, "what was read before stays in force")
            assert (await old.c_echo()).status == 0


CONFIG = 'port = 0\nstrict = true\nae_title = "ARCHIVE"\n'


async def test_a_new_configuration_of_qrscp(start: Start, authority: trustme.CA, tmp_path: Path) -> None:
    renew(authority, tmp_path)
    tls = f'[tls]\nkey = "{tmp_path}/own.key"\ncertificate = "{tmp_path}/own.pem"\n'
    config = tmp_path / "archive.toml"
    config.write_text(f"{CONFIG}{tls}[peers]\nOLD = ''\n")
    options = ("--config", config, "--data", tmp_path / "data", "--json", "-v", "--peer", "GIVEN=")
    async with start("qrscp", *options) as process:
        address = f"ARCHIVE@127.0.0.1:{json.loads(await process.stdout.readline())['port']}"
        context = trusting(authority)

        async def comes_in(title: str) -> bool:
            try:
                async with associate(address, ssl=context, calling_ae_title=title):
                    return True
            except AssociationRejected:
                return False

        assert [await comes_in(title) for title in ("OLD", "NEW", "GIVEN")] == [True, False, True]
        async with associate(address, ssl=context, calling_ae_title="OLD") as old:
            second = renew(authority, tmp_path)
            config.write_text(f"{CONFIG}{tls}[peers]\nNEW = '127.0.0.1:1'\n")
            await hang_up(process, "are read again and in force")
            assert [await comes_in(title) for title in ("OLD", "NEW", "GIVEN")] == [False, True, True]
            async with associate(address, ssl=context, calling_ae_title="NEW") as new:
                assert shown(new) == second
            assert (await old.c_echo()).status == 0

        for text, why in (
            (f"{CONFIG}{tls}[peers]\nOTHER = 5\n", "archive.toml:8: peers.OTHER: write"),
            (f"{CONFIG}{tls}[peers.OTHER]\nadress = 'h:1'\n", "archive.toml:8: peers.OTHER: unknown key"),
            (f"{CONFIG}[peers]\nOTHER = ''\n", "TLS cannot begin or end"),
            ("[peers", "archive.toml:1: Expected"),
        ):
            config.write_text(text)
            assert why in await hang_up(process, "what was read before stays in force")
            assert [await comes_in(title) for title in ("NEW", "OTHER")] == [True, False]
        config.write_text(f"{CONFIG}minimum_free = 9\n{tls}[limits]\nmaximum_associations = 9\n")
        await hang_up(process, "a restart is needed for what changed of minimum_free, limits")
        assert not await comes_in("NEW")


async def test_new_routes_of_qrscp(start: Start, tmp_path: Path) -> None:
    """SIGHUP reads the gateway's file again; one that is wrong changes nothing, and is told with its line."""
    routes = tmp_path / "gateway.toml"
    destination = "[destinations.{0}]\naddress = '{0}@127.0.0.1:1'\n".format
    routes.write_text(destination("OLD"))
    options = ("--data", tmp_path / "data", "--gateway", routes, "--json", "-v")
    async with start("qrscp", "--port", 0, *options) as process:
        await process.stdout.readline()
        routes.write_text(destination("OLD") + "[[routes]]\nwhen = {}\nto = ['ALD']\n")
        line = await hang_up(process, "what was read before stays in force")
        assert "gateway.toml:5: there is no destination 'ALD'; did you mean OLD?" in line
        routes.write_text(destination("NEW"))
        await hang_up(process, "instances are sent on to NEW (NEW@127.0.0.1:1) in the clear")


async def test_no_hang_up_ends_what_said_that_it_listens(start: Start) -> None:
    """The line is printed by the thread that prints, so the signal comes at any time after it."""
    async with start("storescp", 0, "--ignore") as process:
        line = await process.stdout.readline()
        for _ in range(5):
            process.send_signal(signal.SIGHUP)
        port = int(line.decode().partition(",")[0].rpartition(":")[2])
        async with associate(f"ANY@127.0.0.1:{port}") as association:
            assert (await association.c_echo()).status == 0
        process.terminate()
        _, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")
