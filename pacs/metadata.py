"""The metadata of a series as one compressed object: made once when the series settles, or when it is first asked for.

So the metadata of a study of 900 instances is a read of one object for each of its series, not of 900 headers. Nothing
is told when a series changes: what is kept belongs to one version of the series (`storage.metadata`), and another
version makes another object. Small series are read from their instances each time: that takes a millisecond each.
"""

from __future__ import annotations

import secrets
import threading
import zlib
from collections.abc import Iterator
from contextlib import suppress

import orjson
import structlog

from pacs.retrieve import Selection
from pacs.tasks import Exchange
from storage import metadata
from storage.database import Database
from storage.errors import InvalidDataSet, NotFound, SanglocError, Unavailable
from storage.metadata import SeriesVersion, versions
from storage.objects import ObjectStore
from storage.objects.keys import new_key
from storage.retrieval import StoredInstance

__all__ = ["BASE", "LEAST_INSTANCES", "SeriesVersion", "attributes", "series_json", "settle", "versions"]

BASE = b"\x01"
"""Stands for the address of the DICOMweb service in what is kept; JSON has no such byte."""
LEAST_INSTANCES = 8
"""A series of fewer instances is not worth an object of its own."""

_LEVEL = 6
_CHUNK_BYTES = 256 << 10
_POLL_S = 15.0
_PAUSE_S = 1.0  # between two looks while there is something to do

log = structlog.get_logger()


def series_json(database: Database, store: ObjectStore, series: SeriesVersion) -> Iterator[bytes]:
    """The JSON objects of the instances of a series with commas between them, in pieces; `BASE` stands for the address.

    What is made here for the first time is kept for the next.
    """
    if series.object_key is not None:
        try:
            packed = store.read(series.object_key)
        except NotFound:  # another process has just replaced it
            log.info("series metadata is gone", series_uid=series.series_uid)
        else:
            yield from _unpacked(packed)
            return
    fresh = _fresh(database, store, series)
    if series.instances < LEAST_INSTANCES:
        yield from fresh
    else:
        yield from _kept(database, store, series, fresh)


def attributes(store: ObjectStore, instance: StoredInstance, base: str) -> dict[str, object]:
    """The DICOM JSON model of one instance; `base` is the address of the DICOMweb service."""
    from pacs.dicomjson import json_of  # noqa: PLC0415  (10 MB that an idle exchange does not need)

    here = f"{base}/studies/{instance.study_uid}/series/{instance.series_uid}/instances/{instance.sop_uid}/bulkdata/"
    return json_of(store, instance, here.__add__)


def settle(exchange: Exchange, stop: threading.Event) -> None:
    """The background task: make the metadata of series that got their last instance a while ago."""
    while not stop.is_set():
        with exchange.database.autocommit() as connection:
            mark, found = metadata.settled(connection, settle_s=exchange.config.settle_s, least=LEAST_INSTANCES)
        for study_uid, series_uid in found:
            if stop.is_set():
                return
            _settle_one(exchange, study_uid, series_uid)
        if mark is not None:
            with exchange.database.autocommit() as connection:
                metadata.seen(connection, mark)
        stop.wait(_POLL_S if mark is None else _PAUSE_S)


def _settle_one(exchange: Exchange, study_uid: str, series_uid: str) -> None:
    with exchange.database.autocommit() as connection:
        found = versions(connection, study_uid, series_uid)
    for series in found:
        if series.object_key is None and series.instances >= LEAST_INSTANCES:
            try:
                for _ in series_json(exchange.database, exchange.store, series):
                    pass
            except Unavailable:
                raise
            except SanglocError as error:  # whoever asks for it will hear why
                log.warning("series metadata not made", series_uid=series_uid, error=str(error))


def _fresh(database: Database, store: ObjectStore, series: SeriesVersion) -> Iterator[bytes]:
    """As `series_json`, from the headers of the stored objects."""
    token = secrets.token_hex(16)  # nothing that a sender can guess becomes an address
    mark, comma = token.encode(), b""
    for instance in Selection(database, study_uid=series.study_uid, series_uid=series.series_uid):
        try:
            found = attributes(store, instance, token)
        except (InvalidDataSet, NotFound) as error:
            log.warning("instance without metadata", sop_uid=instance.sop_uid, error=str(error))
            continue
        yield comma + orjson.dumps(found).replace(mark, BASE)
        comma = b","


def _kept(database: Database, store: ObjectStore, series: SeriesVersion, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The pieces, which are kept when they have all gone by. A reader who stops early keeps nothing."""
    key = new_key(series.study_uid)
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    with store.writer(key) as writer:
        for piece in pieces:
            if packed := packer.compress(piece):
                writer.write([packed])
            yield piece
        writer.write([packer.flush()])
        writer.commit()
    with database.autocommit() as connection:
        old = metadata.keep(connection, series.series_pk, series.version, key)
    log.info("series metadata made", series_uid=series.series_uid, instances=series.instances)
    if old is not None:
        with suppress(Unavailable):  # at worst an object that no row names, which `sangloc verify` reports
            store.delete(old)


def _unpacked(packed: bytes) -> Iterator[bytes]:
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
    for start in range(0, len(packed), _CHUNK_BYTES // 8):
        data = packed[start : start + _CHUNK_BYTES // 8]
        while data:
            yield unpacker.decompress(data, _CHUNK_BYTES)
            data = unpacker.unconsumed_tail
    yield unpacker.flush()
