"""``asyncdicom conformance``: how does a peer take what others get wrong?"""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from typing import TYPE_CHECKING

import click

from asyncdicom.cli.number import Number
from asyncdicom.cli.options import EPILOG, peer_options
from asyncdicom.cli.output import json_line
from asyncdicom.cli.peer import Peer
from asyncdicom.cli.run import FAILED, OK, run
from asyncdicom.cli.tool import Tool

if TYPE_CHECKING:
    from asyncdicom.conformance.case import Case, Verdict

_TIMER = 120.0  # seconds that a peer's timer may take
_BUSY, _BUSY_TIMES = 1.0, 60  # seconds between two attempts, and how many there are
_SHOWN, _SHOWN_IN_JSON = 48, 4096  # bytes of evidence, from the beginning of what was said and from its end
_RESULTS = ("passed", "tolerated", "failed", "skipped")


@click.command(cls=Tool, habits_of="CONFORMANCE", epilog=EPILOG)
@click.option(
    "--case",
    "wanted",
    multiple=True,
    metavar="ID",
    help="Only this case (P-02a), row (P-02) or table (P: PDUs, A: association, I: items, U: user "
    "information, V: fragments, C: commands, D: data sets, T: connection). Repeat it for more.",
)
@click.option("--slow", is_flag=True, help="Also the cases that wait for the peer's timers.")
@click.option(
    "--wait",
    "patience",
    type=Number(0, whole=False, above=True),
    default=1.0,
    show_default=True,
    metavar="S",
    help="Seconds that a reaction may take; with --slow, a timer 120 s more.",
)
@peer_options("CONFORMANCE")
def command(peer: Peer, wanted: tuple[str, ...], slow: bool, patience: float, as_json: bool) -> int:
    """Send PEER what peers get wrong, and compare its reactions with those that the standard asks for.

    Some cases store small instances of a patient CONFORMANCE^TEST: not for a system in clinical use.
    """
    from asyncdicom.conformance.cases import select

    if peer.options().get("trace") is not None and not peer.debug:
        raise click.UsageError("the evidence shows what passes; for more put asyncdicom trace between")
    try:
        cases = select(wanted, slow=slow)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    return run(lambda: _play_all(peer, cases, patience, as_json))


async def _play_all(peer: Peer, cases: list[Case], patience: float, as_json: bool) -> int:
    from asyncdicom.conformance.case import Verdict
    from asyncdicom.exceptions import AssociationClosed

    counts: Counter[tuple[str, str]] = Counter()
    for case in cases:
        try:
            verdict = await _play(peer, case, patience)
        except OSError as error:
            if not counts:
                raise AssociationClosed(f"{peer.address}: {error.strerror or error}") from error
            verdict = Verdict(case, "failed", "refused", str(error), b"", b"")
        counts[case.id[0], verdict.result] += 1
        _show(verdict, as_json)
    if not as_json:
        _summarize(counts)
    return FAILED if any(result == "failed" for _, result in counts) else OK


async def _play(peer: Peer, case: Case, patience: float) -> Verdict:
    """Play a case, again while the peer says that it is busy: with the cases before, perhaps."""
    import asyncio

    from asyncdicom.conformance.tcp import play_with_acceptor

    ssl = peer.tls.client()
    for _ in range(_BUSY_TIMES):
        verdict = await play_with_acceptor(
            case,
            peer.address,
            calling_ae_title=peer.calling_ae_title,
            patience=patience + _TIMER if case.slow else patience,
            ssl=ssl,
            server_hostname=peer.server_hostname,
        )
        if "reject 2 3" not in verdict.got:
            break
        await asyncio.sleep(_BUSY)
    return verdict


def _show(verdict: Verdict, as_json: bool) -> None:
    case = verdict.case
    if as_json:
        json_line(
            id=case.id,
            what=case.what,
            state=case.state,
            result=verdict.result,
            expected=case.expect,
            got=verdict.got,
            why=verdict.why,
            reference=case.reference,
            sent=verdict.sent[:_SHOWN_IN_JSON].hex(),
            received=verdict.received[:_SHOWN_IN_JSON].hex(),
        )
        return
    print(f"{case.id:6} {verdict.result:9}  {case.what}")
    if verdict.result == "passed":
        return
    if verdict.result == "skipped":
        print(f"{'':18}{verdict.why}")
        return
    print(f"{'':18}expected  {case.expect}")
    print(f"{'':18}got       {_shortened(verdict.got)}" + (f" ({verdict.why})" if verdict.why else ""))
    if verdict.result == "failed":
        print(f"{'':18}because   {case.reference}")
        print(f"{'':18}sent      {_evidence(verdict.sent)}")
        print(f"{'':18}received  {_evidence(verdict.received)}")


def _shortened(got: str) -> str:
    """What repeats itself is counted."""
    runs = [(said, len(list(run))) for said, run in groupby(got.split(", "))]
    return ", ".join(said if count == 1 else f"{count} x {said}" for said, count in runs)


def _evidence(data: bytes) -> str:
    """The beginning and the end: the stimulus and the last reaction stand there."""
    if not data:
        return "nothing"
    if len(data) <= 2 * _SHOWN:
        return data.hex(" ", -4)
    left = len(data) - 2 * _SHOWN
    return f"{data[:_SHOWN].hex(' ', -4)} ... {left} bytes ... {data[-_SHOWN:].hex(' ', -4)}"


def _summarize(counts: Counter[tuple[str, str]]) -> None:
    print(f"\n{'table':6} " + " ".join(f"{name:>9}" for name in _RESULTS))
    for table in [*dict.fromkeys(table for table, _ in counts), "all"]:
        rows = [
            sum(n for (t, r), n in counts.items() if r == name and table in (t, "all")) for name in _RESULTS
        ]
        print(f"{table:6} " + " ".join(f"{number:9}" for number in rows))
