from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from struct import pack
from typing import Any

import pytest
from cli.running import ENVIRONMENT, Tool

from asyncdicom import (
    PATIENT_ROOT,
    STUDY_ROOT,
    Limits,
    PresentationContext,
    Request,
    Status,
    StatusError,
    serve,
)
from asyncdicom.cli.run import complain
from asyncdicom.data.elements import encode
from asyncdicom.services.responses import Response
from asyncdicom.uid import IMPLICIT_VR_LITTLE_ENDIAN, MODALITY_WORKLIST_FIND


class Answers:
    """A C-FIND handler that remembers the last identifier."""

    def __init__(self, *matches: Any, end: int = 0) -> None:
        self.matches = matches
        self.end = end
        self.identifier: Any = None
        self.sop_class = ""

    async def __call__(self, request: Request) -> AsyncIterator[Any]:
        self.identifier = await request.identifier()
        self.sop_class = request.affected_sop_class_uid
        for match in self.matches:
            yield match
        if self.end:
            raise StatusError(Response(self.end, error_comment="no such luck"))

    @property
    def asked(self) -> dict[str, str]:
        return {element.keyword: str(element.value or "") for element in self.identifier}


ONE = {"PatientName": "Doe^John", "StudyDate": "20260101", "StudyInstanceUID": "1.2.3"}
TWO = {"PatientName": "Ünver^日本", "StudyDate": "", "StudyInstanceUID": "1.2.4"}


async def test_text(tool: Tool) -> None:
    answers = Answers(ONE, TWO)
    async with serve("SCP@127.0.0.1:0", c_find=answers) as server:
        code, out, err = await tool(
            "findscu", "127.0.0.1", server.port, "-k", "PatientName=D*", "-k", "0008,0020", "-k", "0020000d"
        )
    assert (code, err) == (0, "")
    assert answers.asked == {
        "PatientName": "D*",
        "StudyDate": "",
        "StudyInstanceUID": "",
        "QueryRetrieveLevel": "STUDY",
    }
    assert out == (
        "StudyDate: 20260101\nPatientName: Doe^John\nStudyInstanceUID: 1.2.3\n\n"
        "SpecificCharacterSet: ISO_IR 192\nStudyDate:\nPatientName: Ünver^日本\nStudyInstanceUID: 1.2.4\n\n"
        "2 matches, status 0x0000 (Success)\n"
    )


async def test_a_tag_that_no_dictionary_knows_is_asked_for(tool: Tool) -> None:
    answers = Answers({"StudyInstanceUID": "1.2.3", "7777,0010": "A creator", "7777,1001": "X"})
    keys = ("-k", "7777,0010=A creator", "-k", "7777,1001=X", "-k", "(5555,0002)", "-k", "StudyInstanceUID")
    async with serve("SCP@127.0.0.1:0", c_find=answers) as server:
        code, out, err = await tool("findscu", "127.0.0.1", server.port, *keys)
    assert (code, err) == (0, "")
    assert [(str(each.tag), each.value) for each in answers.identifier][-3:] == [
        ("(5555,0002)", None),
        ("(7777,0010)", "A creator"),
        ("(7777,1001)", b"X "),
    ]
    assert "(7777,1001): 58 20\n" in out


async def test_text_that_the_given_character_set_cannot_hold_is_sent_as_utf_8(tool: Tool) -> None:
    answers = Answers()
    keys = ("-k", "SpecificCharacterSet=ISO_IR 100", "-k", "PatientName=山田*")
    async with serve("SCP@127.0.0.1:0", c_find=answers) as server:
        result = await tool("findscu", "127.0.0.1", server.port, *keys)
    assert (result.code, result.err) == (0, "")
    assert answers.asked["PatientName"] == "山田*"
    assert answers.asked["SpecificCharacterSet"] == "ISO_IR 192"


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
async def test_what_is_typed_where_the_locale_has_no_utf_8(tool: Tool, encoding: str) -> None:
    """Python then gives the bytes of an argument as surrogates: LC_ALL=C with PYTHONUTF8=0."""
    answers = Answers(TWO)
    key = "PatientName=Ünver*".encode(encoding).decode("ascii", "surrogateescape")
    async with serve("SCP@127.0.0.1:0", c_find=answers) as server:
        result = await tool("findscu", "127.0.0.1", server.port, "-k", key)
    assert (result.code, result.err, answers.asked["PatientName"]) == (0, "", "Ünver*")


