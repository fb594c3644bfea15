from __future__ import annotations

import pickle
import runpy
from pathlib import Path

import pynetdicom.status
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncdicom.status import BY_SERVICE, GENERAL, Status
from asyncdicom.uid import SOP_CLASSES

STANDARD = runpy.run_path(str(Path(__file__).parent / "standard" / "status_codes.py"))
CODES = {int(line[:4], 16): line.split(maxsplit=3)[1:] for line in STANDARD["GENERAL"].strip().splitlines()}
CATEGORIES = ["Success", "Pending", "Warning", "Failure", "Cancel"]


def flags(status: Status) -> list[bool]:
    return [status.is_success, status.is_pending, status.is_warning, status.is_failure, status.is_cancel]


def test_the_general_codes_are_those_of_the_standard() -> None:
    assert CODES.keys() == GENERAL.keys()
    for code, (category, _, meaning) in CODES.items():
        assert Status(code).category == category
        if category in ("Failure", "Warning"):
            assert GENERAL[code].casefold() == meaning.casefold()


@pytest.mark.parametrize("line", STANDARD["RANGES"].split("\n")[1:-1])
def test_ranges(line) -> None:
    code, category = line.split()
    assert Status(int(code, 16)).category == category


def test_categories_are_those_of_pynetdicom() -> None:
    tables = [table for name, table in vars(pynetdicom.status).items() if name.endswith("_STATUS")]
    codes = {code: entry[0] for table in tables for code, entry in table.items()}
    assert len(codes) > 4000
    assert {code for code, category in codes.items() if Status(code).category != category} == set()


@given(st.integers(0, 0xFFFF))
def test_every_code_has_one_category(code) -> None:
    status = Status(code)
    assert status == code
    assert flags(status) == [status.category == category for category in CATEGORIES]
    assert str(status).startswith(f"0x{code:04X} ({status.category}")
    assert repr(status) == f"Status(0x{code:04X})"


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (0x0000, "0x0000 (Success)"),
        (0xFE00, "0xFE00 (Cancel)"),
        (0xFF00, "0xFF00 (Pending)"),
        (0xA700, "0xA700 (Failure: out of resources)"),
        (0xA7FF, "0xA7FF (Failure: out of resources)"),
        (0xC001, "0xC001 (Failure: unable to process)"),
        (0x7777, "0x7777 (Failure)"),
        (0xB999, "0xB999 (Warning)"),
        (0x0122, "0x0122 (Failure: SOP class not supported)"),
    ],
)
def test_text(code, text) -> None:
    assert str(Status(code)) == f"{Status(code)}" == text


def test_meaning_by_service() -> None:
    assert Status.CANNOT_UNDERSTAND.meaning("storage") == "cannot understand"
    assert Status(0xC0FE).meaning("storage") == "cannot understand"
    assert Status(0xB000).meaning("storage") == "coercion of data elements"
    assert (
        Status(0xB000).meaning("query-retrieve")
        == "sub-operations complete, one or more failures or warnings"
    )
    assert Status(0x0110).meaning("storage") == "processing failure"
    assert Status(0x0110).meaning("nonsense") == "processing failure"


def test_the_tables_are_of_services_that_exist() -> None:
    assert BY_SERVICE.keys() <= {service for _, service in SOP_CLASSES.values()}
    for table in BY_SERVICE.values():
        assert all(text and not Status(code).is_success for code, text in table.items())


def test_named_codes() -> None:
    expected = {
        "SUCCESS": 0x0000,
        "CANCEL": 0xFE00,
        "PENDING": 0xFF00,
        "PENDING_WARNING": 0xFF01,
        "OPTIONAL_ATTRIBUTES_NOT_SUPPORTED": 0x0001,
        "OUT_OF_RESOURCES": 0xA700,
        "UNABLE_TO_CALCULATE_NUMBER_OF_MATCHES": 0xA701,
        "UNABLE_TO_PERFORM_SUB_OPERATIONS": 0xA702,
        "MOVE_DESTINATION_UNKNOWN": 0xA801,
        "DATA_SET_DOES_NOT_MATCH_SOP_CLASS": 0xA900,
        "SUB_OPERATIONS_WARNING": 0xB000,
        "COERCION_OF_DATA_ELEMENTS": 0xB000,
        "ELEMENTS_DISCARDED": 0xB006,
        "DATA_SET_DOES_NOT_MATCH_SOP_CLASS_WARNING": 0xB007,
        "CANNOT_UNDERSTAND": 0xC000,
        "UNABLE_TO_PROCESS": 0xC000,
    } | {
        meaning.upper().replace(" ", "_").replace("-", "_"): code
        for code, (category, _, meaning) in CODES.items()
        if category in ("Failure", "Warning")
    }
    named = {name: value for name, value in vars(Status).items() if isinstance(value, Status)}
    assert named.items() <= expected.items()
    assert all(type(value) is Status for value in named.values())
    assert set(Status.__annotations__) == set(named)
    # PS3.7 Annex C: what a handler may have to answer has a name
    general = {code for code, (category, *_) in CODES.items() if category in ("Failure", "Warning")}
    assert general <= set(named.values())


def test_it_is_an_int() -> None:
    assert Status.SUCCESS == 0
    assert hash(Status(5)) == hash(5)
    assert pickle.loads(pickle.dumps(Status.CANCEL)) is not None
    assert f"{Status.CANCEL:04X}" == "FE00"
