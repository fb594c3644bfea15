"""What mkdocs does with a page first: README's sections are put in, and links lead somewhere on the site."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
REPOSITORY = "https://github.com/asyncdicom/asyncdicom/blob/main/"
PUT_IN = re.compile(r"<!-- README: (.+?) -->")


def section(title: str) -> str:
    """Give a section of README without its heading, up to the next heading of any level."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"^(##+) {re.escape(title)}\n(.*?)(?=^##+ |\Z)", text, re.MULTILINE | re.DOTALL)
    if found is None:
        raise ValueError(f"README has no section {title!r}")
    return found[2].strip()


def anchor(title: str) -> str:
    """Give what GitHub makes of a heading in links."""
    return re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-")


def places() -> dict[str, str]:
    """The page on which each section of README that is put in stands, by its anchor."""
    return {
        anchor(title): page.name
        for page in sorted((ROOT / "docs").glob("*.md"))
        for title in PUT_IN.findall(page.read_text(encoding="utf-8"))
    }


def at_home(text: str) -> str:
    """Let the links of README lead to pages of the site, or to the repository for what is not on it."""
    found = places()

    def link(matched: re.Match[str]) -> str:
        target = matched[1]
        if target.startswith("#"):
            return f"]({found.get(target[1:], f'{REPOSITORY}README.md{target}')})"
        if target.startswith("docs/"):
            return f"]({target.removeprefix('docs/')})"
        return f"]({REPOSITORY}{target})"

    return re.sub(r"\]\((?!https?:)([^)]+)\)", link, text)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs with each page."""
    return PUT_IN.sub(lambda matched: at_home(section(matched[1])), markdown)
