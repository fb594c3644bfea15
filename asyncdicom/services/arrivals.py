"""How a retrieval of ours ended: what a C-GET brings is counted here, whatever the peer tells about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from asyncdicom.status import Status

if TYPE_CHECKING:
    from asyncdicom.dimse.messages import Command
    from asyncdicom.services.request import StoreHandler
    from asyncdicom.services.responses import Response

__all__ = ["MAXIMUM_REFUSED", "Arrivals", "RetrieveResult", "corrected"]

MAXIMUM_REFUSED = 10_000
"""So many instances of one C-GET may be refused here; then it is cancelled."""

_REMEMBERED = 1000


class RetrieveResult(NamedTuple):
    """How a C-GET or C-MOVE ended.

    Of a C-GET it tells what arrived here: what the handler refused has failed, and so has what the peer
    counts as sent and did not send; where the peer says Success to that, the status is 0xB000.
    """

    status: Status
    completed: int
    failed: int
    warning: int
    failed_sop_instance_uids: tuple[str, ...]
    error_comment: str | None = None
    """Why: the peer's Error Comment, or what was found here."""


class Arrivals:
    """The C-STORE sub-operations of one C-GET, as they were answered here.

    `handler` receives them; None: that of the association.
    """

    __slots__ = ("completed", "failed", "handler", "refused", "warned")

    def __init__(self, handler: StoreHandler | None) -> None:
        self.handler = handler
        self.completed = 0
        self.warned = 0
        self.failed = 0
        self.refused: dict[str, str] = {}
        """Instances that were answered with a Failure, by their UID, and why (the first of many)."""

    @property
    def is_hopeless(self) -> bool:
        """Whether so much was refused that no more should come (C-CANCEL)."""
        return self.failed >= MAXIMUM_REFUSED

    def answered(self, command: Command, response: Response) -> None:
        """Count one sub-operation by its final response."""
        status = response.status
        if status.is_success:
            self.completed += 1
        elif status.is_warning:
            self.warned += 1
        else:
            self.failed += 1
            uid = command.affected_sop_instance_uid or ""
            if len(self.refused) < _REMEMBERED:
                self.refused.setdefault(uid, response.error_comment or f"0x{status:04X}")


def corrected(told: RetrieveResult, arrivals: Arrivals, under_way: int) -> RetrieveResult:
    """Correct what the peer tells by what arrived; `under_way`: so many are still being received."""
    listed = told.failed_sop_instance_uids
    known = frozenset(listed)
    unlisted = [uid for uid in arrivals.refused if uid not in known]
    arrived = arrivals.completed + arrivals.warned + under_way
    # Whoever counts what we refused as sent counts too much, but not that it is missing.
    missing = (
        told.completed + told.warning - arrived - (arrivals.failed - len(arrivals.refused) + len(unlisted))
    )
    # What is missing may be what the peer counts as failed, too.
    failed = max(told.failed, len(listed) + len(unlisted), arrivals.failed + max(missing, 0))
    status, comment = told.status, told.error_comment
    if status.is_success and failed:
        status = Status.SUB_OPERATIONS_WARNING
    if comment is None and arrivals.refused:
        comment = f"{arrivals.failed} refused here: {next(iter(arrivals.refused.values()))}"
    elif comment is None and missing > 0:
        comment = f"{missing} that the peer counts as sent did not come"
    return RetrieveResult(status, arrivals.completed, failed, arrivals.warned, (*listed, *unlisted), comment)
