"""`Timeouts` and `Limits`: how long `associate` and `serve` wait, and how much they take.

This is the only place of their defaults. Both are immutable dataclasses, with keywords only:

    hasty = Timeouts(connect=5.0, dimse=30.0)
    async with associate(address, timeouts=hasty, limits=Limits(operations_invoked=8)) as association: ...
    hastier = dataclasses.replace(hasty, dimse=10.0)

One object may be given to both sides: what one side has no use for, it ignores; such a field says which
side it is for. `Limits.maximum_length`, of the class, is the default.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar, cast, dataclass_transform, final

__all__ = [
    "OPERATIONS",
    "SHORTEST_MAXIMUM_LENGTH",
    "ByRole",
    "Limits",
    "Timeouts",
    "changed",
    "explains_options",
    "of_role",
]

_T = TypeVar("_T")
_O = TypeVar("_O", bound="_Options")
_F = TypeVar("_F", bound=Callable[..., Any])

OPERATIONS = 16
"""How many operations may be under way on an association in one direction, unless `Limits` says otherwise."""

SHORTEST_MAXIMUM_LENGTH = 8  # bytes: one PDV with 2 of data (PS3.8 9.3.5)
_SHORTEST_ASSOCIATE = 68  # bytes: the fixed part of an A-ASSOCIATE-RQ (PS3.8 9.3.2)
_U16, _U32 = 0xFFFF, 0xFFFFFFFF

# The least and the most of a whole number; without an entry it is 1 or more. Of what is negotiated, 0 is
# "any number".
_RANGES: Mapping[str, tuple[int, float]] = {
    "maximum_associations": (0, math.inf),  # 0: nobody
    "maximum_associate_length": (_SHORTEST_ASSOCIATE, _U32),
    "maximum_length": (0, _U32),
    "operations_invoked": (0, _U16),
    "operations_performed": (0, _U16),
    "maximum_matches": (0, math.inf),
    "maximum_discarded": (0, math.inf),
}
_MAY_BE_ZERO = {"drain", "drain_idle", "drain_notice"}  # of the times


class ByRole(NamedTuple, Generic[_T]):
    """A value that depends on who opened the association."""

    requestor: _T
    acceptor: _T


def of_role(value: _T | ByRole[_T], *, requestor: bool) -> _T:
    """What `value` is for the requestor (`associate`), or for the acceptor (`serve`)."""
    if not isinstance(value, ByRole):
        return value
    chosen: _T = value.requestor if requestor else value.acceptor
    return chosen


class _Fields:
    """What `dataclasses.fields`, `replace` and `asdict` look for, made when they do."""

    def __get__(self, instance: object, owner: type[_Options]) -> dict[str, Any]:
        import dataclasses

        fields = [
            (name, annotation, dataclasses.field(default=getattr(owner, name)))
            for name, annotation in owner.__annotations__.items()
        ]
        made = dataclasses.make_dataclass(owner.__name__, fields, kw_only=True)
        return cast("Any", made).__dataclass_fields__  # type: ignore[no-any-return]


@dataclass_transform(kw_only_default=True, frozen_default=True)
class _Options:
    """An immutable dataclass with keywords only, whose values are checked.

    `dataclass` itself would add 4 ms, a sixth, to what importing `associate` and `serve` takes.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]] = cast("dict[str, Any]", _Fields())

    def __init__(self, **values: Any) -> None:
        known = type(self).__annotations__
        for name, value in values.items():
            if name not in known:
                raise TypeError(_unknown(type(self), name))
            is_by_role = isinstance(value, ByRole) and "ByRole" in known[name]
            for one in value if is_by_role else (value,):
                _check(type(self), name, one)
        defaults = {name: getattr(type(self), name) for name in known}
        self.__dict__.update(defaults | values)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable: make a changed one, dataclasses.replace()")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __eq__(self, other: object) -> bool:
        return self.__dict__ == other.__dict__ if type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        return hash((type(self), *self.__dict__.values()))

    def __repr__(self) -> str:
        own = (
            f"{name}={value!r}" for name, value in self.__dict__.items() if value != getattr(type(self), name)
        )
        return f"{type(self).__name__}({', '.join(own)})"


