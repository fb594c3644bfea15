from __future__ import annotations

import runpy
import tracemalloc
import warnings
import zlib
from functools import cache
from itertools import pairwise, product
from pathlib import Path
from random import Random
from struct import pack
from typing import Any

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataelem import RawDataElement

from asyncdicom.data.inflation import MAXIMUM_HEADERS
from asyncdicom.data.part10 import read_file_meta
from asyncdicom.data.scanner import IncompleteDataSet, Scanner
from asyncdicom.exceptions import DataSetError

ENCODED = runpy.run_path(str(Path(__file__).with_name("encoded.py")))
dataset, header = ENCODED["dataset"], ENCODED["header"]
SYNTAXES, UNDEFINED = ENCODED["SYNTAXES"], ENCODED["UNDEFINED"]
IMPLICIT, EXPLICIT, BIG = SYNTAXES.values()
DEFLATED = "1.2.840.10008.1.2.1.99"

UID, NAME, ID, ROWS = (0x00080018, "UI"), (0x00100010, "PN"), (0x00100020, "LO"), (0x00280010, "US")
WANTED = frozenset(tag for tag, _ in (UID, NAME, ID, ROWS))
PIXELS = (0x7FE00010, "OW", bytes(64))

# fmt: off
INDEX_TAGS = frozenset([
    0x00080005, 0x00080016, 0x00080018, 0x00080020, 0x00080030, 0x00080050, 0x00080060, 0x00080090,
    0x00081030, 0x0008103E, 0x00100010, 0x00100020, 0x00100030, 0x00100040, 0x0020000D, 0x0020000E,
    0x00200010, 0x00200011, 0x00200013, 0x00280008, 0x00280010, 0x00280011,
])
# fmt: on


def scan(data, syntax=EXPLICIT, pieces=(), tags=WANTED, **limits):
    """Feed ``data`` cut at ``pieces`` and return the values, or the error as a value."""
    scanner = Scanner(syntax, tags, **limits)
    cuts = [0, *sorted(cut for cut in pieces if cut < len(data)), len(data)]
    for start, stop in pairwise(cuts):
        if scanner.feed(memoryview(data)[start:stop]):
            break
    return {tag: element.value for tag, element in scanner.finish().items()}


def outcome(*args, **kwargs):
    try:
        return scan(*args, **kwargs)
    except DataSetError:
        return DataSetError


def each_way(data, syntax=EXPLICIT, **kwargs):
    """Whole, byte by byte and with trailing data: one outcome, which is returned."""
    whole = outcome(data, syntax, **kwargs)
    assert outcome(data, syntax, range(1, len(data)), **kwargs) == whole
    assert outcome(data, syntax, range(3, len(data), 5), **kwargs) == whole
    return whole


KEYS = [(*UID, b"1.2\0"), (*NAME, b"DOE^J "), (*ID, b"4711"), (*ROWS, b"\0\2")]
FOUND = {tag: value for tag, _, value in KEYS}


# --- what is right ---


@pytest.mark.parametrize("how", SYNTAXES)
@pytest.mark.parametrize("end", [[], [PIXELS]], ids=["end", "pixels"])
def test_the_wanted_elements_are_found(how, end) -> None:
    unwanted = [(0x00080005, "CS", b""), (0x00080008, "CS", b"ORIGINAL"), (0x00081140, "SQ", b"")]
    elements = sorted([*KEYS, *unwanted]) + end
    assert each_way(dataset(elements, how), SYNTAXES[how]) == FOUND


@pytest.mark.parametrize(("how", "vr"), [("implicit", "SQ"), *product(["explicit", "big"], ["SQ", "UN"])])
@pytest.mark.parametrize("open_sequence", [True, False])
@pytest.mark.parametrize("open_item", [True, False])
def test_sequences_are_skipped(how, open_sequence, open_item, vr) -> None:
    inner = (0x00091001, "UN" if vr == "UN" else "SQ", ([([(*ID, b"inner ")], open_item)], open_sequence))
    items = [([(*UID, b"9.9\0"), inner], open_item), ([], open_item)]
    elements = [KEYS[0], (0x00081140, vr, (items, open_sequence)), *KEYS[1:], PIXELS]
    assert each_way(dataset(elements, how), SYNTAXES[how]) == FOUND


