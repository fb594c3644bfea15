"""PS3.7 9.3, 10.3 and E.1, transcribed from the standard by hand and independently of the package.

Usage is that of the service definitions (PS3.7 9.1, 10.1): "M" mandatory, "U" user option, "C" conditional.
Command Group Length, Command Field and Command Data Set Type are in every message and not repeated here.
"""

from __future__ import annotations

# PS3.7 Table E.1-1: keyword -> (tag, VR).
ELEMENTS = {
    "CommandGroupLength": (0x00000000, "UL"),
    "AffectedSOPClassUID": (0x00000002, "UI"),
    "RequestedSOPClassUID": (0x00000003, "UI"),
    "CommandField": (0x00000100, "US"),
    "MessageID": (0x00000110, "US"),
    "MessageIDBeingRespondedTo": (0x00000120, "US"),
    "MoveDestination": (0x00000600, "AE"),
    "Priority": (0x00000700, "US"),
    "CommandDataSetType": (0x00000800, "US"),
    "Status": (0x00000900, "US"),
    "OffendingElement": (0x00000901, "AT"),
    "ErrorComment": (0x00000902, "LO"),
    "ErrorID": (0x00000903, "US"),
    "AffectedSOPInstanceUID": (0x00001000, "UI"),
    "RequestedSOPInstanceUID": (0x00001001, "UI"),
    "EventTypeID": (0x00001002, "US"),
    "AttributeIdentifierList": (0x00001005, "AT"),
    "ActionTypeID": (0x00001008, "US"),
    "NumberOfRemainingSuboperations": (0x00001020, "US"),
    "NumberOfCompletedSuboperations": (0x00001021, "US"),
    "NumberOfFailedSuboperations": (0x00001022, "US"),
    "NumberOfWarningSuboperations": (0x00001023, "US"),
    "MoveOriginatorApplicationEntityTitle": (0x00001030, "AE"),
    "MoveOriginatorMessageID": (0x00001031, "US"),
}

# Annex C: what a response with an error status may have besides.
ANNEX_C_DIMSE_C = {"OffendingElement": "U", "ErrorComment": "U", "ErrorID": "U"}
ANNEX_C_DIMSE_N = {**ANNEX_C_DIMSE_C, "AttributeIdentifierList": "U"}

