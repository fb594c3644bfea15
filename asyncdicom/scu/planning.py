"""What a C-GET has to propose: presentation contexts must fit instances that nobody has seen yet.

A context holds one transfer syntax (see `retrieval_contexts`) and an association holds 128 contexts.
So the peer is asked first: a C-FIND down to the IMAGE level tells the SOP classes and, where the peer
answers Available Transfer Syntax UID (0008,3002), their transfer syntaxes. What does not fit in one
association is divided over several. Where the peer does not tell, `DEFAULT_PAIRS` is proposed, or
the classes that it told with `SYNTAXES`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby, product
from typing import TYPE_CHECKING, Any, NamedTuple

from asyncdicom import uid
from asyncdicom.data.elements import Element, decode
from asyncdicom.data.scanner import Scanner
from asyncdicom.exceptions import DataSetError, PresentationContextError, StatusError
from asyncdicom.options import OPERATIONS
from asyncdicom.scu.identifiers import UNIQUE_KEYS
from asyncdicom.services.contexts import MAXIMUM_CONTEXTS
from asyncdicom.telemetry.log import Log

if TYPE_CHECKING:
    from asyncdicom.association import Association
    from asyncdicom.scu.identifiers import Wanted
    from asyncdicom.services.responses import Identifier

__all__ = ["DEFAULT_PAIRS", "Found", "Share", "divide", "find_instances"]

log = Log("asyncdicom.scu")

Pair = tuple[str, str]
"""SOP class and transfer syntax."""

_MOST_ELEMENTS = 16_384  # of a match
_MOST_SYNTAXES = 64  # of an instance; an association has room for twice as many contexts
_MOST_INSTANCES = 100_000  # of a retrieval: beyond it the list of usual contexts is proposed
_UIDS_AT_ONCE = 500  # a UI value in explicit VR has at most 65,534 bytes, a UID 64

# What a match is looked through for.
_TAGS = {
    "SOPClassUID": 0x00080016,
    "SOPInstanceUID": 0x00080018,
    "AvailableTransferSyntaxUID": 0x00083002,
    "StudyInstanceUID": 0x0020000D,
    "SeriesInstanceUID": 0x0020000E,
}

# For an instance whose SOP class is known, and nothing else.
SYNTAXES = (
    uid.EXPLICIT_VR_LITTLE_ENDIAN,
    uid.IMPLICIT_VR_LITTLE_ENDIAN,
    uid.JPEG_2000_LOSSLESS,
    uid.JPEG_LOSSLESS_SV1,
    uid.JPEG_LS_LOSSLESS,
    uid.RLE_LOSSLESS,
    uid.JPEG_2000,
    uid.JPEG_BASELINE_8BIT,
    uid.JPEG_EXTENDED_12BIT,
    uid.JPEG_LOSSLESS,
    uid.JPEG_LS_NEAR_LOSSLESS,
    uid.HTJ2K_LOSSLESS,
    uid.DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    uid.EXPLICIT_VR_BIG_ENDIAN,
    uid.MPEG4_HIGH_PROFILE_4_1,
    uid.HEVC_MAIN_PROFILE_5_1,
)

# For instances of which nothing is known: SOP classes below 1.2.840.10008.5.1.4.1.1.
_OFTEN_COMPRESSED = """
    1 1.1 1.2 2 2.1 3.1 4 6.1 7 12.1
"""  # CR, DX, mammography, CT, enhanced CT, multi-frame US, MR, US, secondary capture, XA
_OTHERS = """
    4.1 1.3 1.2.1 7.1 7.2 7.3 7.4 9.1.1 9.1.2 11.1 12.2 13.1.3 20 30 66 66.4 77.1.4.1
    88.11 88.22 88.33 88.59 88.67 104.1 128 481.1 481.2 481.3 481.5
