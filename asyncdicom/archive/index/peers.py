"""What was learned of the peers that an archive calls: rows that expire."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Engine, bindparam, delete, select

from asyncdicom.address import Address
from asyncdicom.archive.index.failing import TRANSLATED
from asyncdicom.archive.index.prepared import Prepared
from asyncdicom.archive.index.schema import peer
from asyncdicom.archive.index.sql import upserting
from asyncdicom.archive.index.writer import Writer

__all__ = ["MINDS_WINDOW", "Learned", "note_learned", "read_learned"]

MINDS_WINDOW = "minds a window"
"""It does not get along with an Asynchronous Operations Window (PS3.7 D.3.3.3)."""


class Learned(NamedTuple):
    """Something that was learned of a peer; it holds until then, in seconds since 1970."""

    what: str
    peer: Address
    until: float


_NOTE = Prepared(upserting(peer, **{column.name: bindparam(column.name) for column in peer.columns}))
_FORGET = Prepared(delete(peer).where(peer.c.until <= bindparam("now")))


def note_learned(writer: Writer, learned: Sequence[Learned], now: float) -> None:
    """Keep it, and forget what does not hold any more."""
    writer.execute(_FORGET, {"now": now})
    writer.execute_all(_NOTE, [{"what": what, **where._asdict(), "until": t} for what, where, t in learned])


def read_learned(engine: Engine, now: float) -> list[Learned]:
    """Give what holds now."""
    columns = (peer.c.what, peer.c.ae_title, peer.c.host, peer.c.port, peer.c.until)
    with TRANSLATED, engine.connect() as connection:
        rows = connection.execute(select(*columns).where(peer.c.until > now)).all()
    return [Learned(what, Address(*where), until) for what, *where, until in rows]
