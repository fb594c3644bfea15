from __future__ import annotations

import runpy
import tracemalloc
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.filereader import read_dataset

from asyncdicom.data.dictionary import vr_of
from asyncdicom.data.elements import decode
from asyncdicom.data.part10 import read_file_meta
from asyncdicom.data.reencode import Reencoder, reencode
from asyncdicom.exceptions import DataSetError
from asyncdicom.uid import BECOMES

ENCODED = runpy.run_path(str(Path(__file__).with_name("encoded.py")))
dataset, header, sequence = ENCODED["dataset"], ENCODED["header"], ENCODED["sequence"]
SYNTAXES, UNDEFINED = ENCODED["SYNTAXES"], ENCODED["UNDEFINED"]
IMPLICIT, EXPLICIT, BIG = SYNTAXES.values()
DEFLATED, GE = "1.2.840.10008.1.2.1.99", "1.2.840.113619.5.2"
HOW = {uid: how for how, uid in SYNTAXES.items()} | {DEFLATED: "explicit", GE: "implicit"}
PAIRS = [(source, target) for source, targets in BECOMES.items() for target in targets]

UNIT = dict.fromkeys(["AT", "OW", "SS", "US"], 2) | dict.fromkeys(["FL", "OF", "OL", "SL", "UL"], 4)
UNIT |= dict.fromkeys(["FD", "OD", "OV", "SV", "UV"], 8)


def swap(value: bytes, unit: int) -> bytes:
    return b"".join(value[at : at + unit][::-1] for at in range(0, len(value), unit))


def encode(elements, uid: str) -> bytes:
    """`elements` have their values in little endian order, as they have in the package's output."""
    how = HOW[uid]
    if uid == GE:
        elements = [(tag, vr, swap(v, 2) if tag == 0x7FE00010 else v) for tag, vr, v in elements]
    data = dataset(in_order(elements, how), how)
    return deflate(data) if uid == DEFLATED else data


def in_order(elements, how):
    for tag, vr, value in elements:
        if not isinstance(value, bytes):
            items, undefined = value
            inside = "implicit" if vr == "UN" and undefined else how
            yield tag, vr, ([(list(in_order(item, inside)), open_) for item, open_ in items], undefined)
        else:
            yield tag, vr, swap(value, UNIT.get(vr, 1)) if how == "big" else value


def deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(data) + compressor.flush()


def expected(elements, source: str, target: str) -> bytes:
    encoded: bytes = dataset(list(as_sent(elements, HOW[source], HOW[target])), HOW[target])
    return encoded


def as_sent(elements, source: str, target: str):
    """What PS3.5 says that leaves: sequences open, VRs of the dictionary where Implicit VR told none."""
    for tag, vr, value in elements:
        if source == "implicit":
            vr = vr_of(tag) if len(vr_of(tag)) == 2 else vr
        if isinstance(value, bytes):
            yield tag, vr, value
            continue
        items, undefined = value
        if not items and not undefined:
            yield tag, vr, b""
            continue
        if source == "implicit" and not undefined and vr == "UN":
            yield tag, vr, sequence(tag, "", list(of_items(items)), "implicit", False)[8:]
            continue
        inside = ("implicit", "implicit") if vr == "UN" else (source, target)
        sent = [(list(as_sent(item, *inside)), bool(item) or open_) for item, open_ in items]
        yield tag, vr, (sent, True)


def of_items(items):
    yield from items


TEXT = b"ISO_IR 192"
ITEM = [(0x00080100, "SH", b"T-A0"), (0x00409216, "US", b"\1\2")]
PLAIN = [
    (0x00080005, "CS", TEXT),
    (0x00081140, "SQ", ([(ITEM, False), ([], False), (ITEM, True)], False)),
    (0x00091001, "UN", b"\1\2\3\4"),
    (0x00180050, "DS", b"1.25"),
    (0x00280002, "US", b"\1\0"),
    (0x00280009, "AT", b"\x18\0\x63\x10"),
    (0x00280106, "US", b"\1\2"),
    (0x30060050, "DS", b"1\\2\\3 "),
    (0x7FE00008, "OF", bytes(range(8))),
    (0x7FE00009, "OD", bytes(range(16))),
    (0x7FE00010, "OW", bytes(range(16))),
]