def changed(options: _O, **values: Any) -> _O:
    """As `dataclasses.replace`, which takes 4 ms the first time, for what every tool does at its start."""
    return type(options)(**(vars(options) | values))


@final
class Timeouts(_Options):
    """How long to wait, in seconds; None is for ever.

    The peer's deadlines are suspended while we have paused reading. Raises TypeError or ValueError, with
    the name of the field, for what is no time.
    """

    connect: float | None = 10.0
    """Seconds to wait for the connection: name resolution, TCP and TLS.

    `associate` only. Beyond it: `AssociationTimeout`.
    """

    acse: float | None = 30.0
    """Seconds to wait for the answer to the A-ASSOCIATE-RQ (PS3.8 9.2, Sta5).

    `associate` only. Beyond it: A-ABORT; if an operations window was proposed, the peer is asked once more,
    without it; then `AssociationTimeout`.
    """

    artim: float | None = 10.0
    """Seconds to wait for the A-ASSOCIATE-RQ of a new connection (PS3.8 9.1.5, ARTIM).

    `serve` only; it runs once the TLS handshake is over. Beyond it: the connection is closed.
    """

    tls_handshake: float = 10.0
    """Seconds to wait for the TLS handshake of a new connection.

    `serve` only. Beyond it: the connection is closed.
    """

    dimse: float | None = 120.0
    """Seconds to wait for each response (PS3.7 9.1).

    The time begins when the request has been sent; the C-STOREs of a C-GET count as responses. Beyond
    it: A-ABORT, `AssociationTimeout`.
    """

    receive: float | None = 60.0
    """Seconds to wait for the rest of a PDU or message that has begun to come.

    Beyond it, when less than 1 KiB came in that time or when the whole is so late at 1 KiB a second:
    A-ABORT.
    """

    write: float | None = 30.0
    """Seconds that the peer may take less than 1 KiB of what waits for it.

    Beyond it: the connection is closed.
    """

    handler: float | None = 120.0
    """Seconds that a handler may take nothing of what waits for it, once reading has paused.

    The check of a user identity has as long for its verdict. Beyond it: the handler is cancelled and the
    request answered with 0xA700; the association is rejected.
    """

    handler_deadline: float | None = None
    """Seconds that a handler may work at a stretch: for its answer, or for the next match of a C-FIND.

    The time begins when the request's data set has come. Beyond it: the handler is cancelled, and
    the request answered with a Failure (0xA700; 0x0213 for DIMSE-N, 0x0110 for C-ECHO).
    """

    cancel: float = 10.0
    """Seconds to wait for the end of what was cancelled, by either side (PS3.7 9.3.2.3, C-CANCEL).

    Beyond it: A-ABORT, if the operation is ours; a peer's request is answered without the handler.
    """

    release: float | None = 10.0
    """Seconds to wait for what is under way at a release, and then for the A-RELEASE-RP (PS3.8 7.2).

    Beyond it: A-ABORT.
    """

    half_closed: float | None = 5.0
    """Seconds that what the peer has asked may take, once it has closed its half of the connection.

    A peer that has gone looks the same as one that only sends no more. Beyond it: A-ABORT.
    """

    idle: float | ByRole[float | None] | None = ByRole(requestor=None, acceptor=300.0)
    """Seconds that an association may have nothing under way: 300 as its acceptor.

    As its requestor, any number. Beyond it: A-RELEASE by a requestor (PS3.8 7.2), A-ABORT by an acceptor
    (PS3.8 7.3).
    """

    close: float | None = 5.0
    """Seconds to wait for the peer to close the connection of an association that has ended (PS3.8 9.1.5).

    This is ARTIM in Sta13. Beyond it: we close the connection.
    """

    drain: float = 30.0
    """Seconds to wait for what is under way when the server is closed (`Server.close`).

    `serve` only; 0 does not wait. Beyond it: A-ABORT. It is also the time of `Server.drain`, in all.
    """

    drain_idle: float = 5.0
    """Seconds that an association may have nothing under way while the server drains (`Server.drain`).

    `serve` only; 0 ends those that are between two operations. Beyond it: A-RELEASE (PS3.8 7.2).
    """

    drain_notice: float = 5.0
    """Seconds that a server which drains still accepts, and says to balancers that it is not ready.

    `serve` only, and where the access policy names `proxies`. Beyond it: nobody new comes in.
    """

    def shortest(self, *, requestor: bool) -> float:
        """No deadline of an association can come up that is nearer than this."""
        times = (
            self.acse,
            self.artim,
            self.dimse,
            self.receive,
            self.write,
            self.handler,
            self.cancel,
            self.release,
            self.half_closed,
            of_role(self.idle, requestor=requestor),
            self.close,
        )
        return min(time for time in times if time is not None)


