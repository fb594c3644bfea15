"""Instances that nobody knew where to send are asked about again, when an operator says so."""

from __future__ import annotations

from dataclasses import replace

from asyncdicom.archive.archive import Archive
from asyncdicom.archive.index.deliveries import Claimed, Settlement
from asyncdicom.archive.index.work import State, Work
from asyncdicom.archive.outbox import Outbox
from asyncdicom.exceptions import DataSetError
from asyncdicom.gateway.files import facts_of_blob
from asyncdicom.gateway.routing import UNROUTED, Routing
from asyncdicom.net.threads import file_threads, in_thread

__all__ = ["reroute"]

_AT_ONCE = 50


async def reroute(archive: Archive, routing: Routing) -> int:
    """Ask the rules about all unrouted instances that were made ready by a retry; gives how many those were.

    Of who has sent them the calling AE title is known, and nothing else: where a rule asks for more, nothing
    is guessed, and they stay unrouted. What a rule for stable studies takes goes at once. Raises what the
    disk or the index raise: what is left is asked about at the next retry.
    """
    outbox, total = archive.outbox, 0
    while claimed := await outbox.claim(UNROUTED, "", _AT_ONCE):
        for each in claimed:
            await _again(archive, outbox, routing, each)
        total += len(claimed)
    return total


async def _again(archive: Archive, outbox: Outbox, routing: Routing, claimed: Claimed) -> None:
    work, why = await _decided(archive, routing, claimed)
    if claimed.sop_instance_uid is not None and claimed.digest is not None and work:
        await outbox.enqueue_for_instance(claimed.sop_instance_uid, claimed.digest, work)
    state = State.FAILED if why else State.DONE
    await outbox.settle([Settlement(claimed.id, state, outbox.clock(), claimed.attempts + 1, comment=why)])


async def _decided(archive: Archive, routing: Routing, claimed: Claimed) -> tuple[list[Work], str]:
    if claimed.file is None:
        return [], "the instance is not in the archive any more"
    try:
        facts = await in_thread(
            file_threads(), lambda: facts_of_blob(archive.reading(claimed), claimed, routing.tags)
        )
    except (DataSetError, OSError) as error:
        return [], f"its file cannot be read ({type(error).__name__})"
    return routing.decided_again(replace(facts, is_partial=True))