def pieces(reencoder: Reencoder, data: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, max(len(data), 1), size):
        for batch in reencoder.feed(data[start : start + size]):
            yield from map(bytes, batch)
    yield from map(bytes, reencoder.finish())


@pytest.mark.parametrize(("source", "target"), PAIRS)
@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_from_each_syntax_to_each_other(source: str, target: str, size: int) -> None:
    data = encode(PLAIN, source)
    reencoder = Reencoder(source, target, length=len(data))
    assert b"".join(pieces(reencoder, data, size)) == expected(PLAIN, source, target)
    assert reencoder.unswapped == (source == BIG)


@pytest.mark.parametrize("source", [IMPLICIT, EXPLICIT, BIG, DEFLATED, "1.2.840.10008.1.2.4.50", "1.2.3"])
@pytest.mark.parametrize("target", [IMPLICIT, BIG, DEFLATED, "1.2.840.10008.1.2.4.50", "1.2.3"])
def test_what_cannot_become_something_else_is_refused_at_once(source: str, target: str) -> None:
    if target in BECOMES.get(source, ()):
        return
    with pytest.raises(DataSetError, match="cannot be re-encoded as"):
        Reencoder(source, target)


# VRs that depend on other elements


def vrs(data: bytes) -> list[str]:
    """The VRs of an Explicit VR data set, those of items behind their sequence, by pydicom's eyes."""
    found = []
    for element in read_dataset(BytesIO(data), False, True):
        found.append(element.VR)
        if element.VR == "SQ":
            found += [inner.VR for item in element.value for inner in item]
    return found


SIGNED, UNSIGNED = (0x00280103, "US", b"\1\0"), (0x00280103, "US", b"\0\0")
EARLY = (0x00189810, "US", b"\1\0")  # US or SS, before what decides
LATE = (0x00280106, "US", b"\1\0")
LUT = (0x00283002, "US", b"\1\0\0\0\x10\0")
LUT_DATA = (0x00283006, "OW", b"\1\0")


def in_sequence(tag: int, *elements):
    return tag, "SQ", ([(list(elements), True)], True)


EARLY_SEQUENCE, LATE_SEQUENCE = 0x00081140, 0x52009229


@pytest.mark.parametrize(
    ("elements", "vr"),
    [
        ([SIGNED, LATE], "US SS"),
        ([UNSIGNED, LATE], "US US"),
        ([LATE], "US"),
        ([EARLY, SIGNED], "SS US"),
        ([EARLY, UNSIGNED], "US US"),
        ([EARLY, (0x00280100, "US", b"\x10\0"), (0x00280104, "US", b"\1\0")], "US US US"),  # none
        ([SIGNED, in_sequence(LATE_SEQUENCE, LATE)], "US SQ SS"),
        ([SIGNED, in_sequence(LATE_SEQUENCE, UNSIGNED, LATE)], "US SQ US US"),  # its own
        (
            [
                UNSIGNED,
                in_sequence(LATE_SEQUENCE, EARLY, SIGNED, LATE),
            ],
            "US SQ SS US SS",
        ),
        ([in_sequence(EARLY_SEQUENCE, EARLY, LATE), SIGNED], "SQ SS SS US"),
        ([in_sequence(EARLY_SEQUENCE, EARLY, UNSIGNED, LATE), SIGNED], "SQ US US US US"),
        ([in_sequence(EARLY_SEQUENCE, LATE)], "SQ US"),
        ([SIGNED, LUT, LUT_DATA], "US SS US"),
        ([SIGNED, in_sequence(0x00283010, LUT, LUT_DATA)], "US SQ SS US"),
        ([in_sequence(0x00283010, (0x00283002, "US", b"\2\0\0\0\x10\0"), LUT_DATA)], "SQ US OW"),
        ([LUT_DATA], "OW"),
        ([(0x00281200, "OW", b"\1\0")], "OW"),  # US or SS or OW
    ],
)
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_us_or_ss_follows_pixel_representation(elements, vr: str, size: int) -> None:
    data = encode(elements, IMPLICIT)
    assert vrs(b"".join(pieces(Reencoder(IMPLICIT, EXPLICIT), data, size))) == vr.split()


