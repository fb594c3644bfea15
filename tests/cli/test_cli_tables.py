"""Matches for people: widths of a terminal, what is cut and what is not, trees, CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from typing import Any

import pytest
from cli.running import Tool

from asyncdicom import Request, serve
from asyncdicom.cli.tables import as_csv, as_table, as_tree, in_order, width_of

STUDIES = [
    {"PatientName": "山田^太郎", "PatientID": "2", "StudyDate": "20260102", "StudyInstanceUID": "1.2.2"},
    {"PatientName": "DOE^JANE", "PatientID": "1", "StudyDate": "20260103", "StudyInstanceUID": "1.2.4"},
    {"PatientName": "DOE^JANE", "PatientID": "1", "StudyDate": "20260101", "StudyInstanceUID": "1.2.3"},
]
COLUMNS = ["PatientID", "PatientName", "StudyDate", "StudyInstanceUID", "AccessionNumber"]


@pytest.mark.parametrize(
    ("text", "width"), [("abc", 3), ("山田", 4), ("e\u0301", 1), ("", 0), ("a\u200bb", 2)]
)
def test_columns_of_a_terminal(text: str, width: int) -> None:
    assert width_of(text) == width


def test_a_table_is_sorted_and_aligned() -> None:
    lines = as_table(in_order(STUDIES), COLUMNS, 80).splitlines()
    assert lines[0].split() == COLUMNS[:4], "what no match has is no column"
    assert [line.split()[-1] for line in lines[2:]] == ["1.2.3", "1.2.4", "1.2.2"]
    assert {width_of(line[: line.index("2026")]) for line in lines[2:]} == {
        width_of(lines[0][: lines[0].index("StudyD")])
    }


def test_what_is_too_wide_is_cut_but_no_uid() -> None:
    uid = "1.2." + "3" * 60
    row = {"StudyDescription": "山" * 60, "PatientID": "1", "StudyInstanceUID": uid}
    lines = as_table([row], ["PatientID", "StudyDescription", "StudyInstanceUID"], 100).splitlines()
    assert uid in lines[2]
    assert "…" in lines[2]
    assert max(map(width_of, lines)) <= 100
    lines = as_table([row], ["PatientID", "StudyDescription", "StudyInstanceUID"], 20).splitlines()
    assert uid in lines[2], "a line that is longer than the terminal is better than half a UID"
    assert as_table([{}], COLUMNS, 80) == "(nothing is told of it)"


def test_numbers_are_sorted_as_numbers() -> None:
    series = [{"SeriesNumber": number} for number in ("10", "9", "x", "")]
    assert [one["SeriesNumber"] for one in in_order(series)] == ["", "x", "9", "10"]


def test_a_tree() -> None:
    series = [dict(STUDIES[1], SeriesInstanceUID="1.5", Modality="CT", NumberOfFrames="3")]
    assert as_tree([*in_order(STUDIES[1:]), *series], COLUMNS, 80).splitlines() == [
        "1, DOE^JANE",
        "  20260101, 1.2.3",
        "  20260103, 1.2.4",
        "    CT, 1.5",
        "      3",
    ]
    assert as_tree([{"PatientName": "A"}], COLUMNS, 80) == "A"


def test_a_patient_stands_above_his_studies_without_an_id_too() -> None:
    """Who asks for names and descriptions alone gets the Study Instance UID with them."""
    studies = [
        {"PatientName": "A^B", "StudyDescription": f"{n}", "StudyInstanceUID": f"1.{n}"} for n in (1, 2)
    ]
    assert as_tree(studies, COLUMNS, 80).splitlines() == ["A^B", "  1, 1.1", "  2, 1.2"]


def test_csv() -> None:
    text = as_csv(
        [{"PatientID": 'a"b,c'}, {"StudyDate": "line\nline"}], ["PatientID", "StudyDate"], is_first=True
    )
    assert list(csv.reader(text.splitlines(keepends=True))) == [
        ["PatientID", "StudyDate"],
        ['a"b,c', ""],
        ["", "line\nline"],
    ]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("=1+1", "'=1+1"),
        ("+SUM(A1)", "'+SUM(A1)"),
        ("-DOE^JOHN", "'-DOE^JOHN"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t'=1"),
        ("\r=1", "'\n'=1"),
        ("\n=1", "'\n'=1"),
        ("＝1+1", "'＝1+1"),
        ('=HYPERLINK("http://a.b","c")', '\'=HYPERLINK("http://a.b","c")'),
        ("DOE;=1+1", "DOE;'=1+1"),
        ("DOE\n=1+1", "DOE\n'=1+1"),
        ("-1.5", "-1.5"),
        ("+12", "+12"),
        ("-1e-3", "-1e-3"),
        ("-1+cmd", "'-1+cmd"),
        ("1-2", "1-2"),
        ("a=b", "a=b"),
        ("", ""),
    ],
)
def test_csv_has_no_formulas(value: str, shown: str) -> None:
    """What a peer answers is not calculated by who opens it in a spreadsheet."""
    text = as_csv([{"PatientName": value}], ["PatientName", "PatientID"], is_first=False)
    assert next(csv.reader(io.StringIO(text, newline=""))) == [shown, ""]


async def on_find(request: Request) -> AsyncIterator[dict[str, Any]]:
    for study in STUDIES:
        yield {"QueryRetrieveLevel": "STUDY", "SpecificCharacterSet": "ISO_IR 192", **study}


@pytest.mark.parametrize("layout", ["table", "tree", "csv"])
async def test_findscu_prints_them(tool: Tool, layout: str) -> None:
    async with serve("SCP@127.0.0.1:0", c_find=on_find) as server:
        result = await tool("findscu", "127.0.0.1", server.port, "--format", layout)
    assert result.code == 0
    lines = result.out.splitlines()
    if layout == "csv":
        assert result.err == "3 matches, status 0x0000 (Success)\n"
        rows = list(csv.DictReader(lines))
        assert [row["PatientName"] for row in rows] == ["山田^太郎", "DOE^JANE", "DOE^JANE"]
        return
    assert lines[-1] == "3 matches, status 0x0000 (Success)"
    assert lines[0].startswith("PatientName") if layout == "table" else lines[0] == "1, DOE^JANE"


async def test_findscu_prints_no_formulas_of_a_peer_as_csv(tool: Tool) -> None:
    async def formulas(request: Request) -> AsyncIterator[dict[str, Any]]:
        for text in ("=1+1", "\t=1+1", "\r=1+1", "@SUM(A1)"):
            yield {"QueryRetrieveLevel": "STUDY", "StudyDescription": text}

    async with serve("SCP@127.0.0.1:0", c_find=formulas) as server:
        keys = ("--format", "csv", "-k", "StudyDescription")
        result = await tool("findscu", "127.0.0.1", server.port, *keys)
    _, *rows = csv.reader(io.StringIO(result.out, newline=""))
    assert len(rows) == 4
    assert [row[0][0] in "=+-@\t\r" for row in rows] == [False] * 4


async def test_findscu_csv_of_nothing_has_its_names(tool: Tool) -> None:
    async def nothing(request: Request) -> AsyncIterator[dict[str, Any]]:
        for study in STUDIES[:0]:
            yield study

    async with serve("SCP@127.0.0.1:0", c_find=nothing) as server:
        result = await tool("findscu", "127.0.0.1", server.port, "--format", "csv", "-k", "PatientID")
        table = await tool("findscu", "127.0.0.1", server.port, "--format", "table", "-k", "PatientID")
        both = await tool("findscu", "127.0.0.1", server.port, "--format", "csv", "--json")
    assert result.out == "PatientID\n"
    assert table.out == "0 matches, status 0x0000 (Success)\n"
    assert both.code == 2