# name -> (Command Field, {keyword: usage}, usage of the Data Set; None where there is none)
MESSAGES: dict[str, tuple[int, dict[str, str], str | None]] = {
    # Table 9.3-1
    "C-STORE-RQ": (
        0x0001,
        {
            "AffectedSOPClassUID": "M",
            "MessageID": "M",
            "Priority": "M",
            "AffectedSOPInstanceUID": "M",
            "MoveOriginatorApplicationEntityTitle": "U",
            "MoveOriginatorMessageID": "U",
        },
        "M",
    ),
    # Table 9.3-2
    "C-STORE-RSP": (
        0x8001,
        {
            "AffectedSOPClassUID": "U",
            "MessageIDBeingRespondedTo": "M",
            "Status": "M",
            "AffectedSOPInstanceUID": "U",
            **ANNEX_C_DIMSE_C,
        },
        None,
    ),
    # Table 9.3-3
    "C-FIND-RQ": (0x0020, {"AffectedSOPClassUID": "M", "MessageID": "M", "Priority": "M"}, "M"),
    # Table 9.3-4
    "C-FIND-RSP": (
        0x8020,
        {"AffectedSOPClassUID": "U", "MessageIDBeingRespondedTo": "M", "Status": "M", **ANNEX_C_DIMSE_C},
        "C",
    ),
    # Tables 9.3-5, 9.3-8 and 9.3-11: C-CANCEL-FIND-RQ, C-CANCEL-GET-RQ, C-CANCEL-MOVE-RQ
    "C-CANCEL-RQ": (0x0FFF, {"MessageIDBeingRespondedTo": "M"}, None),
    # Table 9.3-6
    "C-GET-RQ": (0x0010, {"AffectedSOPClassUID": "M", "MessageID": "M", "Priority": "M"}, "M"),
    # Table 9.3-7
    "C-GET-RSP": (
        0x8010,
        {
            "AffectedSOPClassUID": "U",
            "MessageIDBeingRespondedTo": "M",
            "Status": "M",
            "NumberOfRemainingSuboperations": "C",
            "NumberOfCompletedSuboperations": "C",
            "NumberOfFailedSuboperations": "C",
            "NumberOfWarningSuboperations": "C",
            **ANNEX_C_DIMSE_C,
        },
        "U",
    ),
    # Table 9.3-9
    "C-MOVE-RQ": (
        0x0021,
        {"AffectedSOPClassUID": "M", "MessageID": "M", "Priority": "M", "MoveDestination": "M"},
        "M",
    ),
    # Table 9.3-10
    "C-MOVE-RSP": (
        0x8021,
        {
            "AffectedSOPClassUID": "U",
            "MessageIDBeingRespondedTo": "M",
            "Status": "M",
            "NumberOfRemainingSuboperations": "C",
            "NumberOfCompletedSuboperations": "C",
            "NumberOfFailedSuboperations": "C",
            "NumberOfWarningSuboperations": "C",
            **ANNEX_C_DIMSE_C,
        },
        "U",
    ),
    # Table 9.3-12
    "C-ECHO-RQ": (0x0030, {"AffectedSOPClassUID": "M", "MessageID": "M"}, None),
    # Table 9.3-13
    "C-ECHO-RSP": (
        0x8030,
        {"AffectedSOPClassUID": "U", "MessageIDBeingRespondedTo": "M", "Status": "M", **ANNEX_C_DIMSE_C},
        None,
    ),
    # Table 10.3-1
    "N-EVENT-REPORT-RQ": (
        0x0100,
        {"AffectedSOPClassUID": "M", "MessageID": "M", "AffectedSOPInstanceUID": "M", "EventTypeID": "M"},
        "U",
    ),
    # Table 10.3-2
    "N-EVENT-REPORT-RSP": (
        0x8100,
        {
            "AffectedSOPClassUID": "U",
            "MessageIDBeingRespondedTo": "M",
            "Status": "M",
            "AffectedSOPInstanceUID": "U",
            "EventTypeID": "C",
            **ANNEX_C_DIMSE_N,
        },
        "C",
    ),
    # Table 10.3-3
    "N-GET-RQ": (
        0x0110,
        {
            "RequestedSOPClassUID": "M",
            "MessageID": "M",
            "RequestedSOPInstanceUID": "M",
            "AttributeIdentifierList": "U",
        },
        None,
    ),
    # Table 10.3-4
    "N-GET-RSP": (
        0x8110,
        {
            "AffectedSOPClassUID": "U",
            "MessageIDBeingRespondedTo": "M",
            "Status": "M",
            "AffectedSOPInstanceUID": "U",
            **ANNEX_C_DIMSE_N,
        },
        "C",
    ),
    # Table 10.3-5
    "N-SET-RQ": (
        0x0120,
        {"RequestedSOPClassUID": "M", "MessageID": "M", "RequestedSOPInstanceUID": "M"},
        "M",
    ),
    # Table 10.3-6
    "N-SET-RSP": (
        0x8120,
        {
            "AffectedSOPClassUID": "U",
            "MessageIDBeingRespondedTo": "M",
            "Status": "M",
            "AffectedSOPInstanceUID": "U",
            **ANNEX_C_DIMSE_N,
        },
        "U",
    ),
    # Table 10.3-7
    "N-ACTION-RQ": (
        0x0130,
        {
            "RequestedSOPClassUID": "M",
            "MessageID": "M",
            "RequestedSOPInstanceUID": "M",
            "ActionTypeID": "M",
        },
        "U",
    ),
    # Table 10.3-8
    "N-ACTION-RSP": (
        0x8130,
        {
            "AffectedSOPClassUID": "U",
            "MessageIDBeingRespondedTo": "M",
            "Status": "M",
            "AffectedSOPInstanceUID": "U",
            "ActionTypeID": "C",
            **ANNEX_C_DIMSE_N,
        },
        "C",
    ),
    # Table 10.3-9
    "N-CREATE-RQ": (
        0x0140,
        {"AffectedSOPClassUID": "M", "MessageID": "M", "AffectedSOPInstanceUID": "U"},
        "U",
    ),
    # Table 10.3-10
    "N-CREATE-RSP": (
        0x8140,
        {
            "AffectedSOPClassUID": "U",
            "MessageIDBeingRespondedTo": "M",
            "Status": "M",
            "AffectedSOPInstanceUID": "C",
            **ANNEX_C_DIMSE_N,
        },
        "U",
    ),
    # Table 10.3-11
    "N-DELETE-RQ": (
        0x0150,
        {"RequestedSOPClassUID": "M", "MessageID": "M", "RequestedSOPInstanceUID": "M"},
        None,
    ),
    # Table 10.3-12
    "N-DELETE-RSP": (
        0x8150,
        {
            "AffectedSOPClassUID": "U",
            "MessageIDBeingRespondedTo": "M",
            "Status": "M",
            "AffectedSOPInstanceUID": "U",
            **ANNEX_C_DIMSE_N,
        },
        None,
    ),
}
