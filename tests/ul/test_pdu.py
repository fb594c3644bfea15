from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncdicom.exceptions import LocalProtocolError, RemoteProtocolError
from asyncdicom.ul.items import (
    CommonExtendedNegotiation,
    ContextResult,
    ExtendedNegotiation,
    ProposedContext,
    RoleSelection,
    UserIdentity,
    UserInformation,
)
from asyncdicom.ul.pdu import (
    AAbort,
    AAssociateAC,
    AAssociateRJ,
    AAssociateRQ,
    AReleaseRP,
    AReleaseRQ,
    ae_title,
    decode_pdu,
)

SAMPLES: dict[str, bytes] = {
    name: value
    for name, value in runpy.run_path(str(Path(__file__).parents[1] / "standard" / "pdu_samples.py")).items()
    if isinstance(value, bytes)
}
IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
VERIFICATION, CT = "1.2.840.10008.1.1", "1.2.840.10008.5.1.4.1.1.2"

PYNETDICOM_RQ = AAssociateRQ(
    "ARCHIVE",
    "WS1",
    (ProposedContext(1, VERIFICATION, (IMPLICIT, EXPLICIT)), ProposedContext(3, CT, (EXPLICIT,))),
    UserInformation(
        16382,
        "1.2.3.4",
        "PEER_1",
        (5, 3),
        (RoleSelection(CT, False, True),),
        (ExtendedNegotiation(CT, bytes.fromhex("020003000100")),),
        (
            CommonExtendedNegotiation(
                "1.2.840.10008.5.1.4.1.1.4",
                "1.2.840.10008.4.2",
                ("1.2.840.10008.5.1.4.1.1.88.22", "1.2.3"),
            ),
        ),
        UserIdentity(2, b"user", b"pass", True),
    ),
)
PYNETDICOM_AC = AAssociateAC(
    "ARCHIVE",
    "WS1",
    (ContextResult(1, 0, IMPLICIT), ContextResult(3, 3)),
    UserInformation(
        16382, "1.2.3.4", "PEER_1", (5, 3), (RoleSelection(CT, False, True),), user_identity_response=b"ok"
    ),
)
DCMTK_ECHO_RQ = AAssociateRQ(
    "ARCHIVE",
    "WS1",
    (ProposedContext(1, VERIFICATION, (IMPLICIT,)),),
    UserInformation(16384, "1.2.276.0.7230010.3.0.3.6.7", "OFFIS_DCMTK_367"),
)
EXPECTED: dict[str, Any] = {
    "DCMTK_ECHO_RQ": DCMTK_ECHO_RQ,
    "PYNETDICOM_RQ": PYNETDICOM_RQ,
    "PYNETDICOM_AC": PYNETDICOM_AC,
    "A_ASSOCIATE_RJ": AAssociateRJ(1, 1, 7),
    "A_RELEASE_RQ": AReleaseRQ(),
    "A_RELEASE_RP": AReleaseRP(),
    "A_ABORT_BY_USER": AAbort(0, 0),
    "A_ABORT_BY_PROVIDER": AAbort(2, 6),
}


def decode(encoded: bytes) -> Any:
    assert int.from_bytes(encoded[2:6], "big") == len(encoded) - 6
    pdu = decode_pdu(encoded[0], memoryview(encoded)[6:])
    return pdu._replace(ae_title_fields=b"") if isinstance(pdu, AAssociateRQ | AAssociateAC) else pdu


def test_every_sample_is_expected() -> None:
    assert set(SAMPLES) == {*EXPECTED, "P_DATA_TF"}  # for that see test_decoder.py


@pytest.mark.parametrize("name", EXPECTED)
def test_samples_of_others_are_read(name: str) -> None:
    assert decode(SAMPLES[name]) == EXPECTED[name]


@pytest.mark.parametrize("name", [n for n in EXPECTED if n.startswith("A_")])
def test_short_pdus_are_written_as_the_standard_lays_them_out(name: str) -> None:
    assert EXPECTED[name].encode() == SAMPLES[name]


def test_a_request_is_written_as_dcmtk_writes_it() -> None:
    # All but a reserved byte of the context item, which DCMTK sets to FFH.
    assert DCMTK_ECHO_RQ.encode() == SAMPLES["DCMTK_ECHO_RQ"].replace(
        b"\x01\x00\xff\x00", bytes((1, 0, 0, 0))
    )


