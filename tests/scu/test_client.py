"""`Client`: the daily jobs against our own server, and against peers that are short of something."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from cli.nodes import CT, JPEG, Instance, Node, data_sets, expected
from helpers.peer import MR, eventually, instance
from pydicom import Dataset

from asyncdicom import (
    Address,
    AssociationClosed,
    AssociationError,
    Client,
    DicomNetworkError,
    Limits,
    LocalProtocolError,
    PresentationContextError,
    Request,
    Server,
    Status,
    StatusError,
    Stored,
    Timeouts,
    serve,
)
from asyncdicom.services.responses import Response

STUDY = [Instance("1.1", "1.1.1", f"1.1.1.{n}") for n in (1, 2)]
OTHER = [Instance("2.1", "2.1.1", "2.1.1.1", MR), Instance("2.1", "2.1.2", "2.1.2.1", CT, JPEG)]


def address(server: Server) -> str:
    return f"SCP@127.0.0.1:{server.port}"


async def take(request: Request) -> int:
    await request.data.read()
    return 0


# asking


async def test_echo_and_what_is_open_at_the_end() -> None:
    async with serve("SCP@127.0.0.1:0") as server:
        async with Client(address(server), calling_ae_title="WS1") as pacs:
            assert server.associations == 0, "opened when it is needed"
            assert (await pacs.echo()).status.is_success
            assert (await pacs.echo()).status.is_success
            assert server.associations == 1
            assert pacs.address.ae_title == "SCP"
        await eventually(lambda: server.associations == 0)


class Leaving:
    """A peer that breaks off each association with its second request."""

    def __init__(self) -> None:
        self.seen: list[object] = []

    async def __call__(self, request: Request) -> int:
        await request.data.read()
        if any(request.association is seen for seen in self.seen):
            await request.association.abort()
        self.seen.append(request.association)
        return 0

    async def find(self, request: Request) -> AsyncIterator[dict[str, str]]:
        await self(request)
        yield {"StudyInstanceUID": "1.1"}


async def test_what_only_asks_is_asked_again_when_the_association_was_gone() -> None:
    leaving = Leaving()
    async with (
        serve("SCP@127.0.0.1:0", c_echo=leaving, c_find=leaving.find) as server,
        Client(address(server), associations=1) as pacs,
    ):
        for _ in range(3):
            assert (await pacs.echo()).status.is_success
        found = [await pacs.find() for _ in range(3)]
    assert [len(matches) for matches in found] == [1, 1, 1]
    assert sum(matches.repeated for matches in found) >= 2


async def test_it_is_not_asked_again_for_ever() -> None:
    async def aborts(request: Request) -> int:
        await request.association.abort()
        return 0

    async with serve("SCP@127.0.0.1:0", c_echo=aborts) as server, Client(address(server)) as pacs:
        with pytest.raises(AssociationError):
            await pacs.echo()


async def test_no_peer() -> None:
    server = await serve("SCP@127.0.0.1:0")
    await server.close()
    async with Client(address(server)) as pacs:
        with pytest.raises(AssociationClosed):
            await pacs.echo()
        with pytest.raises(AssociationClosed):
            await pacs.find({"PatientID": "1"})
        with pytest.raises(AssociationClosed):
            await pacs.move("1.1", "WS1")
        with pytest.raises(AssociationClosed) as caught:
            await pacs.store([instance(), instance()])
    assert len(caught.value.result.failed) == 2


async def test_find() -> None:
    node = Node(STUDY)
    async with serve("SCP@127.0.0.1:0", c_find=node.find) as server, Client(address(server)) as pacs:
        studies = await pacs.find({"StudyInstanceUID": ["1.1", "9.9"]}, returned=[])
        assert [match.StudyInstanceUID for match in studies] == ["1.1"]
        assert studies.optional_keys_supported
        series = {"StudyInstanceUID": "1.1", "SeriesInstanceUID": "1.1.1"}
        found = [match.SOPInstanceUID async for match in pacs.find(series, level="IMAGE", returned=[])]
        assert found == ["1.1.1.1", "1.1.1.2"]
        with pytest.raises(StatusError, match="0xA900"):  # the node is strictly hierarchical
            await pacs.find({"SeriesInstanceUID": "1.1.1"})
        with pytest.raises(ValueError, match="has the levels"):
            pacs.find(level="SLICE")
        with pytest.raises(PresentationContextError):
            await pacs.worklist()
        finding = pacs.find({"StudyInstanceUID": "1.1"}, returned=[])
        await finding
        with pytest.raises(LocalProtocolError, match="started before"):
            await finding


async def endless(request: Request) -> AsyncIterator[dict[str, str]]:
    number = 0
    while True:
        number += 1
        yield {"StudyInstanceUID": f"1.{number}", "PatientName": "<b>DOE^JANE</b>"}


async def test_a_million_matches_are_bounded() -> None:
    limits = Limits(maximum_matches=None)
    async with serve("SCP@127.0.0.1:0", c_find=endless, limits=limits) as server:
        async with Client(address(server)) as pacs:
            with pytest.raises(DicomNetworkError, match="more than 50 matches") as caught:
                await pacs.find(maximum_matches=50)
            assert len(caught.value.result) == 50
            given = 0
            with pytest.raises(DicomNetworkError, match="more than 30 matches"):
                async for _ in pacs.find(maximum_matches=30):
                    given += 1
            assert given == 30
            async with aclosing(aiter(pacs.find())) as matches:
                async for _ in matches:
                    break
            assert (await pacs.echo()).status.is_success
            assert server.associations == 1, "the query was cancelled, and its association is used again"


async def test_matches_that_are_of_no_use_to_a_retrieval_come_to_an_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What there is to retrieve is asked first: a peer that answers for ever, without UIDs, is left alone."""
    monkeypatch.setattr("asyncdicom.scu.planning._MOST_INSTANCES", 20)

    async def useless(request: Request) -> AsyncIterator[dict[str, str]]:
        while True:
            yield {"PatientName": "DOE^JANE"}

    async def give(request: Request) -> int:
        await request.data.read()
        return 0

    limits = Limits(maximum_matches=None)
    async with serve("SCP@127.0.0.1:0", c_find=useless, c_get=give, limits=limits) as server:
        async with Client(address(server)) as pacs:
            retrieved = pacs.retrieve({"StudyInstanceUID": "1.1"})
            assert [instance async for instance in retrieved] == []
            assert retrieved.result.methods == {"get"}


