"""Values of Explicit VR Big Endian in the other byte order (PS3.5 7.3), in pieces of any size."""

from __future__ import annotations

from array import array

from asyncdicom.data.inflation import Buffer

__all__ = ["UNITS", "swapped"]

_UNITS = {2: "AT OW SS US", 4: "FL OF OL SL UL", 8: "FD OD OV SV UV"}
UNITS: dict[str, int] = {vr: unit for unit, vrs in _UNITS.items() for vr in vrs.split()}
"""How many bytes change places, for those VRs that have a byte order."""

_CODES = {array(code).itemsize: code for code in "HIQ"}


def swapped(data: Buffer, unit: int) -> memoryview:
    """The bytes in the other order, `unit` by `unit`; their number has to be a multiple of it."""
    values = array(_CODES[unit])
    values.frombytes(data)
    values.byteswap()
    return memoryview(values).cast("B")
