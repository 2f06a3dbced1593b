"""What the index keeps of a data set, read from its first bytes while it comes in.

One table says which elements are wanted and how they become values; adding an attribute is one line there and one field
in `storage.studies.InstanceHeader`. Text never makes a data set fail; only missing or invalid UIDs do.
"""

from __future__ import annotations

import datetime as dt
import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

from pacs import identifiers
from pacs.charset import NAME_DELIMITERS, TEXT_DELIMITERS, codecs_of, decode
from pacs.scan import EXPLICIT_BIG_ENDIAN, IMPLICIT_LITTLE_ENDIAN, Scan
from storage.errors import InvalidDataSet, InvalidInput, InvalidUID
from storage.objects import Buffer
from storage.received import RequestAttributes
from storage.studies import InstanceHeader
from storage.uid import UID, InstanceUID, SeriesUID, StudyUID

__all__ = ["HeaderReader", "read_header"]

_MAX_CHARACTERS = 256  # four times what PS3.5 6.2 allows; a B-tree entry takes no more than 2,700 bytes
_CACHED = 512  # values: the files of a study repeat nearly all of theirs

_CHARACTER_SET, _SOP_CLASS, _SOP_UID, _STUDY_UID, _SERIES_UID = (
    0x00080005,
    0x00080016,
    0x00080018,
    0x0020000D,
    0x0020000E,
)
_PATIENT_IDS, _IMAGE_LATERALITY, _STUDY_PRIORITY = 0x00101000, 0x00200062, 0x0032000C
_REQUESTS = 0x00400275
_REQUEST_TAGS = (0x00400009, 0x00401001, 0x00080050)  # in the order of RequestAttributes
_MAX_REQUESTS = 32
_EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"


class _Context(NamedTuple):
    codecs: tuple[str, ...]
    big_endian: bool
    implicit: bool


def _clean(text: str) -> str:
    """Without padding, control characters and lone NULs, which PostgreSQL cannot hold; cut to a sane length."""
    text = text.strip(" \0")
    if not text.isprintable():
        text = "".join(c for c in text if c >= " " and not "\x7f" <= c <= "\x9f").strip()
    return text[:_MAX_CHARACTERS]


@lru_cache(maxsize=_CACHED)
def _code(raw: bytes, _context: _Context) -> str:
    return _clean(raw.decode("latin-1"))


@lru_cache(maxsize=_CACHED)
def _codes(raw: bytes, _context: _Context) -> str:
    return _clean("\\".join(code.strip(" \0") for code in raw.decode("latin-1").split("\\")))


@lru_cache(maxsize=_CACHED)
def _text(raw: bytes, context: _Context) -> str:
    return _clean(decode(raw, context.codecs, TEXT_DELIMITERS))


@lru_cache(maxsize=_CACHED)
def _name(raw: bytes, context: _Context) -> str:
    """Up to three component groups, without empty ones at the end (PS3.5 6.2.1)."""
    text = _clean(decode(raw, context.codecs, NAME_DELIMITERS))
    if "=" in text:
        text = "=".join(group.strip().rstrip("^") for group in text.split("=")[:3]).rstrip("=")
    return text.rstrip("^ ")


@lru_cache(maxsize=_CACHED)
def _date(raw: bytes, _context: _Context) -> dt.date | None:
    """DA, also in the form YYYY.MM.DD of ACR-NEMA (PS3.5 6.2); None where it is no date."""
    digits = raw.strip(b" \0").replace(b".", b"")
    if len(digits) == 8 and digits.isdigit():
        try:
            return dt.date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))
        except ValueError:
            pass
    return None


def _integer_string(raw: bytes, _context: _Context) -> int | None:
    """IS; the first value where there are more."""
    text = raw.split(b"\\", 1)[0].strip(b" \0")
    if len(text) > 12:  # the VR's limit, and int() of a long text is slow
        return None
    try:
        return _int32(int(text))
    except ValueError:
        return None


def _unsigned(raw: bytes, context: _Context) -> int | None:
    """US, or UL where somebody sent that."""
    form = {2: "H", 4: "I"}.get(len(raw))
    if form is None:
        return None
    value: int = struct.unpack((">" if context.big_endian else "<") + form, raw)[0]
    return _int32(value)


@lru_cache(maxsize=_CACHED)
def _requests(raw: bytes, context: _Context) -> tuple[RequestAttributes, ...]:
    """The items of a Request Attributes Sequence that name something; none where they cannot be read."""
    if context.implicit:
        syntax, head = IMPLICIT_LITTLE_ENDIAN, struct.pack("<HHI", 0x0040, 0x0275, 0xFFFFFFFF)
    else:
        order = ">" if context.big_endian else "<"
        syntax = EXPLICIT_BIG_ENDIAN if context.big_endian else _EXPLICIT_LITTLE_ENDIAN
        head = struct.pack(order + "HH2sxxI", 0x0040, 0x0275, b"SQ", 0xFFFFFFFF)
    try:
        items = identifiers.read(head + raw, syntax, context.codecs)[_REQUESTS].values
    except InvalidInput:
        # As UN, its items are implicit VR (PS3.5 6.2.2 note 2).
        return () if context.implicit else _requests(raw, context._replace(implicit=True, big_endian=False))
    found = [RequestAttributes(*(_clean(_first(item, tag)) for tag in _REQUEST_TAGS)) for item in items]
    return tuple(dict.fromkeys(one for one in found[:_MAX_REQUESTS] if any(one)))


def _first(item: identifiers.Elements, tag: int) -> str:
    values = item[tag].values if tag in item else ()
    return values[0] if values and isinstance(values[0], str) else ""


def _int32(value: int) -> int | None:
    """What the index can hold."""
    return value if -(2**31) <= value < 2**31 else None


