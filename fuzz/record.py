"""`python -m fuzz.record`: makes the seeds, from conversations of DCMTK and pynetdicom with our archive.

Every tool talks to an archive on the loopback interface, through a proxy that notes what both sides say. The
notes are cut into seeds of all targets, at most 24 KiB each. The files are the smallest of
pydicom's own test files.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from struct import unpack_from

from asyncdicom import Address
from asyncdicom.archive import Archive
from asyncdicom.archive.dimse import serve_archive
from asyncdicom.data.elements import encode
from asyncdicom.ul.encoder import p_data_header
from asyncdicom.ul.negotiation import answer
from asyncdicom.ul.pdu import AAssociateAC
from fuzz import associate
from fuzz.data_set import SYNTAXES
from fuzz.findings import CORPUS
from fuzz.mutate import associate as associate_nodes
from fuzz.mutate import explicit, implicit, join

LONGEST = 24576
LONGEST_DATA = 6000  # of P-DATA in a seed
PYNETDICOM = (sys.executable, "-W", "ignore", "-m", "pynetdicom")
FILES = (
    "rtplan.dcm",
    "rtdose_1frame.dcm",
    "rtdose_expb_1frame.dcm",
    "SC_rgb_small_odd_jpeg.dcm",
    "reportsi.dcm",
)
HEADS = (*FILES, "image_dfl.dcm", "no_meta_group_length.dcm", "meta_missing_tsyntax.dcm", "priv_SQ.dcm")
DATA_SETS = (
    *(
        "nested_priv_SQ.dcm",
        "UN_sequence.dcm",
        "JPEGLSNearLossless_08.dcm",
        "SC_rgb_small_odd_big_endian.dcm",
    ),
    *(
        "image_dfl.dcm",
        "MR_small_RLE.dcm",
        "empty_charset_LEI.dcm",
        "test-SR.dcm",
        "JPEG2000-embedded-sequence-delimiter.dcm",
    ),
)
_STUDY = (
    "-k",
    "QueryRetrieveLevel=STUDY",
    "-k",
    "StudyInstanceUID=",
    "-k",
    "PatientName=*",
    "-k",
    "StudyDate=-2030",
)
_SERIES = (
    "-k",
    "QueryRetrieveLevel=SERIES",
    "-k",
    "StudyInstanceUID=1.2",
    "-k",
    "Modality=CT",
    "-k",
    "SeriesInstanceUID=",
)
_ALL = ("-k", "QueryRetrieveLevel=PATIENT", "-k", "PatientID=id00001")


class Recorder:
    """A proxy in front of `port`: `streams` are the two directions of each connection."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.streams: list[tuple[bytearray, bytearray]] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self.port)
        pair = (bytearray(), bytearray())
        self.streams.append(pair)
        await asyncio.gather(_copy(reader, to_writer, pair[0]), _copy(to_reader, writer, pair[1]))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, notes: bytearray) -> None:
    try:
        while data := await reader.read(65536):
            notes += data
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def _call(*command: object) -> None:
    process = await asyncio.create_subprocess_exec(
        *map(str, command), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    if process.returncode:
        print(f"{command[0]} ended with {process.returncode}: {output.decode(errors='replace')[-300:]}")


def _commands(port: int, files: Sequence[Path], folder: Path) -> dict[str, tuple[object, ...]]:
    """Name of the seeds -> a tool and its arguments."""
    to = ("127.0.0.1", port)
    pyn = (*PYNETDICOM,)
    return {
        "dcmtk-echo": ("echoscu", "-aec", "ARCHIVE", *to),
        "dcmtk-echo-many": ("echoscu", "--propose-ts", 38, "--propose-pc", 20, "-aec", "ARCHIVE", *to),
        "dcmtk-echo-abort": ("echoscu", "--repeat", 2, "--abort", *to),
        "dcmtk-store-user": ("storescu", "-R", "-usr", "user", "-pwd", "secret", *to, *files[1:2]),
        "dcmtk-store": ("storescu", "-R", *to, *files[:2]),
        "dcmtk-store-proposed": ("storescu", "-xy", "-pdu", 4096, *to, *files[3:4]),
        "dcmtk-send": ("dcmsend", *to, *files),
        "dcmtk-find": ("findscu", "-S", *_STUDY, *to),
        "dcmtk-find-cancel": ("findscu", "-P", "--cancel", 1, *_ALL, *to),
        "dcmtk-find-refused": ("findscu", "-S", *_SERIES, "-k", "PatientID", *to),
        "dcmtk-get": ("getscu", "-P", "-od", folder, *_ALL, *to),
        "dcmtk-move": ("movescu", "-P", "-aem", "DESTINATION", *_ALL, *to),
        "dcmtk-move-unknown": ("movescu", "-P", "-aem", "NOWHERE", *_ALL, *to),
        "pynetdicom-echo": (*pyn, "echoscu", *to),
        "pynetdicom-store": (*pyn, "storescu", "-cx", *to, *files[:2]),
        "pynetdicom-find": (*pyn, "findscu", "-S", *_STUDY, *to),
        "pynetdicom-get": (*pyn, "getscu", "-P", "-od", folder, *_ALL, *to),
        "pynetdicom-move": (*pyn, "movescu", "-P", "-aem", "DESTINATION", *_ALL, *to),
    }


async def conversations(files: Sequence[Path], folder: Path) -> dict[str, tuple[bytes, bytes, bool]]:
    """Name -> what the client said, what the server said, whether we were the server."""
    ports = {
        name: free_port() for name in ("archive", "front", "storescp", "destination", "pynetdicom", "second")
    }
    found: dict[str, tuple[bytes, bytes, bool]] = {}
    front, destination = Recorder(ports["archive"]), Recorder(ports["storescp"])
    address = f"ARCHIVE@127.0.0.1:{ports['archive']}"
    access = {"*": None, "DESTINATION": Address("DESTINATION", "127.0.0.1", ports["destination"])}
    scps = [
        ("storescp", "-od", folder, "+B", ports["storescp"]),
        (*PYNETDICOM, "storescp", "-ba", "127.0.0.1", "-od", folder, ports["pynetdicom"]),
    ]
    processes = [
        await asyncio.create_subprocess_exec(
            *map(str, scp), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
        )
        for scp in scps
    ]
    try:
        async with (
            Archive(str(folder / "archive")) as archive,
            serve_archive(archive, address, access=access),
            await asyncio.start_server(front, "127.0.0.1", ports["front"]),
            await asyncio.start_server(destination, "127.0.0.1", ports["destination"]),
        ):
            await asyncio.sleep(2)
            for name, command in _commands(ports["front"], files, folder).items():
                if name == "pynetdicom-move":
                    destination.port = ports["pynetdicom"]
                front.streams.clear()
                destination.streams.clear()
                await _call(*command)
                for number, (client, server) in enumerate(front.streams):
                    found[f"{name}{number or ''}"] = bytes(client), bytes(server), True
                for number, (client, server) in enumerate(destination.streams):
                    found[f"{name}-storescp{number or ''}"] = bytes(client), bytes(server), False
    finally:
        for process in processes:
            process.terminate()
            await process.wait()
    return found


# From conversations to seeds.


def _pdus(stream: bytes) -> list[bytes]:
    found, position = [], 0
    while position + 6 <= len(stream):
        stop = position + 6 + unpack_from(">I", stream, position + 2)[0]
        found.append(stream[position:stop])
        position = stop
    return found


def _trimmed(pdu: bytes, used: set[int]) -> bytes:
    """An A-ASSOCIATE PDU with its first 8 presentation contexts and those in use: some have 128."""
    kept, contexts = [], 0
    for node in associate_nodes(pdu[6:]):
        if node.head[:1] in (b"\x20", b"\x21"):
            contexts += 1
            if contexts > 8 and node.body[0].encode()[0] not in used:  # type: ignore[union-attr]
                continue
        kept.append(node)
    body = join(kept)
    return pdu[:2] + len(body).to_bytes(4, "big") + body


def _short(stream: bytes, used: set[int]) -> bytes:
    """Whole PDUs at the beginning and the end, without those between that are too much."""
    size, kept = 0, []
    pdus = [_trimmed(pdu, used) if pdu[0] in (1, 2) else pdu for pdu in _pdus(stream)]
    for pdu in pdus:
        if pdu[0] != 4 or size + len(pdu) <= LONGEST_DATA:
            size += len(pdu) if pdu[0] == 4 else 0
            kept.append(pdu)
    return b"".join(kept)


def _fragmented(stream: bytes, size: int) -> bytes:
    """The same messages in fragments of `size` bytes, a PDU each."""
    out = b""
    for pdu in _pdus(stream):
        if pdu[0] != 4:
            out += pdu
            continue
        position = 6
        while position < len(pdu):
            stop = position + 4 + unpack_from(">I", pdu, position)[0]
            context_id, control = pdu[position + 4 : position + 6]
            for start in range(position + 6, stop, size):
                data = pdu[start : min(start + size, stop)]
                is_last = bool(control & 2) and start + size >= stop
                out += p_data_header(context_id, bool(control & 1), is_last, len(data)) + data
            position = stop
    return out


def _parts(stream: bytes) -> tuple[list[bytes], list[bytes]]:
    """The command sets and data sets of a stream."""
    kinds: dict[bool, list[bytes]] = {True: [], False: []}
    part = {True: b"", False: b""}
    for pdu in _pdus(stream):
        if pdu[0] != 4:
            continue
        position = 6
        while position < len(pdu):
            length = unpack_from(">I", pdu, position)[0]
            control = pdu[position + 5]
            is_command = bool(control & 1)
            part[is_command] += pdu[position + 6 : position + 4 + length]
            if control & 2:
                kinds[is_command].append(part[is_command])
                part[is_command] = b""
            position += 4 + length
    return kinds[True], kinds[False]


def _is_implicit(data: bytes) -> bool:
    return not (data[4:6].isalpha() and data[4:6].isupper())


class Writer:
    """Writes seeds, each content once."""

    def __init__(self, corpus: Path) -> None:
        self._corpus = corpus
        self._seen: set[tuple[str, bytes]] = set()

    def write(self, target: str, name: str, data: bytes) -> None:
        """One seed."""
        digest = hashlib.sha256(data).digest()
        if len(data) <= LONGEST and (target, digest) not in self._seen:
            self._seen.add((target, digest))
            (self._corpus / target).mkdir(parents=True, exist_ok=True)
            (self._corpus / target / name).write_bytes(data)


# The states of pdu_stream.PATHS in which the two streams begin, and the conversation scripts.
_FRESH_ACCEPTOR, _FRESH_REQUESTOR, _ACCEPTOR_STA6, _REQUESTOR_STA6 = 1, 11, 3, 12


def conversation_seeds() -> dict[str, bytes]:
    """Scripts of `fuzz.conversation` by hand: 6 bytes of head, then steps of 4 bytes."""
    hello = [(0, 0, 0, 0), (0, 1, 0, 0)]
    echo = [(5, 0, 0, 0), (0, 0, 0, 0), (8, 1, 0, 0), (0, 1, 0, 0)]
    store = [(5, 0, 1, 40), (0, 0, 0, 0), (8, 1, 0, 0), (0, 1, 0, 0)]
    find = [
        (5, 0, 2, 3),
        (0, 0, 0, 0),
        (8, 129, 0, 1),
        (8, 201, 0, 1),
        (0, 1, 0, 0),
        (8, 1, 0, 0),
        (0, 1, 0, 0),
    ]
    cancel = [(5, 0, 2, 3), (0, 0, 0, 0), (10, 0, 0, 0), (8, 1, 0, 4), (0, 0, 0, 0), (0, 1, 0, 0)]
    get = [(5, 0, 3, 9), (0, 0, 0, 0), (5, 1, 1, 9), (0, 1, 0, 0), (8, 0, 0, 0), (0, 0, 0, 0), (8, 1, 0, 0)]
    collision = [(11, 0, 0, 0), (11, 1, 0, 0), (0, 0, 0, 0), (0, 1, 0, 0)]
    scripts = {
        "echo": hello + echo + [(11, 0, 0, 0)],
        "store-in-pieces": hello + store[:1] + [(3, 0, 0, n) for n in (1, 5, 6, 11, 70)] + store[1:],
        "find": hello + find + find,
        "cancel": hello + cancel + echo,
        "get": hello + get,
        "collision": hello + collision,
        "abort": hello + store[:2] + [(12, 1, 0, 0)],
        "silence": hello + store[:1] + [(3, 0, 0, 50), (13, 0, 240, 0), (13, 0, 240, 0)],
        "tampered": hello + store[:1] + [(14, 0, 5, 7), *store[1:]],
        "cut": hello + store[:1] + [(15, 0, 201, 0)],
    }
    heads = {"": bytes(6), "-small": bytes((3, 2, 1, 1, 1, 1)), "-windows": bytes((4, 7, 2, 3, 3, 2))}
    return {
        name + suffix: head + b"".join(map(bytes, steps))
        for name, steps in scripts.items()
        for suffix, head in heads.items()
    }


def identifier_seeds() -> dict[str, bytes]:
    """Identifiers with every supported key of every level, and some values of every VR."""
    from asyncdicom.archive.index.query import KEYS

    values = {
        "DA": (b"20040826", b"2004.08.26", b"20040101-20051231", b"-2030", b""),
        "TM": (b"1030", b"10:30:15", b"100000-113000.5", b"09-", b""),
        "PN": (b"DOE^J*", b"doe^john", b"=*", b"?amada^*=*=*", b"^^"),
        "IS": (b"1\\2 ", b"+01", b"x ", b"*", b""),
        "UI": (b"1.2.0", b"1.2.0\\1.2.1", b"*", b"", b"1.2.2"),
    }
    found = {}
    for number, level in enumerate(("PATIENT", "STUDY", "SERIES", "IMAGE")):
        keys = {tag: key.vr for name in list(KEYS)[: number + 1] for tag, key in KEYS[name].items()}
        for choice in range(5):
            elements = [(0x00080052, "CS", level.encode())]
            for tag, vr in keys.items():
                value = values.get(vr, (b"*", b"P?", b"[P]*", b"", b"CT\\MR"))[choice]
                elements.append((tag, vr, b"\2\1" if vr == "US" else value))
            syntax = choice & 1
            encoded = encode(sorted(elements), SYNTAXES[syntax])
            found[f"all-{level}-{choice}"] = bytes((0, syntax | 8)) + encoded
            for tag, vr, value in elements[1:]:
                if tag in KEYS[level] and choice == tag // 2 % 5:  # and each key alone
                    one = encode(sorted([elements[0], (tag, vr, value)]), SYNTAXES[1])
                    found[f"one-{level}-{tag:08x}"] = bytes((0, 9)) + one
    return found


def negotiation_seeds() -> dict[str, bytes]:
    """Requests with every kind of sub-item, for each policy of `fuzz.associate`, and answers."""
    found = {}
    for number, policy in enumerate(associate.POLICIES):
        request = associate.REQUEST.encode()[6:]
        found[f"roles-{number}-rq"] = bytes((0, number)) + request
        outcome = answer(associate.REQUEST, policy)
        if isinstance(outcome[0], AAssociateAC):
            found[f"roles-{number}-ac"] = bytes((1, number)) + outcome[0].encode()[6:]
    return found


def write_conversation(out: Writer, name: str, client: bytes, server: bytes, we_serve: bool) -> None:
    """All seeds that one conversation has for the targets that read a stream or parts of one."""
    used = {pdu[10] for pdu in _pdus(client) + _pdus(server) if pdu[0] == 4}
    for kind, stream in (("rq", client), ("ac", server)):  # whole, of one of the largest
        if name == "pynetdicom-get" and stream:
            out.write("associate", f"{name}-{kind}-whole", bytes((kind == "ac", 1)) + _pdus(stream)[0][6:])
    client, server = _short(client, used), _short(server, used)
    theirs = client if we_serve else server
    pdus = {True: _pdus(client), False: _pdus(server)}
    begin = _FRESH_ACCEPTOR if we_serve else _FRESH_REQUESTOR
    out.write("pdu_stream", f"{name}-fresh", bytes((begin, 0, 0, 3)) + theirs)
    then = _ACCEPTOR_STA6 if we_serve else _REQUESTOR_STA6
    out.write("pdu_stream", f"{name}-then", bytes((then, 0, 0, 5)) + b"".join(_pdus(theirs)[1:]))
    if "store" in name or "find" in name:
        for size in (20, 100):
            fragments = _fragmented(b"".join(_pdus(theirs)[1:]), size)
            out.write("pdu_stream", f"{name}-fragments-{size}", bytes((then, 0, 0, 5)) + fragments)
            out.write("peer", f"{name}-fragments-{size}", bytes((0, 3, 0)) + _fragmented(client, size))
    out.write("associate", f"{name}-rq", bytes((0, 1)) + pdus[True][0][6:])
    if pdus[False]:
        out.write("associate", f"{name}-ac", bytes((1, 1)) + pdus[False][0][6:])
    out.write("peer", f"{name}-client", bytes((0, 3, 0)) + client)
    if "store" not in name:
        again = b"".join(_pdus(client)[1:-1])  # the same requests again, while the first are not answered
        out.write(
            "peer",
            f"{name}-twice",
            bytes((6, 3, 0)) + pdus[True][0] + again + client[len(pdus[True][0]) :],
        )
    request = pdus[True][0]
    out.write(
        "peer",
        f"{name}-server",
        bytes((1, 3, 0b11100100)) + request + server,
    )
    for stream in (client, server):
        commands, data_sets = _parts(stream)
        for number, command in enumerate(commands):
            out.write(
                "command",
                f"{name}-{number}-{hashlib.sha256(command).hexdigest()[:4]}",
                bytes((0, 3)) + command,
            )
        for number, data in enumerate(data_sets):
            syntax = 0 if _is_implicit(data) else 1
            out.write("data_set", f"{name}-{number}", bytes((syntax, 0, 3, 0)) + data)
            if b"\x08\x00\x52\x00" in data[:40]:
                for flags in (0, 8, 12):
                    model = 0 if b"PATIENT" in data else 1
                    out.write("matching", f"{name}-{number}-{flags}", bytes((model, syntax | flags)) + data)


def write_files(out: Writer, folder: Path) -> None:
    """Seeds of the targets that read files, and text."""
    for name in HEADS:
        content = (folder / name).read_bytes()
        out.write("part10", name.removesuffix(".dcm"), b"\1\0" + content[:600])
        out.write("part10", name.removesuffix(".dcm") + "-no-preamble", b"\0\0" + content[132:500])
    for name in (*FILES, *DATA_SETS):
        content = (folder / name).read_bytes()
        uid, start = _syntax(content)
        body = content[start : start + LONGEST_DATA]
        syntax = SYNTAXES.index(uid) if uid in SYNTAXES else 5
        out.write("data_set", name.removesuffix(".dcm"), bytes((syntax, 0, 3, 0)) + body)
        nodes = explicit(body) if syntax != 0 else implicit(body)
        if syntax in (0, 1) and len(nodes) > 3:
            out.write("data_set", name.removesuffix(".dcm") + "-deflated", bytes((4, 0, 3, 0)) + body)
    # PS3.5 Annexes H, I, J, K: the standard's own examples of person names.
    examples = {
        7: b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
        8: b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J",
        9: b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
        10: b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab=",
        2: "Wang^XiaoDong=王^小東=".encode(),
        3: "Wang^XiaoDong=王^小东=".encode("gb18030"),
        11: b"Buc^J\xe9r\xf4me\\\x1b-L\xbb\xee\xda\xd5\\\x1b-G\xe2\xc8",
    }
    for number, value in examples.items():
        out.write("text", f"name-{number}", bytes((number, 0)) + value)
        out.write("text", f"text-{number}", bytes((number, 3)) + value + b"\r\n" + value)


def _syntax(content: bytes) -> tuple[str, int]:
    """Transfer Syntax UID and begin of the data set of a file, found without the code under test."""
    uid, position = SYNTAXES[0], 132
    if content[128:132] != b"DICM":
        return uid, 0
    while content[position : position + 2] == b"\2\0":
        if content[position + 4 : position + 6] in (b"OB", b"UN"):
            position += 12 + unpack_from("<I", content, position + 8)[0]
            continue
        length = unpack_from("<H", content, position + 6)[0]
        if content[position + 2 : position + 4] == b"\x10\0":
            uid = content[position + 8 : position + 8 + length].rstrip(b"\0 ").decode()
        position += 8 + length
    return uid, position


def main() -> int:
    """Make all seeds anew; findings stay."""
    import pydicom

    if shutil.which("storescu") is None:
        print("needs DCMTK: apt-get install dcmtk")
        return 1
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    for path in CORPUS.glob("*/*"):
        if not path.name.startswith(("crash-", "new-")):
            path.unlink()
    out = Writer(CORPUS)
    with tempfile.TemporaryDirectory() as temporary:
        found = asyncio.run(conversations([folder / name for name in FILES], Path(temporary)))
    for name, (client, server, we_serve) in found.items():
        if client:
            write_conversation(out, name, client, server, we_serve)
    write_files(out, folder)
    for name, data in conversation_seeds().items():
        out.write("conversation", name, data)
    for name, data in identifier_seeds().items():
        out.write("matching", name, data)
    for name, data in negotiation_seeds().items():
        out.write("associate", name, data)
    size = sum(path.stat().st_size for path in CORPUS.glob("*/*"))
    print(f"{len(found)} conversations, {len(list(CORPUS.glob('*/*')))} seeds, {size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
