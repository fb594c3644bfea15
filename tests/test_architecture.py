"""The layers of docs/architecture.md: imports go down only, and below the sans-IO line there is no IO."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import asyncdicom

PACKAGE = Path(asyncdicom.__file__).parent

# From the bottom; those of one level do not import each other, unless they are one level of one package.
LEVELS: list[set[str]] = [
    {"_version"},
    {"_sop_classes"},
    {"exceptions", "status", "uid", "address", "options", "naming", "toml_lines"},
    {"ul", "destination", "breaker", "windows"},
    {"dimse", "data"},
    {"dataset", "access"},
    {"telemetry"},
    {"net"},
    {"services"},
    {"association", "opening", "admission"},
    {"client", "endings", "draining"},
    {"outgoing", "pool"},
    {"server", "running"},
    {"scu"},
    {"sync"},
    {"testing"},  # a plugin of pytest, which loads it
    {"__init__"},
]
TOOLS = {"archive", "cli", "conformance", "doctor", "gateway", "tracing", "__main__"}
RANK = {name: rank for rank, level in enumerate(LEVELS) for name in level}

SANS_IO = {"_version", "_sop_classes", "exceptions", "status", "uid", "address", "options", "naming"} | {
    "breaker",
    "toml_lines",
    "ul",
    "dimse",
    "data",
    "access",
    "destination",
}
IO = {"asyncio", "socket", "ssl", "threading", "time", "os", "logging", "selectors", "concurrent", "pathlib"}
SLOW = {"pydicom", "numpy", "sqlalchemy", "click", "rich", "pynetdicom"}

# What imports pydicom itself, and is therefore only imported inside functions.
NEED_PYDICOM = {"asyncdicom.cli.text"}

# What the vocabulary may use of itself.
AMONG_EQUALS = {("exceptions", "status")}


def module_name(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def module_of(path: Path) -> str:
    return ".".join(("asyncdicom", *path.relative_to(PACKAGE).with_suffix("").parts))


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports(path: Path, *, at_import: bool) -> Iterator[str]:
    """What a module imports; ``at_import``: only what is imported when it is imported itself."""
    return imported(path.read_text(), path.parent.relative_to(PACKAGE.parent).parts, at_import=at_import)


def imported(source: str, package: tuple[str, ...], *, at_import: bool) -> Iterator[str]:
    """The names of modules, absolute, and of what is imported from them."""
    waiting: list[ast.AST] = [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            parent = ".".join((*base, *([node.module] if node.module else [])))
            yield parent
            yield from (f"{parent}.{alias.name}" for alias in node.names)
        elif is_type_checking(node):
            waiting += node.orelse  # type: ignore[attr-defined]
        elif not (at_import and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))):
            waiting += ast.iter_child_nodes(node)


FILES = sorted(path for path in PACKAGE.rglob("*.py"))
LIBRARY = [path for path in FILES if module_name(path) not in TOOLS]


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def test_every_module_has_its_place() -> None:
    assert {module_name(path) for path in LIBRARY} <= set(RANK)


@pytest.mark.parametrize("path", LIBRARY, ids=name_of)
def test_imports_go_down_only(path: Path) -> None:
    mine = module_name(path)
    for name in imports(path, at_import=False):
        parts = name.split(".")
        if parts[0] != "asyncdicom" or len(parts) < 2:
            continue
        theirs = parts[1]
        if theirs in TOOLS:
            raise AssertionError(f"{name_of(path)} imports {name}: tools are on top")
        if theirs == mine or theirs not in RANK or (mine, theirs) in AMONG_EQUALS:
            continue
        assert RANK[theirs] < RANK[mine], f"{name_of(path)} imports {name}"


@pytest.mark.parametrize("path", [p for p in LIBRARY if module_name(p) in SANS_IO], ids=name_of)
def test_below_the_line_there_is_no_io(path: Path) -> None:
    used = {name.split(".")[0] for name in imports(path, at_import=False)}
    assert not used & IO
    assert not used & SLOW


# What decides in the gateway, doctor and trace has time as an argument, too, and knows no socket and no task.
DECIDES = [
    PACKAGE / "gateway" / f"{name}.py" for name in ("facts", "patterns", "rules", "sender", "verdicts")
] + [PACKAGE / "doctor" / "causes.py"]
DECIDES += [PACKAGE / "tracing" / f"{name}.py" for name in ("side", "told", "conversation", "pcap")]


@pytest.mark.parametrize("path", DECIDES, ids=name_of)
def test_what_decides_does_no_io(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports(path, at_import=False)} & IO


@pytest.mark.parametrize("path", [p for p in FILES if module_name(p) == "gateway"], ids=name_of)
def test_the_gateway_is_below_the_tools(path: Path) -> None:
    others = {f"asyncdicom.{name}" for name in TOOLS - {"gateway", "archive"}}
    assert not {".".join(name.split(".")[:2]) for name in imports(path, at_import=False)} & others


@pytest.mark.parametrize("path", [p for p in FILES if module_name(p) == "archive"], ids=name_of)
def test_the_archive_does_not_know_the_gateway(path: Path) -> None:
    assert not any(name.startswith("asyncdicom.gateway") for name in imports(path, at_import=False))


# Who knows that the index is in SQLite.
KNOWS_SQLITE = PACKAGE / "archive" / "index"
DIALECT = ("PRAGMA", "GLOB", "json_each", "json_group", "json_quote", "BEGIN IMMEDIATE", "VACUUM")


def of_sqlite(source: str) -> set[str]:
    """What shows that a module knows the database: drivers that it imports, words of their language."""
    used = {name.split(".")[0] for name in imported(source, ("asyncdicom", "archive"), at_import=False)}
    texts = [node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)]
    words = {word for word in DIALECT for text in texts if isinstance(text, str) and word in text}
    return (used & {"sqlite3", "sqlalchemy"}) | words


@pytest.mark.parametrize("path", [p for p in FILES if KNOWS_SQLITE not in p.parents], ids=name_of)
def test_nothing_but_the_index_knows_its_database(path: Path) -> None:
    assert not of_sqlite(path.read_text())


def test_a_second_place_that_knows_the_database_is_noticed() -> None:
    assert of_sqlite("def f():\n    from sqlalchemy import Engine\n    import sqlite3") == {
        "sqlalchemy",
        "sqlite3",
    }
    assert of_sqlite('execute(f"PRAGMA user_version = {4}")') == {"PRAGMA"}
    assert {found for path in KNOWS_SQLITE.glob("*.py") for found in of_sqlite(path.read_text())} > {
        "sqlalchemy",
        "sqlite3",
        "GLOB",
    }


# What makes file calls of its own in the archive: the folder itself, its marker, its index, its copies;
# stored files are for the blobs alone.
MAKES_FILE_CALLS = {
    f"archive/{name}.py"
    for name in (
        *("__init__", "archive", "backup", "deleted_journal", "entering", "file_calls", "journal"),
        *("maintenance", "marker"),
    )
}


def test_stored_files_are_for_the_blobs_alone() -> None:
    named = {
        name_of(path)
        for path in (PACKAGE / "archive").glob("*.py")
        for name in imports(path, at_import=False)
        if name in ("asyncdicom.archive.file_calls", "shutil", "asyncdicom.net.disk")
    }
    assert named == MAKES_FILE_CALLS


def test_one_file_of_the_archive_knows_the_status() -> None:
    knows = {
        name_of(path)
        for path in (PACKAGE / "archive").rglob("*.py")
        if "asyncdicom.status" in set(imports(path, at_import=False))
    }
    assert knows == {"archive/dimse.py"}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_pydicom_is_imported_when_it_is_needed(path: Path) -> None:
    used = set(imports(path, at_import=True))
    assert not used & {"pydicom", *NEED_PYDICOM} or module_of(path) in NEED_PYDICOM
    if path in LIBRARY:
        assert not {name.split(".")[0] for name in used} & SLOW


@pytest.mark.parametrize("name", sorted(NEED_PYDICOM))
def test_who_needs_pydicom_says_so(name: str) -> None:
    path = PACKAGE.joinpath(*name.split(".")[1:]).with_suffix(".py")
    assert "pydicom" in set(imports(path, at_import=True))


@pytest.mark.parametrize("path", [p for p in LIBRARY if module_name(p) != "net"], ids=name_of)
def test_sockets_are_for_net_and_the_front_doors(path: Path) -> None:
    allowed = {"client", "outgoing", "server"}
    used = {name.split(".")[0] for name in imports(path, at_import=False)}
    if module_name(path) not in allowed:
        assert not used & {"socket", "ssl"}


# What may use the wire suite, which is an application.
USES_CONFORMANCE = {"cli", "conformance"}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_conformance_is_an_application(path: Path) -> None:
    used = {name for name in imports(path, at_import=False) if name.startswith("asyncdicom.conformance")}
    assert not used or module_name(path) in USES_CONFORMANCE
    if module_name(path) == "conformance":  # it plays by itself: nothing of the network side helps it
        others = {name.split(".")[1] for name in imports(path, at_import=False) if ".net" in name}
        assert "net" not in others


# circles


def everything_imported(source: str, package: tuple[str, ...]) -> Iterator[str]:
    """All that a module imports: at any time, for types alone too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from imported(ast.unparse(node), package, at_import=False)


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """The groups of modules each of which leads to each other."""

    def reachable(start: str) -> set[str]:
        found: set[str] = set()
        waiting = [start]
        while waiting:
            for name in graph[waiting.pop()] - found:
                found.add(name)
                waiting.append(name)
        return found

    leads_to = {name: reachable(name) for name in graph}
    groups: list[set[str]] = []
    for name, others in leads_to.items():
        if name in others and not any(name in group for group in groups):
            groups.append({other for other in others if name in leads_to[other]})
    return groups


