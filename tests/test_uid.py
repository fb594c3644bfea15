from __future__ import annotations

import re
import runpy
from pathlib import Path

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom._uid_dict import UID_dictionary
from pydicom.uid import UID
from pynetdicom import sop_class

from asyncdicom import _sop_classes, uid

GENERATOR = runpy.run_path(str(Path(__file__).parent / "standard" / "generate_sop_classes.py"))
GENERATED = Path(_sop_classes.__file__).read_text()


def test_the_registry_is_what_the_generator_writes() -> None:
    assert GENERATED.startswith("# Generated")
    if f"(pydicom {pydicom.__version__})" in GENERATED:
        assert GENERATOR["generate"]() == GENERATED
    else:  # another pydicom may know more or fewer SOP classes, but none by another service
        known = GENERATOR["sop_classes"]()
        common = known.keys() & uid.SOP_CLASSES.keys()
        assert len(common) > 250
        assert {u: known[u][1] for u in common} == {u: uid.SOP_CLASSES[u][1] for u in common}


def test_storage_is_what_others_store() -> None:
    """pynetdicom sorts by hand what we sort by UID; what it has and we have must be in the same class."""
    assert set(sop_class._STORAGE_CLASSES.values()) <= set(uid.STORAGE)
    assert set(sop_class._NON_PATIENT_OBJECT_CLASSES.values()) == set(uid.NON_PATIENT_OBJECT_STORAGE)
    more = {u for u in uid.STORAGE if u not in sop_class._STORAGE_CLASSES.values()}
    dicos = "1.2.840.10008.5.1.4.1.1.501.", "1.2.840.10008.5.1.4.1.1.601."  # industry's, in DICOM's arc
    assert {u for u in more if not u.startswith(dicos) and UID_dictionary[u][3] != "Retired"} == set()
    for service in ("query-retrieve", "worklist", "mpps", "commitment", "verification", "ups"):
        ours = {u for u, entry in uid.SOP_CLASSES.items() if entry[1] == service}
        theirs = {
            "query-retrieve": sop_class._QR_CLASSES,
            "worklist": sop_class._BASIC_WORKLIST_CLASSES,
            "mpps": sop_class._PROCEDURE_STEP_CLASSES,
            "commitment": sop_class._STORAGE_COMMITMENT_CLASSES,
            "verification": sop_class._VERIFICATION_CLASSES,
            "ups": sop_class._UNIFIED_PROCEDURE_STEP_CLASSES,
        }[service]
        current = {u for u in ours if UID_dictionary[u][3] != "Retired"}
        assert current <= set(theirs.values()) <= ours, service


# Retired or of no use on a network: MIME and XML encodings, and the SMPTE ones of PS3.22.
NO_DATA_SETS = re.compile(r"1\.2\.840\.10008\.1\.2\.[67]\.\d")


def test_transfer_syntaxes_are_those_of_the_standard() -> None:
    known = {u: entry[0] for u, entry in UID_dictionary.items() if entry[1] == "Transfer Syntax"}
    assert {u for u in known if not NO_DATA_SETS.match(u)} <= uid.TRANSFER_SYNTAXES.keys()
    for syntax in uid.TRANSFER_SYNTAXES.values():
        if syntax.uid in known:
            assert syntax.name == known[syntax.uid]


@pytest.mark.parametrize("syntax", uid.TRANSFER_SYNTAXES.values(), ids=lambda syntax: syntax.uid)
def test_properties_of_transfer_syntaxes(syntax) -> None:
    if syntax.uid == "1.2.840.113619.5.2":  # of GE, and in use; pydicom does not know it
        assert (syntax.implicit, syntax.little_endian, syntax.encapsulated) == (True, True, False)
        return
    theirs = UID(syntax.uid)
    if not theirs.is_transfer_syntax or theirs.is_private:
        pytest.fail("every one in the table is registered")
    jpip = ".4.94", ".4.95", ".4.204", ".4.205"
    if syntax.uid.endswith(jpip):  # pixel data is somewhere else; the even ones are deflated data sets
        assert (syntax.encapsulated, syntax.deflated) == (False, "Deflate" in syntax.name)
    elif syntax.uid != "1.2.840.10008.1.20" and syntax.uid in UID_dictionary:
        assert syntax.implicit == theirs.is_implicit_VR
        assert syntax.little_endian == theirs.is_little_endian
        assert syntax.deflated == theirs.is_deflated
        assert syntax.encapsulated == theirs.is_encapsulated


