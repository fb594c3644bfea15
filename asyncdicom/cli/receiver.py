"""Where storescp, getscu and movescu put the instances that they receive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from asyncdicom.cli.output import json_text, response_fields
from asyncdicom.scu.receiver import TAKEN, Receiver

if TYPE_CHECKING:
    from asyncdicom.cli.printing import Printer
    from asyncdicom.services.responses import Response

__all__ = ["TAKEN", "Receiver", "receive_into"]


def receive_into(directory: str | None, *, printer: Printer | None = None, **options: Any) -> Receiver:
    """Make a `Receiver`; `printer` gets a line of JSON for each instance. Raises ``click.UsageError``."""
    on_answer = None

    if printer is not None:

        def on_answer(fields: dict[str, object], response: Response) -> None:
            printer.line(json_text(fields | response_fields(response)))

    try:
        return Receiver(directory, on_answer=on_answer, **options)
    except OSError as error:
        raise click.UsageError(f"cannot make the folder {directory}: {error.strerror}") from None
