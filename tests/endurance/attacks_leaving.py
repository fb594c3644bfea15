"""Attacks on who may, and on what leaves: clear text, other people's names, files, terminals, clients."""

from __future__ import annotations

import asyncio
import datetime
import json
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trustme
from cli.nodes import Instance, Node
from cli.running import write_instance
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from endurance.attack import PATIENCE, Attack, Counts
from endurance.attacks_kept import STUDY_KEYS, images, send, source, tool
from endurance.siege import ENVIRONMENT
from endurance.test_stopping import storescp
from helpers.archive_process import CONTEXTS, CT
from helpers.archive_process import Node as Archived
from helpers.peer import IDENTIFIER, Listener, Message, Peer, listening, message

from asyncdicom import STUDY_ROOT, AccessPolicy, Request, Retrieval, TlsFiles, associate, serve
from asyncdicom.archive import Archive
from asyncdicom.archive.dimse import serve_archive
from asyncdicom.conformance import build
from asyncdicom.dimse.messages import Command, CommandField
from asyncdicom.exceptions import AssociationError, DicomNetworkError


def certified(*names: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Contexts of a server and of a client that trusts it."""
    authority = trustme.CA()
    server, client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert(*names).configure_cert(server)
    authority.configure_trust(client)
    return server, client


class Clear(asyncio.Protocol):
    """Counts the connections that begin with a PDU that can be read."""

    count = 0

    def data_received(self, data: bytes) -> None:
        Clear.count += data[:1] == b"\1"


async def move_in_the_clear(folder: Path) -> Counts:
    """A TLS archive is asked to send to a destination of which nothing is said but where it is."""
    Clear.count = 0
    server, client = certified("127.0.0.1")
    listener = await asyncio.get_running_loop().create_server(Clear, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    options: dict[str, Any] = {"access": {"SENDER": None, "DEST": f"127.0.0.1:{port}"}, "ssl": server}
    async with (
        listener,
        Archive(folder, durability="none") as archive,
        serve_archive(archive, "ARCHIVE@127.0.0.1:0", **options) as node,
        associate(
            f"ARCHIVE@127.0.0.1:{node.port}",
            calling_ae_title="SENDER",
            contexts=[*CONTEXTS, STUDY_ROOT],
            ssl=client,
        ) as association,
    ):
        for uid, data in images(1, 3).items():
            assert (await association.c_store(source(uid, data))).status == 0
        with suppress(DicomNetworkError, TimeoutError):
            async with asyncio.timeout(1):
                await association.c_move(STUDY_KEYS, move_destination="DEST")
    return {"associations in the clear": Clear.count}


def can_unshare() -> bool:
    try:
        return subprocess.run(["unshare", "-Urn", "true"], capture_output=True).returncode == 0
    except OSError:
        return False


async def strangers(folder: Path) -> Counts:
    """See `endurance.strangers`."""
    command = ["unshare", "-Urn", sys.executable, "-m", "endurance.strangers"]
    if not can_unshare():
        pytest.skip("unshare cannot make a network here")
    process = await asyncio.create_subprocess_exec(*command, env=ENVIRONMENT, stdout=subprocess.PIPE)
    said, _ = await process.communicate()
    counts: Counts = json.loads(said)
    return counts


# receivers


ASKED, UNASKED = Instance("1.2.1", "1.2.1.1", "1.2.1.1.1"), Instance("1.2.9", "1.2.9.1", "1.2.9.1.1")


class Sending(Node):
    """Answers as it should, and sends another instance instead."""

    async def retrieve(self, request: Request) -> Retrieval:
        await request.identifier()
        return Retrieval([UNASKED.source()])


async def unasked_instance(folder: Path) -> Counts:
    folder.mkdir()
    existing = folder / f"{UNASKED.SOPInstanceUID}.dcm"
    existing.write_bytes(b"mine")
    node = Sending([ASKED])
    async with serve("SCP@127.0.0.1:0", c_find=node.find, c_get=node.retrieve) as server:
        words = ("getscu", f"SCP@127.0.0.1:{server.port}", "-od", folder)
        code, _ = await asyncio.to_thread(tool, *words, "-k", f"StudyInstanceUID={ASKED.StudyInstanceUID}")
    return {"files replaced": existing.read_bytes() != b"mine", "told as success": code == 0}


async def move_from_a_stranger(folder: Path) -> Counts:
    """While a peer is asked to send to ``movescu --port``, somebody else sends there."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    taken = 0

    async def move(request: Request) -> Retrieval:
        nonlocal taken
        stranger = UNASKED.source()
        with suppress(AssociationError):
            async with associate(
                f"MOVESCU@127.0.0.1:{port}", calling_ae_title="STRANGER", contexts=CONTEXTS
            ) as association:
                taken += (await association.c_store(stranger)).status.is_success
        return Retrieval([])

    destinations = {"MOVESCU": f"127.0.0.1:{port}"}
    async with serve("SCP@127.0.0.1:0", c_move=move, destinations=destinations) as server:
        words = ("movescu", f"SCP@127.0.0.1:{server.port}", "--port", port, "-od", folder)
        await asyncio.to_thread(tool, *words, "-k", "StudyInstanceUID=1.2.1")
    return {"taken from a stranger": taken}


async def replaced_by_another(folder: Path) -> Counts:
    """Two peers send different instances under one UID to ``storescp``."""
    async with storescp(folder) as receiver:
        node = Archived()
        node.port = receiver.port
        [(uid, first)] = images(1, 1).items()
        await send(node, {uid: first})
        await send(node, {uid: first[:-1] + b"X"})
    kept = [file.read_bytes() for file in folder.iterdir()]
    return {"instances lost": not any(content.endswith(first) for content in kept)}


async def escapes_on_a_terminal(folder: Path) -> Counts:
    """A refusal in text that a terminal would obey, by a peer made by hand."""
    folder.mkdir()
    write_instance(folder / "one.dcm", CT, "1.2.3")
    said = ""

    async def refuse(listener: Listener) -> None:
        peer = await listener.peer()
        await peer.accept()
        request = await peer.message()
        fields = {0x0100: build.us(0x8001), 0x0120: build.us(request.command.message_id or 0)}
        fields |= {0x0800: build.us(0x0101), 0x0900: build.us(0xA700), 0x0902: b"\x1b[31mRED\x1b[0m "}
        peer.write(build.message(request.context_id, build.command(fields)))
        await peer.pdu()
        peer.write(build.RELEASE_RP)

    for option in ("-v", "-d", "--json"):
        async with listening() as listener:
            refusing = asyncio.ensure_future(refuse(listener))
            where = f"SCP@127.0.0.1:{listener.port}"
            said += (await asyncio.to_thread(tool, "storescu", option, where, folder / "one.dcm"))[1]
            await refusing
    assert "RED" in said
    return {"control characters": said.count("\x1b")}


# certificates


def self_signed(name: x509.GeneralName, folder: Path) -> Path:
    """A key and a certificate of that one Subject Alternative Name, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "somebody")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(1))
        .not_valid_after(now + datetime.timedelta(1))
        .add_extension(x509.SubjectAlternativeName([name]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = folder / "identity.pem"
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file.write_bytes(private + certificate.public_bytes(pem))
    return file


async def names_of_another_kind(folder: Path) -> Counts:
    """The known name of a workstation, as a URI and as an address of mail."""
    folder.mkdir()
    passed = 0
    for name in (x509.UniformResourceIdentifier("ws1.example"), x509.RFC822Name("ws1.example")):
        server, client = certified("127.0.0.1")
        identity = self_signed(name, folder)
        server.verify_mode = ssl.CERT_REQUIRED
        server.load_verify_locations(identity)
        client.load_cert_chain(identity)
        access = AccessPolicy(certificates=["ws1.example"])
        async with serve("SCP@127.0.0.1:0", ssl=server, access=access) as node:
            with suppress(AssociationError):
                async with associate(f"SCP@127.0.0.1:{node.port}", ssl=client):
                    passed += 1
    return {"taken for a DNS name": passed}


async def revoked(folder: Path) -> Counts:
    """A workstation whose certificate was revoked goes on, and so does one that was not."""
    folder.mkdir()
    authority = trustme.CA()
    files = {name: identity(authority, name, folder) for name in ("127.0.0.1", "good.example", "bad.example")}
    trusted = folder / "ca.pem"
    authority.cert_pem.write_to_path(trusted)
    lists = (revocation_list(authority, files["bad.example"][0], folder),)
    ours = TlsFiles(*files["127.0.0.1"], trusted=(str(trusted),), crl=lists)
    passed = {}
    async with serve("SCP@127.0.0.1:0", ssl=ours.server()) as node:
        for name in ("good.example", "bad.example"):
            client = TlsFiles(*files[name], trusted=(str(trusted),)).client()
            with suppress(AssociationError):
                async with associate(f"SCP@127.0.0.1:{node.port}", ssl=client) as association:
                    passed[name] = (await association.c_echo()).status.is_success
    return {
        "revoked and let in": "bad.example" in passed,
        "good and not let in": "good.example" not in passed,
    }


def identity(authority: trustme.CA, name: str, folder: Path) -> tuple[str, str]:
    """Certificate and key, in files."""
    made = authority.issue_cert(name)
    paths = folder / f"{name}.pem", folder / f"{name}.key"
    made.cert_chain_pems[0].write_to_path(paths[0])
    made.private_key_pem.write_to_path(paths[1])
    return str(paths[0]), str(paths[1])


def revocation_list(authority: trustme.CA, certificate: str, folder: Path) -> str:
    """A list with that one certificate on it, in a file."""
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    key = serialization.load_pem_private_key(authority.private_key_pem.bytes(), None)
    issuer = x509.load_pem_x509_certificate(authority.cert_pem.bytes())
    serial = x509.load_pem_x509_certificate(Path(certificate).read_bytes()).serial_number
    listed = x509.CertificateRevocationListBuilder(issuer.subject, now - day, now + day)
    listed = listed.add_revoked_certificate(x509.RevokedCertificateBuilder(serial, now - day).build())
    made: Any = listed.sign(key, hashes.SHA256())  # type: ignore[arg-type]
    path = folder / "ca.crl"
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return str(path)


async def asked_by_tls(folder: Path) -> Counts:
    """``movescu --port`` has asked by TLS: the peer it asked sends in the clear first, then by TLS."""
    folder.mkdir()
    authority = trustme.CA()
    certificate, key = identity(authority, "127.0.0.1", folder)
    authority.cert_pem.write_to_path(folder / "ca.pem")
    ours = TlsFiles(certificate, key, trusted=(str(folder / "ca.pem"),))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    taken = {"in the clear": 0, "by TLS": 0}

    async def move(request: Request) -> Retrieval:
        for how, context in (("in the clear", None), ("by TLS", ours.client())):
            with suppress(AssociationError):
                async with associate(
                    f"MOVESCU@127.0.0.1:{port}", calling_ae_title="SCP", contexts=CONTEXTS, ssl=context
                ) as association:
                    taken[how] += (await association.c_store(ASKED.source())).status.is_success
        return Retrieval([])

    destinations = {"MOVESCU": f"127.0.0.1:{port}"}
    async with serve("SCP@127.0.0.1:0", c_move=move, destinations=destinations, ssl=ours.server()) as server:
        words = ("movescu", f"SCP@127.0.0.1:{server.port}", "--port", port, "-od", folder / "taken")
        tls = ("+tls", key, certificate, "+cf", folder / "ca.pem")
        await asyncio.to_thread(tool, *words, *tls, "-k", f"StudyInstanceUID={ASKED.StudyInstanceUID}")
    return {"taken in the clear": taken["in the clear"], "not taken by TLS": 1 - taken["by TLS"]}


# clients


Playing = Callable[[Peer], Any]


async def against(
    play: Playing, ask: Callable[[Any], Any], trace: Callable[[str, object], None] | None = None
) -> Counts:
    """Let a client ask something of a hand-made peer; what it weighs more at its most."""
    async with listening() as listener:
        playing = asyncio.ensure_future(played(listener, play))
        base = sys.getallocatedblocks()
        address = f"SCP@127.0.0.1:{listener.port}"
        with suppress(AssociationError, DicomNetworkError, TimeoutError):
            async with associate(address, contexts=[*CONTEXTS, STUDY_ROOT], trace=trace) as association:
                async with asyncio.timeout(PATIENCE):
                    await ask(association)
        playing.cancel()
        await asyncio.wait([playing])
        counts: Counts = {} if playing.cancelled() else playing.result()
    return {"objects": 0, **counts, "objects kept": sys.getallocatedblocks() - base}


async def played(listener: Listener, play: Playing) -> Counts:
    counts: Counts = await play(await listener.peer())
    return counts


async def client_of_maximum_length_8(folder: Path) -> Counts:
    base = sys.getallocatedblocks()
    most = 0

    async def play(peer: Peer) -> Counts:
        await peer.accept(maximum_length=8)
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.Event().wait()
        return {}

    async def ask(association: Any) -> None:
        nonlocal most
        storing = asyncio.ensure_future(association.c_store(source("1.2.3", bytes(2_000_000))))
        await asyncio.wait([storing], timeout=1)
        most = sys.getallocatedblocks() - base
        storing.cancel()
        await asyncio.wait([storing])
        raise TimeoutError  # so that the association is aborted, not released

    await against(play, ask)
    return {"objects": most}


def pending(message_to: Message, field: CommandField, data: bytes | None = None) -> bytes:
    response = Command(
        field,
        message_id_being_responded_to=message_to.command.message_id,
        affected_sop_class_uid=message_to.command.affected_sop_class_uid,
        status=0xFF00,
        has_data_set=data is not None,
    )
    return message(message_to.context_id, response, data)


async def large_matches(folder: Path) -> Counts:
    """An awaited C-FIND is answered with 12 identifiers of 8 MiB."""
    taken: list[int] = []

    async def play(peer: Peer) -> Counts:
        await peer.accept()
        request = await peer.message()
        peer.write(pending(request, CommandField.C_FIND_RSP, bytes(8 << 20)))
        with suppress(ConnectionError):
            for _ in range(12):
                await peer.writer.drain()
                taken.append(8)
                peer.write(pending(request, CommandField.C_FIND_RSP, bytes(8 << 20)))
            await asyncio.Event().wait()
        return {}

    async def ask(association: Any) -> None:
        await association.c_find(IDENTIFIER, raw=True)

    await against(play, ask)
    return {"MiB taken": sum(taken)}


async def pending_for_ever(folder: Path) -> Counts:
    """A C-MOVE is answered with Pending, 20,000 times, that say nothing new."""
    taken = 0

    async def play(peer: Peer) -> Counts:
        await peer.accept()
        request = await peer.message()
        flood = 1000 * pending(request, CommandField.C_MOVE_RSP)
        for _ in range(20):
            peer.write(flood)
            await peer.writer.drain()
        await asyncio.Event().wait()
        return {}

    async def ask(association: Any) -> None:
        async with asyncio.timeout(1):
            await association.c_move(STUDY_KEYS, move_destination="DEST")

    def trace(direction: str, what: object) -> None:
        nonlocal taken
        taken += isinstance(what, Command) and what.command_field is CommandField.C_MOVE_RSP

    await against(play, ask, trace)
    return {"Pending responses taken": taken}


ATTACKS = (
    Attack("C-MOVE in the clear", "a TLS archive is to send to a destination without TLS options",
           move_in_the_clear, {"associations in the clear": 0}),
    Attack("strangers", "4 associations under a modality's AE title; 12 addresses of one /64",
           strangers, {"modality rejected": 0, "beyond the limit": 0}),
    Attack("unasked instance", "an SCP sends getscu what was not asked for, under the name of a file",
           unasked_instance, {"files replaced": 0, "told as success": 0}),
    Attack("move from a stranger", "somebody else sends to movescu --port",
           move_from_a_stranger, {"taken from a stranger": 0}),
    Attack("replaced by another", "two different instances under one UID for storescp",
           replaced_by_another, {"instances lost": 0}),
    Attack("escapes on a terminal", "escape sequences in an Error Comment",
           escapes_on_a_terminal, {"control characters": 0}),
    Attack("names of another kind", "a certificate with a known DNS name as URI, or as address of mail",
           names_of_another_kind, {"taken for a DNS name": 0}),
    Attack("revoked certificate", "a workstation whose certificate is on the revocation list, and another",
           revoked, {"revoked and let in": 0, "good and not let in": 0}),
    Attack("asked by TLS", "movescu --port has asked by TLS, and is sent to in the clear",
           asked_by_tls, {"taken in the clear": 0, "not taken by TLS": 0}),
    Attack("client, Maximum Length of 8",
           "a client stores 2 MB at an SCP of Maximum Length 8 that reads nothing",
           client_of_maximum_length_8, {"objects": 60_000}),
    Attack("client, large matches", "an awaited C-FIND is answered with 12 identifiers of 8 MiB",
           large_matches, {"MiB taken": 64}),
    Attack("client, Pending for ever", "a C-MOVE is answered with 20,000 Pending that say nothing new",
           pending_for_ever, {"Pending responses taken": 10_000}),
)  # fmt: skip
