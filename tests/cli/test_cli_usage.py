"""A wrong command line: one line that says what is wrong and what to do, exit code 2."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from importlib import import_module
from pathlib import Path

import click
import pytest
from cli.running import Tool, write_instance

from asyncdicom import Limits, Request, Timeouts, serve
from asyncdicom.__main__ import TOOLS
from asyncdicom.cli.fields import documentation
from asyncdicom.cli.number import Number

PEER = "SCP@127.0.0.1:1"
UID = "StudyInstanceUID=1.2"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("pingscu x", "there is no tool 'pingscu'; the tools are echoscu, "),
        ("echoscu", "Missing argument 'PEER [PORT]'"),
        ("echoscu SCP@host:port", "has the port 'port'"),
        ("echoscu host 99999", "it is a number up to 65535"),
        ("echoscu SCP@", "has no valid host; write AET@host:port"),
        ("echoscu ::1", "an IPv6 address is written in brackets"),
        (f"echoscu {PEER} 104", "'104' is one argument too many"),
        (f"echoscu -aet TOO-LONG-FOR-A-TITLE {PEER}", "20 characters: 16 are allowed"),
        (f"echoscu -aec A\\B {PEER}", "which is not allowed"),
        (f"echoscu -td soon {PEER}", "it has to be a number of at least 0, not 'soon'"),
        (f"echoscu -td -1 {PEER}", "it has to be a number of at least 0, not -1"),
        (f"echoscu -td nan {PEER}", "it has to be a number of at least 0, not nan"),
        (f"echoscu -pdu 100 {PEER}", "it has to be a whole number from 4096 to 16777216, not 100"),
        (f"echoscu -pdu 16383 {PEER}", "Limits.maximum_length must be even"),
        (f"echoscu --nonsense {PEER}", "No such option"),
        (f"echoscu +cf missing.pem {PEER}", "'missing.pem' does not exist"),
        (f"echoscu +tls {__file__} {__file__} {PEER}", "no usable key and certificate in"),
        (f"echoscu -usr ana -pwd secret {PEER}", "a passcode is sent over TLS, to a peer that is trusted"),
        (
            f"echoscu -usr ana -pwd secret -ic {PEER}",
            "a passcode is sent over TLS, to a peer that is trusted",
        ),
        ("qrscp --config missing.toml", "missing.toml: No such file"),
        ("qrscp --peer X=host:port", "--peer X=host:port: address"),
        ("qrscp --host 0.0.0.0", "on 0.0.0.0 only known peers may call, and none is known"),
        (f"storescu {PEER}", "say which files or folders to send"),
        (f"findscu -k Nonsense=1 {PEER}", "'Nonsense' is not a keyword of the data dictionary"),
        (f"findscu -k FFFE,E000=1 {PEER}", "FFFE,E000 is no element of a data set"),
        (f"findscu -k PatientName[0].Modality=CT {PEER}", "PatientName is not a sequence"),
        (f"findscu -k Rows=many {PEER}", "-k Rows=many: invalid literal"),
        (f"findscu -L NOWHERE {PEER}", "'NOWHERE' is not one of"),
        (f"findscu -L PATIENT {PEER}", "Study Root has the levels STUDY, SERIES, IMAGE, not PATIENT"),
        (f"getscu {PEER}", "say what to retrieve: -k StudyInstanceUID="),
        (f"getscu -k PatientID=1 {PEER}", "StudyInstanceUID=VALUE; -P -L PATIENT retrieves by -k PatientID"),
        (f"getscu -L SERIES -k {UID} {PEER}", "say what to retrieve: -k SeriesInstanceUID="),
        (f"getscu -od {__file__} -k {UID} {PEER}", "is a file"),
        (f"getscu -od {__file__}/in -k {UID} {PEER}", "cannot make the folder"),
        (f"movescu -k {UID} {PEER}", "say where to send: -aem AET, or --port"),
        ("storescp", "Missing argument 'PORT'"),
        ("storescp --port x", "it has to be a whole number"),
        ("archive list", "DIR is missing: write asyncdicom archive DIR list"),
        ("archive find -k PatientID=1", "DIR is missing: write asyncdicom archive DIR find"),
        ("outbox list", "DIR is missing: write asyncdicom outbox DIR list"),
        (f"storescu {__file__} {PEER}", f"PEER comes before what is sent: {PEER} {__file__}"),
        (f"getscu {PEER} PatientID=1", "one argument too many; keys are written -k PatientID=1"),
        ("echoscu dicom://127.0.0.1:104", "is a URL: a peer is written AET@host:port"),
        ("storescp 99999", "it has to be a whole number from 0 to 65535, not 99999"),
        (f"storescu -xe {PEER} x", "-xe: files are sent as they are encoded"),
        (f"storescu +sp *.dcm {PEER} x", "+sp: the shell finds files by patterns"),
        (f"storescu -r {PEER} x", "-r: folders are sent with those in them"),
        (f"findscu -X {PEER}", "-X: nothing is written to files"),
        (f"echoscu --use-passwd x {PEER}", "+pw: private keys are read without a passphrase"),
        ("storescp -xcr no-such-program 11112", "-xcr: there is no program 'no-such-program'"),
        ("storescp -xcs true 11112", "-xcs: a study needs a folder of its own: add -su PREFIX"),
        ("storescp --ignore -xcr true 11112", "are about files, and --ignore saves none"),
        ("storescp -su ../up 11112", "-su: '../up' is no beginning of a name"),
        (
            "storescp -ss study 11112",
            "-ss: no folder is named after the time; -su PREFIX, or --folder-template",
        ),
        ("storescp -fe .dcm 11112", "-fe: files are named SOP-INSTANCE-UID.dcm"),
        ("storescp +ti 11112", "+ti: what is received is saved as it came"),
        ("storescp --refuse 11112", "--refuse: it makes no faults on purpose; asyncdicom conformance does"),
        (f"storescu +II {PEER} x", "+II: what is sent is not changed"),
        (f"findscu -Xx {PEER}", "-Xx: --json prints each match on a line"),
        (f"movescu --cancel 3 {PEER}", "--cancel: Ctrl-C cancels it"),
        (f"echoscu --saml x {PEER}", "--saml: of user identities, only names (-usr) and passcodes"),
        (f"echoscu --version {PEER}", "--version: asyncdicom --version tells it"),
        ("storescp +tla 11112", "+tla: a server needs a certificate"),
        ("qrscp -lc log.cfg", "-lc: the log is told where to go by --log-file"),
        ("storescp -ic 11112", "a server needs a certificate for TLS: add +tls KEY CERT"),
    ],
)
async def test_wrong_command_line(tool: Tool, line: str, says: str) -> None:
    code, out, err = await tool(*line.split())
    assert (code, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1
    assert "--help" in err


@pytest.mark.parametrize(
    ("name", "option", "field", "default"),
    [
        ("echoscu", "-to, --timeout", "connect", Timeouts.connect),
        ("findscu", "-td, --dimse-timeout", "dimse", Timeouts.dimse),
        ("storescp", "--max-associations", "maximum_associations", Limits.maximum_associations),
        ("qrscp", "--operations", "operations_performed", 16),
    ],
)
async def test_help_is_what_the_field_says(
    tool: Tool, name: str, option: str, field: str, default: float
) -> None:
    code, out, _ = await tool(name, "--help")
    assert code == 0
    shown = " ".join(out[out.index(option) :].split())
    documented = documentation(Timeouts) | documentation(Limits)
    sentence = documented[field].partition("\n")[0].removesuffix(".")
    assert sentence in shown
    assert shown[shown.index(sentence) :].partition("[default: ")[2].startswith(f"{default}]")


@pytest.mark.parametrize(
    "line",
    [
        "storescu +sd +r -nh -R +C -x= -xs -xv -tls -rc -pw -q -ll warn {peer} {file}",
        "storescu --scan-directories --no-halt --log-level error {peer} {file}",
        "echoscu -q -ll fatal {peer}",
        "findscu +sr -S -k PatientID {peer}",
        "findscu --study -xi -x= +dc -k PatientID --call SCP {peer}",
        "echoscu -pts 3 -ppc 2 -ts 30 --aetitle ME --call SCP {peer}",
        "storescu +f +fo -rn -up -x4 -x2 --propose-jpeg8 --propose-lossless {peer} {file}",
    ],
)
async def test_habits_of_dcmtk_that_change_nothing(tool: Tool, tmp_path: Path, line: str) -> None:
    write_instance(tmp_path / "file", "1.2.840.10008.5.1.4.1.1.2", "1.2.3")

    async def take(request: Request) -> int:
        await request.data.read()
        return 0

    async def find(request: Request) -> AsyncIterator[bytes]:
        await request.data.read()
        matches: list[bytes] = []
        for match in matches:
            yield match

    async with serve("SCP@127.0.0.1:0", c_store=take, c_find=find) as server:
        words = line.format(peer=f"SCP@127.0.0.1:{server.port}", file=tmp_path / "file").split()
        assert (await tool(*words)).code == 0


async def test_dash_h_is_help(tool: Tool) -> None:
    code, out, _ = await tool("storescu", "-h")
    assert (code, out.startswith("Usage: asyncdicom storescu")) == (0, True)


def every_command(command: click.Command) -> Iterator[click.Command]:
    yield command
    for one in getattr(command, "commands", {}).values():
        yield from every_command(one)


@pytest.mark.parametrize("name", TOOLS)
def test_a_number_is_told_of_in_words(name: str) -> None:
    """Not as click does it: INTEGER RANGE, "'x' is not a valid integer range", 1<=x<=65535."""
    tool: click.Command = import_module(f"asyncdicom.cli.{name}").command
    for command in every_command(tool):
        for param in command.params:
            kinds = (click.types.IntParamType, click.types.FloatParamType)
            assert not isinstance(param.type, kinds) or getattr(param, "is_flag", False), (command, param)


@pytest.mark.parametrize(
    ("number", "value", "says"),
    [
        (Number(1), "0", "a whole number of at least 1, not 0"),
        (Number(1), "1.5", "a whole number of at least 1, not '1.5'"),
        (Number(1, 9), "", "a whole number from 1 to 9, not ''"),
        (Number(1, 9), "10", "a whole number from 1 to 9, not 10"),
        (Number(1, 9), "1" * 400, f"a whole number from 1 to 9, not {'1' * 400}"),
        (Number(0, whole=False, above=True), "0", "a number above 0, not 0"),
        (Number(0, whole=False), "nan", "a number of at least 0, not nan"),
    ],
)
def test_what_is_no_such_number(number: Number, value: str, says: str) -> None:
    with pytest.raises(click.BadParameter) as caught:
        number.convert(value, None, None)
    assert caught.value.message == f"it has to be {says}"
