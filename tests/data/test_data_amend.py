"""Another patient in a data set that streams by: nothing else changes, and what was there is told."""

from __future__ import annotations

import runpy
from io import BytesIO
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
from pydicom.filereader import read_dataset

from asyncdicom.data.amend import MAXIMUM_HELD, Amender, Amendment
from asyncdicom.data.charset import encode_text
from asyncdicom.data.elements import decode, encode
from asyncdicom.data.inflation import deflate, inflate
from asyncdicom.exceptions import DataSetError
from asyncdicom.uid import DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN

ENCODED = runpy.run_path(str(Path(__file__).with_name("encoded.py")))
dataset, header, sequence = ENCODED["dataset"], ENCODED["header"], ENCODED["sequence"]
SYNTAXES, UNDEFINED = ENCODED["SYNTAXES"], ENCODED["UNDEFINED"]
EXPLICIT = SYNTAXES["explicit"]
NAME, ID, ISSUER, BIRTH, SEX = 0x00100010, 0x00100020, 0x00100021, 0x00100030, 0x00100040
CHARSET, AGE, STUDY, PIXELS = 0x00080005, 0x00101010, 0x0020000D, 0x7FE00010
OTHER_IDS, OTHER_IDS_SEQUENCE, ORIGINAL = 0x00101000, 0x00101002, 0x04000561
NEW = {NAME: ("PN", "ROE^JANE"), ID: ("LO", "P2"), ISSUER: ("LO", ""), BIRTH: ("DA", ""), SEX: ("CS", "F")}
AMENDMENT = Amendment(NEW, "20260102030405+0000", "asyncdicom")
PIXEL_DATA = bytes(range(256)) * 40


def amended(data: bytes, syntax: str = EXPLICIT, size: int = 1 << 20, amendment: Any = AMENDMENT) -> bytes:
    amender = Amender(syntax, amendment)
    pieces = []
    for start in range(0, len(data), size):
        for batch in amender.feed(memoryview(data)[start : start + size]):
            pieces += [bytes(piece) for piece in batch]
    return b"".join([*pieces, *map(bytes, amender.finish())])


def elements(data: bytes, syntax: str = EXPLICIT) -> dict[int, bytes]:
    found = decode(data, syntax)
    tags = [element.tag for element in found]
    assert all(before < after for before, after in pairwise(tags))
    return {element.tag: element.value.rstrip(b" ") for element in found}


def items(value: bytes, how: str = "explicit") -> list[Any]:
    """The items of a sequence, as pydicom reads them."""
    whole = header(ORIGINAL, "SQ", UNDEFINED, how) + value + header(0xFFFEE0DD, "", 0, how)
    read = read_dataset(BytesIO(whole), how == "implicit", how != "big")
    return list(read[ORIGINAL].value)


def texts(item: Any) -> dict[int, str]:
    return {int(element.tag): "" if element.value is None else str(element.value) for element in item}


def of_patient(how: str, *more: Any) -> bytes:
    whole = [
        (0x00080018, "UI", b"1.2.3\0"),
        (NAME, "PN", b"DOE^JOHN"),
        (ID, "LO", b"P1"),
        (AGE, "AS", b"030Y"),
        (STUDY, "UI", b"1.2.3.4\0"),
        (PIXELS, "OW", PIXEL_DATA),
        *more,
    ]
    encoded: bytes = dataset(sorted(whole, key=lambda each: each[0]), how)
    return encoded


