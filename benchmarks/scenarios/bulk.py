"""One large instance through a link of bounded rate: how much of the link is used, in how much memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from benchmarks import instances
from benchmarks.harness import Bench, Column, Contender, Measure, Scenario, Target
from benchmarks.measure import Sample
from benchmarks.peers import tools
from benchmarks.processes import PeakMemory, Worker, free_port, run, server

_STORE, _GET, _DCMTK = "asyncdicom C-STORE", "asyncdicom C-GET", "DCMTK C-STORE"
_RATE = 25_000_000
_RTTS = (50, 200)


def _kind(bench: Bench) -> instances.Kind:
    kind: instances.Kind = bench.pick(instances.BULK, instances.MEDIUM)
    return kind


def _links(stack: ExitStack, port: int) -> dict[int, int]:
    worker = stack.enter_context(Worker("benchmarks.link", loop="precise"))
    return {rtt: worker.call("open_link", port=port, rtt=rtt / 1e3, rate=_RATE) for rtt in _RTTS}


def _measure(
    bench: Bench,
    received: Path,
    links: dict[int, int],
    pids: tuple[int, int],
    transfer: Callable[[int], float],
) -> Sample:
    """Transfer once over each link; `pids` are receiver and sender, and `transfer` gives seconds."""
    size, sample = _kind(bench).size, {}
    with PeakMemory(pids[0]) as receiver, PeakMemory(pids[1]) as sender:
        for rtt, port in links.items():
            sample[f"link_{rtt}"] = size / _RATE / transfer(port)
            instances.empty(received, expected=1, at_least=size)
    return sample | {"rise_mib_receiver": receiver.rise / 2**20, "rise_mib_sender": sender.rise / 2**20}


def _store(bench: Bench, stack: ExitStack) -> Measure:
    received, files = bench.folder(stack), bench.instances(_kind(bench), 1)
    receiver, sender = bench.worker(stack, "ours"), bench.worker(stack, "ours")
    links = _links(stack, receiver.call("receive", directory=received))
    pids = receiver.pid, sender.pid

    def transfer(port: int) -> float:
        sent: Sample = sender.call("send", port=port, folders=[files], receiver_pid=receiver.pid)
        return sent["seconds"]

    return partial(_measure, bench, received, links, pids, transfer)


def _get(bench: Bench, stack: ExitStack) -> Measure:
    received, kind = bench.folder(stack), _kind(bench)
    archive, requestor = bench.worker(stack, "archive"), bench.worker(stack, "ours")
    port = archive.call("serve", directory=bench.folder(stack), durability="none")
    folders = [bench.instances(each, 1) for each in (kind, instances.SMALL)]
    requestor.call("send", port=port, folders=folders, receiver_pid=archive.pid)
    # A small one first: what is imported for the first C-GET (pydicom, 10 MiB) is not what a transfer takes.
    small = instances.study_uid(instances.SMALL)
    requestor.call("fetch", port=port, study=small, directory=received, receiver_pid=archive.pid)
    instances.empty(received, expected=1)
    study = instances.study_uid(kind)
    links = _links(stack, port)

    def transfer(port: int) -> float:
        got: Sample = requestor.call(
            "fetch", port=port, study=study, directory=received, receiver_pid=archive.pid
        )
        return got["seconds"]

    return partial(_measure, bench, received, links, (requestor.pid, archive.pid), transfer)


def _dcmtk(bench: Bench, stack: ExitStack) -> Measure:
    family, work, port = tools.Dcmtk(), bench.folder(stack), free_port()
    family.check()
    received, env = work / "received", tools.environment()
    received.mkdir()
    command = family.receiver(port, received)
    stack.enter_context(server(command, port, env=env, cwd=work))
    links, files = _links(stack, port), bench.instances(_kind(bench), 1)

    def measure() -> Sample:
        sample = {}
        for rtt, near in links.items():
            seconds = run(family.store(near, files), cwd=work, env=env).wall
            sample[f"link_{rtt}"] = _kind(bench).size / _RATE / seconds
            instances.empty(received, expected=1, at_least=_kind(bench).size)
        return sample

    return measure


def _contenders(bench: Bench) -> Sequence[Contender]:
    return [
        Contender(_STORE, "asyncdicom", "asyncdicom", partial(_store, bench)),
        Contender(_GET, "asyncdicom archive", "asyncdicom", partial(_get, bench)),
        Contender(_DCMTK, "storescu", "storescp", partial(_dcmtk, bench)),
    ]


def _reaches(contender: str, rtt: int) -> Target:
    return Target(
        f"{contender.removeprefix('asyncdicom ')} at {rtt} ms: at least 0.9 of the link",
        lambda medians: medians(contender, f"link_{rtt}"),
        0.9,
    )


def _is_flat(contender: str, side: str) -> Target:
    return Target(
        f"{contender.removeprefix('asyncdicom ')}, {side}: at most 16 MiB more memory",
        lambda medians: medians(contender, f"rise_mib_{side}"),
        at_most=16.0,
    )


SCENARIO = Scenario(
    "bulk",
    "1 GiB through a link of 25 MB/s",
    (
        *(Column(f"link_{rtt}", f"of the link at {rtt} ms", ".3f") for rtt in _RTTS),
        Column("rise_mib_receiver", "receiver's rise MiB", ".1f", True),
        Column("rise_mib_sender", "sender's", ".1f", True),
    ),
    _contenders,
    (
        *(_reaches(contender, rtt) for contender in (_STORE, _GET) for rtt in _RTTS),
        *(_is_flat(contender, side) for contender in (_STORE, _GET) for side in ("receiver", "sender")),
    ),
    rounds=1,
    quick_rounds=1,
    note=lambda bench: f"one instance of {_kind(bench).name}; DCMTK's time is that of the whole command",
)
