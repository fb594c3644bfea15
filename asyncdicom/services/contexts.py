"""Which presentation contexts to propose, and which accepted one to use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from asyncdicom.dimse.messages import CommandField
from asyncdicom.exceptions import PresentationContextError
from asyncdicom.net.channel import Channel
from asyncdicom.net.sources import Source
from asyncdicom.services.classes import SPEAKS_FOR, has_operation, may_name
from asyncdicom.uid import (
    BECOMES,
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
    "Kind",
    "Proposable",
    "can_send",
    "check_storage_contexts",
    "contexts_for",
    "expand",
    "find_context",
    "find_normalized_context",
    "find_storage_context",
    "groups_for_contexts",
    "groups_of_kinds",
    "in_order",
    "retrieval_contexts",
    "sendable_kinds",
    "storage_contexts",
]

DEFAULT_TRANSFER_SYNTAXES = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)

# Presentation context IDs are the odd numbers 1 to 255 (PS3.8 9.3.2.2).
MAXIMUM_CONTEXTS = 128
_FOR_INSTANCES = 120  # of them; something else is proposed beside instances, too

Kind: TypeAlias = "tuple[str, str]"
"""SOP Class UID and Transfer Syntax UID: what an instance needs a context for."""

Proposable: TypeAlias = "str | PresentationContext | InformationModel | Source | Dataset"
"""What can be proposed: an abstract syntax (its UID, or its name in PS3.6), a whole context, an information
model (its C-FIND, C-MOVE and C-GET), or an instance to be sent."""


def expand(contexts: Proposable | Iterable[Proposable]) -> list[PresentationContext]:
    """Make presentation contexts of what users write, without repeating any.

    Raises ValueError for a text that is neither a UID nor the name of a SOP class, TypeError for what is none
    of `Proposable`.
    """
    if isinstance(contexts, (str, PresentationContext, InformationModel)) or hasattr(contexts, "walk"):
        contexts = (cast("Proposable", contexts),)
    if not isinstance(contexts, Iterable):
        raise _no_context(contexts)
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
        from asyncdicom.dataset import transfer_syntax_of  # who proposes no Dataset does not load it

        sop_class, own = str(item.SOPClassUID), transfer_syntax_of(item)
        if own is None:
            return [PresentationContext(sop_class, DEFAULT_TRANSFER_SYNTAXES)]
        return contexts_for([(sop_class, own)])
    if hasattr(item, "sop_class_uid") and hasattr(item, "transfer_syntax_uid"):
        return storage_contexts([item])
    raise _no_context(item)


def _no_context(item: Any) -> TypeError:
    what = "a data set without SOP Class UID" if hasattr(item, "walk") else f"{item!r:.100}"
    return TypeError(
        "contexts= takes UIDs, names of SOP classes, information models, presentation contexts, sources and "
        f"datasets, not {what}"
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

    For uncompressed ones also for the transfer syntaxes that they can be re-encoded to, Implicit VR Little
    Endian above all (PS3.5 10.1), as long as there is room for them. Raises TypeError for what is neither a
    source nor a data set, such as a path.
    """
    return contexts_for(kind for source in sources for kind in _kinds_of(source))


def _kinds_of(source: Source | Dataset) -> Iterator[Kind]:
    if hasattr(source, "sop_class_uid"):
        yield source.sop_class_uid, source.transfer_syntax_uid
    elif hasattr(source, "SOPClassUID"):
        for context in _contexts_of(source):
            yield from ((context.abstract_syntax, syntax) for syntax in context.transfer_syntaxes)
    else:
        raise TypeError(
            f"storage_contexts() takes sources and datasets, not {source!r:.100}: open_file(path) and "
            "file_source(path) make sources of files"
        )


def contexts_for(kinds: Iterable[Kind]) -> list[PresentationContext]:
    """See `storage_contexts`. A context has one transfer syntax: with several the peer would choose."""
    own = dict.fromkeys(kinds)
    others = [other for kind in own for other in _needed(kind)[1:]]
    proposed = own | dict.fromkeys(others)
    if len(proposed) > _FOR_INSTANCES:
        proposed = own
    return [PresentationContext(sop_class, (syntax,)) for sop_class, syntax in proposed]


