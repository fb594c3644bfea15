"""Contexts made of files, revocation lists, and certificates that are renewed while a server runs."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from asyncdicom import AssociationClosed, AssociationError, TlsFiles, associate, serve

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


class Authority:
    """A certification authority whose certificates and lists are files in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._authority = trustme.CA()
        self.trusted = self._write("ca.pem", self._authority.cert_pem.bytes())

    def _write(self, name: str, data: bytes) -> str:
        (self.folder / name).write_bytes(data)
        return str(self.folder / name)

    def certificate(self, name: str, number: str = "") -> tuple[str, str]:
        """Certificate and key."""
        made = self._authority.issue_cert(name)
        return (
            self._write(f"{name}{number}.pem", made.cert_chain_pems[0].bytes()),
            self._write(f"{name}{number}.key", made.private_key_pem.bytes()),
        )

    def revoke(self, *certificates: str, updated: datetime.datetime = NOW) -> str:
        """A revocation list."""
        key = serialization.load_pem_private_key(self._authority.private_key_pem.bytes(), None)
        issuer = x509.load_pem_x509_certificate(self._authority.cert_pem.bytes())
        listed = x509.CertificateRevocationListBuilder(issuer.subject, updated - DAY, updated + DAY)
        for certificate in certificates:
            serial = x509.load_pem_x509_certificate(Path(certificate).read_bytes()).serial_number
            revoked = x509.RevokedCertificateBuilder(serial, updated - DAY).build()
            listed = listed.add_revoked_certificate(revoked)
        made: Any = listed.sign(key, hashes.SHA256())  # type: ignore[arg-type]
        return self._write("ca.crl", made.public_bytes(serialization.Encoding.PEM))


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


async def echo(server: Any, files: TlsFiles) -> None:
    async with associate(f"SCP@127.0.0.1:{server.port}", ssl=files.client()) as association:
        await association.c_echo()


async def test_both_sides_of_files(authority: Authority) -> None:
    ours = TlsFiles(*authority.certificate("127.0.0.1"), trusted=(authority.trusted,))
    theirs = TlsFiles(*authority.certificate("ws.example"), trusted=(authority.trusted,))
    async with serve("SCP@127.0.0.1:0", ssl=ours.server()) as server:
        await echo(server, theirs)
        with pytest.raises(AssociationError):
            await echo(server, TlsFiles(trusted=(authority.trusted,)))


