from __future__ import annotations

import warnings
from pathlib import Path

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncdicom.data.charset import codec_of, decode_text

# PS3.5 Annexes H to K: names as the standard encodes them.
EXAMPLES = {
    "H.3.1": (
        "\\ISO 2022 IR 87",
        b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
        "Yamada^Tarou=山田^太郎=やまだ^たろう",
    ),
    "H.3.2": (
        "ISO 2022 IR 13\\ISO 2022 IR 87",
        b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J=\x1b$B$d$^$@\x1b(J^\x1b$B$?$m$&\x1b(J",
        "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう",
    ),
    "I.2": (
        "\\ISO 2022 IR 149",
        b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
        "Hong^Gildong=洪^吉洞=홍^길동",
    ),
    "J.1": ("ISO_IR 192", "Wang^XiaoDong=王^小東".encode(), "Wang^XiaoDong=王^小東"),
    "J.3": ("GB18030", "Wang^XiaoDong=王^小东".encode("gb18030"), "Wang^XiaoDong=王^小东"),
    "K.2": (
        "\\ISO 2022 IR 58",
        b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab=",
        "Zhang^XiaoDong=张^小东=",
    ),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_of_the_standard(name) -> None:
    character_set, value, text = EXAMPLES[name]
    assert decode_text(value, character_set, "PN") == text


# PS3.3 Tables C.12-2 to C.12-5: one letter that only this repertoire has at that place.
REPERTOIRES = [
    ("ISO_IR 100", b"\xfc", "ü"),
    ("ISO_IR 101", b"\xb1", "ą"),
    ("ISO_IR 109", b"\xa1", "Ħ"),
    ("ISO_IR 110", b"\xa2", "ĸ"),
    ("ISO_IR 126", b"\xe1", "α"),
    ("ISO_IR 127", b"\xc8", "ب"),
    ("ISO_IR 138", b"\xe0", "א"),
    ("ISO_IR 144", b"\xb6", "Ж"),
    ("ISO_IR 148", b"\xfd", "ı"),
    ("ISO_IR 166", b"\xa1", "ก"),
    ("ISO_IR 203", b"\xa4", "€"),
    ("ISO_IR 13", b"\xb1", "ｱ"),
    ("GBK", b"\xcd\xf5", "王"),
    ("", b"\xfc", "ü"),
    ("ISO_IR 6", b"\xfc", "ü"),
]
ESCAPES = {
    "ISO_IR 100": b"-A",
    "ISO_IR 101": b"-B",
    "ISO_IR 109": b"-C",
    "ISO_IR 110": b"-D",
    "ISO_IR 126": b"-F",
    "ISO_IR 127": b"-G",
    "ISO_IR 138": b"-H",
    "ISO_IR 144": b"-L",
    "ISO_IR 148": b"-M",
    "ISO_IR 166": b"-T",
    "ISO_IR 203": b"-b",
    "ISO_IR 13": b")I",
}


@pytest.mark.parametrize(("term", "value", "text"), REPERTOIRES)
def test_single_repertoires(term, value, text) -> None:
    assert decode_text(b"A" + value + b"^B ", term, "PN") == f"A{text}^B"


@pytest.mark.parametrize(("term", "value", "text"), [row for row in REPERTOIRES if row[0] in ESCAPES])
def test_by_code_extension(term, value, text) -> None:
    declared = "\\" + term.replace("ISO_IR", "ISO 2022 IR")
    assert decode_text(b"A\x1b" + ESCAPES[term] + value, declared, "LO") == f"A{text}"


def test_delimiters_bring_back_the_initial_set() -> None:  # PS3.5 6.1.2.5.3
    greek = b"\x1b-F\xe1"
    assert decode_text(greek + b"^\xfc", "ISO 2022 IR 100\\ISO 2022 IR 126", "PN") == "α^ü"
    assert decode_text(greek + b"\\\xfc", "ISO 2022 IR 100\\ISO 2022 IR 126", "LO") == "α\\ü"
    assert decode_text(greek + b"^\xe1", "ISO 2022 IR 100\\ISO 2022 IR 126", "LO") == "α^α"
    assert decode_text(greek + b"^\xe1", "\\ISO 2022 IR 126", "PN") == "α^α"  # lenient: nothing to go back to


@pytest.mark.parametrize(
    "term", ["ISO-IR 100", "ISO IR 100", "iso_ir 100", "ISO_IR_100", "ISO 2022 IR 100", " IR100\0"]
)
def test_spellings(term) -> None:  # interop quirk 37
    assert codec_of(term) == "latin-1"


@pytest.mark.parametrize("term", ["UTF-8", "nonsense", "ISO_IR 999", "ISO_IR 192"])
def test_unknown_terms_are_utf_8(term) -> None:
    assert decode_text("ü€".encode(), term, "LO") == "ü€"
    assert decode_text(b"\xff", term, "LO") == "ÿ"


def test_other_vrs_are_not_governed() -> None:
    assert decode_text(b"\xfcCT\0", "ISO_IR 100", "CS") == "üCT"
    assert decode_text(b"1.2\0", "ISO_IR 192", "UI") == "1.2"


@given(
    value=st.binary(max_size=40)
    | st.lists(st.sampled_from([b"\x1b", b"$B", b"$)C", b"(J", b"^", b"\xb1"])).map(b"".join),
    character_set=st.sampled_from(["", "\\ISO 2022 IR 87", "GB18030", "ISO_IR 192", "ISO_IR 13"])
    | st.text(max_size=20),
    vr=st.sampled_from(["PN", "LO", "CS", "UT"]),
)
def test_it_never_raises(value, character_set, vr) -> None:
    assert isinstance(decode_text(value, character_set, vr), str)


FILES = sorted((Path(pydicom.__file__).parent / "data" / "charset_files").glob("chr*.dcm"))


def test_pydicom_reads_the_same() -> None:
    assert len(FILES) > 10
    for path in FILES:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            elements = pydicom.dcmread(path)
        raw = elements.get_item(0x00100010)
        if raw is None:
            continue
        term = elements.get("SpecificCharacterSet") or ""
        term = term if isinstance(term, str) else "\\".join(term)
        text = decode_text(raw.value, term, "PN")
        assert text.rstrip("=") == str(elements.PatientName), path.name


@pytest.mark.parametrize(
    ("term", "codec"),
    [
        ("LATIN1", "latin-1"),
        ("ISO8859-1", "latin-1"),
        ("ISO 8859-1", "latin-1"),
        ("ISO8859-6", "iso8859-6"),
        ("ISO_8859-15", "iso8859-15"),
        ("WINDOWS-1251", "cp1251"),
        ("CP1252", "cp1252"),
        ("GB2312", "gb2312"),
        ("KOI8-R", "koi8-r"),
        ("UTF8", "utf-8"),
        ("SHIFT_JIS", "shift_jis"),
        ("EUC-KR", "euc_kr"),
        *((name, "utf-8") for name in ("UTF-7", "UTF-16", "IDNA", "PUNYCODE", "ROT13", "HEX", "CP037", "HZ")),
        *((name, "utf-8") for name in ("UNICODE_ESCAPE", "RAW_UNICODE_ESCAPE", "A\0B", "../X", "X" * 1000)),
    ],
)
def test_names_that_others_have(term: str, codec: str) -> None:
    assert codec_of(term) == codec


@given(value=st.binary(max_size=30), term=st.sampled_from(["", "ISO_IR 192", "ISO_IR 100", "ISO_IR 126"]))
def test_nothing_is_replaced(value: bytes, term: str) -> None:
    if b"\xef\xbf\xbd" not in value:
        assert "\ufffd" not in decode_text(value, term, "LO")


def test_the_declared_set_then_utf_8_then_latin_1() -> None:
    assert decode_text(b"caf\xc3\xa9", "ISO_IR 100", "LO") == "cafÃ©"
    assert decode_text(b"caf\xc3\xa9", "", "LO") == "café"
    assert decode_text(b"caf\xe9", "", "LO") == "café"
    assert decode_text(b"caf\xe9", "ISO_IR 192", "LO") == "café"
    assert decode_text(b"\xff", "ISO_IR 127", "LO") == "ÿ"