def bits(count: int):
    return 0x00280100, "US", bytes([count, 0])


PIXELS = (0x7FE00010, "OW", b"\1\0")


@pytest.mark.parametrize(
    ("elements", "vr"),
    [
        ([bits(8), PIXELS], "US OB"),
        ([bits(1), PIXELS], "US OB"),
        ([bits(16), PIXELS], "US OW"),
        ([PIXELS], "OW"),
        ([bits(16), in_sequence(0x00880200, bits(8), PIXELS), PIXELS], "US SQ US OB OW"),
        ([bits(8), in_sequence(0x00880200, PIXELS)], "US SQ OB"),
        ([bits(8), (0x60003000, "OW", b"\1\0")], "US OW"),  # overlays have words of bits
        ([in_sequence(0x54000100, (0x54001004, "US", b"\x08\0"), (0x54001010, "OW", b"\1\0"))], "SQ US OB"),
        ([in_sequence(0x54000100, (0x54001004, "US", b"\x10\0"), (0x54001010, "OW", b"\1\0"))], "SQ US OW"),
        ([in_sequence(0x54000100, (0x54000110, "OW", b"\1\0"), (0x54001004, "US", b"\x08\0"))], "SQ OB US"),
    ],
)
def test_ob_or_ow_follows_bits_allocated(elements, vr: str) -> None:
    assert vrs(reencode(encode(elements, IMPLICIT), IMPLICIT, EXPLICIT)) == vr.split()


def test_what_decides_may_be_too_far_away() -> None:
    """What waits for it is bounded: then it is US, and told."""
    far = [EARLY, (0x00204000, "LT", bytes(70000)), SIGNED, LATE]
    reencoder = Reencoder(IMPLICIT, EXPLICIT)
    data = b"".join(pieces(reencoder, encode(far, IMPLICIT), 1000))
    assert [element.vr for element in decode(data, EXPLICIT)] == ["US", "UN", "US", "SS"]
    assert reencoder.guessed == 1


@pytest.mark.parametrize(("count", "unit"), [(8, 1), (16, 2), (12, 2)])
@pytest.mark.parametrize("target", [EXPLICIT, IMPLICIT])
@pytest.mark.parametrize("size", [1, 3, 1 << 20])
def test_the_syntax_whose_pixel_data_alone_is_big_endian(
    count: int, unit: int, target: str, size: int
) -> None:
    elements = [EARLY, bits(count), SIGNED, LATE]
    data = encode([*elements, (0x7FE00010, "OW", bytes(range(10)))], IMPLICIT)
    vr = "OB" if count == 8 else "OW"
    resolved = [(EARLY[0], "SS", EARLY[2]), bits(count), SIGNED, (LATE[0], "SS", LATE[2])]
    right = [*resolved, (0x7FE00010, vr, swap(bytes(range(10)), unit))]
    again = b"".join(pieces(Reencoder(GE, target, length=len(data)), data, size))
    assert again == encode(right, target)


# what leaves is right


def test_long_values_in_short_forms_are_unknown() -> None:  # PS3.5 6.2.2 Note 2
    points = (0x30060050, "DS", b"1.25\\" * 20000)
    out = reencode(encode([points], IMPLICIT), IMPLICIT, EXPLICIT)
    assert out == header(points[0], "UN", 100000, "explicit") + points[2]
    assert reencode(out, EXPLICIT, IMPLICIT) == encode([points], IMPLICIT)


