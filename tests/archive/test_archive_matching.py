"""PS3.4 C.2.2.2 against a plain Python oracle, on SQLite itself, and on PostgreSQL where it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import accumulate
from operator import and_, or_

import pytest
from helpers.postgres import Server
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Column, MetaData, Table, Text, create_engine, insert, select

from asyncdicom.archive.index.keys import TABLES, condition_of, parameters_of
from asyncdicom.archive.index.matching import (
    Alternatives,
    IdentifierError,
    Problem,
    cost_of,
    is_universal,
    match,
    match_folded,
    match_integer,
    match_name,
)
from asyncdicom.archive.index.query import Form, Key
from asyncdicom.archive.index.text import fold_name

TABLE = Table(
    "t",
    MetaData(),
    *(Column(name, Text) for name in ("a", "a_values", "a_alphabetic", "a_ideographic", "a_phonetic")),
)
ENGINES = [create_engine("sqlite://")]
TABLE.metadata.create_all(ENGINES[0])
TABLES["TEST"] = TABLE


@pytest.fixture(scope="module", autouse=True)
def postgres_too(found_postgres: Server | None) -> Iterator[None]:
    """What matches is the same on both engines."""
    if found_postgres is None:
        yield
        return
    engine = create_engine(found_postgres.url().replace("postgresql:", "postgresql+psycopg:"))
    TABLE.metadata.create_all(engine)
    ENGINES.append(engine)
    yield
    ENGINES.remove(engine)
    engine.dispose()


def holds(key: Key, alternatives: Alternatives, *stored: str) -> bool:
    """Whether a row matches that has these texts in its first columns, as the engines say."""
    row = dict(zip(TABLE.c.keys(), stored, strict=False))
    values = {
        name: value
        for i, comparisons in enumerate(alternatives)
        for j, comparison in enumerate(comparisons)
        for name, value in parameters_of(comparison, f"c_{i}_{j}")
    }
    statement = select(TABLE.c.a).where(condition_of(key, alternatives, "c"))
    answers = set()
    for engine in ENGINES:
        with engine.connect() as connection:
            connection.execute(insert(TABLE).values(row))
            answers.add(bool(connection.execute(statement, values).all()))
            connection.rollback()
    [found] = answers
    return found


def matches(vr: str, key: str, stored: str) -> bool:
    form = Form.UID if vr == "UI" else Form.TEXT
    return holds(Key("TEST", vr, "a", form), match(vr, key.split("\\")), stored)


@pytest.mark.parametrize(
    ("vr", "key", "stored", "expected"),
    [
        ("LO", "ABC", "ABC", True),
        ("LO", "ABC", "abc", False),  # C.2.2.2.1: case-sensitive, except PN
        ("LO", "ABC", "ABCD", False),
        ("LO", "", "ABC", True),
        ("LO", "*", "", True),
        ("LO", "**", "ABC", True),
        ("LO", "A*", "ABC", True),
        ("LO", "A*", "a", False),
        ("LO", "*C", "ABC", True),
        ("LO", "A?C", "ABC", True),
        ("LO", "A?C", "AC", False),
        ("LO", "A??*", "AB", False),
        ("LO", "?", "é", True),
        ("LO", "[A-Z]*", "ABC", False),  # brackets are nothing special in DICOM
        ("LO", "[A-Z]*", "[A-Z]!", True),
        ("LO", "%*", "ABC", False),
        ("LO", "A_?", "ABC", False),
        ("LO", "A\\B", "B", True),
        ("CS", "CT\\M*", "MR", True),
        ("CS", "CT\\M*", "US", False),
        ("UI", "1.2.3", "1.2.3", True),
        ("UI", "1.2.3\\1.2.4", "1.2.4", True),
        ("UI", "1.2.3\\1.2.4", "1.2.5", False),
        ("UI", "1.2.*", "1.2.3", False),  # no wildcards in UI
        ("IS", "007", "7", True),
        ("IS", "+7", "7", True),
        ("IS", "7", "70", False),
        ("IS", "-7", "-7", True),
        ("US", "512", "512", True),
        ("AS", "03?Y", "030Y", False),
        ("DA", "20250102", "20250102", True),
        ("DA", "2025.01.02", "20250102", True),
        ("DA", "20250101-20250131", "20250101", True),
        ("DA", "20250101-20250131", "20250131", True),
        ("DA", "20250101 - 20250131", "20250115", True),
        ("DA", "20250101-20250131", "20250201", False),
        ("DA", "20250101-", "20991231", True),
        ("DA", "20250101-", "20241231", False),
        ("DA", "-20250101", "19000101", True),
        ("DA", "-20250101", "", False),
        ("DA", "20250131-20250101", "20250115", False),
        ("TM", "1015", "1015", True),
        ("TM", "1015", "101500", True),
        ("TM", "1015", "101559.999999", True),
        ("TM", "1015", "1016", False),
        ("TM", "10:15", "101500", True),
        ("TM", "101500", "1015", True),
        ("TM", "10-12", "10", True),
        ("TM", "10-12", "125959.99", True),
        ("TM", "10-12", "13", False),
        ("TM", "100000-120000", "10", True),
        ("TM", "100001-120000", "10", False),
        ("TM", "-1030", "103059", True),
        ("TM", "-1030", "", False),
        ("TM", "2359-", "235959", True),
        ("TM", "101500.500-", "101500.5", True),
        ("SH", "A1", "A1\\A2", True),  # several values where there should be one
        ("SH", "A2", "A1\\A2", True),
        ("SH", "A1\\A2", "A1\\A2", True),
        ("SH", "A", "A1\\A2", False),
        ("CS", "ABD*", "CHEST\\ABDOMEN", True),
        ("CS", "C*N", "CHEST\\ABDOMEN", True),
        ("CS", "X?G", "CT\\SEG", False),
        ("CS", "S?G", "CT\\ SEG", True),
        ("LO", 'a"b', 'x\\a"b\\y', True),
        ("LO", "y", "a\x01\\y", True),
        ("DA", "20250101-20250131", "20250401\\20250102", True),
        ("LT", "A1", "A1\\A2", False),  # text with a backslash in it
    ],
)
def test_matching_table(vr: str, key: str, stored: str, expected: bool) -> None:
    assert matches(vr, key, stored) is expected


@pytest.mark.parametrize(
    ("vr", "key"),
    [
        ("DA", "-"),
        ("DA", "20250101-2024"),
        ("DA", "yesterday"),
        ("DA", "2025-01-01"),
        ("TM", "1"),
        ("TM", "10-x"),
    ],
)
def test_a_range_that_is_none_is_refused(vr: str, key: str) -> None:
    with pytest.raises(IdentifierError) as caught:
        match(vr, [key])
    assert caught.value.problem is Problem.WRONG
    assert key not in caught.value.comment
    assert len(caught.value.comment) <= 64


@pytest.mark.parametrize(
    ("vr", "values"), [("LO", ["x" * 1025]), ("LO", ["x"] * 65), ("UI", [f"1.{n}" for n in range(10_001)])]
)
def test_keys_are_bounded(vr: str, values: list[str]) -> None:
    with pytest.raises(IdentifierError):
        match(vr, values)


def test_ten_thousand_uids() -> None:
    uids = [f"1.2.{number}" for number in range(10_000)]
    assert matches("UI", "\\".join(uids), "1.2.9999")
    assert not matches("UI", "\\".join(uids), "1.3")


@pytest.mark.parametrize(
    ("pattern", "cost"),
    [("DOE*", 0), ("*", 0), ("A?C", 0), ("*DOE", 3), ("*DOE*", 4), ("*a" * 512, 1023), ("A****B**", 2)],
)
def test_what_a_pattern_costs_is_known_before_it_runs(pattern: str, cost: int) -> None:
    assert cost_of(match("LO", [pattern])) == cost
    assert cost_of(match("LO", [pattern, "X"])) == cost
    assert cost_of(match("LO", [pattern, "*"])) == 0  # then everything matches


def wildcard_oracle(pattern: str, text: str) -> bool:
    """Wildcard matching by dynamic programming."""
    reachable = [True] + [False] * len(text)
    for symbol in pattern:
        if symbol == "*":
            for i in range(len(text)):
                reachable[i + 1] = reachable[i + 1] or reachable[i]
        else:
            reachable = [False] + [reachable[i] and symbol in ("?", text[i]) for i in range(len(text))]
    return reachable[-1]


@settings(deadline=None)  # a database is asked
@given(st.text("ab*?[]^é", min_size=1, max_size=8), st.text("ab[]^é", max_size=8))
def test_wildcards_match_as_the_oracle_says(pattern: str, text: str) -> None:
    assert matches("LO", pattern, text) is (is_universal(pattern) or wildcard_oracle(pattern, text))


def moment_oracle(first: str, last: str, stored: str) -> bool:
    """PS3.5 6.2: a time without minutes is that hour; compare instants in microseconds."""

    def instant(text: str, fill: str) -> int:
        whole, _, fraction = text.partition(".")
        if fill == "9":
            whole = whole + "5959"[len(whole) - 2 :] if len(whole) < 6 else whole
        return int(whole.ljust(6, "0") + fraction.ljust(6, fill))

    return instant(first, "0") <= instant(stored, "0") <= instant(last, "9")


def times() -> st.SearchStrategy[str]:
    numbers = st.integers(0, 59).map(lambda n: f"{n:02}")
    hours = st.integers(0, 23).map(lambda n: f"{n:02}")
    fractions = st.text("0129", min_size=1, max_size=6).map(lambda digits: "." + digits)
    return st.one_of(
        hours,
        st.tuples(hours, numbers).map("".join),
        st.tuples(hours, numbers, numbers).map("".join),
        st.tuples(hours, numbers, numbers, fractions).map("".join),
    )


@settings(deadline=None)  # a database is asked
@given(times(), times(), times())
def test_time_ranges_match_as_the_oracle_says(first: str, last: str, stored: str) -> None:
    assert matches("TM", f"{first}-{last}", stored) is moment_oracle(first, last, stored)
    assert matches("TM", f"{first}-", stored) is moment_oracle(first, "235959.999999", stored)
    assert matches("TM", f"-{last}", stored) is moment_oracle("00", last, stored)
    assert matches("TM", first, stored) is moment_oracle(first, first, stored)


@settings(deadline=None)  # a database is asked
@given(*[st.dates().map(lambda date: f"{date.year:04}{date.month:02}{date.day:02}")] * 3)
def test_date_ranges_match_as_the_oracle_says(first: str, last: str, stored: str) -> None:
    assert matches("DA", f"{first}-{last}", stored) is (first <= stored <= last)
    assert matches("DA", f"{first}-", stored) is (first <= stored)
    assert matches("DA", f"-{last}", stored) is (stored <= last)


def name_matches(key: str, stored: str) -> bool:
    return holds(
        Key("TEST", "PN", "a", Form.NAME), match_name(key.split("\\")), stored, "[]", *fold_name(stored)
    )


YAMADA = "Yamada^Tarou=山田^太郎=やまだ^たろう"


@pytest.mark.parametrize(
    ("key", "stored", "expected"),
    [
        ("DOE^JOHN", "Doe^John", True),
        ("doe^j*", "DOE^JOHN", True),
        ("doe*", "DOE^JOHN", True),
        ("DOE", "DOE^JOHN", False),
        ("DOE^JOHN^^^", "DOE^JOHN", True),
        ("DOE^JOHN", "DOE ^JOHN^^", True),
        ("BUC^JÉRÔME", "Buc^Jérôme", True),
        ("äneas*", "Äneas^Rüdiger", True),
        ("STRASSE", "Straße", True),
        ("люкceмбypг", "Люкceмбypг", True),
        ("yamada*", YAMADA, True),
        ("山田*", YAMADA, True),
        ("やまだ^たろう", YAMADA, True),
        ("yamada^tarou=山田*", YAMADA, True),
        ("=山田*", YAMADA, True),
        ("==やまだ*", YAMADA, True),
        ("yamada^tarou=鈴木*", YAMADA, False),
        ("=yamada*", YAMADA, False),
        ("ya*ろう", YAMADA, False),  # a wildcard does not reach over groups
        ("ヤマダ^タロウ", "ﾔﾏﾀﾞ^ﾀﾛｳ", True),  # half-width katakana of ISO_IR 13
        ("DOE^JOHN\\ROE^*", "ROE^JANE", True),
        ("*", "", True),
        ("=", "DOE", True),
        ("DOE?", "DOE", False),
        ("DOE^*", "DOE", True),  # PS3.5 6.2.1.1: trailing components may be left out
        ("DOE^*", "DOE^", True),
        ("DOE^*^*^*^*", "DOE^JOHN", True),
        ("DOE^*^*^*^*", "DOE", True),
        ("DOE^JOHN^*", "DOE^JOHN^", True),
        ("DOE^JOHN^*", "DOE^JOHN", True),
        ("DOE^JOHN^*", "DOE^JOHNNY", False),
        ("DOE^*^^DR*", "DOE^JOHN^^DR", True),
        ("DOE^*^^DR*", "DOE^JOHN", False),
        ("DOE^?*", "DOE", False),
        ("DOE^?*", "DOE^J", True),
        ("DOE^*\\X", "DOE", True),
        ("=山田^*", "Yamada=山田", True),
    ],
)
def test_person_names(key: str, stored: str, expected: bool) -> None:
    assert name_matches(key, stored) is expected


def _component_oracle(pattern: str, text: str) -> bool:
    """PS3.5 6.2.1.1: a name may have empty components behind it; U+E000 is any character of a component."""
    reachable = [True] + [False] * len(text)
    for symbol in pattern:
        if symbol == "*":
            reachable = list(accumulate(reachable, or_))
        else:
            taken = [c != "^" if symbol == "\ue000" else c == symbol for c in text]
            reachable = [False, *map(and_, reachable, taken)]
    return reachable[-1]


@settings(deadline=None)  # a database is asked
@given(st.text("aAbB*?^é", min_size=1, max_size=6), st.text("aAbB^É", max_size=6))
def test_names_match_as_the_oracle_says(key: str, stored: str) -> None:
    folded = fold_name(key)[0]
    groups = fold_name(stored)
    if "^" in folded and folded.endswith("*"):  # there ? is a character of a component
        wanted = folded.replace("?", "\ue000")
        expected = any(_component_oracle(wanted, group + "^^^^") for group in groups)
    else:
        expected = is_universal(folded) or any(wildcard_oracle(folded, group) for group in groups)
    assert name_matches(key, stored) is (is_universal(key) or expected)


@pytest.mark.parametrize(
    ("vr", "key", "values", "expected"),
    [
        ("LO", "X2", ["X1", "X2"], True),
        ("LO", "X*", ["Y", "X1"], True),
        ("LO", "A*B", ["AX", "XB"], False),  # no wildcard reaches over values
        ("LO", "X3", ["X1", "X2"], False),
        ("LO", "X3", [], False),
        ("LO", "*", [], True),
        ("PN", "ROE*", ["doe^john", "roe^jane"], True),
        ("PN", "山田*", ["yamada^tarou", "山田^太郎"], True),
    ],
)
def test_attributes_of_many_values(vr: str, key: str, values: list[str], expected: bool) -> None:
    stored = json.dumps(values, ensure_ascii=False)
    form = Form.NAMES if vr == "PN" else Form.TEXTS
    alternatives = match_folded(key.split("\\")) if vr == "PN" else match(vr, key.split("\\"))
    assert holds(Key("TEST", vr, "a", form), alternatives, "", stored) is expected


@pytest.mark.parametrize(("key", "expected"), [("2", True), ("02", True), ("1\\2", True), ("3", False)])
def test_numbers_of_related_entities(key: str, expected: bool) -> None:
    [[comparison]] = match_integer(key.split("\\"))
    assert (2 in comparison.values) is expected


@pytest.mark.parametrize("key", ["many", "9" * 30])  # SQLite has no integers of 30 digits
def test_a_number_of_related_entities_is_a_number(key: str) -> None:
    with pytest.raises(IdentifierError):
        match_integer([key])
