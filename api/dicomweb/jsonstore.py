"""Parts of a STOW-RS body that are metadata as DICOM JSON or XML, and their bulk data (PS3.18 10.5.1.2).

In JSON the first part is the metadata of all instances, in XML there is a part for each instance; the others are bulk
data that they name by Content-Location. Bulk data waits in temporary files and is streamed from there into the data
set, so that its size costs no memory. Several parts of one location are the frames of a compressed image, in order.
"""

from __future__ import annotations

import contextlib
import struct
import tempfile
import threading
from collections.abc import Callable, Sequence
from typing import IO, Final

from api.dicomweb import xmlmodel
from api.dicomweb.compressed import is_encapsulated, syntax_of
from api.dicomweb.deposit import Destination, Sink
from api.dicomweb.jsonbuild import Built, Bulk, uids_of
from api.dicomweb.jsonmodel import objects
from api.dicomweb.multipart import PartHead
from api.dicomweb.part10parts import DISCARD, Part10
from api.dicomweb.storeanswer import Reason
from storage.errors import InvalidDataSet, InvalidUID, ObjectTooLarge

__all__ = ["JsonParts", "XmlParts"]

_MAX_METADATA_BYTES = 8 << 20  # of all instances of a request: 4 kB each for 2,000
_MAX_BULK = 10_000  # locations
_MAX_FRAGMENT_BYTES = (1 << 32) - 2
_ITEM: Final = b"\xfe\xff\x00\xe0"
_building = threading.BoundedSemaphore(2)  # requests whose metadata is being made into objects, many times its size


class JsonParts:
    """multipart/related; type="application/dicom+json": metadata, then bulk data."""

    def __init__(self, to: Destination) -> None:
        self._to = to
        self._files = contextlib.ExitStack()
        self._metadata: list[IO[bytes]] = []
        self._metadata_left = _MAX_METADATA_BYTES
        self._bulk: dict[str, Bulk] = {}
        self._left = to.ingest.max_object_bytes

    def open(self, head: PartHead) -> Sink:
        """A sink for metadata or for bulk data."""
        if self._is_metadata(head):
            self._metadata.append(self._file())
            return _Spool(self._metadata[-1], self._take_metadata, even=False)
        bulk = self._bulk.get(head.location)
        if bulk is None:
            try:
                syntax = syntax_of(head.media_type)
            except InvalidUID:
                return DISCARD  # what refers to it is refused
            if not head.location or len(self._bulk) >= _MAX_BULK:
                return DISCARD
            bulk = self._bulk[head.location] = Bulk(self._file(), syntax)
        return _Frame(bulk.file, self._take) if is_encapsulated(bulk.syntax) else _Spool(bulk.file, self._take)

    def finish(self) -> None:
        """Build and store each instance."""
        with _building:
            for file in self._metadata:
                file.seek(0)
                for model in self._models(file.read()):
                    self._store(model)

    def close(self) -> None:
        """Remove the temporary files."""
        self._files.close()

    def _is_metadata(self, _: PartHead) -> bool:
        return not self._metadata

    def _models(self, data: bytes) -> Sequence[object]:
        return objects(data)

    def _file(self) -> IO[bytes]:
        return self._files.enter_context(tempfile.TemporaryFile(prefix="sangloc-stow-"))

    def _take(self, size: int) -> None:
        """Count bytes that go to temporary files."""
        self._left -= size
        if self._left < 0:
            raise ObjectTooLarge(f"Bulk data is longer than {self._to.ingest.max_object_bytes} bytes")

    def _take_metadata(self, size: int) -> None:
        self._metadata_left -= size
        if self._metadata_left < 0:
            raise ObjectTooLarge(f"Metadata is longer than {_MAX_METADATA_BYTES} bytes")

    def _store(self, model: object) -> None:
        try:
            built = Built(model, self._bulk)
        except (InvalidDataSet, InvalidUID) as error:
            unknown = isinstance(error, InvalidUID)
            reason = Reason.TRANSFER_SYNTAX_NOT_SUPPORTED if unknown else Reason.CANNOT_UNDERSTAND
            self._to.answer.fail(reason, str(error), *uids_of(model))
            return
        sink = Part10(self._to)
        try:
            built.write(sink)
            sink.end()
        finally:
            sink.abandon()


class XmlParts(JsonParts):
    """multipart/related; type="application/dicom+xml": a document for each instance, and bulk data."""

    def _is_metadata(self, head: PartHead) -> bool:
        return not self._metadata or head.media_type.name == "application/dicom+xml"

    def _models(self, data: bytes) -> Sequence[object]:
        """One data set; none where it cannot be read, which is told, and the others are stored."""
        try:
            return [xmlmodel.data_set(data)]
        except InvalidDataSet as error:
            self._to.answer.fail(Reason.CANNOT_UNDERSTAND, str(error))
            return []


class _Spool:
    """A part that goes to a file as it is; as a value it is made even at its end (PS3.5 7.1.1)."""

    def __init__(self, file: IO[bytes], take: Callable[[int], None], *, even: bool = True) -> None:
        self._file, self._take, self._even = file, take, even

    def write(self, piece: memoryview) -> None:
        """Append; raises `ObjectTooLarge`."""
        self._take(len(piece))
        self._file.write(piece)

    def end(self) -> None:
        """Pad."""
        if self._even and self._file.tell() % 2:
            self._file.write(b"\0")

    def abandon(self) -> None:
        """The file is closed by whoever made it."""


class _Frame(_Spool):
    """One frame of a compressed image, as one fragment behind those before it (PS3.5 A.4)."""

    def __init__(self, file: IO[bytes], take: Callable[[int], None]) -> None:
        super().__init__(file, take)
        if file.tell() == 0:
            file.write(_ITEM + bytes(4))  # a Basic Offset Table without entries
        self._start = file.tell()
        file.write(_ITEM + bytes(4))

    def end(self) -> None:
        """Pad, and say how long the fragment has become."""
        super().end()
        end = self._file.tell()
        if end - self._start - 8 > _MAX_FRAGMENT_BYTES:
            raise ObjectTooLarge(f"A frame is longer than {_MAX_FRAGMENT_BYTES} bytes")
        self._file.seek(self._start + 4)
        self._file.write(struct.pack("<I", end - self._start - 8))
        self._file.seek(end)