@pytest.mark.parametrize("length", [65534, 65535, 65536])
def test_the_longest_value_in_a_short_form(length: int) -> None:
    out = reencode(encode([(0x00204000, "LT", bytes(length))], IMPLICIT), IMPLICIT, EXPLICIT)
    assert out[4:6] == (b"LT" if length == 65534 else b"UN")
    assert len(out) % 2 == 0


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_odd_lengths_are_made_even(source: str, target: str) -> None:
    odd = [
        (0x00080005, "CS", b"ISO"),
        (0x00080018, "UI", b"1.2"),
        (0x00091001, "UN", b"abc"),
        (0x00420011, "OB", b"pdf"),
        (0x7FE00010, "OW", b"\1\2\3"),
    ]
    even = [(tag, vr, value + (b" " if vr == "CS" else b"\0")) for tag, vr, value in odd]
    assert reencode(encode(odd, source), source, target) == encode(even, target)


def test_group_lengths_and_foreign_groups_are_dropped() -> None:
    length = (0x00080000, "UL", b"\xff\0\0\0")
    meta = (0x00020010, "UI", b"1.2.840.10008.1.2\0")
    command = (0x00000002, "UI", b"1.2\0")
    name = (0x00100010, "PN", b"A^B ")
    item = in_sequence(0x00081140, length, name)
    private = (0x00090000, "UL", b"\4\0\0\0")
    data = encode([command, meta, length, item, private, name], EXPLICIT)
    assert reencode(data, EXPLICIT, IMPLICIT) == encode([in_sequence(0x00081140, name), name], IMPLICIT)


@pytest.mark.parametrize("zeros", [1, 7, 8, 9, 3000])
@pytest.mark.parametrize("source", [IMPLICIT, EXPLICIT, BIG])
def test_zeros_behind_the_end_are_dropped(source: str, zeros: int) -> None:
    target = BECOMES[source][0]
    data = encode(PLAIN, source) + bytes(zeros)
    assert b"".join(pieces(Reencoder(source, target), data, 100)) == expected(PLAIN, source, target)
    with pytest.raises(DataSetError, match=r"."):
        reencode(data + b"\1", source, target)


UNKNOWN = (0x00091001, "UN", ([([(0x00100010, "PN", b"A^B ")], False)], True))


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_unknown_elements_of_undefined_length_stay_implicit_inside(source: str, target: str) -> None:
    """PS3.5 6.2.2 Note 5."""
    data = encode([UNKNOWN, *PLAIN[3:5]], source)
    assert reencode(data, source, target) == expected([UNKNOWN, *PLAIN[3:5]], source, target)


def test_private_sequences_in_implicit_vr_are_unknown() -> None:  # PS3.5 6.2.2 Note 2
    private = (0x00091001, "SQ", ([([(0x00100010, "PN", b"A^B ")], False)], False))
    data = encode([private], IMPLICIT)
    assert reencode(data, IMPLICIT, EXPLICIT) == header(0x00091001, "UN", 20, "explicit") + data[8:]
    sequence_again = read_dataset(
        BytesIO(reencode(encode([UNKNOWN], IMPLICIT), IMPLICIT, EXPLICIT)), False, True
    )
    assert sequence_again[0x00091001].value[0].PatientName == "A^B"


def test_private_sequences_in_explicit_vr_are_re_encoded() -> None:
    private = (0x00091001, "SQ", ([([(0x00280010, "US", b"\1\2")], False)], False))
    assert reencode(encode([private], BIG), BIG, EXPLICIT) == expected([private], BIG, EXPLICIT)


