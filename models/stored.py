"""Bundles as objects: packed into the object store, and fetched from it into a folder that is checked at each use."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

from models.bundle import Bundle, load_bundle
from models.importers import archive
from storage.errors import DigestMismatch, InvalidBundle
from storage.objects import ObjectStore
from storage.objects.keys import new_key

__all__ = ["Stored", "fetch", "put", "user_cache"]

_CHUNK_BYTES = 1 << 20


class Stored(NamedTuple):
    """Where a bundle lies."""

    object_key: str
    object_size: int
    sha256: bytes  # of the object


def user_cache() -> Path:
    """The user's cache folder of sangloc."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sangloc"


def put(store: ObjectStore, folder: Path) -> Stored:
    """Pack the bundle of a folder into a new object, which is durable when this returns.

    Raises:
        ObjectStoreUnavailable: the store is away or full.
    """
    key, digest, size = new_key("model"), hashlib.sha256(), 0
    with tempfile.TemporaryDirectory(prefix="sangloc-pack-") as made:
        file = Path(made) / "bundle.zip"
        archive.pack(folder, file)
        with file.open("rb") as packed, store.writer(key) as writer:
            while chunk := packed.read(_CHUNK_BYTES):
                digest.update(chunk)
                size += len(chunk)
                writer.write([chunk])
            writer.commit()
    return Stored(key, size, digest.digest())


def fetch(store: ObjectStore, stored: Stored, weights_sha256: str, cache: Path) -> Bundle:
    """The bundle, from the cache folder where it lies there unharmed, else from the store.

    The digest of the object is checked when it is fetched, that of the weights at every call.

    Raises:
        DigestMismatch: the object is not the one that was registered.
        InvalidBundle: its weights are not those that were registered, or it cannot be used.
        NotFound: the object is gone.
        ObjectStoreUnavailable: the store is away.
    """
    folder = cache / stored.sha256.hex()
    try:
        return _checked(folder, weights_sha256)
    except InvalidBundle:  # not there yet, or harmed
        shutil.rmtree(folder, ignore_errors=True)
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=cache) as made:
        file = Path(made) / "bundle.zip"
        _download(store, stored, file)
        unpacked = archive.unpack(file, Path(made) / "bundle")
        _checked(unpacked, weights_sha256)
        try:
            unpacked.rename(folder)
        except OSError:  # another worker was faster
            if not folder.is_dir():
                raise
    return _checked(folder, weights_sha256)


def _checked(folder: Path, weights_sha256: str) -> Bundle:
    bundle = load_bundle(folder)
    if bundle.weights_sha256 != weights_sha256:
        raise InvalidBundle(
            f"the weights of {bundle.name} have SHA-256 {bundle.weights_sha256[:16]}..., registered are those with "
            f"{weights_sha256[:16]}..."
        )
    return bundle


def _download(store: ObjectStore, stored: Stored, file: Path) -> None:
    digest = hashlib.sha256()
    with store.open(stored.object_key) as source, file.open("wb") as target:
        while chunk := source.read(_CHUNK_BYTES):
            digest.update(chunk)
            target.write(chunk)
    if digest.digest() != stored.sha256:
        raise DigestMismatch("The stored model is not the one that was registered (SHA-256 differs).")
