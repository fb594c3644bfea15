"""What is answered to who stores an instance, and what is counted and logged of it."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from asyncdicom.archive.arrival import Arrival, Outcome
from asyncdicom.telemetry.log import Log

__all__ = ["MAXIMUM_COMMENT", "Stored", "answer_to", "count_and_tell"]

_LOG = Log("asyncdicom.archive")

MAXIMUM_COMMENT = 64
"""Characters of an Error Comment (PS3.7 Annex C: an LO)."""

_ELSE = "other data are here under this SOP Instance UID"
_ASIDE = {
    Outcome.QUARANTINED: "quarantined",
    Outcome.ALREADY_IN_QUARANTINE: "quarantined",
    Outcome.HEALED_IN_QUARANTINE: "quarantined",
    Outcome.QUARANTINE_FULL: "quarantine full",
}


class Stored(NamedTuple):
    """What became of an instance that was to be stored, and the reason where it is not simply here now."""

    outcome: Outcome
    comment: str = ""

    @property
    def is_here(self) -> bool:
        """Tell whether the instance is in the archive now, as durable as that promises."""
        return self.outcome.is_here


_COMMENTS = {
    Outcome.QUARANTINED: f"{_ELSE}: quarantined",
    Outcome.ALREADY_IN_QUARANTINE: f"{_ELSE}: quarantined",
    Outcome.HEALED_IN_QUARANTINE: f"{_ELSE}: quarantined",
    Outcome.QUARANTINE_FULL: f"{_ELSE}: quarantine full",
    Outcome.REFUSED: f"{_ELSE}: not kept",
}


def answer_to(arrival: Arrival, outcome: Outcome) -> Stored:
    """Give the answer to who has sent an instance."""
    if arrival.mismatch and not arrival.is_conflict and outcome in _ASIDE:
        return Stored(outcome, f"{arrival.mismatch}: {_ASIDE[outcome]}")
    return Stored(outcome, _COMMENTS.get(outcome, ""))


def count_and_tell(
    uid: str, arrival: Arrival, outcome: Outcome, happened: Counter[str], directory: str
) -> None:
    """Count and log what is not simply stored; a refusal is logged by who answers, too."""
    if outcome.keeps:
        _tell_kept(uid, arrival, outcome, happened)
    if outcome in (Outcome.STORED, Outcome.ALREADY_HERE):
        return
    if not arrival.is_conflict and outcome in (Outcome.QUARANTINED, Outcome.ALREADY_IN_QUARANTINE):
        return  # by a mismatch: that is counted
    happened[outcome.name.lower()] += 1
    if outcome is Outcome.QUARANTINE_FULL:
        _LOG.error(
            "%s refused, %s and the quarantine is full; asyncdicom archive %s quarantine list shows what is "
            "there",
            uid,
            "it conflicts with another instance" if arrival.is_conflict else arrival.mismatch,
            directory,
        )
    elif outcome.heals:
        _LOG.warning("%s was missing or damaged on the disk: the same bytes came again", uid)
    elif outcome is Outcome.SUPERSEDED:
        _LOG.warning("%s: %s", uid, outcome.value)
    elif outcome is not Outcome.SAME and outcome is not Outcome.REFUSED:
        _LOG.warning("%s conflicts with another instance: %s", uid, outcome.value)


def _tell_kept(uid: str, arrival: Arrival, outcome: Outcome, happened: Counter[str]) -> None:
    if arrival.is_incomplete:
        happened["incomplete"] += 1
        _LOG.warning("%s ends within an element: kept, and marked as incomplete", uid)
    if arrival.is_strange:
        happened["strange"] += 1
        _LOG.warning("%s has elements that cannot be read: kept as it came, without them in the index", uid)
    if arrival.mismatch:
        happened["mismatch"] += 1
        where = "in quarantine" if outcome in _ASIDE else "kept under its own Patient ID"
        _LOG.warning("%s: %s: %s", uid, arrival.mismatch, where)
    if arrival.divides:
        happened["divided"] += 1
        _LOG.warning(
            "%s: its study is here with the Patient ID or its issuer written otherwise, or missing: queries "
            "list it once for each; `asyncdicom archive DIR reassign study %s --to ID` puts it together",
            uid,
            arrival.divides,
        )