def test_unknown_big_endian_values_are_copied_and_counted() -> None:
    data = dataset([(0x00091001, "UN", b"\1\2"), (0x00091002, "UN", b""), (0x00091003, "UN", b"\3\4")], "big")
    reencoder = Reencoder(BIG, EXPLICIT)
    out = b"".join(pieces(reencoder, data, 5))
    assert [element.value for element in decode(out, EXPLICIT)] == [b"\1\2", b"", b"\3\4"]
    assert reencoder.unswapped == 2


def test_a_sequence_without_items_costs_only_itself() -> None:
    data = header(0x00081140, "SQ", 10, "explicit") + b"not items." + encode(PLAIN[3:], EXPLICIT)
    out = reencode(data, EXPLICIT, IMPLICIT)
    assert out == header(0x00081140, "", 10, "implicit") + b"not items." + encode(PLAIN[3:], IMPLICIT)


def test_an_item_that_claims_too_much_ends_with_its_sequence() -> None:
    elements = encode([(0x00080100, "SH", b"T-A0")], EXPLICIT)
    items = header(0xFFFEE000, "", len(elements) + 24, "explicit") + elements
    data = header(0x00081140, "SQ", len(items), "explicit") + items + encode(PLAIN[3:], EXPLICIT)
    right = [(0x00081140, "SQ", ([([(0x00080100, "SH", b"T-A0")], True)], True)), *PLAIN[3:]]
    assert reencode(data, EXPLICIT, IMPLICIT) == encode(right, IMPLICIT)


# hostile ones


def nested(depth: int, length: int = UNDEFINED) -> bytes:
    opened: bytes = header(0x00081140, "SQ", length, "explicit") + header(0xFFFEE000, "", length, "explicit")
    return opened * depth


OPEN = header(0x00081140, "SQ", UNDEFINED, "explicit")
SHORT = header(0x00081140, "SQ", 12, "explicit") + header(0xFFFEE000, "", 4, "explicit")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (nested(65), "nested deeper than 64"),
        (nested(3, 1000), "1000, .* more than is there"),
        (nested(1), "truncated"),
        (
            SHORT + dataset(PLAIN[:1], "explicit"),
            "than is there",
        ),
        (
            OPEN + dataset(PLAIN[:1], "explicit"),
            "an item was expected",
        ),
        (nested(1) + header(0xFFFEE000, "", 0, "explicit"), "an element was expected"),
        (nested(1) + header(0xFFFEE0DD, "", 0, "explicit"), "an element was expected"),
        (header(0xFFFEE000, "", 0, "explicit"), "an element was expected"),
        (header(0xFFFEE123, "", 0, "explicit"), "an element was expected"),
        (header(0x7FE00010, "OB", UNDEFINED, "explicit"), "undefined length"),
        (header(0x00104000, "UT", UNDEFINED, "explicit") + bytes(8), "undefined length"),
        (
            header(0x00100010, "PN", 0, "explicit")[:6] + b"\xff\xff" + bytes(100),
            "65535, .* more than is there",
        ),
        (header(0x7FE00010, "OW", 0xFFFFFFFE, "explicit") + bytes(100), "4294967294, .* more than is there"),
        (dataset(PLAIN[:1], "big") + bytes(8), "Value Representation|byte order"),
        (dataset(PLAIN[:2], "implicit"), "Value Representation"),
    ],
)
def test_what_is_no_data_set_is_refused_with_a_reason(data: bytes, why: str) -> None:
    for size in (1, len(data)):
        with pytest.raises(DataSetError, match=why):
            list(pieces(Reencoder(EXPLICIT, IMPLICIT, length=len(data)), data, size))


def test_pixel_data_in_fragments_is_no_uncompressed_data_set() -> None:
    with pytest.raises(DataSetError, match="undefined length"):
        reencode(header(0x7FE00010, "", UNDEFINED, "implicit") + bytes(8), IMPLICIT, EXPLICIT)


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_every_cut_is_noticed(source: str, target: str) -> None:
    """Whether the length is known or not. What ends between two elements is whole, zeros are no element."""
    elements = [PLAIN[1], UNKNOWN, PLAIN[4], PLAIN[-1]]
    data = encode(elements, source)
    ends = {len(encode(elements[:count], source)) for count in range(5)}
    for cut in range(len(data)):
        for length in (None, cut):
            whole = Reencoder(source, target, length=length)
            before = max(end for end in {0, *ends} if end <= cut)
            if source != DEFLATED and not any(data[before:cut]):
                list(pieces(whole, data[:cut], 64))
                continue
            with pytest.raises(DataSetError, match=r"."):
                list(pieces(whole, data[:cut], 64))


