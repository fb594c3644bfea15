"""Queries answer what was asked, and pynetdicom and DCMTK hear what is not matched."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from interop.peers import (
    PYNETDICOM_DIMSE_TIMEOUT,
    Peer,
    ResponseLost,
    dcmtk_tool,
    run,
    with_pynetdicom,
)
from interop.questions import ONE_SERIES
from pynetdicom import AE
from pynetdicom.pdu_primitives import SOPClassExtendedNegotiation

from asyncdicom import STUDY_ROOT
from asyncdicom.dataset import from_mapping

pytestmark = pytest.mark.interop

STUDY = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": ONE_SERIES["StudyInstanceUID"]}
SERIES = {"QueryRetrieveLevel": "SERIES", "SeriesInstanceUID": ONE_SERIES["SeriesInstanceUID"]}

QUESTIONS: list[tuple[dict[str, Any], bytes, list[int]]] = [
    # what is asked, the extended negotiation, the statuses
    (STUDY, b"", [0xFF00, 0]),
    (STUDY | {"Modality": "MR"}, b"", [0xFF01, 0]),
    (STUDY | {"Modality": ""}, b"", [0xFF00, 0]),
    (STUDY | {"7777,0010": "A creator", "7777,1001": "X"}, b"", [0xFF01, 0]),
    (STUDY | {"7777,0010": "A creator", "7777,1001": ""}, b"", [0xFF00, 0]),
    (STUDY | {"ProcedureCodeSequence": [{"CodeValue": "X"}]}, b"", [0xFF01, 0]),
    (STUDY | {"ProcedureCodeSequence": [{"CodeValue": ""}]}, b"", [0xFF00, 0]),
    (SERIES, b"", [0xA900]),
    (SERIES, b"\1", [0xFF00, 0]),
    (SERIES, b"\1\1\1", [0xFF00, 0]),
    (SERIES, b"\0", [0xA900]),
]


@pytest.mark.parametrize(("wanted", "negotiated", "statuses"), QUESTIONS)
async def test_pynetdicom_hears_what_is_not_matched(
    provider: Peer, wanted: dict[str, Any], negotiated: bytes, statuses: list[int]
) -> None:
    def ask() -> list[int]:
        ae = AE("PYNETDICOM")
        ae.dimse_timeout = PYNETDICOM_DIMSE_TIMEOUT
        ae.add_requested_context(STUDY_ROOT.find)
        item = SOPClassExtendedNegotiation()
        item.sop_class_uid, item.service_class_application_information = STUDY_ROOT.find, negotiated
        items: list[Any] = [item] if negotiated else []
        association = ae.associate("127.0.0.1", provider.port, ext_neg=items)
        assert association.is_established
        found = [status for status, _ in association.send_c_find(from_mapping(wanted), STUDY_ROOT.find)]
        association.release()
        if not all("Status" in status for status in found):
            raise ResponseLost
        return [status.Status for status in found]

    assert await asyncio.to_thread(with_pynetdicom, ask) == statuses


@pytest.mark.usefixtures("dcmtk")
async def test_dcmtk_hears_what_is_not_matched(provider: Peer) -> None:
    asks = [dcmtk_tool("findscu"), "-d", "-S", "-aec", provider.ae_title, "127.0.0.1", str(provider.port)]
    keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={STUDY['StudyInstanceUID']}"]
    assert "0xff01" not in await run([*asks, *keys])
    assert "0xff01" in await run([*asks, *keys, "-k", "0008,1040=RADIO"])
