"""What can be proposed, and what is said about what was not."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from helpers.peer import CT, MR, instance, listening
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID

from asyncdicom import (
    MODALITY_WORKLIST,
    PATIENT_ROOT,
    STUDY_ROOT,
    VERIFICATION,
    BytesSource,
    PresentationContext,
    PresentationContextError,
    Request,
    associate,
    retrieval_contexts,
    serve,
    storage_contexts,
)
from asyncdicom.dataset import as_tags
from asyncdicom.services.contexts import (
    DEFAULT_TRANSFER_SYNTAXES,
    contexts_for,
    expand,
    groups_of_kinds,
    in_order,
)
from asyncdicom.uid import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    JPEG_BASELINE_8BIT,
)
from asyncdicom.ul.negotiation import Policy, answer
from asyncdicom.ul.pdu import AAssociateRJ

MPPS = "1.2.840.10008.3.1.2.3.3"


def default(*uids: str) -> list[PresentationContext]:
    return [PresentationContext(uid, DEFAULT_TRANSFER_SYNTAXES) for uid in uids]


def each(sop_class: str, *syntaxes: str) -> list[PresentationContext]:
    return [PresentationContext(sop_class, (syntax,)) for syntax in syntaxes]


def dataset(syntax: str | None = None) -> Dataset:
    found = Dataset()
    found.SOPClassUID = CT
    if syntax is not None:
        found.file_meta = FileMetaDataset()
        found.file_meta.TransferSyntaxUID = UID(syntax)
    return found


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ([CT, MR, CT], default(CT, MR)),
        (CT, default(CT)),
        (f"{CT}\0", default(CT)),
        ("CT Image Storage", default(CT)),
        (["ct image storage", "CTImageStorage"], default(CT)),
        (["1.2.826.0.1.3680043.8.498.1"], default("1.2.826.0.1.3680043.8.498.1")),
        (STUDY_ROOT, default(STUDY_ROOT.find, STUDY_ROOT.move, STUDY_ROOT.get)),
        ([MODALITY_WORKLIST], default(MODALITY_WORKLIST.find)),
        (PresentationContext(CT, ("1.2",), False, True), [PresentationContext(CT, ("1.2",), False, True)]),
        (dataset(), default(CT)),
        (
            [dataset(EXPLICIT_VR_LITTLE_ENDIAN)],
            each(CT, EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN),
        ),
        ([dataset(JPEG_BASELINE_8BIT)], each(CT, JPEG_BASELINE_8BIT)),
        ([instance()], each(CT, EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)),
        ((), []),
    ],
)
def test_what_can_be_written(written: Any, expected: list[PresentationContext]) -> None:
    assert expand(written) == expected


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        (["CT Image Store"], ValueError, "did you mean 'CT Image Storage'?"),
        (["nothing like it at all"], ValueError, "no SOP class of PS3.6$"),
        ([""], ValueError, "no SOP class of PS3.6$"),
        ([None], TypeError, "not None"),
        ([5], TypeError, "not 5"),
        ([("1.2", ("1.2",))], TypeError, "contexts= takes UIDs, names"),
    ],
)
def test_what_cannot(wrong: Any, error: type[Exception], says: str) -> None:
    for door in (associate, serve):
        with pytest.raises(error, match=says):
            door("SCP@127.0.0.1:0", contexts=wrong)


@pytest.mark.parametrize("contexts", [None, 5, Path("x"), Dataset(), [Dataset()], [b"1.2"]])
def test_what_is_nothing_of_the_kind_is_told(contexts: Any) -> None:
    with pytest.raises(TypeError, match="contexts= takes UIDs, names of SOP classes"):
        expand(contexts)


def test_the_content_of_a_data_set_is_not_told() -> None:
    dataset = Dataset()
    dataset.PatientName = "DOE^JOHN"
    for contexts in (dataset, [dataset]):
        with pytest.raises(TypeError, match="not a data set without SOP Class UID"):
            expand(contexts)


async def test_what_was_not_proposed_is_told_with_what_to_add() -> None:
    async with (
        serve("SCP@127.0.0.1:0") as server,
        associate(f"SCP@127.0.0.1:{server.port}", contexts=[VERIFICATION, MR]) as association,
    ):
        for call, advice in (
            (lambda: association.c_find({}), "add STUDY_ROOT to contexts="),
            (lambda: association.c_find({}, information_model=PATIENT_ROOT), "add PATIENT_ROOT to"),
            (lambda: association.c_find({}, information_model=MODALITY_WORKLIST), "add MODALITY_WORKLIST to"),
        ):
            with pytest.raises(PresentationContextError, match=f"was not proposed; {advice}"):
                call()
        with pytest.raises(
            PresentationContextError, match=r"was not proposed; add storage_contexts\(sources\)"
        ):
            await association.c_store(instance())
        with pytest.raises(PresentationContextError, match=f'was not proposed; add "{MPPS}" to contexts='):
            await association.n_get(MPPS, "1.2")
        with pytest.raises(
            PresentationContextError,
            match=r"no accepted presentation context for MR Image Storage.*: the peer refused it "
            r"\(abstract syntax not supported\)",
        ):
            await association.c_store(instance(sop_class=MR))


@pytest.mark.parametrize(
    ("context", "policy", "why"),
    [
        (PresentationContext(CT, (EXPLICIT_VR_LITTLE_ENDIAN,)), Policy({}), "abstract syntax not supported"),
        (
            PresentationContext(CT, (EXPLICIT_VR_LITTLE_ENDIAN,)),
            Policy({CT: (IMPLICIT_VR_LITTLE_ENDIAN,)}),
            "transfer syntaxes not supported",
        ),
        (PresentationContext(CT, (EXPLICIT_VR_LITTLE_ENDIAN,)), Policy({CT: ()}), "user rejection"),
    ],
)
async def test_what_was_refused_is_told_with_the_reason_of_the_peer(
    context: PresentationContext, policy: Policy, why: str
) -> None:
    async with listening() as listener:
        opening = associate(f"SCP@127.0.0.1:{listener.port}", contexts=[context, VERIFICATION])
        connecting = asyncio.ensure_future(opening)
        peer = await listener.peer()
        verdict = answer(await peer.requested(), policy)
        assert not isinstance(verdict, AAssociateRJ)
        peer.write(verdict[0].encode())
        association = await connecting
        with pytest.raises(PresentationContextError, match=rf"the peer refused it \({why}\)"):
            await association.c_store(instance())
        with pytest.raises(PresentationContextError, match="was not proposed"):
            await association.c_store(instance(sop_class=MR))
        peer.reset()
        await association.abort()


async def test_a_context_in_the_other_role_is_told() -> None:
    contexts: list[Any] = [STUDY_ROOT.get, *retrieval_contexts([(CT, EXPLICIT_VR_LITTLE_ENDIAN)])]
    async with listening() as listener:
        connecting = asyncio.ensure_future(associate(f"SCP@127.0.0.1:{listener.port}", contexts=contexts))
        peer = await listener.peer()
        await peer.accept()
        association = await connecting
        with pytest.raises(PresentationContextError, match="with the role of the SCU for us: propose it by"):
            await association.c_store(instance())
        peer.reset()
        await association.abort()


def test_contexts_for_retrieval_are_written_like_others() -> None:
    def pairs(*kinds: Any) -> list[Any]:
        return [tuple(context) for context in retrieval_contexts(kinds)]

    explicit = (CT, (EXPLICIT_VR_LITTLE_ENDIAN,), False, True)
    assert pairs((CT, EXPLICIT_VR_LITTLE_ENDIAN)) == [explicit]
    assert pairs(("CT Image Storage", EXPLICIT_VR_LITTLE_ENDIAN)) == [explicit]
    both = [explicit, (CT, (IMPLICIT_VR_LITTLE_ENDIAN,), False, True)]
    assert pairs(CT) == pairs("CT Image Storage") == pairs("CTImageStorage") == both
    assert pairs(instance()) == both
    assert pairs(("1.2.3.four", "1.2")) == [("1.2.3.four", ("1.2",), False, True)], "what a peer told"
    with pytest.raises(ValueError, match="did you mean 'CT Image Storage'"):
        pairs("CT Image Strage")
    with pytest.raises(TypeError, match="takes UIDs, names"):
        pairs(17)


def test_contexts_for_storage_are_made_of_sources_and_datasets() -> None:
    both = each(CT, EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)
    assert storage_contexts([instance(), instance()]) == both
    assert storage_contexts([dataset(), dataset()]) == both
    assert storage_contexts([dataset(JPEG_BASELINE_8BIT)]) == each(CT, JPEG_BASELINE_8BIT)
    with pytest.raises(TypeError, match=r"open_file\(path\)"):
        storage_contexts(["image.dcm"])  # type: ignore[list-item]


def test_a_whole_context_by_name_and_with_one_syntax() -> None:
    written = PresentationContext("CT Image Storage", EXPLICIT_VR_LITTLE_ENDIAN)  # type: ignore[arg-type]
    assert expand([written]) == [PresentationContext(CT, (EXPLICIT_VR_LITTLE_ENDIAN,))]


async def test_a_server_does_not_speak_of_what_it_would_have_to_propose() -> None:
    seen: list[str] = []

    async def on_echo(request: Request) -> int:
        try:
            await request.association.c_store(instance())
        except PresentationContextError as error:
            seen.append(str(error))
        return 0

    async with (
        serve("SCP@127.0.0.1:0", c_echo=on_echo) as server,
        associate(f"SCP@127.0.0.1:{server.port}") as association,
    ):
        await association.c_echo()
    assert "no accepted presentation context for CT Image Storage" in seen[0]


async def test_the_roles_of_a_context_that_is_served_are_those_of_the_peer() -> None:
    offered = [PresentationContext(MPPS, (IMPLICIT_VR_LITTLE_ENDIAN,), scu_role=False, scp_role=True)]
    async with (
        serve("SCP@127.0.0.1:0", contexts=offered) as server,
        associate(f"SCP@127.0.0.1:{server.port}", contexts=offered) as association,
    ):
        [context] = association.contexts.values()
        assert (context.as_scu, context.as_scp) == (False, True)


async def test_only_another_transfer_syntax() -> None:
    context = PresentationContext(CT, (IMPLICIT_VR_LITTLE_ENDIAN,))
    async with listening() as listener:
        connecting = asyncio.ensure_future(associate(f"SCP@127.0.0.1:{listener.port}", contexts=[context]))
        peer = await listener.peer()
        await peer.accept()
        association = await connecting
        with pytest.raises(PresentationContextError, match="only with Implicit VR Little Endian"):
            await association.c_store(BytesSource(CT, "1.2.3", JPEG_BASELINE_8BIT, b""))
        peer.reset()
        await association.abort()


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("PatientName", (0x00100010,)),
        (0x00100010, (0x00100010,)),
        (["PatientName", 0x00100020], (0x00100010, 0x00100020)),
        ((), ()),
    ],
)
def test_attributes_are_tags_or_keywords(written: Any, expected: tuple[int, ...]) -> None:
    assert as_tags(written) == expected


EXPL, IMPL, BIG, DEFLATED = (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
)


@pytest.mark.parametrize(
    ("offered", "stored", "first"),
    [
        ([IMPL, EXPL], {}, IMPL),  # as it was proposed
        ([BIG, DEFLATED, IMPL, EXPL], {}, IMPL),  # nothing becomes Big Endian or Deflated
        ([JPEG_BASELINE_8BIT, EXPL], {}, JPEG_BASELINE_8BIT),
        ([IMPL, EXPL], {EXPL: 2, IMPL: 1}, EXPL),
        ([EXPL, IMPL], {EXPL: 1, IMPL: 2}, IMPL),
        ([BIG, IMPL, EXPL], {BIG: 10, EXPL: 1}, EXPL),  # which all can be sent as
        ([EXPL, IMPL, BIG], {BIG: 10}, BIG),
        ([EXPL, JPEG_BASELINE_8BIT], {JPEG_BASELINE_8BIT: 3, EXPL: 1, BIG: 1}, JPEG_BASELINE_8BIT),
        ([EXPL, JPEG_BASELINE_8BIT], {JPEG_BASELINE_8BIT: 3, EXPL: 2, BIG: 2}, EXPL),
    ],
)
def test_what_most_can_be_sent_as_is_preferred(
    offered: list[str], stored: dict[str, int], first: str
) -> None:
    ordered = in_order(offered, stored)
    assert ordered[0] == first
    assert sorted(ordered) == sorted(offered)


@pytest.mark.parametrize("count", [1, 60, 61, 130, 400])
def test_groups_have_room_for_every_way_to_send(count: int) -> None:
    kinds = [(f"1.2.{n}", (EXPL, JPEG_BASELINE_8BIT, BIG)[n % 3]) for n in range(count)]
    groups = groups_of_kinds(kinds)
    assert [kind for group in groups for kind in group] == kinds
    for group in groups:
        proposed = contexts_for(group)
        assert len(proposed) <= 120
        assert {(c.abstract_syntax, IMPL) for c in proposed if c.transfer_syntaxes == (EXPL,)} <= {
            (c.abstract_syntax, c.transfer_syntaxes[0]) for c in proposed
        }


def test_what_has_no_room_is_proposed_as_it_is() -> None:
    kinds = [(f"1.2.{n}", EXPL) for n in range(100)]
    assert contexts_for(kinds) == [PresentationContext(uid, (EXPL,)) for uid, _ in kinds]
