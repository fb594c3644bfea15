"""P-DATA-TF PDUs written whole, as the standard lays them out (PS3.8 9.3.5): associations stream them."""

from __future__ import annotations

from typing import NamedTuple


class PDV(NamedTuple):
    """A presentation data value: one fragment of a command or a data set (PS3.8 9.3.5.1)."""

    context_id: int
    is_command: bool
    is_last: bool
    data: bytes

    def encode(self) -> bytes:
        control = self.is_command | self.is_last << 1  # PS3.8 E.2
        return (len(self.data) + 2).to_bytes(4, "big") + bytes((self.context_id, control)) + self.data


class PDataTF(NamedTuple):
    pdvs: tuple[PDV, ...]

    def encode(self) -> bytes:
        body = b"".join(pdv.encode() for pdv in self.pdvs)
        return b"\4\0" + len(body).to_bytes(4, "big") + body