ABBREVIATED = {
    "APPLICATION_CONTEXT_NAME": "DICOMApplicationContext",
    "MPEG2_MAIN_PROFILE_MAIN_LEVEL": "MPEG2MPML",
    "MPEG2_MAIN_PROFILE_HIGH_LEVEL": "MPEG2MPHL",
    "MPEG4_HIGH_PROFILE_4_1": "MPEG4HP41",
    "HEVC_MAIN_PROFILE_5_1": "HEVCMP51",
    "HEVC_MAIN_10_PROFILE_5_1": "HEVCM10P51",
    "MODALITY_WORKLIST_FIND": "ModalityWorklistInformationModelFind",
}


def test_constants_have_their_keywords() -> None:
    constants = {
        name: value for name, value in vars(uid).items() if name.isupper() and isinstance(value, str)
    }
    known = {name: UID_dictionary[value][4] for name, value in constants.items() if value in UID_dictionary}
    assert len(known) > 25
    for name, keyword in known.items():
        assert ABBREVIATED.get(name, name.replace("_", "")).casefold() == keyword.casefold()


def test_unknown_transfer_syntaxes_are_explicit_and_encapsulated() -> None:
    syntax = uid.transfer_syntax("1.2.3.4")
    assert syntax == ("1.2.3.4", "1.2.3.4", False, True, False, True)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("1.2.840.10008.1.1", "Verification"),
        ("1.2.840.10008.5.1.4.1.1.2", "CT Image Storage"),
        ("1.2.840.10008.1.2.5", "RLE Lossless"),
        ("1.2.3", "1.2.3"),
    ],
)
def test_names(value, name) -> None:
    assert uid.name_of(value) == name


@pytest.mark.parametrize(
    "model", [uid.PATIENT_ROOT, uid.STUDY_ROOT, uid.PATIENT_STUDY_ONLY], ids=lambda m: m.name
)
def test_information_models(model) -> None:
    for kind, value in (("FIND", model.find), ("MOVE", model.move), ("GET", model.get)):
        assert uid.name_of(value) == f"{model.name} Query/Retrieve Information Model - {kind}"
        assert uid.SOP_CLASSES[value][1] == "query-retrieve"
    assert model.levels[0] == ("STUDY" if model is uid.STUDY_ROOT else "PATIENT")
    assert model.levels[-1] == ("STUDY" if model is uid.PATIENT_STUDY_ONLY else "IMAGE")


@pytest.mark.parametrize("value", ["1", "0", "1.2", "1.0.3", "2.25.0", "9" * 64, "1." + "2" * 62])
def test_valid(value) -> None:
    assert uid.is_valid_uid(value)


@pytest.mark.parametrize(
    "value",
    ["", ".", "1.", ".1", "1..2", "01", "1.02", "00", "1.2 ", "1.2\0", "1.2\n", "1.a", "-1", "1.²", "1.٣",
     "9" * 65, "../1", "1/2"],
)  # fmt: skip
def test_invalid(value) -> None:
    assert not uid.is_valid_uid(value)


@given(st.text("0123456789.", max_size=70) | st.text(max_size=70))
def test_validity_is_that_of_the_rule(value) -> None:
    rule = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))*", re.ASCII)
    assert uid.is_valid_uid(value) == (len(value) <= 64 and rule.fullmatch(value) is not None)


@pytest.mark.parametrize(
    "value",
    ["1", "1.2.03.4", "0", "1..2", "1.2.", ".", "1.2.a-b_c", "SERIES1", "{1.2}", "9" * 64, "a:b", "'"],
)
def test_received_ones_are_taken_as_they_are(value) -> None:
    assert uid.is_usable_uid(value)


@pytest.mark.parametrize(
    "value",
    ["", "9" * 65, "1.2 3", " 1", "1 ", "1\\2", "1*", "?", "../1", "/etc", "1\0", "1\n", "1\x7f", "1.²", "é"],
)
def test_received_ones_that_are_not_taken(value) -> None:
    assert not uid.is_usable_uid(value)


@given(st.text(max_size=70) | st.text("0123456789.*?/\\ az-", max_size=70))
def test_what_is_valid_is_usable_and_nothing_can_leave_a_folder_or_match_another(value) -> None:
    if uid.is_valid_uid(value):
        assert uid.is_usable_uid(value)
    if uid.is_usable_uid(value):
        assert value.isascii()
        assert value.isprintable()
        assert len(value) <= 64
        assert not set(value) & set("\\*?/ ")


def test_new_uids() -> None:
    new = {uid.new_uid() for _ in range(100)}
    assert len(new) == 100
    assert all(uid.is_valid_uid(value) and value.startswith("2.25.") for value in new)


def test_our_own_names() -> None:
    assert uid.is_valid_uid(uid.IMPLEMENTATION_CLASS_UID)
    assert re.fullmatch(r"ASYNCDICOM_\d{1,5}", uid.IMPLEMENTATION_VERSION_NAME)
