"""The bridge to pydicom: a ``Dataset`` to bytes and back, for a transfer syntax.

pydicom takes long to import, so only these functions do it, when they are called.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

from asyncdicom.data.charset import TEXT_VRS, codec_of, guess
from asyncdicom.data.elements import (
    MAXIMUM_ELEMENTS,
    UNDEFINED_LENGTH,
    Element,
    Skipped,
    Walked,
    show,
    syntax_to_read,
    walking,
)
from asyncdicom.data.elements import encode as encode_elements
from asyncdicom.data.inflation import MAXIMUM_INFLATED, deflate, inflating
from asyncdicom.data.plain import encode_plain
from asyncdicom.data.steps import Steps, finish
from asyncdicom.data.vr import VRS
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
    outside ASCII and no Specific Character Set that holds it is given ISO_IR 192; text of one that was read
    is never replaced: it is an error. Pixel data is taken as it is. Raises ``DataSetError`` for an unknown
    keyword or a value that cannot be encoded. A mapping of levels and UIDs needs no pydicom.
    """
    if isinstance(dataset, Mapping):
        plain = encode_plain(dataset, transfer_syntax_uid)
        if plain is not None:
            return plain
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
    if terms != [UTF_8] and all(term in python_encoding for term in terms):
        return convert_encodings(terms)
    codec = codec_of("\\".join(terms))
    return [_UTF_8_OR_LATIN_1 if codec == "utf-8" else codec]


_UTF_8_OR_LATIN_1 = "asyncdicom-utf-8-or-latin-1"


def _find_codec(name: str) -> codecs.CodecInfo | None:
    if name.replace("_", "-") != _UTF_8_OR_LATIN_1:
        return None
    utf_8 = codecs.lookup("utf-8")
    return codecs.CodecInfo(utf_8.encode, _decode_leniently, name=_UTF_8_OR_LATIN_1)


def _decode_leniently(value: Any, errors: str = "strict", /) -> tuple[str, int]:
    return guess(bytes(value)), len(value)


codecs.register(_find_codec)


def from_mapping(mapping: Mapping[str, Any]) -> Dataset:
    """A ``Dataset`` from keywords, or "gggg,eeee", and values; a sequence has a list of such mappings.

    Values are not validated: identifiers hold wildcards and ranges. Raises ``DataSetError``.
    """
    from pydicom import Dataset

    dataset = Dataset()
    for keyword, value in mapping.items():
        tag, vr = attribute(keyword, dataset)
        if vr == "SQ":
            value = [item if isinstance(item, Dataset) else from_mapping(item) for item in value or ()]
        try:
            put(dataset, tag, vr, value)
        except Exception as error:
            raise DataSetError(f"{keyword} cannot be {value!r}: {error}") from error
    return dataset


_TAG = re.compile(r"\(?([0-9A-Fa-f]{4}),?([0-9A-Fa-f]{4})\)?")


def attribute(name: str, dataset: Dataset) -> tuple[int, str]:
    """The tag and VR of a keyword, or of a tag as "gggg,eeee", for ``dataset``.

    What no dictionary knows has the VR UN; that of a private element is known by the Private Creator that
    ``dataset`` has for it. Raises ``DataSetError`` for what is neither keyword nor tag.
    """
    from pydicom.datadict import dictionary_VR, private_dictionary_VR, tag_for_keyword
    from pydicom.tag import BaseTag

    number = _TAG.fullmatch(name)
    tag = int(number[1] + number[2], 16) if number else tag_for_keyword(name)
    if tag is None:
        raise DataSetError(
            f"{name!r} is not a keyword of the data dictionary (PS3.6): write one, or gggg,eeee"
        )
    if tag < 0x00020000 or tag >= 0xFFFE0000:
        raise DataSetError(f"{name} is no element of a data set")
    private = BaseTag(tag)
    if private.is_private_creator:
        return tag, "LO"
    try:
        if not private.is_private:
            return tag, dictionary_VR(tag).partition(" ")[0]
        creator = dataset.get((tag >> 16, tag >> 8 & 0xFF))
        return tag, "UN" if creator is None else private_dictionary_VR(tag, str(creator.value))
    except KeyError:
        return tag, "UN"


def put(dataset: Dataset, tag: int, vr: str, value: Any) -> None:
    """Put an element into ``dataset``, not validated; text where the VR is UN as its bytes."""
    from pydicom import config
    from pydicom.dataelem import DataElement

    if vr == "UN" and isinstance(value, str):
        value = value.encode()
        value += b" " * (len(value) % 2)
    dataset.add(DataElement(tag, vr, value, validation_mode=config.IGNORE))


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
        dataset = _in_utf_8(dataset)
    # What was read may have anything under the default repertoire, and goes back as it came.
    default = "ascii" if made_here else _DEFAULT
    lost = _lost(dataset, [default], default)
    if lost and made_here:
        dataset = _in_utf_8(dataset)
        lost = _lost(dataset, [default], default)
    if lost:
        raise DataSetError(f"{lost} has characters that its Specific Character Set has not: use {UTF_8}")
    return dataset


def _in_utf_8(dataset: Dataset) -> Dataset:
    dataset = dataset[:]
    dataset.SpecificCharacterSet = UTF_8
    return dataset


_DEFAULT = "iso8859"  # what pydicom takes for the default repertoire, and for what it does not know
_ASCII_VRS = frozenset({"AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI", "UR"})


def _lost(dataset: Dataset, encodings: Sequence[str], default: str) -> str | None:
    """The first element whose text its character set has not; what is raw is copied.

    `default`: the codec of the default repertoire. Raises `DataSetError` for a VR that is ASCII whatever the
    character set is.
    """
    from pydicom.dataelem import RawDataElement

    if "SpecificCharacterSet" in dataset:
        encodings = _codecs(dataset.get("SpecificCharacterSet"), default)
    for tag in dataset.keys():  # noqa: SIM118
        element = dataset.get_item(tag)
        if isinstance(element, RawDataElement) or element is None:
            continue
        if element.VR == "SQ":
            lost = next(filter(None, (_lost(item, encodings, default) for item in element.value or ())), None)
            if lost:
                return lost
        elif element.VR in TEXT_VRS or element.VR in _ASCII_VRS:
            values = element.value if element.VM > 1 else [element.value]
            name = element.keyword or show(int(tag))
            if element.VR in _ASCII_VRS:
                if not all(str(value).isascii() for value in values):
                    raise DataSetError(f"{name} has characters that a value of VR {element.VR} may not have")
            elif not all(_holds(str(value), encodings) for value in values):
                return name
    return None


def _codecs(specific_character_set: Any, default: str) -> list[str]:
    """What text is written by; for the default repertoire, and made here for names of nobody, `default`."""
    from pydicom.charset import convert_encodings, python_encoding

    given = specific_character_set or ""
    terms = [given] if isinstance(given, str) else list(map(str, given))
    if default != _DEFAULT and not all(term in python_encoding for term in terms):
        return [default]
    return [default if each == _DEFAULT else each for each in convert_encodings(terms)]


def _holds(text: str, encodings: Sequence[str]) -> bool:
    """Whether text can be written with these codecs: whole, or piece by piece if there are several."""
    from pydicom.charset import custom_encoders

    def can(character: str, encoding: str) -> bool:
        try:
            if encoding in custom_encoders:
                custom_encoders[encoding](character, errors="strict")
            else:
                character.encode(encoding)
        except (UnicodeError, LookupError):
            return False
        return True

    return text.isascii() or all(any(can(one, each) for each in encodings) for one in set(text))


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