"""
_COMPRESSED_SYNTAXES = (
    uid.EXPLICIT_VR_LITTLE_ENDIAN,
    uid.IMPLICIT_VR_LITTLE_ENDIAN,
    uid.JPEG_2000_LOSSLESS,
    uid.JPEG_LOSSLESS_SV1,
    uid.JPEG_LS_LOSSLESS,
    uid.JPEG_2000,
    uid.JPEG_BASELINE_8BIT,
)


def _classes(endings: str) -> list[str]:
    return [f"1.2.840.10008.5.1.4.1.1.{ending}" for ending in endings.split()]


DEFAULT_PAIRS: tuple[Pair, ...] = (
    *product(_classes(_OFTEN_COMPRESSED), _COMPRESSED_SYNTAXES),
    *product(_classes(_OTHERS), SYNTAXES[:2]),
)


class Found(NamedTuple):
    """An instance: the unique keys of the levels above it, and what it may be sent as."""

    parents: tuple[Pair, ...]
    sop_instance_uid: str
    pairs: tuple[Pair, ...]


class Share(NamedTuple):
    """What goes over one association: what it has to propose, and the C-GET requests."""

    pairs: tuple[Pair, ...]
    identifiers: tuple[Identifier, ...]


async def find_instances(association: Association, query: Wanted) -> list[Found]:
    """Ask for all instances that `query` will retrieve, level by level (PS3.4 C.4.1.3.1).

    Gives nothing if the peer does not answer such queries.
    """
    model = query.model
    if model.levels[-1] != "IMAGE":
        return []
    position = model.levels.index(query.level or "")
    keys = [UNIQUE_KEYS[level] for level in model.levels[: position + 1]]
    nodes = _spread({key: query.identifier.get(key) for key in keys})
    if query.level == "IMAGE":
        position -= 1
    try:
        for level in model.levels[position + 1 :]:
            nodes = await _below(association, query, nodes, level)
    except (StatusError, PresentationContextError, _TooMany) as error:
        log.info("the peer does not tell what there is (%s): proposing a list of usual contexts", error)
        return []
    return [_found(node) for node in nodes]


class _TooMany(Exception):
    """The peer answers with more than is kept in memory."""


def _spread(keys: Mapping[Any, Any]) -> list[dict[str, Any]]:
    """One node for each combination of the values, which may be lists of UIDs."""
    given = {key: value for key, value in keys.items() if value}
    lists = [[value] if isinstance(value, str) else list(value) for value in given.values()]
    return [dict(zip(given, map(str, values), strict=True)) for values in product(*lists)]


async def _below(
    association: Association, query: Wanted, nodes: Sequence[dict[str, Any]], level: str
) -> list[dict[str, Any]]:
    """Ask for what is below all of them: a distance counts once for as many as the window allows."""
    window = association.operations_invoked or OPERATIONS
    found: list[dict[str, Any]] = []
    number = itertools.count(1)  # of what all questions find: it has to fit into memory
    for start in range(0, len(nodes), window):
        asked = [
            asyncio.ensure_future(_children(association, query, node, level, number))
            for node in nodes[start : start + window]
        ]
        try:
            for each in asked:
                found += await each
        finally:
            for each in asked:
                each.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
    return found


async def _children(
    association: Association,
    query: Wanted,
    node: dict[str, Any],
    level: str,
    kept: Iterator[int],
) -> list[dict[str, Any]]:
    asked = [UNIQUE_KEYS[level]]
    if level == "IMAGE":
        asked += ["SOPClassUID", "AvailableTransferSyntaxUID"]
    operation = association.c_find(
        {"QueryRetrieveLevel": level} | dict.fromkeys(asked, "") | node,
        information_model=query.model,
        raw=True,  # of a study of 5,000 images, data sets would take longer than all the rest
    )
    syntax = next(
        context.transfer_syntax
        for context in association.contexts.values()
        if context.abstract_syntax == query.sop_class("find")
    )
    children, number = list[dict[str, Any]](), 0
    async with operation as matches:
        async for match in matches:
            number += 1
            found = _uids_in(match, syntax, asked)
            if found.get(asked[0]):
                children.append(node | found)
                number = max(number, next(kept))
            if number > _MOST_INSTANCES:  # of use or not
                raise _TooMany(f"more than {_MOST_INSTANCES} matches")
    return children


def _uids_in(match: bytes, transfer_syntax: str, asked: Sequence[str]) -> dict[str, Any]:
    """The UIDs that a match tells, by keyword; of a match that cannot be read, none."""
    found: dict[str, Any] = dict.fromkeys(asked)
    keywords = {_TAGS[keyword]: keyword for keyword in asked}
    try:
        elements = _elements_of(match, transfer_syntax, frozenset(keywords))
    except DataSetError as error:
        log.warning("a match of the C-FIND cannot be read, and is left out: %s", error)
        return found
    for tag, _, value in elements:
        if tag in keywords:
            uids = [uid.strip("\0 ") for uid in value.decode("ascii", "replace").split("\\")]
            found[keywords[tag]] = uids[0] if len(uids) == 1 else uids
    return found


def _elements_of(match: bytes, transfer_syntax: str, tags: frozenset[int]) -> Iterable[Element]:
    scanner = Scanner(transfer_syntax, tags)
    try:  # nearly every match is one that takes no more than this
        scanner.feed(match)
        return scanner.finish().values()
    except DataSetError:
        return decode(match, transfer_syntax, strict=False, maximum_elements=_MOST_ELEMENTS)


def _found(node: dict[str, Any]) -> Found:
    sop_class, syntaxes = str(node["SOPClassUID"] or ""), node["AvailableTransferSyntaxUID"]
    if not syntaxes:
        syntaxes = SYNTAXES
    elif isinstance(syntaxes, str):
        syntaxes = [syntaxes]
    usable = [syntax for syntax in map(str, syntaxes) if uid.is_usable_uid(syntax)][:_MOST_SYNTAXES]
    is_told = uid.is_usable_uid(sop_class)
    pairs = tuple((sop_class, syntax) for syntax in usable or SYNTAXES) if is_told else DEFAULT_PAIRS
    above = [UNIQUE_KEYS[level] for level in ("PATIENT", "STUDY", "SERIES")]
    parents = tuple((key, str(node[key])) for key in above if node.get(key))
    return Found(parents, str(node["SOPInstanceUID"]), pairs)


def divide(
    found: Sequence[Found], query: Wanted, maximum: int = MAXIMUM_CONTEXTS - 1, *, one_by_one: bool = False
) -> list[Share]:
    """Divide instances over associations with at most `maximum` contexts for storage each.

    `one_by_one`: they are not all that the query is about, so each is asked for by its UID.
    """
    if not found:
        return [Share(DEFAULT_PAIRS, (query.identifier,))]
    groups: list[tuple[dict[Pair, None], list[Found]]] = []
    group_of: dict[tuple[Pair, ...], int] = {}
    for instance in found:
        if instance.pairs not in group_of:
            if not groups or len(groups[-1][0] | dict.fromkeys(instance.pairs)) > maximum:
                groups.append(({}, []))
            group_of[instance.pairs] = len(groups) - 1
            groups[-1][0].update(dict.fromkeys(instance.pairs))
        groups[group_of[instance.pairs]][1].append(instance)
    if len(groups) == 1 and not one_by_one:
        return [Share(tuple(groups[0][0]), (query.identifier,))]
    return [Share(tuple(pairs), tuple(_identifiers(members))) for pairs, members in groups]


def _identifiers(instances: Iterable[Found]) -> Iterable[Identifier]:
    for parents, members in groupby(sorted(instances), key=lambda instance: instance.parents):
        uids = [instance.sop_instance_uid for instance in members]
        for start in range(0, len(uids), _UIDS_AT_ONCE):
            yield {
                "QueryRetrieveLevel": "IMAGE",
                **dict(parents),
                "SOPInstanceUID": uids[start : start + _UIDS_AT_ONCE],
            }
