"""`Client` with DCMTK's dcmqrscp and pynetdicom's qrscp: the daily jobs, by C-GET and by C-MOVE to itself."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from interop.peers import Peer
from interop.questions import ONE_SERIES

from asyncdicom import Client

pytestmark = pytest.mark.interop

SERIES = {keyword: ONE_SERIES[keyword] for keyword in ("StudyInstanceUID", "SeriesInstanceUID")}


@pytest.mark.parametrize("method", ["get", "move"])
@pytest.mark.parametrize("peer", ["dcmtk_qrscp", "pynetdicom_qrscp", "our_qrscp"], indirect=True)
async def test_the_daily_jobs(
    peer: Peer, method: Literal["get", "move"], series: list[Path], tmp_path: Path
) -> None:
    async with Client(peer.address, listen=peer.destination, method=method) as pacs:
        assert (await pacs.echo()).status.is_success
        studies = await pacs.find({"StudyInstanceUID": SERIES["StudyInstanceUID"]})
        # pynetdicom's answers once for each instance
        assert {study.StudyInstanceUID for study in studies} == {SERIES["StudyInstanceUID"]}
        retrieved = await pacs.retrieve(SERIES, to=tmp_path)
        assert retrieved.raise_for_failures().methods == {method}
        assert len(retrieved.instances) == len(series) == len(list(tmp_path.iterdir()))
        in_memory = [one.dataset().SeriesInstanceUID async for one in pacs.retrieve(SERIES)]
        assert in_memory == [SERIES["SeriesInstanceUID"]] * len(series)


@pytest.mark.parametrize("peer", ["dcmtk_storescp", "pynetdicom_storescp", "our_storescp"], indirect=True)
async def test_store(peer: Peer, series: list[Path]) -> None:
    """One association: DCMTK's storescp takes no second one; and not to the archives of others."""
    async with Client(peer.address, associations=1) as pacs:
        result = await pacs.store(series)
        assert result.raise_for_failures().sent == len(series)
    peer.forget()


@pytest.mark.parametrize("peer", ["dcmtk_qrscp", "pynetdicom_qrscp", "our_qrscp"], indirect=True)
async def test_left_early_the_peer_goes_on(peer: Peer) -> None:
    async with Client(peer.address) as pacs:
        async for _ in pacs.retrieve(SERIES):
            break
        assert (await pacs.echo()).status.is_success
        assert len(await pacs.find(SERIES, level="IMAGE")) > 1