@final
class Limits(_Options):
    """How much is taken; sizes in bytes, None is any number.

    Those for each host and each AE title do not count peers on this machine. Raises TypeError or
    ValueError, with the name of the field, for what is no such number.
    """

    maximum_associations: int = 2000
    """How many associations may be open; more are rejected.

    `serve` only; 0 lets nobody in. Beyond it: "local limit exceeded" (PS3.8 9.3.4, 2/3/2).
    """

    maximum_associations_per_address: int | None = 200
    """How many associations one host may have open.

    `serve` only. Beyond it: rejected, "local limit exceeded" (PS3.8 9.3.4, 2/3/2).
    """

    maximum_associations_per_ae_title: int | None = 100
    """How many associations one calling AE title may have open.

    `serve` only. Beyond it: rejected, "local limit exceeded" (PS3.8 9.3.4, 2/3/2).
    """

    maximum_not_associated: int = 512
    """How many connections there may be without an association.

    `serve` only. Beyond it: the oldest silent one is closed to make room.
    """

    maximum_not_associated_per_address: int | None = 32
    """How many connections one host may have without an association.

    `serve` only. Beyond it: the next one is closed.
    """

    accept_rate: float | None = 100.0
    """How many connections a second one host may make; two seconds' worth may come at once.

    `serve` only. Beyond it: the next one is closed.
    """

    maximum_tls_handshakes: int = 2
    """How many TLS handshakes are computed at once.

    `serve` only. Beyond it: others wait for their turn, and their time does not run meanwhile.
    """

    maximum_outgoing: int = 100
    """How many associations a server opens to C-MOVE destinations in all.

    `serve` only. Beyond it: others wait for their turn, 30 s at most, then the C-MOVE gets 0xA702.
    """

    maximum_associate_length: int = 262144
    """The longest A-ASSOCIATE PDU to receive, in bytes, without its header (PS3.8 9.3.2).

    Beyond it: A-ABORT when the header has come.
    """

    maximum_length: int = 262144
    """The largest PDU to receive, in bytes.

    It is announced as the Maximum Length of P-DATA-TF (PS3.8 D.1), even, and 8 or more; 0 announces that
    there is none. Beyond it: A-ABORT when the header has come.
    """

    operations_invoked: int = OPERATIONS
    """How many operations of ours may be outstanding on an association (PS3.7 D.3.3.3).

    A requestor proposes it, an acceptor grants it (for the C-STOREs of a C-GET); 0 is any number. A peer that
    does not take the proposal is asked again without it. Beyond it: our requests wait for their turn.
    """

    operations_performed: int | ByRole[int] = OPERATIONS
    """How many operations of an association are performed at a time, for peers that ask for more than one.

    A requestor proposes it (for the C-STOREs of a C-GET), an acceptor grants it (PS3.7 D.3.3.3): handlers run
    for several at a time; with 1 they do not. 0 is any number. Beyond it: up to as many again are performed
    at once; then A-ABORT.
    """

    maximum_outstanding: int | None = 64 << 20
    """How much of the data sets of our C-STOREs may be outstanding on an association, in bytes.

    It is what has to be sent again when the association is lost. A source that does not tell its `length`
    does not count. Beyond it: the next one waits for answers; one may always be outstanding, however large.
    """

    read_budget: int = 1 << 20
    """How much received data may wait for the handlers of an association, in bytes.

    Beyond it: reading pauses, and TCP holds the peer back.
    """

    maximum_matches: int | None = 100_000
    """How many matches a C-FIND handler may give.

    `serve` only. Beyond it: the last response is 0xA700 (PS3.4 C.4.1.1.4, Out of Resources).
    """

    maximum_data_set: int = 16 << 20
    """The largest data set of a response to take, in bytes.

    Beyond it: A-ABORT.
    """

    maximum_discarded: int = 1 << 30
    """How much of a data set to wait for when its handler does not want the rest, in bytes.

    Beyond it: A-ABORT.
    """


