"""Empties the queue of one destination: leased, in rounds, over several lines, every result written soon.

What was sent and not written yet when the process dies is sent again; the other side recognises it. While only the
database is away, results are kept until it is back.
"""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

import structlog
from pydicom.uid import generate_uid

from pacs.announcing import Announcer, ask_commitment, notice
from pacs.calling import caller_policy
from pacs.delivery import DimseLine, Item, Line, Result, StoppedError, Throttle
from pacs.dimse.sender import in_associations
from pacs.stowing import StowLine
from storage import destinations, forwarding, peers
from storage.errors import (
    DatabaseUnavailable,
    NotFound,
    ObjectStoreUnavailable,
    PeerRefused,
    PeerUnavailable,
    Unavailable,
)
from storage.retrieval import details, gone, stored_instances

if TYPE_CHECKING:
    from pacs.dimse.sender import Kind
    from pacs.tasks import Exchange
    from storage.destinations import Destination
    from storage.peers import Peer

__all__ = ["Courier"]

log = structlog.get_logger()

_ROUND = 256  # instances whose rows are in memory
_MARK = (32, 0.5)  # results are written when so many have gathered, or so many seconds have passed
_AWAY_S = 0.5  # between two tries to write them while the database is away
_COMMIT_AT_ONCE = 500  # instances in one request for commitment


