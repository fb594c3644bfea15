"""Which presentation contexts to propose, and which accepted one to use."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from asyncdicom.exceptions import PresentationContextError
from asyncdicom.net.channel import Channel
from asyncdicom.net.payload import Source
from asyncdicom.uid import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    InformationModel,
    name_of,
    transfer_syntax,
)
from asyncdicom.ul.negotiation import AcceptedContext, PresentationContext

__all__ = [
    "DEFAULT_TRANSFER_SYNTAXES",
    "MAXIMUM_CONTEXTS",
    "Proposable",
    "expand",
    "find_context",
    "groups_for_contexts",
    "groups_of_kinds",
    "retrieval_contexts",
    "storage_contexts",
]

DEFAULT_TRANSFER_SYNTAXES = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)

# Presentation context IDs are the odd numbers 1 to 255 (PS3.8 9.3.2.2).
MAXIMUM_CONTEXTS = 128

Proposable = str | PresentationContext | InformationModel
"""An abstract syntax, a whole context, or an information model (its C-FIND, C-MOVE and C-GET)."""


def expand(contexts: Iterable[Proposable]) -> list[PresentationContext]:
    """Make presentation contexts of what users write, without repeating any."""
    found: dict[PresentationContext, None] = {}
    for item in contexts:
        if isinstance(item, PresentationContext):
            found[item] = None
        elif isinstance(item, InformationModel):
            for abstract_syntax in (item.find, item.move, item.get):
                found[PresentationContext(abstract_syntax, DEFAULT_TRANSFER_SYNTAXES)] = None
        else:
            found[PresentationContext(item, DEFAULT_TRANSFER_SYNTAXES)] = None
    return list(found)


def storage_contexts(sources: Iterable[Source]) -> list[PresentationContext]:
    """Propose what these instances need: one context for each SOP class and transfer syntax."""
    pairs = dict.fromkeys((source.sop_class_uid, source.transfer_syntax_uid) for source in sources)
    return [PresentationContext(sop_class, (syntax,)) for sop_class, syntax in pairs]


def retrieval_contexts(pairs: Iterable[tuple[str, str]]) -> list[PresentationContext]:
    """Propose to receive by C-GET: one context, in the SCP role, for each (SOP class, transfer syntax).

    With several transfer syntaxes in one context the peer would choose one of them for all
    instances, and could not send those that are encoded in another.
    """
    return [
        PresentationContext(sop_class, (syntax,), scu_role=False, scp_role=True)
        for sop_class, syntax in dict.fromkeys(pairs)
    ]


def groups_for_contexts(sources: Sequence[Source], maximum: int = MAXIMUM_CONTEXTS) -> list[list[Source]]:
    """Split sources into groups of which none needs more than `maximum` contexts; order is kept."""
    groups: list[list[Source]] = []
    group_of: dict[tuple[str, str], int] = {}
    for source in sources:
        pair = (source.sop_class_uid, source.transfer_syntax_uid)
        index = group_of.setdefault(pair, len(group_of) // maximum)
        while index >= len(groups):
            groups.append([])
        groups[index].append(source)
    return groups


def groups_of_kinds(
    kinds: Iterable[tuple[str, str]], maximum: int = MAXIMUM_CONTEXTS
) -> list[list[tuple[str, str]]]:
    """Split pairs of SOP class and transfer syntax into groups that one association has contexts for."""
    pairs = list(kinds)
    return [pairs[start : start + maximum] for start in range(0, len(pairs), maximum)]


def find_context(
    channel: Channel, abstract_syntax: str, transfer_syntax_uid: str | None = None
) -> AcceptedContext:
    """Give the accepted context on which we may send this; `PresentationContextError` if there is none."""
    channel.check_open()
    accepted = []
    for context in channel.contexts.values():
        if context.abstract_syntax == abstract_syntax and context.as_scu:
            if transfer_syntax_uid is None or context.transfer_syntax == transfer_syntax_uid:
                return context
            accepted.append(transfer_syntax(context.transfer_syntax).name)
    wanted = name_of(abstract_syntax)
    if transfer_syntax_uid is not None:
        wanted += f" with {transfer_syntax(transfer_syntax_uid).name}"
    instead = f" (only with {', '.join(accepted)})" if accepted else ""
    raise PresentationContextError(f"{channel}: no accepted presentation context for {wanted}{instead}")
