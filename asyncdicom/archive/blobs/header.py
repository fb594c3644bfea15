"""The head of a file of ours, which tells the digest of its data set."""

from __future__ import annotations

from asyncdicom.data.part10 import encode_file_meta

__all__ = ["DIGEST_SIZE", "digest_in", "header_of", "without_digest"]

DIGEST_SIZE = 16  # bytes of SHA-256

# Private Information Creator UID (0002,0100) of what follows it in our files: the digest of the data set,
# zeros until the data set is complete. So a file tells without the index whether it is what was received.
_DIGEST_UID = "2.25.141275758726166647317003264390563398667"
_DIGEST_ELEMENTS = encode_file_meta("", "", "", private_information=(_DIGEST_UID, bytes(DIGEST_SIZE)))
_DIGEST_PREFIX = _DIGEST_ELEMENTS[_DIGEST_ELEMENTS.index(b"\2\0\0\1UI") : -DIGEST_SIZE]

# As long, and it says nothing: of what is sent before its digest is known, to where nothing unfinished lies.
_NO_DIGEST_UID = "2.25.200913584226508013972450683419657128834"


def header_of(
    sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, calling_ae_title: str | None
) -> bytes:
    """Give the head of a file of ours; it ends with the place of the digest, which is zeros for now.

    Raises `DataSetError` as `encode_file_meta` does.
    """
    return encode_file_meta(
        sop_class_uid,
        sop_instance_uid,
        transfer_syntax_uid,
        source_ae_title=calling_ae_title,
        private_information=(_DIGEST_UID, bytes(DIGEST_SIZE)),
    )


def without_digest(header: bytes) -> bytes:
    """Give a head of `header_of` as one, of the same length, that tells no digest."""
    return header.replace(_DIGEST_UID.encode(), _NO_DIGEST_UID.encode())


def digest_in(head: bytes, offset: int) -> str | None:
    """Give the digest that the head of a file tells; zeros if never finished, None if it tells none."""
    place = offset - DIGEST_SIZE
    if place < len(_DIGEST_PREFIX) or head[place - len(_DIGEST_PREFIX) : place] != _DIGEST_PREFIX:
        return None
    return head[place:offset].hex()
