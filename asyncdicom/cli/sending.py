"""Sending many instances: over several associations, past what fails, with an account at the end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from typing import Any

from asyncdicom.association import Association
from asyncdicom.cli.output import Advance, json_line, json_text, progress, response_fields, said
from asyncdicom.cli.peer import Peer
from asyncdicom.cli.printing import show, tell
from asyncdicom.exceptions import AssociationError, DicomNetworkError
from asyncdicom.net.disk import Batch, Buffer
from asyncdicom.net.sources import Source, is_repeatable
from asyncdicom.options import OPERATIONS, changed
from asyncdicom.pool import AssociationPool
from asyncdicom.services.contexts import storage_contexts
from asyncdicom.services.responses import Response
from asyncdicom.telemetry.log import Log
from asyncdicom.uid import name_of

__all__ = ["Sending", "Watched"]

log = Log("asyncdicom.cli")


class Sending:
    """Sends to one peer and counts."""

    def __init__(self, peer: Peer, associations: int, operations: int | None, *, as_json: bool) -> None:
        self.sent = 0
        self.warned = 0
        self.failed = 0
        self.skipped = 0
        self._bytes = 0
        self._not_sent = 0
        self._lost_in_a_row = 0
        self._given_up: AssociationError | None = None
        self._told = operations is None  # that the peer grants less is news for who asked for more
        self._at_once = 1
        self._peer = peer
        self._associations = associations
        self._operations = OPERATIONS if operations is None else operations
        self._as_json = as_json
        self._start = time.perf_counter()

    async def unreadable(self, path: str, why: str) -> None:
        """Count and name a file that cannot be sent at all."""
        await self._failed(path, why)

    async def send(self, groups: Sequence[Sequence[Source]]) -> None:
        """Send each group over associations that propose its contexts.

        An instance whose association was lost has failed; the next is sent over a new one. Raises
        `AssociationError` if there is none, or if it is lost again at once: the rest is not sent.
        """
        self._start = time.perf_counter()
        sources = [source for group in groups for source in group]
        self._not_sent = len(sources)
        total = sum(getattr(source, "length", 0) for source in sources)
        with progress(f"sending {len(sources)} files", total, unit_is_bytes=True) as advance:
            for group in groups:
                await self._send_group(group, advance)
                if self._given_up is not None:
                    raise self._given_up

    async def _send_group(self, group: Sequence[Source], advance: Advance | None) -> None:
        limits = changed(self._peer.limits, operations_performed=1)  # nobody asks us for anything
        options = self._peer.options() | {"contexts": storage_contexts(group), "limits": limits}
        size = min(self._associations, len(group))
        log.info("%s: sending %d files over %d associations", self._peer.address, len(group), size)
        waiting = iter(group)
        pool = AssociationPool(self._peer.address, size=size, operations=self._operations, **options)
        async with pool:
            async with pool.acquire() as association:  # if there is none to be had, no file is to blame
                self._at_once = size * await self._granted(association)
            await asyncio.gather(*(self._work(pool, waiting, advance) for _ in range(self._at_once)))

    async def _granted(self, association: Association) -> int:
        """How many operations an association may have outstanding; says so if it is less than asked for."""
        granted = association.operations_invoked or self._operations  # 0: unlimited
        if granted >= self._operations:
            return self._operations
        if not self._told:
            self._told = True
            what = f"{self._peer.address} allows {granted} outstanding operation{'s' * (granted > 1)}"
            await tell(f"{what} an association, not {self._operations}")
        return granted

    async def _work(self, pool: AssociationPool, waiting: Iterator[Source], advance: Advance | None) -> None:
        for source in waiting:
            watched = source if advance is None else Watched(source, advance)
            try:
                response = await pool.c_store(watched)
            except AssociationError as error:
                await self._failed(_path(source), str(error))
                self._lost_in_a_row += 1
                if self._lost_in_a_row > self._at_once:  # all of them, and one that was new
                    self._given_up = error
            except (DicomNetworkError, OSError) as error:
                await self._failed(_path(source), str(error))
            else:
                self._lost_in_a_row = 0
                await self._answered(source, response)
            self._not_sent -= 1
            if self._given_up is not None:
                return

    async def _answered(self, source: Source, response: Response) -> None:
        status = response.status
        if not (status.is_success or status.is_warning):
            await self._failed(_path(source), f"status {said(response)}", response)
            return
        self._bytes += getattr(source, "length", 0)
        if status.is_success:
            self.sent += 1
        else:
            self.warned += 1
            await tell(f"{_path(source)}: status {said(response)}")
        log.info("%s: %s, status %s", _path(source), name_of(source.sop_class_uid), status)
        if self._as_json:
            fields = {"file": _path(source), "sop_instance_uid": source.sop_instance_uid}
            await show(json_text(fields | response_fields(response)))

    async def _failed(self, path: str, why: str, response: Response | None = None) -> None:
        self.failed += 1
        why = " ".join(why.removeprefix(f"{path}: ").split())
        if self._as_json:
            fields: dict[str, Any] = {} if response is None else response_fields(response)
            await show(json_text({"file": path, "error": why} | fields))
        else:
            await tell(f"{path}: {why}")

    def report(self) -> None:
        """Print the summary; what was not sent has failed."""
        self.failed += self._not_sent
        seconds = time.perf_counter() - self._start
        if self._as_json:
            json_line(
                sent=self.sent,
                warned=self.warned,
                failed=self.failed,
                not_sent=self._not_sent,
                skipped=self.skipped,
                bytes=self._bytes,
                seconds=round(seconds, 6),
            )
            return
        not_sent = f" ({self._not_sent} not sent)" if self._not_sent else ""
        not_sent += f", skipped {self.skipped}" if self.skipped else ""
        speed = f"{seconds:.2f} s ({self._bytes / seconds / 1e6:.1f} MB/s)"
        print(f"sent {self.sent}, warned {self.warned}, failed {self.failed}{not_sent} in {speed}")


def _path(source: Source) -> str:
    return str(getattr(source, "path", source.sop_instance_uid))


class Watched:
    """A source that tells how much of it was read, once, however often it is."""

    def __init__(self, source: Source, advance: Advance) -> None:
        self.sop_class_uid = source.sop_class_uid
        self.sop_instance_uid = source.sop_instance_uid
        self.transfer_syntax_uid = source.transfer_syntax_uid
        self.length = getattr(source, "length", 0)
        self._source = source
        self._advance = advance
        self._told = 0

    @property
    def is_repeatable(self) -> bool:
        """See `Source`."""
        return is_repeatable(self._source)

    async def open(self) -> AsyncGenerator[Batch, None]:
        """See `Source`."""
        read = 0
        async with aclosing(self._source.open()) as batches:
            async for batch in batches:
                yield batch
                read += sum(map(len, batch))
                if read > self._told:
                    self._advance(read - self._told)
                    self._told = read

    def at_hand(self) -> Buffer | None:
        """See `Source`."""
        whole = self._source.at_hand()
        if whole is not None:
            self._advance(len(whole))
        return whole
