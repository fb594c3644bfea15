"""What the archive asks the rules, before an instance is committed: what has to be done with it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from asyncdicom.archive.index.work import State, Work
from asyncdicom.archive.origin import Received
from asyncdicom.gateway.facts import Facts
from asyncdicom.gateway.rules import Rules, Target
from asyncdicom.telemetry.log import Log

__all__ = ["DELIVERY", "UNROUTED", "Routing", "facts_of", "line_of", "members_of"]

_LOG = Log("asyncdicom.gateway")

DELIVERY = "store"
"""The kind of work that sends an instance to a destination."""

UNROUTED = "unrouted"
"""The kind of work that an operator has to look at: nobody knows where an instance goes."""

_BETWEEN = "|"  # the names of destinations have none


def line_of(destinations: Sequence[str]) -> str:
    """Give the name under which deliveries wait: that of a destination, or those of a `first_of`."""
    return _BETWEEN.join(destinations)


def members_of(line: str) -> list[str]:
    """Give the destinations of a line, in the order of preference."""
    return line.split(_BETWEEN)


class Routing:
    """The rules, as the archive asks them: in the thread that has received the instance."""

    def __init__(self, rules: Rules, ordered: Collection[str]) -> None:
        self._rules = rules
        self._ordered = frozenset(ordered)
        self.tags = rules.tags

    def work_for(self, received: Received) -> list[Work]:
        """Give the deliveries of an instance, and a note for the operator where one is due; never raises."""
        work, why = self.decided(facts_of(received))
        if why:
            _LOG.warning(
                "%s from %s is stored and not routed: %s",
                received.sop_instance_uid,
                received.origin.calling or "?",
                why,
            )
            work.append(Work(UNROUTED, "", state=State.FAILED, comment=why))
        return work

    def decided(self, facts: Facts) -> tuple[list[Work], str]:
        """Give the deliveries of an instance, and why an operator should look at it ("": no need to)."""
        decision = self._rules.decide(facts)
        return [self._work(target) for target in decision.targets], decision.unrouted

    def _work(self, target: Target) -> Work:
        line = line_of(target.destinations)
        return Work(DELIVERY, line, target.priority, order_key=line if line in self._ordered else None)


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
    )
