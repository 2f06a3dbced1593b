"""From metadata in the DICOM JSON model, and bulk data in files, to a Part 10 file (PS3.18 F, PS3.10 7)."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Final

from pydicom import DataElement, Dataset
from pydicom.filebase import DicomIO
from pydicom.filewriter import write_dataset
from pydicom.valuerep import format_number_as_ds

from api.dicomweb.compressed import EXPLICIT, is_encapsulated, jpeg_syntax
from api.dicomweb.jsonmodel import Model, check
from pacs.part10 import file_meta
from storage.errors import InvalidDataSet, InvalidUID
from storage.uid import UID

if TYPE_CHECKING:
    from api.dicomweb.deposit import Sink

__all__ = ["Built", "Bulk", "uids_of"]

_MAX_NESTED_BYTES = 16 << 20  # bulk data below the top level of an instance, which is built in memory
_WRITE_BYTES = 256 << 10
_FIRST_FRAME = 16  # bytes of the Basic Offset Table and of the first fragment's head
_MAX_DS_CHARACTERS = 16
_PIXEL_DATA: Final = "7FE00010"
_STREAMED = frozenset({"OB", "OD", "OF", "OL", "OV", "OW"})  # what pydicom writes from a file
_SOP_CLASS, _SOP_UID = "00080016", "00080018"


@dataclass(slots=True)
class Bulk:
    """What came for one location: the value, or fragments where `syntax` is a compressed one ('' : it is JPEG)."""

    file: IO[bytes]
    syntax: str


class Built:
    """One instance, checked and ready to be written.

    Raises:
        InvalidDataSet: the metadata is not in the DICOM JSON model, or bulk data is missing.
        InvalidUID: its pixel data has no transfer syntax that is known.
    """

    def __init__(self, model: object, bulk: Mapping[str, Bulk]) -> None:
        check(model, bulk=True)
        assert isinstance(model, dict)
        self._bulk = bulk
        self._nested_left = _MAX_NESTED_BYTES
        plain: Model = {}
        self._streamed: dict[int, tuple[str, Bulk]] = {}
        for tag, attribute in model.items():
            if tag.startswith("0002") or tag.endswith("0000"):
                continue  # file meta is made here, group lengths are retired (PS3.5 7.2)
            if attribute["vr"] in _STREAMED and "BulkDataURI" in attribute:
                self._streamed[int(tag, 16)] = attribute["vr"], self._found(tag, attribute["BulkDataURI"])
            else:
                plain[tag] = _decimals(attribute)
        self._uids = uids_of(model)
        if "" in self._uids:
            raise InvalidDataSet("SOP Class UID or SOP Instance UID is missing or invalid")
        self._syntax = self._transfer_syntax()
        try:
            self._data_set: Dataset = Dataset.from_json(plain, bulk_data_uri_handler=self._nested)
            self._data_set.SpecificCharacterSet = "ISO_IR 192"  # JSON is UTF-8
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise InvalidDataSet(f"The metadata cannot be read: {type(error).__name__}") from error

    def write(self, sink: Sink) -> None:
        """Write the file to `sink`; large values go from their files, never whole into memory."""
        out = io.BufferedWriter(_Raw(sink), _WRITE_BYTES)
        out.write(file_meta(*self._uids, self._syntax))
        for tag, (vr, bulk) in self._streamed.items():
            bulk.file.seek(0)
            encapsulated = is_encapsulated(bulk.syntax)
            element = DataElement(tag, "OB" if encapsulated else vr, bulk.file)
            element.is_undefined_length = encapsulated
            self._data_set.add(element)
        target = DicomIO(out)
        target.is_little_endian, target.is_implicit_VR = True, False
        write_dataset(target, self._data_set)
        out.flush()

    def _found(self, tag: str, uri: str) -> Bulk:
        try:
            return self._bulk[uri]
        except KeyError:
            raise InvalidDataSet(f"{tag}: its bulk data did not come, or in a form that is not taken") from None

    def _transfer_syntax(self) -> str:
        syntax = EXPLICIT
        for tag, (_, bulk) in self._streamed.items():
            if f"{tag:08X}" == _PIXEL_DATA:
                bulk.syntax = syntax = bulk.syntax or jpeg_syntax(bulk.file, _FIRST_FRAME)
            elif is_encapsulated(bulk.syntax):
                raise InvalidUID(f"{tag:08X}: only pixel data is compressed")
        return syntax

    def _nested(self, tag: str, _vr: str, uri: str) -> bytes:
        bulk = self._found(tag, uri)
        if is_encapsulated(bulk.syntax):
            raise InvalidDataSet(f"{tag}: only pixel data is compressed")
        bulk.file.seek(0)
        value = bulk.file.read(self._nested_left + 1)
        self._nested_left -= len(value)
        if self._nested_left < 0:
            raise InvalidDataSet(f"{tag}: more than {_MAX_NESTED_BYTES} bytes within sequences")
        return value


def uids_of(model: object) -> tuple[str, str]:
    """SOP Class and Instance UID, '' where they are missing or invalid."""
    return _uid(model, _SOP_CLASS), _uid(model, _SOP_UID)


def _uid(model: object, tag: str) -> str:
    try:
        return UID(model[tag]["Value"][0])  # type: ignore[index]
    except (KeyError, IndexError, TypeError, AttributeError, InvalidUID):
        return ""


def _decimals(attribute: dict[str, Any]) -> dict[str, Any]:
    """With numbers of VR DS as texts that are short enough (PS3.5 6.2), in items too."""
    values = attribute.get("Value")
    if attribute["vr"] == "SQ" and values:
        return attribute | {"Value": [{tag: _decimals(one) for tag, one in (item or {}).items()} for item in values]}
    if attribute["vr"] == "DS" and values:
        return attribute | {"Value": [_decimal(value) for value in values]}
    return attribute


def _decimal(value: Any) -> Any:
    if isinstance(value, int | float) and len(str(value)) > _MAX_DS_CHARACTERS:
        return format_number_as_ds(float(value))
    return value


class _Raw(io.RawIOBase):
    """A sink as a file that is only written, front to back."""

    def __init__(self, sink: Sink) -> None:
        self._sink, self._at = sink, 0

    def writable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Only as far as telling the place goes."""
        return True

    def tell(self) -> int:
        """Bytes written."""
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        """The place, for who asks for it in this way."""
        if (offset, whence) != (0, io.SEEK_CUR) and offset != self._at:
            raise io.UnsupportedOperation("written front to back only")
        return self._at

    def write(self, data: Any) -> int:
        """Hand on."""
        with memoryview(data) as view:
            self._sink.write(view)
            self._at += len(view)
            return len(view)
