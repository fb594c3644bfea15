"""The bridge to pydicom: a ``Dataset`` to bytes and back, for a transfer syntax.

pydicom takes long to import, so only these functions do it, when they are called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from io import BytesIO
from typing import TYPE_CHECKING, Any

from asyncdicom.data.charset import TEXT_VRS, codec_of
from asyncdicom.data.elements import (
    MAXIMUM_ELEMENTS,
    UNDEFINED_LENGTH,
    VRS,
    Element,
    Skipped,
    Walked,
    show,
    syntax_to_read,
    walking,
)
from asyncdicom.data.elements import encode as encode_elements
from asyncdicom.data.inflation import MAXIMUM_INFLATED, deflate, inflating
from asyncdicom.data.steps import Steps, finish
from asyncdicom.exceptions import DataSetError
from asyncdicom.uid import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    TransferSyntax,
    transfer_syntax,
)

if TYPE_CHECKING:
    from pydicom import Dataset

UTF_8 = "ISO_IR 192"


def encode(dataset: Dataset | Mapping[str, Any], transfer_syntax_uid: str) -> bytes:
    """Encode a data set, or a mapping of keywords, for ``transfer_syntax_uid``.

    Group 0002 is left out: it belongs to files. A data set that was made here (not read from bytes), has text
    outside ASCII and no Specific Character Set is given ISO_IR 192. Pixel data is taken as it is. Raises
    ``DataSetError`` for an unknown keyword or a value that cannot be encoded.
    """
    from pydicom import Dataset
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_dataset

    syntax = transfer_syntax(transfer_syntax_uid)
    file = DicomBytesIO()
    file.is_implicit_VR, file.is_little_endian = syntax.implicit, syntax.little_endian
    try:
        write_dataset(file, _prepare(dataset if isinstance(dataset, Dataset) else from_mapping(dataset)))
    except DataSetError:
        raise
    except Exception as error:  # pydicom lets through whatever a value's conversion raises
        raise DataSetError(f"the data set cannot be encoded: {error}") from error
    encoded: bytes = file.getvalue()
    return deflate(encoded) if syntax.deflated else encoded


def decode(
    data: bytes,
    transfer_syntax_uid: str,
    *,
    strict: bool = True,
    skipped: Skipped | None = None,
    maximum_inflated: int = MAXIMUM_INFLATED,
    maximum_elements: int = MAXIMUM_ELEMENTS,
) -> Dataset:
    """Decode a whole data set. Values are converted when they are looked at, as pydicom does it.

    The transfer syntax is noted in `file_meta`, so that `pixel_array` works, and `save_as` writes a file that
    can be read. Bytes of zero behind the last element are ignored. Raises `DataSetError` where the bytes are
    no data set in `transfer_syntax_uid`, inflate to more than `maximum_inflated` bytes (or 200 to one), or
    have more than `maximum_elements`, at any depth.

    With `strict=False` an element that cannot be read costs only itself: `skipped`, a `Skipped`, gets how
    many there were and why; a data set in another transfer syntax is read as what it looks like. What has
    nothing that can be read is an error all the same.
    """
    return finish(
        decoding(
            data,
            transfer_syntax_uid,
            skipped=None if strict else skipped or Skipped(),
            maximum_inflated=maximum_inflated,
            maximum_elements=maximum_elements,
        )
    )


def decoding(
    data: bytes,
    transfer_syntax_uid: str,
    *,
    sop_class_uid: str = "",
    sop_instance_uid: str = "",
    skipped: Skipped | None = None,
    maximum_inflated: int = MAXIMUM_INFLATED,
    maximum_elements: int = MAXIMUM_ELEMENTS,
) -> Steps[Dataset]:
    """As `decode`, in steps of a thousand elements of the top level; a sequence is read in one.

    `sop_class_uid` and `sop_instance_uid` make it an instance, with whole File Meta Information (PS3.10 7.1).
    With `skipped` it is lenient.
    """
    from pydicom import Dataset

    if transfer_syntax(transfer_syntax_uid).deflated:
        data = yield from inflating(data, maximum_inflated)
    how = yield from syntax_to_read(data, transfer_syntax_uid, strict=skipped is None)
    syntax = transfer_syntax(how)
    # Not by pydicom's reader, which guesses where it should refuse, and ends at a stray delimiter.
    elements: dict[Any, Any] = {}
    make = _maker(data, syntax)
    for walked in walking(data, how, maximum_elements=maximum_elements, skipped=skipped):
        if walked is None:
            yield
            continue
        try:
            element = make(walked)
            elements[element.tag] = element
        except Exception as error:  # of what is in a sequence
            if skipped is None:
                raise DataSetError(f"the data set cannot be decoded: {error}") from error
            skipped.add(f"{show(walked[0])}: {error}")
    if skipped is not None and skipped.count and not elements:
        raise DataSetError(f"the data set cannot be decoded: {skipped.why}")
    dataset = Dataset(elements)
    character_set = dataset.get("SpecificCharacterSet")
    dataset.set_original_encoding(syntax.implicit, syntax.little_endian, _encodings(character_set))
    _make_writable(dataset, transfer_syntax_uid, sop_class_uid, sop_instance_uid)
    return dataset


def _maker(data: bytes, syntax: TransferSyntax) -> Callable[[Walked], Any]:
    """What makes elements for a `Dataset`: raw ones, but for sequences of undefined length."""
    from pydicom.charset import default_encoding
    from pydicom.dataelem import DataElement, RawDataElement, empty_value_for_VR
    from pydicom.filereader import read_sequence
    from pydicom.tag import BaseTag
    from pydicom.values import convert_string

    implicit, little_endian = syntax.implicit, syntax.little_endian
    encoding: Any = default_encoding

    def make(walked: Walked) -> Any:
        nonlocal encoding
        tag, vr, start, stop = walked
        value = data[start:stop]
        length = UNDEFINED_LENGTH if data[start - 4 : start] == _UNDEFINED else stop - start
        if length == UNDEFINED_LENGTH and vr in ("SQ", "UN") and tag != _PIXEL_DATA:
            within = implicit or vr == "UN"  # PS3.5 6.2.2 Note 5
            items = read_sequence(BytesIO(value), within, little_endian or vr == "UN", len(value), encoding)
            return DataElement(BaseTag(tag), "SQ", items, start, is_undefined_length=True)
        if tag == _SPECIFIC_CHARACTER_SET:
            encoding = _encodings(convert_string(value, little_endian))
        told = None if implicit else vr
        raw: Any = value or empty_value_for_VR(told, raw=True)
        return RawDataElement(BaseTag(tag), told, length, raw, start, implicit, little_endian)

    return make


_UNDEFINED = b"\xff\xff\xff\xff"
_PIXEL_DATA = 0x7FE00010
_SPECIFIC_CHARACTER_SET = 0x00080005


def _make_writable(
    dataset: Dataset, transfer_syntax_uid: str, sop_class_uid: str, sop_instance_uid: str
) -> None:
    """Have `save_as` write a file that can be read: without a preamble it writes the bare elements."""
    from pydicom import config
    from pydicom.dataelem import DataElement
    from pydicom.dataset import FileMetaDataset

    meta: list[tuple[int, str, Any]] = [(0x00020010, "UI", transfer_syntax_uid)]
    if sop_class_uid and sop_instance_uid:
        meta += [
            (0x00020000, "UL", 0),  # counted when it is written
            (0x00020001, "OB", b"\0\1"),
            (0x00020002, "UI", sop_class_uid),
            (0x00020003, "UI", sop_instance_uid),
            (0x00020012, "UI", IMPLEMENTATION_CLASS_UID),
            (0x00020013, "SH", IMPLEMENTATION_VERSION_NAME),
        ]
    dataset.preamble = bytes(128)
    dataset.file_meta = FileMetaDataset()
    for tag, vr, value in meta:  # not validated: a UID is kept as it came
        dataset.file_meta.add(DataElement(tag, vr, value, validation_mode=config.IGNORE))


def _encodings(specific_character_set: Any) -> Any:
    """What pydicom decodes text by: for names that it does not know, the codec that we have for them."""
    from pydicom.charset import convert_encodings, default_encoding, python_encoding

    if not specific_character_set:
        return default_encoding
    single = isinstance(specific_character_set, str)
    terms = [specific_character_set] if single else list(map(str, specific_character_set))
    if all(term in python_encoding for term in terms):
        return convert_encodings(terms)
    return [codec_of("\\".join(terms))]


def from_mapping(mapping: Mapping[str, Any]) -> Dataset:
    """A ``Dataset`` from keywords and values; the value of a sequence is a list of such mappings.

    Values are not validated: identifiers hold wildcards and ranges. Raises ``DataSetError``.
    """
    from pydicom import Dataset, config
    from pydicom.datadict import dictionary_VR, tag_for_keyword
    from pydicom.dataelem import DataElement

    dataset = Dataset()
    for keyword, value in mapping.items():
        tag = tag_for_keyword(keyword)
        if tag is None:
            raise DataSetError(f"{keyword!r} is not a keyword of the data dictionary (PS3.6)")
        vr = dictionary_VR(tag)
        if vr == "SQ":
            value = [item if isinstance(item, Dataset) else from_mapping(item) for item in value or ()]
        try:
            dataset.add(DataElement(tag, vr, value, validation_mode=config.IGNORE))
        except Exception as error:
            raise DataSetError(f"{keyword} cannot be {value!r}: {error}") from error
    return dataset


def transfer_syntax_of(dataset: Dataset) -> str | None:
    """The transfer syntax that a data set came in; None when it was made here."""
    uid = getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", None)
    return str(uid) if uid else None


def _prepare(dataset: Dataset) -> Dataset:
    """``dataset`` as it is to be written, which is never changed itself."""
    if any(tag < 0x00030000 for tag in dataset.keys()):  # noqa: SIM118
        dataset = dataset[0x00030000:]
    made_here = dataset.original_encoding == (None, None)
    if made_here and "SpecificCharacterSet" not in dataset and not _is_ascii(dataset):
        dataset = dataset[:]
        dataset.SpecificCharacterSet = UTF_8
    return dataset


def _is_ascii(dataset: Dataset) -> bool:
    texts = (str(element.value) for element in dataset.iterall() if element.VR in TEXT_VRS)
    return all(text.isascii() for text in texts)


def as_tags(attributes: Iterable[int | str]) -> tuple[int, ...]:
    """Make tags of tags and keywords; ValueError for what is neither."""
    if isinstance(attributes, (int, str)):
        attributes = (attributes,)
    return tuple(_tag(attribute) for attribute in attributes)


def _tag(attribute: int | str) -> int:
    tag: int | None
    if isinstance(attribute, str):
        from pydicom.datadict import tag_for_keyword

        tag = tag_for_keyword(attribute)
        if tag is None:
            raise ValueError(f"{attribute!r} is not a keyword of the data dictionary (PS3.6)")
        return tag
    if not 0 <= attribute <= 0xFFFFFFFF:
        raise ValueError(f"{attribute!r} is no tag")
    return int(attribute)


def picked(elements: Mapping[int, Element], transfer_syntax_uid: str) -> Dataset:
    """A ``Dataset`` of a few raw elements, without anything of a file. Raises ``DataSetError``."""
    if transfer_syntax(transfer_syntax_uid).deflated:
        transfer_syntax_uid = EXPLICIT_VR_LITTLE_ENDIAN
    data = encode_elements(
        [(tag, _vr_of(element), element.value) for tag, element in sorted(elements.items())],
        transfer_syntax_uid,
    )
    dataset = decode(data, transfer_syntax_uid, strict=False)
    del dataset.file_meta
    return dataset


def _vr_of(element: Element) -> str:
    return element.vr if element.vr.encode("ascii", "replace") in VRS else "UN"