def test_deflated_rubbish_is_refused() -> None:
    with pytest.raises(DataSetError, match="corrupt"):
        reencode(b"\xff" * 100, DEFLATED, EXPLICIT)


# costs


def test_long_values_are_not_copied() -> None:
    pixels = bytes(range(256)) * 1024
    data = encode([*PLAIN[:5], (0x7FE00010, "OW", pixels)], EXPLICIT)
    (batch,) = (batch for batch in Reencoder(EXPLICIT, IMPLICIT).feed(data) if batch)
    _, value = batch
    assert isinstance(value, memoryview)
    assert value.obj is data
    assert value == pixels


@pytest.mark.parametrize("source", [IMPLICIT, EXPLICIT, BIG])
def test_memory_does_not_grow_with_what_passes(source: str) -> None:
    piece = bytes(65536)
    start = encode([EARLY, *PLAIN[3:5]], source) + header(0x7FE00010, "OW", 64 << 20, HOW[source])
    reencoder = Reencoder(source, BECOMES[source][0])
    list(reencoder.feed(start))
    tracemalloc.start()
    count = 0
    for _ in range(1024):
        count += sum(len(part) for batch in reencoder.feed(piece) for part in batch)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20
    assert count >= 64 << 20
    reencoder.finish()


def test_what_deflates_to_nearly_nothing_is_streamed() -> None:
    reencoder = Reencoder(DEFLATED, EXPLICIT)
    data = encode([(0x7FE00010, "OW", bytes(64 << 20))], DEFLATED)
    tracemalloc.start()
    count = sum(len(part) for batch in reencoder.feed(data) for part in batch)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20
    assert count + sum(map(len, reencoder.finish())) == (64 << 20) + 12


def test_many_elements_are_done_in_steps() -> None:
    data = encode([(0x00100000 + n, "LO", b"") for n in range(1, 20001)], EXPLICIT)
    batches = list(Reencoder(EXPLICIT, IMPLICIT).feed(data))
    assert len(batches) >= 20000 // 500
    assert max(sum(map(len, batch)) for batch in batches) <= 70000


# what others read


FILES = Path(pydicom.__file__).parent / "data" / "test_files"
BROKEN = {  # they end within an element
    "MR_truncated.dcm": "more than is there",
    "rtplan_truncated.dcm": "more than is there",
}


def test_files() -> Iterator[tuple[Path, str, bytes]]:
    for path in sorted(FILES.rglob("*")):
        if path.is_file() and "TINY_ALPHA/PT" not in str(path):
            raw = path.read_bytes()
            try:
                meta = read_file_meta(raw[:65536])
            except DataSetError:
                continue
            if meta.transfer_syntax_uid in BECOMES:
                yield path, meta.transfer_syntax_uid, raw[meta.offset :]


CASES = [
    pytest.param(data, source, target, id=f"{path.relative_to(FILES)}-{target[18:] or 'implicit'}")
    for path, source, data in test_files()
    if path.name not in BROKEN
    for target in BECOMES[source]
]
del test_files


def elements_of(data: bytes, uid: str):
    """All elements as pydicom reads them, with the place where they are."""
    if uid == DEFLATED:
        data = zlib.decompress(data, -15)
    return list(flat(read_dataset(BytesIO(data), uid == IMPLICIT, uid != BIG), ()))