async def test_worklist_keys_are_put_into_their_sequence() -> None:
    asked: list[Dataset] = []

    async def on_find(request: Request) -> AsyncIterator[Dataset]:
        asked.append(await request.identifier())
        yield asked[-1]

    from asyncdicom import MODALITY_WORKLIST

    async with serve("SCP@127.0.0.1:0", c_find=on_find, contexts=MODALITY_WORKLIST) as server:
        async with Client(address(server)) as ris:
            items = await ris.worklist({"Modality": "CT", "ScheduledStationAETitle": "CT1", "PatientID": "1"})
    (step,) = asked[0].ScheduledProcedureStepSequence
    assert (step.Modality, step.ScheduledStationAETitle) == ("CT", "CT1")
    assert "ScheduledProcedureStepStartDate" in step
    assert "Modality" not in asked[0]
    assert (asked[0].PatientID, asked[0].PatientName) == ("1", None) or asked[0].PatientName == ""
    assert len(items) == 1


# retrieving


async def test_retrieve_by_c_get_to_a_folder(tmp_path: Path) -> None:
    node = Node([*STUDY, *OTHER])
    async with serve("SCP@127.0.0.1:0", c_find=node.find, c_get=node.retrieve) as server:
        async with Client(address(server)) as pacs:
            (match,) = await pacs.find({"StudyInstanceUID": "2.1"}, returned=[])
            came = []
            async for one in pacs.retrieve(match, to=tmp_path / "in"):
                assert one.path is not None
                assert one.path.exists()
                came.append(one.sop_instance_uid)
            assert sorted(came) == ["2.1.1.1", "2.1.2.1"]
            assert pacs.method == "get"
            retrieved = await pacs.retrieve(["1.1", match], to=tmp_path / "in")
    assert data_sets(tmp_path / "in") == expected([*STUDY, *OTHER])
    assert len(retrieved.raise_for_failures().instances) == 4
    assert (retrieved.status, retrieved.failed, retrieved.methods) == (0, {}, {"get"})
    studies = await asyncio.to_thread(lambda: {one.dataset().StudyInstanceUID for one in retrieved.instances})
    assert studies == {"1.1", "2.1"}