class Courier:
    """Works for one destination in a thread of its own until nothing is due, the line fails or it is halted."""

    def __init__(self, exchange: Exchange, destination: Destination, owner: str) -> None:
        self._exchange, self._owner = exchange, owner
        self.destination = destination
        self._peer: Peer | None = None
        self._halted = threading.Event()
        self._throttle = Throttle(self._halted)
        self._lock = threading.Lock()
        self._results: list[Result] = []
        self._marked_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name=f"to {destination.name}", daemon=True)

    @property
    def working(self) -> bool:
        """Whether it still runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def halt(self) -> None:
        """End soon: an object that is under way is broken off and sent again later."""
        self._halted.set()

    def join(self, timeout_s: float) -> None:
        """Wait for the end."""
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            while self._may_go_on() and self._round():
                pass
        except StoppedError:
            pass
        except DatabaseUnavailable as error:
            log.warning("forwarding waits", destination=self.destination.name, error=str(error).splitlines()[0])
        except Unavailable as error:
            self._line_failed(str(error))
        except Exception as error:
            log.exception("forwarding failed", destination=self.destination.name)
            self._line_failed(f"{type(error).__name__}: see the log of the exchange process")
        finally:
            self._leave()

    # ---- may we

    def _may_go_on(self) -> bool:
        """Look at the destination again: a person may have changed or paused it."""
        if self._halted.is_set():
            return False
        with self._exchange.database.autocommit() as connection:
            try:
                self.destination = destinations.by_name(connection, self.destination.name)
            except NotFound:
                return False
            self._peer = peers.by_name(connection, self.destination.peer)
        if self._peer is None:
            raise PeerUnavailable(f"There is no peer {self.destination.peer}.")
        return not self.destination.paused and self._is_open()

    def _is_open(self) -> bool:
        window = self.destination.open_at(dt.datetime.now(dt.UTC))
        if window is not None:
            self._throttle.bytes_per_s = window.bytes_per_s
        return window is not None

    # ---- rounds

    def _round(self) -> bool:
        """Do what is due next; False when nothing is."""
        if self.destination.method == "ian":
            return self._announce()
        database, pk = self._exchange.database, self.destination.destination_pk
        with database.autocommit() as connection:
            found = forwarding.waiting(connection, pk, _ROUND)
            stored = {one.sop_uid: one for one in details(connection, [one.instance_pk for one in found], notes=True)}
            missing = [one.queue_pk for one in found if one.sop_uid not in stored]
            if missing:
                forwarding.lost_interest(connection, missing, "It is no longer served here.")
        if not found:
            return self.destination.commitment and self._ask_commitment()
        self._send([Item(one.queue_pk, stored[one.sop_uid]) for one in found if one.sop_uid in stored])
        return True

    def _send(self, items: Sequence[Item]) -> None:
        kinds = list(dict.fromkeys((item.instance.sop_class, item.instance.transfer_syntax) for item in items))
        groups = in_associations(kinds) if self.destination.method == "dimse" else [kinds]
        for group in groups:
            chosen = set(group)
            feed = deque(one for one in items if (one.instance.sop_class, one.instance.transfer_syntax) in chosen)
            errors = self._work_together(feed, group, min(self.destination.parallel, len(feed)))
            self._mark()
            if errors:
                raise errors[0]

    def _work_together(self, feed: deque[Item], kinds: Sequence[Kind], count: int) -> list[Exception]:
        """Several lines until the feed is empty; what ended those that ended early."""
        errors: list[Exception] = []

        def work() -> None:
            try:
                self._work(feed, kinds)
            except Exception as error:
                errors.append(error)

        # Daemons: a line that waits for a silent peer must not keep the process from ending.
        threads = [threading.Thread(target=work, name=self.destination.name, daemon=True) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return errors

    def _line(self, kinds: Sequence[Kind]) -> Line:
        assert self._peer is not None
        policy, store = caller_policy(self._exchange.config), self._exchange.store
        if self.destination.method == "stow":
            return StowLine(self._peer, policy, store, self._throttle)
        return DimseLine(self._peer, policy, store, self._throttle, kinds)

    def _work(self, feed: deque[Item], kinds: Sequence[Kind]) -> None:
        """One line, until the feed is empty."""
        with self._line(kinds) as line:
            while not self._halted.is_set() and self._is_open() and (items := _take(feed, line)):
                try:
                    results = line.send(items)
                except PeerUnavailable as error:
                    self._broke(items, str(error))
                    raise
                except ObjectStoreUnavailable as error:
                    self._exchange.store.check()  # away altogether: raises
                    self._note([Result(item, str(error)) for item in items])
                    return  # the line may be half-way through an object
                self._note(results)

    # ---- results

    def _note(self, results: Sequence[Result]) -> None:
        count, seconds = _MARK
        with self._lock:
            self._results += results
            waits = len(self._results) < count and time.monotonic() - self._marked_at < seconds
        if not waits:
            self._mark()

    def _mark(self) -> None:
        """Write the results; while the database is away, wait for it rather than send them twice."""
        with self._lock:
            while self._results:
                try:
                    self._write()
                except DatabaseUnavailable:
                    if self._halted.wait(_AWAY_S):
                        raise
                else:
                    self._results = []
            self._marked_at = time.monotonic()

    def _write(self) -> None:
        taken = [result.item for result in self._results if not result.error]
        with self._exchange.database.transaction() as connection:
            if taken:
                size = sum(item.instance.object_size for item in taken)
                forwarding.done(connection, self.destination, [item.queue_pk for item in taken], size)
            for item, error in self._results:
                if error:
                    log.warning(
                        "not forwarded", destination=self.destination.name, sop_uid=item.instance.sop_uid, error=error
                    )
                    forwarding.refused(connection, self.destination, item.queue_pk, error)

    def _broke(self, items: Sequence[Item], error: str) -> None:
        self._mark()
        with self._exchange.database.transaction() as connection:
            for item in items:
                forwarding.broke(connection, self.destination, item.queue_pk, error)

    def _line_failed(self, error: str) -> None:
        try:
            with self._exchange.database.autocommit() as connection:
                pause_s = forwarding.line_failed(connection, self.destination.destination_pk, error)
            log.warning("line failed", destination=self.destination.name, error=error, again_in_s=round(pause_s, 1))
        except DatabaseUnavailable:
            log.warning("line failed", destination=self.destination.name, error=error)

    def _leave(self) -> None:
        try:
            with self._exchange.database.autocommit() as connection:
                forwarding.release(connection, self.destination.destination_pk, self._owner)
                destinations.notify(connection)
        except DatabaseUnavailable:
            log.info("the lease ends by itself", destination=self.destination.name)

    # ---- notices and commitment

    def _announce(self) -> bool:
        database, config = self._exchange.database, self._exchange.config
        with database.autocommit() as connection:
            found = forwarding.waiting_studies(connection, self.destination.destination_pk, _MARK[0])
        if not found:
            return False
        assert self._peer is not None
        with Announcer(self._peer, config) as line:
            for queue_pk, study_uid, seen in found:
                if self._halted.is_set():
                    raise StoppedError
                with database.autocommit() as connection:
                    here, lost = stored_instances(connection, study_uid=study_uid), gone(connection, study_uid)
                    told = notice(study_uid, here, lost, config.ae_title, config.retrieve_url)
                error = ""
                try:
                    if told.ReferencedSeriesSequence:
                        line.announce(told, generate_uid(prefix=None))
                except PeerRefused as refusal:
                    error = str(refusal)
                with database.transaction() as connection:
                    if error:
                        forwarding.refused(connection, self.destination, queue_pk, error)
                    else:
                        forwarding.done(connection, self.destination, [queue_pk], seen=seen)
        return True

    def _ask_commitment(self) -> bool:
        """Ask the destination to commit itself to what was sent."""
        database, pk, transaction_uid = (
            self._exchange.database,
            self.destination.destination_pk,
            str(generate_uid(prefix=None)),
        )
        with database.transaction() as connection:
            found = forwarding.sent(connection, pk, _COMMIT_AT_ONCE)
            forwarding.ask(connection, [queue_pk for queue_pk, _ in found], transaction_uid)
        if not found:
            return False
        assert self._peer is not None
        try:
            report = ask_commitment(self._peer, self._exchange.config, transaction_uid, [one for _, one in found])
        except PeerRefused:
            with database.autocommit() as connection:
                forwarding.unask(connection, transaction_uid)
            raise
        if report is not None:
            with database.transaction() as connection:
                forwarding.take_report(connection, report.transaction_uid, report.committed, report.failed)
        return True


def _take(feed: deque[Item], line: Line) -> list[Item]:
    """The next items for one `send`; the feed is shared by several threads."""
    items: list[Item] = []
    size = 0
    while len(items) < line.most_items and (not items or size < line.most_bytes):
        try:
            items.append(feed.popleft())
        except IndexError:
            break
        size += items[-1].instance.object_size
    return items
