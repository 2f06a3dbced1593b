"""The first elements of a data set, found while its bytes come in; pixel data is never looked at (PS3.5 7).

A scan keeps only the values that are wanted and an unfinished rest, so neither a giant private element nor an endless
sequence costs memory. It is made for speed: one pass, one branch for each element, no objects.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Set as AbstractSet

from storage.errors import InvalidDataSet
from storage.objects import Buffer

__all__ = ["DEFLATED", "EXPLICIT_BIG_ENDIAN", "IMPLICIT_LITTLE_ENDIAN", "Scan"]

IMPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_BIG_ENDIAN = "1.2.840.10008.1.2.2"
# Deflated explicit VR, JPIP referenced deflate, JPIP HTJ2K referenced deflate (PS3.5 A.5, A.7, A.11).
DEFLATED = frozenset({"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"})

_PIECE_BYTES = 8 << 10  # most headers end in the first piece
_MAX_VALUE_BYTES = 4 << 10  # a wanted value that is longer is passed over, a sequence too
_MAX_ELEMENTS = 100_000  # in front of what is wanted; more is an attack
_MAX_INFLATED_BYTES = 16 << 20

_SHORT, _LONG = 1, 2
_NO_FORMS: dict[bytes, int] = {}  # implicit VR
_FORMS = dict.fromkeys(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split(), _SHORT)
_FORMS |= dict.fromkeys(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split(), _LONG)
_UNDEFINED = 0xFFFFFFFF
_ITEMS = 0xFFFE  # group of item and delimiter tags, which have no VR
_ENDLESS = 1 << 62
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_OTHER_IDS, _PATIENT_ID = 0x00101002, 0x00100020


class Scan:
    """Collects `wanted` values at the top level of a data set of the given transfer syntax into `values`.

    `values` holds the raw value by tag, the first one where a tag comes twice; of a sequence its items, with the
    delimiter behind them where it has one. `other_ids` holds the raw Patient IDs in
    the items of the Other Patient IDs Sequence (0010,1002). The scan is over (`done`) behind the tag `last`, but not
    before the `required` tags were seen: data sets with tags out of order exist.

    Shapes that the standard forbids but that exist are understood: a data set that is implicit VR though its transfer
    syntax says explicit, and the reverse; single elements without VR; unknown VRs.
    """

    def __init__(self, transfer_syntax: str, wanted: AbstractSet[int], required: AbstractSet[int], last: int) -> None:
        self.values: dict[int, bytes] = {}
        self.other_ids: list[bytes] = []
        self.done = False
        self.big_endian = transfer_syntax == EXPLICIT_BIG_ENDIAN
        self._wanted, self._required, self._last = wanted, required, last
        order = ">" if self.big_endian else "<"
        self._head, self._long = struct.Struct(order + "HH2sH"), struct.Struct(order + "I")
        self._implicit = transfer_syntax == IMPLICIT_LITTLE_ENDIAN
        self._inflate = zlib.decompressobj(-zlib.MAX_WBITS) if transfer_syntax in DEFLATED else None
        self._inflated = 0
        self._seen = 0
        self._tail = b""
        self._skip = 0  # bytes of an unwanted value still to come
        self._depth = 0  # open sequences and items of undefined length
        self._unknown_depth = -1  # depth of the UN sequence that we are in: inside is implicit VR (PS3.5 6.2.2 note 2)
        self._others_end = (
            0  # where the Other Patient IDs Sequence that we are in ends, from the start of the next walk
        )

    @property
    def implicit(self) -> bool:
        """Whether the elements at the top level have no VR."""
        return self._implicit and self._unknown_depth < 0

    def feed(self, data: Buffer) -> bool:
        """Take the next bytes of the data set as stored; True when no more are needed.

        Raises:
            InvalidDataSet: a deflated data set cannot be inflated.
        """
        if self._inflate is None:
            self._feed_plain(memoryview(data))
        else:
            self._feed_deflated(data)
        return self.done

    def _feed_deflated(self, data: Buffer) -> None:
        assert self._inflate is not None
        while not self.done:
            try:
                plain = self._inflate.decompress(data, _PIECE_BYTES)
            except zlib.error as error:
                raise InvalidDataSet(f"The data set cannot be inflated: {error}") from error
            data = self._inflate.unconsumed_tail
            self._feed_plain(memoryview(plain))
            self._inflated += len(plain)
            if self._inflated > _MAX_INFLATED_BYTES:
                self.done = True
            if len(plain) < _PIECE_BYTES:
                break

    def _feed_plain(self, view: memoryview) -> None:
        while view and not self.done:
            start = min(self._skip, len(view))
            self._skip -= start
            piece = bytes(view[start : start + _PIECE_BYTES])
            if piece:
                self._walk(piece)
            view = view[start + len(piece) :]

    def _walk(self, piece: bytes) -> None:
        """Walk over the elements that start in the unfinished rest and this piece."""
        data = self._tail + piece
        if not self._seen and len(data) >= 8:
            self._guess_vr(data[4:6])
        end = self._elements(data)
        self._tail = data[end:]
        self._skip = max(0, end - len(data))
        self._others_end -= end
        if self._seen > _MAX_ELEMENTS:
            self.done = True

    def _guess_vr(self, vr: bytes) -> None:
        """Trust the first element more than the transfer syntax, as every reader has learnt to."""
        if self._implicit:
            self._implicit = vr not in _FORMS
        else:
            self._implicit = not vr.isalpha()

    def _elements(self, data: bytes) -> int:
        """Walk; return where the next element starts, which may lie behind the end of `data`."""
        unpack, long_at, wanted, values = self._head.unpack_from, self._long.unpack_from, self._wanted, self.values
        form_of = _NO_FORMS if self._implicit else _FORMS
        at, end, inside = 0, len(data) - 8, self._inside(0)
        while at <= end:
            group, element, vr, length = unpack(data, at)
            start = at + 8
            form = form_of.get(vr)
            if form != _SHORT or group == _ITEMS:
                if (form == _LONG and group != _ITEMS) or self._is_unknown_vr(vr, group):
                    start = at + 12
                    if start > end + 8:
                        break
                (length,) = long_at(data, start - 4)
            tag = group << 16 | element
            if tag in wanted and not inside and length != _UNDEFINED:
                stop = start + length
                if length <= _MAX_VALUE_BYTES:
                    if stop > end + 8:
                        break
                    values.setdefault(tag, data[start:stop])
                at = stop
            elif tag > self._last and not inside and group != _ITEMS and self._required <= values.keys():
                self.done = True
                break
            elif inside or length == _UNDEFINED or group == _ITEMS or tag == _OTHER_IDS:
                following = self._nested(data, tag, vr, at, start, length=length)
                if following is None:
                    break
                at = following
                inside = self._inside(at)
                form_of = _NO_FORMS if self._implicit else _FORMS
            else:
                at = start + length
            self._seen += 1
        return at

    def _nested(self, data: bytes, tag: int, vr: bytes, at: int, start: int, *, length: int) -> int | None:
        """What belongs to sequences: where to go on, None when more of it must come first."""
        if tag == _PATIENT_ID and at < self._others_end and length <= _MAX_VALUE_BYTES:
            if start + length > len(data):
                return None
            self.other_ids.append(data[start : start + length])
        elif tag in self._wanted and not self._inside(at):  # its length is undefined
            end = self._sequence_end(data, start, vr)
            if end is not None:
                self.values.setdefault(tag, data[start:end])
                return end
            if len(data) - start <= _MAX_VALUE_BYTES:
                return None
        return self._enter(tag, vr, at, start, length)

    def _sequence_end(self, data: bytes, at: int, vr: bytes) -> int | None:
        """Behind the delimiter of a sequence of undefined length with items from `at` on; None where it is not here."""
        form_of = _NO_FORMS if self._implicit or vr == b"UN" else _FORMS
        depth = 1
        while at + 8 <= len(data):
            group, element, code, length = self._head.unpack_from(data, at)
            form, at = (None if group == _ITEMS else form_of.get(code)), at + 8
            if form == _LONG:
                at += 4
                if at > len(data):
                    break
            if form != _SHORT:
                (length,) = self._long.unpack_from(data, at - 4)
            if group == _ITEMS and element != _ITEM & 0xFFFF:
                depth -= 1
                if not depth:
                    return at
            elif length == _UNDEFINED:
                depth += 1
            else:
                at += length
        return None

    def _inside(self, at: int) -> bool:
        return self._depth > 0 or at < self._others_end

    def _is_unknown_vr(self, vr: bytes, group: int) -> bool:
        """A VR of a later edition has a long length (PS3.5 6.2); other bytes are an element without VR."""
        return not self._implicit and vr not in _FORMS and vr.isalpha() and vr.isupper() and group != _ITEMS

    def _enter(self, tag: int, vr: bytes, at: int, start: int, length: int) -> int:
        """Open and close sequences and items; return where to go on."""
        if tag == _OTHER_IDS and not self._depth and at >= self._others_end:
            self._others_end = _ENDLESS if length == _UNDEFINED else start + length
            self._depth += length == _UNDEFINED
            return start
        if tag in (_ITEM_END, _SEQUENCE_END):
            self._depth = max(0, self._depth - 1)
            if self._depth == self._unknown_depth:
                self._implicit, self._unknown_depth = False, -1
            if tag == _SEQUENCE_END and not self._depth and self._others_end > _ENDLESS // 2:
                self._others_end = 0
            return start
        if length == _UNDEFINED:
            if vr == b"UN" and not self._implicit:
                self._implicit, self._unknown_depth = True, self._depth
            self._depth += 1
            return start
        return start if tag == _ITEM and at < self._others_end else start + length
