"""`Node`: what a service may use of its server; and the queue of reports that have yet to be sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Generic, NamedTuple, Protocol, TypeAlias, TypeVar

from asyncdicom.dimse.messages import CommandField
from asyncdicom.exceptions import AssociationError, DicomNetworkError, PresentationContextError, StatusError
from asyncdicom.services.contexts import DEFAULT_TRANSFER_SYNTAXES
from asyncdicom.services.references import off_the_loop
from asyncdicom.services.request import NormalizedUser, Request
from asyncdicom.services.responses import Identifier, Response
from asyncdicom.status import Status
from asyncdicom.telemetry.log import Log
from asyncdicom.ul.negotiation import PresentationContext

__all__ = [
    "Delivery",
    "Node",
    "OpenTo",
    "ReportQueue",
    "Reports",
    "report_on_new",
    "report_on_same",
]

log = Log("asyncdicom.services")

_Association = TypeVar("_Association")

OpenTo: TypeAlias = Callable[
    [str, Sequence[PresentationContext]], "AbstractAsyncContextManager[_Association] | None"
]
"""Opens an association to an AE title; None if nobody knows where it is."""


class Delivery(NamedTuple):
    """An N-EVENT-REPORT that is owed to somebody (PS3.7 10.1.1).

    `destination`: the AE title it is for. `information`: the Event Information, as a data set or as a
    function that encodes it for a transfer syntax; `size`: about how many bytes that is. `request`: the one
    that it answers; its association is tried first, once the response has left.
    """

    destination: str
    sop_class_uid: str
    sop_instance_uid: str
    event_type_id: int
    information: Identifier | Callable[[str], bytes]
    size: int = 1000
    request: Request | None = None


class Reports(Protocol):
    """Who takes over reports that are owed."""

    async def add(self, delivery: Delivery) -> None:
        """Take a report; `StatusError` if that cannot be. When this returns, it will be sent."""


class Node(Generic[_Association]):
    """The server as its services see it.

    `ae_title`: ours. `open`: opens an association to an AE title that the server knows (a C-MOVE destination)
    for presentation contexts, which say our roles; None if it knows no address. `report`: takes over an event
    report that will be sent; a success that promises a later report leaves after it has returned. `time`: the
    clock, in seconds.
    """

    __slots__ = ("_reports", "ae_title", "open", "time")

    def __init__(
        self, ae_title: str, open_to: OpenTo[_Association], reports: Reports, time: Callable[[], float]
    ) -> None:
        self.ae_title = ae_title
        self.open = open_to
        self.time = time
        self._reports = reports

    async def report(self, delivery: Delivery) -> None:
        """Take over a report. Raises `StatusError` (0x0213) if too many wait.

        Unless a service has said `report_by`, the reports wait in memory: those that could not be sent are
        lost when the server ends, with a line in the log for each.
        """
        await self._reports.add(delivery)

    def report_by(self, reports: Reports) -> None:
        """Have the reports of all services taken over by others, from now on: those that keep them."""
        self._reports = reports


class ReportQueue:
    """Event reports in memory: each is tried on the association of its request, then on new ones.

    `maximum`, `maximum_size`: how many may wait, and how many bytes of them. `delays`: seconds before each
    further attempt; after the last one a report is given up, with an error in the log.
    """

    def __init__(
        self,
        open_to: OpenTo[NormalizedUser],
        *,
        maximum: int = 1000,
        maximum_size: int = 16 << 20,
        delays: Sequence[float] = (0.0, 1.0, 5.0, 30.0, 120.0, 600.0),
    ) -> None:
        self._open = open_to
        self._maximum = maximum
        self._maximum_size = maximum_size
        self._size = 0
        self._delays = tuple(delays)
        self._tasks: dict[asyncio.Task[None], Delivery] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    async def add(self, delivery: Delivery) -> None:
        """Take a report; `StatusError` if too many wait."""
        if len(self._tasks) >= self._maximum or self._size + delivery.size > self._maximum_size:
            log.warning("%d reports wait: one more for %s is refused", len(self._tasks), delivery.destination)
            raise StatusError(Response(Status.RESOURCE_LIMITATION, error_comment="too many reports wait"))
        task = asyncio.get_running_loop().create_task(self._deliver(delivery))
        self._tasks[task] = delivery._replace(request=None)  # the association may be over long before
        self._size += delivery.size
        task.add_done_callback(self._settled)

    def _settled(self, task: asyncio.Task[None]) -> None:
        self._size -= self._tasks.pop(task).size

    async def close(self) -> None:
        """Give up what has not been sent, and say so."""
        for task, delivery in list(self._tasks.items()):
            log.error("the report of %s to %s is lost: the server ends", *_what(delivery))
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks))

    async def _deliver(self, delivery: Delivery) -> None:
        reason = await report_on_same(delivery)
        if reason is None:
            return
        delivery = delivery._replace(request=None)
        for delay in self._delays:
            await asyncio.sleep(delay)
            reason = await report_on_new(self._open, delivery)
            if reason is None:
                return
            log.warning("the report of %s to %s was not delivered: %s", *_what(delivery), reason)
            if reason is _NO_ADDRESS:
                break
        log.error("the report of %s to %s is given up: %s", *_what(delivery), reason)


_NO_ADDRESS = "its address is not known here"


async def report_on_same(delivery: Delivery) -> object | None:
    """Send a report on the association of its request; gives why it was not delivered, or None."""
    request = delivery.request
    if request is None:
        return "there is no association"
    if request.incoming.task is not None:
        await asyncio.wait([request.incoming.task])  # the response leaves first
    return await _send(request.association, delivery)


async def report_on_new(open_to: OpenTo[NormalizedUser], delivery: Delivery) -> object | None:
    """Send a report on an association that is opened for it; as `_send`."""
    sop_class = delivery.sop_class_uid
    context = PresentationContext(sop_class, DEFAULT_TRANSFER_SYNTAXES, scu_role=False, scp_role=True)
    opening = open_to(delivery.destination, [context])
    if opening is None:
        return _NO_ADDRESS
    try:
        async with opening as association:
            return await _send(association, delivery)
    except (AssociationError, OSError) as error:
        return error


async def _send(association: NormalizedUser, delivery: Delivery) -> object | None:
    """Send a report; gives why it was not delivered (an exception, or the response), or None."""
    context, information = None, delivery.information
    try:
        if callable(information):
            context = association.context_for(delivery.sop_class_uid, CommandField.N_EVENT_REPORT_RQ)
            encode, syntax = information, context.transfer_syntax
            information = await off_the_loop(delivery.size, lambda: encode(syntax))
        response = await association.n_event_report(
            delivery.sop_class_uid,
            delivery.sop_instance_uid,
            delivery.event_type_id,
            information,
            context=context,
        )
    except (AssociationError, PresentationContextError) as error:
        return error
    except DicomNetworkError as error:
        log.error("the report of %s to %s cannot be sent: %s", *_what(delivery), error)
        return error
    return response if response.status.is_failure else None


def _what(delivery: Delivery) -> tuple[str, str]:
    return f"{delivery.sop_instance_uid} (event {delivery.event_type_id})", delivery.destination
