"""The public names: what is promised is there, and what is there is promised."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from typing import get_origin

import pytest

import asyncdicom
from asyncdicom.services.normalized import NORMALIZED_HANDLERS

README = Path(__file__).parents[1] / "README.md"

PROMISED = [
    "AcceptedContext",
    "AccessPolicy",
    "Address",
    "Association",
    "AssociationAborted",
    "AssociationClosed",
    "AssociationError",
    "AssociationPool",
    "AssociationRejected",
    "AssociationReleased",
    "AssociationTimeout",
    "BytesSource",
    "DataSetError",
    "DataStream",
    "Destination",
    "DicomNetworkError",
    "FileSource",
    "InformationModel",
    "LocalProtocolError",
    "PATIENT_ROOT",
    "PATIENT_STUDY_ONLY",
    "Peer",
    "PresentationContext",
    "PresentationContextError",
    "Progress",
    "ProtocolError",
    "RemoteProtocolError",
    "Request",
    "Response",
    "Retrieval",
    "RetrieveResult",
    "STORAGE",
    "STUDY_ROOT",
    "Server",
    "Source",
    "Skipped",
    "Status",
    "StatusError",
    "TlsFiles",
    "UserIdentity",
    "VERIFICATION",
    "associate",
    "file_source",
    "new_uid",
    "open_file",
    "retrieval_contexts",
    "run",
    "safe_name",
    "serve",
    "serve_until_stopped",
    "storage_contexts",
    "__version__",
    "Trace",
    "Peers",
    "UserIdentityCheck",
    "Opening",
    "Command",
    "CommandField",
    "Query",
    "QueryService",
    "RetrieveOperation",
    "GetService",
    "MoveService",
    "Proposable",
    "EchoHandler",
    "FindHandler",
    "NormalizedHandler",
    "NormalizedHandlers",
    "RetrieveHandler",
    "StoreHandler",
    "Answer",
    "Identifier",
    "Service",
    "Node",
    "Delivery",
    "NormalizedService",
    "CommitmentCheck",
    "CommitmentResult",
    "Reference",
    "StorageCommitment",
    "StorageCommitmentUser",
    "Storage",
    "Verification",
    "Worklist",
    "MODALITY_WORKLIST",
    "STORAGE_COMMITMENT_PUSH_MODEL",
    "AssociationHook",
    "Client",
    "Finding",
    "Instance",
    "Matches",
    "Retrieved",
    "Retrieving",
    "Storable",
    "StoreResult",
    "Stored",
    "Storing",
]


@pytest.mark.parametrize("name", PROMISED)
def test_what_is_promised_is_there(name: str) -> None:
    assert name in asyncdicom.__all__
    assert getattr(asyncdicom, name) is not None


def test_all_is_complete_and_without_repetition() -> None:
    for name in asyncdicom.__all__:
        getattr(asyncdicom, name)
    public = {name for name in vars(asyncdicom) if not name.startswith("_")} - {
        "annotations",
        "TYPE_CHECKING",
    }
    modules = {module.name for module in pkgutil.iter_modules(asyncdicom.__path__)}
    assert public - modules == set(asyncdicom.__all__) - {"__version__"} - modules
    assert set(dir(asyncdicom)) >= set(asyncdicom.__all__)
    assert len(asyncdicom.__all__) == len(set(asyncdicom.__all__))


def test_the_version_is_one() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", asyncdicom.__version__)


LIBRARY = sorted(
    path
    for folder in ("", "net", "services", "scu", "ul", "dimse", "data")
    for path in (Path(asyncdicom.__file__).parent / folder).glob("*.py")
    if not path.name.startswith("__")
)


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: str(path.parent.name + "/" + path.name))
def test_every_name_in_all_exists(path: Path) -> None:
    package = Path(asyncdicom.__file__).parent
    name = ".".join(("asyncdicom", *path.relative_to(package).with_suffix("").parts))
    module = importlib.import_module(name)
    for exported in getattr(module, "__all__", ()):
        assert hasattr(module, exported), f"{name} has no {exported}"


def documented(name: str) -> object:
    """What has the documentation: a class may be exported for one kind of association only."""
    value = getattr(asyncdicom, name)
    origin = get_origin(value)
    return origin if getattr(origin, "__module__", "").startswith("asyncdicom.") else value


def has_documentation(value: object) -> bool:
    """Classes and functions have; constants and type aliases have a comment."""
    return inspect.isclass(value) or inspect.isroutine(value)


@pytest.mark.parametrize(
    "name", [name for name in PROMISED if name != "Source" and has_documentation(documented(name))]
)
def test_what_is_public_is_explained(name: str) -> None:
    documentation = inspect.getdoc(documented(name))
    assert documentation
    assert not documentation.startswith(f"{name}("), "a NamedTuple's own docstring says nothing"


@pytest.mark.parametrize(
    "cls", [asyncdicom.Association, asyncdicom.Client, asyncdicom.Server, asyncdicom.DataStream]
)
def test_every_public_method_is_explained(cls: type) -> None:
    for name, member in vars(cls).items():
        if not name.startswith("_") and (callable(member) or isinstance(member, property)):
            assert inspect.getdoc(member), f"{cls.__name__}.{name}"


def test_options_are_keyword_only() -> None:
    for function in (asyncdicom.associate, asyncdicom.serve):
        parameters = list(inspect.signature(function).parameters.values())
        positional = [p.name for p in parameters if p.kind not in (p.KEYWORD_ONLY, p.VAR_KEYWORD)]
        assert positional == ["address"]


@pytest.mark.parametrize("function", [asyncdicom.associate, asyncdicom.serve])
def test_every_option_is_explained(function: object) -> None:
    assert callable(function)
    documentation = inspect.getdoc(function) or ""
    elsewhere = (inspect.getdoc(asyncdicom.associate) or "") + README.read_text()
    parameters = inspect.signature(function).parameters.values()
    for name in (*(p.name for p in parameters if p.kind is p.KEYWORD_ONLY), *NORMALIZED_HANDLERS):
        abbreviated = f"`...{name[name.index('_per_') :]}`" if "_per_" in name else f"`{name}`"
        assert {f"`{name}`", abbreviated} & set(re.findall(r"`[^`\n]+`", documentation + elsewhere)), name


def test_type_checkers_and_the_interpreter_see_the_same() -> None:
    tree = ast.parse(Path(asyncdicom.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: f"{node.module}"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert set(seen) == set(asyncdicom.__all__) - {"__version__"}
    for name, module in seen.items():
        assert getattr(importlib.import_module(module), name) is getattr(asyncdicom, name)


def test_what_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        _ = asyncdicom.nothing
