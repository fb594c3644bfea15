"""Every program in README and docs is run by a test and passes mypy --strict; no block is passed over."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.programs import PAGES, ROOT, fences, is_piece, whole

JOBS = (
    *("echo", "store", "pool", "find", "get", "move", "receive", "answer", "gateway", "errors"),
    *("normalized", "services"),
)
# Which test runs it, by page and mark.
RUN = {
    ("README.md", "program"): "test_readme.py::test_the_program_runs_as_copied_in_an_empty_folder",
    ("README.md", "daily: client"): "test_readme.py::test_the_daily_jobs",
    **{("README.md", f"job: {job}"): f"test_readme.py::test_{job}" for job in JOBS},
    ("README.md", "piece: archive"): "test_readme.py::test_the_archive_in_a_program",
    ("README.md", "access"): "test_readme.py::test_the_access_policy",
    ("README.md", "destinations"): "test_readme.py::test_the_destinations",
    ("docs/index.md", "piece: index"): "test_readme.py::test_the_first_piece_of_the_site",
    ("docs/networking.md", "walk: program"): "docs/test_networking.py::test_the_walk",
    ("docs/start.md", "walk: program"): "docs/test_walks.py::test_getting_started",
    ("docs/start.md", "program: receives"): "docs/test_walks.py::test_the_first_server_of_ones_own",
    ("docs/recipes/ai.md", "recipe: ai"): "docs/test_recipe_programs.py::test_the_pipeline",
    ("docs/recipes/download.md", "recipe: download"): "docs/test_recipe_programs.py::test_the_download",
    (
        "docs/recipes/gateway.md",
        "recipe: gateway",
    ): "docs/test_recipe_programs.py::test_the_gateway_in_a_program",
    ("docs/recipes/receiver.md", "recipe: receiver"): "docs/test_recipe_programs.py::test_the_receiver",
    ("docs/recipes/testing.md", "recipe: testing"): "test_testing.py::test_the_recipe_tests_a_handler",
    (
        "docs/recipes/process-pool.md",
        "recipe: process_pool",
    ): "docs/test_process_pool.py::test_what_was_received_is_computed_in_another_process",
}
# What the five programs that everybody wants may have, in lines that are not empty.
LINES = {"receiver": 25, "ai": 40, "gateway": 35, "download": 15, "testing": 10}

# Which test reads it.
READ = {
    ("README.md", "configuration"): "test_readme.py::test_the_configuration_of_the_archive",
    ("README.md", "routes"): "test_readme.py::test_the_configuration_of_the_gateway",
    ("docs/serving.md", "example"): "docs/test_serving.py::test_the_example_serves_sends_on_reloads_and_ends",
    (
        "docs/operating.md",
        "webhook",
    ): "docs/test_operating.py::test_the_webhook_of_the_documentation_can_be_read",
    (
        "docs/recipes/gateway.md",
        "recipe",
    ): "docs/test_recipes.py::test_the_gateway_loses_nothing_when_it_is_killed",
    ("docs/tls.md", "config"): "docs/test_walks.py::test_tls_in_ten_lines",
    ("docs/from-dcmqrscp.md", "config"): "docs/test_walks.py::test_the_configurations_that_are_migrated_to",
    ("docs/from-orthanc.md", "config"): "docs/test_walks.py::test_the_configurations_that_are_migrated_to",
}

# Commands that no test runs as they stand, by how they begin, and why.
NOT_RUN = {
    "git clone": "it fetches the repository",
    "python3 -m venv": ".ci/run does",
    "docker": "there is no docker here",
    "asyncdicom route": "of a gateway that runs elsewhere: tests/cli/test_cli_route.py",
    "asyncdicom outbox": "the same: tests/cli/test_cli_outbox.py",
    "asyncdicom archive /var": "the same: tests/cli/test_cli_archive.py",
    "asyncdicom serve gateway.toml": "docs/test_recipes.py does",
    "asyncdicom serve archive.toml": "it names port and addresses of others; the file is read",
    "asyncdicom movescu ORTHANC": "of an Orthanc elsewhere: tests/interop/test_interop_orthanc.py",
    "asyncdicom storescu RECEIVER": "docs/test_walks.py does, by Client",
}


@pytest.mark.parametrize(("language", "by"), [("python", RUN), ("toml", READ)])
def test_every_block_has_its_test(language: str, by: dict[tuple[str, str], str]) -> None:
    assert sorted((fence.page, fence.mark) for fence in fences(language)) == sorted(by)
    for test in by.values():
        path, _, name = test.partition("::")
        assert re.search(rf"def {name}\(", (ROOT / "tests" / path).read_text()), test


def test_every_command_is_run_or_said_to_be_not() -> None:
    used = set()
    for fence in fences("sh"):
        if re.fullmatch(r"server|walk(: fails)?", fence.mark):
            continue
        for line in re.sub(r"\n +", " ", fence.text).splitlines():
            beginnings = [each for each in NOT_RUN if line.startswith(each)]
            assert beginnings or line.startswith("pip install "), f"{fence.page}: {line}"
            used |= set(beginnings)
    assert used == set(NOT_RUN)


@pytest.mark.parametrize("name", LINES)
def test_a_recipe_is_short(name: str) -> None:
    (program,) = (fence.text for fence in fences("python") if fence.mark == f"recipe: {name}")
    assert len([line for line in program.splitlines() if line.strip()]) <= LINES[name]


def test_the_file_of_the_gateway_is_short() -> None:
    (text,) = (fence.text for fence in fences("toml") if fence.page == "docs/recipes/gateway.md")
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
    """Blocks in other languages are no programs; indented blocks and "~~~" are not used for them."""
    others = {"text", "ini", "json", "yaml", "dockerfile", "python", "toml", "sh"}
    for page in PAGES:
        text = (ROOT / page).read_text()
        assert set(re.findall(r"^```(\w+)$", text, re.MULTILINE)) <= others, page
        assert "~~~" not in text, page
        assert not re.search(
            r"^    (import|from|async|await) ", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.M
        )
