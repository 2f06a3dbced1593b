"""Zip files of bundles: the few files that a bundle is made of, in and out, whatever else such a file holds.

Nothing is written under a name from the file: an entry is known by its place below the folder that holds
`configs/metadata.json`, and goes to our name for it. Sizes are counted while bytes come out, not believed.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path, PurePosixPath

from storage.errors import InvalidBundle

__all__ = ["KEPT", "MAX_BYTES", "holds_bundle", "pack", "unpack"]

# What belongs to a bundle here; scripts, notebooks and other weights in it are left out.
KEPT = (
    "configs/metadata.json",
    "configs/inference.json",
    "configs/inference.yaml",
    "configs/inference.yml",
    "models/model.pt",
    "models/outlier.npz",
    "docs/README.md",
    "docs/evaluation.json",
    "LICENSE",
)
MAX_BYTES = 1 << 30  # of all files of a bundle, unpacked; a DenseNet264 has 0.3 GB
_MAX_ENTRIES = 10_000
_CHUNK_BYTES = 1 << 20
_MARK = "configs/metadata.json"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same bundle is the same file, whenever it is packed


def holds_bundle(file: Path) -> bool:
    """Whether it is a zip with a bundle in it (checkpoints of torch are zip files, too)."""
    try:
        with zipfile.ZipFile(file) as archive:
            return any(_is_mark(name) for name in archive.namelist())
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return False


def unpack(file: Path, folder: Path) -> Path:
    """The bundle of a zip file in `folder`, which is made; the folder.

    Raises:
        InvalidBundle: not a zip, damaged, encrypted, too large, with names that lead out of it, or without a bundle.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            return _unpack(archive, folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise InvalidBundle(f"{file.name} is no sound zip file: {error}") from error
    except OSError as error:
        raise InvalidBundle(f"{file.name} cannot be unpacked: {error}") from error


def pack(folder: Path, file: Path) -> None:
    """Write a bundle's own files as a zip, byte for byte the same each time."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name in KEPT:
            if (folder / name).is_file():
                entry = zipfile.ZipInfo(name, _EPOCH)
                with (folder / name).open("rb") as source, archive.open(entry, "w", force_zip64=True) as target:
                    while chunk := source.read(_CHUNK_BYTES):
                        target.write(chunk)


def _unpack(archive: zipfile.ZipFile, folder: Path) -> Path:
    entries = archive.infolist()
    if len(entries) > _MAX_ENTRIES:
        raise InvalidBundle(f"the zip file has {len(entries)} entries, a bundle has some tens")
    for entry in entries:
        parts = PurePosixPath(entry.filename.replace("\\", "/")).parts
        if ".." in parts or entry.filename.startswith(("/", "\\")) or ":" in (parts[0] if parts else ""):
            raise InvalidBundle(f"the zip file names {entry.filename[:80]!r}, which leads out of it")
    roots = [entry.filename.removesuffix(_MARK) for entry in entries if _is_mark(entry.filename)]
    if len(roots) != 1:
        raise InvalidBundle(f"the zip file holds {len(roots) or 'no'} folders with {_MARK}; a bundle is one")
    left = MAX_BYTES
    for entry in entries:
        name = entry.filename.removeprefix(roots[0])
        if entry.filename.startswith(roots[0]) and name in KEPT:
            left -= _write(archive, entry, folder / name, left)
    return folder


def _write(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path, limit: int) -> int:
    target.parent.mkdir(parents=True, exist_ok=True)
    size = 0
    with archive.open(entry) as source, target.open("wb") as written:
        while chunk := source.read(_CHUNK_BYTES):
            size += len(chunk)
            if size > limit:
                raise InvalidBundle(f"the zip file unpacks to more than {MAX_BYTES >> 20} MiB")
            written.write(chunk)
    return size


def _is_mark(name: str) -> bool:
    return name == _MARK or name.endswith("/" + _MARK)