async def test_retrieve_in_memory_holds_the_peer_back() -> None:
    node = Node(STUDY)
    async with serve("SCP@127.0.0.1:0", c_find=node.find, c_get=node.retrieve) as server:
        async with Client(address(server)) as pacs:
            datasets = [one.dataset() async for one in pacs.retrieve({"StudyInstanceUID": "1.1"})]
            with pytest.raises(ValueError, match="say where to"):
                await pacs.retrieve("1.1")
    assert [dataset.SOPInstanceUID for dataset in datasets] == ["1.1.1.1", "1.1.1.2"]


async def test_keys_without_a_uid_are_looked_up_first(tmp_path: Path) -> None:
    node = Node([*STUDY, *OTHER])

    async def find(request: Request) -> AsyncIterator[dict[str, str]]:
        identifier = await request.identifier()
        if identifier.get("PatientID") == "P1":
            yield {"QueryRetrieveLevel": "STUDY", "PatientID": "P1", "StudyInstanceUID": "1.1"}
            return
        async for match in node.find(request):
            yield match

    async with serve("SCP@127.0.0.1:0", c_find=find, c_get=node.retrieve) as server:
        async with Client(address(server)) as pacs:
            retrieved = await pacs.retrieve({"PatientID": "P1"}, to=tmp_path)
    assert len(retrieved.instances) == 2


def moving(node: Node, port: Callable[[], int], **more: Any) -> Any:
    def destination(request: Request) -> Any:
        return Address("WS1", "127.0.0.1", port()) if request.move_destination == "WS1" else None

    return serve("SCP@127.0.0.1:0", c_find=node.find, c_move=node.retrieve, destinations=destination, **more)


async def test_retrieve_by_c_move_where_there_is_no_c_get(tmp_path: Path) -> None:
    node = Node([*STUDY, *OTHER])
    ports = [0]
    async with moving(node, lambda: ports[0]) as server:
        async with Client(address(server), calling_ae_title="WS1", listen="127.0.0.1:0") as pacs:
            assert pacs.listens_on is not None
            ports[0] = pacs.listens_on.port
            retrieved = await pacs.retrieve(["1.1", "2.1"], to=tmp_path)
            assert pacs.method == "move"
            assert (await pacs.retrieve("1.1", to=tmp_path)).methods == {"move"}
        async with Client(address(server)) as pacs:
            with pytest.raises(PresentationContextError, match=r"takes no C-GET.*listen="):
                await pacs.retrieve("1.1", to=tmp_path)
    assert (len(retrieved.instances), retrieved.number_failed) == (4, 0)
    assert data_sets(tmp_path) == expected([*STUDY, *OTHER])


