"""The C-STORE sub-operations of a C-GET or C-MOVE (PS3.4 C.4.2, C.4.3).

`SubOperations` has their numbers and the final Status; `Route` and `Attempts` say which of them may be begun
where, and which have to be begun once more.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

from asyncdicom.status import Status

__all__ = ["Attempt", "Attempts", "Route", "SubOperations"]

_Item = TypeVar("_Item")

_MAXIMUM_LIST = 65534  # bytes of an explicit UI
_MAXIMUM_NUMBER = 0xFFFF  # the numbers travel as US
_MAXIMUM_LOSSES = 1  # of its associations, that one sub-operation survives


class SubOperations:
    """Counts the sub-operations of one retrieval; `total` is how many there will be."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.number_of_completed = 0
        self.number_of_failed = 0
        self.number_of_warning = 0
        self.failed_uids = bytearray()
        """Failed SOP Instance UID List (0008,0058); what does not fit into it is only counted."""

    def completed(self) -> None:
        """Count one that ended in Success."""
        self.number_of_completed += 1

    def failed(self, uid: str) -> None:
        """Count one that failed, by its SOP Instance UID (empty: nobody knows it)."""
        self.number_of_failed += 1
        if uid and len(self.failed_uids) + 1 + len(uid) <= _MAXIMUM_LIST:
            if self.failed_uids:
                self.failed_uids += b"\\"
            self.failed_uids += uid.encode("ascii", "replace")

    def warned(self) -> None:
        """Count one that ended in a Warning."""
        self.number_of_warning += 1

    @property
    def number_of_remaining(self) -> int:
        """How many have not ended: they are to come, or were never begun."""
        ended = self.number_of_completed + self.number_of_failed + self.number_of_warning
        return max(self.total - ended, 0)

    def counters(self, *, remaining: bool = True) -> dict[str, int]:
        """The numbers as attributes of a Command.

        A Pending response shall contain the number of remaining ones and a Canceled one may; Success, Warning
        and Failure shall not (PS3.4 C.4.2.1.6): there `remaining=False`.
        """
        numbers = {
            "number_of_completed_sub_operations": self.number_of_completed,
            "number_of_failed_sub_operations": self.number_of_failed,
            "number_of_warning_sub_operations": self.number_of_warning,
        }
        if remaining:
            numbers["number_of_remaining_sub_operations"] = self.number_of_remaining
        return {name: min(number, _MAXIMUM_NUMBER) for name, number in numbers.items()}

    def final_status(self, cancelled: bool = False) -> int:
        """The Status of the final response (PS3.4 C.4.2.3.1); what never ended counts as a failure."""
        if cancelled:
            return Status.CANCEL
        unsuccessful = self.number_of_failed + self.number_of_remaining
        if not unsuccessful and not self.number_of_warning:
            return Status.SUCCESS
        if self.number_of_completed or self.number_of_warning:
            return Status.SUB_OPERATIONS_WARNING
        return Status.UNABLE_TO_PERFORM_SUB_OPERATIONS


class Attempt(Generic[_Item]):
    """One sub-operation; `losses`: how often its association was lost before it was answered."""

    __slots__ = ("item", "losses")

    def __init__(self, item: _Item) -> None:
        self.item = item
        self.losses = 0

    @property
    def is_alone(self) -> bool:
        """Whether no other may be under way beside it.

        Of those that were under way when an association was lost, nobody knows which one the peer could not
        take: done one at a time, it takes no other with it.
        """
        return self.losses > 0


class Route(Generic[_Item]):
    """The sub-operations on one association; `window`: how many may be under way (PS3.7 D.3.3.3).

    At most one of them is being sent: messages leave one after another, and what has not left need not be
    begun after a C-CANCEL.
    """

    __slots__ = ("_sending", "is_lost", "under_way", "window")

    def __init__(self, window: int) -> None:
        self.window = window
        self.under_way: list[Attempt[_Item]] = []
        self.is_lost = False
        self._sending: Attempt[_Item] | None = None

    def has_room(self, attempt: Attempt[_Item]) -> bool:
        """Whether this one may be begun here now."""
        under_way = self.under_way
        if self.is_lost or self._sending is not None:
            return False
        if attempt.is_alone:
            return not under_way
        return len(under_way) < self.window and not (under_way and under_way[0].is_alone)

    def begin(self, attempt: Attempt[_Item]) -> None:
        """It is being sent."""
        self._sending = attempt
        self.under_way.append(attempt)

    def sent(self, attempt: Attempt[_Item]) -> None:
        """Its last byte has left: the next one may be begun."""
        if self._sending is attempt:
            self._sending = None

    def ended(self, attempt: Attempt[_Item]) -> None:
        """It was answered, or is given up."""
        self.sent(attempt)
        self.under_way.remove(attempt)


class Attempts(Generic[_Item]):
    """What has to be begun once more, because its association was lost; it comes before anything new."""

    __slots__ = ("_again",)

    def __init__(self) -> None:
        self._again: deque[Attempt[_Item]] = deque()

    def __bool__(self) -> bool:
        return bool(self._again)

    def take(self) -> Attempt[_Item]:
        """Give the next one."""
        return self._again.popleft()

    def put_back(self, attempt: Attempt[_Item]) -> None:
        """It could not be begun: it is the next one again."""
        self._again.appendleft(attempt)

    def lost(self, attempt: Attempt[_Item]) -> bool:
        """The association was lost before it was answered: whether it is begun once more, or has failed.

        Once more and alone; lost a second time, it has failed.
        """
        attempt.losses += 1
        if attempt.losses > _MAXIMUM_LOSSES:
            return False
        self._again.append(attempt)
        return True
