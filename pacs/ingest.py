"""The one way in, for C-STORE, STOW-RS, import from a folder and our own results.

An object goes through three steps, and success is said only after the third: its bytes are durable in the object store;
the rows that make it visible, and its triage job, are committed; the sender is answered. Whatever happens in between
leaves an object that no row names, never a row without its object: after an error that leaves the outcome of a
transaction unknown the object is kept (`sangloc verify` finds it).

The key of an object is taken from its study, so that the files of a study share a folder; the first bytes wait in
memory until the Study Instance UID has been read from them, which the first chunk settles nearly always.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Literal, NamedTuple, NoReturn, Self

import psycopg
import structlog

from pacs.announcer import Announcer
from pacs.groupcommit import GroupCommit
from pacs.header import HeaderReader
from pacs.part10 import file_meta
from storage import set_aside
from storage.database import Database
from storage.errors import (
    DatabaseUnavailable,
    InvalidDataSet,
    ObjectStoreUnavailable,
    ObjectTooLarge,
    SanglocError,
    Unavailable,
)
from storage.indexing import Indexed, Indexer
from storage.objects import Buffer, ObjectStore, ObjectWriter
from storage.objects.keys import new_key
from storage.removal import DEFAULT_POLICY, RejectionPolicy
from storage.studies import InstanceHeader, Outcome, Received

__all__ = ["KEY_OBJECT", "Arrival", "Incoming", "Ingest"]

log = structlog.get_logger()

KEY_OBJECT = "1.2.840.10008.5.1.4.1.1.88.59"
_HELD_BYTES = 256 << 10  # how long an object waits for its Study Instance UID
_DEFAULT_MAX_OBJECT_BYTES = 4 << 30
_DATA_ERRORS = ("22", "23", "54")  # SQLSTATE classes: data exception, constraint, program limit


class Arrival(NamedTuple):
    """How urgent an instance is when it comes in."""

    priority: Literal["stat", "urgent", "routine"]
    latest_due_at: dt.datetime
    quiet: bool = False  # a study that was read is not put back on the list


class _Source(NamedTuple):
    aet: str
    address: str


class _Durable(NamedTuple):
    """An object that the store has taken for good."""

    key: str
    size: int
    dataset_offset: int
    sha256: bytes


class Ingest:
    """Takes objects in; one for each process, used by all its threads.

    Args:
        database: where the index and the jobs are.
        store: where the bytes go.
        screen: why no model will read an instance; '' asks for a triage job.
        arrival: priority and latest due time from the header, the time of arrival and the site.
        max_object_bytes: a longer data set is refused with `ObjectTooLarge`.
        site_of: the site from the sender's AE title and address.
        rejection: what becomes of rejection notes.
    """

    def __init__(
        self,
        database: Database,
        store: ObjectStore,
        *,
        screen: Callable[[InstanceHeader], str],
        arrival: Callable[[InstanceHeader, dt.datetime, str], Arrival],
        max_object_bytes: int = _DEFAULT_MAX_OBJECT_BYTES,
        site_of: Callable[[str, str], str] = lambda _aet, _address: "",
        rejection: RejectionPolicy = DEFAULT_POLICY,
    ) -> None:
        self.database, self.store, self.max_object_bytes = database, store, max_object_bytes
        self._screen, self._arrival, self._site_of, self._rejection = screen, arrival, site_of, rejection
        self._indexer = Indexer(database)
        self._commits: GroupCommit[Received, Indexed] = GroupCommit(self._index)
        self._announcer = Announcer(database)

    def receive(
        self,
        *,
        sop_class: str,
        sop_uid: str,
        transfer_syntax: str,
        source_aet: str,
        source_address: str,
        called_aet: str = "",  # noqa: ARG002 - part of the interface: who was called decides nothing yet
        reader: HeaderReader | None = None,
    ) -> Incoming:
        """One object on its way in; class and instance UID as the sender's command says.

        A `reader` that is done with this data set saves reading its header a second time.
        """
        return Incoming(self, sop_class, sop_uid, transfer_syntax, _Source(source_aet, source_address), reader=reader)

    def close(self) -> None:
        """Send the last announcement and stop. Objects still on their way in must have ended."""
        self._announcer.close()

    def _index(self, batch: list[Received]) -> Sequence[Indexed | BaseException]:
        """Index a batch; where one element is at fault, each gets a transaction of its own."""
        try:
            return self._indexer.index(batch)
        except (SanglocError, psycopg.Error, ValueError) as error:
            if not _is_about_data(error):
                return [error] * len(batch)
        return [self._index_alone(received) for received in batch]

    def _index_alone(self, received: Received) -> Indexed | BaseException:
        try:
            (indexed,) = self._indexer.index([received])
        except (SanglocError, psycopg.Error, ValueError) as error:
            if isinstance(error, DatabaseUnavailable):
                return _of_unknown_outcome(error)
            return error
        return indexed

    def _commit(self, header: InstanceHeader, durable: _Durable, source: _Source) -> Outcome:
        """Make a durable object visible; return when that is committed."""
        at = dt.datetime.now(dt.UTC)
        site = self._site_of(source.aet, source.address)
        priority, latest_due_at, quiet = self._arrival(header, at, site)
        received = Received(
            header=header,
            object_key=durable.key,
            object_size=durable.size,
            dataset_offset=durable.dataset_offset,
            sha256=durable.sha256,
            source_aet=source.aet,
            source_address=source.address,
            received_at=at,
            site=site,
            priority=priority,
            latest_due_at=latest_due_at,
            not_eligible=self._screen(header),
            quiet=quiet,
        )
        try:
            indexed = self._commits.submit(received)
        except (SanglocError, psycopg.Error, ValueError) as error:
            self._explain(error, header.sop_uid, durable, source)
        if not indexed.keep_object:
            self._drop(durable.key)
        if header.sop_class == KEY_OBJECT and indexed.outcome != "conflict":
            self._apply_note(header.sop_uid)
        if indexed.outcome == "stored":
            self._announcer.announce(asked=not received.not_eligible)
        return indexed.outcome

    def _apply_note(self, sop_uid: str) -> None:
        """A key object document may reject instances; what fails here is done by the exchange process."""
        from pacs import rejection  # noqa: PLC0415 - pydicom only when there is a note

        try:
            rejection.apply(self.database, self.store, sop_uid, self._rejection)
        except Unavailable as error:
            log.warning("rejection note waits", sop_uid=sop_uid, error=type(error).__name__)

    def _explain(self, error: Exception, sop_uid: str, durable: _Durable, source: _Source) -> NoReturn:
        """Say what an error of the index means for the object, and raise that."""
        if _is_about_data(error):
            self._set_aside(f"The index cannot hold its header: {error}", sop_uid, durable, source)
        if isinstance(error, DatabaseUnavailable):
            if _was_never_sent(error):
                self._drop(durable.key)
            raise DatabaseUnavailable(str(error)) from error
        log.error("the index refuses everything", sop_uid=sop_uid, error=repr(error))
        raise Unavailable(f"The index refuses everything: {type(error).__name__}") from error

    def _set_aside(self, reason: str, sop_uid: str, durable: _Durable, source: _Source) -> NoReturn:
        """Keep a durable object that cannot be served for a person to look at, and raise `InvalidDataSet`."""
        try:
            with self.database.transaction() as connection:
                kept = set_aside.add(
                    connection,
                    kind="invalid",
                    reason=reason,
                    sop_uid=sop_uid,
                    object_key=durable.key,
                    object_size=durable.size,
                    dataset_offset=durable.dataset_offset,
                    sha256=durable.sha256,
                    source_aet=source.aet,
                    source_address=source.address,
                )
        except DatabaseUnavailable as error:
            if _was_never_sent(error):
                self._drop(durable.key)
            raise
        if not kept:
            self._drop(durable.key)
        log.warning("set aside", sop_uid=sop_uid, reason=reason, source_aet=source.aet)
        raise InvalidDataSet(reason)

    def _drop(self, key: str) -> None:
        """Remove an object that no row names; at worst it stays, which `sangloc verify` reports."""
        with suppress(ObjectStoreUnavailable):
            self.store.delete(key)


class Incoming:
    """One object on its way in. Leaving the context without `commit` drops it.

    Not for use in several threads at once.
    """

    def __init__(
        self,
        ingest: Ingest,
        sop_class: str,
        sop_uid: str,
        transfer_syntax: str,
        source: _Source,
        *,
        reader: HeaderReader | None = None,
    ) -> None:
        self._ingest, self._source = ingest, source
        self._sop_class, self._sop_uid = sop_class, sop_uid
        self._meta = file_meta(sop_class, sop_uid, transfer_syntax, source.aet)
        self._reader = reader or HeaderReader(transfer_syntax)
        self._reading = not self._reader.done
        self._problem = ""
        self._digest = hashlib.sha256()
        self._size = 0  # bytes of the data set
        self._held: list[Buffer] = [self._meta]
        self._key = ""
        self._writer: ObjectWriter | None = None

    def write(self, chunks: Sequence[Buffer]) -> None:
        """Append bytes of the data set; the caller may reuse their memory when this returns.

        Raises:
            ObjectTooLarge: longer than `max_object_bytes`.
            ObjectStoreFull: no room left.
            ObjectStoreUnavailable: the store cannot be reached.
        """
        for chunk in chunks:
            self._size += len(chunk)
            if self._reading:
                self._read_header(chunk)
        if self._size > self._ingest.max_object_bytes:
            raise ObjectTooLarge(f"The object is larger than {self._ingest.max_object_bytes} bytes")
        if self._writer:
            self._writer.write(chunks)
        elif self._reading and self._size < _HELD_BYTES and not self._reader.study_uid():
            self._held += map(bytes, chunks)
        else:
            self._open(chunks)
        for chunk in chunks:  # last, while the disk is at work already
            self._digest.update(chunk)

    def commit(self) -> Outcome:
        """Make the object durable, then visible.

        Returns: 'stored'; 'duplicate' for bytes that are stored already; 'conflict' for other bytes under a stored
        UID, which are kept aside.

        Raises:
            InvalidDataSet: it cannot be indexed; the object is kept aside.
            Unavailable: object store or database is away; nothing is visible.
        """
        writer = self._writer or self._open(())
        header = self._header()
        writer.commit()
        size = len(self._meta) + self._size
        durable = _Durable(self._key, size, len(self._meta), self._digest.digest())
        if header is None:
            self._ingest._set_aside(self._problem, self._sop_uid, durable, self._source)
        return self._ingest._commit(header, durable, self._source)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._writer:
            self._writer.__exit__(*exc)

    def _open(self, chunks: Sequence[Buffer]) -> ObjectWriter:
        self._key = new_key(self._reader.study_uid() or self._sop_uid)
        writer = self._writer = self._ingest.store.writer(self._key)
        writer.write([*self._held, *chunks])
        self._held.clear()
        return writer

    def _read_header(self, chunk: Buffer) -> None:
        try:
            self._reading = not self._reader.feed(chunk)
        except InvalidDataSet as error:
            self._problem, self._reading = str(error), False

    def _header(self) -> InstanceHeader | None:
        """The header, or None with the problem noted."""
        try:
            if self._problem:
                return None
            header = self._reader.header()
        except InvalidDataSet as error:
            self._problem = str(error)
            return None
        for name, said, found in (
            ("SOP Instance UID", self._sop_uid, header.sop_uid),
            ("SOP Class UID", self._sop_class, header.sop_class),
        ):
            if said.rstrip("\0 ") != found:  # PS3.7 9.1.1.1.1: the command names the instance that follows
                self._problem = f"{name} of the command and of the data set disagree: {said[:64]!r}, {found!r}"
                return None
        return header


def _sqlstate(error: BaseException) -> str:
    """What the server said, for an error or the one behind it; '' when it said nothing."""
    cause = error if isinstance(error, psycopg.Error) else error.__cause__
    return (cause.sqlstate or "") if isinstance(cause, psycopg.Error) else ""


def _is_about_data(error: BaseException) -> bool:
    """Whether the rows are at fault: values that do not fit, and no try will ever succeed."""
    return isinstance(error, ValueError | psycopg.DataError) or _sqlstate(error).startswith(_DATA_ERRORS)


def _of_unknown_outcome(error: DatabaseUnavailable) -> DatabaseUnavailable:
    """The same error for a second attempt, which does not know what the first one has done."""
    unknown = DatabaseUnavailable(str(error))
    unknown.__cause__ = error
    return unknown


def _was_never_sent(error: DatabaseUnavailable) -> bool:
    """Whether no statement can have reached the server, so that no row names the object."""
    cause = error.__cause__
    return cause is None or (isinstance(cause, psycopg.Error) and cause.pgconn is not None)
