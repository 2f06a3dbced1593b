"""Objects as files in a folder, the embedded default: `root/ab/cd/<random>.dcm`.

A file is made under its final name (O_EXCL), without a temporary name: keys are random and what is visible is decided
by the database, so a rename would only cost one more journal entry. Left-overs of a crash are objects without rows,
which `sangloc verify` reports.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Self

from storage.errors import NotFound, ObjectStoreFull, ObjectStoreUnavailable, SanglocError
from storage.objects import Buffer
from storage.objects.keys import is_key, validate

__all__ = ["DirectoryStore"]

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_IOV_MAX = 1024  # buffers in one writev(2), limits.h
_OPEN_FOLDERS = 256  # file descriptors kept; the usual soft limit is 1024
_EARLY_BYTES = (
    1 << 14
)  # the disk starts on these while more come in and are hashed: +40 % for radiographs of 15 MB, measured
_SYNC_FILE_RANGE_WRITE = 2
_FILE_MODE = 0o640
_FOLDER_MODE = 0o750


class DirectoryStore:
    """An `ObjectStore` in `root`, made when it does not exist. Safe in threads and in many processes at once."""

    def __init__(self, root: Path) -> None:
        self._root = Path(os.path.abspath(root))  # noqa: PTH100 - resolve() would follow a link that may be moved later
        self._folders: OrderedDict[str, _Folder] = OrderedDict()
        self._lock = threading.Lock()

    def writer(self, key: str) -> DirectoryWriter:
        """A writer of a new file; raises `ObjectStoreFull` or `ObjectStoreUnavailable`."""
        shard, name = validate(key).rsplit("/", 1)
        with _translated(missing=ObjectStoreUnavailable):
            try:
                return DirectoryWriter(self._folder(shard), name)
            except FileNotFoundError:  # somebody removed the shard folder under us
                with self._lock:
                    self._folders.pop(shard, None)
                return DirectoryWriter(self._folder(shard), name)

    def open(self, key: str) -> BinaryIO:
        """The object as a seekable binary file; raises `NotFound`."""
        with _translated():
            return self._file(key).open("rb")

    def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """Bytes `offset` to `offset + length` of the object; raises `NotFound`."""
        with _translated(), self._file(key).open("rb", buffering=0) as file:
            file.seek(offset)
            if length is None:
                return file.read()
            parts = []
            while length > 0 and (part := file.read(length)):
                parts.append(part)
                length -= len(part)
            return b"".join(parts)

    def size(self, key: str) -> int:
        """Size in bytes; raises `NotFound`."""
        with _translated():
            return self._file(key).stat().st_size

    def delete(self, key: str) -> None:
        """Remove the object; a missing object is no error."""
        with _translated():
            self._file(key).unlink(missing_ok=True)

    def keys(self, prefix: str = "") -> Iterator[str]:
        """All keys that start with `prefix`; files that are no objects are passed over."""
        for first in self._names("", prefix):
            for second in self._names(f"{first}/", prefix):
                for name in self._names(f"{first}/{second}/", prefix):
                    key = f"{first}/{second}/{name}"
                    if is_key(key):
                        yield key

    def url(self, key: str, expires_s: int) -> str | None:  # noqa: ARG002
        """None: a folder has no addresses."""
        return None

    def path(self, key: str) -> str | None:
        """The object's path, whether it exists or not."""
        return str(self._file(key))

    def check(self) -> None:
        """Write, sync and remove a small file; makes the root. Raises `ObjectStoreUnavailable`."""
        with _translated():
            _make_folder(self._root)
            probe = self._root / f".check-{os.getpid()}-{threading.get_ident()}"
            try:
                with probe.open("wb") as file:
                    file.write(b"sangloc")
                    file.flush()
                    os.fsync(file.fileno())
            finally:
                probe.unlink(missing_ok=True)

    def _file(self, key: str) -> Path:
        return self._root / validate(key)

    def _names(self, folder: str, prefix: str) -> list[str]:
        """Names in `folder` ('' or ending in /) that can lead to keys with `prefix`."""
        if not folder.startswith(prefix[: len(folder)]):
            return []
        rest = prefix[len(folder) :].partition("/")
        try:
            names = os.listdir(self._root / folder)  # noqa: PTH208 - names, not paths
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise ObjectStoreUnavailable(f"Cannot list objects: {error}") from error
        return [name for name in names if (name == rest[0] if rest[1] else name.startswith(rest[0]))]

    def _folder(self, shard: str) -> _Folder:
        """The shard's folder, open, made where missing; its entry in every parent is durable."""
        with self._lock:
            folder = self._folders.get(shard)
            if folder is not None:
                self._folders.move_to_end(shard)
                return folder
        path = self._root / shard
        _make_folder(path)
        # Another process may have made the folder a moment ago without having synced it yet: sync also what we found.
        for parent in (path.parent, self._root):
            _Folder(parent).sync()
        folder = _Folder(path)
        with self._lock:
            self._folders[shard] = folder
            if len(self._folders) > _OPEN_FOLDERS:
                self._folders.popitem(last=False)
        return folder


