"""Blocks of memory that bytes are received into and files are read into.

Strategy: all associations of an event loop receive into the free tail of one current block, so an
idle association owns no buffer. What was received is handed up as read-only views of the block.

Warning: a block may be used again only when nobody can see it any more. A block that is recycled
because "the handler has returned" shows one patient's bytes inside another's. The only witness is
the interpreter: a bytearray that still has an exported view refuses to change its size.
"""

from __future__ import annotations

import asyncio
from collections import deque
from weakref import WeakKeyDictionary

__all__ = ["BLOCK_SIZE", "BlockPool", "Blocks", "block_pool"]

BLOCK_SIZE = 1 << 20
_KEPT = 16
_PROBES = 4
# A tail shorter than this is not worth a system call: the block is retired.
_SHORTEST_TAIL = 16384


class Blocks:
    """Blocks of one size, used again when no view of them is left."""

    __slots__ = ("_returned", "size")

    def __init__(self, size: int = BLOCK_SIZE) -> None:
        self.size = size
        self._returned: deque[bytearray] = deque()

    def acquire(self) -> bytearray:
        """Give a block that nobody else can see; its content is undefined."""
        for _ in range(min(_PROBES, len(self._returned))):
            block = self._returned.popleft()
            if _is_unseen(block):
                return block
            self._returned.append(block)
        return bytearray(self.size)

    def give_back(self, block: bytearray) -> None:
        """Take a block back. Views of it may live on: it is probed before it is used again."""
        self._returned.append(block)
        if len(self._returned) > _KEPT:
            self._returned.popleft()  # freed by the interpreter when its last view dies


def _is_unseen(block: bytearray) -> bool:
    try:
        block.append(block.pop())
    except BufferError:
        return False
    return True


class BlockPool:
    """The receive memory of one event loop."""

    __slots__ = ("_block", "_blocks", "_position", "_view")

    def __init__(self, size: int = BLOCK_SIZE) -> None:
        self._blocks = Blocks(size)
        self._renew()

    def _renew(self) -> None:
        self._block = self._blocks.acquire()
        self._view = memoryview(self._block)
        self._position = 0

    def tail(self) -> memoryview:
        """Lend the free tail of the current block: never empty, the same until `take` is called."""
        if self._blocks.size - self._position < _SHORTEST_TAIL:
            retired = self._block
            self._renew()
            self._blocks.give_back(retired)
        return self._view[self._position :]

    def take(self, count: int) -> memoryview:
        """Give the `count` bytes just received into the tail, as a read-only view."""
        start = self._position
        self._position = start + count
        return self._view[start : self._position].toreadonly()


_pools: WeakKeyDictionary[asyncio.AbstractEventLoop, BlockPool] = WeakKeyDictionary()


def block_pool(loop: asyncio.AbstractEventLoop) -> BlockPool:
    """Give the pool of this event loop."""
    pool = _pools.get(loop)
    if pool is None:
        pool = _pools[loop] = BlockPool()
    return pool
