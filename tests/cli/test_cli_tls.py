from __future__ import annotations

import ssl
from pathlib import Path
from typing import NamedTuple

import pytest
import trustme
from cli.nodes import Instance, data_sets, expected
from cli.running import Start, Tool, write_instance

from asyncdicom import AccessPolicy, UserIdentity, serve


class Files(NamedTuple):
    """Certificates as files: an authority, and key and certificate of a node on 127.0.0.1."""

    authority: Path
    key: Path
    certificate: Path
    server: ssl.SSLContext


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    node = authority.issue_cert("127.0.0.1", "node.example")
    paths = folder / "ca.pem", folder / "key.pem", folder / "cert.pem"
    authority.cert_pem.write_to_path(paths[0])
    node.private_key_pem.write_to_path(paths[1])
    node.cert_chain_pems[0].write_to_path(paths[2])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    node.configure_cert(context)
    authority.configure_trust(context)
    return Files(*paths, context)


async def test_trusted(tool: Tool, files: Files) -> None:
    async with serve("SCP@127.0.0.1:0", ssl=files.server) as server:
        peer = ("127.0.0.1", server.port)
        assert (await tool("echoscu", "+cf", files.authority, *peer)).code == 0
        assert (await tool("echoscu", "-ic", *peer)).code == 0
        named = ("echoscu", "+cf", files.authority, *peer, "--server-hostname")
        assert (await tool(*named, "node.example")).code == 0
        assert (await tool(*named, "other.example")).code == 3


async def test_not_trusted(tool: Tool, files: Files) -> None:
    async with serve("SCP@127.0.0.1:0", ssl=files.server) as server:
        code, out, err = await tool("echoscu", "--tls", "127.0.0.1", server.port)
    assert (code, out) == (3, "")
    assert err.count("\n") == 1
    assert f"ANY-SCP@127.0.0.1:{server.port}: TLS: the certificate of the peer was not accepted" in err


async def test_with_certificates_on_both_sides(
    tool: Tool, start: Start, files: Files, tmp_path: Path, free_port: int
) -> None:
    write_instance(tmp_path / "one.dcm", "1.2.840.10008.5.1.4.1.1.2", "1.2.3")
    tls = ("+tls", files.key, files.certificate, "+cf", files.authority)
    async with start("storescp", free_port, "-od", tmp_path / "in", *tls) as process:
        await process.stdout.readline()
        stranger = await tool("echoscu", "+cf", files.authority, "127.0.0.1", free_port)
        friend = await tool("storescu", *tls, "127.0.0.1", free_port, tmp_path / "one.dcm")
    assert stranger.code == 3
    assert (friend.code, friend.err) == (0, "")
    assert data_sets(tmp_path / "in").keys() == expected([Instance("1", "1", "1.2.3")]).keys()


async def test_who_asks(tool: Tool, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    async def check(request: object, identity: UserIdentity | None) -> bool:
        asked.append(identity and identity[:3])
        return True

    trust = ("+cf", files.authority)
    async with serve("SCP@127.0.0.1:0", ssl=files.server, access=AccessPolicy(user_identity=check)) as server:
        peer = ("127.0.0.1", server.port)
        assert (await tool("echoscu", *trust, *peer)).code == 0
        assert (await tool("echoscu", *trust, "-usr", "ana", *peer)).code == 0
        assert (await tool("echoscu", *trust, "-usr", "ana", "-pwd", "secret", *peer)).code == 0
        monkeypatch.setenv("ASYNCDICOM_PASSWORD", "häßlich")
        assert (await tool("echoscu", *trust, "-usr", "ana", "-d", *peer)).code == 0
    assert asked == [None, (1, b"ana", b""), (2, b"ana", b"secret"), (2, b"ana", "häßlich".encode())]


async def test_a_passcode_is_sent_in_the_clear_only_if_told(tool: Tool) -> None:
    async def check(request: object, identity: UserIdentity | None) -> bool:
        return identity is not None and identity.secondary == b"secret"

    async with serve("SCP@127.0.0.1:0", access=AccessPolicy(user_identity=check)) as server:
        options = ("-usr", "ana", "-pwd", "secret", "127.0.0.1", server.port)
        assert (await tool("echoscu", *options)).code == 2
        result = await tool("echoscu", "-d", "--cleartext-password", *options)
        assert result.code == 0
        assert "secret" not in result.out + result.err