def _unknown(options: type[_Options], name: str) -> str:
    from difflib import get_close_matches

    similar = get_close_matches(name.removesuffix("_timeout"), options.__annotations__, 1)
    advice = f"did you mean {similar[0]}?" if similar else f"there are {', '.join(options.__annotations__)}"
    return f"{options.__name__} has no {name!r}; {advice}"


def _check(options: type[_Options], name: str, value: object) -> None:
    """Raise TypeError or ValueError if this is no value of the field; its annotation says what is."""
    where, annotation = f"{options.__name__}.{name}", options.__annotations__[name]
    if value is None and "None" in annotation:
        return
    is_whole = "int" in annotation
    if isinstance(value, bool) or not isinstance(value, int if is_whole else (int, float)):
        kind = "a whole number" if is_whole else "a number"
        raise TypeError(f"{where} must be {kind}{' or None' * ('None' in annotation)}, not {value!r}")
    if not is_whole:
        if not (0 < value < math.inf or (value == 0 and name in _MAY_BE_ZERO)):
            raise ValueError(f"{where} must be a positive number, not {value!r}")
        return
    least, most = _RANGES.get(name, (1, math.inf))
    if not least <= value <= most:
        limits = f"at least {least}" if most == math.inf else f"{least} to {most}"
        raise ValueError(f"{where} must be {limits}, not {value!r}")
    if name == "maximum_length" and (0 < value < SHORTEST_MAXIMUM_LENGTH or value % 2):
        raise ValueError(f"{where} must be even, and 0 or at least {SHORTEST_MAXIMUM_LENGTH}, not {value!r}")


_OPTIONS: Mapping[str, type[_Options]] = {"timeouts": Timeouts, "limits": Limits}
_PLACES: Mapping[str, str] = {
    **{name: f"limits=Limits({name}=...)" for name in Limits.__annotations__},
    **{f"{name}_timeout": f"timeouts=Timeouts({name}=...)" for name in Timeouts.__annotations__},
}


def explains_options(function: _F) -> _F:
    """Decorate what takes `timeouts` and `limits`: their fields, as keywords, get a TypeError with advice."""

    @wraps(function)
    def explained(*arguments: Any, **keywords: Any) -> Any:
        who = function.__qualname__.removesuffix(".__init__")
        for name, value in keywords.items():
            if name in _PLACES:
                raise TypeError(f"{who}() takes no {name!r}: write {_PLACES[name]}")
            if name in _OPTIONS and not isinstance(value, _OPTIONS[name]):
                raise TypeError(f"{who}() takes {name} of type {_OPTIONS[name].__name__}, not {value!r}")
        return function(*arguments, **keywords)

    return cast("_F", explained)
