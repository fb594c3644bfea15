"""How many files and sockets this process may open, compared with what the limits of a server need."""

from __future__ import annotations

from asyncdicom.options import Limits, changed

__all__ = ["fitting", "missing_descriptors", "raise_limit"]

_SPARE = 100  # for listeners, logs, the index, files that are being written or read


def _needed(limits: Limits) -> int:
    return limits.maximum_associations + limits.maximum_not_associated + limits.maximum_outgoing + _SPARE


def _soft_limit() -> int | None:
    """RLIMIT_NOFILE; None where there is none."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return None if soft == resource.RLIM_INFINITY else soft


def missing_descriptors(limits: Limits) -> str | None:
    """Say by how much the descriptors fall short of what the limits need, or None."""
    soft, needed = _soft_limit(), _needed(limits)
    if soft is None or soft >= needed:
        return None
    return (
        f"this process may open {soft} files and sockets, its limits need {needed}: raise RLIMIT_NOFILE "
        "(ulimit -n), or lower maximum_associations"
    )


def raise_limit(limits: Limits) -> None:
    """Raise the soft limit to what is needed, as far as the hard limit goes."""
    if missing_descriptors(limits) is None:
        return
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    needed = _needed(limits)
    soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def fitting(limits: Limits) -> Limits:
    """Give limits that the descriptors are enough for: fewer associations, if need be."""
    soft, needed = _soft_limit(), _needed(limits)
    if soft is None or soft >= needed:
        return limits
    spare = min(_SPARE, soft // 4)
    outgoing = min(limits.maximum_outgoing, max(soft // 10, 1))
    waiting = min(limits.maximum_not_associated, max(soft // 5, 1))
    return changed(
        limits,
        maximum_outgoing=outgoing,
        maximum_not_associated=waiting,
        maximum_associations=min(limits.maximum_associations, max(soft - spare - outgoing - waiting, 1)),
    )
