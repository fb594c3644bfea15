"""The wire suite against the sans-IO core, and the suite's own order."""

from __future__ import annotations

import pytest

from asyncdicom.conformance.case import Case, judge, row_of
from asyncdicom.conformance.cases import CASES, DEVIATIONS, NOT_ON_THE_WIRE, ROWS, select
from asyncdicom.conformance.memory import play_in_memory

CORE = [case for case in CASES if not case.service]
PASSED = "passed"


def name(case: Case) -> str:
    return case.id


def check(case: Case, size: int, budget: int = 1 << 20) -> None:
    verdict = play_in_memory(case, size, budget)
    assert verdict.result == ("tolerated" if case.id in DEVIATIONS else PASSED), (
        f"{case.what}: {verdict.got} {verdict.why}, not {case.expect}"
    )


@pytest.mark.parametrize("case", CORE, ids=name)
def test_core(case: Case) -> None:
    check(case, 1 << 20)


# Answered one by one, as they come here, the requests of these are no longer open together.
TOGETHER = {"C-08b", "C-19b", "P-16", "P-17"}


@pytest.mark.parametrize("case", [case for case in CORE if case.id not in TOGETHER], ids=name)
def test_core_byte_by_byte(case: Case) -> None:
    many = max((len(piece) for piece in (case.send,) if isinstance(piece, bytes)), default=0) > 100_000
    check(case, 4093 if many else 1)


@pytest.mark.parametrize("case", [case for case in CORE if case.id not in TOGETHER], ids=name)
def test_core_one_fragment_at_a_time(case: Case) -> None:
    check(case, 1 << 20, budget=1)


def test_every_row_has_its_case_or_a_reason() -> None:
    rows = {f"{table}-{number:02}" for table, count in ROWS.items() for number in range(1, count + 1)}
    assert len(rows) == 158
    played = {row_of(case.id) for case in CASES}
    assert not played & NOT_ON_THE_WIRE.keys()
    assert rows - played == NOT_ON_THE_WIRE.keys()


def test_ids_are_unique_and_say_why() -> None:
    ids = [case.id for case in CASES]
    assert len(set(ids)) == len(ids)
    assert all(case.reference and case.what for case in CASES)
    assert DEVIATIONS.keys() <= set(ids)


@pytest.mark.parametrize(
    ("got", "result"),
    [
        ("abort 2 6", PASSED),
        ("status 0000, abort 2 6", PASSED),
        ("abort 0 0", "tolerated"),
        ("abort 2 60", "failed"),
        ("silence", "failed"),
        ("closed", "failed"),
        ("", "failed"),
    ],
)
def test_judge(got: str, result: str) -> None:
    case = Case("X-01", "x", "Sta6", b"", "abort 2 6 | status 0000, abort 2 6", "abort [01] *")
    assert judge(case, got) == result
    assert judge(case, got, "but the bytes are wrong") == "failed"


def test_select() -> None:
    assert [case.id for case in select(("P-02",))] == ["P-02a", "P-02b", "P-02c"]
    assert [case.id for case in select(("V-16",))] == ["V-16"], "slow, but asked for"
    assert not [case for case in select(("V",)) if case.slow]
    assert all(case.is_acceptor for case in select(()))
    assert {case.id for case in select((), acceptor=False)} == {
        case.id for case in CASES if not case.is_acceptor
    }
    with pytest.raises(ValueError, match="no case M-01: a file"):
        select(("M-01",))
    with pytest.raises(ValueError, match="no case Q"):
        select(("Q",))
