"""C-ECHO round trips, beside a bare ping-pong of the same size on the same event loop."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

from asyncdicom.dimse.messages import Command, CommandField, encode, response_to
from asyncdicom.uid import VERIFICATION
from benchmarks.harness import Bench, Column, Contender, Headline, Measure, Medians, Scenario, Target
from benchmarks.measure import Sample
from benchmarks.peers import dcmtk
from benchmarks.processes import RECEIVER, SENDER, on_core

_DCMTK = "DCMTK, TCP_NODELAY=1"
_BARE = "bare uvloop ping-pong"
_PDU_HEADER = 12


def _count(bench: Bench) -> int:
    count: int = bench.pick(10000, 1000)
    return count


def _sizes() -> tuple[int, int]:
    request = Command(CommandField.C_ECHO_RQ, message_id=1, affected_sop_class_uid=VERIFICATION)
    return len(encode(request)) + _PDU_HEADER, len(encode(response_to(request, 0))) + _PDU_HEADER


def _workers(bench: Bench, peer: str, loop: str, stack: ExitStack) -> Measure:
    receiver, sender = bench.pair(stack, peer, loop=loop)
    port = receiver.call("answer_echo")
    echo = partial(sender.call, "echo", port=port, receiver_pid=receiver.pid)
    echo(count=50)
    count = _count(bench) if peer == "ours" else _count(bench) // 5
    return partial(echo, count=count)


def _bare(bench: Bench, stack: ExitStack) -> Measure:
    receiver, sender = bench.pair(stack, "raw")
    size, reply_size = _sizes()
    port = receiver.call("answer_pings", size=size, reply_size=reply_size)
    ping = partial(
        sender.call, "ping", port=port, size=size, reply_size=reply_size, receiver_pid=receiver.pid
    )
    ping(count=50)
    return partial(ping, count=_count(bench))


def _dcmtk(bench: Bench, stack: ExitStack) -> Measure:
    work = bench.folder(stack)
    with on_core(RECEIVER):
        server = stack.enter_context(dcmtk.storescp(work / "storescp", nodelay=True))

    def measure() -> Sample:
        with on_core(SENDER):
            return dcmtk.echo(server.port, _count(bench), server.pid, work / "echoscu")

    return measure


def _contenders(bench: Bench) -> Sequence[Contender]:
    def ours(loop: str) -> partial[Measure]:
        return partial(_workers, bench, "ours", loop)

    pynetdicom = partial(_workers, bench, "pynetdicom", "uvloop")
    aio = "asyncdicom (asyncio's loop)"
    return [
        Contender("asyncdicom", "asyncdicom (uvloop)", "asyncdicom (uvloop)", ours("uvloop")),
        Contender("asyncdicom on asyncio's loop", aio, aio, ours("asyncio")),
        Contender(_DCMTK, "echoscu --repeat", "storescp", partial(_dcmtk, bench)),
        Contender("pynetdicom", "pynetdicom", "pynetdicom", pynetdicom),
        Contender(_BARE, "a protocol", "a protocol", partial(_bare, bench)),
    ]


def _above_bare(medians: Medians) -> float:
    return medians("asyncdicom", "cpu_us_per_op") - medians(_BARE, "cpu_us_per_op")


SCENARIO = Scenario(
    "echo",
    "C-ECHO round trip, one after another",
    (
        Column("cpu_us_per_op", "CPU us, both sides", ".0f", True),
        Column("us_per_op", "round trip us", ".0f", True),
        Column("cpu_us_per_op_sender", "sender CPU us", ".0f", True),
        Column("cpu_us_per_op_receiver", "receiver CPU us", ".0f", True),
    ),
    _contenders,
    (Target("at most 100 us of CPU above the bare ping-pong", _above_bare, at_most=100.0),),
    (
        Headline(
            "C-ECHO (CPU time)",
            "asyncdicom",
            "cpu_us_per_op",
            (_DCMTK, "pynetdicom", _BARE),
            True,
        ),
    ),
    note=lambda bench: f"{_count(bench)} round trips a round (pynetdicom: {_count(bench) // 5})",
)
