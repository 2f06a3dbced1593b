"""DICOM files outside the archive, in the shape of stored instances, so that whatever sends those sends these."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NoReturn

from pacs.header import HeaderReader
from pacs.part10 import read_head
from storage.errors import InvalidInput, NotFound, ObjectStoreUnavailable
from storage.objects import ObjectWriter
from storage.retrieval import StoredInstance
from storage.uid import InstanceUID

__all__ = ["Folder", "dicom_files", "read_instance"]

_CHUNK_BYTES = 64 << 10
_MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"  # a DICOMDIR names files, it is none of them (PS3.3 F)


def dicom_files(path: Path) -> Iterator[Path]:
    """The files at and below a path, sorted."""
    if path.is_file():
        yield path
    else:
        for parent, folders, names in os.walk(path):
            folders.sort()
            for name in sorted(names):
                yield Path(parent, name)


def read_instance(path: Path) -> StoredInstance | None:
    """What must be known to send a file; None when it is no DICOM object. Its digest is not taken.

    Raises:
        InvalidInput: it is DICOM, but broken, or without its UIDs.
        OSError: it cannot be read.
    """
    if not path.is_file():  # a socket, a device
        return None
    with path.open("rb") as file:
        head = read_head(file)
        if head is None or head.sop_class == _MEDIA_DIRECTORY:
            return None
        reader = HeaderReader(head.transfer_syntax)
        file.seek(head.dataset_offset)
        while (chunk := file.read(_CHUNK_BYTES)) and not reader.feed(chunk):
            pass
        try:
            header = reader.header()
            uids: tuple[str, str, str, str] = (header.sop_class, header.sop_uid, header.series_uid, header.study_uid)
        except InvalidInput:
            if not head.sop_uid:  # no file meta and no data set behind it: it only looked like one
                return None
            if not head.sop_class:
                raise
            uids = (head.sop_class, InstanceUID(head.sop_uid), "", "")  # such as a palette, which is of no study
    return StoredInstance(
        sop_class=uids[0],
        sop_uid=uids[1],
        series_uid=uids[2],
        study_uid=uids[3],
        transfer_syntax=head.transfer_syntax,
        object_key=str(path),
        object_size=path.stat().st_size,
        dataset_offset=head.dataset_offset,
        sha256=b"",
    )


class Folder:
    """An `ObjectStore` whose keys are paths of files; it can only be read."""

    def open(self, key: str) -> BinaryIO:
        """The file; raises `NotFound`, `ObjectStoreUnavailable`."""
        try:
            return Path(key).open("rb")
        except FileNotFoundError as error:
            raise NotFound(f"There is no file {key}") from error
        except OSError as error:
            raise ObjectStoreUnavailable(f"{key} cannot be read: {error.strerror}") from error

    def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """Bytes of the file; raises as `open`."""
        with self.open(key) as file:
            file.seek(offset)
            return file.read() if length is None else file.read(length)

    def size(self, key: str) -> int:
        """Size in bytes; raises as `open`."""
        with self.open(key) as file:
            return os.fstat(file.fileno()).st_size

    def path(self, key: str) -> str | None:
        """The key itself."""
        return key

    def url(self, key: str, expires_s: int) -> str | None:  # noqa: ARG002
        """None: files have no addresses."""
        return None

    def check(self) -> None:
        """Nothing can be wrong with all files."""

    def keys(self, prefix: str = "") -> Iterator[str]:  # noqa: ARG002
        """None: what is in it is asked of nobody."""
        return iter(())

    def writer(self, key: str) -> ObjectWriter:
        """Refused."""
        self._refuse(key)

    def delete(self, key: str) -> None:
        """Refused."""
        self._refuse(key)

    def _refuse(self, key: str) -> NoReturn:
        raise ObjectStoreUnavailable(f"{key} is not ours to change")
