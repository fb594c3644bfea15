"""What is asked of an archive that holds the corpus: two patients, 6 studies, 13 series, 31 images."""

from __future__ import annotations

from asyncdicom import PATIENT_ROOT, STUDY_ROOT, InformationModel

ROOT = "1.3.6.1.4.1.5962.1.1.0.0.0.1196533885.18148.0"
STUDY, SERIES = f"{ROOT}.1", f"{ROOT}.118"
ANOTHER_STUDY = f"{ROOT}.427"

# The seven images in the folder MR700 of the corpus.
ONE_SERIES = {"QueryRetrieveLevel": "SERIES", "StudyInstanceUID": STUDY, "SeriesInstanceUID": SERIES}

UNIQUE_KEYS = {
    "PATIENT": "PatientID",
    "STUDY": "StudyInstanceUID",
    "SERIES": "SeriesInstanceUID",
    "IMAGE": "SOPInstanceUID",
}

# Name -> information model, level, further keys, and how many patients, studies, series or images match.
QUESTIONS: dict[str, tuple[InformationModel, str, dict[str, str], int]] = {
    "all patients": (PATIENT_ROOT, "PATIENT", {"PatientName": "*"}, 2),
    "a wildcard": (PATIENT_ROOT, "PATIENT", {"PatientName": "Doe^P*"}, 1),
    "nobody": (PATIENT_ROOT, "PATIENT", {"PatientName": "Nobody"}, 0),
    "studies of a patient": (PATIENT_ROOT, "STUDY", {"PatientID": "98890234", "StudyDescription": ""}, 4),
    "all studies": (STUDY_ROOT, "STUDY", {"PatientName": ""}, 6),
    "a range of dates": (STUDY_ROOT, "STUDY", {"StudyDate": "19960101-20021231"}, 2),
    "a list of UIDs": (STUDY_ROOT, "STUDY", {"StudyInstanceUID": f"{STUDY}\\{ANOTHER_STUDY}\\1.2.3"}, 2),
    "series": (STUDY_ROOT, "SERIES", {"StudyInstanceUID": STUDY, "Modality": ""}, 3),
    "images": (
        STUDY_ROOT,
        "IMAGE",
        {"StudyInstanceUID": STUDY, "SeriesInstanceUID": SERIES, "InstanceNumber": ""},
        7,
    ),
}


def identifier_of(level: str, keys: dict[str, str]) -> dict[str, str]:
    """The identifier: the level, its unique key to be returned, and further keys."""
    return {"QueryRetrieveLevel": level, UNIQUE_KEYS[level]: "", **keys}