async def ignoring(request: Request) -> AsyncIterator[Any]:
    request.optional_keys_supported = False
    yield ONE


async def test_that_the_peer_ignores_keys_is_told(tool: Tool, caplog: pytest.LogCaptureFixture) -> None:
    async with serve("SCP@127.0.0.1:0", c_find=ignoring) as server:
        text = await tool("findscu", "127.0.0.1", server.port, "-k", "Modality=MR")
        told = await tool("findscu", "--json", "127.0.0.1", server.port, "-k", "Modality=MR")
    assert "the peer does not match by all of these keys: it may have found too much" in caplog.messages
    assert (text.code, told.code) == (0, 0)
    assert told.json[-1]["optional_keys_supported"] is False


async def test_json(tool: Tool) -> None:
    async with serve("SCP@127.0.0.1:0", c_find=Answers(ONE, TWO)) as server:
        result = await tool("findscu", "--json", "127.0.0.1", server.port, "-k", "PatientName")
    assert result.code == 0
    first, second, end = result.json
    assert (end["status"], end["matches"]) == (0, 2)
    assert first["00100010"] == {"vr": "PN", "Value": [{"Alphabetic": "Doe^John"}]}
    assert first["0020000D"] == {"vr": "UI", "Value": ["1.2.3"]}
    assert second["00100010"]["Value"] == [{"Alphabetic": "Ünver^日本"}]
    assert second["00080020"] == {"vr": "DA"}


async def test_nothing_found(tool: Tool) -> None:
    async with serve("SCP@127.0.0.1:0", c_find=Answers()) as server:
        result = await tool("findscu", "127.0.0.1", server.port)
    assert (result.code, result.out) == (0, "0 matches, status 0x0000 (Success)\n")


async def test_what_the_peer_sends_is_not_obeyed_by_the_terminal(tool: Tool) -> None:
    answers = Answers({"PatientComments": "\x1b[2J\x07evil", "StudyDate": "\x1b[2Jevil"})
    async with serve("SCP@127.0.0.1:0", c_find=answers) as server:
        result = await tool("findscu", "127.0.0.1", server.port)
    assert result.out.splitlines()[:2] == [
        "StudyDate: \\x1b[2Jevil",
        "PatientComments: b'\\x1b[2J\\x07evil '",  # pydicom cannot decode this escape sequence
    ]


@pytest.mark.parametrize(
    ("arguments", "level"),
    [
        ([], "STUDY"),
        (["-P"], "PATIENT"),
        (["-O"], "PATIENT"),
        (["-k", "SeriesInstanceUID"], "SERIES"),
        (["-k", "SOPInstanceUID=1.2", "-k", "StudyInstanceUID=1"], "IMAGE"),
        (["-P", "-k", "StudyInstanceUID"], "STUDY"),
        (["-L", "image"], "IMAGE"),
        (["-k", "QueryRetrieveLevel=SERIES"], "SERIES"),
    ],
)
async def test_level(tool: Tool, arguments: list[str], level: str) -> None:
    answers = Answers()
    async with serve("SCP@127.0.0.1:0", c_find=answers) as server:
        assert (await tool("findscu", *arguments, "127.0.0.1", server.port)).code == 0
    assert answers.asked["QueryRetrieveLevel"] == level
    assert (answers.sop_class == PATIENT_ROOT.find) == ("-P" in arguments)


