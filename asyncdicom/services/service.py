"""`Service`, one service of PS3.4 as an object, and `Services`, which know which one performs a request."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from asyncdicom.dimse.messages import CommandField
from asyncdicom.services.classes import may_name
from asyncdicom.services.request import Request
from asyncdicom.services.responses import Answer
from asyncdicom.status import Status
from asyncdicom.telemetry.log import Log
from asyncdicom.uid import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
)
from asyncdicom.ul.negotiation import ANY_TRANSFER_SYNTAX, PresentationContext

if TYPE_CHECKING:
    from asyncdicom.services.node import Node

__all__ = ["UNCOMPRESSED", "Contexts", "Service", "Services"]

log = Log("asyncdicom.services")

UNCOMPRESSED = (
    IMPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
)

_MOST_REMEMBERED = 1024  # a peer may propose any number of abstract syntaxes


class Service:
    """One service of PS3.4: what `serve(services=[...])` and `associate(services=[...])` take.

    A subclass says what it is by attributes, and has `perform`:

        class Toy(Service):
            name = "toy"
            sop_classes = ("1.2.3.4",)
            commands = frozenset({CommandField.N_GET_RQ})

            async def perform(self, request: Request) -> Response: ...

    It is offered for its SOP classes in its roles, it performs the requests of its commands on such contexts,
    and an `AccessPolicy` grants or refuses it under its permission name.
    """

    name: ClassVar[str] = ""
    """What the service is called in log lines."""

    permission: ClassVar[str] = ""
    """What an access policy calls it; its name, if it is left out."""

    sop_classes: Iterable[str] = ()
    """The abstract syntaxes that it offers contexts for."""

    commands: frozenset[CommandField] = frozenset()
    """The requests that it performs."""

    transfer_syntaxes: tuple[str, ...] = UNCOMPRESSED
    """What it takes them in; `("*",)` is any."""

    as_scp: bool = True
    """Whether it is offered as the SCP: peers may propose the SCU role, which is the default one."""

    as_scu: bool = False
    """Whether peers may propose to be the SCP, we then being the SCU (PS3.7 D.3.3.4)."""

    at_once: Status | None = None
    """What every request is answered with, if that takes no work."""

    def takes(self, abstract_syntax: str) -> bool:
        """Whether it also performs for this abstract syntax, which is not one of its own."""
        return False

    def performed(self) -> Mapping[str, tuple[str, ...]]:
        """The contexts that it offers as the SCP: abstract syntax -> transfer syntaxes."""
        return dict.fromkeys(self.sop_classes, self.transfer_syntaxes) if self.as_scp else {}

    def invoked(self) -> Mapping[str, tuple[str, ...]]:
        """The contexts that it offers as the SCU, to peers that propose to be the SCP."""
        return dict.fromkeys(self.sop_classes, self.transfer_syntaxes) if self.as_scu else {}

    def may_name(self, abstract_syntax: str, sop_class_uid: str) -> bool:
        """Whether a message on a context of `abstract_syntax` may name this SOP class (see
        `classes.FAMILIES`)."""
        return may_name(abstract_syntax, sop_class_uid)

    def permission_for(self, abstract_syntax: str) -> str:
        """What an access policy calls it where it is used by a context of `abstract_syntax`."""
        return self.permission or self.name

    async def perform(self, request: Request) -> Answer:
        """Perform a request: give the final response, or its status.

        Whatever may take long is awaited through `request.guard`, so that C-CANCEL and deadlines can stop it.
        An exception is answered with a Failure (`StatusError`: with the response in it).
        """
        raise NotImplementedError

    async def start(self, node: Node[Any]) -> None:
        """The server is about to listen. Raises what keeps it from serving."""

    async def stop(self) -> None:
        """The server has ended its associations."""

    def association_ended(self, association: Any) -> None:
        """An association on which the service was offered is over, however it ended."""

    def negotiate(self, sop_class_uid: str, requested: bytes) -> bytes | None:
        """Answer a SOP Class Extended Negotiation item (PS3.7 D.3.3.5); None does not answer."""
        return None

    def prefer(self, sop_class_uid: str, transfer_syntaxes: tuple[str, ...]) -> Sequence[str]:
        """Give the order in which the transfer syntaxes of a context are tried that only we send on.

        The first one that is taken is that of the context, so it is the only one that can be sent there.
        """
        return transfer_syntaxes


class Contexts(NamedTuple):
    """What is offered: abstract syntax -> transfer syntaxes where we are the SCP or the SCU, and for whom.

    `performed_by` and `invoked_by`: abstract syntax -> the permissions of which one is enough.
    """

    performed: Mapping[str, tuple[str, ...]]
    invoked: Mapping[str, tuple[str, ...]]
    performed_by: Mapping[str, frozenset[str]]
    invoked_by: Mapping[str, frozenset[str]]


class Services:
    """The services of a server, or of an association that we opened.

    Raises TypeError for what is no service, ValueError for two that would perform the same requests.
    """

    __slots__ = ("_all", "_ending", "_found", "_negotiating", "_preferring")

    def __init__(self, services: Iterable[Service] = ()) -> None:
        self._all = tuple(services)
        self._found: dict[CommandField, dict[str, Service | None]] = {}
        for service in self._all:
            if not isinstance(service, Service):
                what = f"the class {service.__name__}" if isinstance(service, type) else repr(service)
                raise TypeError(f"services= takes Service objects, not {what:.100}")
            if not service.permission_for(""):
                raise ValueError(f"{type(service).__name__} has no name")
        self._refuse_rivals()
        self._negotiating = tuple(service for service in self._all if _has_own(service, "negotiate"))
        self._preferring = tuple(service for service in self._all if _has_own(service, "prefer"))
        self._ending = tuple(service for service in self._all if _has_own(service, "association_ended"))

    def _refuse_rivals(self) -> None:
        for number, one in enumerate(self._all):
            for other in self._all[:number]:
                if one.commands & other.commands and (both := set(one.sop_classes) & set(other.sop_classes)):
                    raise ValueError(
                        f"{one.name} and {other.name} would both perform requests for {min(both)}"
                    )

    def __iter__(self) -> Iterator[Service]:
        return iter(self._all)

    def find(self, command_field: CommandField, abstract_syntax: str) -> Service | None:
        """The service that performs such requests on contexts of this abstract syntax."""
        try:
            return self._found[command_field][abstract_syntax]
        except KeyError:
            service = self._look_up(command_field, abstract_syntax)
            known = self._found.setdefault(command_field, {})
            if len(known) < _MOST_REMEMBERED:
                known[abstract_syntax] = service
            return service

    def has(self, command_field: CommandField) -> bool:
        """Whether one of them performs such requests."""
        return any(command_field in service.commands for service in self._all)

    def _look_up(self, command_field: CommandField, abstract_syntax: str) -> Service | None:
        able = [service for service in self._all if command_field in service.commands]
        own = (service for service in able if abstract_syntax in service.sop_classes)
        others = (service for service in able if service.takes(abstract_syntax))
        return next(own, None) or next(others, None)

    @property
    def names(self) -> frozenset[str]:
        """The permission names that an access policy may use for these services beside the usual ones."""
        return frozenset(service.permission or service.name for service in self._all)

    def contexts(self, wanted: Iterable[PresentationContext] | None, only: Container[Service]) -> Contexts:
        """What these services offer.

        `wanted`: what is offered in the place of what the services in `only` perform; None for their own. The
        roles of such a context are those that a peer may take.
        """
        performed, invoked = _Side(), _Side()
        for service in self._all:
            if wanted is None or service not in only:
                performed.add_all(service, service.performed())
            invoked.add_all(service, service.invoked())
        for context in wanted or ():
            uid = context.abstract_syntax
            able = [service for service in self._all if uid in service.sop_classes or service.takes(uid)]
            any_syntax = any(service.transfer_syntaxes == ANY_TRANSFER_SYNTAX for service in able)
            syntaxes = ANY_TRANSFER_SYNTAX if any_syntax else context.transfer_syntaxes
            names = {service.permission_for(uid) for service in able}
            if context.scu_role:
                performed.add(uid, syntaxes, names)
            if context.scp_role or any(service.as_scu for service in able):
                invoked.add(uid, syntaxes, names)
        return Contexts(performed.syntaxes, invoked.syntaxes, performed.names, invoked.names)

    def ended(self, association: Any) -> None:
        """Tell the services that an association is over."""
        for service in self._ending:
            try:
                service.association_ended(association)
            except Exception:
                log.exception("%s: association_ended of %s failed", association, service.name)

    def negotiate(self, sop_class_uid: str, requested: bytes) -> bytes | None:
        """The answer to a SOP Class Extended Negotiation item; None if no service has one."""
        for service in self._negotiating:
            if sop_class_uid in service.sop_classes or service.takes(sop_class_uid):
                try:
                    answer = service.negotiate(sop_class_uid, requested)
                except Exception:
                    log.exception("the service %s cannot negotiate %s", service.name, sop_class_uid)
                    continue
                if answer is not None:
                    return answer
        return None

    def prefer(self, sop_class_uid: str, transfer_syntaxes: tuple[str, ...]) -> Sequence[str]:
        """The order of the first service that sends instances of this class and has one."""
        for service in self._preferring:
            if sop_class_uid in service.invoked():
                try:
                    return service.prefer(sop_class_uid, transfer_syntaxes)
                except Exception:
                    log.exception("the service %s cannot prefer for %s", service.name, sop_class_uid)
        return transfer_syntaxes


def _has_own(service: Service, method: str) -> bool:
    return getattr(type(service), method) is not getattr(Service, method)


class _Side:
    """Contexts in one of our roles, while they are gathered."""

    def __init__(self) -> None:
        self.syntaxes: dict[str, tuple[str, ...]] = {}
        self.names: dict[str, frozenset[str]] = {}

    def add(self, uid: str, syntaxes: tuple[str, ...], names: Iterable[str]) -> None:
        self.syntaxes.setdefault(uid, syntaxes)
        self.names[uid] = self.names.get(uid, frozenset()).union(names)

    def add_all(self, service: Service, offered: Mapping[str, tuple[str, ...]]) -> None:
        for uid, syntaxes in offered.items():
            self.add(uid, syntaxes, (service.permission_for(uid),))