class DirectoryWriter:
    """One file on its way in; see `ObjectWriter`. Not for use in several threads at once."""

    def __init__(self, folder: _Folder, name: str) -> None:
        self._folder = folder
        self._name = name
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(name, flags, _FILE_MODE, dir_fd=folder.fd)
        self._committed = False
        self._size = 0
        self._begun = 0  # bytes that the disk was told to start on

    def write(self, chunks: Sequence[Buffer]) -> None:
        """Append byte buffers in order, without copying them."""
        size = sum(map(len, chunks))
        with _translated():
            written = os.writev(self._fd, chunks) if len(chunks) <= _IOV_MAX else 0
            if written != size:
                _write_rest(self._fd, chunks, written)
        self._size += size
        if self._size - self._begun >= _EARLY_BYTES:
            _start_writing(self._fd, self._begun, self._size - self._begun)
            self._begun = self._size

    def commit(self) -> None:
        """Sync the file, then its folder."""
        with _translated():
            os.fsync(self._fd)
            self._folder.sync()
            self._committed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self._fd)
        if not self._committed:
            with suppress(OSError):  # at worst an object without a row stays, which `sangloc verify` reports
                os.unlink(self._name, dir_fd=self._folder.fd)


class _Folder:
    """An open folder, closed when nobody uses it any more."""

    __slots__ = ("fd",)

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def sync(self) -> None:
        os.fsync(self.fd)

    def __del__(self) -> None:
        if hasattr(self, "fd"):
            os.close(self.fd)


def _make_folder(path: Path) -> None:
    """Make a folder and what is missing above it, each with a durable entry in its parent."""
    if not path.is_dir():
        _make_folder(path.parent)
        path.mkdir(mode=_FOLDER_MODE, exist_ok=True)
        _Folder(path.parent).sync()


def _write_rest(fd: int, chunks: Sequence[Buffer], written: int) -> None:
    """Write what is left of the chunks after `written` bytes: the kernel may take less than it was given."""
    left = [memoryview(chunk) for chunk in chunks]
    while left:
        while left and written >= len(left[0]):
            written -= len(left.pop(0))
        if left:
            left[0] = left[0][written:]
            written = os.writev(fd, left[:_IOV_MAX])


_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)  # Linux with glibc
if _sync_file_range:
    _sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


def _start_writing(fd: int, offset: int, count: int) -> None:
    """Let the kernel begin to write these bytes to the disk; a hint only, `fsync` is what counts and what reports."""
    if _sync_file_range:
        _sync_file_range(fd, offset, count, _SYNC_FILE_RANGE_WRITE)


@contextmanager
def _translated(missing: type[SanglocError] = NotFound) -> Iterator[None]:
    """System errors in the words of `storage.errors`; `missing` is what ENOENT means here."""
    try:
        yield
    except FileNotFoundError as error:
        raise missing(f"There is no {error.filename}") from error
    except OSError as error:
        if error.errno in _FULL:
            raise ObjectStoreFull from error
        raise ObjectStoreUnavailable(f"The object store cannot be used: {error.strerror}") from error