def import_graph(files: dict[str, tuple[str, tuple[str, ...]]]) -> dict[str, set[str]]:
    """Which modules each module imports; `files`: name -> source and package."""
    graph = {}
    for name, (source, package) in files.items():
        modules = {other for other in everything_imported(source, package) if other in files} - {name}
        # `from package import module` is about the module.
        parents = {other.rpartition(".")[0] for other in modules}
        graph[name] = modules - parents
    return graph


def test_nothing_goes_in_circles() -> None:
    files = {}
    for path in FILES:
        name = module_of(path).removesuffix(".__init__")
        files[name] = (path.read_text(), path.parent.relative_to(PACKAGE.parent).parts)
    assert circles(import_graph(files)) == []


def test_a_circle_is_noticed() -> None:
    sources = {
        "p.a": "from p import b",
        "p.b": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p.c import C",
        "p.c": "def f():\n    from .a import g",
        "p.d": "from p.a import g",
    }
    graph = import_graph({name: (source, ("p",)) for name, source in sources.items()})
    assert circles(graph) == [{"p.a", "p.b", "p.c"}]


# one core

PARTS_OF_THE_CORE = {"UpperLayer", "InvokedOperations", "PerformedOperations", "Assembler", "Decoder"}
THE_CORE = {
    "asyncdicom/dimse/association.py": PARTS_OF_THE_CORE - {"Decoder"},
    "asyncdicom/ul/protocol.py": {"Decoder"},
    "asyncdicom/tracing/side.py": {"Assembler", "Decoder"},  # which only watches two others
    "fuzz/pdu_stream.py": {"UpperLayer", "Decoder"},  # the targets of these parts
    "fuzz/command.py": {"Assembler"},
}
REPOSITORY = PACKAGE.parent


