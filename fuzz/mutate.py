"""Mutations that know the structure: PDUs, items, PDVs and elements are moved, doubled, cut and lied about.

An input is parsed as far as it makes sense, into nodes with a head, a length field and a body of nodes or
bytes. After a change the lengths are right again, unless the change was to make one wrong. All of it follows
from the given `Random`: the same seed gives the same input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from struct import unpack_from

_U16 = 0xFFFF
_U32 = 0xFFFFFFFF


class Node:
    """`head`, a length of `width` bytes, `body`; with a width of 0 it is plain bytes."""

    __slots__ = ("body", "head", "lie", "order", "width")

    def __init__(self, head: bytes, width: int, order: str, body: list[Node] | bytes) -> None:
        self.head = head
        self.width = width
        self.order = order
        self.body = body
        self.lie: int | None = None

    def encode(self) -> bytes:
        """The bytes, with the length that is right or the one to lie with."""
        body = join(self.body) if isinstance(self.body, list) else self.body
        if not self.width:
            return self.head + body
        length = (len(body) if self.lie is None else self.lie) & ((1 << 8 * self.width) - 1)
        return self.head + length.to_bytes(self.width, self.order) + body  # type: ignore[arg-type]

    def copy(self) -> Node:
        """With all below it."""
        body = [node.copy() for node in self.body] if isinstance(self.body, list) else self.body
        node = Node(self.head, self.width, self.order, body)
        node.lie = self.lie
        return node


def join(nodes: list[Node]) -> bytes:
    """The bytes of nodes in their order."""
    return b"".join([node.encode() for node in nodes])


def _raw(data: bytes) -> Node:
    return Node(b"", 0, "big", data)


Parse = Callable[[bytes], list[Node]]


def raw(data: bytes) -> list[Node]:
    """No structure."""
    return [_raw(data)] if data else []


def _items(data: bytes) -> list[Node]:
    """PS3.8 9.3.2: type, reserved, 2 bytes of length."""
    nodes, position = [], 0
    while len(data) - position >= 4:
        length = unpack_from(">H", data, position + 2)[0]
        stop = position + 4 + length
        if stop > len(data):
            break
        body = data[position + 4 : stop]
        children: list[Node] | bytes = body
        if data[position] in (0x20, 0x21) and length >= 4:
            children = [_raw(body[:4]), *_items(body[4:])]
        elif data[position] == 0x50:
            children = _items(body)
        elif data[position] in (0x54, 0x56, 0x57, 0x59):
            children = _counted(body)
        elif data[position] == 0x58 and length >= 2:
            children = [_raw(body[:2]), *_counted(body[2:])]
        nodes.append(Node(data[position : position + 2], 2, "big", children))
        position = stop
    return nodes + raw(data[position:])


def _counted(data: bytes) -> list[Node]:
    """2 bytes of length before each field."""
    nodes, position = [], 0
    while len(data) - position >= 2:
        stop = position + 2 + unpack_from(">H", data, position)[0]
        if stop > len(data):
            break
        nodes.append(Node(b"", 2, "big", data[position + 2 : stop]))
        position = stop
    return nodes + raw(data[position:])


def associate(data: bytes) -> list[Node]:
    """The body of an A-ASSOCIATE-RQ or -AC: 68 bytes, then items."""
    return [*raw(data[:68]), *_items(data[68:])]


def _pdvs(data: bytes) -> list[Node]:
    nodes, position = [], 0
    while len(data) - position >= 6:
        length = unpack_from(">I", data, position)[0]
        stop = position + 4 + length
        if length < 2 or stop > len(data):
            break
        control, value = data[position + 4 : position + 6], data[position + 6 : stop]
        inner = implicit(value) if control[1] & 1 else explicit(value)
        nodes.append(Node(b"", 4, "big", [_raw(control), *inner]))
        position = stop
    return nodes + raw(data[position:])


def pdus(data: bytes) -> list[Node]:
    """PS3.8 9.3.1: type, reserved, 4 bytes of length; with what is in them."""
    nodes, position = [], 0
    while len(data) - position >= 6:
        length = unpack_from(">I", data, position + 2)[0]
        stop = position + 6 + length
        if stop > len(data):
            break
        body = data[position + 6 : stop]
        inner: list[Node] | bytes = body
        if data[position] in (1, 2):
            inner = associate(body)
        elif data[position] == 4:
            inner = _pdvs(body)
        nodes.append(Node(data[position : position + 2], 4, "big", inner))
        position = stop
    return nodes + raw(data[position:])


def implicit(data: bytes) -> list[Node]:
    """PS3.5 7.1.3: group, element, 4 bytes of length, little endian."""
    nodes, position = [], 0
    while len(data) - position >= 8:
        length = unpack_from("<I", data, position + 4)[0]
        stop = position + 8 + length
        if stop > len(data):
            length, stop = 0, position + 8  # a sequence of undefined length, most likely: go on inside
            nodes.append(_raw(data[position:stop]))
        else:
            body = data[position + 8 : stop]
            inner = implicit(body) if body[:4] == b"\xfe\xff\x00\xe0" else body
            nodes.append(Node(data[position : position + 4], 4, "little", inner))
        position = stop
    return nodes + raw(data[position:])


_LONG = frozenset(["OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"])


def explicit(data: bytes, order: str = "little") -> list[Node]:
    """PS3.5 7.1.2: group, element, VR, 2 bytes of length or 2 reserved and 4 of length."""
    nodes, position = [], 0
    sign = "<" if order == "little" else ">"
    while len(data) - position >= 8:
        vr = data[position + 4 : position + 6].decode("latin-1")
        if vr in _LONG and len(data) - position >= 12:
            size, width = 8, 4
        elif vr.isascii() and vr.isupper():
            size, width = 6, 2
        else:
            size, width = 4, 4  # an item
        length = unpack_from(f"{sign}{'I' if width == 4 else 'H'}", data, position + size)[0]
        start = position + size + width
        if start + length > len(data):
            nodes.append(_raw(data[position:start]))
            position = start
            continue
        body = data[start : start + length]
        item = b"\xfe\xff\x00\xe0" if order == "little" else b"\xff\xfe\xe0\x00"
        inner = explicit(body, order) if body[:4] == item or size == 4 else body
        nodes.append(Node(data[position : position + size], width, order, inner))
        position = start + length
    return nodes + raw(data[position:])


def _steps(data: bytes) -> list[Node]:
    """Records of 4 bytes."""
    return [_raw(data[i : i + 4]) for i in range(0, len(data), 4)]


def _part10(data: bytes) -> list[Node]:
    start = 132 if data[128:132] == b"DICM" else 0
    return [*raw(data[:start]), *explicit(data[start:])]


# Layout -> how to parse the body, given the head; the syntaxes are those of the two targets.
LAYOUTS: dict[str, Callable[[bytes, bytes], list[Node]]] = {
    "raw": lambda head, data: raw(data),
    "pdus": lambda head, data: pdus(data),
    "associate": lambda head, data: associate(data),
    "implicit": lambda head, data: implicit(data),
    "part10": lambda head, data: _part10(data),
    "steps": lambda head, data: _steps(data),
    "data_set": lambda head, data: _data_set(head[0] % 7, data),
    "identifier": lambda head, data: _data_set(head[1] & 3, data),
}


def _data_set(syntax: int, data: bytes) -> list[Node]:
    if syntax == 0:
        return implicit(data)
    return explicit(data, "big" if syntax == 2 else "little")


_TOKENS: tuple[bytes, ...] = (
    b"",
    b"\0",
    b"1.2.840.10008.1.2",
    b"1.2.840.10008.1.2.1",
    b"1.2.840.10008.1.2.1.99",
    b"1.2.840.10008.1.2.2",
    b"1.2.840.10008.1.1",
    b"1.2.840.10008.3.1.1.1",
    b"1.2.840.10008.5.1.4.1.1.2",
    b"1.2.840.10008.5.1.4.1.2.2.1",
    b"1.2.3\\1.2.4",
    b"PATIENT",
    b"STUDY ",
    b"SERIES",
    b"IMAGE ",
    b"*",
    b"?*?",
    b"[a-z]*",
    b"20040101-20041231",
    b"-1030",
    b"2004.08.26",
    b"10:30:15",
    b"^=^=",
    b"Doe^John",
    b"\\\\",
    b"ISO_IR 192",
    b"\\ISO 2022 IR 87",
    b"ISO 2022 IR 13\\ISO 2022 IR 149",
    b"\x1b$B",
    b"\x1b$)C",
    b"\x1b(B",
    b"\x1b-L",
    b"\xfe\xff\x00\xe0\xff\xff\xff\xff",
    b"\xfe\xff\x0d\xe0\0\0\0\0",
    b"\xfe\xff\xdd\xe0\0\0\0\0",
    b"\xe0\x7f\x10\x00OW\0\0\xff\xff\xff\xff",
    b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 192",
    b"\x08\x00\x52\x00CS\x06\x00STUDY ",
    b"\x10\x00\x10\x00",
    b"\x20\x00\x0d\x00",
    b"SQ\0\0\xff\xff\xff\xff",
    b"UN\0\0\xff\xff\xff\xff",
    b"\x04\0\0\0\0\x06\0\0\0\x02\x01\x03",
    b"\x04\0\0\0\0\x06\0\0\0\x02\x01\x00",
    b"\x05\0\0\0\0\x04\0\0\0\0",
    b"\x06\0\0\0\0\x04\0\0\0\0",
    b"\x07\0\0\0\0\x04\0\0\0\0",
    b"\0\0\0\x08\x02\0\0\0\x01\x01",
    b"\0\0\0\x08\x02\0\0\0\0\0",
    b"\x40\0\0\x111.2.840.10008.1.2",
    b"\x54\0\0\x07\0\x031.2\x01\x01",
    b"\x58\0\0\x08\x02\x01\0\x01a\0\x01b",
    b"a" * 70,
    b"9" * 30,
)
_INTERESTING = (
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    64,
    127,
    128,
    255,
    256,
    1024,
    32767,
    32768,
    65535,
    65536,
    1 << 31,
    _U32 - 1,
    _U32,
)


def _change_bytes(random: Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        at = random.randrange(len(changed) + 1)
        match random.randrange(7):
            case 0 if at < len(changed):
                changed[at] ^= 1 << random.randrange(8)
            case 1 if at < len(changed):
                changed[at] = random.choice(
                    (0, 1, 2, 3, 4, 5, 6, 7, 0x20, 0x2A, 0x5C, 0x7F, 0x80, 0xFE, 0xFF)
                )
            case 2:
                del changed[at : at + random.choice((1, 1, 2, 4, 8, 1000))]
            case 3:
                changed[at:at] = random.choice(_TOKENS)
            case 4:
                width, number = random.choice((1, 2, 4)), random.choice(_INTERESTING)
                order = random.choice(("big", "little"))
                changed[at : at + width] = (number & ((1 << 8 * width) - 1)).to_bytes(width, order)  # type: ignore[arg-type]
            case 5:
                length = random.choice((1, 2, 4, 8, 12, 64))
                changed[at:at] = changed[max(at - length, 0) : at] * random.choice((1, 1, 2, 50))
            case _:
                changed[at:at] = random.randbytes(random.choice((1, 2, 4, 16)))
    return bytes(changed)


def _lists(nodes: list[Node]) -> list[list[Node]]:
    """Every list of siblings."""
    found = [nodes]
    for node in nodes:
        if isinstance(node.body, list):
            found += _lists(node.body)
    return found


def _change_tree(random: Random, nodes: list[Node], others: list[Node]) -> None:
    siblings = random.choice([each for each in _lists(nodes) if each] or [nodes])
    if not siblings:
        siblings.append(_raw(random.choice(_TOKENS)))
        return
    at = random.randrange(len(siblings))
    node = siblings[at]
    match random.randrange(9):
        case 0:
            del siblings[at]
        case 1:
            siblings[at:at] = [node.copy() for _ in range(random.choice((1, 1, 2, 20)))]
        case 2:
            siblings[at], siblings[-1] = siblings[-1], siblings[at]
        case 3:
            random.shuffle(siblings)
        case 4 if node.width:
            size = len(node.encode()) - len(node.head) - node.width
            node.lie = random.choice((size - 1, size + 1, size + 2, size * 2, *_INTERESTING))
        case 5 if node.head:
            node.head = _change_bytes(random, node.head)[: len(node.head)].ljust(len(node.head), b"\0")
        case 6:
            node.body = random.choice(_TOKENS) * random.choice((1, 1, 1, 3))
        case 7:
            donors = random.choice([each for each in _lists(others) if each] or [[node]])
            siblings.insert(at, random.choice(donors).copy())
        case _:
            if isinstance(node.body, bytes):
                node.body = _change_bytes(random, node.body)
            else:
                _change_tree(random, node.body, others)


def mutate(data: bytes, other: bytes, layout: str, head: int, random: Random, maximum: int) -> bytes:
    """An input made from `data`, perhaps with parts of `other`, of at most `maximum` bytes."""
    start, body = bytearray(data[:head].ljust(head, b"\0")), data[head:]
    while start and random.random() < 0.2:
        start[random.randrange(head)] = random.randrange(256)
    if random.random() < 0.15:
        body = _change_bytes(random, body)
    else:
        parse = LAYOUTS[layout]
        nodes = parse(bytes(start), body)
        others = parse(other[:head].ljust(head, b"\0"), other[head:])
        for _ in range(random.choice((1, 1, 2, 3, 6))):
            _change_tree(random, nodes, others)
        body = join(nodes)
    return (bytes(start) + body)[:maximum]


def pick(random: Random, pool: Sequence[bytes]) -> bytes:
    """One of the pool; the newest more often."""
    if random.random() < 0.3:
        return pool[-1 - random.randrange(min(len(pool), 20))]
    return min(random.choice(pool), random.choice(pool), key=len)  # short ones are quick
