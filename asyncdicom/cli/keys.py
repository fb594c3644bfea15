"""``-k``: keys of an Identifier as they are typed, and the information model and level of a query."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from asyncdicom.data.charset import decode_text
from asyncdicom.data.plain import is_plain, plain_value
from asyncdicom.exceptions import DataSetError
from asyncdicom.scu.identifiers import UNIQUE_KEYS, Wanted, lowest_level
from asyncdicom.uid import MODALITY_WORKLIST, PATIENT_ROOT, PATIENT_STUDY_ONLY, STUDY_ROOT

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["Wanted", "identifier", "wanted"]

MODELS = {
    "patient": PATIENT_ROOT,
    "study": STUDY_ROOT,
    "patient-study": PATIENT_STUDY_ONLY,
    "worklist": MODALITY_WORKLIST,
}


def wanted(
    model_name: str | None, level: str | None, keys: Sequence[str], *, retrieve: bool = False
) -> Wanted:
    """Read the options. Raises ``click.UsageError`` for keys that mean nothing.

    Without ``-L`` the level is QueryRetrieveLevel if that is a key, otherwise that of the lowest
    unique key among the keys, otherwise the highest one of the model. `retrieve`: the unique key of
    the level is needed (PS3.4 C.4.2.1.4).
    """
    dataset: Dataset | dict[str, Any] | None = _plain(keys) if retrieve else None
    if dataset is None:
        dataset = identifier(keys)
    model = MODELS[model_name or "study"]
    if not model.levels:
        return Wanted(model, None, dataset)
    level = level or str(dataset.get("QueryRetrieveLevel") or "") or lowest_level(model, dataset)
    if level not in model.levels:
        raise click.UsageError(f"{model.name} has the levels {', '.join(model.levels)}, not {level}")
    if retrieve and not dataset.get(UNIQUE_KEYS[level]):
        by_patient = model is not PATIENT_ROOT and dataset.get("PatientID")
        hint = "; -P -L PATIENT retrieves by -k PatientID" if by_patient else ""
        raise click.UsageError(f"say what to retrieve: -k {UNIQUE_KEYS[level]}=VALUE{hint}")
    if isinstance(dataset, dict):
        dataset["QueryRetrieveLevel"] = level
    else:
        dataset.QueryRetrieveLevel = level
    return Wanted(model, level, dataset)


def identifier(keys: Sequence[str]) -> Dataset:
    """Make an Identifier of ``PatientName=DOE*``, ``0010,0010=DOE*``, ``StudyDate`` (a return key).

    A tag that no dictionary knows is sent as UN; a Private Creator before it tells its VR.
    Within sequences: ``ScheduledProcedureStepSequence[0].Modality=CT``.
    """
    from pydicom import Dataset

    dataset = Dataset()
    for key in keys:
        path, _, value = typed(key).partition("=")
        try:
            _set(dataset, path.strip().split("."), value)
        except (DataSetError, ValueError, TypeError, OverflowError) as error:
            raise click.UsageError(f"-k {key}: {error}") from None
    return dataset


def _plain(keys: Sequence[str]) -> dict[str, Any] | None:
    """The keys as a mapping, where nothing but levels and UIDs is among them."""
    pairs = [key.partition("=") for key in keys]
    mapping = {name: plain_value(value) for name, _, value in pairs}
    return mapping if is_plain(mapping) else None


def typed(text: str) -> str:
    """Give the text of an argument: where the locale has no UTF-8 its bytes come as surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return decode_text(os.fsencode(text), "ISO_IR 192", "UT")
    return text


def _set(dataset: Dataset, path: list[str], value: str) -> None:
    from pydicom import Dataset

    from asyncdicom.dataset import attribute, put

    name, _, index = path[0].partition("[")
    tag, vr = attribute(name, dataset)
    if vr != "SQ":
        if len(path) > 1 or index:
            raise ValueError(f"{name} is not a sequence")
        put(dataset, tag, vr, _convert(vr, value))
        return
    items = list(dataset[tag].value) if tag in dataset else []
    if len(path) > 1:
        number = int(index.rstrip("]") or 0)
        if number > len(items):
            raise ValueError(f"item {number} of {name} comes after item {len(items)}")
        if number == len(items):
            items.append(Dataset())
        _set(items[number], path[1:], value)
    elif value:
        raise ValueError(f"{name} is a sequence: write {name}[0].KEYWORD=VALUE")
    put(dataset, tag, "SQ", items)


_NUMBERS: dict[str, Callable[[str], Any]] = dict.fromkeys(("US", "SS", "UL", "SL", "UV", "SV"), int)
_NUMBERS |= dict.fromkeys(("FL", "FD"), float)


def _convert(vr: str, value: str) -> Any:
    if vr not in _NUMBERS or not value:
        return value
    return [_NUMBERS[vr](number) for number in value.split("\\")]