titles = st.text("ABCabc_ 0123456789", min_size=1, max_size=16).map(str.strip)
uids = st.text("0123456789.", min_size=1, max_size=64)
octets = st.binary(max_size=20)
context_ids = st.lists(st.integers(0, 255), max_size=10, unique=True)
informations = st.tuples(st.integers(0, 0xFFFFFFFF), st.none() | uids, st.none() | octets).map(
    lambda some: UserInformation(some[0], some[1], user_identity_response=some[2])
)
fixed = {
    "user_information": informations,
    "application_context_name": uids,
    "protocol_version": st.integers(0, 0xFFFF),
    "reserved": st.binary(min_size=32, max_size=32),
    "ae_title_fields": st.just(b""),
}


@st.composite
def associate_pdus(draw: st.DrawFn) -> AAssociateRQ | AAssociateAC:
    transfer = st.lists(uids, max_size=4).map(tuple)
    if draw(st.booleans()):
        proposed = tuple(ProposedContext(n, draw(uids), draw(transfer)) for n in draw(context_ids))
        return draw(st.builds(AAssociateRQ, titles, titles, st.just(proposed), **fixed))
    results = tuple(ContextResult(n, 0, draw(uids)) for n in draw(context_ids))
    return draw(st.builds(AAssociateAC, titles, titles, st.just(results), **fixed))


@given(associate_pdus())
def test_associate_round_trip(pdu: AAssociateRQ | AAssociateAC) -> None:
    assert decode(pdu.encode()) == pdu
    received = decode_pdu(pdu.encode()[0], pdu.encode()[6:])
    assert received.encode() == pdu.encode()


@given(st.integers(0, 255), st.binary(max_size=300))
def test_any_body_is_read_or_refused(pdu_type: int, body: bytes) -> None:
    try:
        decode_pdu(pdu_type, body)
    except RemoteProtocolError:
        pass


@given(st.sampled_from(sorted(EXPECTED)), st.data())
def test_any_change_of_a_sample_is_read_or_refused(name: str, data: st.DataObject) -> None:
    body = bytearray(SAMPLES[name][6:])
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode_pdu(SAMPLES[name][0], bytes(body[: data.draw(st.integers(0, len(body)))]))
    except RemoteProtocolError:
        pass


@pytest.mark.parametrize(
    ("field", "title"),
    [
        (b"ARCHIVE         ", "ARCHIVE"),
        (b"  ARCHIVE  \0\0\0\0\0", "ARCHIVE"),
        (b"WS1\0\xc0\xb3garbage!!", "WS1"),
        (b" " * 16, ""),
        (b"\0" * 16, ""),
        (b"a b\xe9" + b" " * 12, "a b\u00e9"),
        (b"\xff" * 16, "\u00ff" * 16),
    ],
)
def test_ae_titles_are_always_read(field: bytes, title: str) -> None:
    assert ae_title(field) == title


@pytest.mark.parametrize(
    "pdu",
    [
        DCMTK_ECHO_RQ._replace(called_ae_title="SEVENTEEN_LETTERS"),
        DCMTK_ECHO_RQ._replace(calling_ae_title="\u2026"),
        DCMTK_ECHO_RQ._replace(protocol_version=0x10000),
        DCMTK_ECHO_RQ._replace(presentation_contexts=(ProposedContext(256, "1.2", ("1.2",)),)),
        DCMTK_ECHO_RQ._replace(user_information=UserInformation(1 << 32)),
        DCMTK_ECHO_RQ._replace(user_information=UserInformation(operations_window=(65536, 1))),
        PYNETDICOM_AC._replace(presentation_contexts=(ContextResult(1, 300, "1.2"),)),
    ],
)
def test_what_cannot_be_represented_is_refused(pdu: AAssociateRQ) -> None:
    with pytest.raises(LocalProtocolError):
        pdu.encode()


def test_an_answer_echoes_both_title_fields_as_received() -> None:
    encoded = bytearray(SAMPLES["DCMTK_ECHO_RQ"])
    encoded[10:42] = b" \0odd title\0\xff\0\0\0" + b"  WS1 \0 and more"
    request = decode_pdu(1, bytes(encoded[6:]))
    assert isinstance(request, AAssociateRQ)
    accept = PYNETDICOM_AC._replace(ae_title_fields=request.ae_title_fields)
    assert accept.encode()[10:42] == encoded[10:42]


def test_p_data_is_not_decoded_whole() -> None:
    with pytest.raises(RemoteProtocolError):
        decode_pdu(4, SAMPLES["P_DATA_TF"][6:])


def test_release_pdus_say_what_they_are() -> None:
    assert (repr(AReleaseRQ()), repr(AReleaseRP())) == ("AReleaseRQ()", "AReleaseRP()")


def test_release_pdus_differ() -> None:
    assert AReleaseRQ() == AReleaseRQ()
    assert AReleaseRQ() != AReleaseRP()
    assert len({AReleaseRQ(), AReleaseRQ(), AReleaseRP()}) == 2
