"""The metrics of a process in the format of Prometheus, made of its state when they are asked for.

What is counted is counted once, as plain integers where it happens. A label never has a UID, a name or
another peer's word: destinations and senders are those of the configuration, and the rest are words of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from asyncdicom.data.steps import Steps

__all__ = ["CONTENT_TYPE", "METRICS", "Metric", "exposition"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_PREFIX = "asyncdicom_"
_STATES = ("ok", "open", "half-open", "paused", "outside hours", "not configured")
_DOWN = ("open", "half-open")
_OWED = ("ready", "waiting", "leased", "failed")

State = Mapping[str, Any]
Sample = tuple[tuple[str, ...], float]
"""The values of the labels, and the value."""


class Metric(NamedTuple):
    """One metric: its name without our prefix, what it is, its labels, and how it is found in the state."""

    name: str
    help: str
    samples: Callable[[State], Iterable[Sample]]
    labels: tuple[str, ...] = ()

    @property
    def is_counter(self) -> bool:
        """Whether it only grows while the process lives."""
        return self.name.endswith("_total")


def _at(*path: str) -> Callable[[State], Iterable[Sample]]:
    """Give what stands at a place of the state, if anything does."""

    def samples(state: State) -> Iterator[Sample]:
        value: Any = state
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is not None:
            yield (), float(value)

    return samples


def _each(*path: str) -> Callable[[State], Iterable[Sample]]:
    """Give what a mapping of numbers has, by its key."""

    def samples(state: State) -> Iterator[Sample]:
        value: Any = state
        for key in path:
            value = value.get(key, {})
        for key, number in sorted(value.items()):
            yield (key,), float(number)

    return samples


def _of_destinations(key: str) -> Callable[[State], Iterable[Sample]]:
    def samples(state: State) -> Iterator[Sample]:
        for each in state.get("destinations", ()):
            if each.get(key) is not None:
                yield (each["destination"],), float(each[key])

    return samples


def _of_senders(key: str) -> Callable[[State], Iterable[Sample]]:
    def samples(state: State) -> Iterator[Sample]:
        for each in state.get("senders", ()):
            if each[key] is not None:
                yield (each["calling"],), float(each[key])

    return samples


def _owed(state: State) -> Iterator[Sample]:
    for each in state.get("destinations", ()):
        for name in _OWED:
            yield (each["destination"], name), float(each[name])


def _states(state: State) -> Iterator[Sample]:
    for each in state.get("destinations", ()):
        for name in _STATES:
            yield (each["destination"], name), float(each["state"] == name)


def _up(state: State) -> Iterator[Sample]:
    for each in state.get("destinations", ()):
        yield (each["destination"],), float(each["state"] not in _DOWN)


def _operations(state: State) -> Iterator[Sample]:
    for each in state["operations"]:
        yield (each["operation"], each["outcome"]), float(each["number"])


def _build(state: State) -> Iterator[Sample]:
    yield (str(state["version"]),), 1.0


_TO = ("destination",)
METRICS = (
    Metric("build_info", "The version that runs.", _build, ("version",)),
    Metric("start_time_seconds", "When the process began to serve, in seconds since 1970.", _at("started")),
    Metric("ready", "Whether it takes instances: /readyz says why not.", _at("ready")),
    Metric("associations", "Associations of peers that are open.", _at("associations", "open")),
    Metric("associations_limit", "How many of them may be open.", _at("associations", "limit")),
    Metric(
        "associations_accepted_total", "Associations that peers have got.", _at("associations", "accepted")
    ),
    Metric(
        "associations_rejected_total",
        "Associations that peers were refused.",
        _at("associations", "rejected"),
    ),
    Metric(
        "connections_refused_total",
        "Connections that were closed at once: by their address, or because there were too many.",
        _at("associations", "connections_refused"),
    ),
    Metric(
        "operations_total",
        "Requests of peers that were answered, by the category of their final status.",
        _operations,
        ("operation", "outcome"),
    ),
    Metric(
        "received_instances_total",
        "Instances that a peer has sent and that are stored; who is not named in the configuration is other.",
        _of_senders("instances"),
        ("calling",),
    ),
    Metric(
        "last_received_timestamp_seconds",
        "When the last of them came, in seconds since 1970.",
        _of_senders("last"),
        ("calling",),
    ),
    Metric("instances", "Instances in the archive.", _at("archive", "instance")),
    Metric("quarantined_instances", "Instances that were kept aside.", _at("archive", "quarantine")),
    Metric("quarantined_bytes", "Size of their data sets.", _at("archive", "quarantine_bytes")),
    Metric("missing_files", "Files that the index has and the disk has not.", _at("archive", "missing")),
    Metric("damaged_files", "Files that are not what the index says.", _at("archive", "damaged")),
    Metric("lost_files", "Files without a row that were set aside.", _at("archive", "lost")),
    Metric("archive_events_total", "What became of instances that are not new.", _each("events"), ("event",)),
    Metric("disk_size_bytes", "Size of the archive's disk.", _at("disk", "total")),
    Metric("disk_free_bytes", "What is free of it.", _at("disk", "free")),
    Metric("disk_reserve_bytes", "What is kept free: with less nothing is stored.", _at("disk", "reserve")),
    Metric("disk_is_short", "Whether nothing is stored for want of room.", _at("disk", "is_short")),
    Metric(
        "deliveries",
        "Deliveries owed to a destination: ready, waiting for their time, leased (being sent), or failed.",
        _owed,
        (*_TO, "state"),
    ),
    Metric("deliveries_under_way", "Deliveries that are being sent.", _of_destinations("under_way"), _TO),
    Metric(
        "delivered_total",
        "Instances that a destination has taken.",
        _of_destinations("delivered_since_start"),
        _TO,
    ),
    Metric(
        "oldest_delivery_age_seconds",
        "How long the oldest delivery is owed that has not failed; 0: none is.",
        _of_destinations("oldest_seconds"),
        _TO,
    ),
    Metric("destination_up", "Whether it is sent to, or could be: 0 after failures in a row.", _up, _TO),
    Metric("destination_state", "1 for the state that it is in.", _states, (*_TO, "state")),
    Metric(
        "destination_failures_in_a_row",
        "Failures of the destination since it last answered.",
        _of_destinations("failures_in_a_row"),
        _TO,
    ),
    Metric(
        "delivery_events_total", "What became of claimed deliveries.", _each("delivery_events"), ("event",)
    ),
    Metric("unrouted_instances", "Instances that no rule fits.", _at("unrouted")),
    Metric("webhook_messages_total", "Messages to the webhook.", _each("webhook"), ("outcome",)),
    Metric("log_errors_total", "Log lines that could not be made.", _at("log", "errors")),
    Metric("log_lines_lost_total", "Log lines that were not written.", _at("log", "lines_lost")),
    Metric(
        "commands_failed_total",
        "Programs or functions that could not be run, or failed.",
        _at("commands_failed"),
    ),
)  # fmt: skip


class _One:
    """What `generate_latest` takes for a registry: one family."""

    def __init__(self, family: Any) -> None:
        self._family = family

    def collect(self) -> Iterable[Any]:
        return [self._family]


def exposition(state: State) -> Steps[bytes]:
    """Make the text, a family of metrics after the other; its last value is the whole.

    Needs prometheus-client.
    """
    from prometheus_client import ProcessCollector, generate_latest
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    pieces: list[bytes] = []
    families: list[Any] = list(ProcessCollector(registry=None).collect())
    for metric in METRICS:
        kind = CounterMetricFamily if metric.is_counter else GaugeMetricFamily
        family = kind(_PREFIX + metric.name, metric.help, labels=metric.labels)
        for labels, value in metric.samples(state):
            family.add_metric(list(labels), value)
        if family.samples:
            families.append(family)
        yield
    for family in families:
        pieces.append(generate_latest(_One(family)))
        yield
    return b"".join(pieces)
