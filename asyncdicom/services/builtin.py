"""The services that the handlers of `serve` and `associate` stand for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from asyncdicom.services.normalized import NORMALIZED_HANDLERS, NormalizedService
from asyncdicom.services.request import FindHandler, OpenAssociation, RetrieveHandler
from asyncdicom.services.service import Service
from asyncdicom.services.storage import Storage
from asyncdicom.services.verification import Verification
from asyncdicom.uid import MODALITY_WORKLIST_FIND

if TYPE_CHECKING:
    from asyncdicom.services.retrieve import FindDestination

_NAMES = frozenset({"c_echo", "c_store", "c_find", "c_get", "c_move", *NORMALIZED_HANDLERS})

__all__ = ["check_handlers", "services_for"]


def services_for(
    handlers: Mapping[str, Any],
    abstract_syntaxes: Collection[str] = (),
    *,
    destination: FindDestination | None = None,
    open_association: OpenAssociation | None = None,
    beside: Iterable[Service] = (),
) -> list[Service]:
    """Make the services of `handlers`, by the names of the operations; None is no handler.

    `abstract_syntaxes`: what was asked to be offered. `beside`: the services that the user gave as objects.
    Raises TypeError for a handler of the wrong kind.
    """
    check_handlers(handlers)
    given = {name: handler for name, handler in handlers.items() if handler is not None}
    beside = list(beside)
    kinds = {type(service) for service in beside}
    services: list[Service] = []
    if Verification not in kinds or "c_echo" in given:
        services.append(Verification(given.get("c_echo")))
    if Storage not in kinds or "c_store" in given:
        services.append(Storage(given.get("c_store")))
    if "c_find" in given:
        services += _querying(given["c_find"], kinds, MODALITY_WORKLIST_FIND in abstract_syntaxes)
    services += _retrieving(given, destination, open_association)
    normalized = {name: given[name] for name in NORMALIZED_HANDLERS if name in given}
    if normalized:
        services.append(NormalizedService(**normalized))
    return services


# A requestor, and a server that only stores, does not load what queries and retrievals are performed with.


def _querying(handler: FindHandler, beside: Collection[type[Service]], worklist: bool) -> list[Service]:
    from asyncdicom.services.query import QueryService
    from asyncdicom.services.worklist import Worklist

    own = [Worklist(handler)] if worklist and Worklist not in beside else []
    return [*own, QueryService(handler)]


def _retrieving(
    given: Mapping[str, RetrieveHandler],
    destination: FindDestination | None,
    open_association: OpenAssociation | None,
) -> list[Service]:
    if not given.keys() & {"c_get", "c_move"}:
        return []
    from asyncdicom.services.retrieve import GetService, MoveService

    services: list[Service] = [GetService(given["c_get"])] if "c_get" in given else []
    if "c_move" in given and open_association is not None:
        services.append(MoveService(given["c_move"], destination or _unknown, open_association))
    return services


def _unknown(request: object) -> None:
    return None


def check_handlers(handlers: Mapping[str, Any]) -> None:
    """Raise TypeError for what can never work as a handler, before anybody calls it."""
    for name, handler in handlers.items():
        if name not in _NAMES:
            raise TypeError(f"unexpected keyword argument {name!r}")
        if handler is not None:
            wrong = _what_is_wrong(handler, is_generator=name == "c_find")
            if wrong:
                wanted = "an asynchronous generator function" if name == "c_find" else "a coroutine function"
                example = "async def, with yield" if name == "c_find" else "async def"
                raise TypeError(f"{name} has to be {wanted} ({example}), not {wrong}: {handler!r:.100}")


def _what_is_wrong(handler: Any, *, is_generator: bool) -> str | None:
    if not callable(handler):
        return "something that cannot be called"
    if isinstance(handler, type):
        return "a class"
    for found in (handler, getattr(handler, "__call__", None)):  # noqa: B004
        for is_kind, name, is_right in _KINDS:
            if is_kind(found):
                return _wrong_arguments(handler) if is_right is is_generator else name
    return _wrong_arguments(
        handler
    )  # a function that returns an awaitable or an iterator: only a call can tell


def _wrong_arguments(handler: Any) -> str | None:
    """A handler is called with one argument, the request."""
    try:
        inspect.signature(handler).bind(None)
    except TypeError as error:
        return f"one that cannot be called with a request alone ({error})"
    except ValueError:  # nobody knows
        return None
    return None


# (the check, what it finds, whether that is right for a generator; None is never right)
_KINDS: tuple[tuple[Callable[[Any], bool], str, bool | None], ...] = (
    (inspect.iscoroutinefunction, "a coroutine function", False),
    (inspect.isasyncgenfunction, "an asynchronous generator function", True),
    (inspect.isgeneratorfunction, "a generator function that is not asynchronous", None),
)
