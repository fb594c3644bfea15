"""The tables of Value Representations against those of pydicom."""

from pydicom.datadict import dictionary_VR
from pydicom.valuerep import VR

from asyncdicom.data.vr import IMPLICIT_VRS, MAY_BE_UNDEFINED, PADDED_WITH_SPACE, VRS


def test_what_implicit_vr_does_not_tell_is_that_of_the_standard() -> None:
    assert {tag: dictionary_VR(tag) for tag in IMPLICIT_VRS} == IMPLICIT_VRS


def test_every_vr_of_the_standard_is_known_and_no_other() -> None:
    assert {vr for vr, _ in VRS.values()} == {vr.value for vr in VR if len(vr.value) == 2}
    assert {code.decode() for code in VRS} == {vr for vr, _ in VRS.values()}
    assert {vr for vr, _ in VRS.values()} > PADDED_WITH_SPACE
    assert {"", *(vr for vr, _ in VRS.values())} > MAY_BE_UNDEFINED
