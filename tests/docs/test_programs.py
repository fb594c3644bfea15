"""Every program in README and docs is run by a test and passes mypy --strict; no block is passed over."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from helpers.programs import PAGES, ROOT, Fence, fences, is_piece, whole

from asyncdicom.__main__ import TOOLS
from asyncdicom.cli.config import read_config
from asyncdicom.gateway import parse_gateway

JOBS = (
    *("echo", "store", "pool", "find", "get", "move", "receive", "answer", "gateway", "errors"),
    *("normalized", "services"),
)
# Which test runs it, by page and mark.
RUN = {
    ("README.md", "program"): "test_readme.py::test_the_program_runs_as_copied_in_an_empty_folder",
    ("README.md", "daily: client"): "test_readme.py::test_the_daily_jobs",
    **{("README.md", f"job: {job}"): f"test_readme.py::test_{job}" for job in JOBS},
    ("docs/archive.md", "piece: archive"): "test_readme.py::test_the_archive_in_a_program",
    ("docs/access.md", "access"): "test_readme.py::test_the_access_policy",
    ("docs/access.md", "destinations"): "test_readme.py::test_the_destinations",
    ("docs/index.md", "piece: index"): "test_readme.py::test_the_first_piece_of_the_site",
    ("docs/networking.md", "walk: program"): "docs/test_networking.py::test_the_walk",
    ("docs/serving.md", "route function"): "gateway/test_gateway_seen.py::test_the_function_of_the_docs",
    ("docs/start.md", "walk: program"): "docs/test_walks.py::test_getting_started",
    ("docs/start.md", "program: receives"): "docs/test_walks.py::test_the_first_server_of_ones_own",
    ("docs/recipes/ai.md", "recipe: ai"): "docs/test_recipe_programs.py::test_the_pipeline",
    ("docs/recipes/download.md", "recipe: download"): "docs/test_recipe_programs.py::test_the_download",
    (
        "docs/recipes/gateway.md",
        "recipe: gateway",
    ): "docs/test_recipe_programs.py::test_the_gateway_in_a_program",
    ("docs/recipes/storescp.md", "recipe: handlers"): "docs/test_recipe_programs.py::test_the_functions",
    ("docs/recipes/receiver.md", "recipe: receiver"): "docs/test_recipe_programs.py::test_the_receiver",
    ("docs/recipes/testing.md", "recipe: testing"): "test_testing.py::test_the_recipe_tests_a_handler",
    ("docs/recipes/testing.md", "recipe: silence"): "test_testing.py::test_the_recipe_tests_a_handler",
    (
        "docs/recipes/process-pool.md",
        "recipe: process_pool",
    ): "docs/test_process_pool.py::test_what_was_received_is_computed_in_another_process",
}
# What the five programs that everybody wants may have, in lines that are not empty.
LINES = {"receiver": 25, "ai": 40, "gateway": 35, "download": 15, "testing": 10}


def test_every_program_has_its_test() -> None:
    assert sorted((fence.page, fence.mark) for fence in fences("python")) == sorted(RUN)
    for test in RUN.values():
        path, _, name = test.partition("::")
        assert re.search(rf"def {name}\(", (ROOT / "tests" / path).read_text()), test


@pytest.mark.parametrize("fence", fences("toml"), ids=lambda fence: f"{fence.page}: {fence.mark}")
def test_every_configuration_can_be_read(fence: Fence, tmp_path: Path) -> None:
    (tmp_path / "serve.toml").write_text(fence.text)
    read_config(tmp_path / "serve.toml")
    if "[[routes]]" in fence.text:
        parse_gateway(tables_of_gateway(fence.text))


def tables_of_gateway(text: str) -> str:
    """The routes and destinations of a file: those of README are a file of their own."""
    return text[text.index("[destinations.") :]


def test_every_command_is_one() -> None:
    """Those that are not walked through name tools, commands and options that there are."""
    found = 0
    for fence in fences("sh") + fences("console"):
        for command in re.split(r"\n(?! )| && ", fence.text.strip()):
            if fence.language == "console" and not command.startswith("$ "):
                continue  # what it says
            words = shlex.split(command.removeprefix("$ "), comments=True)
            if words and words[0].rpartition("/")[2] == "asyncdicom":
                found += 1
                assert unknown(words[1:]) == [], f"{fence.page}: {command}"
    assert found > 20
    assert unknown(["storescu", "--nonsense"]) == ["--nonsense"]
    assert unknown(["archive", "DIR", "nonsense"]) == ["nonsense"]


def unknown(words: list[str]) -> list[str]:
    """What a tool does not know of its command line."""
    tool, *rest = words
    if tool not in TOOLS:
        return [] if tool == "--help" else [tool]
    command: click.Command = importlib.import_module(f"asyncdicom.cli.{tool}").command
    while isinstance(command, click.Group):
        here = [word for word in rest if word in command.commands]
        if not here:
            return rest[-1:]
        command = command.commands[here[0]]
        rest = rest[rest.index(here[0]) + 1 :]
    known = {name for each in command.params for name in (*each.opts, *each.secondary_opts)} | {
        "-h",
        "--help",
    }
    return [word for word in rest if re.match(r"[-+]+[a-zA-Z]", word) and word.partition("=")[0] not in known]


@pytest.mark.parametrize("name", LINES)
def test_a_recipe_is_short(name: str) -> None:
    (program,) = (fence.text for fence in fences("python") if fence.mark == f"recipe: {name}")
    assert len([line for line in program.splitlines() if line.strip()]) <= LINES[name]


def test_the_file_of_the_gateway_is_short() -> None:
    (text, *_) = (fence.text for fence in fences("toml") if fence.page == "docs/recipes/gateway.md")
    assert len([line for line in text.splitlines() if line.strip()]) <= 35


def test_types_hold_in_every_program(tmp_path: Path) -> None:
    """And in what the package gives to them and takes from them."""
    programs = {
        re.sub(r"\W", "_", f"{fence.page.removesuffix('.md')}_{fence.mark}"): fence.text
        for fence in fences("python")
    }
    assert len(programs) == len(RUN)
    programs["wrong"] = "import asyncdicom\nasyncdicom.new_uid() + 1\n"
    for name, text in programs.items():
        (tmp_path / f"{name}.py").write_text(whole(text) if is_piece(text) else text)
    (tmp_path / "mypy.ini").write_text("[mypy]\nstrict = True\n[mypy-fastapi.*]\nfollow_imports = skip\n")
    files = [f"{name}.py" for name in programs]
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path / "cache"), *files]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    (error,) = (line for line in said.stdout.splitlines() if ": error:" in line)
    assert error.startswith("wrong.py:2: ")
    assert "Found 1 error in 1 file " in said.stdout


def test_no_program_is_hidden_in_another_markup() -> None:
    """Python is called "python"; indented blocks and "~~~" are not used for programs."""
    otherwise = {"py", "python3", "pycon", "ipython", "bash", "shell"}
    for page in PAGES:
        text = (ROOT / page).read_text()
        assert not set(re.findall(r"^```(\w+)", text, re.MULTILINE)) & otherwise, page
        assert "~~~" not in text, page
        assert not re.search(
            r"^    (import|from|async|await) ", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.M
        )
