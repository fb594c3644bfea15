"""Event reports that are owed to others, as rows of the outbox: they survive the death of the process.

Each is sent on the association that asked for it, if that still stands, else on a new one to its AE title,
again and again, until it is taken or given up.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from random import random
from typing import Any, NamedTuple

from asyncdicom.archive.errors import ArchiveError, reason
from asyncdicom.archive.index.base import IndexFailed
from asyncdicom.archive.index.deliveries import Claimed, Settlement
from asyncdicom.archive.index.delivery_reader import DeliveryReader
from asyncdicom.archive.index.work import LEASE, State, Work
from asyncdicom.archive.outbox import Outbox
from asyncdicom.breaker import pause_after
from asyncdicom.data.reencode import reencode
from asyncdicom.exceptions import AssociationError, DataSetError, PresentationContextError
from asyncdicom.services.node import Delivery, OpenTo, report_on_new, report_on_same
from asyncdicom.services.references import off_the_loop, read
from asyncdicom.services.request import NormalizedUser, Request
from asyncdicom.services.responses import Response, encode_identifier
from asyncdicom.telemetry.log import Log
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN, STORAGE_COMMITMENT_PUSH_MODEL

__all__ = ["REPORT", "Reports", "promised_by"]

_LOG = Log("asyncdicom.archive")

REPORT = "report"
"""The kind of work that sends a report; its destination is an AE title."""

_CLAIMED = 4  # reports that are held in memory for one AE title
_AT_ONCE = 64  # AE titles that are reported to at the same time
_MOST, _MOST_OF_ONE = 10_000, 1000  # reports that are owed or were given up: altogether, and to one AE title
_COUNTED_AGAIN = 10.0  # seconds, before too many are counted again: an operator may have dropped some
_REFUSALS = 6  # how often a report is sent that is answered by a Failure
_FIRST_PAUSE, _LONGEST_PAUSE = 2.0, 900.0
_GIVEN_UP = 7 * 86400.0  # seconds for which nobody could be reached
_ELSEWHERE = 60.0  # seconds, when nobody serves under the AE title that has promised it

_NOT_SERVED = "nothing is served under the AE title that has promised it"


class Reports:
    """The reports of an open archive: one for all servers that serve it.

    `read` has a call made in a thread that may read the index.
    """

    def __init__(
        self,
        outbox: Outbox,
        reader: DeliveryReader,
        read: Callable[..., Awaitable[Any]],
        *,
        jitter: Callable[[], float] = random,
    ) -> None:
        self._outbox = outbox
        self._reader = reader
        self._read = read
        self._jitter = jitter
        self._open: dict[str, OpenTo[NormalizedUser]] = {}  # by our own AE title
        self._requests: dict[str, Request | None] = {}  # by the token of a report
        self._owed: Counter[str] = Counter()  # by AE title; those given up are in it
        self._added = Counter[str]()  # since it was last counted
        self._counted_at = 0.0
        self._asked = asyncio.Event()
        self._working: dict[str, asyncio.Task[None]] = {}
        self._sending: set[asyncio.Task[list[Settlement]]] = set()
        self._again: set[str] = set()
        self._room = asyncio.Semaphore(_AT_ONCE)
        self._looking: tuple[asyncio.Task[None], Callable[[], None]] | None = None

    def serve(self, ae_title: str, open_to: OpenTo[NormalizedUser]) -> None:
        """Send what was promised under an AE title of ours, from now on; `open_to` knows who is where."""
        self._open[ae_title] = open_to
        if self._looking is None:
            looking = asyncio.get_running_loop().create_task(self._look())
            self._looking = looking, self._outbox.subscribe(self._wake)
        self._asked.set()

    async def leave(self, ae_title: str) -> None:
        """Send nothing more under an AE title. What was being sent is sent again after the next start."""
        self._open.pop(ae_title, None)
        if self._open or self._looking is None:
            return
        (looking, unsubscribe), self._looking = self._looking, None
        unsubscribe()
        looking.cancel()
        for sending in self._sending:
            sending.cancel()  # not those that claim: what they are about to get has to be given back
        await asyncio.wait([looking, *self._working.values()])
        self._requests.clear()

    async def add(self, ae_title: str, delivery: Delivery) -> None:
        """Take a report over, for a server of ours; it is kept when this returns.

        Raises `ArchiveError` if too many are owed, or if it cannot be kept; it can be told the peer.
        """
        await self._check_room(delivery.destination)
        token = secrets.token_hex(8)
        payload = await off_the_loop(delivery.size, lambda: _encode(ae_title, token, delivery))
        promised: list[str] = []
        if self._outbox.is_shared:  # another process may delete what this one has just looked at
            promised = await off_the_loop(delivery.size, lambda: promised_by(payload))
        self._requests[token] = delivery.request
        try:
            work = [Work(REPORT, delivery.destination, payload=payload)]
            await self._outbox.enqueue(work, promised=promised)
        except (OSError, IndexFailed) as error:
            self._requests.pop(token, None)
            _LOG.error("a report to %s cannot be kept: %s", delivery.destination, reason(error))
            raise ArchiveError("the report cannot be kept: try again later") from error
        self._owed[delivery.destination] += 1
        self._added[delivery.destination] += 1
        self._begin(delivery.destination)

    async def _check_room(self, destination: str) -> None:
        if not self._is_full(destination):
            return
        now = asyncio.get_running_loop().time()
        if now - self._counted_at >= _COUNTED_AGAIN:
            await self._count()
        if self._is_full(destination):
            _LOG.warning(
                "too many reports are owed: one more to %s is refused; asyncdicom outbox list shows them, "
                "drop ends those that nobody waits for",
                destination,
            )
            raise ArchiveError("too many reports wait")

    def _is_full(self, destination: str) -> bool:
        return self._owed[destination] >= _MOST_OF_ONE or self._owed.total() >= _MOST

    async def _count(self) -> None:
        self._counted_at = asyncio.get_running_loop().time()
        self._added = added = Counter[str]()
        counted = await self._read(self._reader.numbers, REPORT)
        self._owed = counted + added  # which may be among those: better one too many than one forgotten

    # who is reported to

    def _wake(self, destinations: Mapping[str, int] | None) -> None:
        """Something is due, or an operator has said so; what is new is begun by who has brought it."""
        if destinations is None and (self._owed or self._outbox.is_shared):
            self._asked.set()

    async def _look(self) -> None:
        """Report to all to whom something is due, whenever there may be something."""
        is_counted = False
        while True:
            try:
                if not is_counted:
                    await self._count()
                    is_counted = True
                await self._asked.wait()
                self._asked.clear()
                if self._outbox.is_shared:  # what a process owes that is gone, others send
                    await self._count()
                    self._forget_requests()
                for name in await self._read(self._reader.ready_of, REPORT, list(self._owed)):
                    self._begin(name)
            except (ArchiveError, IndexFailed) as error:
                _LOG.error("the reports that are owed cannot be looked at: %s", error)
                await asyncio.sleep(_FIRST_PAUSE)
                self._asked.set()

    def _forget_requests(self) -> None:
        """Forget the oldest requests: another process may have sent their reports."""
        while len(self._requests) > _MOST_OF_ONE:
            del self._requests[next(iter(self._requests))]

    def _begin(self, name: str) -> None:
        self._again.add(name)
        if name not in self._working and self._open:
            self._working[name] = asyncio.get_running_loop().create_task(self._work(name))

    async def _work(self, name: str) -> None:
        """Send what is ready for an AE title."""
        try:
            async with self._room:
                while self._open and name in self._again:
                    self._again.discard(name)
                    while self._open and (claimed := await self._outbox.claim(REPORT, name, _CLAIMED)):
                        await self._settle(name, await self._sent(claimed))
        except Exception as error:  # what is leased is free again after a while
            _LOG.error("the reports to %s have to wait: %s", name, reason(error))
        finally:
            del self._working[name]  # at once: whoever begins it now has to find that it has ended

    async def _sent(self, claimed: Sequence[Claimed]) -> list[Settlement]:
        """Send some reports; gives what became of them. Their leases are renewed meanwhile."""
        sending = asyncio.get_running_loop().create_task(self._send_all(claimed))
        self._sending.add(sending)
        if not self._open:  # it ended while these were claimed
            sending.cancel()
        try:
            while not (await asyncio.wait((sending,), timeout=LEASE / 3))[0]:
                await self._outbox.renew([each.id for each in claimed])
        finally:
            self._sending.discard(sending)
        if not sending.cancelled():
            return sending.result()
        return [Settlement(each.id, State.READY, 0.0, each.attempts) for each in claimed]

    async def _settle(self, name: str, settlements: Sequence[Settlement]) -> None:
        await self._outbox.settle(settlements)
        self._owed[name] -= sum(each.state is State.DONE for each in settlements)
        if self._owed[name] <= 0:
            del self._owed[name]

    # sending

    async def _send_all(self, claimed: Sequence[Claimed]) -> list[Settlement]:
        settlements: list[Settlement] = []
        reports: list[tuple[Claimed, _Report]] = []
        for each in claimed:
            try:
                reports.append((each, _decode(each)))
            except (ValueError, TypeError, KeyError, zlib.error):
                comment, now = "its row cannot be understood", self._outbox.clock()
                settlements.append(Settlement(each.id, State.FAILED, now, each.attempts, comment=comment))
        first = [report_on_same(report.delivery(self._requests)) for _, report in reports]
        on_same = await asyncio.gather(*first)
        unreachable: object | None = None
        for (each, report), why in zip(reports, on_same, strict=True):
            if why is not None and unreachable is None:
                why = await self._send_on_new(report)
                unreachable = why if isinstance(why, AssociationError | OSError) else None
            elif why is not None:
                why = unreachable
            self._requests.pop(report.token, None)
            settlements.append(self._settlement(each, report, why))
        return settlements

    async def _send_on_new(self, report: _Report) -> object | None:
        open_to = self._open.get(report.sender)
        return _NOT_SERVED if open_to is None else await report_on_new(open_to, report.delivery({}))

    def _settlement(self, claimed: Claimed, report: _Report, why: object | None) -> Settlement:
        """Say what becomes of a report that was not delivered, because of `why`, or was (None)."""
        now = self._outbox.clock()
        attempts = claimed.attempts
        if why is None:
            return Settlement(claimed.id, State.DONE, now, attempts + 1, is_forgotten=True)
        if why is _NOT_SERVED and not self._open:  # all servers have just ended: it waits for the next one
            return Settlement(claimed.id, State.READY, 0.0, attempts)
        since = claimed.first_error_at or now
        status = int(why.status) if isinstance(why, Response) else None
        if isinstance(why, Response | PresentationContextError):
            attempts += 1
            pause = self._jittered(pause_after(attempts, _FIRST_PAUSE, _LONGEST_PAUSE))
            is_over = attempts >= _REFUSALS
        elif isinstance(why, AssociationError | OSError):  # an outage uses nothing up
            pause = self._jittered(min(max(now - since, _FIRST_PAUSE), _LONGEST_PAUSE))
            is_over = now - since >= _GIVEN_UP
        else:
            pause, is_over = _ELSEWHERE, why is not _NOT_SERVED
        comment = (why.error_comment or "") if isinstance(why, Response) else str(why) or type(why).__name__
        state = State.FAILED if is_over else State.WAITING
        _LOG.warning(
            "the report of %s (event %d) to %s was not delivered: %s; %s",
            report.sop_instance_uid,
            report.event_type_id,
            claimed.destination,
            comment if status is None else f"status 0x{status:04X}",
            "it is given up" if is_over else f"tried again in {pause:.0f} s",
        )
        return Settlement(claimed.id, state, now if is_over else now + pause, attempts, status, comment, now)

    def _jittered(self, pause: float) -> float:
        return pause * (0.5 + self._jitter() / 2)


# as it is kept


class _Report(NamedTuple):
    """A report as its row has it. `sender`: the AE title of ours that has promised it."""

    sender: str
    token: str
    destination: str
    sop_class_uid: str
    sop_instance_uid: str
    event_type_id: int
    information: bytes
    is_encoded: bool

    def delivery(self, requests: Mapping[str, Request | None]) -> Delivery:
        """Give it as it is sent: on the association of its request, if that is among these."""
        information = self.information

        def encoded(transfer_syntax_uid: str) -> bytes:
            if transfer_syntax_uid == EXPLICIT_VR_LITTLE_ENDIAN:
                return information
            return reencode(information, EXPLICIT_VR_LITTLE_ENDIAN, transfer_syntax_uid)

        return Delivery(
            self.destination,
            self.sop_class_uid,
            self.sop_instance_uid,
            self.event_type_id,
            information if self.is_encoded else encoded,
            size=len(information),
            request=requests.get(self.token),
        )


def _encode(sender: str, token: str, delivery: Delivery) -> str:
    """Give the payload of a row. Bytes stay as they are; all else is kept in Explicit VR Little Endian."""
    information = delivery.information
    is_encoded = isinstance(information, bytes)
    if callable(information):
        data = information(EXPLICIT_VR_LITTLE_ENDIAN)
    else:
        data = encode_identifier(information, EXPLICIT_VR_LITTLE_ENDIAN)
    return json.dumps(
        {
            "sender": sender,
            "token": token,
            "sop_class_uid": delivery.sop_class_uid,
            "sop_instance_uid": delivery.sop_instance_uid,
            "event_type_id": delivery.event_type_id,
            "information": base64.b85encode(zlib.compress(data)).decode("ascii"),
            "is_encoded": is_encoded,
        }
    )


def _decode(claimed: Claimed) -> _Report:
    return _read(claimed.destination, claimed.payload or "")


def _read(destination: str, text: str) -> _Report:
    payload = json.loads(text)
    payload["information"] = zlib.decompress(base64.b85decode(payload["information"]))
    return _Report(destination=destination, **payload)


def promised_by(payload: str) -> list[str]:
    """Give the SOP Instance UIDs that a report, by the payload of its row, says are committed."""
    try:
        report = _read("", payload)
        if report.sop_class_uid != STORAGE_COMMITMENT_PUSH_MODEL:
            return []
        said = read(report.information, EXPLICIT_VR_LITTLE_ENDIAN)
    except (ValueError, TypeError, KeyError, zlib.error, DataSetError):
        return []  # it cannot be sent, either
    return [each.sop_instance_uid for each in said.referenced]
