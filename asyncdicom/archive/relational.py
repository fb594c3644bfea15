"""Relational queries and retrievals: who may leave out Unique Keys of upper levels (PS3.4 C.4.1.2.2.2)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from asyncdicom.services.request import ReceivedRequest
from asyncdicom.services.service import Service
from asyncdicom.uid import PATIENT_ROOT, PATIENT_STUDY_ONLY, STUDY_ROOT

__all__ = ["Relational"]

_PERMISSIONS = {
    getattr(model, name): name
    for model in (PATIENT_ROOT, STUDY_ROOT, PATIENT_STUDY_ONLY)
    for name in ("find", "move", "get")
}
_ANYBODY = "*"
_SUPPORTED = b"\x01"
_BYTES = 5  # that are defined; of others nobody knows what is agreed to


class Relational(Service):
    """Agrees to relational queries and retrievals, and to nothing else that PS3.4 C.5 negotiates.

    `callers`: the AE titles that need not negotiate it, or "*" for all.
    """

    name = "relational queries"
    permission = "find"
    sop_classes = tuple(_PERMISSIONS)

    def __init__(self, callers: Collection[str] = ()) -> None:
        self._callers = frozenset([callers] if isinstance(callers, str) else callers)

    def performed(self) -> Mapping[str, tuple[str, ...]]:
        """Nothing: others offer these contexts."""
        return {}

    def permission_for(self, abstract_syntax: str) -> str:
        """It grants nothing beyond the service that it is about."""
        return _PERMISSIONS.get(abstract_syntax, self.permission)

    def negotiate(self, sop_class_uid: str, requested: bytes) -> bytes | None:
        """Agree to the first byte, if it asks for that, and to none of the others (PS3.4 C.5)."""
        answer = bytearray(min(len(requested), _BYTES))
        if requested[:1] == _SUPPORTED:
            answer[0] = 1
        return bytes(answer) or None

    def may_ask(self, request: ReceivedRequest[Any]) -> bool:
        """Tell whether a request may leave out these keys."""
        agreed = request.extended_negotiation
        if agreed is not None and agreed[:1] == _SUPPORTED:
            return True
        return bool(self._callers) and (
            _ANYBODY in self._callers or request.calling_ae_title in self._callers
        )
