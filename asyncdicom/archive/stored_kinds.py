"""What is stored, by SOP class and transfer syntax: what a C-GET prefers to send by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from asyncdicom.archive.archive import Archive
from asyncdicom.archive.index.kinds import NEWEST
from asyncdicom.services.contexts import in_order
from asyncdicom.telemetry.log import Log
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN

__all__ = ["StoredKinds"]

log = Log("asyncdicom.archive")

# How many SOP classes, and transfer syntaxes of each, are counted: peers may invent any number.
_CLASSES_COUNTED, _SYNTAXES_COUNTED = 1000, 32


class StoredKinds:
    """About how many instances there are of each SOP class in each transfer syntax."""

    def __init__(self) -> None:
        self._stored: dict[str, Counter[str]] = {}
        self._unseen = 0  # instances that may be there and were not counted

    async def count(self, archive: Archive) -> None:
        """Begin with the newest that an archive has."""
        try:
            counted = await archive.recent_kinds()
        except Exception as error:  # nothing is lost by it: then the order is that of the requestor
            log.warning("what is stored cannot be counted by transfer syntax: %s", error)
            return
        self._unseen = int(counted.total() >= NEWEST)
        for kind, count in counted.items():
            self.note(*kind, count)

    def note(self, sop_class_uid: str, transfer_syntax_uid: str, count: int = 1) -> None:
        """Count instances that are stored; what comes again, and what is removed, makes no difference."""
        syntaxes = self._stored.get(sop_class_uid)
        if syntaxes is None:
            if len(self._stored) >= _CLASSES_COUNTED:
                return
            syntaxes = self._stored[sop_class_uid] = Counter()
        if transfer_syntax_uid in syntaxes or len(syntaxes) < _SYNTAXES_COUNTED:
            syntaxes[transfer_syntax_uid] += count

    def in_order(self, sop_class_uid: str, transfer_syntaxes: Sequence[str]) -> Sequence[str]:
        """Give transfer syntaxes of which one is taken for all that is sent, best first."""
        stored = Counter(self._stored.get(sop_class_uid))
        stored[EXPLICIT_VR_LITTLE_ENDIAN] += self._unseen
        return in_order(transfer_syntaxes, stored)
