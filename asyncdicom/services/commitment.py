"""Storage Commitment Push Model, in both roles (PS3.4 Annex J)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from asyncdicom.dimse.messages import CommandField
from asyncdicom.exceptions import AssociationTimeout, DataSetError
from asyncdicom.services.node import Delivery, Node
from asyncdicom.services.references import (
    REFERENCED_SOP_SEQUENCE,
    TRANSACTION_UID,
    Commitment,
    Reference,
    off_the_loop,
    read,
    write,
)
from asyncdicom.services.request import NormalizedUser, Request
from asyncdicom.services.responses import Answer, Response
from asyncdicom.services.service import Service
from asyncdicom.status import Status
from asyncdicom.telemetry.log import Log
from asyncdicom.uid import STORAGE_COMMITMENT_PUSH_MODEL, new_uid

__all__ = [
    "COMMITMENT_INSTANCE",
    "CommitmentCheck",
    "CommitmentResult",
    "Reference",
    "StorageCommitment",
    "StorageCommitmentUser",
]

log = Log("asyncdicom.services")

COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"
"""The well-known SOP Instance that every request and report is about (PS3.4 J.3.5)."""

_REQUEST_COMMITMENT = 1  # Action Type ID (PS3.4 J.3.2)
_ALL_COMMITTED, _FAILURES_EXIST = 1, 2  # Event Type IDs (PS3.4 J.3.3)
_SIZE = 120  # bytes of one reference, about
_NOT_HERE = int(Status.NO_SUCH_OBJECT_INSTANCE)


class CommitmentResult(NamedTuple):
    """What a report says: what the peer keeps, and why it does not keep the rest.

    `failed`: reference -> Failure Reason (PS3.3 C.14.1.1): 0x0110 processing failure, 0x0112 no such
    instance, 0x0119 class-instance conflict, 0x0122 SOP class not supported, 0x0131 duplicate transaction,
    0x0213 resource limitation. `missing`: what was asked for, and the report says nothing about: it is not
    committed.
    """

    transaction_uid: str
    committed: frozenset[Reference]
    failed: Mapping[Reference, int]
    missing: frozenset[Reference] = frozenset()

    @property
    def is_complete(self) -> bool:
        """Whether the peer has taken responsibility for all that was asked for."""
        return not self.failed and not self.missing


CommitmentCheck: TypeAlias = Callable[
    [Request, tuple[Reference, ...]], Awaitable["Collection[Reference] | Mapping[Reference, int]"]
]
"""Says which of the references are safe: those, or reference -> 0 or the reason (see
`CommitmentResult.failed`).