async def test_a_client_without_a_certificate_is_told_so_on_both_sides(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    ours = TlsFiles(*authority.certificate("127.0.0.1"), trusted=(authority.trusted,))
    async with serve("SCP@127.0.0.1:0", ssl=ours.server()) as server:
        with pytest.raises(AssociationClosed) as caught:
            await echo(server, TlsFiles(trusted=(authority.trusted,)))
    assert f"127.0.0.1:{server.port}" in str(caught.value)
    assert "ask for a certificate of ours" in str(caught.value)
    assert "want TLS" not in str(caught.value)
    assert "the peer shows no certificate, which it is asked for" in caplog.text


async def test_a_revoked_certificate_of_a_client(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = authority.certificate("good.example"), authority.certificate("bad.example")
    listed = authority.revoke(bad[0])
    ours = TlsFiles(*authority.certificate("127.0.0.1"), trusted=(authority.trusted,), crl=(listed,)).server()
    async with serve("SCP@127.0.0.1:0", ssl=ours) as server:
        await echo(server, TlsFiles(*good, trusted=(authority.trusted,)))
        with pytest.raises(AssociationError):
            await echo(server, TlsFiles(*bad, trusted=(authority.trusted,)))
    assert "certificate revoked" in caplog.text


async def test_a_revoked_certificate_of_a_server(authority: Authority) -> None:
    bad = authority.certificate("127.0.0.1")
    client = TlsFiles(trusted=(authority.trusted,), crl=(authority.revoke(bad[0]),))
    async with serve("SCP@127.0.0.1:0", ssl=TlsFiles(*bad).server()) as server:
        with pytest.raises(AssociationClosed, match="certificate revoked"):
            await echo(server, client)


async def test_a_list_that_is_out_of_date_lets_nobody_in(authority: Authority) -> None:
    own = authority.certificate("127.0.0.1")
    client = TlsFiles(trusted=(authority.trusted,), crl=(authority.revoke(updated=NOW - 10 * DAY),))
    async with serve("SCP@127.0.0.1:0", ssl=TlsFiles(*own).server()) as server:
        with pytest.raises(AssociationClosed, match="CRL has expired"):
            await echo(server, client)


async def test_renewed_certificates_are_used_by_new_handshakes(authority: Authority) -> None:
    trusted = (authority.trusted,)
    first, second = authority.certificate("127.0.0.1"), authority.certificate("127.0.0.1", "b")
    client = TlsFiles(trusted=trusted).client()
    async with serve("SCP@127.0.0.1:0", ssl=TlsFiles(*first).server()) as server:
        async with associate(f"SCP@127.0.0.1:{server.port}", ssl=client) as standing:
            before = standing.get_extra_info("ssl_object").getpeercert(True)
            server.renew(ssl=TlsFiles(*second).server())
            async with associate(f"SCP@127.0.0.1:{server.port}", ssl=client) as association:
                assert association.get_extra_info("ssl_object").getpeercert(True) != before
            assert (await standing.c_echo()).status == 0, "what stands goes on"


async def test_a_certificate_is_revoked_while_the_server_runs(authority: Authority) -> None:
    trusted, own = (authority.trusted,), authority.certificate("127.0.0.1")
    theirs = authority.certificate("ws.example")
    ours = TlsFiles(*own, trusted=trusted, crl=(authority.revoke(),))
    async with serve("SCP@127.0.0.1:0", ssl=ours.server()) as server:
        await echo(server, TlsFiles(*theirs, trusted=trusted))
        authority.revoke(theirs[0])
        server.renew(ssl=ours.server())
        with pytest.raises(AssociationError):
            await echo(server, TlsFiles(*theirs, trusted=trusted))


async def test_a_server_without_tls_cannot_get_any(authority: Authority) -> None:
    context = TlsFiles(*authority.certificate("127.0.0.1")).server()
    async with serve("SCP@127.0.0.1:0") as server:
        with pytest.raises(ValueError, match="without TLS"):
            server.renew(ssl=context)


def test_files_of_no_use_are_named(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.certificate("127.0.0.1")
    other = authority.certificate("127.0.0.1", "b")[1]
    (tmp_path / "empty").write_text("")
    empty, gone = str(tmp_path / "empty"), str(tmp_path / "gone")
    secret = tmp_path / "secret.key"
    loaded = serialization.load_pem_private_key(Path(key).read_bytes(), None)
    secret.write_bytes(
        loaded.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"x"),
        )
    )
    for files, says in (
        (TlsFiles(certificate, other), "mismatch"),
        (TlsFiles(gone, key), "gone"),
        (TlsFiles(certificate, empty), "empty"),
        (TlsFiles(certificate, str(secret)), "passphrase"),
        (TlsFiles(certificate, key, trusted=(gone,)), f"certificate in {gone}: No such file"),
        (TlsFiles(certificate, key, trusted=(empty,)), f"certificate in {empty}"),
        (TlsFiles(certificate, key, (authority.trusted,), (authority.trusted,)), "revocation list in"),
        (TlsFiles(certificate, key, crl=(authority.revoke(),)), "asks for no certificates"),
        (TlsFiles(), "needs a certificate"),
    ):
        with pytest.raises(ValueError, match=says.replace("(", r"\(")):
            files.server()
    with pytest.raises(ValueError, match="not looked at"):
        TlsFiles(crl=(authority.revoke(),), verify=False).client()
    assert TlsFiles(verify=False).client().verify_mode == ssl.CERT_NONE