async def test_worklist(tool: Tool) -> None:
    answers = Answers({"PatientID": "1", "ScheduledProcedureStepSequence": [{"Modality": "CT"}]})
    keys = [
        "ScheduledProcedureStepSequence[0].Modality=CT",
        "ScheduledProcedureStepSequence[0].(0040,0002)=20260101-",
        "PatientID",
    ]
    async with serve("SCP@127.0.0.1:0", c_find=answers, contexts=[MODALITY_WORKLIST_FIND]) as server:
        result = await tool(
            "findscu", "-W", "127.0.0.1", server.port, *(part for key in keys for part in ("-k", key))
        )
    assert result.code == 0
    assert answers.sop_class == MODALITY_WORKLIST_FIND
    assert "QueryRetrieveLevel" not in answers.asked
    (step,) = answers.identifier.ScheduledProcedureStepSequence
    assert (step.Modality, step.ScheduledProcedureStepStartDate) == ("CT", "20260101-")
    assert "PatientID: 1\nScheduledProcedureStepSequence:\n  - Modality: CT\n" in result.out


async def test_values_of_all_kinds_reach_the_peer(tool: Tool) -> None:
    answers = Answers()
    keys = [
        "Rows=512",
        "StudyInstanceUID=1.2\\1.3",
        "ModalitiesInStudy=CT\\MR",
        "PatientName=Ü*",
        "InstanceNumber=7",
    ]
    async with serve("SCP@127.0.0.1:0", c_find=answers) as server:
        await tool("findscu", "127.0.0.1", server.port, *(part for key in keys for part in ("-k", key)))
    asked = answers.identifier
    assert asked.Rows == 512
    assert list(asked.StudyInstanceUID) == ["1.2", "1.3"]
    assert list(asked.ModalitiesInStudy) == ["CT", "MR"]
    assert str(asked.PatientName) == "Ü*"
    assert asked.InstanceNumber == 7


async def test_cancel(tool: Tool) -> None:
    async def never_ending(request: Request) -> AsyncIterator[dict[str, str]]:
        while True:
            yield ONE

    async with serve("SCP@127.0.0.1:0", c_find=never_ending, limits=Limits(maximum_matches=None)) as server:
        code, out, _ = await tool("findscu", "127.0.0.1", server.port, "--cancel", 3)
    assert code == 0
    assert out.count("Doe^John") == 3
    assert out.endswith("3 matches, status 0xFE00 (Cancel)\n")


async def test_a_failure(tool: Tool) -> None:
    async with serve("SCP@127.0.0.1:0", c_find=Answers(ONE, end=Status.OUT_OF_RESOURCES)) as server:
        code, out, err = await tool("findscu", "127.0.0.1", server.port)
    assert code == 1
    assert "Doe^John" in out
    assert err == "asyncdicom findscu: status 0xA700 (Failure: out of resources): no such luck\n"


async def test_a_failure_in_json_and_a_release_after_it(tool: Tool, caplog: pytest.LogCaptureFixture) -> None:
    ends: list[object] = []
    async with serve(
        "SCP@127.0.0.1:0",
        c_find=Answers(ONE, end=Status.OUT_OF_RESOURCES),
        trace=lambda direction, what: ends.append((direction, type(what).__name__)),
    ) as server:
        result = await tool("findscu", "--json", "127.0.0.1", server.port)
    assert result.code == 1
    end = result.json[-1]
    assert (end["status"], end["matches"], end["error_comment"]) == (0xA700, 1, "no such luck")
    assert "Abort" not in str(ends)


async def test_a_peer_without_the_service(tool: Tool) -> None:
    async with serve("SCP@127.0.0.1:0") as server:
        code, _, err = await tool("findscu", "127.0.0.1", server.port)
    assert code == 1
    assert "no accepted presentation context for Study Root" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("option", ["-v", "--json"])
