"""``asyncdicom qrscp`` with TLS: what it sends to C-MOVE destinations, and how."""

from __future__ import annotations

import contextlib
import json
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme
from cli.running import Start
from helpers.archive_process import CT, STUDY, data_set

from asyncdicom import (
    STUDY_ROOT,
    BytesSource,
    Proposable,
    Request,
    StatusError,
    associate,
    serve,
    storage_contexts,
)
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN

KEYS = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": STUDY}


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def files(authority: trustme.CA, tmp_path: Path) -> Path:
    """A folder with ca.pem, own.pem, own.key."""
    own = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    own.cert_chain_pems[0].write_to_path(str(tmp_path / "own.pem"))
    own.private_key_pem.write_to_path(str(tmp_path / "own.key"))
    return tmp_path


def context(authority: trustme.CA, purpose: int) -> ssl.SSLContext:
    made = ssl.SSLContext(purpose)
    authority.issue_cert("127.0.0.1").configure_cert(made)
    authority.configure_trust(made)
    made.verify_mode = ssl.CERT_REQUIRED
    return made


TLS = 'key = "{0}/own.key"\ncertificate = "{0}/own.pem"\ntrusted = ["{0}/ca.pem"]\n'


@pytest.mark.parametrize(
    ("table", "secure", "fits"),
    [
        ('address = "127.0.0.1:{port}"\n', True, True),
        ('address = "127.0.0.1:{port}"\ntls = true\n', True, True),
        ('address = "127.0.0.1:{port}"\n', False, False),
        ('address = "127.0.0.1:{port}"\ntls = false\n', False, True),
        ('address = "127.0.0.1:{port}"\nserver_hostname = "else.example"\n', True, False),
    ],
)
async def test_what_a_tls_archive_sends(
    start: Start, authority: trustme.CA, files: Path, table: str, secure: bool, fits: bool
) -> None:
    got: list[Any] = []

    async def take(request: Request) -> int:
        got.append(request.association.get_extra_info("ssl_object"))
        await request.data.read()
        return 0

    ours = context(authority, ssl.PROTOCOL_TLS_SERVER) if secure else None
    async with serve("WS@127.0.0.1:0", c_store=take, ssl=ours) as ws:
        peer = table.format(port=ws.port)
        text = f"port = 0\nstrict = false\n[tls]\n{TLS.format(files)}[peers.WS]\n{peer}"
        (files / "archive.toml").write_text(text)
        options = ("--config", files / "archive.toml", "--data", files / "data", "--json")
        async with start("qrscp", *options) as process:
            port = json.loads(await process.stdout.readline())["port"]
            source = BytesSource(CT, "1.2.3", EXPLICIT_VR_LITTLE_ENDIAN, data_set("1.2.3"))
            client = context(authority, ssl.PROTOCOL_TLS_CLIENT)
            contexts: list[Proposable] = [STUDY_ROOT, *storage_contexts([source])]
            async with associate(f"A@127.0.0.1:{port}", contexts=contexts, ssl=client) as association:
                assert (await association.c_store(source)).status == 0
                retrieval = association.c_move(KEYS, move_destination="WS")
                with contextlib.suppress(StatusError):
                    await retrieval
                assert retrieval.response is not None
                assert retrieval.response.status == (0 if fits else 0xA702)
                assert str(retrieval.response.error_comment).startswith("None" if fits else "destination: ")
    assert len(got) == fits
    assert all((shown is not None) == secure for shown in got)
