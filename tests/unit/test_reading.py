"""Fetching and decoding one job's image: digests, and decoders that crash or hang."""

from __future__ import annotations

import datetime as dt
import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import crashing
from dx_film import dx_object

from inference import reading
from inference.pixels import read_pixels
from inference.reading import read_job
from models.phantom import chest
from models.preprocess import WHOLE
from storage.errors import DigestMismatch, NotFound, NotScorable
from storage.jobs import Job
from storage.objects import ObjectStore
from storage.objects.keys import new_key

FILM, OFFSET = dx_object(chest(1, rows=320, columns=288))
AT = dt.datetime(2026, 3, 2, tzinfo=dt.UTC)


def job(store: ObjectStore, part10: bytes = FILM, **over: Any) -> Job:
    """A job whose object is in the store."""
    key = new_key("1.2")
    with store.writer(key) as writer:
        writer.write([part10])
        writer.commit()
    values: dict[str, Any] = dict.fromkeys(Job.__dataclass_fields__, "") | {
        "attempts": 1,
        "object_key": key,
        "object_size": len(part10),
        "dataset_offset": OFFSET,
        "sha256": hashlib.sha256(part10[OFFSET:]).digest(),
        "transfer_syntax": "1.2.840.10008.1.2.1",
        "arrived_at": AT,
        "latest_due_at": AT,
    }
    return Job(**{**values, **over})


def as_float(film: Any) -> Any:
    return WHOLE, film.astype(np.float32)


@pytest.mark.parametrize("attempts", [1, 2])
def test_the_image_is_the_same_in_this_process_and_apart(attempts: int, store: ObjectStore) -> None:
    read = read_job(store, job(store, attempts=attempts), as_float)
    assert np.array_equal(read.network_input, read_pixels(FILM, OFFSET, "1.2.840.10008.1.2.1"))
    assert read.decode_ms > 0


def test_other_bytes_than_were_acknowledged_are_never_read(store: ObjectStore) -> None:
    with pytest.raises(DigestMismatch):
        read_job(store, job(store, sha256=bytes(32)), as_float)


def test_a_missing_object_is_told(store: ObjectStore) -> None:
    with pytest.raises(NotFound):
        read_job(store, job(store, object_key=new_key("1.2")), as_float)


def test_an_object_that_no_memory_holds_is_not_fetched(store: ObjectStore) -> None:
    with pytest.raises(NotScorable, match="too large to read: 5120 MiB"):
        read_job(store, job(store, object_size=5 << 30), as_float)


def test_a_decoder_that_crashes_takes_only_its_own_process_along(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "read_pixels", crashing.crash)
    with pytest.raises(NotScorable, match="crashes the decoder"):
        read_job(store, job(store, attempts=2), as_float)


def test_a_decoder_that_hangs_is_ended(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "read_pixels", crashing.hang)
    monkeypatch.setattr(reading, "_ISOLATED_LIMIT_S", 2.0)
    with pytest.raises(NotScorable, match="within 2 seconds"):
        read_job(store, job(store, attempts=2), as_float)