def test_a_sequence_is_never_a_value() -> None:
    tags = frozenset([0x00081140])
    for vr in ("SQ", "UN"):  # a known sequence, disguised
        assert (
            each_way(dataset([(0x00081140, vr, ([([], False)], False)), PIXELS], "explicit"), tags=tags) == {}
        )
    assert (
        each_way(dataset([(0x00081140, "SQ", ([([], True)], True))], "implicit"), IMPLICIT, tags=tags) == {}
    )


def test_it_is_done_behind_the_last_wanted_tag() -> None:
    scanner = Scanner(EXPLICIT, WANTED)
    assert not scanner.feed(dataset(KEYS, "explicit"))
    assert not scanner.done
    assert scanner.feed(header(0x00280011, "US", 2, "explicit"))
    assert scanner.done
    assert scanner.feed(b"what comes now is never looked at")
    assert {tag: element.value for tag, element in scanner.finish().items()} == FOUND


def test_the_vr_of_implicit_and_unknown_elements_comes_from_the_dictionary() -> None:
    for how, vr in (("implicit", ""), ("explicit", "UN"), ("explicit", "PN")):
        scanner = Scanner(SYNTAXES[how], WANTED)
        scanner.feed(dataset([(0x00100010, vr, b"DOE^J ")], how))
        assert scanner.finish()[0x00100010] == (0x00100010, "PN", b"DOE^J ")
        assert scanner.found == scanner.finish()


def test_deflated() -> None:
    compressor = zlib.compressobj(wbits=-15)
    deflated = compressor.compress(dataset(KEYS, "explicit")) + compressor.flush()
    assert each_way(deflated, DEFLATED) == FOUND
    assert each_way(deflated + b"\0", DEFLATED) == FOUND
    assert each_way(deflated[:-2], DEFLATED) is DataSetError
    assert each_way(b"\xff" + deflated, DEFLATED) is DataSetError


# --- memory ---


def peak_while(action) -> int:
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_values_that_are_not_wanted_are_never_gathered() -> None:
    scanner = Scanner(EXPLICIT, WANTED)
    block = memoryview(bytes(1 << 20))
    scanner.feed(dataset([(*UID, b"1.2\0")], "explicit") + header(0x00091010, "OB", 64 << 20, "explicit"))
    assert peak_while(lambda: [scanner.feed(block) for _ in range(64)]) < 65536
    assert scanner.feed(dataset([*KEYS[1:], PIXELS], "explicit"))
    assert {tag: element.value for tag, element in scanner.finish().items()} == FOUND


def test_a_claim_allocates_nothing() -> None:
    data = header(0x00080018, "UN", 0xFFFFFFFE, "explicit") + b"1.2"
    assert peak_while(lambda: each_way(data)) < 131072
    assert each_way(data) is DataSetError


def test_the_rest_of_a_block_is_not_copied_when_done() -> None:
    data = memoryview(dataset([*KEYS, PIXELS], "explicit") + bytes(4 << 20))
    assert peak_while(lambda: scan(data)) < 65536


def test_of_a_long_value_the_beginning_is_kept() -> None:  # D-14
    scanner = Scanner(EXPLICIT, WANTED, maximum_value=8)
    scanner.feed(dataset([(*UID, b"1.2\0"), (*NAME, b"A" * 1000), (*ID, b"12345678"), PIXELS], "explicit"))
    found = scanner.finish()
    assert found[0x00100010].value == b"A" * 8
    assert found[0x00100020].value == b"12345678"
    assert scanner.truncated == {0x00100010}


def deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(9, wbits=-15)
    return compressor.compress(data) + compressor.flush()


