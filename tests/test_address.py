from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncdicom.address import Address, check_ae_title


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ARCHIVE@10.0.0.5:104", ("ARCHIVE", "10.0.0.5", 104)),
        ("ARCHIVE@pacs.example", ("ARCHIVE", "pacs.example", 11112)),
        ("pacs:4242", ("ANY-SCP", "pacs", 4242)),
        ("localhost", ("ANY-SCP", "localhost", 11112)),
        ("AET@[::1]:104", ("AET", "::1", 104)),
        ("AET@[fe80::1%eth0]", ("AET", "fe80::1%eth0", 11112)),
        ("[::1]:0", ("ANY-SCP", "::1", 0)),
        ("  MY AET @h:65535 ", ("MY AET", "h", 65535)),
        ("A@B@host:1", ("A@B", "host", 1)),
        ("A:B@host:1", ("A:B", "host", 1)),
    ],
)
def test_parse(text, expected) -> None:
    address = Address.parse(text)
    assert address == expected
    assert Address.parse(str(address)) == address


def test_default_port() -> None:
    assert Address.parse("A@h", default_port=104).port == 104
    assert Address.parse("A@h:1", default_port=104).port == 1


@pytest.mark.parametrize(
    ("text", "about"),
    [
        ("", "host"),
        ("AET@", "host"),
        ("AET@:104", "host"),
        ("@host:104", "empty"),
        ("AET@a b:104", "host"),
        ("AET@a\\b", "host"),
        ("AET@host:", "port"),
        ("AET@host:http", "port"),
        ("AET@host:65536", "port"),
        ("AET@host:-1", "port"),
        ("AET@host:٣", "port"),
        ("AET@host:000000001", "port"),
        ("AET@::1", "brackets"),
        ("AET@fe80::1%eth0", "brackets"),
        ("dicom://host:104", "is a URL: a peer is written AET@host:port"),
        ("http://10.0.0.5", "is a URL"),
        ("10.0.0.5:104:1", "colon too many"),
        ("AET@host:104:1", "colon too many"),
        ("AET@[::1", "IPv6"),
        ("AET@[::1]104", "IPv6"),
        ("AET@[]:104", "host"),
        ("AN_AE_TITLE_TOO_LONG@host", "16"),
        ("A\\B@host", r"'\\\\' at position 2"),
    ],
)
def test_refused_with_one_line_that_helps(text, about) -> None:
    with pytest.raises(ValueError) as raised:
        Address.parse(text)
    message = str(raised.value)
    assert "\n" not in message
    assert about.replace("\\\\\\\\", "\\\\") in message


@pytest.mark.parametrize("title", ["A", "STORE_SCP", "  padded  ", "sixteen chars 16", "a@b:c", "~!"])
def test_valid_ae_titles(title) -> None:
    assert check_ae_title(title) == title.strip(" ")


@pytest.mark.parametrize(
    ("title", "shown"),
    [("", "''"), ("    ", "'    '"), ("A\\B", r"'\\'"), ("A\tB", r"'\t'"), ("A\0", r"'\x00'"), ("AÉ", "'É'"),
     ("A\n", r"'\n'"), ("A\x7f", r"'\x7f'"), ("12345678901234567", "17")],
)  # fmt: skip
def test_invalid_ae_titles(title, shown) -> None:
    with pytest.raises(ValueError) as raised:
        check_ae_title(title)
    assert shown in str(raised.value)
    assert str(raised.value).isprintable()


titles = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0x7E, exclude_characters="\\"), min_size=1, max_size=16
)
hosts = st.from_regex(r"\A[a-z0-9.-]{1,20}\Z") | st.ip_addresses().map(str)


@given(title=titles.filter(str.strip), host=hosts, port=st.integers(0, 65535))
def test_str_is_the_inverse_of_parse(title, host, port) -> None:
    address = Address(check_ae_title(title), host, port)
    assert Address.parse(str(address)) == address
    assert isinstance(Address.parse(str(address)), Address)


@given(st.text(max_size=40))
def test_nothing_else_is_raised(text) -> None:
    try:
        address = Address.parse(text)
    except ValueError:
        return
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize(("host", "place"), [("10.0.0.7", "10.0.0.7:104"), ("::1", "[::1]:104")])
def test_where_it_listens_as_text(host: str, place: str) -> None:
    assert Address("A", host, 104).place == place