@pytest.mark.parametrize(("how", "size"), [*product(SYNTAXES, [1, 9, 4096, 1 << 20])])
def test_who_it_is_is_replaced_and_told(how: str, size: int) -> None:
    syntax = SYNTAXES[how]
    before = of_patient(how, (OTHER_IDS, "LO", b"P0"), (0x00100000, "UL", bytes(4)))
    after = elements(amended(before, syntax, size), syntax)
    assert [after[tag] for tag in NEW if tag != ISSUER] == [b"ROE^JANE", b"P2", b"", b"F"]
    assert ISSUER not in after
    assert OTHER_IDS not in after
    assert (after[AGE], after[STUDY], after[PIXELS]) == (b"030Y", b"1.2.3.4\0", PIXEL_DATA)
    (told,) = items(after[ORIGINAL], how)
    assert told.AttributeModificationDateTime == "20260102030405+0000"
    assert (told.ModifyingSystem, told.SourceOfPreviousValues) == ("asyncdicom", "")
    assert told.ReasonForTheAttributeModification == "CORRECT"
    (was,) = told.ModifiedAttributesSequence
    assert texts(was) == {NAME: "DOE^JOHN", ID: "P1", ISSUER: "", OTHER_IDS: "P0"}


@pytest.mark.parametrize(("how", "undefined", "size"), [*product(SYNTAXES, [False, True], [1, 1 << 20])])
def test_what_others_have_told_stays(how: str, undefined: bool, size: int) -> None:
    syntax = SYNTAXES[how]
    told = sequence(ORIGINAL, "SQ", [([(0x04000563, "LO", b"OTHER ")], undefined)], how, undefined)
    ids = sequence(OTHER_IDS_SEQUENCE, "SQ", [([(ID, "LO", b"X ")], undefined)], how, undefined)
    start = dataset([(ID, "LO", b"P1")], how)
    data = start + ids + dataset([(STUDY, "UI", b"1.2\0")], how) + told
    for end in (b"", dataset([(PIXELS, "OW", PIXEL_DATA)], how), bytes(30)):
        after = elements(amended(data + end, syntax, size), syntax)
        first, second = items(after[ORIGINAL], how)
        assert texts(first) == {0x04000563: "OTHER"}
        (was,) = second.ModifiedAttributesSequence
        assert [each.PatientID for each in was.OtherPatientIDsSequence] == ["X"]
        assert after.get(PIXELS, PIXEL_DATA) == PIXEL_DATA


@pytest.mark.parametrize(("how", "undefined"), [*product(["explicit", "big"], [False, True])])
def test_what_is_told_in_a_un(how: str, undefined: bool) -> None:
    content = sequence(ORIGINAL, "SQ", [([(0x04000563, "LO", b"OTHER ")], False)], "implicit", False)[8:]
    length = UNDEFINED if undefined else len(content)
    told = header(ORIGINAL, "UN", length, how) + content
    told += header(0xFFFEE0DD, "", 0, "implicit") if undefined else b""
    data = dataset([(ID, "LO", b"P1")], how) + told
    after = elements(amended(data, SYNTAXES[how]), SYNTAXES[how])
    first, second = items(after[ORIGINAL], "implicit")
    assert texts(first) == {0x04000563: "OTHER"}
    assert second.ModifiedAttributesSequence[0].PatientID == "P1"


def test_deflated() -> None:
    before = of_patient("explicit")
    for size in (1, 1 << 20):
        after = amended(deflate(before), DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, size)
        assert len(after) % 2 == 0
        assert inflate(after) == amended(before)
    with pytest.raises(DataSetError, match="truncated"):
        amended(deflate(before)[:40], DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN)


def test_a_transfer_syntax_that_nobody_knows_is_read_as_it_looks() -> None:
    for how, syntax in SYNTAXES.items():
        data = of_patient(how)
        assert amended(data, "1.2.3.4.5") == amended(data, syntax)


