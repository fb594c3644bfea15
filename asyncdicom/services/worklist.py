"""Modality Worklist: C-FIND for scheduled procedure steps (PS3.4 Annex K)."""

from __future__ import annotations

from asyncdicom.dimse.messages import CommandField
from asyncdicom.services.query import provide
from asyncdicom.services.request import FindHandler, Request
from asyncdicom.services.responses import Answer
from asyncdicom.services.service import Service
from asyncdicom.uid import MODALITY_WORKLIST_FIND

__all__ = ["Worklist"]


class Worklist(Service):
    """Answers C-FIND of the Modality Worklist Information Model with what `handler` yields.

    `handler` is an asynchronous generator function of the request: it reads `request.identifier()`, which has
    no Query/Retrieve Level (PS3.4 K.2.2), and yields one worklist item after another: Datasets, mappings of
    keywords, or encoded bytes. An access policy calls the service "worklist". As SCU: `Association.c_find`
    with `information_model=MODALITY_WORKLIST`.
    """

    name = "worklist"
    sop_classes = (MODALITY_WORKLIST_FIND,)
    commands = frozenset({CommandField.C_FIND_RQ})

    def __init__(self, handler: FindHandler) -> None:
        self.handler = handler

    async def perform(self, request: Request) -> Answer:
        """Send what the handler yields as Pending responses; its end is Success."""
        return await provide(request, self.handler)