def test_deflate_bombs() -> None:  # D-11
    bomb = deflate(dataset([(0x00080005, "UN", bytes(40 << 20)), *KEYS], "explicit"))
    assert peak_while(lambda: outcome(bomb, DEFLATED)) < 1 << 20
    assert outcome(bomb, DEFLATED) is DataSetError
    assert outcome(bomb, DEFLATED, maximum_ratio=1100) is DataSetError
    assert outcome(bomb, DEFLATED, maximum_ratio=1100, maximum_inflated=41 << 20) == FOUND


def _empty(count: int) -> list[tuple[int, str, bytes]]:
    return [(0x00091000 + number % 0xEF00, "LO", b"") for number in range(count)]


MANY = 200_000
BOMBS: dict[str, list[Any]] = {
    "again and again the same": [(0x00091010, "LO", b"")] * MANY,
    "in items": [(0x00081140, "SQ", ([(_empty(100), True)] * (MANY // 100), True))],
    "empty items": [(0x00081140, "SQ", ([([], True)] * (MANY // 2), True))],
}


@pytest.mark.parametrize("kind", BOMBS)
@pytest.mark.parametrize("whole", [False, True])
def test_a_bomb_of_elements(kind: str, whole: bool) -> None:
    """Each element takes time, and a thousand may be in a few bytes: they are counted."""
    elements = BOMBS[kind] + KEYS
    bomb = deflate(dataset(elements, "explicit"))
    scanner = Scanner(DEFLATED, WANTED, whole=whole, maximum_ratio=2000)
    steps = scanner.feeding(bomb)
    with pytest.raises(DataSetError, match=r"is a bomb: \d+ bytes gave \d+ elements"):
        for number, _ in enumerate(steps):
            assert number < 3 * MAXIMUM_HEADERS // 1024
    plain = dataset(elements, "explicit")
    assert outcome(plain, EXPLICIT, whole=whole) == FOUND, "what was sent in full is looked at in full"


def test_many_elements_that_are_worth_their_bytes() -> None:
    random = Random(1)
    values = (random.randbytes(8) for _ in range(MAXIMUM_HEADERS + 20_000))
    many = [(0x00090000 + (n // 50_000 << 17) + n % 50_000, "OB", value) for n, value in enumerate(values)]
    assert outcome(deflate(dataset([*many, *KEYS], "explicit")), DEFLATED, whole=True) == FOUND


def test_a_bomb_behind_the_keys_is_not_looked_at() -> None:
    assert outcome(deflate(dataset([*KEYS, PIXELS], "explicit") + bytes(40 << 20)), DEFLATED) == FOUND


# --- malformed data sets, by the ids of the cases in asyncdicom/conformance/ ---

OPEN_SEQUENCE: bytes = header(0x00081140, "SQ", UNDEFINED, "explicit")
OPEN_ITEM: bytes = header(0xFFFEE000, "", UNDEFINED, "explicit")
END_ITEM: bytes = header(0xFFFEE00D, "", 0, "explicit")
END_SEQUENCE: bytes = header(0xFFFEE0DD, "", 0, "explicit")
PLAIN = dataset(KEYS, "explicit")
UID_ELEMENT, REST = dataset(KEYS[:1], "explicit"), dataset(KEYS[1:], "explicit")


def deep(depth: int) -> bytes:
    return (OPEN_SEQUENCE + OPEN_ITEM) * depth + (END_ITEM + END_SEQUENCE) * depth


MALFORMED = {
    "D-01 within a header": (PLAIN[:-5], DataSetError),
    "D-01 within a value": (PLAIN[:-1], DataSetError),
    "D-01 a lone byte": (b"\x08", DataSetError),
    "D-02 longer than the rest": (header(0x00080005, "CS", 100, "explicit") + PLAIN, DataSetError),
    "D-02 4 GiB": (header(0x00080005, "OB", 0xFFFFFFFE, "explicit") + PLAIN, DataSetError),
    "D-03 odd length": (header(0x00080005, "CS", 3, "explicit") + b"ISO" + PLAIN, FOUND),
    "D-04 new VR": (b"\x08\0\x05\0ZZ\0\0\x04\0\0\0????" + PLAIN, FOUND),
    "D-04 misspelt short VR": (b"\x08\0\x05\0ZZ\x04\0????" + PLAIN, FOUND),
    "D-04 VR ??": (b"\x08\0\x05\0??\x04\0????" + PLAIN, FOUND),
    "D-04 VR of NULs": (b"\x08\0\x05\0\0\0\x04\0????" + PLAIN, FOUND),
    "D-04 a length of Implicit VR": (b"\x08\0\x05\0\x04\0\0\0????" + PLAIN, DataSetError),
    "D-05 group 0000": (header(0x00000100, "US", 2, "explicit") + b"\1\0" + PLAIN, FOUND),
    "D-05 group 0002": (header(0x00020010, "UI", 4, "explicit") + b"1.2\0" + PLAIN, FOUND),
    "D-05 group 0002 in the middle": (UID_ELEMENT + header(0x00020010, "UI", 0, "explicit") + REST, FOUND),
    "D-06 not ascending": (REST + UID_ELEMENT, FOUND),
    "D-06 not ascending, before pixels": (REST + UID_ELEMENT + dataset([PIXELS], "explicit"), FOUND),
    "D-06 not ascending, beyond the last wanted": (
        dataset([*KEYS[2:], KEYS[0], (0x00400001, "AE", b""), KEYS[1]], "explicit"),
        FOUND,
    ),
    "D-06 the same twice": (UID_ELEMENT + PLAIN, FOUND),
    "D-06 the same twice, other padding": (header(0x00080018, "UI", 3, "explicit") + b"1.2" + PLAIN, FOUND),
    "D-06 another UID": (header(0x00080018, "UI", 4, "explicit") + b"1.3\0" + PLAIN, DataSetError),
    "D-07 64 levels": (deep(64) + REST, {tag: FOUND[tag] for tag in FOUND if tag != 0x00080018}),
    "D-07 65 levels": (deep(65) + PLAIN, DataSetError),
    "D-07 10,000 levels": (deep(10_000) + PLAIN, DataSetError),
    "D-08 item delimiter outside": (UID_ELEMENT + END_ITEM + REST, FOUND),
    "D-08 sequence delimiter outside": (UID_ELEMENT + END_SEQUENCE + REST, FOUND),
    "D-08 delimiter with a length outside": (
        UID_ELEMENT + END_SEQUENCE[:4] + b"\xff\xff\xff\x7f" + REST,
        FOUND,
    ),
    "D-08 delimiters with a length": (
        UID_ELEMENT
        + OPEN_SEQUENCE
        + OPEN_ITEM
        + END_ITEM[:4]
        + b"\1\0\0\0"
        + END_SEQUENCE[:4]
        + b"\1\0\0\0"
        + REST,
        FOUND,
    ),
    "D-08 superfluous item delimiter": (
        UID_ELEMENT + OPEN_SEQUENCE + header(0xFFFEE000, "", 0, "explicit") + END_ITEM + END_SEQUENCE + REST,
        FOUND,
    ),
    "D-08 item outside": (UID_ELEMENT + OPEN_ITEM + REST, DataSetError),
    "D-08 element instead of an item": (UID_ELEMENT + OPEN_SEQUENCE + REST + END_SEQUENCE, DataSetError),
    "D-08 sequence ends within an item": (OPEN_SEQUENCE + OPEN_ITEM + END_SEQUENCE + PLAIN, DataSetError),
    "D-08 item within an item": (OPEN_SEQUENCE + OPEN_ITEM + OPEN_ITEM + PLAIN, DataSetError),
    "D-09 no sequence delimiter": (UID_ELEMENT + OPEN_SEQUENCE, DataSetError),
    "D-09 no item delimiter": (UID_ELEMENT + OPEN_SEQUENCE + OPEN_ITEM, DataSetError),
    "D-09 open text": (header(0x00080005, "UT", UNDEFINED, "explicit") + PLAIN, DataSetError),
    "D-10 encapsulated": (PLAIN + header(0x7FE00010, "OB", UNDEFINED, "explicit"), FOUND),
    "D-10 encapsulated elsewhere": (
        UID_ELEMENT
        + header(0x00091010, "OB", UNDEFINED, "explicit")
        + header(0xFFFEE000, "", 0, "explicit")
        + header(0xFFFEE000, "", 2, "explicit")
        + b"\xfe\xff"
        + END_SEQUENCE
        + REST,
        FOUND,
    ),
    "D-12 big endian": (dataset(KEYS, "big"), DataSetError),
    "D-13 no keys": (dataset([(0x00080005, "CS", b""), PIXELS], "explicit"), {}),
    "D-18 empty": (b"", DataSetError),
    "M-05 implicit": (dataset(KEYS, "implicit"), DataSetError),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed(case) -> None:
    data, expected = MALFORMED[case]
    if len(data) > 100_000:
        assert outcome(data) == expected
    else:
        assert each_way(data) == expected


@pytest.mark.parametrize(
    ("declared", "actual"), [(IMPLICIT, "explicit"), (IMPLICIT, "big"), (BIG, "explicit"), (BIG, "implicit")]
)
def test_other_wrong_transfer_syntaxes(declared, actual) -> None:  # M-05, D-12
    assert each_way(dataset(KEYS, actual), declared) is DataSetError


@pytest.mark.parametrize("how", SYNTAXES)
@pytest.mark.parametrize("syntax", ["1.2.840.113619.5.99", "1.3.6.1.4.1.5962.300.1", "2.25.7"])
def test_private_transfer_syntaxes_that_nobody_knows_are_read_as_they_look(syntax, how) -> None:
    assert each_way(dataset(KEYS, how), syntax) == each_way(dataset(KEYS, how), SYNTAXES[how])


def test_the_private_syntax_of_ge_is_implicit() -> None:
    assert each_way(dataset(KEYS, "implicit"), "1.2.840.113619.5.2") == FOUND


def test_sequences_and_compressed_pixel_data_are_told_where_they_are_wanted() -> None:
    scanner = Scanner(EXPLICIT, frozenset({0x7FE00010}), whole=True)
    scanner.feed(PLAIN + header(0x7FE00010, "OB", UNDEFINED, "explicit") + END_SEQUENCE)
    assert (scanner.finish(), scanner.undefined) == ({}, {0x7FE00010})
    scanner = Scanner(EXPLICIT, frozenset({0x7FE00010}), whole=True)
    scanner.feed(PLAIN + header(0x7FE00010, "OB", 0, "explicit"))
    assert (set(scanner.finish()), scanner.undefined) == ({0x7FE00010}, set())


def test_an_error_stays() -> None:
    scanner = Scanner(EXPLICIT, WANTED)
    for call in (
        lambda: scanner.feed(dataset(KEYS, "implicit")),
        lambda: scanner.feed(PLAIN),
        scanner.finish,
    ):
        with pytest.raises(DataSetError):
            call()


# --- properties ---

tags = st.sampled_from([0x00080018, 0x00080060, 0x00081140, 0x00091001, 0x00100010, 0x00100020, 0x00280010])
values = st.binary(max_size=20)
VR_OF = {0x00080018: "UI", 0x00100010: "PN", 0x00100020: "LO", 0x00280010: "US"}


def elements_of(children):
    plain = st.tuples(tags, st.just("LO"), values)
    sequences = st.tuples(
        st.sampled_from([0x00081140, 0x00091001]),
        st.just("SQ"),
        st.tuples(st.lists(st.tuples(children, st.booleans()), max_size=3), st.booleans()),
    )
    return st.lists(plain | sequences, max_size=6, unique_by=lambda element: element[0])


trees = st.recursive(elements_of(st.just([])), elements_of, max_leaves=8)
cuts = st.lists(st.integers(1, 400), max_size=12)


@given(tree=trees, how=st.sampled_from(list(SYNTAXES)), pieces=cuts, shuffled=st.booleans())
def test_any_data_set_in_any_pieces(tree, how, pieces, shuffled) -> None:
    elements = [(tag, VR_OF.get(tag, vr), value) for tag, vr, value in tree]
    if not shuffled:
        elements.sort(key=lambda element: element[0])
    data = dataset(elements, how)
    expected = {tag: value for tag, _, value in elements if tag in WANTED}
    if data:
        assert outcome(data, SYNTAXES[how], pieces) == expected


@given(data=st.binary(max_size=200), syntax=st.sampled_from([IMPLICIT, EXPLICIT, BIG, DEFLATED]), pieces=cuts)
def test_noise_gives_one_outcome(data, syntax, pieces) -> None:
    assert outcome(data, syntax, pieces) == outcome(data, syntax)


@given(
    tree=trees,
    how=st.sampled_from(list(SYNTAXES)),
    at=st.integers(0, 300),
    byte=st.integers(0, 255),
    pieces=cuts,
)
def test_a_changed_byte_gives_one_outcome(tree, how, at, byte, pieces) -> None:
    data = bytearray(dataset(tree, how))
    if at < len(data):
        data[at] = byte
    assert outcome(bytes(data), SYNTAXES[how], pieces) == outcome(bytes(data), SYNTAXES[how])


# --- pydicom's files ---

FOLDER = Path(pydicom.__file__).parent / "data"
# Declares Explicit VR and is Implicit: pydicom guesses, we do not (M-05).
WRONG = {"SC_rgb_jpeg.dcm"}


def part10_files() -> list[Path]:
    files = [path for path in sorted(FOLDER.rglob("*")) if path.is_file() and path.name not in WRONG]
    marked = [path for path in files if path.read_bytes()[128:132] == b"DICM"]
    return [path for path in marked if path.name != "meta_missing_tsyntax.dcm"]


FILES = part10_files()


@cache
def raw_values(path: Path) -> dict[int, bytes]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        elements = pydicom.dcmread(path, stop_before_pixels=True)
        raw = {int(tag): elements.get_item(tag) for tag in elements.keys() if tag in INDEX_TAGS}  # noqa: SIM118
    return {
        # pydicom converts the character set at once; its value is made bytes again
        tag: (element.value or b"") if isinstance(element, RawDataElement) else text_of(element.value)
        for tag, element in raw.items()
    }


def text_of(value) -> bytes:
    return (value if isinstance(value, str) else "\\".join(value or ())).encode()


def comparable(found: dict[int, bytes]) -> dict[int, bytes]:
    return {tag: value.strip(b" \0") if tag == 0x00080005 else value for tag, value in found.items()}


def test_there_are_files() -> None:
    assert len(FILES) > 100


def test_every_file_of_pydicom() -> None:
    for path in FILES:
        data = path.read_bytes()
        meta = read_file_meta(data)
        expected = comparable(raw_values(path))
        for pieces in ((), range(1, 20_000), range(0, len(data), 1000)):
            found = scan(data[meta.offset :], meta.transfer_syntax_uid, pieces, INDEX_TAGS)
            assert comparable(found) == expected, path.name


@settings(deadline=None)
@given(path=st.sampled_from(FILES), pieces=st.lists(st.integers(1, 20_000), max_size=20))
def test_any_pieces_of_any_file(path, pieces) -> None:
    data = path.read_bytes()
    meta = read_file_meta(data)
    found = scan(data[meta.offset :], meta.transfer_syntax_uid, pieces, INDEX_TAGS)
    assert comparable(found) == comparable(raw_values(path))


def test_a_file_whose_data_set_is_not_in_the_declared_syntax() -> None:
    data = (FOLDER / "test_files" / "SC_rgb_jpeg.dcm").read_bytes()
    if data[128:132] == b"DICM":
        meta = read_file_meta(data)
        assert outcome(data[meta.offset :], meta.transfer_syntax_uid, tags=INDEX_TAGS) is DataSetError


# to the end of the data set


def is_whole(data, syntax=EXPLICIT, pieces=()):
    return scan(data, syntax, pieces, frozenset(), whole=True) == {}


END = dataset([(*NAME, b"DOE^J "), PIXELS, (0xFFFCFFFC, "OB", bytes(10))], "explicit")


@pytest.mark.parametrize("behind", [b"", bytes(1), bytes(7), bytes(8), bytes(20_000)])
def test_zeros_behind_the_last_element_are_no_element(behind) -> None:
    for pieces in ((), range(1, len(END) + 30), (len(END),), (len(END) + 1, len(END) + 9)):
        assert is_whole(END + behind, pieces=pieces)


@pytest.mark.parametrize("behind", [b"\0\0\0\0\0\0\0\0\1", bytes(9000) + b"x", b"\1"])
def test_something_behind_the_last_element_is_noticed(behind) -> None:
    for pieces in ((), range(1, len(END) + 30), (len(END) + 8,)):
        with pytest.raises(DataSetError):
            is_whole(END + behind, pieces=pieces)


@pytest.mark.parametrize("missing", [1, 9, 23, 60])
def test_an_end_that_is_missing_is_noticed(missing) -> None:
    for pieces in ((), range(1, len(END))):
        with pytest.raises(DataSetError, match="truncated"):
            is_whole(END[:-missing], pieces=pieces)


# deflated, to the end: what is behind the last wanted tag is inflated, and not looked at


def deflated_whole(data, pieces=()):
    deflated = deflate(data)
    scanner = Scanner(DEFLATED, WANTED, whole=True)
    for start, stop in pairwise([0, *pieces, len(deflated)]):
        scanner.feed(memoryview(deflated)[start:stop])
    return scanner


def test_a_deflated_data_set_is_inflated_to_its_end() -> None:
    data = dataset([(*UID, b"1.2\0"), (*NAME, b"DOE^J "), PIXELS], "explicit") + bytes(500_000) + b"x"
    scanner = deflated_whole(data, (40,))
    assert {tag: element.value for tag, element in scanner.finish().items()} == {
        UID[0]: b"1.2\0",
        NAME[0]: b"DOE^J ",
    }
    assert scanner.is_behind
    assert scanner.skips == 0, "nothing of what is deflated can be skipped unread"


def test_a_deflated_data_set_without_its_end_is_incomplete() -> None:
    data = deflate(dataset([(*UID, b"1.2\0"), PIXELS], "explicit") + bytes(100_000))
    scanner = Scanner(DEFLATED, WANTED, whole=True)
    scanner.feed(data[:-8])
    with pytest.raises(IncompleteDataSet):
        scanner.finish()


def test_what_nobody_wants_can_be_skipped() -> None:
    scanner = Scanner(EXPLICIT, WANTED, whole=True)
    scanner.feed(header(0x7FE00010, "OB", 1000, "explicit") + bytes(10))
    assert scanner.skips == 990
    assert scanner.skip(90) == 90
    scanner.feed(bytes(400))
    assert scanner.skip(1 << 20) == 500
    assert scanner.skips == 0
    assert scanner.skip(1) == 0
    assert scanner.finish() == {}


def test_a_wanted_element_that_comes_with_different_values_is_told() -> None:
    scanner = Scanner(EXPLICIT, WANTED, whole=True)
    scanner.feed(dataset([(*NAME, b"DOE^J "), (*NAME, b"ROE^J "), (*ID, b"1 "), (*ID, b"1 ")], "explicit"))
    assert scanner.finish()[NAME[0]].value == b"ROE^J "
    assert scanner.repeated == {NAME[0]}


def test_a_syntax_that_nobody_knows_and_no_data_set_looks_like() -> None:
    with pytest.raises(DataSetError):
        scan(b"\x08\0\5\0" + pack("<L", 1 << 30) + bytes(8), "1.2.3.4")


def test_a_wanted_sequence_in_implicit_vr_is_no_value() -> None:
    elements = [
        (0x00080018, "UI", b"1.2\0"),
        (0x00081140, "SQ", ([([(0x00080100, "SH", b"A ")], False)], False)),
    ]
    found = scan(
        dataset(elements, "implicit"), IMPLICIT, tags=frozenset({0x00080018, 0x00081140, 0x00100010})
    )
    assert 0x00081140 not in found
