"""What is on its way into the index, and how whoever waits for it is answered."""

from __future__ import annotations

import asyncio
import enum
import queue
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from asyncdicom.archive.blobs.base import NewBlob, State
from asyncdicom.archive.blobs.files import StoredFile
from asyncdicom.archive.index.base import FileEntry, Uncertain, entry_of
from asyncdicom.archive.index.record import Record
from asyncdicom.archive.index.work import Work
from asyncdicom.data.likeness import Likeness
from asyncdicom.net.threads import Ending

__all__ = [
    "Answer",
    "Arrival",
    "Found",
    "OnConflict",
    "OnMismatch",
    "Outcome",
    "Rules",
    "deliver",
]


class OnConflict(enum.Enum):
    """What becomes of an instance whose SOP Instance UID is taken by other bytes."""

    QUARANTINE = "quarantine"
    KEEP = "keep"
    REPLACE = "replace"


class OnMismatch(enum.Enum):
    """What becomes of an instance whose ID is there twice, or whose study is that of another patient."""

    SEPARATE = "separate"
    QUARANTINE = "quarantine"


class Rules(NamedTuple):
    """What an archive does in cases of doubt."""

    on_conflict: OnConflict = OnConflict.QUARANTINE
    on_mismatch: OnMismatch = OnMismatch.SEPARATE


class Outcome(enum.Enum):
    """What became of an arrival."""

    STORED = "stored"
    REPLACED = "stored in place of another"
    HEALED = "stored in place of its own file, which was missing or damaged"
    ALREADY_HERE = "the same bytes are here already"
    SUPERSEDED = "stored in place of an incomplete copy, which is in quarantine now"
    SAME = "an instance with equal elements is here already"
    QUARANTINED = "in quarantine"
    ALREADY_IN_QUARANTINE = "the same bytes are in quarantine already"
    HEALED_IN_QUARANTINE = "in quarantine, in place of its own file, which was missing or damaged"
    QUARANTINE_FULL = "not kept: the quarantine is full"
    REFUSED = "the first stays, this one is not kept"
    WITHDRAWN = "withdrawn before its turn"
    UNTRUSTED = "a sync of its folder has failed"
    UNREADABLE = "not kept: it cannot be understood"
    WRONG = "not kept: it is not what it was said to be"
    NO_ROOM = "not kept: there is too little room, or disk or index failed"

    __hash__ = object.__hash__  # that of `Enum` is a function in Python, and is called for every instance

    @property
    def keeps(self) -> bool:
        """Tell whether the file of the arrival belongs to the index afterwards."""
        return self in _KEPT

    @property
    def is_here(self) -> bool:
        """Tell whether the instance is in the archive now, for queries too."""
        return self in _HERE

    @property
    def heals(self) -> bool:
        """Tell whether a file that was missing or damaged was replaced by its own bytes."""
        return self in (Outcome.HEALED, Outcome.HEALED_IN_QUARANTINE)


_KEPT = frozenset(
    {
        Outcome.STORED,
        Outcome.REPLACED,
        Outcome.SUPERSEDED,
        Outcome.HEALED,
        Outcome.QUARANTINED,
        Outcome.HEALED_IN_QUARANTINE,
    }
)


_HERE = frozenset(
    {
        Outcome.STORED,
        Outcome.REPLACED,
        Outcome.SUPERSEDED,
        Outcome.HEALED,
        Outcome.ALREADY_HERE,
        Outcome.SAME,
    }
)


Answer = Outcome | BaseException


