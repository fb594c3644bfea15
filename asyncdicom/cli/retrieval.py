"""What getscu and movescu have in common: following the sub-operations, and the report at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from asyncdicom.cli.output import json_line, progress, status_fields, warn
from asyncdicom.cli.run import FAILED, OK
from asyncdicom.services.retrieve import RetrieveOperation, RetrieveResult
from asyncdicom.telemetry.text import printable

if TYPE_CHECKING:
    from asyncdicom.cli.receiver import Receiver

__all__ = ["report", "retrieve"]


async def retrieve(operation: RetrieveOperation) -> RetrieveResult:
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
    return operation.result


def report(results: Sequence[RetrieveResult], receiver: Receiver | None, as_json: bool) -> int:
    """Print how it ended, and give the exit code."""
    comments = list(dict.fromkeys(each.error_comment for each in results if each.error_comment))
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
    elsewhere = 0 if receiver is None else completed + warning - receiver.received - len(receiver.refused)
    if elsewhere > 0:  # the counters are those of the peer (C-MOVE)
        warn(f"{elsewhere} that the peer counts as sent did not come here: see where it sends them to")
    if receiver is not None and receiver.refused:
        for uid, why in receiver.refused.items():
            if not as_json:
                print(f"refused: {printable(uid)}: {why}")
        return FAILED
    if is_nothing and not worst.is_success:  # 0xB000 without counters, too
        return FAILED
    return FAILED if failed or elsewhere > 0 or not (worst.is_success or worst.is_warning) else OK