def _needed(kind: Kind) -> list[Kind]:
    sop_class, syntax = kind
    return [kind, *((sop_class, other) for other in BECOMES.get(syntax, ()))]


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


def groups_for_contexts(sources: Sequence[Source], maximum: int = _FOR_INSTANCES) -> list[list[Source]]:
    """Split sources into groups of which none needs more than `maximum` contexts; order is kept."""
    kinds = dict.fromkeys((source.sop_class_uid, source.transfer_syntax_uid) for source in sources)
    group_of: dict[Kind, list[Source]] = {}
    groups: list[list[Source]] = []
    for group in groups_of_kinds(kinds, maximum):
        groups.append([])
        group_of |= dict.fromkeys(group, groups[-1])
    for source in sources:
        group_of[source.sop_class_uid, source.transfer_syntax_uid].append(source)
    return groups


def groups_of_kinds(kinds: Iterable[Kind], maximum: int = _FOR_INSTANCES) -> list[list[Kind]]:
    """Split kinds of instances into groups that one association has contexts for."""
    groups: list[list[Kind]] = []
    proposed: set[Kind] = set()
    for kind in kinds:
        more = proposed.union(_needed(kind))
        if not groups or len(more) > maximum:
            groups.append([])
            more = set(_needed(kind))
        groups[-1].append(kind)
        proposed = more
    return groups


def sendable_kinds(channel: Channel) -> set[Kind]:
    """The kinds of instances that may be sent on this association, as they are or re-encoded."""
    accepted = {(c.abstract_syntax, c.transfer_syntax) for c in channel.contexts.values() if c.as_scu}
    return accepted | {
        (sop_class, source)
        for sop_class, syntax in accepted
        for source, targets in BECOMES.items()
        if syntax in targets
    }


def can_send(contexts: Mapping[int, AcceptedContext], kind: Kind) -> bool:
    """Whether an instance may be sent on one of these contexts, as it is or re-encoded."""
    needed = _needed(kind)
    return any(c.as_scu and (c.abstract_syntax, c.transfer_syntax) in needed for c in contexts.values())


def in_order(transfer_syntaxes: Sequence[str], stored: Mapping[str, int]) -> list[str]:
    """Transfer syntaxes of which one is taken for all that is sent, that for the most instances first.

    `stored`: transfer syntax -> how many instances there are in it. First comes what most of them can be sent
    as, then what most of them have. What is not stored keeps its place, but Big Endian and Deflated, which
    nothing can be re-encoded to, come last.
    """

    sendable: Counter[str] = Counter(stored)
    for own, count in stored.items():
        for other in BECOMES.get(own, ()):
            sendable[other] += count

    def rank(syntax: str) -> tuple[int, int, bool]:
        is_rare = syntax in BECOMES and syntax not in DEFAULT_TRANSFER_SYNTAXES
        return -sendable[syntax], -stored.get(syntax, 0), is_rare

    return sorted(transfer_syntaxes, key=rank)


def find_storage_context(channel: Channel, kind: Kind) -> AcceptedContext:
    """Give the context for an instance as it is, else for what it can be re-encoded to, best first.

    Raises `PresentationContextError` if there is none.
    """
    sop_class, syntax = kind
    for accepted in channel.core.contexts.values():  # one that is over says so later
        if accepted.transfer_syntax == syntax and accepted.abstract_syntax == sop_class and accepted.as_scu:
            return accepted
    try:
        return find_context(channel, sop_class, syntax)
    except PresentationContextError:
        for context in (_accepted(channel, other) for other in _needed(kind)[1:]):
            if context is not None:
                return context
        raise


def _accepted(channel: Channel, kind: Kind) -> AcceptedContext | None:
    for context in channel.contexts.values():
        if context.as_scu and (context.abstract_syntax, context.transfer_syntax) == kind:
            return context
    return None


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
    if any(context.as_scp for context in channel.contexts.values()):
        return
    request = channel.request
    roles = request.user_information.role_selections if request is not None else ()
    if any(role.scp_role for role in roles):
        why = "the peer accepted none of those proposed"
    else:
        why = "propose some by retrieval_contexts([(SOP class, transfer syntax), ...]) in contexts="
    raise PresentationContextError(
        f"{channel}: nothing can be received by C-GET without a storage context in the SCP role: {why}"
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
