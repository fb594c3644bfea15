"""Warnings that repeat: shown a few times, then counted for each peer and reason."""

from __future__ import annotations

import logging

from asyncdicom.telemetry.repeats import Repeats

REFUSED = "%s: refused: %s"


def warning(
    peer: str, reason: str, *, template: str = REFUSED, level: int = logging.WARNING, caller: str = "CT1"
) -> logging.LogRecord:
    record = logging.LogRecord(
        "asyncdicom.server", level, "", 0, template, (f"CT1 ({peer}:4242)", reason), None
    )
    record.fields = {"address": peer, "calling_ae_title": caller}
    return record


def shown(repeats: Repeats, records: list[logging.LogRecord], now: float = 0.0) -> int:
    return sum(repeats.shows(record, now) for record in records)


def test_what_repeats_is_counted_and_told_when_the_window_has_passed() -> None:
    repeats = Repeats()
    assert shown(repeats, [warning("10.0.0.1", "no permission")] * 786) == 3
    assert list(repeats.summaries(9.0)) == []
    assert list(repeats.summaries(10.0)) == [
        "783 more times in 10 s: CT1 (10.0.0.1:4242): refused: no permission"
    ]
    assert not repeats.is_counting
    assert shown(repeats, [warning("10.0.0.1", "no permission")], 10.0) == 1


def test_peers_callers_and_reasons_are_counted_apart_and_numbers_are_no_reason() -> None:
    repeats = Repeats()
    others = [
        warning("10.0.0.1", "a"),
        warning("10.0.0.2", "a"),
        warning("10.0.0.1", "b"),
        warning("10.0.0.1", "a", caller="CT2"),
        warning("10.0.0.1", "a", template="%s: dropped: %s"),
    ]
    assert shown(repeats, others * 3) == len(others) * 3
    assert shown(repeats, others) == 0
    numbered = [warning("10.0.0.3", f"message {number} of 1.2.{number}") for number in range(100)]
    assert shown(repeats, numbered) == 3


def test_information_was_asked_for() -> None:
    repeats = Repeats()
    assert shown(repeats, [warning("10.0.0.1", "stored", level=logging.INFO)] * 100) == 100
    assert not repeats.is_counting


def test_a_peer_that_varies_its_text_gains_little() -> None:
    repeats = Repeats()
    varied = [warning("10.0.0.1", "x" * length) for length in range(1000)]
    assert shown(repeats, varied) <= 16 * 3 + 3
    assert shown(repeats, [warning("10.0.0.2", "honest")]) == 1
    assert len(list(repeats.summaries(10.0))) == 1


def test_many_peers_gain_little_and_cost_little() -> None:
    repeats = Repeats()
    many = [warning(f"10.{a}.{b}.1", "no permission") for a in range(100) for b in range(100)]
    assert shown(repeats, many) <= 1024 + 3
    assert len(repeats._runs) <= 1024 + 1
    assert list(repeats.summaries(10.0))[-1].startswith("8973 more times in 10 s: ")
    assert not repeats._runs
    assert not repeats._kinds


def test_lines_of_our_own_have_no_peer_and_are_not_taken_for_one() -> None:
    repeats = Repeats()
    own = [
        logging.LogRecord("asyncdicom.archive", logging.ERROR, "", 0, f"{word} failed", None, None)
        for word in map("x".__mul__, range(100))
    ]
    assert shown(repeats, own) == 100