@pytest.mark.parametrize(
    ("declared", "text", "encoded", "becomes"),
    [
        (None, "ROE^JANE", b"ROE^JANE", None),
        (None, "MÜLLER", "MÜLLER".encode(), b"ISO_IR 192"),
        (b"ISO_IR 6", "MÜLLER", "MÜLLER".encode(), b"ISO_IR 192"),
        (b"ISO_IR 100", "MÜLLER", "MÜLLER".encode("latin-1"), b"ISO_IR 100"),
        (b"ISO_IR 192", "山田", "山田".encode(), b"ISO_IR 192"),
        (b"\\ISO 2022 IR 87", "A=山田^太郎", "A=山田^太郎".encode("iso2022_jp"), b"\\ISO 2022 IR 87"),
        (b"ISO_IR 100", "山田", None, None),
        (b"ISO 2022 IR 6\\ISO 2022 IR 149", "김", None, None),
    ],
)
def test_text_is_in_the_character_set_or_not_at_all(
    declared: bytes | None, text: str, encoded: bytes | None, becomes: bytes | None
) -> None:
    more = [] if declared is None else [(CHARSET, "CS", declared + b" " * (len(declared) % 2))]
    data = of_patient("explicit", *more)
    amendment = AMENDMENT._replace(values=NEW | {NAME: ("PN", text)})
    if encoded is None:
        with pytest.raises(DataSetError, match="character set"):
            amended(data, amendment=amendment)
        return
    after = elements(amended(data, amendment=amendment))
    assert after[NAME] == encoded
    assert after.get(CHARSET) == becomes
    (was,) = items(after[ORIGINAL])[0].ModifiedAttributesSequence
    told = {int(element.tag): element.value for element in was}
    assert told.get(CHARSET) == (None if becomes == declared else (declared or b"").decode())


def test_nothing_is_ever_replaced_in_an_encoded_text() -> None:
    assert encode_text("MÜLLER", "ISO_IR 144", "PN") is None
    assert encode_text("é", "", "LO") is None
    assert encode_text("P1", "whatever", "LO") == b"P1"


def test_elements_that_are_out_of_order_or_come_twice() -> None:
    late = encode([(ID, "LO", b"P3"), (OTHER_IDS, "LO", b"P4")], EXPLICIT)
    after = amended(of_patient("explicit") + late + encode([(0xFFFCFFFC, "OB", b"")], EXPLICIT))
    tags = [element.tag for element in decode(after, EXPLICIT)]
    assert (tags.count(ID), tags.count(OTHER_IDS)) == (1, 0)
    assert tags[-1] == 0xFFFCFFFC


def test_what_is_cut_off() -> None:
    whole = of_patient("explicit")
    ends = set()
    for length in range(whole.index(b"\xe0\x7f") + 4):
        try:
            decode(
                whole[:length], EXPLICIT
            )  # it ends where an element ends: nobody knows that there was more
            ends.add(length)
        except DataSetError:
            with pytest.raises(DataSetError):
                amended(whole[:length])
    assert len(ends) == 6
    cut = amended(whole[:-100])  # in the pixels: it is kept as it ends, and sent so
    assert cut.endswith(PIXEL_DATA[:-100])
    assert b"P1" in cut
    told = sequence(ORIGINAL, "SQ", [([(0x04000563, "LO", b"OTHER ")], True)], "explicit", True)
    for length in range(9, len(told)):
        with pytest.raises(DataSetError):
            amended(dataset([(ID, "LO", b"P1")], "explicit") + told[:length])


def test_what_would_take_memory_is_refused() -> None:
    comments = (0x00104000, "UT", bytes(MAXIMUM_HELD))
    with pytest.raises(DataSetError, match=r"\(0010,4000\) is too long"):
        amended(of_patient("explicit", comments))
    many = encode([(0x00200011, "IS", b"")] * 2000, EXPLICIT)
    turns = list(Amender(EXPLICIT, AMENDMENT).feed(of_patient("explicit") + many))
    assert turns.count([]) >= 4  # others have their turn


def test_a_delimiter_that_ends_nothing_goes_and_an_issuer_is_told() -> None:
    before = of_patient("explicit", (ISSUER, "LO", b"HOSPITAL")) + header(0xFFFEE00D, "", 0, "explicit")
    after = amended(before)
    assert after.endswith(PIXEL_DATA)
    (told,) = items(elements(after)[ORIGINAL])
    assert texts(told.ModifiedAttributesSequence[0])[ISSUER] == "HOSPITAL"
