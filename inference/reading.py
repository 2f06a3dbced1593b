"""One job's object from the store to the network's input: fetched, verified, decoded, looked at, prepared."""

from __future__ import annotations

import hashlib
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from inference.gate import Gate, Looked, frame_as_stored
from inference.pixels import read_pixels
from models.preprocess import Frame
from storage.errors import DigestMismatch, NotScorable
from storage.jobs import Job
from storage.objects import ObjectStore

__all__ = ["Prepare", "Read", "read_job"]

Grey = npt.NDArray[np.uint8]
Prepare = Callable[[Grey], tuple[Frame, npt.NDArray[np.float32]]]

_MAX_OBJECT_BYTES = 400 << 20  # 12,000 x 12,000 pixels of 16 bits, and room for a header
_ISOLATED_LIMIT_S = 120.0  # no image takes so long to decode


class Read(NamedTuple):
    """The network's input [channels, size, size], and how long it took to fetch, decode, look at and prepare."""

    network_input: npt.NDArray[np.float32]
    decode_ms: float
    frame: Frame  # of the stored image that the network sees
    notes: tuple[str, ...] = ()  # what the gate put right, for a person
    turned: int = 0  # degrees counter-clockwise by which the stored image is turned: 0, 90, 180, 270


def read_job(store: ObjectStore, job: Job, prepare: Prepare, gate: Gate | None = None) -> Read:
    """Fetch, verify and decode the image of a job, have the gate put it right or refuse it, and prepare it.

    A first attempt decodes in this process. A later one may be at an image whose decoder crashed the worker, so it
    decodes in a process of its own.

    Raises:
        NotScorable: there is no image that the model can read; trying again will not help.
        DigestMismatch: the stored bytes are not those that were acknowledged.
        NotFound: the object is gone.
        ObjectStoreUnavailable: the store is away; trying again later is right.
    """
    begun = time.perf_counter()
    if job.object_size > _MAX_OBJECT_BYTES:
        raise NotScorable(f"the object is too large to read: {job.object_size >> 20} MiB")
    part10 = store.read(job.object_key)
    if hashlib.sha256(memoryview(part10)[job.dataset_offset :]).digest() != job.sha256:
        raise DigestMismatch("The stored bytes are not those that were acknowledged (SHA-256 differs).")
    decode = read_pixels if job.attempts <= 1 else _read_isolated
    film = decode(part10, job.dataset_offset, job.transfer_syntax)
    looked = gate.look(film) if gate else Looked(film)
    frame, network_input = prepare(looked.film)
    taken_ms = (time.perf_counter() - begun) * 1000
    return Read(network_input, taken_ms, frame_as_stored(frame, looked.turned), looked.notes, looked.turned)


def _read_isolated(part10: bytes, dataset_offset: int, transfer_syntax: str) -> Grey:
    """`read_pixels` in a process of its own: a crash or an endless loop of a decoder is a reason, not our end."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(1, mp_context=context)
    try:
        return pool.submit(read_pixels, part10, dataset_offset, transfer_syntax).result(_ISOLATED_LIMIT_S)
    except BrokenProcessPool as error:
        raise NotScorable("the image cannot be decoded: it crashes the decoder") from error
    except TimeoutError as error:
        raise NotScorable(f"the image cannot be decoded within {_ISOLATED_LIMIT_S:.0f} seconds") from error
    finally:
        for process in (pool._processes or {}).values():  # a decoder that hangs never ends by itself
            process.kill()
        pool.shutdown(wait=True, cancel_futures=True)