class Arrival:
    """One instance on its way into the index, and the answer to whoever waits for it.

    Its record is there when its file is closed, and durable as far as promised.
    """

    record: Record
    file: NewBlob | StoredFile
    was_found = False  # in the archive's own folder, without a row
    is_incomplete = False  # it ends within an element
    is_strange = False  # it has elements that cannot be read
    has_row = False  # another process has found its file meanwhile, and indexed it
    is_conflict = False  # other data are here under its SOP Instance UID
    mismatch = ""  # why it is not clear whose it is
    divides = ""  # its study, if that is there with the same patient written otherwise
    work: Sequence[Work] = ()  # that it leads to, when it is stored

    def __init__(self, file: NewBlob, transfer_syntax_uid: str, calling_ae_title: str) -> None:
        self.file = file
        self.transfer_syntax_uid = transfer_syntax_uid
        self.calling_ae_title = calling_ae_title
        self.obsolete: str | None = None  # the file that this one has replaced
        self.looked: dict[str, State] = {}  # what was found where the files of rows were looked at
        self.compared: dict[str, Likeness] = {}  # and where they were compared with this one
        # A thread may be using the file, or the row be on its way to the disk, until the answer is there.
        self.answer: Ending[Outcome] = Ending(loop=asyncio.get_running_loop())

    @property
    def is_withdrawn(self) -> bool:
        """Tell whether nobody waits for the answer any more."""
        return self.answer.is_withdrawn

    def tell(self, answer: Answer) -> None:
        """Answer, from any thread."""
        deliver([(self, answer)])

    @property
    def is_kept(self) -> bool:
        """Tell whether the file belongs to the index now."""
        if not self._is_answered or self.answer.exception() is not None:
            return False
        return self.has_row or self.answer.result().keeps

    @property
    def is_uncertain(self) -> bool:
        """Tell whether nobody knows if the file belongs to the index."""
        return self._is_answered and isinstance(self.answer.exception(), Uncertain)

    @property
    def _is_answered(self) -> bool:
        return self.answer.done() and not self.answer.cancelled()

    def entry(self, name: str) -> FileEntry:
        """Give what the index is to say of the file, under a name."""
        return entry_of(
            self.file,
            name,
            self.transfer_syntax_uid,
            is_incomplete=self.is_incomplete,
            calling_ae_title=self.calling_ae_title,
        )


class Found(Arrival):
    """A file that lies in the archive's folder and has no row; a thread waits for the answer."""

    was_found = True
    is_withdrawn = False
    was_deleted = False  # its instance was, and this is another copy of it

    def __init__(
        self,
        file: StoredFile,
        transfer_syntax_uid: str,
        record: Record,
        *,
        in_quarantine: bool,
        is_incomplete: bool,
        calling_ae_title: str = "",
        work: Sequence[Work] = (),
    ) -> None:
        self.file = file
        self.transfer_syntax_uid = transfer_syntax_uid
        self.calling_ae_title = calling_ae_title
        self.work = work
        self.record = record
        self.in_quarantine = in_quarantine
        self.is_incomplete = is_incomplete
        self.obsolete = None
        self.looked = {}
        self.compared = {}
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()

    def tell(self, answer: Answer) -> None:
        """Answer, from any thread."""
        self._answers.put(answer)

    def wait(self) -> Answer:
        """Wait for the answer. Blocks."""
        return self._answers.get(True)


def deliver(answers: Iterable[tuple[Arrival, Answer]]) -> None:
    """Answer in the loops that wait: normally all in one, which is woken once."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Arrival, Answer]]] = {}
    for arrival, answer in answers:
        if arrival.was_found:
            arrival.tell(answer)
        else:
            by_loop.setdefault(arrival.answer.get_loop(), []).append((arrival, answer))
    for loop, group in by_loop.items():
        try:
            loop.call_soon_threadsafe(_set, group)
        except RuntimeError:  # the loop is closed: nobody waits any more
            continue


def _set(answers: Iterable[tuple[Arrival, Answer]]) -> None:
    for arrival, answer in answers:
        future = arrival.answer
        if future.done():
            continue
        if isinstance(answer, BaseException) and (
            isinstance(answer, StopIteration) or not isinstance(answer, Exception)
        ):  # a future does not take the first, and the others would end the loop
            answer = RuntimeError(type(answer).__name__)
        if isinstance(answer, BaseException):
            future.set_exception(answer)
        else:
            future.set_result(answer)
