"""What getscu and movescu have in common: following the sub-operations, and the report at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from asyncdicom.cli.output import json_line, progress, status_fields, warn
from asyncdicom.cli.run import FAILED, OK
from asyncdicom.services.retrieve import RetrieveOperation, RetrieveResult
from asyncdicom.telemetry.text import printable

if TYPE_CHECKING:
    from asyncdicom.cli.receiver import Receiver

__all__ = ["Retrieved", "report", "retrieve"]


class Retrieved(NamedTuple):
    """How a C-GET or C-MOVE ended, and the peer's Error Comment."""

    result: RetrieveResult
    comment: str | None


async def retrieve(operation: RetrieveOperation) -> Retrieved:
    """Run a C-GET or C-MOVE, with a progress bar on a terminal. A Failure is a result, too."""
    from asyncdicom.exceptions import StatusError

    with progress("retrieving", None) as advance:
        done = 0
        try:
            async with operation:
                async for counters in operation:
                    now = sum(max(count, 0) for count in counters[1:])
                    if advance is not None:
                        advance(now - done, counters.total)
                    done = now
        except StatusError:
            pass
    comment = None if operation.response is None else operation.response.error_comment
    return Retrieved(operation.result, comment)


def report(retrieved: Sequence[Retrieved], receiver: Receiver | None, as_json: bool) -> int:
    """Print how it ended, and give the exit code."""
    results = [each.result for each in retrieved]
    comments = list(dict.fromkeys(each.comment for each in retrieved if each.comment))
    worst = max(
        (result.status for result in results), key=lambda status: (not status.is_success, status.is_failure)
    )
    completed = sum(result.completed for result in results)
    failed = sum(result.failed for result in results)
    warning = sum(result.warning for result in results)
    uids = [uid for result in results for uid in result.failed_sop_instance_uids]
    if as_json:
        counts = (
            {}
            if receiver is None
            else {"received": receiver.received, "bytes": receiver.bytes, "refused": receiver.refused}
        )
        json_line(
            **status_fields(worst),
            completed=completed,
            failed=failed,
            warning=warning,
            failed_sop_instance_uids=uids,
            **({"error_comment": "; ".join(comments)} if comments else {}),
            **counts,
        )
    else:
        for uid in uids:
            print(f"failed: {printable(uid)}")
        received = (
            "" if receiver is None else f", received {receiver.received} ({receiver.bytes / 1e6:.1f} MB)"
        )
        said = "".join(f", {printable(comment)}" for comment in comments)
        print(f"completed {completed}, warned {warning}, failed {failed}{received}, status {worst}{said}")
    is_nothing = not (completed or warning or failed or (receiver is not None and receiver.received))
    if is_nothing and worst.is_success:
        warn("nothing matched")
    if receiver is not None and receiver.refused:
        for uid, why in receiver.refused.items():
            if not as_json:
                print(f"refused: {printable(uid)}: {why}")
        return FAILED
    if is_nothing and not worst.is_success:  # 0xB000 without counters, too
        return FAILED
    return FAILED if failed or not (worst.is_success or worst.is_warning) else OK