_FIELDS: dict[int, tuple[str, Callable[[bytes, _Context], Any]]] = {
    0x00080008: ("image_type", _codes),
    0x00080020: ("study_date", _date),
    0x00080021: ("series_date", _date),
    0x00080022: ("acquisition_date", _date),
    0x00080023: ("content_date", _date),
    0x00080030: ("study_time", _code),
    0x00080031: ("series_time", _code),
    0x00080032: ("acquisition_time", _code),
    0x00080033: ("content_time", _code),
    0x00080050: ("accession_number", _text),
    0x00080060: ("modality", _code),
    0x00080070: ("manufacturer", _text),
    0x00080080: ("institution_name", _text),
    0x00080090: ("referring_physician", _name),
    0x00080201: ("timezone_offset", _code),
    0x00081010: ("station_name", _text),
    0x00081030: ("study_description", _text),
    0x0008103E: ("series_description", _text),
    0x00081050: ("performing_physician", _name),
    0x00081090: ("manufacturer_model", _text),
    0x00100010: ("patient_name", _name),
    0x00100020: ("patient_id", _text),
    0x00100021: ("issuer", _text),
    0x00100030: ("patient_birth_date", _date),
    0x00100040: ("patient_sex", _code),
    0x00101010: ("patient_age", _code),
    0x00180015: ("body_part", _code),
    0x00181030: ("protocol_name", _text),
    0x00185101: ("view_position", _code),
    0x00200010: ("study_id", _text),
    0x00200011: ("series_number", _integer_string),
    0x00200013: ("instance_number", _integer_string),
    _IMAGE_LATERALITY: ("laterality", _code),
    0x00200060: ("laterality", _code),
    0x00280004: ("photometric", _code),
    0x00280008: ("frames", _integer_string),
    0x00280010: ("rows", _unsigned),
    0x00280011: ("columns", _unsigned),
    0x00280100: ("bits_allocated", _unsigned),
    _STUDY_PRIORITY: ("requested_priority", _code),
    0x00400244: ("pps_start_date", _date),
    0x00400245: ("pps_start_time", _code),
    _REQUESTS: ("request_attributes", _requests),
    0x00401003: ("requested_priority", _text),
}
_REQUIRED = frozenset({_SOP_CLASS, _SOP_UID, _STUDY_UID, _SERIES_UID})
_WANTED = _REQUIRED | _FIELDS.keys() | {_CHARACTER_SET, _PATIENT_IDS}
_LAST = max(_WANTED)

_U = TypeVar("_U", bound=UID)


class HeaderReader:
    """Reads the header of a data set that comes in piece by piece.

    Feed it until it is `done`, or until the data set ends, then take the `header`.
    """

    def __init__(self, transfer_syntax: str) -> None:
        self._transfer_syntax = transfer_syntax
        self._scan = Scan(transfer_syntax, _WANTED, _REQUIRED, _LAST)
        self._header: InstanceHeader | None = None

    @property
    def done(self) -> bool:
        """Whether no more bytes are needed."""
        return self._scan.done

    def feed(self, data: Buffer) -> bool:
        """Take the next bytes of the data set; True when no more are needed.

        Raises:
            InvalidDataSet: a deflated data set cannot be inflated.
        """
        return self._scan.feed(data)

    def study_uid(self) -> str:
        """The Study Instance UID as sent, '' while it has not been seen; for the choice of a folder, not validated."""
        return self._scan.values.get(_STUDY_UID, b"").decode("latin-1")

    def header(self) -> InstanceHeader:
        """The header as far as it was fed.

        Raises:
            InvalidDataSet: SOP Class, SOP Instance, Study or Series Instance UID is missing or invalid.
        """
        if self._header is not None and self.done:
            return self._header
        scan = self._scan
        values = scan.values
        context = _Context(codecs_of(values.get(_CHARACTER_SET, b"")), scan.big_endian, scan.implicit)
        fields: dict[str, Any] = {}
        for tag, (name, convert) in _FIELDS.items():
            if raw := values.get(tag):
                value = convert(raw, context)
                if value is not None and value != "":
                    fields[name] = value
        ids = [*values.get(_PATIENT_IDS, b"").split(b"\\"), *scan.other_ids]
        self._header = InstanceHeader(
            sop_class=_uid(UID, "SOP Class UID (0008,0016)", values.get(_SOP_CLASS)),
            sop_uid=_uid(InstanceUID, "SOP Instance UID (0008,0018)", values.get(_SOP_UID)),
            study_uid=_uid(StudyUID, "Study Instance UID (0020,000D)", values.get(_STUDY_UID)),
            series_uid=_uid(SeriesUID, "Series Instance UID (0020,000E)", values.get(_SERIES_UID)),
            transfer_syntax=self._transfer_syntax,
            other_patient_ids=tuple(filter(None, dict.fromkeys(_text(raw, context) for raw in ids))),
            **fields,
        )
        return self._header


def read_header(data: Buffer, transfer_syntax: str) -> InstanceHeader:
    """The header of a data set of which `data` is the whole or a prefix that is long enough.

    Raises:
        InvalidDataSet: the data set cannot be indexed; see `HeaderReader.header`.
    """
    reader = HeaderReader(transfer_syntax)
    reader.feed(data)
    return reader.header()


@lru_cache(maxsize=_CACHED)
def _uid(kind: type[_U], name: str, raw: bytes | None) -> _U:
    if not raw or not raw.strip(b" \0"):
        raise InvalidDataSet(f"{name} is missing")
    try:
        return kind(raw.decode("latin-1"))
    except InvalidUID as error:
        raise InvalidDataSet(f"{name} is invalid: {error}") from error
