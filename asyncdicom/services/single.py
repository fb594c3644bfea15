"""Operations with one response, on either side."""

from __future__ import annotations

from typing import Any

from asyncdicom.net.channel import Channel
from asyncdicom.net.operation import Operation
from asyncdicom.services.handlers import Response

__all__ = ["final_response", "outcome"]


async def final_response(channel: Channel, operation: Operation) -> Response:
    """Wait for the response. Cancelled: the response is dropped when it comes, the association goes on."""
    try:
        while True:
            reply = await operation.reply()
            response = Response.received(reply.command)
            if not response.status.is_pending:
                return response
    except BaseException:
        channel.invoker.abandon(operation)
        raise


def outcome(result: Any) -> Response:
    """Make a response of what a handler returned: a `Response`, or a status."""
    if isinstance(result, int):
        result = Response(result)
    if not isinstance(result, Response):
        raise TypeError(f"a handler returns a Status or a Response, not {result!r}")
    if result.status.is_pending or not 0 <= result.status <= 0xFFFF:
        raise ValueError(f"a response does not end with the status {result.status}")
    return result
