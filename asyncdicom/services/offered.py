"""What a provider offers: the presentation contexts that its handlers imply."""

from __future__ import annotations

from collections.abc import Iterable

from asyncdicom.services.contexts import Proposable, expand
from asyncdicom.services.handlers import Handlers
from asyncdicom.uid import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    PATIENT_ROOT,
    PATIENT_STUDY_ONLY,
    SOP_CLASSES,
    STORAGE,
    STUDY_ROOT,
    VERIFICATION,
)
from asyncdicom.ul.negotiation import ANY_TRANSFER_SYNTAX, Policy

__all__ = ["offer"]

_MODELS = (PATIENT_ROOT, STUDY_ROOT, PATIENT_STUDY_ONLY)
_UNCOMPRESSED = (
    IMPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
)


def offer(handlers: Handlers, contexts: Iterable[Proposable] | None, unknown_storage: bool) -> Policy:
    """Make the acceptor's policy. A storage context takes any transfer syntax: nothing is decoded."""
    performed: dict[str, tuple[str, ...]] = {VERIFICATION: _UNCOMPRESSED}
    storage = dict.fromkeys(STORAGE, ANY_TRANSFER_SYNTAX)
    if handlers.c_store is not None:
        performed.update(storage)
    if handlers.c_find is not None:
        performed.update({model.find: _UNCOMPRESSED for model in _MODELS})
    if handlers.c_get is not None:
        performed.update({model.get: _UNCOMPRESSED for model in _MODELS})
    if handlers.c_move is not None:
        performed.update({model.move: _UNCOMPRESSED for model in _MODELS})
    if contexts is not None:
        wanted = expand(contexts)
        performed = {
            context.abstract_syntax: (
                ANY_TRANSFER_SYNTAX if context.abstract_syntax in storage else context.transfer_syntaxes
            )
            for context in wanted
        }
    return Policy(
        performed=performed,
        invoked=storage if handlers.c_get is not None else {},
        unknown_storage=ANY_TRANSFER_SYNTAX if unknown_storage and handlers.c_store is not None else None,
        not_storage=frozenset(SOP_CLASSES) - frozenset(STORAGE),
    )
