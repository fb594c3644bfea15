"""Instances put into an index in PostgreSQL, by several processes at once."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence

from asyncdicom.archive.index.base import Changes, Existing, FileEntry, Insertion, Overtaken
from asyncdicom.archive.index.postgres import PostgresIndex
from asyncdicom.archive.index.record import Record
from asyncdicom.archive.index.writer import Writer
from asyncdicom.data.elements import Element

GROUP = 32


def insertion(
    uid: str, *, series: str = "1.2.1", study: str = "1.2", instead_of: Existing | None = None, **texts: str
) -> Insertion:
    values = {0x00080016: "1.2.840", 0x00080018: uid, 0x0020000D: study, 0x0020000E: series, 0x00100020: "P"}
    values |= {int(tag[1:], 16): text for tag, text in texts.items()}
    elements = {tag: Element(tag, "UI", value.encode()) for tag, value in values.items()}
    elements[0x00080005] = Element(0x00080005, "CS", b"ISO_IR 192")
    entry = FileEntry("1.2.840.10008.1.2.1", f"ab/cd/{uid}.dcm", 400, 10, f"{hash(uid):032x}", 0, "SCU")
    return Insertion(Record(elements, little_endian=True), entry, instead_of)


def commit(writer: Writer, *changes: Insertion) -> list[str]:
    """Commit a group as the archive does: what is here already is no change."""

    def decide(group: Sequence[Insertion]) -> tuple[list[str], Changes]:
        new = [each for each in group if writer.find(each.record.sop_instance_uid) is None]
        return ["new" if each in new else "here" for each in group], Changes(new)

    return writer.commit(changes, decide)


def main(url: str, number: int, count: int, studies: int) -> None:
    """Put instances of shared studies in, in an order of our own; an eighth of them others put in, too."""
    index = PostgresIndex(url, durability="power", readers=1)
    writer = index.writer()
    chance = random.Random(number)
    new = overtaken = 0
    waiting = [(number if n % 8 else 0, n) for n in range(count)]
    chance.shuffle(waiting)
    while waiting:
        group, waiting = waiting[:GROUP], waiting[GROUP:]
        made = [
            insertion(
                f"1.9.{owner}.{n}",
                study=f"1.5.{n % studies}",
                series=f"1.5.{n % studies}.1",
                x00100020=f"P{n % studies}",
            )
            for owner, n in group
        ]
        try:
            new += commit(writer, *made).count("new")
        except Overtaken:
            overtaken += 1
            waiting += group
    writer.close()
    index.close()
    print(new, overtaken)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
