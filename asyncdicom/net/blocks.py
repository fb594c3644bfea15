"""Blocks of memory that bytes are received into and files are read into.

Strategy: all associations of an event loop receive into the free tail of one current block, so an
idle association owns no buffer. What was received is handed up as read-only views of the block. The
block is begun again as soon as nobody sees it: memory that is still in the processor's cache is filled
and emptied at twice the speed.

Warning: a block may be used again only when nobody can see it any more. A block that is recycled
because "the handler has returned" shows one patient's bytes inside another's. The only witness is
the interpreter: a bytearray that still has an exported view refuses to change its size.

A view of a hundred bytes keeps a whole block. When too many blocks are kept like that, what comes in is
copied out of the block, until they are free again: then a peer gets no more memory than what it sent.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple
from weakref import WeakKeyDictionary

from asyncdicom.net.flow import Undelivered

__all__ = [
    "BLOCK_SIZE",
    "FILE_BLOCK_SIZE",
    "MAXIMUM_HELD",
    "BlockPool",
    "Blocks",
    "block_pool",
    "file_blocks",
    "undelivered",
]

BLOCK_SIZE = 1 << 20
# What was read is still in the processor's cache when it is sent. Images have 2^n bytes, and a head: that is
# in the same piece.
FILE_BLOCK_SIZE = (1 << 18) + (1 << 14)
MAXIMUM_HELD = 256
"""So many blocks of an event loop may be kept by views before what comes in is copied out of them."""

_KEPT = 16
# A tail shorter than this is not worth a system call: the block is retired.
_SHORTEST_TAIL = 16384
_WORTH_A_LOOK = 1 << 17  # bytes in a block before it is asked whether it can be begun again


class Blocks:
    """Blocks of one size, used again when no view of them is left."""

    __slots__ = ("_returned", "size")

    def __init__(self, size: int = BLOCK_SIZE) -> None:
        self.size = size
        self._returned: list[bytearray] = []

    @property
    def held(self) -> int:
        """How many blocks that were given back are still seen by somebody."""
        return sum(not _is_unseen(block) for block in self._returned)

    def acquire(self) -> bytearray:
        """Give a block that nobody else can see, the last one used if possible; its content is undefined."""
        for index in reversed(range(len(self._returned))):
            if _is_unseen(self._returned[index]):
                return self._returned.pop(index)
        return bytearray(self.size)

    def give_back(self, block: bytearray) -> None:
        """Take a block back. Views of it may live on: it is probed before it is used again."""
        self._returned.append(block)
        if len(self._returned) > _KEPT:
            oldest = next((i for i, old in enumerate(self._returned) if _is_unseen(old)), None)
            if oldest is not None:
                del self._returned[oldest]


def _is_unseen(block: bytearray) -> bool:
    try:
        block.append(block.pop())
    except BufferError:
        return False
    return True


class BlockPool:
    """The receive memory of one event loop."""

    __slots__ = ("_block", "_blocks", "_copied", "_copying", "_position", "_view", "_worth_a_look")

    def __init__(self, size: int = BLOCK_SIZE) -> None:
        self._blocks = Blocks(size)
        self._block = self._blocks.acquire()
        self._view = memoryview(self._block)
        self._position = 0
        self._worth_a_look = min(_WORTH_A_LOOK, size - _SHORTEST_TAIL)
        self._copying = False
        self._copied = 0

    def tail(self) -> memoryview:
        """Lend the free tail of the current block: never empty, the same until `take` is called.

        What was lent before and is still held counts as seen, so the block is not begun again under it.
        """
        if self._position >= self._worth_a_look:
            self._begin_again()
        return self._view[self._position :]

    def _begin_again(self) -> None:
        self._view.release()
        if _is_unseen(self._block):
            self._position = 0
        elif self._blocks.size - self._position < _SHORTEST_TAIL:
            self._blocks.give_back(self._block)
            self._block = self._blocks.acquire()
            self._position = 0
            self._look_who_holds()
        self._view = memoryview(self._block)

    def _look_who_holds(self) -> None:
        self._copying = self._blocks.held >= MAXIMUM_HELD
        self._copied = 0

    def take(self, count: int) -> memoryview:
        """Give the `count` bytes just received into the tail, as a read-only view."""
        start = self._position
        view = self._view[start : start + count].toreadonly()
        if not self._copying:
            self._position = start + count
            return view
        self._copied += count
        if self._copied >= self._blocks.size:
            self._look_who_holds()
        return memoryview(bytes(view))


class _Memory(NamedTuple):
    """What one event loop has."""

    received: BlockPool
    read: Blocks
    undelivered: Undelivered


_memories: WeakKeyDictionary[asyncio.AbstractEventLoop, _Memory] = WeakKeyDictionary()


def _memory(loop: asyncio.AbstractEventLoop) -> _Memory:
    memory = _memories.get(loop)
    if memory is None:
        memory = _memories[loop] = _Memory(BlockPool(), Blocks(FILE_BLOCK_SIZE), Undelivered())
    return memory


def block_pool(loop: asyncio.AbstractEventLoop) -> BlockPool:
    """Give the memory that the associations of this event loop receive into."""
    return _memory(loop).received


def file_blocks(loop: asyncio.AbstractEventLoop) -> Blocks:
    """Give the blocks that this event loop's files are read into."""
    return _memory(loop).read


def undelivered(loop: asyncio.AbstractEventLoop) -> Undelivered:
    """Give the account of what waits for this event loop's handlers."""
    return _memory(loop).undelivered
