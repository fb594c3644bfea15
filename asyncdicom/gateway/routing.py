"""What the archive asks the rules, before an instance is committed: what has to be done with it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from asyncdicom.archive.index.work import State, Work, line_of, members_of
from asyncdicom.archive.origin import Received
from asyncdicom.gateway.config import GatewayDestination
from asyncdicom.gateway.facts import Facts
from asyncdicom.gateway.rules import Rules, Target
from asyncdicom.telemetry.log import Log

__all__ = ["DELIVERY", "UNROUTED", "Routing", "delivery", "facts_of", "line_of", "members_of", "unrouted"]

_LOG = Log("asyncdicom.gateway")

DELIVERY = "store"
"""The kind of work that sends an instance to a destination."""

UNROUTED = "unrouted"
"""The kind of work that an operator has to look at: nobody knows where an instance goes."""


class Routing:
    """The rules, as the archive asks them: in the thread that has received the instance."""

    def __init__(self, rules: Rules, destinations: Mapping[str, GatewayDestination]) -> None:
        self._rules = rules
        self._destinations = destinations
        self.tags = rules.tags

    def work_for(self, received: Received) -> list[Work]:
        """Give the deliveries of an instance, and a note for the operator where one is due; never raises."""
        work, why = self.decided(facts_of(received), move_originator=received.origin.move_originator)
        if why:
            _LOG.warning(
                "%s from %s is stored and not routed: %s",
                received.sop_instance_uid,
                received.origin.calling or "?",
                why,
            )
            work.append(unrouted(why))
        return work

    def decided(
        self,
        facts: Facts,
        stable: float | None = None,
        move_originator: tuple[str, int] | None = None,
    ) -> tuple[list[Work], str]:
        """Give the deliveries of an instance, and why an operator should look at it ("": no need to).

        `stable`: see `Rules.decide`.
        """
        decision = self._rules.decide(facts, stable)
        work = [self._work(target, move_originator) for target in decision.targets]
        return work, decision.unrouted

    def decided_again(self, facts: Facts) -> tuple[list[Work], str]:
        """As `decided`, for one that came a while ago: its study may have been stable since, and told."""
        targets, why = self._rules.decide_all(facts)
        work: dict[str, Work] = {}
        for each in (self._work(target, None) for target, _ in targets):
            work.setdefault(each.destination, each)
        return list(work.values()), why

    def _work(self, target: Target, move_originator: tuple[str, int] | None) -> Work:
        first = self._destinations[target.destinations[0]]
        passes = any(self._destinations[name].pass_move_originator for name in target.destinations)
        return delivery(
            target.destinations,
            target.priority,
            ordered=first.options.ordered,
            on_duplicate=first.on_duplicate,
            payload=json.dumps(move_originator) if passes and move_originator is not None else None,
        )


def delivery(
    destinations: Sequence[str],
    priority: int,
    *,
    ordered: bool = False,
    on_duplicate: str = "changed",
    payload: str | None = None,
) -> Work:
    """Give the work that brings an instance to the first of some destinations that can be reached.

    `payload`: Move Originator AE title and Message ID, as JSON.
    """
    line = line_of(destinations)
    order_key = line if ordered else None
    return Work(DELIVERY, line, priority, order_key=order_key, payload=payload, on_duplicate=on_duplicate)


def unrouted(why: str) -> Work:
    """Give the note for the operator that nobody knows where an instance goes."""
    return Work(UNROUTED, "", state=State.FAILED, comment=why)


def facts_of(received: Received) -> Facts:
    """Give what the rules see of a received instance."""
    origin = received.origin
    return Facts(
        calling=origin.calling,
        called=origin.called,
        address=origin.address,
        certificate=origin.certificate,
        sop_class=received.sop_class_uid,
        transfer_syntax=received.transfer_syntax_uid,
        size=received.size,
        elements=received.elements,
        is_partial=origin.is_partial,
    )