async def test_one_match_that_cannot_be_read_is_told_and_the_others_are_shown(
    tool: Tool, option: str, caplog: pytest.LogCaptureFixture
) -> None:
    answers = Answers(ONE, b"\0\x08\0\x52garbage", ONE)
    async with serve("SCP@127.0.0.1:0", c_find=answers) as server:
        code, out, _ = await tool("findscu", option, "127.0.0.1", server.port, "-k", "PatientName")
    assert code == 1, "a part of it failed"
    assert out.count("Doe^John") == 2
    assert (
        '"unreadable": 1' in out
        if option == "--json"
        else "2 matches and 1 that cannot be read, status 0x0000" in out
    )
    assert "a match of a C-FIND cannot be read, and is left out" in caplog.text


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
async def test_any_stdout_shows_any_text_and_json_stays_json(encoding: str) -> None:
    """Names in other alphabets, and text that a terminal would obey."""
    name, comment = "山田^太郎=é", "\x9b2J\u202e\U0001f600"

    async def find(request: Request) -> AsyncIterator[dict[str, str]]:
        yield {"SpecificCharacterSet": "ISO_IR 192", "PatientName": name, "StudyDescription": comment}

    async with serve("SCP@127.0.0.1:0", c_find=find) as server:
        outputs = []
        for option in ([], ["--json"]):
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "asyncdicom", "findscu", f"SCP@127.0.0.1:{server.port}"),
                *(*option, "-k", "PatientName", "-k", "StudyDescription"),
                env=ENVIRONMENT | {"PYTHONIOENCODING": encoding},
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            out, err = await process.communicate()
            assert (process.returncode, err) == (0, b"")
            outputs.append(out.decode(encoding))
    text, found = outputs
    assert "\x9b" not in text + found
    assert "\u202e" not in text + found
    assert "PatientName: " in text
    values, end = map(json.loads, found.splitlines())
    assert end["status"] == 0
    assert values["00081030"]["Value"] == [comment]
    assert values["00100010"]["Value"] == [{"Alphabetic": "山田^太郎", "Ideographic": "é"}]


@pytest.mark.parametrize(
    ("declared", "name", "shown"),
    [
        (b"LATIN1", "Müller^É".encode("latin-1"), "Müller^É"),
        (b"ISO8859-1 ", "Müller".encode("latin-1"), "Müller"),
        (b"WINDOWS-1251", "Иванов".encode("cp1251"), "Иванов"),
        (b"GB2312", "王^小".encode("gb2312"), "王^小"),
        (b"", "Müller^山".encode(), "Müller^山"),
        (b"", "Müller".encode("latin-1"), "Müller"),
        (b"ISO_IR 192", "Müller".encode("latin-1"), "Müller"),
        (b"ISO_IR 100", "Müller".encode("latin-1"), "Müller"),
    ],
)
@pytest.mark.parametrize("option", ["-v", "--json"])
async def test_text_in_any_character_set_is_shown(
    tool: Tool, declared: bytes, name: bytes, shown: str, option: str
) -> None:
    """Also what nobody declared, what was declared wrongly, and names of sets that only the field knows."""
    name += b" " * (len(name) % 2)
    inner = pack("<HHL", 0x10, 0x10, len(name)) + name
    items = pack("<HHL", 0xFFFE, 0xE000, len(inner)) + inner
    elements = [(0x00080005, "CS", declared)] if declared else []
    elements += [(0x00101002, "SQ", items), (0x00100010, "PN", name)]

    async def find(request: Request) -> AsyncIterator[bytes]:
        yield encode(sorted(elements), request.transfer_syntax_uid)

    contexts = [PresentationContext(STUDY_ROOT.find, (IMPLICIT_VR_LITTLE_ENDIAN,))]
    async with serve("SCP@127.0.0.1:0", c_find=find, contexts=contexts) as server:
        result = await tool("findscu", option, "127.0.0.1", server.port, "-k", "PatientName")
    assert result.code == 0
    assert result.out.count(shown) == 2, "in the sequence, too"
    assert "\ufffd" not in result.out


def test_what_a_peer_says_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    assert complain("asyncdicom findscu", "status 0xC001: \x1b[2J\x1b]0;owned\x07", 3) == 3
    assert capsys.readouterr().err == "asyncdicom findscu: status 0xC001: \\x1b[2J\\x1b]0;owned\\x07\n"
