"""Instances that are sent once more, or because their study is stable: chosen page by page."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from asyncdicom.archive.archive import Archive
from asyncdicom.archive.errors import ArchiveError
from asyncdicom.archive.index.chosen import Choice, ChosenInstance
from asyncdicom.archive.index.work import Work
from asyncdicom.archive.operations import Line
from asyncdicom.exceptions import DataSetError
from asyncdicom.gateway.config import GatewayDestination
from asyncdicom.gateway.facts import Facts
from asyncdicom.gateway.files import facts_of_blob
from asyncdicom.gateway.routing import Routing, delivery, unrouted
from asyncdicom.gateway.rules import PRIORITIES
from asyncdicom.net.threads import file_threads, in_thread
from asyncdicom.telemetry.log import Log

__all__ = ["deliver_stable", "resend"]

_LOG = Log("asyncdicom.gateway")

_UIDS = ("study_instance_uid", "series_instance_uid", "sop_instance_uid")
_TIMES = ("since", "until")


async def resend(
    archive: Archive, destinations: Mapping[str, GatewayDestination], arguments: Mapping[str, Any]
) -> AsyncGenerator[Line, None]:
    """Send what is chosen to a destination once more; without `confirmed` only say what that would be.

    What still waits for the destination is not sent twice. Raises `ArchiveError` for what cannot be meant.
    """
    choice = _choice(arguments)
    own = destinations.get(arguments.get("destination") or "")
    if own is None:
        raise ArchiveError(
            f"there is no destination {arguments.get('destination')!r}; there are {', '.join(destinations)}"
        )
    priority = PRIORITIES.get(arguments.get("priority", "bulk"))
    if priority is None:
        raise ArchiveError(f"priority is one of {', '.join(PRIORITIES)}")
    total = await archive.read(archive.chosen.total, choice)
    confirmed = arguments.get("confirmed") is True
    work = delivery([own.name], priority, ordered=own.options.ordered, on_duplicate="resend")
    after = sent = 0
    while confirmed and (page := await archive.read(archive.chosen.page, choice, after)):
        await archive.outbox.enqueue_for_instances(
            [(each.sop_instance_uid, each.digest, work) for each in page]
        )
        after, sent = page[-1].id, sent + len(page)
        yield {"so_far": sent}
    if confirmed:
        _LOG.warning("%d instances are sent to %s once more, by an operator", sent, own.name)
    yield {**total._asdict(), "destination": own.name, "resent": sent, "confirmed": confirmed}


def _choice(arguments: Mapping[str, Any]) -> Choice:
    given = {key: arguments[key] for key in (*_UIDS, *_TIMES) if arguments.get(key) is not None}
    if not given:
        raise ArchiveError("say what: a study, a series, an instance, or when it came (since, until)")
    if not all(isinstance(value, str) and value for value in given.values()):
        raise ArchiveError(f"{', '.join(given)}: texts that are not empty")
    return Choice(**{key: _time(key, value) if key in _TIMES else value for key, value in given.items()})


def _time(key: str, text: str) -> str:
    """Give a time as the index has it; without a zone it is that of this host."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError, OSError):
        raise ArchiveError(f'{key} is a time: "2026-11-26T08:00" or "2026-11-26", not {text!r}') from None


async def deliver_stable(archive: Archive, routing: Routing, quiet: float, study_instance_uid: str) -> int:
    """Ask the rules for stable studies about all instances of one; gives for how many there was work.

    What was enqueued before is not enqueued again. What cannot be routed is noted for the operator: nobody
    asks about it again by himself. Raises what the disk or the index raise.
    """
    after = total = 0
    choice = Choice(study_instance_uid)
    while page := await archive.read(archive.chosen.page, choice, after):
        after = page[-1].id
        work: list[tuple[str, str, Work]] = []
        for each in page:
            found, why = await _decided(archive, routing, quiet, each)
            total += bool(found)
            if why:
                _LOG.warning("%s of a stable study is not routed: %s", each.sop_instance_uid, why)
                found = [*found, unrouted(why)]
            work += [(each.sop_instance_uid, each.digest, one) for one in found]
        if work:
            await archive.outbox.enqueue_for_instances(work)
    return total


async def _decided(
    archive: Archive, routing: Routing, quiet: float, chosen: ChosenInstance
) -> tuple[Sequence[Work], str]:
    if routing.tags:
        try:
            facts = await in_thread(
                file_threads(), lambda: facts_of_blob(archive.reading(chosen), chosen, routing.tags)
            )
        except (DataSetError, OSError) as error:
            return [], f"its file cannot be read ({type(error).__name__})"
    else:
        facts = Facts(
            calling=chosen.calling_ae_title or "",
            sop_class=chosen.sop_class_uid,
            transfer_syntax=chosen.transfer_syntax_uid,
            size=chosen.data_set_length,
        )
    return routing.decided(facts, quiet)
