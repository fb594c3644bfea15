"""Which presentation contexts to propose, and which accepted one to use."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from asyncdicom.dimse.messages import CommandField
from asyncdicom.exceptions import PresentationContextError
from asyncdicom.net.channel import Channel
from asyncdicom.net.sources import Source
from asyncdicom.services.classes import SPEAKS_FOR, has_operation, may_name
from asyncdicom.uid import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    MODALITY_WORKLIST,
    PATIENT_ROOT,
    PATIENT_STUDY_ONLY,
    SOP_CLASSES,
    STORAGE,
    STUDY_ROOT,
    InformationModel,
    is_usable_uid,
    name_of,
    transfer_syntax,
)
from asyncdicom.ul.negotiation import AcceptedContext, PresentationContext

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = [
    "DEFAULT_TRANSFER_SYNTAXES",
    "MAXIMUM_CONTEXTS",
    "Proposable",
    "check_storage_contexts",
    "expand",
    "find_context",
    "find_normalized_context",
    "groups_for_contexts",
    "groups_of_kinds",
    "retrieval_contexts",
    "storage_contexts",
]

DEFAULT_TRANSFER_SYNTAXES = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)

# Presentation context IDs are the odd numbers 1 to 255 (PS3.8 9.3.2.2).
MAXIMUM_CONTEXTS = 128

Proposable: TypeAlias = "str | PresentationContext | InformationModel | Source | Dataset"
"""What can be proposed: an abstract syntax (its UID, or its name in PS3.6), a whole context, an information
model (its C-FIND, C-MOVE and C-GET), or an instance to be sent."""


def expand(contexts: Proposable | Iterable[Proposable]) -> list[PresentationContext]:
    """Make presentation contexts of what users write, without repeating any.

    Raises ValueError for a text that is neither a UID nor the name of a SOP class, TypeError for what is none
    of `Proposable`.
    """
    if isinstance(contexts, (str, PresentationContext, InformationModel)) or hasattr(contexts, "SOPClassUID"):
        contexts = (cast("Proposable", contexts),)
    found: dict[PresentationContext, None] = {}
    for item in cast("Iterable[Proposable]", contexts):
        for context in _contexts_of(item):
            found[context] = None
    return list(found)


def _contexts_of(item: Any) -> list[PresentationContext]:
    if isinstance(item, PresentationContext):
        if isinstance(item.transfer_syntaxes, str):
            item = item._replace(transfer_syntaxes=(item.transfer_syntaxes,))
        return [item._replace(abstract_syntax=_exact(item.abstract_syntax))]
    if isinstance(item, InformationModel):
        uids = [uid for uid in (item.find, item.move, item.get) if uid]
        return [PresentationContext(uid, DEFAULT_TRANSFER_SYNTAXES) for uid in uids]
    if isinstance(item, str):
        return [PresentationContext(_abstract_syntax(item), DEFAULT_TRANSFER_SYNTAXES)]
    if hasattr(item, "SOPClassUID"):  # a pydicom Dataset
        own = str(getattr(getattr(item, "file_meta", None), "TransferSyntaxUID", ""))
        return [PresentationContext(str(item.SOPClassUID), (own,) if own else DEFAULT_TRANSFER_SYNTAXES)]
    if hasattr(item, "sop_class_uid") and hasattr(item, "transfer_syntax_uid"):
        return storage_contexts([item])
    raise TypeError(
        f"contexts= takes UIDs, names of SOP classes, information models, presentation contexts, sources and "
        f"datasets, not {item!r:.100}"
    )


def _abstract_syntax(text: str) -> str:
    """The UID that is meant: by itself, or by the name of a SOP class in PS3.6."""
    plain = text.strip("\0 ")
    if plain and not plain.strip(".0123456789"):
        return str(plain)
    wanted = _key(plain)
    uid = next((uid for uid, (name, _) in SOP_CLASSES.items() if _key(name) == wanted), None)
    if uid is None:
        raise ValueError(
            f"contexts= has {text!r}, which is no UID and no SOP class of PS3.6{_suggestion(wanted)}"
        )
    return uid


def _exact(text: str) -> str:
    """As `_abstract_syntax`, but with transfer syntaxes given it may be a UID that only the peer knows."""
    try:
        return _abstract_syntax(text)
    except ValueError:
        if is_usable_uid(text):
            return text
        raise


def _key(name: str) -> str:
    return "".join(filter(str.isalnum, name)).casefold()


def _suggestion(wanted: str) -> str:
    from difflib import get_close_matches

    names = {_key(name): name for name, _ in SOP_CLASSES.values()}
    close = get_close_matches(wanted, names, n=1)
    return f"; did you mean {names[close[0]]!r}?" if close else ""


def storage_contexts(sources: Iterable[Source | Dataset]) -> list[PresentationContext]:
    """Propose what these instances need: one context for each SOP class and transfer syntax.

    Raises TypeError for what is neither a source nor a data set, such as a path.
    """
    found: dict[PresentationContext, None] = {}
    for source in sources:
        if hasattr(source, "sop_class_uid"):
            context = PresentationContext(source.sop_class_uid, (source.transfer_syntax_uid,))
            found[context] = None
        elif hasattr(source, "SOPClassUID"):
            found.update(dict.fromkeys(_contexts_of(source)))
        else:
            raise TypeError(
                f"storage_contexts() takes sources and datasets, not {source!r:.100}: open_file(path) and "
                "file_source(path) make sources of files"
            )
    return list(found)


def retrieval_contexts(kinds: Iterable[tuple[str, str] | Proposable]) -> list[PresentationContext]:
    """Propose to receive by C-GET: one context, in the SCP role, for each (SOP class, transfer syntax).

    With several transfer syntaxes in one context the peer would choose one of them for all
    instances, and could not send those that are encoded in another. What has no transfer syntax (the UID or
    the name of a SOP class) is proposed with each of `DEFAULT_TRANSFER_SYNTAXES`. Raises as `expand` does.
    """
    pairs: dict[tuple[str, str], None] = {}
    for kind in kinds:
        if type(kind) is tuple and len(kind) == 2:
            pairs[_exact(kind[0]), kind[1]] = None
            continue
        for context in _contexts_of(kind):
            pairs.update({(context.abstract_syntax, syntax): None for syntax in context.transfer_syntaxes})
    return [
        PresentationContext(sop_class, (syntax,), scu_role=False, scp_role=True)
        for sop_class, syntax in pairs
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
    other_role = False
    for context in channel.contexts.values():
        if context.abstract_syntax == abstract_syntax:
            if not context.as_scu:
                other_role = True
                continue
            if transfer_syntax_uid is None or context.transfer_syntax == transfer_syntax_uid:
                return context
            accepted.append(transfer_syntax(context.transfer_syntax).name)
    wanted = name_of(abstract_syntax)
    if transfer_syntax_uid is not None:
        wanted += f" with {transfer_syntax(transfer_syntax_uid).name}"
    if accepted:
        raise PresentationContextError(
            f"{channel}: no accepted presentation context for {wanted} (only with {', '.join(accepted)})"
        )
    if other_role:
        raise PresentationContextError(
            f"{channel}: no accepted presentation context for {wanted} with the role of the SCU for us: "
            "propose it by a PresentationContext with scu_role=True"
        )
    raise PresentationContextError(f"{channel}: {_why_not(channel, abstract_syntax, wanted)}")


def find_normalized_context(
    channel: Channel,
    sop_class_uid: str,
    command_field: CommandField,
    *,
    action_type_id: int | None = None,
    context: str | AcceptedContext | None = None,
) -> AcceptedContext:
    """Give the accepted context for a DIMSE-N request about a SOP class, or about one of its family.

    `context`: the one to use, or the abstract syntax of the one to use. N-EVENT-REPORT goes from the SCP to
    the SCU, everything else the other way. Raises `PresentationContextError` if there is none.
    """
    channel.check_open()
    if isinstance(context, AcceptedContext):
        return context
    spoken = SPEAKS_FOR.get(sop_class_uid, sop_class_uid)
    wanted = context or (sop_class_uid if spoken != sop_class_uid else None)
    is_report = command_field is CommandField.N_EVENT_REPORT_RQ
    found = []
    other_role = False
    for accepted in channel.contexts.values():
        uid = accepted.abstract_syntax
        if uid != wanted if wanted is not None else not may_name(uid, sop_class_uid):
            continue
        if not (accepted.as_scp if is_report else accepted.as_scu):
            other_role = True
            continue
        fits = has_operation(uid, command_field, action_type_id)
        found.append((not fits, uid != sop_class_uid, accepted))
    if found:
        return min(found, key=itemgetter(0, 1))[2]
    name = name_of(wanted or sop_class_uid)
    if other_role:
        role = "SCP" if is_report else "SCU"
        raise PresentationContextError(
            f"{channel}: {name} was accepted, but not with the role of the {role} for us: propose it by a "
            f"PresentationContext with {role.lower()}_role=True"
        )
    raise PresentationContextError(f"{channel}: {_why_not(channel, wanted or sop_class_uid, name)}")


def check_storage_contexts(channel: Channel) -> None:
    """Raise `PresentationContextError` if no instance could be received by a C-GET (PS3.4 C.5.3)."""
    channel.check_open()
    if not any(context.as_scp for context in channel.contexts.values()):
        raise PresentationContextError(
            f"{channel}: nothing can be received by C-GET, because no storage context in the SCP role was "
            "proposed or accepted: add retrieval_contexts([(SOP class, transfer syntax), ...]) to contexts="
        )


def _why_not(channel: Channel, abstract_syntax: str, wanted: str) -> str:
    """Why there is no context: whose decision it was, and what to do."""
    request = channel.request
    proposed = request.presentation_contexts if request is not None else ()
    if proposed and not any(context.abstract_syntax == abstract_syntax for context in proposed):
        return f"{wanted} was not proposed; add {_what_to_add(abstract_syntax)} to contexts="
    why = channel.negotiated.refused.get(abstract_syntax) if channel.negotiated is not None else None
    return f"no accepted presentation context for {wanted}" + (
        f": the peer refused it ({why})" if why else ""
    )


def _what_to_add(abstract_syntax: str) -> str:
    for name, model in _MODELS.items():
        if abstract_syntax in (model.find, model.move, model.get):
            return name
    if abstract_syntax in STORAGE:
        return "storage_contexts(sources)"
    return f'"{abstract_syntax}"'


_MODELS = {
    "STUDY_ROOT": STUDY_ROOT,
    "PATIENT_ROOT": PATIENT_ROOT,
    "PATIENT_STUDY_ONLY": PATIENT_STUDY_ONLY,
    "MODALITY_WORKLIST": MODALITY_WORKLIST,
}
