"""Bad connections beside good senders: these store on, each with Success, and the archive stays small.

Bad are those that connect only, drip, claim 4 GiB, stall in a TLS hello, stop reading, flood with
associations, and stall inside a PDU.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trustme
from helpers.archive_process import LONG, long_test

BAD = 5000 if LONG else 210
SECONDS = 30 if LONG else 1.5
GROWTH = 384 << 20  # bytes; most of it is what 100 retrievals hold that nobody reads
PREFIX = ("unshare", "-Urn")
TESTS = Path(__file__).parent.parent


@pytest.fixture
def tls(tmp_path: Path) -> tuple[str, str, str]:
    """A key, its certificate, and that of who made it."""
    authority = trustme.CA()
    issued = authority.issue_cert("192.0.2.1")
    files = tmp_path / "key.pem", tmp_path / "certificate.pem", tmp_path / "authority.pem"
    pems = issued.private_key_pem, issued.cert_chain_pems[0], authority.cert_pem
    for file, pem in zip(files, pems, strict=True):
        pem.write_to_path(file)
    return str(files[0]), str(files[1]), str(files[2])


def attacked(folder: Path, *options: str) -> dict[str, Any]:
    try:
        subprocess.run([*PREFIX, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        if os.environ.get("ASYNCDICOM_REQUIRE_PEERS"):
            raise
        pytest.skip("unshare cannot make a network here")
    ran = subprocess.run(
        [*PREFIX, sys.executable, "-m", "endurance.neighbours", folder, str(BAD), str(SECONDS), *options],
        env=os.environ | {"PYTHONPATH": f"{TESTS}:{TESTS.parent}"},
        stdout=subprocess.PIPE,
        check=True,
    )
    found: dict[str, Any] = json.loads(ran.stdout)
    print(json.dumps(found, indent=1))
    return found


@long_test
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_good_senders_beside_bad_ones(secure: bool, tls: tuple[str, str, str], tmp_path: Path) -> None:
    if secure and not LONG:
        pytest.skip("in the long form")
    found = attacked(tmp_path / "archive", *(tls if secure else ()))
    assert set(found["statuses"]) == {"0x0000"}
    assert min(found[phase]["instances a second"] for phase in ("before", "during", "after")) > 0
    assert found["hostile"]["connections"] >= BAD
    assert secure or found["hostile"]["accepted"]
    assert found["growth"] < GROWTH
    assert not found["trace"]
    assert found["exit code"] == 0
    assert not found["errors"]
