"""Where storescp, getscu and movescu put the instances that they receive."""

from __future__ import annotations

from pathlib import Path

import click

from asyncdicom.cli.naming import file_name
from asyncdicom.cli.output import json_line
from asyncdicom.services.request import Request
from asyncdicom.services.responses import Response
from asyncdicom.status import Status
from asyncdicom.telemetry.log import Log

__all__ = ["Receiver"]

log = Log("asyncdicom.cli")


class Receiver:
    """A handler of C-STORE requests: saves each instance in `directory`, or ignores it (None).

    A file is named after its SOP Instance UID and appears when it is complete; the same instance
    received again replaces it.
    """

    def __init__(self, directory: str | None, *, as_json: bool = False) -> None:
        self.received = 0
        self.bytes = 0
        self._directory = None if directory is None else _made(directory)
        self._as_json = as_json

    async def __call__(self, request: Request) -> Response:
        """Receive one instance."""
        uid = request.affected_sop_instance_uid
        path = None
        try:
            name = file_name(uid)
        except ValueError as error:
            return Response(Status.INVALID_SOP_INSTANCE, error_comment=str(error))
        try:
            if self._directory is None:
                size = 0
                async for batch in request.data.batches():
                    size += sum(map(len, batch))
            else:
                path = self._directory / name
                size = await request.data.save(path, source_ae_title=request.calling_ae_title)
        except OSError as error:
            log.error("%s: %s", path, error.strerror)
            return Response(Status.OUT_OF_RESOURCES, error_comment=error.strerror)
        self.received += 1
        self.bytes += size
        if self._as_json:
            json_line(
                sop_class_uid=request.affected_sop_class_uid,
                sop_instance_uid=uid,
                transfer_syntax_uid=request.transfer_syntax_uid,
                calling_ae_title=request.calling_ae_title,
                bytes=size,
                file=None if path is None else str(path),
            )
        return Response(Status.SUCCESS)


def _made(directory: str) -> Path:
    path = Path(directory)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.UsageError(f"cannot make the folder {directory}: {error.strerror}") from None
    return path