What is left out is not committed.
"""


class StorageCommitment(Service):
    """Takes responsibility for instances, as the SCP: `check`, a coroutine function, says for which.

    The request is answered when `check` has answered; the result follows as an N-EVENT-REPORT, first on the
    same association, then on one to the caller, if the server knows its address (`serve(destinations=...)` or
    `access`). An archive keeps the report until it is delivered; elsewhere one that could not be is lost when
    the server ends, and the caller may ask again. An access policy calls the service "commitment".
    """

    name = "commitment"
    sop_classes = (STORAGE_COMMITMENT_PUSH_MODEL,)
    commands = frozenset({CommandField.N_ACTION_RQ})

    def __init__(self, check: CommitmentCheck, *, maximum_references: int = 50_000) -> None:
        self._check = check
        self._maximum = maximum_references
        self._node: Node[Any] | None = None

    async def start(self, node: Node[Any]) -> None:
        """Remember who takes the reports."""
        self._node = node

    async def perform(self, request: Request) -> Answer:
        """Check what is asked for, and have the result reported (PS3.4 J.3.2)."""
        if self._node is None:
            return Response(Status.PROCESSING_FAILURE, error_comment="no reports can be sent from here")
        if request.sop_instance_uid != COMMITMENT_INSTANCE:
            return Status.NO_SUCH_OBJECT_INSTANCE
        if request.action_type_id != _REQUEST_COMMITMENT:
            return Status.NO_SUCH_ACTION
        transaction_uid, references, _ = await request.guard(_read(request))
        if not transaction_uid or not references:
            tag = REFERENCED_SOP_SEQUENCE if transaction_uid else TRANSACTION_UID
            return Response(Status.INVALID_ARGUMENT_VALUE, offending_elements=[tag])
        if len(references) > self._maximum:
            comment = f"more than {self._maximum} references"
            return Response(Status.RESOURCE_LIMITATION, error_comment=comment)
        failed = _failures(references, await request.guard(self._check(request, references)))
        await self._node.report(
            Delivery(
                destination=request.calling_ae_title,
                sop_class_uid=STORAGE_COMMITMENT_PUSH_MODEL,
                sop_instance_uid=COMMITMENT_INSTANCE,
                event_type_id=_FAILURES_EXIST if failed else _ALL_COMMITTED,
                information=partial(write, _report(transaction_uid, references, failed)),
                size=_SIZE * len(references),
                request=request,
            )
        )
        log.info(
            "%s: storage commitment %s: %d asked for, %d refused",
            request.association,
            transaction_uid,
            len(references),
            len(failed),
        )
        return Status.SUCCESS


class StorageCommitmentUser(Service):
    """Asks for storage commitment, and takes the reports, as the SCU.

        commitment = StorageCommitmentUser()
        contexts = [STORAGE_COMMITMENT_PUSH_MODEL]
        async with associate(address, contexts=contexts, services=[commitment]) as association:
            result = await commitment.commit(association, references, timeout=30)

    The same object may also be one of the `services` of a `serve`: then a report may come on an association
    that the peer opens. `on_result`, a coroutine function of the request and the result, gets what no
    `commit` waits for (a report that comes days later); without it such a report is refused, and the peer may
    try again.
    """

    name = "commitment user"
    permission = "commitment"
    sop_classes = (STORAGE_COMMITMENT_PUSH_MODEL,)
    commands = frozenset({CommandField.N_EVENT_REPORT_RQ})
    as_scu = True

    def __init__(
        self, on_result: Callable[[Request, CommitmentResult], Awaitable[object]] | None = None
    ) -> None:
        self._on_result = on_result
        self._waiting: dict[str, tuple[frozenset[Reference], asyncio.Future[CommitmentResult]]] = {}

    async def commit(
        self,
        association: NormalizedUser,
        references: Iterable[Reference | tuple[str, str]],
        *,
        transaction_uid: str | None = None,
        timeout: float | None = 60.0,
    ) -> CommitmentResult:
        """Ask the peer to keep instances, and wait for its report (PS3.4 J.3.2, J.3.3).

        `references`: SOP Class UID and SOP Instance UID of each. `transaction_uid`: by default a new one.
        `timeout`: seconds to wait for the report once the request was accepted; None waits for ever.

        Raises `StatusError` if the request is refused, `AssociationTimeout` (`which` is "report") if no
        report came in time, ValueError for no references, and what `Association.n_action` raises. Cancelled:
        the report goes to `on_result`.
        """
        asked = frozenset(Reference(*reference) for reference in references)
        if not asked:
            raise ValueError("storage commitment is asked for at least one instance")
        uid = transaction_uid or new_uid()
        if uid in self._waiting:
            raise ValueError(f"the transaction {uid} is under way; a new request needs a new UID")
        report: asyncio.Future[CommitmentResult] = asyncio.get_running_loop().create_future()
        self._waiting[uid] = asked, report
        try:
            context = association.context_for(STORAGE_COMMITMENT_PUSH_MODEL, CommandField.N_ACTION_RQ)
            request = Commitment(uid, tuple(sorted(asked)), {})
            information = await off_the_loop(
                _SIZE * len(asked), lambda: write(request, context.transfer_syntax)
            )
            response = await association.n_action(
                STORAGE_COMMITMENT_PUSH_MODEL,
                COMMITMENT_INSTANCE,
                _REQUEST_COMMITMENT,
                information,
                context=context,
            )
            response.raise_for_status()
            async with asyncio.timeout(timeout):
                return await report
        except TimeoutError as error:
            if isinstance(error, AssociationTimeout):
                raise
            message = f"{association}: no report about the transaction {uid} came within {timeout:g} s"
            raise AssociationTimeout(message, which="report") from None
        finally:
            del self._waiting[uid]

    async def perform(self, request: Request) -> Answer:
        """Take a report."""
        if request.sop_instance_uid != COMMITMENT_INSTANCE:
            return Status.NO_SUCH_OBJECT_INSTANCE
        if request.event_type_id not in (_ALL_COMMITTED, _FAILURES_EXIST):
            return Status.NO_SUCH_EVENT_TYPE
        reported = await request.guard(_read(request))
        uid = reported.transaction_uid
        if not uid:
            return Response(Status.INVALID_ARGUMENT_VALUE, offending_elements=[TRANSACTION_UID])
        asked, report = self._waiting.get(uid, (frozenset(), None))
        result = _result(reported, asked)
        if report is not None and not report.done():
            report.set_result(result)
        elif self._on_result is not None:
            await request.guard(self._on_result(request, result))
        else:
            log.warning(
                "%s: a report about a transaction that nobody waits for: %s", request.association, uid
            )
            return Response(Status.PROCESSING_FAILURE, error_comment="nobody waits for this transaction")
        return Status.SUCCESS


async def _read(request: Request) -> Commitment:
    """Read what a request or a report says."""
    data = await request.data.read()
    try:
        return await off_the_loop(len(data), lambda: read(data, request.transfer_syntax_uid))
    except DataSetError as error:
        request.data.unreadable = error
        raise


def _failures(references: tuple[Reference, ...], verdict: Any) -> dict[Reference, int]:
    """Which references are not kept, and why: whatever was not said to be safe."""
    if isinstance(verdict, Mapping):
        reasons = {reference: int(verdict.get(reference, _NOT_HERE)) for reference in references}
    elif isinstance(verdict, Collection) and not isinstance(verdict, (str, bytes)):
        reasons = {reference: 0 if reference in verdict else _NOT_HERE for reference in references}
    else:
        raise TypeError(f"a commitment check returns the references that are safe, not {verdict!r:.100}")
    return {reference: reason for reference, reason in reasons.items() if reason}


def _report(
    transaction_uid: str, references: tuple[Reference, ...], failed: Mapping[Reference, int]
) -> Commitment:
    kept = tuple(reference for reference in references if reference not in failed)
    return Commitment(transaction_uid, kept, failed)


def _result(reported: Commitment, asked: frozenset[Reference]) -> CommitmentResult:
    # What stands in both is not kept: nobody deletes what may be the only copy.
    committed = frozenset(reported.referenced) - reported.failed.keys()
    missing = asked - committed - reported.failed.keys()
    return CommitmentResult(reported.transaction_uid, committed, reported.failed, missing)
