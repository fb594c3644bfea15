"""The C-STORE sub-operations of a C-GET or C-MOVE: numbers and final Status (PS3.4 C.4.2, C.4.3)."""

from __future__ import annotations

from asyncdicom.status import Status

__all__ = ["SubOperations"]

_MAXIMUM_LIST = 65534  # bytes of an explicit UI
_MAXIMUM_NUMBER = 0xFFFF  # the numbers travel as US


class SubOperations:
    """Counts the sub-operations of one retrieval; `total` is how many there will be."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.number_of_completed = 0
        self.number_of_failed = 0
        self.number_of_warning = 0
        self.failed_uids: list[str] = []
        """For Failed SOP Instance UID List (0008,0058); what does not fit into one is only counted."""
        self._room = _MAXIMUM_LIST + 1
        self.warned_uids: list[str] = []

    def completed(self) -> None:
        """Count one that ended in Success."""
        self.number_of_completed += 1

    def failed(self, uid: str) -> None:
        """Count one that failed, by its SOP Instance UID (empty: nobody knows it)."""
        self.number_of_failed += 1
        self._room -= len(uid) + 1
        if uid and self._room >= 0:
            self.failed_uids.append(uid)

    def warned(self, uid: str) -> None:
        """Count one that ended in a Warning, by its SOP Instance UID."""
        self.number_of_warning += 1
        self.warned_uids.append(uid)

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
