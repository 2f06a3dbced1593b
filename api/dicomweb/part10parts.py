"""Parts of a STOW-RS body that are Part 10 files (PS3.18 10.5, PS3.10 7): streamed into ingest as they come."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Final

import structlog

from api.dicomweb.deposit import Destination, Sink
from api.dicomweb.multipart import PartHead
from api.dicomweb.storeanswer import Reason, Stored, Warned, reason_of
from api.problems import reason
from pacs.header import HeaderReader
from pacs.part10 import FileHead, read_head
from pacs.storage_classes import STORAGE_CLASSES, is_private
from storage.errors import InvalidDataSet, InvalidUID, SanglocError
from storage.uid import UID

if TYPE_CHECKING:
    from pacs.ingest import Incoming
    from storage.received import InstanceHeader

__all__ = ["DISCARD", "Discard", "Part10", "Part10Parts"]

log = structlog.get_logger()

_HEAD_BYTES = 72 << 10  # file meta information is read from so much: 64 kB of it and the preamble
_HELD_BYTES = 1 << 20  # how long an instance waits for its UIDs
_DICOM = ("", "application/dicom", "application/octet-stream")


class Part10Parts:
    """multipart/related; type="application/dicom": every part is a Part 10 file."""

    def __init__(self, to: Destination) -> None:
        self._to = to

    def open(self, head: PartHead) -> Sink:
        """A sink for one file; what is none is passed over and told of."""
        kind = head.media_type.name
        if kind not in _DICOM:
            self._to.answer.fail(Reason.CANNOT_UNDERSTAND, f"A part is not application/dicom but {kind[:64]}")
            return DISCARD
        return Part10(self._to)

    def finish(self) -> None:
        """Nothing is left to do."""

    def close(self) -> None:
        """Nothing is kept."""


class Discard:
    """Takes a part and does nothing with it."""

    def write(self, piece: memoryview) -> None:
        """Forget it."""

    def end(self) -> None:
        """Nothing to do."""

    def abandon(self) -> None:
        """Nothing to do."""


DISCARD: Final = Discard()


class Part10:
    """One Part 10 file: its first bytes are kept until they tell its UIDs, the rest goes straight to ingest."""

    def __init__(self, to: Destination) -> None:
        self._to = to
        self._held = bytearray()
        self._head: FileHead | None = None
        self._reader: HeaderReader | None = None
        self._header: InstanceHeader | None = None
        self._incoming: Incoming | None = None
        self._named = "", ""  # SOP class and instance, as far as known
        self._refused = False

    def write(self, piece: memoryview) -> None:
        """Take the next bytes of the file; a failure is told in the answer, and the rest is passed over."""
        if self._refused:
            return
        try:
            if self._incoming is not None:
                self._incoming.write([piece])
                self._scan(piece)
            else:
                self._hold(piece)
        except SanglocError as error:
            self._refuse(reason_of(error), reason(error), str(error))

    def end(self) -> None:
        """The file is complete: make it durable and visible, and say so."""
        if self._refused:
            return
        try:
            if self._head is None:
                self._read_head()
            if self._incoming is None:
                self._open()
            self._commit()
        except SanglocError as error:
            self._refuse(reason_of(error), reason(error), str(error))

    def abandon(self) -> None:
        """Drop what was not committed."""
        if self._incoming is not None:
            incoming, self._incoming = self._incoming, None
            incoming.__exit__(None, None, None)

    def _hold(self, piece: memoryview) -> None:
        self._held += piece
        if self._head is not None:
            self._scan(piece)
        elif len(self._held) >= _HEAD_BYTES:
            self._read_head()
        if self._reader is not None and (self._reader.done or len(self._held) > _HELD_BYTES):
            self._open()

    def _read_head(self) -> None:
        head = read_head(BytesIO(self._held))
        if head is None:
            raise InvalidDataSet("A part is no DICOM file (PS3.10 7.1)")
        self._head, self._named = head, (head.sop_class, head.sop_uid)
        self._reader = HeaderReader(head.transfer_syntax)
        self._scan(memoryview(bytes(self._held))[head.dataset_offset :])

    def _scan(self, piece: memoryview) -> None:
        if self._reader is not None and not self._reader.done:
            self._reader.feed(piece)

    def _open(self) -> None:
        """Begin to store, unless what is known of it by now speaks against that."""
        assert self._head is not None
        assert self._reader is not None
        if self._reader.done or len(self._held) <= _HELD_BYTES:
            self._read_header()
        sop_class, sop_uid = self._named
        problem = self._problem(sop_class)
        if problem is not None:
            self._refuse(*problem)
            return
        self._incoming = self._to.ingest.receive(
            sop_class=sop_class,
            sop_uid=sop_uid,
            transfer_syntax=self._head.transfer_syntax,
            source_aet=self._to.source_aet,
            source_address=self._to.source_address,
            reader=self._reader if self._reader.done else None,
        )
        self._incoming.write([memoryview(bytes(self._held))[self._head.dataset_offset :]])
        self._held = bytearray()

    def _read_header(self) -> None:
        """The UIDs of the data set are believed more than those of the file meta, which tools forget to change."""
        assert self._reader is not None
        try:
            self._header = self._reader.header()
        except InvalidDataSet:
            if not self._named[1]:
                raise
        else:
            self._named = self._header.sop_class, self._header.sop_uid

    def _problem(self, sop_class: str) -> tuple[Reason, str] | None:
        assert self._head is not None
        if self._to.answer.unavailable:
            return Reason.OUT_OF_RESOURCES, "Object store or database is away"
        if not _is_uid(self._head.transfer_syntax):
            return Reason.TRANSFER_SYNTAX_NOT_SUPPORTED, "The Transfer Syntax UID is not a UID"
        if sop_class not in STORAGE_CLASSES and not (self._to.allow_private and is_private(sop_class)):
            return Reason.SOP_CLASS_NOT_SUPPORTED, "The SOP class is not one of the Storage Service Class"
        if self._header is not None and self._is_of_other_study(self._header):
            return Reason.OTHER_STUDY, "The data set is of another study than the address"
        return None

    def _is_of_other_study(self, header: InstanceHeader) -> bool:
        return self._to.study_uid not in ("", header.study_uid)

    def _commit(self) -> None:
        if self._incoming is None:
            return  # refused
        if self._header is None:
            self._read_header()
            if self._header is not None and self._is_of_other_study(self._header):
                self._refuse(Reason.OTHER_STUDY, "The data set is of another study than the address")
                return
        outcome = self._incoming.commit()  # raises for a data set without UIDs, which is kept aside then
        header = self._header
        assert header is not None, "ingest has read it"
        if outcome == "conflict":
            self._refuse(Reason.DUPLICATE_INSTANCE, "Other content is stored under this SOP Instance UID")
            return
        assert self._head is not None
        told = (self._head.sop_class or header.sop_class, self._head.sop_uid or header.sop_uid)
        warning = Warned.NONE if told == (header.sop_class, header.sop_uid) else Warned.META_DISAGREES
        self._to.answer.stored.append(
            Stored(header.sop_class, header.sop_uid, header.study_uid, header.series_uid, warning)
        )

    def _refuse(self, code: Reason, why: str, detail: str = "") -> None:
        """Say why to the client; what drivers say of a part that is away goes to the log only."""
        self._refused = True
        self.abandon()
        self._held = bytearray()
        log.warning(
            "stow-rs instance not stored",
            reason=f"{code:04X}",
            why=detail or why,
            sop_uid=self._named[1][:64],
            source_aet=self._to.source_aet,
            address=self._to.source_address,
        )
        self._to.answer.fail(code, why, *(name if _is_uid(name) else "" for name in self._named))


def _is_uid(text: str) -> bool:
    try:
        UID(text)
    except InvalidUID:
        return False
    return True
