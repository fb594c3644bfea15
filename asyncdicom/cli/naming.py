"""The one place where something received becomes a part of a file name."""

from __future__ import annotations

from asyncdicom.uid import is_valid_uid

__all__ = ["file_name"]


def file_name(sop_instance_uid: str) -> str:
    """Give the name of the file for an instance: digits and dots, then ``.dcm``.

    Raises ``ValueError`` for what is not a UID: nothing else from the network gets into a path.
    """
    if not is_valid_uid(sop_instance_uid):
        raise ValueError(f"{sop_instance_uid!r} is not a UID")
    return sop_instance_uid + ".dcm"
