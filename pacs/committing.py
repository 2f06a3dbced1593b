"""Storage commitment: is each instance still what was acknowledged, and the data sets that ask and tell so (PS3.4 J).

An instance is committed only when its object was read from end to end now and its SHA-256 is the one of the index.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

import structlog
from pydicom.dataset import Dataset

from storage import commitment
from storage.commitment import Asked, Held
from storage.errors import InvalidDataSet, InvalidUID, NotFound
from storage.uid import InstanceUID

if TYPE_CHECKING:
    from storage.database import Database
    from storage.objects import ObjectStore

__all__ = [
    "CLASS_CONFLICT", "COMMITTED", "MAX_INSTANCES", "MAX_REQUEST_BYTES", "NO_SUCH_INSTANCE", "PROCESSING_FAILURE",
    "PUSH_MODEL", "PUSH_MODEL_INSTANCE", "Report", "TooSlowError", "check", "outcome", "read_report", "read_request",
    "report", "request",
]  # fmt: skip

log = structlog.get_logger()

PUSH_MODEL = "1.2.840.10008.1.20.1"
PUSH_MODEL_INSTANCE = "1.2.840.10008.1.20.1.1"  # well-known (PS3.4 J.3.5)
COMMITTED, PROCESSING_FAILURE, NO_SUCH_INSTANCE, CLASS_CONFLICT = 0, 0x0110, 0x0112, 0x0119  # PS3.3 C.14.1.1

MAX_INSTANCES = 100_000  # of one request; a CT study has some thousand
MAX_REQUEST_BYTES = 32 << 20  # of its data set: some 200 bytes for each instance
_BATCH = 500
_CHUNK_BYTES = 1 << 20


class TooSlowError(Exception):
    """The check took longer than it may here; nothing is known yet."""


class Report(NamedTuple):
    """The outcome of a transaction (PS3.4 J.3.3)."""

    transaction_uid: str
    committed: list[Asked]
    failed: list[tuple[Asked, int]]  # with the Failure Reason

    @property
    def event_type(self) -> int:
        """1: all are committed, 2: failures exist (PS3.4 table J.3-3)."""
        return 2 if self.failed else 1


def check(database: Database, store: ObjectStore, asked: Sequence[Asked], until: float | None = None) -> Iterator[int]:
    """The Failure Reason of each instance in order, 0 for those that are committed.

    Args:
        database: the index.
        store: the objects, which are read in full.
        asked: what shall be committed.
        until: give up (by `TooSlowError`) at this time of `time.monotonic`.

    Raises:
        Unavailable: index or objects cannot be asked now: nothing is known of what is left.
    """
    for start in range(0, len(asked), _BATCH):
        batch = asked[start : start + _BATCH]
        with database.autocommit() as connection:
            known = commitment.held(connection, [one.sop_uid for one in batch])
        for one in batch:
            _check_time(until)
            yield _judge(store, one, known.get(one.sop_uid), until)


def _check_time(until: float | None) -> None:
    if until is not None and time.monotonic() > until:
        raise TooSlowError


def _judge(store: ObjectStore, asked: Asked, held: Held | None, until: float | None) -> int:
    if held is None:
        return NO_SUCH_INSTANCE
    if held.sop_class != asked.sop_class:
        return CLASS_CONFLICT
    problem = _problem(store, held, until)
    if problem:
        log.error("object is damaged", sop_uid=held.sop_uid, object_key=held.object_key, problem=problem)
        return PROCESSING_FAILURE
    return COMMITTED


def _problem(store: ObjectStore, held: Held, until: float | None) -> str:
    """What is wrong with the object, '' when nothing is."""
    digest, size = hashlib.sha256(), 0
    try:
        with closing(store.open(held.object_key)) as file:
            size = len(file.read(held.dataset_offset))
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
                size += len(chunk)
                _check_time(until)
    except NotFound:
        return "missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if size != held.object_size:
        return f"{size} bytes instead of {held.object_size}"
    return "" if digest.digest() == held.sha256 else "other bytes than were acknowledged"


def outcome(transaction_uid: str, asked: Sequence[Asked], failures: Sequence[int]) -> Report:
    """What is to be told of a checked request."""
    pairs = list(zip(asked, failures, strict=True))
    return Report(transaction_uid, [one for one, why in pairs if not why], [pair for pair in pairs if pair[1]])


# ---- data sets (PS3.4 tables J.3-1 and J.3-3)


def request(transaction_uid: str, instances: Sequence[Asked]) -> Dataset:
    """The Action Information of a request."""
    dataset = Dataset()
    dataset.TransactionUID = transaction_uid
    dataset.ReferencedSOPSequence = [_item(one) for one in instances]
    return dataset


def read_request(dataset: Dataset) -> tuple[str, list[Asked]]:
    """Transaction UID and instances of a request, each instance once.

    Raises:
        InvalidDataSet: a UID is missing or is none, there is no instance, or there are too many.
    """
    transaction_uid = _uid(dataset, "TransactionUID")
    items = dataset.get("ReferencedSOPSequence") or []
    if not items:
        raise InvalidDataSet("Referenced SOP Sequence is missing or empty")
    if len(items) > MAX_INSTANCES:
        raise InvalidDataSet(f"more than {MAX_INSTANCES} instances in one request")
    return transaction_uid, list(dict.fromkeys(_asked(item) for item in items))


def report(outcome: Report, retrieve_aet: str) -> Dataset:
    """The Event Information of a report."""
    dataset = Dataset()
    dataset.TransactionUID = outcome.transaction_uid
    dataset.RetrieveAETitle = retrieve_aet
    if outcome.committed:
        dataset.ReferencedSOPSequence = [_item(one) for one in outcome.committed]
    if outcome.failed:
        dataset.FailedSOPSequence = [_item(one, why) for one, why in outcome.failed]
    return dataset


def read_report(dataset: Dataset) -> Report:
    """The report of another archive; raises `InvalidDataSet` where it cannot be read."""
    committed = [_asked(item) for item in _items(dataset, "Referenced")]
    failed = [(_asked(item), _reason(item)) for item in _items(dataset, "Failed")]
    return Report(_uid(dataset, "TransactionUID"), committed, failed)


def _reason(item: Dataset) -> int:
    return int(item.get("FailureReason") or PROCESSING_FAILURE)


def _items(dataset: Dataset, which: str) -> Sequence[Dataset]:
    found: Sequence[Dataset] = dataset.get(f"{which}SOPSequence") or []
    return found


def _asked(item: Dataset) -> Asked:
    return Asked(_uid(item, "ReferencedSOPClassUID"), _uid(item, "ReferencedSOPInstanceUID"))


def _item(one: Asked, failure: int = COMMITTED) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = one.sop_class
    item.ReferencedSOPInstanceUID = one.sop_uid
    if failure:
        item.FailureReason = failure
    return item


def _uid(dataset: Dataset, keyword: str) -> str:
    try:
        return str(InstanceUID(str(dataset.get(keyword) or "")))
    except InvalidUID:
        raise InvalidDataSet(f"{keyword} is missing or not a UID") from None