async def test_each_node_of_several_is_sent_what_it_has_asked_for(tmp_path: Path) -> None:
    """Behind a balancer, too: a C-MOVE to itself names an AE title of the node, and comes to its own port."""
    ports: dict[str, int] = {}

    def destination(request: Request) -> Address:
        return Address(request.move_destination, "127.0.0.1", ports[request.move_destination])

    node = Node([*STUDY, *OTHER])
    async with (
        serve("SCP@127.0.0.1:0", c_find=node.find, c_move=node.retrieve, destinations=destination) as server,
        Client(address(server), listen="NODE1@127.0.0.1:0") as one,
        Client(address(server), listen="NODE2@127.0.0.1:0") as other,
    ):
        for client in (one, other):
            assert client.listens_on is not None
            ports[client.listens_on.ae_title] = client.listens_on.port
        assert len(ports) == 2
        told = await asyncio.gather(
            one.retrieve("1.1", to=tmp_path / "1"), other.retrieve("2.1", to=tmp_path / "2")
        )
    assert [(len(each.instances), each.methods) for each in told] == [(2, {"move"})] * 2
    assert data_sets(tmp_path / "1") == expected(STUDY)
    assert data_sets(tmp_path / "2") == expected(OTHER)


async def test_a_peer_that_offers_c_get_and_does_not_have_it(tmp_path: Path) -> None:
    node = Node(STUDY)
    ports = [0]

    async def no_get(request: Request) -> int:
        return Status.SOP_CLASS_NOT_SUPPORTED

    async with moving(node, lambda: ports[0], c_get=no_get) as server:
        async with Client(address(server), calling_ae_title="WS1", listen="127.0.0.1:0") as pacs:
            assert pacs.listens_on is not None
            ports[0] = pacs.listens_on.port
            retrieved = await pacs.retrieve("1.1", to=tmp_path)
    assert (len(retrieved.instances), retrieved.methods, retrieved.status) == (2, {"move"}, 0)


async def test_a_peer_that_does_not_know_us(tmp_path: Path) -> None:
    async with moving(Node(STUDY), lambda: 0) as server:
        async with Client(address(server), calling_ae_title="WHO", listen="127.0.0.1:0") as pacs:
            with pytest.raises(StatusError, match="0xA801") as caught:
                await pacs.retrieve("1.1", to=tmp_path)
            with pytest.raises(StatusError, match="0xA801"):
                await pacs.move("1.1", "NOBODY")
    assert caught.value.result.instances == []


async def test_what_a_move_sends_elsewhere_is_told(tmp_path: Path) -> None:
    node = Node(STUDY)
    async with (
        serve("WS1@127.0.0.1:0", c_store=take) as elsewhere,
        moving(node, lambda: elsewhere.port) as server,
    ):
        async with Client(address(server), calling_ae_title="WS1", listen="127.0.0.1:0") as pacs:
            retrieved = await pacs.retrieve("1.1", to=tmp_path)
            assert "did not come here" in (retrieved.error_comment or "")
            assert retrieved.number_failed == 2
            with pytest.raises(DicomNetworkError, match="2 instances were not retrieved"):
                retrieved.raise_for_failures()
            progress: list[Any] = []
            moved = await pacs.move(["1.1"], "WS1", on_progress=progress.append)
            assert (moved.status, moved.completed) == (0, 2)
            assert progress


async def test_what_nobody_asked_for_is_not_let_in(tmp_path: Path) -> None:
    async with serve("SCP@127.0.0.1:0") as server:
        async with Client(address(server), listen="127.0.0.1:0") as pacs:
            assert pacs.listens_on is not None
            there = f"ANY@127.0.0.1:{pacs.listens_on.port}"
            async with Client(there, calling_ae_title="SCP") as peer:
                result = await peer.store(instance())
    assert [stored.error for stored in result.failed] == ["nothing was asked for"]


