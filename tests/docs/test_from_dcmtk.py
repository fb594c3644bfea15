"""docs/from-dcmtk.md beside the tools: what means the same is there, what is accepted or explained is so."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import NamedTuple

import click
import pytest

from asyncdicom.cli.tool import Tool

TEXT = (Path(__file__).parents[2] / "docs" / "from-dcmtk.md").read_text()
CALLING = ("echoscu", "storescu", "findscu", "getscu", "movescu")
TOOLS = (*CALLING, "storescp")


class Row(NamedTuple):
    tool: str
    flag: str
    kind: str
    why: str


def section(title: str) -> str:
    return TEXT.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def rows() -> list[Row]:
    """Every flag that the page names, with each tool that it is for."""
    found = []
    sections = {
        "All tools": TOOLS,
        "Tools that call a peer": CALLING,
        **{tool: (tool,) for tool in TOOLS},
    }
    for title, tools in sections.items():
        for flags, here in re.findall(r"^\| (`[-+].*?) \| (.*) \|$", section(title), re.MULTILINE):
            kind, _, why = here.partition(": ")
            for flag in re.findall(r"`([^`]+)`", flags):
                found += [Row(tool, flag.rstrip("="), kind, why) for tool in tools]
    return found


ROWS = rows()


def command(tool: str) -> Tool:
    found: Tool = importlib.import_module(f"asyncdicom.cli.{tool}").command
    found.learn_habits()
    return found


def option(row: Row) -> click.Option:
    (found,) = (
        each for each in command(row.tool).params if isinstance(each, click.Option) and row.flag in each.opts
    )
    return found


def test_every_tool_has_its_table() -> None:
    assert {row.tool for row in ROWS} == set(TOOLS)
    assert {row.kind for row in ROWS} == {"means the same", "accepted", "explained"}


@pytest.mark.parametrize("tool", TOOLS)
def test_what_means_the_same_is_there(tool: str) -> None:
    for row in ROWS:
        if row.tool == tool and row.kind == "means the same":
            assert not option(row).name or not str(option(row).name).startswith("habit_"), row


def given(row: Row) -> list[str]:
    known = option(row)
    return [row.flag] if known.is_flag else [row.flag, *["x"] * known.nargs]


def parsed(tool: str, *flags: str) -> None:
    """What the tool does with its command line before it does anything."""
    arguments = {"storescu": ["A@127.0.0.1:1", "."], "storescp": ["11112"]}.get(tool, ["A@127.0.0.1:1"])
    command(tool).make_context(tool, [*flags, *{"movescu": ["-aem", "B"]}.get(tool, []), *arguments]).close()


@pytest.mark.parametrize("tool", TOOLS)
def test_what_is_accepted_is_taken(tool: str) -> None:
    parsed(
        tool, *(word for row in ROWS if row.tool == tool and row.kind == "accepted" for word in given(row))
    )


@pytest.mark.parametrize("tool", TOOLS)
def test_what_is_explained_is_explained_so(tool: str) -> None:
    for row in ROWS:
        if row.tool == tool and row.kind == "explained":
            with pytest.raises(click.UsageError) as told:
                parsed(tool, *given(row))
            assert told.value.message == f"{row.flag}: {row.why}"


def test_what_the_tools_have_beside_is_there() -> None:
    for tool in TOOLS:
        (beside,) = re.findall(r"^\| beside DCMTK's \| (.*) \|$", section(tool), re.MULTILINE)
        known = {name for each in command(tool).params for name in each.opts}
        assert set(re.findall(r"`(-[^` ]+)", beside)) <= known
