"""A file as an object in a folder store, without an index."""

from __future__ import annotations

import hashlib
from io import BytesIO
from pathlib import Path
from typing import Any

from pacs.part10 import FileHead, read_head
from storage.objects.directory import DirectoryStore
from storage.objects.keys import new_key
from storage.retrieval import StoredInstance


def kept(file: BytesIO, folder: Path, **over: Any) -> tuple[DirectoryStore, StoredInstance]:
    """The store in `folder` and the instance in it; fields of the instance by name."""
    data = file.getvalue()
    head = read_head(BytesIO(data)) or FileHead("1.2.840.10008.1.2.1", "1.2.3", "1.2.4", 0)
    store, key = DirectoryStore(folder), new_key("1.2")
    with store.writer(key) as writer:
        writer.write([data])
        writer.commit()
    values: dict[str, Any] = {
        "sop_class": head.sop_class,
        "sop_uid": head.sop_uid,
        "series_uid": "1.2.1",
        "study_uid": "1.2",
        "transfer_syntax": head.transfer_syntax,
        "object_key": key,
        "object_size": len(data),
        "dataset_offset": head.dataset_offset,
        "sha256": hashlib.sha256(data[head.dataset_offset :]).digest(),
        **over,
    }
    return store, StoredInstance(**values)