@pytest.mark.parametrize("in_memory", [True, False])
async def test_instances_that_were_not_asked_for_are_refused(tmp_path: Path, in_memory: bool) -> None:
    node = Node([*STUDY, *OTHER])

    async def everything(request: Request) -> Any:
        retrieval = await node.retrieve(request)
        return retrieval._replace(sources=[one.source() for one in [*STUDY, *OTHER[:1]]])

    async with serve("SCP@127.0.0.1:0", c_find=node.find, c_get=everything) as server:
        async with Client(address(server), limits=Limits(operations_performed=1)) as pacs:
            retrieving = pacs.retrieve("1.1", to=None if in_memory else tmp_path)
            came = [one.sop_instance_uid async for one in retrieving]
    assert came == ["1.1.1.1", "1.1.1.2"]
    assert retrieving.result.number_failed == 1
    assert list(tmp_path.iterdir()) == ([] if in_memory else sorted(tmp_path.glob("1.1.1.?.dcm")))


async def test_more_than_is_wanted_is_refused(tmp_path: Path) -> None:
    node = Node(STUDY)
    async with serve("SCP@127.0.0.1:0", c_find=node.find, c_get=node.retrieve) as server:
        async with Client(address(server)) as pacs:
            retrieved = await pacs.retrieve("1.1", to=tmp_path, maximum_instances=1)
    assert len(retrieved.instances) == 1
    assert list(retrieved.failed.values()) == ["more instances than maximum_instances"]
    assert retrieved.status == Status.SUB_OPERATIONS_WARNING


async def test_what_was_promised_and_did_not_come_is_named(tmp_path: Path) -> None:
    node = Node(STUDY)

    async def fewer(request: Request) -> Any:
        return (await node.retrieve(request))._replace(sources=[STUDY[0].source()])

    async with serve("SCP@127.0.0.1:0", c_find=node.find, c_get=fewer) as server:
        async with Client(address(server)) as pacs:
            retrieved = await pacs.retrieve("1.1", to=tmp_path)
    assert retrieved.failed == {"1.1.1.2": "the peer did not send it"}


async def test_a_retrieval_goes_on_where_it_was_broken_off(tmp_path: Path) -> None:
    many = [Instance("1.1", "1.1.1", f"1.1.1.{n}") for n in range(1, 6)]
    node = Node(many)
    is_broken: list[bool] = []

    async def breaks(request: Request) -> Any:
        retrieval: Any = await node.retrieve(request)
        if is_broken:
            return retrieval
        is_broken.append(True)

        class Breaking:
            kinds = frozenset({(CT, many[0].AvailableTransferSyntaxUID)})

            def __len__(self) -> int:
                return 5

            async def __aiter__(self) -> AsyncIterator[Any]:
                for source in retrieval.sources[:3]:
                    yield source
                    await asyncio.sleep(0.01)
                await request.association.abort()

        return retrieval._replace(sources=Breaking())

    async with serve("SCP@127.0.0.1:0", c_find=node.find, c_get=breaks) as server:
        async with Client(address(server), limits=Limits(operations_performed=1)) as pacs:
            retrieved = await pacs.retrieve("1.1", to=tmp_path)
    assert data_sets(tmp_path) == expected(many)
    assert (len(retrieved.instances), retrieved.reconnected, retrieved.number_failed) == (5, 1, 0)
    again = node.gets_asked[1]
    assert again["QueryRetrieveLevel"] == "IMAGE"
    assert len(again["SOPInstanceUID"]) < 5


async def test_left_early_nothing_stays_open(tmp_path: Path) -> None:
    many = [Instance("1.1", "1.1.1", f"1.1.1.{n}") for n in range(1, 200)]
    node = Node(many)
    async with serve("SCP@127.0.0.1:0", c_find=node.find, c_get=node.retrieve) as server:
        async with Client(address(server)) as pacs:
            async for _ in pacs.retrieve("1.1"):
                break
            async with aclosing(aiter(pacs.retrieve("1.1", to=tmp_path))) as retrieving:
                async for _ in retrieving:
                    break
            assert not pacs._peering.running
            half_way = aiter(pacs.retrieve("1.1"))
            await anext(half_way)
        with pytest.raises(LocalProtocolError, match="closed meanwhile"):
            async for _ in half_way:
                pass
        await eventually(lambda: server.associations == 0)
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".dcm"]


