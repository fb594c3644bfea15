"""Completion: what shells are answered, and that a real one understands it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cli.running import ENVIRONMENT

from asyncdicom.__main__ import TOOLS, main

PEERS = 'pacs = "ARCHIVE@10.0.0.5:104"\nris = "RIS@10.0.0.6:104"\n'


@pytest.fixture
def peers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (path := tmp_path / "peers.toml").write_text(PEERS)
    monkeypatch.setenv("ASYNCDICOM_PEERS", str(path))
    return path


def answered(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], shell: str, *words: str
) -> list[str]:
    """What a shell gets that asks how these words go on, the last of which is being typed."""
    capfd.readouterr()
    monkeypatch.setenv("_ASYNCDICOM_COMPLETE", f"{shell}_complete")
    monkeypatch.setenv("COMP_WORDS", " ".join(["asyncdicom", *words]))
    monkeypatch.setenv("COMP_CWORD", words[-1] if shell == "fish" else str(len(words)))
    assert main() == 0
    out, err = capfd.readouterr()
    assert err == ""
    return [line for line in out.splitlines() if line]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("find", ["plain,findscu"]),
        ("--v", ["plain,--version"]),
        ("findscu p", ["plain,pacs"]),
        ("findscu pacs x", []),
        ("storescu ", ["plain,pacs", "plain,ris"]),
        ("storescu pacs im", ["file,im"]),
        ("movescu -aem A", ["plain,ARCHIVE"]),
        ("findscu pacs -k PatientNa", ["plain,PatientName"]),
        ("findscu pacs -k RequestAttributesSequence[0].PatientNa", None),
        ("findscu --format t", ["plain,table", "plain,tree", "plain,text"]),
        ("archive DIR reass", ["plain,reassign"]),
        ("archive DIR reassign u", ["plain,undo"]),
        ("qrscp --data x", ["dir,x"]),
        ("getscu -od x", ["dir,x"]),
        ("peers r", ["plain,ris"]),
        ("completion f", ["plain,fish"]),
        ("no-such-tool x", None),
    ],
)
def test_what_a_shell_is_answered(
    peers: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    words: str,
    expected: list[str] | None,
) -> None:
    found = answered(monkeypatch, capfd, "bash", *words.split(" "))
    if expected is not None:
        assert found == expected
    elif "[0]." in words:
        assert "plain,RequestAttributesSequence[0].PatientName" in found


def test_tools_come_with_what_they_do_and_none_is_imported(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for shell in ("zsh", "fish"):
        lines = answered(monkeypatch, capfd, shell, "")
        assert all(any(name in line for line in lines) for name in TOOLS)
        assert any(TOOLS["echoscu"] in line for line in lines)
    code = "import sys; from asyncdicom.__main__ import main; main(); print(*sys.modules, file=sys.stderr)"
    environment = ENVIRONMENT | {
        "_ASYNCDICOM_COMPLETE": "bash_complete",
        "COMP_WORDS": "asyncdicom ",
        "COMP_CWORD": "1",
    }
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert len(said.stdout.splitlines()) == len(TOOLS)
    assert not {"asyncio", "pydicom", "sqlalchemy", "asyncdicom.cli.findscu"} & set(said.stderr.split())


def test_a_wrong_file_of_peers_disturbs_no_typing(
    peers: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    peers.write_text("= broken")
    assert answered(monkeypatch, capfd, "bash", "findscu", "p") == []


def test_nothing_of_the_user_runs_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs_when_imported.py").write_text("open('ran', 'w')\n")
    monkeypatch.chdir(tmp_path)
    words = ("storescp", "--on-stored", "runs_when_imported:x", "--folder-t")
    assert answered(monkeypatch, capfd, "bash", *words) == ["plain,--folder-template"]
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_names_the_command_and_the_variable(shell: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    out, err = capfd.readouterr()
    assert f"_ASYNCDICOM_COMPLETE={shell}_complete" in out
    assert err == ""


def test_a_shell_that_is_not_known(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "tcsh"]) == 2
    assert "'tcsh' is not one of 'bash', 'zsh', 'fish'" in capfd.readouterr().err


SCRIPTS = {
    "bash": """
eval "$(asyncdicom completion bash)"
complete -p asyncdicom
COMP_WORDS=(asyncdicom findscu p) COMP_CWORD=2
_asyncdicom_completion asyncdicom
echo "got ${COMPREPLY[*]}"
""",
    "zsh": """
autoload -U compinit && compinit -u -D
eval "$(asyncdicom completion zsh)"
whence -w _asyncdicom_completion
echo "got pacs"
""",
    "fish": """
asyncdicom completion fish | source
echo got (complete -C "asyncdicom findscu p" | string split -f1 \\t)
""",
}


@pytest.mark.parametrize("shell", sorted(SCRIPTS))
def test_a_real_shell_completes(shell: str, peers: Path, tmp_path: Path) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not on this machine")
    (folder := tmp_path / "bin").mkdir()
    (tool := folder / "asyncdicom").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m asyncdicom "$@"\n')
    tool.chmod(0o755)
    environment = ENVIRONMENT | {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "ASYNCDICOM_PEERS": str(peers),
        "HOME": str(tmp_path),
    }
    said = subprocess.run(
        [program, "-c", SCRIPTS[shell]], env=environment, capture_output=True, text=True, timeout=120
    )
    assert said.stdout.splitlines()[-1] == "got pacs", said.stderr
    assert said.stderr == ""


@pytest.mark.parametrize(
    ("typed", "says"),
    [("findsuc", "did you mean findscu?"), ("STORESCU", "did you mean storescu?"), ("--hlp", "--help?")],
)
def test_a_slip_is_told_what_was_meant(typed: str, says: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([typed]) == 2
    assert says in capfd.readouterr().err