def flat(read, place):
    for element in read:
        if element.tag.element == 0:
            continue
        if element.VR == "SQ":
            yield (*place, int(element.tag)), "SQ", len(element.value)
            for number, item in enumerate(element.value):
                yield from flat(item, (*place, int(element.tag), number))
        else:
            yield (*place, int(element.tag)), element.VR, element.value


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("data", "source", "target"), CASES)
def test_pydicom_reads_the_same(data: bytes, source: str, target: str) -> None:
    for (place, vr, value), (new_place, new_vr, new_value) in zip(
        elements_of(data, source), elements_of(reencode(data, source, target), target), strict=True
    ):
        assert place == new_place
        tag = place[-1]
        if source == BIG and vr == "OW":  # which pydicom does not swap
            value = swap(value, 2)
        if isinstance(value, bytes) and len(value) % 2:
            value += b"\0"
        if tag >> 16 & 1 and target == IMPLICIT and vr != new_vr:
            continue  # Implicit VR does not tell it, and pydicom's dictionary of private elements does
        assert value == new_value, hex(tag)
        if target == EXPLICIT:
            assert vr == new_vr or (tag == 0x7FE00010 and {vr, new_vr} == {"OB", "OW"}), hex(tag)


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused(name: str) -> None:
    raw = (FILES / name).read_bytes()
    meta = read_file_meta(raw)
    with pytest.raises(DataSetError, match=BROKEN[name]):
        reencode(raw[meta.offset :], meta.transfer_syntax_uid, BECOMES[meta.transfer_syntax_uid][0])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("data", "source", "target"), [case for case in CASES if case.values[2] == IMPLICIT])
def test_explicit_again(data: bytes, source: str, target: str) -> None:
    """Explicit, Implicit, Explicit: the same elements, the private ones as UN."""
    before = elements_of(data, source)
    again = elements_of(reencode(reencode(data, source, IMPLICIT), IMPLICIT, EXPLICIT), EXPLICIT)
    assert [place for place, _, _ in before] == [place for place, _, _ in again]
    for (place, vr, value), (_, new_vr, new_value) in zip(before, again, strict=True):
        tag = place[-1]
        if tag >> 16 & 1 or tag == 0x7FE00010 or vr != new_vr:
            assert {vr, new_vr} <= {"OB", "OW"} or tag >> 16 & 1, hex(tag)
        else:
            assert value == new_value, hex(tag)


# generated ones

VALUES = [
    (0x00080008, "CS", 1),
    (0x00080018, "UI", 1),
    (0x00091001, "UN", 1),
    (0x00189073, "FD", 8),
    (0x00280002, "US", 2),
    (0x00280009, "AT", 4),
    (0x00281201, "OW", 2),
    (0x0040A30A, "DS", 1),
    (0x00420011, "OB", 1),
    (0x00660016, "OF", 4),
    (0x00720078, "UL", 4),
    (0x0072007C, "SL", 4),
    (0x7FE00001, "OV", 8),
]
SEQUENCES = [0x00081140, 0x00400260, 0x0040A730, 0x00880200]


def values():
    return st.sampled_from(VALUES).flatmap(
        lambda row: st.integers(0, 40).flatmap(
            lambda count: st.binary(min_size=count * row[2], max_size=count * row[2]).map(
                lambda value: (row[0], row[1], value + b"\0" * (len(value) % 2))
            )
        )
    )


def sequences(inner):
    item = st.tuples(st.lists(inner, max_size=4).map(sorted_by_tag), st.booleans())
    return st.tuples(
        st.sampled_from(SEQUENCES), st.just("SQ"), st.tuples(st.lists(item, max_size=3), st.booleans())
    )


def sorted_by_tag(elements):
    return [element for _, element in sorted({element[0]: element for element in elements}.items())]


DATA_SETS = st.lists(st.recursive(values(), sequences, max_leaves=12), max_size=8).map(sorted_by_tag)


