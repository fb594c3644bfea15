"""A provider of instances in memory, for the tests of getscu and movescu."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable
from typing import Any, NamedTuple

from asyncdicom import BytesSource, Request, Retrieval, StatusError
from asyncdicom.data.elements import encode
from asyncdicom.services.responses import Response
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN, JPEG_BASELINE_8BIT

CT = "1.2.840.10008.5.1.4.1.1.2"
JPEG = JPEG_BASELINE_8BIT
PLAIN = EXPLICIT_VR_LITTLE_ENDIAN
KEYS = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}


class Instance(NamedTuple):
    """One instance and where it is."""

    StudyInstanceUID: str
    SeriesInstanceUID: str
    SOPInstanceUID: str
    SOPClassUID: str = CT
    AvailableTransferSyntaxUID: str = PLAIN

    def source(self) -> BytesSource:
        uids = [
            (0x00080016, "UI", self.SOPClassUID.encode()),
            (0x00080018, "UI", self.SOPInstanceUID.encode()),
            (0x0020000D, "UI", self.StudyInstanceUID.encode()),
            (0x0020000E, "UI", self.SeriesInstanceUID.encode()),
        ]
        data = encode([*uids, (0x7FE00010, "OB", self.SOPInstanceUID.encode() * 50)], PLAIN)
        return BytesSource(self.SOPClassUID, self.SOPInstanceUID, self.AvailableTransferSyntaxUID, data)


class Node:
    """Handlers of C-FIND (strictly hierarchical), C-GET and C-MOVE.

    `hidden`: attributes that it does not answer; `finds`: whether it answers queries at all.
    """

    def __init__(
        self, instances: Iterable[Instance], *, hidden: Iterable[str] = (), finds: bool = True
    ) -> None:
        self.instances = list(instances)
        self.hidden = set(hidden)
        self.finds = finds
        self.finds_asked = 0
        self.gets_asked: list[dict[str, Any]] = []
        self.contexts: list[int] = []

    def _matching(self, identifier: Any) -> list[Instance]:
        def fits(instance: Instance, key: str) -> bool:
            wanted = identifier.get(key)
            values = [wanted] if isinstance(wanted, str) else list(wanted or ())
            return not any(values) or getattr(instance, key) in values

        return [instance for instance in self.instances if all(fits(instance, key) for key in KEYS.values())]

    async def find(self, request: Request) -> AsyncIterator[dict[str, str]]:
        identifier = await request.identifier()
        self.finds_asked += 1
        level = identifier.QueryRetrieveLevel
        above = list(KEYS)[: list(KEYS).index(level)]
        if not self.finds or not all(isinstance(identifier.get(KEYS[name]), str) for name in above):
            raise StatusError(Response(0xA900))
        asked = [e.keyword for e in identifier if e.keyword not in {"QueryRetrieveLevel", *self.hidden}]
        answers = {tuple(getattr(instance, key) for key in asked) for instance in self._matching(identifier)}
        for answer in sorted(answers):
            yield dict(zip(asked, answer, strict=True))

    async def retrieve(self, request: Request) -> Retrieval:
        identifier = await request.identifier()
        self.contexts.append(len(request.association.contexts))
        self.gets_asked.append({e.keyword: e.value for e in identifier})
        return Retrieval([instance.source() for instance in self._matching(identifier)])


def data_sets(folder: os.PathLike[str]) -> dict[str, bytes]:
    """The data sets of the files in a folder, by their names."""
    from pathlib import Path

    from asyncdicom import file_source

    return {path.name: path.read_bytes()[file_source(path).offset :] for path in Path(folder).iterdir()}


def expected(instances: Iterable[Instance]) -> dict[str, bytes]:
    """What `data_sets` has to give when these instances were received."""
    return {f"{instance.SOPInstanceUID}.dcm": bytes(instance.source().data) for instance in instances}
