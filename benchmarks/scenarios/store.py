"""C-STORE from files to files on one association: 256 MiB, 512 KiB and 39 KiB instances."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks import instances
from benchmarks.harness import Bench, Column, Contender, Headline, Measure, Medians, Scenario, Target
from benchmarks.measure import Sample
from benchmarks.peers import dcmtk
from benchmarks.processes import RECEIVER, SENDER, on_core

OURS = "asyncdicom"
DCMTK = "DCMTK +B, TCP_NODELAY=1"
PYNETDICOM = "pynetdicom"
_RAW = ("raw sockets, sendfile", "raw sockets, sendall")

_BYTES = (
    Column("mb_per_s", "MB/s"),
    Column("cpu_s_per_gb", "CPU s/GB", ".2f", True),
    Column("cpu_s_per_gb_sender", "sender", ".2f", True),
    Column("cpu_s_per_gb_receiver", "receiver", ".2f", True),
    Column("cpu_us_per_op", "CPU us/object", ".0f", True),
)
_OBJECTS = (
    Column("ops_per_s", "objects/s"),
    Column("mb_per_s", "MB/s"),
    Column("cpu_us_per_op", "CPU us/object", ".0f", True),
    Column("cpu_us_per_op_sender", "sender", ".0f", True),
    Column("cpu_us_per_op_receiver", "receiver", ".0f", True),
    Column("cpu_s_per_gb", "CPU s/GB", ".2f", True),
)


class Load(NamedTuple):
    """What is sent in a round; the slow peer gets less of it."""

    kind: instances.Kind
    files: int
    slow_files: int
    maximum_length: int


def _ours(
    bench: Bench, load: Load, stack: ExitStack, *, operations: int = 1, loop: str = "uvloop"
) -> Measure:
    work, files = bench.folder(stack), bench.instances(load.kind, load.files)
    receiver, sender = bench.pair(stack, "ours", loop=loop)
    port = receiver.call("receive", directory=work, maximum_length=load.maximum_length)
    send = partial(sender.call, "send", port=port, receiver_pid=receiver.pid, operations=operations)
    send(folders=[bench.instances(instances.TINY, 1)])
    instances.empty(work)
    return partial(_round, lambda: send(folders=[files]), work, load.files, load)


def _raw(bench: Bench, load: Load, stack: ExitStack, *, sendfile: bool) -> Measure:
    work, files = bench.folder(stack), bench.instances(load.kind, load.files)
    receiver, sender = bench.pair(stack, "raw")
    port = receiver.call("receive", directory=work)
    send = partial(sender.call, "send", port=port, folder=files, receiver_pid=receiver.pid, sendfile=sendfile)
    return partial(_round, send, work, load.files, load)


def _pynetdicom(bench: Bench, load: Load, stack: ExitStack, *, shipped: bool = False) -> Measure:
    work, files = bench.folder(stack), bench.instances(load.kind, load.slow_files)
    receiver, sender = bench.pair(stack, "pynetdicom")
    port = receiver.call("receive", directory=work, maximum_length=load.maximum_length, shipped=shipped)
    send = partial(sender.call, "send", port=port, receiver_pid=receiver.pid, shipped=shipped)
    send(folder=bench.instances(instances.TINY, 1))
    instances.empty(work)
    return partial(_round, lambda: send(folder=files), work, load.slow_files, load)


def _dcmtk(bench: Bench, load: Load, stack: ExitStack, *, shipped: bool = False) -> Measure:
    # With Nagle's algorithm each small instance takes 80 ms.
    number = load.slow_files if shipped else load.files
    work, files = bench.folder(stack), bench.instances(load.kind, number)
    size = str(load.maximum_length)
    receiver_options = () if shipped else ("+B", "-pdu", size)
    sender_options = () if shipped else ("-R", "-pdu", size)
    tiny = bench.instances(instances.TINY, 1)
    with on_core(RECEIVER):
        server = stack.enter_context(
            dcmtk.storescp(work / "storescp", *receiver_options, nodelay=not shipped)
        )
    sender = dcmtk.Sender(work / "storescu", tiny, *sender_options, nodelay=not shipped)
    sender.warm_up(server.port)
    received = work / "storescp" / "received"
    instances.empty(received)
    return partial(_round, lambda: sender.send(server.port, files, server.pid), received, number, load)


def _ours_to_dcmtk(bench: Bench, load: Load, stack: ExitStack) -> Measure:
    work, files = bench.folder(stack), bench.instances(load.kind, load.files)
    options = ("+B", "-pdu", str(load.maximum_length))
    with on_core(RECEIVER):
        server = stack.enter_context(dcmtk.storescp(work / "storescp", *options, nodelay=True))
    with on_core(SENDER):
        sender = bench.worker(stack, "ours")
    received = work / "storescp" / "received"
    send = partial(sender.call, "send", port=server.port, folders=[files], receiver_pid=server.pid)
    return partial(_round, send, received, load.files, load)


def _dcmtk_to_ours(bench: Bench, load: Load, stack: ExitStack) -> Measure:
    work, files = bench.folder(stack), bench.instances(load.kind, load.files)
    received = work / "received"
    received.mkdir()
    with on_core(RECEIVER):
        receiver = bench.worker(stack, "ours")
    port = receiver.call("receive", directory=received, maximum_length=load.maximum_length)
    tiny = bench.instances(instances.TINY, 1)
    sender = dcmtk.Sender(work / "storescu", tiny, "-R", nodelay=True)
    sender.warm_up(port)
    instances.empty(received)
    return partial(_round, lambda: sender.send(port, files, receiver.pid), received, load.files, load)


def _round(send: Callable[[], Sample], received: Path, count: int, load: Load) -> Sample:
    with on_core(SENDER):  # DCMTK's is a new process each time
        sample = send()
    instances.empty(received, expected=count, at_least=count * load.kind.size)
    return sample


def _contenders(load: Callable[[Bench], Load], window: bool, bench: Bench) -> Sequence[Contender]:
    amount = load(bench)

    def contender(
        name: str, sender: str, receiver: str, start: Callable[..., Measure], **more: object
    ) -> Contender:
        nodelay = "off" if start is _dcmtk and more.get("shipped") else "both"
        return Contender(name, sender, receiver, partial(start, bench, amount, **more), nodelay)

    ours, scu, scp = "asyncdicom (uvloop)", "storescu", "storescp +B"
    aio = "asyncdicom (asyncio's loop)"
    found = [contender(OURS, ours, ours, _ours)]
    if window:
        found.append(contender("asyncdicom, 16 operations", ours, ours, _ours, operations=16))
    found += [
        contender(DCMTK, scu, scp, _dcmtk),
        contender("DCMTK as shipped", "storescu", "storescp", _dcmtk, shipped=True),
        contender(PYNETDICOM, "pynetdicom, undecoded", "pynetdicom, undecoded", _pynetdicom),
        contender("raw sockets, sendfile", "sendfile", "recv_into + pwrite", _raw, sendfile=True),
        contender("raw sockets, sendall", "read + sendall", "recv_into + pwrite", _raw, sendfile=False),
    ]
    if not bench.quick:
        found += [
            contender("asyncdicom on asyncio's loop", aio, aio, _ours, loop="asyncio"),
            contender("asyncdicom -> DCMTK", ours, scp, _ours_to_dcmtk),
            contender("DCMTK -> asyncdicom", scu, ours, _dcmtk_to_ours),
            contender("pynetdicom as documented", "pynetdicom", "pynetdicom", _pynetdicom, shipped=True),
        ]
    return found


def _of_ceiling(key: str, medians: Medians) -> float:
    ceiling = max(medians(name, key) for name in _RAW)
    return medians(OURS, key) / ceiling


def _times(key: str, other: str, medians: Medians, *, one: str = OURS) -> float:
    return medians.ratio(key, one, other)


def _scenario(
    name: str,
    title: str,
    load: Callable[[Bench], Load],
    columns: tuple[Column, ...],
    targets: tuple[Target, ...],
    *,
    window: bool = False,
) -> Scenario:
    key, peers = columns[0].key, (DCMTK, "DCMTK as shipped", PYNETDICOM, *_RAW)
    headlines = [Headline(title.replace(", one association", ""), OURS, key, peers)]
    if window:
        headlines.append(
            Headline(
                title.partition(",")[0] + ", 16 operations outstanding",
                "asyncdicom, 16 operations",
                key,
                peers,
            )
        )

    def note(bench: Bench) -> str:
        amount = load(bench)
        slow = (
            f" (pynetdicom, DCMTK as shipped: {amount.slow_files})"
            if amount.slow_files != amount.files
            else ""
        )
        return f"{amount.files} x {amount.kind.name} a round{slow}"

    return Scenario(
        name, title, columns, partial(_contenders, load, window), targets, tuple(headlines), note=note
    )


def _large(maximum_length: int, bench: Bench) -> Load:
    if bench.quick:
        return Load(instances.MEDIUM, 4, 1, maximum_length)
    return Load(instances.LARGE, 8, 2, maximum_length)


def _ct(bench: Bench) -> Load:
    count, slow = bench.pick((4000, 200), (200, 10))
    return Load(instances.IMAGE, count, slow, 131072)


def _small(bench: Bench) -> Load:
    count, slow = bench.pick((5000, 250), (500, 10))
    return Load(instances.SMALL, count, slow, 131072)


SCENARIOS = (
    _scenario(
        "large",
        "256 MiB instances, one association, PDU 128 KiB",
        partial(_large, 131072),
        _BYTES,
        (
            Target("at least 0.75 x the raw-socket ceiling", partial(_of_ceiling, "mb_per_s"), 0.75),
            Target("at least 1.3 x DCMTK +B, TCP_NODELAY=1", partial(_times, "mb_per_s", DCMTK), 1.3),
            Target("at least 10 x pynetdicom", partial(_times, "mb_per_s", PYNETDICOM), 10.0),
            Target(
                "at least 10 x pynetdicom as documented",
                partial(_times, "mb_per_s", "pynetdicom as documented"),
                10.0,
            ),
        ),
    ),
    _scenario(
        "large-16k",
        "256 MiB instances, one association, PDU 16 KiB",
        partial(_large, 16384),
        _BYTES,
        (Target("at least 0.6 x the raw-socket ceiling", partial(_of_ceiling, "mb_per_s"), 0.6),),
    ),
    _scenario(
        "ct",
        "512 KiB instances, one association, one operation at a time",
        _ct,
        _OBJECTS,
        (Target("at least 1.3 x DCMTK +B, TCP_NODELAY=1", partial(_times, "ops_per_s", DCMTK), 1.3),),
        window=True,
    ),
    _scenario(
        "small",
        "39 KiB instances, one association, one operation at a time",
        _small,
        _OBJECTS,
        (
            Target("at least 1.2 x DCMTK +B, TCP_NODELAY=1", partial(_times, "ops_per_s", DCMTK), 1.2),
            Target(
                "with 16 operations, at least 2.5 x DCMTK +B",
                partial(_times, "ops_per_s", DCMTK, one="asyncdicom, 16 operations"),
                2.5,
            ),
        ),
        window=True,
    ),
)
