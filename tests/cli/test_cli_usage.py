"""A wrong command line: one line that says what is wrong and what to do, exit code 2."""

from __future__ import annotations

import pytest
from cli.running import Tool

from asyncdicom import Limits, Timeouts
from asyncdicom.cli.fields import documentation

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
        ("echoscu ::1 104", "an IPv6 address is written in brackets"),
        (f"echoscu {PEER} 104", "'104' is one argument too many"),
        (f"echoscu -aet TOO-LONG-FOR-A-TITLE {PEER}", "20 characters: 16 are allowed"),
        (f"echoscu -aec A\\B {PEER}", "which is not allowed"),
        (f"echoscu -td soon {PEER}", "'soon' is not a valid float"),
        (f"echoscu -td -1 {PEER}", "-1.0 is not in the range"),
        (f"echoscu -td nan {PEER}", "Timeouts.dimse must be a positive number"),
        (f"echoscu -pdu 100 {PEER}", "100 is not in the range"),
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
        (f"findscu -k Nonsense=1 {PEER}", "'Nonsense' is not in the data dictionary"),
        (f"findscu -k 0010,9999=1 {PEER}", "'0010,9999' is not in the data dictionary"),
        (f"findscu -k PatientName[0].Modality=CT {PEER}", "PatientName is not a sequence"),
        (f"findscu -k Rows=many {PEER}", "-k Rows=many: invalid literal"),
        (f"findscu -L NOWHERE {PEER}", "'NOWHERE' is not one of"),
        (f"findscu -L PATIENT {PEER}", "Study Root has the levels STUDY, SERIES, IMAGE, not PATIENT"),
        (f"getscu {PEER}", "say what to retrieve: -k StudyInstanceUID="),
        (f"getscu -L SERIES -k {UID} {PEER}", "say what to retrieve: -k SeriesInstanceUID="),
        (f"getscu -od {__file__} -k {UID} {PEER}", "is a file"),
        (f"getscu -od {__file__}/in -k {UID} {PEER}", "cannot make the folder"),
        (f"movescu -k {UID} {PEER}", "say where to send: -aem AET, or --port"),
        ("storescp", "Missing argument 'PORT'"),
        ("storescp 99999", "99999 is not in the range"),
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
    assert shown[shown.index(sentence) :].partition("[default: ")[2].startswith(f"{default};")
