"""What trace writes is read by Wireshark's tshark, which finds the same messages and no fault."""

from __future__ import annotations

from pathlib import Path

import pytest
from interop import field
from interop.peers import call

from asyncdicom import Address, Request, Status, associate, serve, storage_contexts
from asyncdicom.services.storage import open_file
from asyncdicom.tracing.proxy import Proxy
from asyncdicom.tracing.recorder import Capture, Recorder

pytestmark = pytest.mark.interop


async def stored(request: Request) -> Status:
    async for _ in request.data.batches():
        pass
    return Status.SUCCESS


async def test_tshark_reads_what_was_traced(tmp_path: Path, series: list[Path]) -> None:
    field.need("tshark")
    pcap, lines = tmp_path / "wire.pcap", list[str]()
    capture = Capture(str(pcap))
    async with serve("SCP@127.0.0.1:0", c_store=stored) as server:
        recorder = Recorder(lambda text, fields: lines.append(text), capture=capture)
        target = Address("", "127.0.0.1", server.port)
        proxy = Proxy(Address("", "127.0.0.1", 0), target, recorder, most=1)
        await proxy.start()
        files = [await open_file(path) for path in series]
        async with associate(f"SCP@127.0.0.1:{proxy.port}", contexts=storage_contexts(files)) as association:
            for file in files:
                assert (await association.c_store(file)).status.is_success
        await proxy.serve_forever()
        await proxy.close()
    capture.close()
    checks = ("-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE")
    command = ["tshark", "-r", str(pcap), *checks, "-d", f"tcp.port=={server.port},dicom"]
    read = call(command)
    assert "A-ASSOCIATE request" in read
    assert read.count("C-STORE-RSP") == len(files)
    assert "A-RELEASE response" in read
    faults = "_ws.expert.severity >= 0x600000 or _ws.malformed or tcp.analysis.flags"
    assert call([*command, "-Y", faults]) == ""
    assert sum("C-STORE-RSP" in line and "after" in line for line in lines) == len(files)
