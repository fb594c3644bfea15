"""200 TLS handshakes at once: how long everybody else's C-ECHO waits meanwhile."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from benchmarks.harness import Bench, Column, Contender, Measure, Scenario, Target
from benchmarks.measure import Sample
from benchmarks.processes import Missing

_OURS = "asyncdicom"
_AT_ONCE = 200


def _certificates(folder: Path) -> tuple[Path, Path]:
    """An RSA key of 2048 bits, as most devices have; gives the server's and the authority's file."""
    try:
        import trustme
    except ModuleNotFoundError as error:
        raise Missing("trustme is not installed") from error
    authority, server = folder / "authority.pem", folder / "server.pem"
    ca = trustme.CA()
    ca.cert_pem.write_to_path(authority)
    certificate = ca.issue_cert("127.0.0.1", key_type=trustme.KeyType.RSA)
    certificate.private_key_and_cert_chain_pem.write_to_path(server)
    return server, authority


def _ours(bench: Bench, maximum: int, stack: ExitStack) -> Measure:
    certificate, authority = _certificates(bench.folder(stack))
    receiver, asker, crowd = (bench.worker(stack, "handshakes") for _ in range(3))
    port = receiver.call("answer", certificate=certificate, maximum=maximum)
    times = bench.pick(10, 2)

    def measure() -> Sample:
        asker.call("start_echo", port=port, authority=authority)
        time.sleep(bench.pick(2.0, 0.5))
        quiet = asker.call("stop_echo")
        asker.call("start_echo", port=port, authority=authority)
        spans = crowd.call("rush", port=port, authority=authority, count=_AT_ONCE, times=times)
        busy = asker.call("stop_echo", between=spans)
        return {
            "longer_p99_ms": busy["p99_ms"] - quiet["p99_ms"],
            "p99_ms": busy["p99_ms"],
            "max_ms": busy["max_ms"],
            "go_p99_ms": receiver.call("computed", between=spans)["go_p99_ms"],
            "quiet_p99_ms": quiet["p99_ms"],
            "handshakes_per_s": _AT_ONCE * times / sum(end - start for start, end in spans),
        }

    return measure


def _contenders(bench: Bench) -> Sequence[Contender]:
    def contender(name: str, maximum: int) -> Contender:
        return Contender(name, "a crowd", "asyncdicom", partial(_ours, bench, maximum))

    return [
        contender(_OURS, 2),
        contender("1 at a time", 1),
        contender("8 at a time", 8),
        contender("all at a time", _AT_ONCE),
    ]


SCENARIO = Scenario(
    "handshakes",
    "TLS handshakes that come all at once, and the C-ECHO of somebody else on the same server",
    (
        Column("longer_p99_ms", "C-ECHO p99 longer by ms", ".1f", True),
        Column("p99_ms", "p99 ms", ".1f", True),
        Column("max_ms", "longest ms", ".1f", True),
        Column("go_p99_ms", "server computes in one go ms, p99", ".1f", True),
        Column("quiet_p99_ms", "p99 without them ms", ".2f", True),
        Column("handshakes_per_s", "handshakes/s"),
    ),
    _contenders,
    (
        Target(
            "C-ECHO p99 at most 20 ms longer", lambda medians: medians(_OURS, "longer_p99_ms"), at_most=20.0
        ),
        Target("the same of the computing alone", lambda medians: medians(_OURS, "go_p99_ms"), at_most=20.0),
    ),
    quick_rounds=1,
    note=lambda bench: (
        f"{_AT_ONCE} at once, RSA 2048, TLS 1.3, {bench.pick(10, 2)} times a round; waiting for a core, "
        "which three processes share, is in the first figures, not in what the server computes"
    ),
)
