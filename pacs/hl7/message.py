r"""One HL7 version 2 message: its character set, its segments, its fields as text.

The package `hl7` splits a message by its separators. What it offers beyond that is not used: its unescape writes field
contents to the log, where no name may stand, and expands `\.sp999999999\` to as many lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import hl7

__all__ = ["Failure", "Header", "Message", "Segment", "header_of", "parse"]

_MAX_FIELDS = 50_000  # separators of a message, each of which costs an object
_MAX_LINES = 100  # that one escape sequence may ask for
_HEADER_FIELDS = 25
_MARK = b"\xef\xbb\xbf"  # some write a byte order mark before UTF-8

# HL7 table 0211, and what people write in its place -> Python codec. None: by what the bytes are.
_CODECS: Mapping[str, str | None] = {
    "": None,
    "ASCII": None,
    "UNICODE": None,
    "UNICODE UTF-8": "utf-8",
    "UTF-8": "utf-8",
    "UTF8": "utf-8",
    "ISO_IR 192": "utf-8",
    **{f"8859/{part}": f"iso8859-{part}" for part in (1, 2, 3, 4, 5, 6, 7, 8, 9, 15)},
    **{f"ISO-8859-{part}": f"iso8859-{part}" for part in (1, 2, 3, 4, 5, 6, 7, 8, 9, 15)},
    "ISO IR6": None,
    "ISO IR14": "shift_jis",
    "GB 18030-2000": "gb18030",
    "KS X 1001": "euc_kr",
    "BIG-5": "big5",
    "WINDOWS-1252": "cp1252",
    "WINDOWS-1258": "cp1258",
}


class Failure(Exception):  # noqa: N818 - what an acknowledgment says
    """Why a message is not taken.

    `code` is AE (its content) or AR (we cannot take it at all); `number` is of HL7 table 0357; `location` as in ERR-2,
    such as PID^1^5. The text goes back to the sender and must not quote what came.
    """

    def __init__(self, code: Literal["AE", "AR"], number: int, text: str, location: str = "") -> None:
        super().__init__(text)
        self.code, self.number, self.location = code, number, location


@dataclass(frozen=True, slots=True)
class Header:
    """What is needed to answer a message, even one that cannot be read further; fields of MSH by number."""

    separator: str
    encoding: str
    fields: tuple[str, ...]

    def field(self, number: int) -> str:
        """MSH-3 and so on, with its components; '' where absent."""
        return self.fields[number] if number < len(self.fields) else ""

    @property
    def is_plain(self) -> bool:
        """Whether MSH-1 and MSH-2 are five different characters that can separate."""
        characters = {self.separator, *self.encoding[:4]}
        return len(characters) == 5 and all(map(_is_separator, characters))

    @property
    def sender(self) -> str:
        """MSH-3 and MSH-4, whose control IDs are unique."""
        return f"{self.field(3)}|{self.field(4)}"[:200]

    @property
    def control_id(self) -> str:
        """MSH-10."""
        return self.field(10)[:200]

    @property
    def kind(self) -> tuple[str, str]:
        """Message code and trigger event of MSH-9, such as ORM and O01."""
        code, event = (*self.field(9).split(self.encoding[:1] or "^"), "", "")[:2]
        return code.strip().upper()[:20], event.strip().upper()[:20]


class Segment:
    """One segment; numbers of fields, repetitions, components and subcomponents begin with 1."""

    def __init__(self, node: Any, message: Message) -> None:
        self._node, self._message = node, message
        self.name = _leaf(node[0]).strip().upper() if node else ""

    def get(self, field: int, component: int = 1, part: int = 1, *, repetition: int = 1) -> str:
        """A value as text, unescaped; '' where absent, two quotation marks where the sender wants it deleted."""
        found = self._node[field] if field < len(self._node) else ""
        for index in (repetition, component, part):
            if isinstance(found, list):
                found = found[index - 1] if index <= len(found) else ""
            elif index > 1:
                return ""
        return self._message.unescape(_leaf(found)).strip()

    def repetitions(self, field: int) -> range:
        """The numbers of the repetitions of a field."""
        found = self._node[field] if field < len(self._node) else ()
        return range(1, 1 + max(1, len(found)))


class Message:
    """A message that was read; see `parse`."""

    def __init__(self, header: Header, text: str, codec: str) -> None:
        self.header = header
        self._codec = codec
        component, repeat, escape, part = tuple(header.encoding[:4])
        self._escaped = {"F": header.separator, "S": component, "R": repeat, "E": escape, "T": part}
        self._pattern = re.compile(f"{re.escape(escape)}([^{re.escape(escape)}]*){re.escape(escape)}")
        self._escape = escape

        try:
            nodes = hl7.parse(text)
        except Exception:  # it lets index and assertion errors of garbage through
            raise Failure("AR", 100, "The segments of the message cannot be told apart.") from None
        self.segments = [Segment(node, self) for node in nodes if node and _leaf(node[0])]
        """All segments, MSH first."""

    def all(self, name: str) -> Iterator[Segment]:
        """The segments of a name."""
        return (segment for segment in self.segments if segment.name == name)

    def get(self, name: str, field: int, component: int = 1) -> str:
        """A value of the first segment of a name, '' where there is none."""
        return next((segment.get(field, component) for segment in self.all(name)), "")

    def unescape(self, text: str) -> str:
        """Text without escape sequences; those that change fonts or character sets are dropped."""
        return self._pattern.sub(self._plain, text) if self._escape in text else text

    def _plain(self, match: re.Match[str]) -> str:
        what = match[1]
        if what in self._escaped:
            return self._escaped[what]
        if what[:1] == "X":
            try:
                return bytes.fromhex(what[1:]).decode(self._codec, "replace")
            except ValueError:
                return ""
        if what[:3] in (".br", ".sp", ".ce"):
            count = what[3:].strip(" +")
            return "\n" * (min(int(count), _MAX_LINES) if count.isascii() and count.isdigit() else 1)
        return ""


def _is_separator(character: str) -> bool:
    return "!" <= character <= "~" and not character.isalnum()


def header_of(data: bytes) -> Header | None:
    """The header as far as it can be told from the first segment; None where there is none."""
    line = re.split(rb"[\r\n]", data.removeprefix(_MARK).lstrip()[:10_000], maxsplit=1)[0]
    if not line.startswith(b"MSH") or len(line) < 8:
        return None
    text = line.decode("latin-1")
    separator = text[3]
    if not _is_separator(separator):
        return None
    fields = text[4:].split(separator)[:_HEADER_FIELDS]
    return Header(separator, fields[0], ("MSH", separator, *fields))


def parse(data: bytes, header: Header) -> Message:
    """Read a message whose header was found.

    Raises:
        Failure: version, processing ID or character set are not ours, or it cannot be read.
    """
    _check(header, data)
    codec, text = _decoded(data.removeprefix(_MARK), header.field(18))
    text = text.replace("\r\n", "\r").replace("\n", "\r").strip()
    if not header.is_plain:
        raise Failure("AR", 102, "MSH-2 must be four different characters such as ^~\\&.", "MSH^1^2")
    if sum(map(text.count, (header.separator, "\r", *header.encoding[:4]))) > _MAX_FIELDS:
        raise Failure("AR", 207, f"A message may have {_MAX_FIELDS} separators.")
    return Message(header, text, codec)


def _check(header: Header, data: bytes) -> None:
    if b"\0" in data:
        raise Failure(
            "AR", 102, "There is a NUL in the message; is it UTF-16? UNICODE UTF-8 is understood.", "MSH^1^18"
        )
    if not header.field(9):
        raise Failure("AR", 101, "MSH-9, the message type, is missing.", "MSH^1^9")
    if not header.control_id.strip():
        raise Failure("AR", 101, "MSH-10, the message control ID, is missing.", "MSH^1^10")
    if header.field(11).split(header.encoding[:1])[0].strip().upper() not in ("", "P"):
        raise Failure("AR", 202, "Only messages for production (MSH-11 P) are taken.", "MSH^1^11")
    if not header.field(12).startswith("2"):
        raise Failure("AR", 203, "Only HL7 version 2 is understood (MSH-12).", "MSH^1^12")


def _decoded(data: bytes, declared: str) -> tuple[str, str]:
    """Codec and text. Raises `Failure` where the bytes are not in the declared character set (MSH-18)."""
    name = declared.split("~", maxsplit=1)[0].strip().upper()
    if name not in _CODECS:
        raise Failure("AR", 103, "The character set of MSH-18 is not known here.", "MSH^1^18")
    codec = _CODECS[name]
    try:
        if codec is not None:
            return codec, data.decode(codec)
        try:
            return "utf-8", data.decode()
        except UnicodeDecodeError:
            return "latin-1", data.decode("latin-1")
    except UnicodeDecodeError:
        raise Failure("AE", 102, "The bytes are not in the character set of MSH-18.", "MSH^1^18") from None


def _leaf(node: Any) -> str:
    """The text of a part, by its first child where it has some."""
    while isinstance(node, list):
        node = node[0] if node else ""
    return str(node)
