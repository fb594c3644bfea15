"""What a query or a retrieval is about: information model, level and Identifier (PS3.4 C.2, C.6)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from asyncdicom.data.plain import is_plain
from asyncdicom.uid import MODALITY_WORKLIST, PATIENT_ROOT, STUDY_ROOT, InformationModel

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = [
    "RETURN_KEYS",
    "UNIQUE_KEYS",
    "Keys",
    "Wanted",
    "lowest_level",
    "query",
    "retrieval",
    "worklist_query",
]

Keys: TypeAlias = "Mapping[str, Any] | Dataset"
"""A mapping of keywords, or a pydicom Dataset such as a match."""

# PS3.4 C.6.1.1 and C.6.2.1: the unique key of each level.
UNIQUE_KEYS = {
    "PATIENT": "PatientID",
    "STUDY": "StudyInstanceUID",
    "SERIES": "SeriesInstanceUID",
    "IMAGE": "SOPInstanceUID",
}

# What is asked for when nothing is.
RETURN_KEYS: Mapping[str | None, tuple[str, ...]] = {
    "PATIENT": ("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    "STUDY": (
        "PatientName",
        "PatientID",
        "StudyDate",
        "StudyDescription",
        "AccessionNumber",
        "StudyInstanceUID",
    ),
    "SERIES": ("Modality", "SeriesNumber", "SeriesDescription", "SeriesInstanceUID"),
    "IMAGE": ("SOPClassUID", "InstanceNumber", "SOPInstanceUID"),
    None: (
        "PatientName",
        "PatientID",
        "AccessionNumber",
        "RequestedProcedureDescription",
        "ScheduledProcedureStepSequence[0].Modality",
        "ScheduledProcedureStepSequence[0].ScheduledStationAETitle",
        "ScheduledProcedureStepSequence[0].ScheduledProcedureStepStartDate",
        "ScheduledProcedureStepSequence[0].ScheduledProcedureStepStartTime",
    ),
}

# PS3.4 K.6.1.2.2: these are keys within the item of the Scheduled Procedure Step Sequence.
_OF_STEPS = (
    "Modality",
    "ScheduledStationAETitle",
    "ScheduledProcedureStepStartDate",
    "ScheduledProcedureStepStartTime",
    "ScheduledPerformingPhysicianName",
    "ScheduledProcedureStepID",
    "ScheduledProcedureStepDescription",
    "ScheduledStationName",
    "ScheduledProcedureStepLocation",
)
_STEPS = "ScheduledProcedureStepSequence"


class Wanted(NamedTuple):
    """What a query or retrieval is about; a worklist has no levels."""

    model: InformationModel
    level: str | None
    identifier: Keys

    def sop_class(self, operation: str) -> str:
        """Give the SOP class for "find", "move" or "get"."""
        uid: str = getattr(self.model, operation)
        return uid


def lowest_level(model: InformationModel, keys: Keys) -> str:
    """The lowest level whose unique key is among the keys; without one the highest of the model."""
    named = [level for level in model.levels if UNIQUE_KEYS[level] in keys]
    return named[-1] if named else model.levels[0]


def _copied(keys: Keys | None) -> Dataset:
    from pydicom import Dataset

    from asyncdicom.dataset import from_mapping

    if keys is None:
        return Dataset()
    if isinstance(keys, Dataset):
        return keys[:]
    if not isinstance(keys, Mapping):
        raise TypeError(f"keys are a mapping of keywords or a Dataset, not {keys!r:.100}")
    return from_mapping(keys)


def query(
    keys: Keys | None,
    level: str | None = None,
    returned: Iterable[str] | None = None,
    model: InformationModel | None = None,
) -> Wanted:
    """Make a C-FIND of keys: see `Client.find`. Raises ValueError for a level that the model has not."""
    from asyncdicom.dataset import from_mapping

    identifier = _copied(keys)
    level = level or str(identifier.get("QueryRetrieveLevel") or "") or None
    if model is None:
        model = PATIENT_ROOT if level == "PATIENT" else STUDY_ROOT
    level = level or lowest_level(model, identifier)
    if level not in model.levels:
        raise ValueError(f"{model.name} has the levels {', '.join(model.levels)}, not {level}")
    asked = [*(RETURN_KEYS[level] if returned is None else returned), UNIQUE_KEYS[level]]
    for keyword in dict.fromkeys(asked):
        if keyword not in identifier:
            identifier.update(from_mapping({keyword: None}))
    identifier.QueryRetrieveLevel = level
    return Wanted(model, level, identifier)


def worklist_query(keys: Keys | None) -> Wanted:
    """Make a query for worklist items: see `Client.worklist`."""
    from asyncdicom.dataset import from_mapping

    identifier = _copied(keys)
    step = identifier[_STEPS].value[0][:] if identifier.get(_STEPS) else _copied(None)
    for keyword in _OF_STEPS:
        if keyword in identifier:
            step[keyword] = identifier[keyword]
            del identifier[keyword]
    for name in RETURN_KEYS[None]:
        keyword = name.rpartition(".")[2]
        target = step if name.startswith(_STEPS) else identifier
        if keyword not in target:
            target.update(from_mapping({keyword: None}))
    identifier.update(from_mapping({_STEPS: [step]}))
    return Wanted(MODALITY_WORKLIST, None, identifier)


def retrieval(keys: Keys | str) -> Wanted | None:
    """Make a retrieval of what names a study, series or instance by its UID; None if it does not.

    A text is a Study Instance UID. Of a match, or of other keys, the UIDs count, down to the Query/Retrieve
    Level that they have (PS3.4 C.4.2.1.4).
    """
    given: Keys = {"StudyInstanceUID": keys} if isinstance(keys, str) else keys
    identifier = given if isinstance(given, Mapping) and is_plain(given) else _copied(given)
    told = str(identifier.get("QueryRetrieveLevel") or "")
    model = PATIENT_ROOT if told == "PATIENT" else STUDY_ROOT
    named = [level for level in model.levels if identifier.get(UNIQUE_KEYS[level])]
    level = told if told in named else (named[-1] if named and not told else None)
    if level is None:
        return None
    upper = model.levels[: model.levels.index(level) + 1]
    unique = {UNIQUE_KEYS[each]: identifier.get(UNIQUE_KEYS[each]) for each in upper}
    kept = {"QueryRetrieveLevel": level} | {keyword: value for keyword, value in unique.items() if value}
    if any(map(_is_pattern, unique.values())):
        return None
    return Wanted(model, level, kept)


def _is_pattern(value: Any) -> bool:
    return any(mark in str(value or "") for mark in "*?")
