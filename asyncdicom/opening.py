"""`Opening`: what `associate` and `serve` give, to be awaited or entered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator
from types import TracebackType
from typing import Generic, TypeVar

from asyncdicom.exceptions import StatusError

__all__ = ["Opening", "is_answer"]

_T = TypeVar("_T")


class Opening(Generic[_T]):
    """``await`` opens something; ``async with`` opens it and closes it when the block is left.

    `close` gets what was opened and the exception that left the block, or None.
    """

    __slots__ = ("_close", "_open", "_opened")

    def __init__(
        self,
        open: Callable[[], Coroutine[object, None, _T]],
        close: Callable[[_T, BaseException | None], Awaitable[None]],
    ) -> None:
        self._open = open
        self._close = close
        self._opened: list[_T] = []

    def __await__(self) -> Generator[object, None, _T]:
        return self._open().__await__()

    async def __aenter__(self) -> _T:
        opened = await self
        self._opened.append(opened)
        return opened

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._close(self._opened.pop(), error)


def is_answer(error: BaseException) -> bool:
    """Whether an exception, or all of a group, only tells of a Failure: then no association is broken."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(is_answer, error.exceptions))
    return isinstance(error, StatusError)
