"""What is published is listed exactly: nothing that happens to lie in a checkout gets into a package."""

from __future__ import annotations

import shutil
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[1]
FOLDERS = ("asyncdicom", "tests", "benchmarks", "fuzz")
FILES = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "LICENSE",
    "README.md",
    "pyproject.toml",
    ".gitignore",
)

# What people leave behind, in places where it would be found by a pattern that is too wide.
STRAY = (
    ".env",
    "asyncdicom/.env",
    "asyncdicom/net/server.key",
    "asyncdicom/archive/patient.dcm",
    "asyncdicom/notes.txt",
    "asyncdicom/index.sqlite",
    "tests/id_rsa",
    "tests/data/patient.dcm",
    "benchmarks/results/raw.json",
    "fuzz/findings/crash-1",
    "other/module.py",
)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("checkout")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in FILES:
        if (ROOT / file).exists():
            shutil.copy(ROOT / file, copy / file)
    for name in STRAY:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text("secret")
    return copy


def test_the_wheel_holds_the_modules_and_nothing_else(checkout: Path, tmp_path: Path) -> None:
    (wheel,) = WheelBuilder(str(checkout)).build(directory=str(tmp_path), versions=["standard"])
    names = zipfile.ZipFile(wheel).namelist()
    expected = {path.relative_to(ROOT).as_posix() for path in (ROOT / "asyncdicom").rglob("*.py")}
    package = {name for name in names if not name.partition("/")[0].endswith(".dist-info")}
    assert package == expected | {"asyncdicom/py.typed"}
    about = {name.partition("/")[2] for name in names} - {name.partition("/")[2] for name in package}
    assert about == {"METADATA", "WHEEL", "entry_points.txt", "licenses/LICENSE", "RECORD"}


def test_the_source_distribution_holds_what_was_listed(checkout: Path, tmp_path: Path) -> None:
    (sdist,) = SdistBuilder(str(checkout)).build(directory=str(tmp_path), versions=["standard"])
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert not names & set(STRAY)
    modules = {
        path.relative_to(ROOT).as_posix() for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")
    }
    assert modules <= names
    assert {"README.md", "LICENSE", "CHANGELOG.md", "asyncdicom/py.typed"} <= names
    assert {Path(name).suffix for name in names - modules} <= {
        "",  # the corpus, LICENSE
        ".md",
        ".toml",
        ".txt",
        ".json",
        ".png",
        ".svg",
        ".typed",
        ".gitignore",
    }, "a new kind of file: is it meant to be published?"


def test_every_dependency_says_its_lowest_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for requirement in (*project["dependencies"], *extras["cli"], *extras["archive"]):
        assert ">=" in requirement, f"{requirement}: .ci/lowest cannot test it"
