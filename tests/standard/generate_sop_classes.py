"""Generates asyncdicom/_sop_classes.py, on standard output.

Names and UIDs come from pydicom's copy of PS3.6 Table A-1, plus what PS3.6 has got since; which service
class of PS3.4 a SOP class belongs to is the table below.
"""

from __future__ import annotations

import pydicom
from pydicom._uid_dict import UID_dictionary

ROOT = "1.2.840.10008."

# In PS3.6 but not yet in every pydicom we support.
NEWER = {
    "1.2.840.10008.5.1.4.1.1.9.100.1": "Waveform Presentation State Storage",
    "1.2.840.10008.5.1.4.1.1.9.100.2": "Waveform Acquisition Presentation State Storage",
    "1.2.840.10008.5.1.4.1.1.66.7": "Label Map Segmentation Storage",
    "1.2.840.10008.5.1.4.1.1.66.8": "Height Map Segmentation Storage",
}

# (UIDs below ROOT, service). The longest match of whole components wins.
SERVICES = [
    ("1.1", "verification"),
    ("1.3.10", "media-storage"),
    ("1.9", "study-content-notification"),
    ("1.20", "commitment"),
    ("1.40", "event-logging"),
    ("1.42", "event-logging"),
    ("3.1.2.1", "patient-management"),
    ("3.1.2.2", "visit-management"),
    ("3.1.2.3", "study-management"),
    ("3.1.2.3.3", "mpps"),
    ("3.1.2.3.4", "mpps"),
    ("3.1.2.3.5", "mpps"),
    ("3.1.2.5", "results-management"),
    ("3.1.2.5.5", "study-management"),
    ("3.1.2.6", "results-management"),
    ("5.1.1", "print"),
    ("5.1.1.27", "storage"),
    ("5.1.1.29", "storage"),
    ("5.1.1.30", "storage"),
    ("5.1.1.33", "media-creation"),
    ("5.1.1.40", "display-system"),
    ("5.1.4.1.1", "storage"),
    ("5.1.4.1.1.200.1", "non-patient-object-storage"),
    ("5.1.4.1.1.200.3", "non-patient-object-storage"),
    ("5.1.4.1.1.200.4", "protocol-approval"),
    ("5.1.4.1.1.200.5", "protocol-approval"),
    ("5.1.4.1.1.200.6", "protocol-approval"),
    ("5.1.4.1.1.200.7", "non-patient-object-storage"),
    ("5.1.4.1.1.201", "inventory"),
    ("5.1.4.1.1.201.1", "non-patient-object-storage"),
    ("5.1.4.1.1.201.5", "storage-management"),
    ("5.1.4.1.1.201.6", "query-retrieve"),
    ("5.1.4.1.2", "query-retrieve"),
    ("5.1.4.20", "defined-procedure"),
    ("5.1.4.31", "worklist"),
    ("5.1.4.32", "general-purpose-worklist"),
    ("5.1.4.33", "instance-availability"),
    ("5.1.4.34.1", "storage"),
    ("5.1.4.34.2", "rt-machine-verification"),
    ("5.1.4.34.3", "rt-machine-verification"),
    ("5.1.4.34.4", "ups"),
    ("5.1.4.34.6", "ups"),
    ("5.1.4.34.7", "storage"),
    ("5.1.4.34.8", "rt-machine-verification"),
    ("5.1.4.34.9", "rt-machine-verification"),
    ("5.1.4.34.10", "storage"),
    ("5.1.4.37", "relevant-patient"),
    ("5.1.4.38", "hanging-protocol"),
    ("5.1.4.38.1", "non-patient-object-storage"),
    ("5.1.4.39", "color-palette"),
    ("5.1.4.39.1", "non-patient-object-storage"),
    ("5.1.4.41", "substance-administration"),
    ("5.1.4.42", "substance-administration"),
    ("5.1.4.43", "implant-template"),
    ("5.1.4.43.1", "non-patient-object-storage"),
    ("5.1.4.44", "implant-template"),
    ("5.1.4.44.1", "non-patient-object-storage"),
    ("5.1.4.45", "implant-template"),
    ("5.1.4.45.1", "non-patient-object-storage"),
    ("10", "real-time-communication"),
]


def service_of(uid: str) -> str:
    below = uid.removeprefix(ROOT) + "."
    matches = [(len(prefix), service) for prefix, service in SERVICES if below.startswith(prefix + ".")]
    return max(matches)[1]


def sop_classes() -> dict[str, tuple[str, str]]:
    named = {
        uid: entry[0].removesuffix(" UID").replace(" SOP Class", "")
        for uid, entry in UID_dictionary.items()
        if entry[1] in ("SOP Class", "Meta SOP Class") and entry[0]
    }
    found = {uid: (name, service_of(uid)) for uid, name in (named | NEWER).items()}
    return dict(sorted(found.items(), key=lambda entry: [int(part) for part in entry[0].split(".")]))


def generate() -> str:
    lines = [
        f"# Generated (pydicom {pydicom.__version__}) by tests/standard/generate_sop_classes.py: edit that.",
        '"""The SOP classes of PS3.6 Table A-1: UID -> (name, service class of PS3.4)."""',
        "",
        "from __future__ import annotations",
        "",
        "SOP_CLASSES: dict[str, tuple[str, str]] = {",
    ]
    lines += [f'    "{uid}": ("{name}", "{service}"),' for uid, (name, service) in sop_classes().items()]
    return "\n".join([*lines, "}", ""])


if __name__ == "__main__":
    print(generate(), end="")
