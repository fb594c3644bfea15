"""Whom to examine and how, and what one step leaves for the next."""

from __future__ import annotations

import ssl as ssl_module
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from asyncdicom.address import Address
from asyncdicom.options import Limits, Timeouts
from asyncdicom.uid import STUDY_ROOT, VERIFICATION

if TYPE_CHECKING:
    from asyncdicom.access import AccessPolicy
    from asyncdicom.association import Association
    from asyncdicom.doctor.causes import Cause
    from asyncdicom.exceptions import AssociationError
    from asyncdicom.net.channel import Trace
    from asyncdicom.ul.items import UserIdentity

__all__ = ["SERVICES", "Failed", "Seen", "Skipped", "Step", "Subject", "Warned"]

SERVICES: dict[str, tuple[str, ...]] = {
    "echo": (VERIFICATION,),
    "store": tuple(f"1.2.840.10008.5.1.4.1.1.{ending}" for ending in ("2", "4", "7")),  # CT, MR, SC
    "find": (STUDY_ROOT.find,),
    "get": (STUDY_ROOT.get or "",),
    "move": (STUDY_ROOT.move,),
}
"""What can be looked at, and the SOP classes of each: one of them has to be accepted."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Whom to examine, and how: what `associate` takes, and the receiver for the C-MOVE.

    `services`: those of `SERVICES` that the peer has to offer. `study`: the Study Instance UID of the study
    to try with, by default the first one that the peer finds. `receiver`: our AE title, and the host and port
    to listen on, as the peer knows them; None leaves the C-MOVE out, and so does `no_receiver`, which says
    why there is none. `access`: who may come there.
    """

    address: Address
    calling_ae_title: str
    services: tuple[str, ...] = tuple(SERVICES)
    study: str | None = None
    ssl: ssl_module.SSLContext | None = None
    server_hostname: str | None = None
    user_identity: UserIdentity | None = None
    timeouts: Timeouts = Timeouts()
    limits: Limits = Limits()
    receiver: Address | None = None
    no_receiver: str = "no receiver was given"
    receiver_ssl: ssl_module.SSLContext | None = None
    access: AccessPolicy | None = None
    trace: Trace | None = None

    def options(self) -> dict[str, Any]:
        """Give what `associate` is called with.

        No operations window is proposed: a peer that minds it would be asked twice.
        """
        return {
            "calling_ae_title": self.calling_ae_title,
            "ssl": self.ssl,
            "server_hostname": self.server_hostname,
            "user_identity": self.user_identity,
            "timeouts": self.timeouts,
            "limits": replace(self.limits, operations_invoked=1, operations_performed=1),
            "trace": self.trace,
        }


@dataclass
class Seen:
    """What the steps so far have shown."""

    association: Association | None = None
    rejection: AssociationError | None = None  # one that is about an AE title
    image: dict[str, str] | None = None  # the identifier of one image
    sop_class_uid: str = ""  # of that image
    refused: set[str] = field(default_factory=set)  # services of which no context was accepted

    @property
    def established(self) -> Association:
        """The association; only where there is one."""
        if self.association is None:
            raise RuntimeError("the steps before have to establish an association")
        return self.association


class Step(Protocol):
    """One step: gives what it has seen, or raises `Failed`, `Warned`, `Skipped` or a DicomNetworkError."""

    async def __call__(self, subject: Subject, seen: Seen, stack: AsyncExitStack, /) -> str:
        """Go this step; what stays open for the next ones is in the stack."""


class Failed(Exception):
    """The step has failed, and this is why."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(cause.name)
        self.cause = cause


class Warned(Failed):
    """The step has found something that others may mind; the next ones go on."""


class Skipped(Exception):
    """The step was not gone, and why."""