async def test_cancelled_nothing_stays_open(tmp_path: Path) -> None:
    asked = asyncio.Event()

    async def never(request: Request) -> Any:
        asked.set()
        await asyncio.Event().wait()

    node = Node(STUDY)
    async with serve("SCP@127.0.0.1:0", c_find=node.find, c_get=never) as server:
        async with Client(address(server)) as pacs:

            async def work() -> object:
                return await pacs.retrieve("1.1", to=tmp_path)

            task = asyncio.create_task(work())
            await asked.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not pacs._peering.running
            assert (await pacs.echo()).status.is_success
        await eventually(lambda: server.associations == 0)


async def test_a_peer_that_never_answers() -> None:
    async def never(request: Request) -> AsyncIterator[dict[str, str]]:
        await asyncio.Event().wait()
        yield {}

    async with serve("SCP@127.0.0.1:0", c_find=never) as server:
        async with Client(address(server), timeouts=Timeouts(dimse=0.2)) as pacs:
            with pytest.raises(TimeoutError):
                await pacs.find()


# storing


async def test_store_opens_what_each_instance_needs(tmp_path: Path) -> None:
    received: list[str] = []

    async def on_store(request: Request) -> int:
        received.append(request.affected_sop_class_uid)
        await request.data.read()
        return 0

    async with serve("SCP@127.0.0.1:0", c_store=on_store) as server:
        async with Client(address(server), associations=1) as pacs:
            await pacs.echo()
            seen: list[Stored] = []
            result = await pacs.store([instance(), instance(sop_class=MR)], on_progress=seen.append)
            assert server.associations == 1
    assert (result.sent, result.failed) == (2, [])
    assert sorted(received) == sorted([CT, MR])
    assert all(stored.is_stored and not stored.repeated for stored in seen)


async def test_store_a_folder_and_what_is_beside(tmp_path: Path, pydicom_files: Path) -> None:
    import shutil

    from pydicom import dcmread

    for name in ("CT_small.dcm", "MR_small.dcm", "JPEG2000.dcm"):
        shutil.copy(pydicom_files / name, tmp_path)
    (tmp_path / "AUTORUN.INF").write_text("[autorun]")
    (tmp_path / "broken.dcm").write_bytes(b"broken")

    async def on_store(request: Request) -> int | Response:
        await request.data.read()
        is_mr = request.affected_sop_class_uid == MR
        return Response(0xB007, error_comment="odd") if is_mr else 0

    async with serve("SCP@127.0.0.1:0", c_store=on_store) as server, Client(address(server)) as pacs:
        result = await pacs.store(tmp_path)
        assert (result.sent, len(result.warned), result.skipped) == (3, 1, 1)
        assert result.warned[0].error == "odd"
        assert [stored.path for stored in result.failed] == [tmp_path / "broken.dcm"]
        with pytest.raises(DicomNetworkError, match=r"1 instances were not stored: .*broken.dcm"):
            result.raise_for_failures()
        missing = await pacs.store(tmp_path / "missing.dcm")
        assert "No such file" in missing.failed[0].error
        datasets = [dcmread(tmp_path / "CT_small.dcm"), Dataset()]
        result = await pacs.store(datasets)
        assert (result.sent, [each.error for each in result.failed]) == (
            1,
            ["a data set without SOP Class UID or SOP Instance UID"],
        )
        assert (await pacs.store(datasets[1])).failed
        with pytest.raises(TypeError):
            await pacs.store([object()])  # type: ignore[list-item]


async def test_a_class_that_the_peer_does_not_take() -> None:
    async with serve("SCP@127.0.0.1:0", c_store=take, contexts=[CT]) as server:
        async with Client(address(server)) as pacs:
            outcomes = [stored async for stored in pacs.store([instance(), instance(sop_class=MR)])]
            opened = server.associations
    assert sorted(bool(stored.error) for stored in outcomes) == [False, True]
    assert opened <= 3


