"""The programs of README and docs, as they stand there, and the pieces that run inside a coroutine."""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")))
_FENCE = re.compile(r"(?:<!-- ([^\n]+?) -->\n)?^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


_P = ParamSpec("_P")


def once(test: Callable[_P, Coroutine[Any, Any, None]]) -> Callable[_P, None]:
    """A test that is no coroutine, so that it runs once: what it starts has an event loop of its own."""

    @functools.wraps(test)
    def on_one_loop(*args: _P.args, **kwargs: _P.kwargs) -> None:
        asyncio.run(test(*args, **kwargs))

    return on_one_loop


class Fence(NamedTuple):
    """A block of a page: `mark` is what stands in the comment above it, "" if there is none."""

    page: str
    mark: str
    language: str
    text: str


def fences(language: str) -> list[Fence]:
    """All blocks in a language, of README and all of docs."""
    return [
        Fence(page, *found)
        for page in PAGES
        for found in _FENCE.findall((ROOT / page).read_text())
        if found[1] == language
    ]


def is_piece(text: str) -> bool:
    """Whether it awaits outside of a coroutine."""
    try:
        compile(text, "program", "exec")
    except SyntaxError:
        return True
    return False


def whole(text: str) -> str:
    """A piece as a program: what README says of the jobs is that they run inside a coroutine."""
    lines = text.splitlines()
    imports = [line for line in lines if line.startswith(("import ", "from "))]
    body = [f"    {line}" if line else "" for line in lines if line not in imports]
    return "\n".join(
        [*imports, "import asyncio", "async def main() -> None:", *body, "asyncio.run(main())", ""]
    )
