"""The site: all pages are in its navigation, all links lead somewhere, all public names are in the reference.

`mkdocs build --strict` says so, too (.ci/run); this does without mkdocs.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
PUBLIC = ("asyncdicom", "asyncdicom.archive", "asyncdicom.gateway", "asyncdicom.testing", "asyncdicom.sync")
# Put in where they stand in README: no names.
PUT_IN = re.compile(r"<!-- README: (.+?) -->")


def anchors(text: str) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_page_is_in_the_navigation_once() -> None:
    pages = re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2])
    assert sorted(pages) == PAGES


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    text = (DOCS / page).read_text()
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        found = (DOCS / page).parent / path if path else DOCS / page
        assert found.is_file(), target
        assert DOCS in found.resolve().parents, f"{target}: not on the site; name its address"
        assert not anchor or anchor in anchors(found.read_text()), target


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_short_and_has_one_title(page: str) -> None:
    text = re.sub(r"```.*?```", "", (DOCS / page).read_text(), flags=re.DOTALL)
    assert len(re.findall(r"^# ", text, re.MULTILINE)) == 1
    assert text.count("\n") < 200


def test_what_is_put_in_from_readme_is_there() -> None:
    titles = {title for page in PAGES for title in PUT_IN.findall((DOCS / page).read_text())}
    assert titles
    readme = (ROOT / "README.md").read_text()
    headings = re.findall(r"^##+ (.+)$", readme, re.MULTILINE)
    assert titles <= set(headings)


def test_every_public_name_is_in_the_reference_once() -> None:
    named = [
        name
        for path in sorted((DOCS / "reference").glob("*.md"))
        for name in re.findall(r"^::: (\S+)$", path.read_text(), re.MULTILINE)
    ]
    assert sorted(named) == sorted(set(named))
    wanted = {f"{module}.{name}" for module in PUBLIC for name in importlib.import_module(module).__all__} - {
        "asyncdicom.__version__"
    }
    assert set(named) == wanted | {"asyncdicom.archive.dimse.serve_archive"}
    for name in named:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute)