async def test_a_store_whose_association_was_gone_is_repeated_and_told() -> None:
    leaving = Leaving()
    async with serve("SCP@127.0.0.1:0", c_store=leaving) as server, Client(address(server)) as pacs:
        results = [await pacs.store(instance()) for _ in range(2)]
    assert [(result.sent, result.repeated) for result in results] == [(1, 0), (1, 1)]


async def test_an_instance_that_the_peer_aborts_on_costs_only_itself() -> None:
    bad = instance()

    async def on_store(request: Request) -> int:
        await request.data.read()
        if request.affected_sop_instance_uid == bad.sop_instance_uid:
            await request.association.abort()
        return 0

    async with serve("SCP@127.0.0.1:0", c_store=on_store) as server, Client(address(server)) as pacs:
        result = await pacs.store([bad, *(instance() for _ in range(20))])
    assert result.sent == 20
    assert [stored.sop_instance_uid for stored in result.failed] == [bad.sop_instance_uid]


async def test_a_peer_that_aborts_on_everything_is_given_up() -> None:
    async def aborts(request: Request) -> int:
        await request.association.abort()
        return 0

    limits = Limits(operations_invoked=1)
    async with serve("SCP@127.0.0.1:0", c_store=aborts) as server:
        async with Client(address(server), associations=1, limits=limits) as pacs:
            with pytest.raises(AssociationError) as caught:
                await pacs.store([instance() for _ in range(50)])
    assert len(caught.value.result.failed) == 50


async def test_a_peer_that_takes_fewer_associations() -> None:
    limits = Limits(maximum_associations=1)
    async with serve("SCP@127.0.0.1:0", c_store=take, limits=limits) as server:
        async with Client(address(server), limits=Limits(operations_invoked=1)) as pacs:
            result = await pacs.store([instance(sop_class=uid) for uid in (CT, MR) * 4])
    assert (result.sent, result.failed) == (8, [])


# what it is


def test_impossible_options(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="method is"):
        Client("SCP@127.0.0.1:104", method="both")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs listen="):
        Client("SCP@127.0.0.1:104", method="move")
    with pytest.raises(ValueError, match="listen_ssl="):
        import ssl

        Client("SCP@127.0.0.1:104", listen="127.0.0.1:0", ssl=ssl.create_default_context())
    with pytest.raises(TypeError, match="timeouts=Timeouts"):
        Client("SCP@127.0.0.1:104", dimse_timeout=5)  # type: ignore[call-arg]


async def test_outside_its_block() -> None:
    pacs = Client("SCP@127.0.0.1:104")
    for work in (pacs.echo, pacs.find, lambda: pacs.retrieve("1.1", to="x"), lambda: pacs.move("1", "A")):
        with pytest.raises(LocalProtocolError, match="within its block"):
            await work()


async def test_what_is_refused_again_and_again_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncdicom.scu.retrieving._REMEMBERED", 3)
    node = Node(STUDY)

    async def others(request: Request) -> Any:
        retrieval = await node.retrieve(request)
        strangers = [Instance("9.9", "9.9.9", f"9.9.9.{number}").source() for number in range(1, 9)]
        again = [STUDY[0].source()] * 4
        return retrieval._replace(sources=[*again, *strangers])

    async with serve("SCP@127.0.0.1:0", c_find=node.find, c_get=others) as server:
        async with Client(address(server), limits=Limits(operations_performed=1)) as pacs:
            retrieved = await pacs.retrieve("1.1", to=tmp_path, maximum_instances=8)
    assert [one.sop_instance_uid for one in retrieved.instances] == ["1.1.1.1"]
    own_reasons = [why for why in retrieved.failed.values() if why == "not asked for"]
    assert len(own_reasons) == 3, "of the others the peer's list tells"
    assert retrieved.number_failed >= 8
    assert [path.name for path in tmp_path.iterdir()] == ["1.1.1.1.dcm"]
