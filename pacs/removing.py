"""Background work for what was deleted or rejected: notes that were not applied yet, notes of our own, and the purge.

One task of the exchange process (`pacs/exchange.py`), woken by changes and by a slow look of its own.
"""

from __future__ import annotations

import threading

import structlog

from pacs.tasks import Exchange
from storage import changes, purge
from storage.database import Database
from storage.errors import ObjectStoreUnavailable
from storage.objects import ObjectStore
from storage.removal import RejectionPolicy

__all__ = ["follow_notes", "purge_expired", "remove"]

log = structlog.get_logger()

_LOOK_S = 15.0  # between two looks when nobody rings


def remove(exchange: Exchange, stop: threading.Event) -> None:
    """Apply rejection notes, write our own, purge what is past its grace time, until `stop` is set."""
    bell = exchange.bells.on(changes.CHANNEL)
    policy = exchange.config.rejection
    while not stop.is_set():
        bell.clear()
        _look(exchange, policy)
        bell.wait(_LOOK_S)


def _look(exchange: Exchange, policy: RejectionPolicy) -> None:
    notes = follow_notes(exchange.database, exchange.store, exchange.config.ae_title, policy)
    purged = purge_expired(exchange.database, exchange.store)
    if notes or purged:
        log.info("removals followed up", notes=notes, purged=purged)


def follow_notes(database: Database, store: ObjectStore, ae_title: str, policy: RejectionPolicy) -> int:
    """Apply notes that came and were not applied yet, write those of our own that are due; how many."""
    with database.autocommit() as connection:
        found = connection.execute("SELECT FROM rejection_notes WHERE state IN ('waiting', 'due') LIMIT 1").fetchone()
    if found is None:
        return 0
    from pacs import rejection, rejection_notes  # noqa: PLC0415 - pydicom only when there is a note

    applied = rejection.apply_waiting(database, store, policy)
    return applied + rejection_notes.write_due(database, store, ae_title, policy)


def purge_expired(database: Database, store: ObjectStore) -> int:
    """Remove rows and objects of all whose grace time is over; how many instances. Safe to run in several processes.

    Raises: `Unavailable`; the next run goes on.
    """
    purged = 0
    while count := _purge_some(database):
        purged += count
    while True:
        with database.autocommit() as connection:
            keys = purge.doomed_objects(connection)
        if not keys:
            return purged
        _delete(store, keys)
        with database.autocommit() as connection:
            purge.forget_objects(connection, keys)


def _purge_some(database: Database) -> int:
    with database.autocommit() as connection:
        if not purge.is_due(connection):
            return 0
    with database.transaction() as connection:
        changes.begin(connection)
        return purge.purge(connection)


def _delete(store: ObjectStore, keys: list[str]) -> None:
    for key in keys:
        try:
            store.delete(key)
        except ObjectStoreUnavailable:
            log.warning("an object of purged rows cannot be deleted yet", object_key=key)
            raise