@given(DATA_SETS, st.sampled_from(PAIRS), st.lists(st.integers(1, 50), min_size=1, max_size=5))
def test_generated_data_sets_in_any_pieces(elements, pair, sizes) -> None:
    source, target = pair
    data = encode(elements, source)
    reencoder = Reencoder(source, target)
    out, position, turn = b"", 0, 0
    while position < len(data):
        size = sizes[turn % len(sizes)]
        out += b"".join(
            bytes(part) for batch in reencoder.feed(data[position : position + size]) for part in batch
        )
        position, turn = position + size, turn + 1
    out += b"".join(reencoder.finish())
    assert out == expected(elements, source, target)
    assert reencode(data, source, target) == out


@given(DATA_SETS)
def test_explicit_implicit_explicit_changes_nothing(elements) -> None:
    once = reencode(reencode(encode(elements, EXPLICIT), EXPLICIT, IMPLICIT), IMPLICIT, EXPLICIT)
    assert reencode(reencode(once, EXPLICIT, IMPLICIT), IMPLICIT, EXPLICIT) == once
    assert once == expected(elements, EXPLICIT, EXPLICIT)


@given(st.binary(max_size=300), st.sampled_from(PAIRS))
def test_rubbish_ends_in_an_error_or_in_an_even_data_set(data: bytes, pair) -> None:
    try:
        whole = reencode(data, *pair)
    except DataSetError:
        whole = b""
    assert len(whole) % 2 == 0
    decode(whole, pair[1])


@pytest.mark.parametrize("size", [1, 1 << 20])
def test_delimiters_that_nobody_needs_are_dropped(size: int) -> None:
    """Behind items, and at the end of a sequence, of defined length."""
    empty, end_of_item = header(0xFFFEE000, "", 0, "explicit"), header(0xFFFEE00D, "", 0, "explicit")
    end, last = header(0xFFFEE0DD, "", 0, "explicit"), (0x00100020, "LO", b"1 ")
    inside = empty + end_of_item + end
    data = header(0x00081140, "SQ", len(inside), "explicit") + inside + dataset([last], "explicit")
    sent = header(0x00081140, "SQ", UNDEFINED, "implicit") + empty + end + dataset([last], "implicit")
    assert b"".join(pieces(Reencoder(EXPLICIT, IMPLICIT, length=len(data)), data, size)) == sent


@pytest.mark.parametrize("item", [b"", header(0xFFFEE00D, "", 0, "implicit")], ids=["no length", "delimited"])
def test_items_without_end_do_not_wait_for_a_vr(item: bytes) -> None:
    """Before (0028,0103) of the data set around: items that have no element are bounded as well."""
    element = header(0x00280106, "US", 2, "implicit") + b"ab"
    first = header(0x0008_1140, "SQ", UNDEFINED, "implicit")
    first += header(0xFFFEE000, "", len(element), "implicit") + element
    empty = header(0xFFFEE000, "", UNDEFINED if item else 0, "implicit") + item
    reencoder = Reencoder(IMPLICIT, EXPLICIT)
    passed = 0
    for piece in (first, *[empty * 4096] * 4):
        passed += sum(len(buffer) for batch in reencoder.feed(piece) for buffer in batch)
    assert passed > 3 * 4096 * len(empty)
    assert reencoder.guessed == 1


def test_what_is_no_header_behind_a_good_element_is_refused() -> None:
    data = encode(PLAIN[:2], EXPLICIT) + b"\x09\0\x10\0\1\2\3\4" + bytes(range(40))
    with pytest.raises(DataSetError, match="Value Representation"):
        reencode(data, EXPLICIT, IMPLICIT)


def test_a_text_of_undefined_length_in_implicit_vr_leaves_as_unknown() -> None:
    item = header(0xFFFEE000, "", 0, "implicit") + header(0xFFFEE0DD, "", 0, "implicit")
    sent = reencode(header(0x00100010, "", UNDEFINED, "implicit") + item, IMPLICIT, EXPLICIT)
    assert sent[4:6] == b"UN"
