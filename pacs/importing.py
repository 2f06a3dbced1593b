"""Existing files through the one way in: every DICOM file below a folder, with an account of each that stays behind.

An import that was interrupted goes on where it stopped: files that are in are noted in a journal (one line each, with
size and time of change) and passed over the next time. The journal is only a shortcut; without it the same files are
duplicates, which is harmless.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Literal, Self, TextIO

import structlog

from pacs.header import HeaderReader
from pacs.ingest import Ingest
from pacs.part10 import read_head
from storage.errors import InvalidInput, Unavailable
from storage.received import Outcome

__all__ = ["ImportReport", "import_folder"]

log = structlog.get_logger()

_CHUNK_BYTES = 1 << 20
_MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"  # a DICOMDIR names files, it is none of them (PS3.3 F)
_SOURCE_AET = "IMPORT"
_ATTEMPTS, _PAUSE_S = 5, 1.0  # while object store or database is away

_Kind = Literal["not_dicom"] | Outcome


@dataclass(slots=True)
class ImportReport:
    """What became of the files below a folder; every file is counted once."""

    stored: int = 0
    duplicate: int = 0
    conflict: int = 0  # other bytes under a known UID, kept aside
    not_dicom: int = 0
    skipped: int = 0  # taken in by an earlier run
    failed: list[tuple[Path, str]] = field(default_factory=list)  # with the reason, for a person

    def count(self, kind: str, path: Path, reason: str = "") -> None:
        """Note one file under the name of its counter."""
        if kind == "failed":
            self.failed.append((path, reason))
        else:
            setattr(self, kind, getattr(self, kind) + 1)

    @property
    def files(self) -> int:
        """Files looked at so far."""
        return self.stored + self.duplicate + self.conflict + self.not_dicom + self.skipped + len(self.failed)


def import_folder(
    ingest: Ingest,
    folder: Path,
    *,
    progress: Callable[[ImportReport, int], None] = lambda _report, _total: None,
    resume: Path | None = None,
    threads: int = 4,
) -> ImportReport:
    """Take in every DICOM file below `folder`, which may also be a single file; other files are counted.

    Args:
        ingest: the way in.
        folder: links to files are followed, links to folders are not.
        progress: called after each file with the report so far and the number of files; from one thread at a time.
        resume: the journal of an import that may go on later; made where missing.
        threads: files taken in at the same time.

    Raises:
        InvalidInput: there is no such folder.
        Unavailable: object store or database stayed away; what is in is in the journal.
    """
    if not folder.exists():
        raise InvalidInput(f"There is no folder {folder}")
    paths = [folder] if folder.is_file() else sorted(_files(folder))
    report = ImportReport()
    lock, left, stop = threading.Lock(), iter(paths), threading.Event()

    def work() -> None:
        while not stop.is_set():
            with lock:
                path = next(left, None)
            if path is None:
                return
            kind, reason = _take(ingest, path, journal)
            with lock:
                report.count(kind, path, reason)
                progress(report, len(paths))

    with ExitStack() as stack:
        journal = stack.enter_context(_Journal(resume)) if resume else None
        pool = stack.enter_context(ThreadPoolExecutor(threads, thread_name_prefix="import"))
        stack.callback(stop.set)
        for running in as_completed([pool.submit(work) for _ in range(threads)]):
            running.result()
    report.failed.sort()
    return report


def _files(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        for name in names:
            yield Path(parent, name)


def _take(ingest: Ingest, path: Path, journal: _Journal | None) -> tuple[str, str]:
    """The counter that the file belongs to, and the reason if it failed."""
    try:
        mark = _mark(path)
        if journal and mark in journal:
            return "skipped", ""
        kind = _patiently(lambda: _import_file(ingest, path))
    except (InvalidInput, OSError) as error:
        log.warning("cannot import", path=str(path), reason=str(error))
        return "failed", str(error)
    if journal and kind != "not_dicom":
        journal.add(mark)
    return kind, ""


def _patiently(work: Callable[[], _Kind]) -> _Kind:
    """A short absence of object store or database does not end an import of hours."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return work()
        except Unavailable as error:
            log.warning("import waits", reason=str(error))
            time.sleep(_PAUSE_S)
    return work()


def _import_file(ingest: Ingest, path: Path) -> _Kind:
    if not path.is_file():  # a socket, a device
        return "not_dicom"
    with path.open("rb", buffering=0) as file:
        head = read_head(file)
        if head is None or head.sop_class == _MEDIA_DIRECTORY:
            return "not_dicom"
        # The data set is believed, not the file meta: software that makes a file anonymous often forgets the latter.
        reader = HeaderReader(head.transfer_syntax)
        for chunk in _chunks(file, head.dataset_offset):
            if reader.feed(chunk):
                break
        try:
            header = reader.header()
        except InvalidInput:
            if not head.sop_uid:  # no file meta and no data set behind it: it only looked like one
                return "not_dicom"
            raise
        incoming = ingest.receive(
            sop_class=header.sop_class,
            sop_uid=header.sop_uid,
            transfer_syntax=head.transfer_syntax,
            source_aet=_SOURCE_AET,
            source_address="",
        )
        with incoming:
            for chunk in _chunks(file, head.dataset_offset):
                incoming.write([chunk])
            return incoming.commit()


def _chunks(file: FileIO, offset: int) -> Iterator[memoryview]:
    """The file from `offset` on, through one buffer; a piece is gone when the next one is asked for."""
    file.seek(offset)
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    while length := file.readinto(buffer):
        yield buffer[:length]


def _mark(path: Path) -> str:
    """A line for the journal: the same file, unchanged, has the same one."""
    status = path.stat()
    return json.dumps([str(path.absolute()), status.st_size, status.st_mtime_ns])


class _Journal:
    """Lines of files that are in, appended as they come; a line that was cut off by a crash counts for nothing."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: TextIO = path.open("a+", encoding="ascii")
        self._file.seek(0)
        lines = self._file.read()
        self._marks = set(lines.split("\n"))
        if lines and not lines.endswith("\n"):
            self._file.write("\n")

    def __contains__(self, mark: str) -> bool:
        return mark in self._marks

    def add(self, mark: str) -> None:
        with self._lock:
            self._file.write(mark + "\n")
            self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()