def constructed(source: str) -> set[str]:
    """The parts of the core that are made there."""
    names = (
        node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
    )
    return PARTS_OF_THE_CORE & set(names)


def test_the_parts_of_the_core_are_put_together_in_one_place() -> None:
    made = {
        str(path.relative_to(REPOSITORY)): found
        for folder in ("asyncdicom", "fuzz", "benchmarks")
        for path in (REPOSITORY / folder).rglob("*.py")
        if (found := constructed(path.read_text()))
    }
    assert made == THE_CORE


def test_a_second_core_is_noticed() -> None:
    assert constructed("layer = protocol.UpperLayer(requestor=True)") == {"UpperLayer"}
    assert constructed("def f(layer: UpperLayer): return layer") == set()


def test_the_checks_can_fail() -> None:
    source = """
from typing import TYPE_CHECKING
import os, asyncio.events
from . import server
from ..net import flow
if TYPE_CHECKING:
    import pydicom
try:
    import numpy
except ImportError:
    import ssl
class A:
    import time
def f():
    import click
"""
    at_import = set(imported(source, ("asyncdicom", "ul"), at_import=True))
    assert {
        "os",
        "asyncio.events",
        "asyncdicom.ul.server",
        "asyncdicom.net.flow",
        "numpy",
        "ssl",
        "time",
    } <= at_import
    assert not {"pydicom", "click"} & at_import
    assert "click" in set(imported(source, ("asyncdicom", "ul"), at_import=False))


@pytest.mark.parametrize("statement", ["import asyncdicom", "from asyncdicom import associate, serve"])
def test_the_package_imports_nothing_slow(statement: str) -> None:
    code = f"import sys; {statement}; print(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    ).stdout.split()
    assert "asyncdicom" in loaded
    assert not set(loaded) & (SLOW | {"uvloop", "typing_extensions", "pathlib", "urllib"})


def test_a_stored_byte_never_meets_pydicom(tmp_path: Path) -> None:
    """From a file through C-STORE to a file."""
    code = """
import asyncio, sys
from asyncdicom import associate, serve, file_source, storage_contexts
async def main(path, target):
    async def on_store(request):
        await request.data.save(target)
        return 0
    source = file_source(path)
    async with serve("SCP@127.0.0.1:0", c_store=on_store) as server:
        async with associate(f"SCP@127.0.0.1:{server.port}", contexts=storage_contexts([source])) as a:
            (await a.c_store(path)).raise_for_status()
asyncio.run(main(sys.argv[1], sys.argv[2]))
print(*sorted({m.split('.')[0] for m in sys.modules}))
"""
    import pydicom

    sample = Path(pydicom.__file__).parent / "data" / "test_files" / "CT_small.dcm"
    target = tmp_path / "out.dcm"
    loaded = subprocess.run(
        [sys.executable, "-c", code, str(sample), str(target)],
        capture_output=True,
        text=True,
        check=True,
        cwd=PACKAGE.parent,
    ).stdout.split()
    assert not set(loaded) & SLOW
    assert target.exists()
