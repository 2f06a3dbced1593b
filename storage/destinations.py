"""Where copies go and which: destinations of forwarding and the rules that fill their queues.

Every change is in the audit log. Whoever changes rules holds the cursor row, so that a rule holds for every instance
behind the cursor, whatever is being committed meanwhile (see `storage.forwarding`).
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, LiteralString, NamedTuple, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from storage import audit, peers
from storage.database import Connection
from storage.errors import Conflict, InvalidInput, NotFound

__all__ = [
    "CHANNEL", "LEAST_BYTES_PER_S", "METHODS", "Destination", "Method", "Rule", "Status", "Window", "add_rule",
    "all_destinations", "all_rules", "by_name", "notify", "pause", "put", "remove", "remove_rule", "status",
]  # fmt: skip

CHANNEL = "sangloc_forwarding"  # LISTEN here to be woken
Method = Literal["dimse", "stow", "ian"]
METHODS: tuple[Method, ...] = get_args(Method)
LEAST_BYTES_PER_S = 32 << 10  # slower, and a peer takes it for a line that stalls
_MOST_PARALLEL, _MOST_ATTEMPTS, _MOST_WINDOWS, _MOST_VALUES = 16, 1000, 10, 1000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


class Window(NamedTuple):
    """Hours of the day, and how fast may be sent in them. `until` before `start` passes midnight; equal: all day."""

    start: dt.time
    until: dt.time
    bytes_per_s: int | None  # None: as fast as it goes

    def holds(self, at: dt.time) -> bool:
        """Whether this time of day lies in the window."""
        if self.start == self.until:
            return True
        if self.start < self.until:
            return self.start <= at < self.until
        return at >= self.start or at < self.until


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """One place that gets copies (dimse, stow), or is told what is there (ian). Raises `InvalidInput`."""

    name: str
    peer: str  # name in the registry of peers
    method: Method
    parallel: int = 1  # associations or connections at a time
    windows: tuple[Window, ...] = ()  # the first that holds counts; none given: always open, no limit
    timezone: str = "UTC"
    commitment: bool = False  # ask for storage commitment of what was sent
    max_attempts: int = 8  # for an instance that is refused
    paused: bool = False
    destination_pk: int = 0  # 0: not stored yet

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InvalidInput("The name of a destination is 1 to 64 letters, digits, dots, dashes and underscores.")
        if self.method not in METHODS:
            raise InvalidInput(f"The method of a destination is one of {', '.join(METHODS)}.")
        if not 1 <= self.parallel <= _MOST_PARALLEL:
            raise InvalidInput(f"A destination takes 1 to {_MOST_PARALLEL} connections at a time.")
        if not 1 <= self.max_attempts <= _MOST_ATTEMPTS:
            raise InvalidInput(f"An instance is tried 1 to {_MOST_ATTEMPTS} times.")
        if len(self.windows) > _MOST_WINDOWS or any(
            one.bytes_per_s is not None and one.bytes_per_s < LEAST_BYTES_PER_S for one in self.windows
        ):
            raise InvalidInput(
                f"A destination has at most {_MOST_WINDOWS} windows, each of {LEAST_BYTES_PER_S} B/s or more."
            )
        try:
            ZoneInfo(self.timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise InvalidInput("There is no such time zone; names are like Asia/Ho_Chi_Minh.") from None

    def open_at(self, now: dt.datetime) -> Window | None:
        """The window that holds at this moment; None while it is closed."""
        always = Window(dt.time(), dt.time(), None)
        at = now.astimezone(ZoneInfo(self.timezone)).time()
        return next((one for one in self.windows or (always,) if one.holds(at)), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What goes to a destination: an instance that fits every filter that is not empty."""

    destination: str
    source_aets: Sequence[str] = ()
    modalities: Sequence[str] = ()
    sites: Sequence[str] = ()
    sop_classes: Sequence[str] = ()
    flagged_only: bool = False  # only studies that a model has flagged, before or after they came
    urgency: int = 0  # higher goes first
    enabled: bool = True
    rule_pk: int = 0  # 0: not stored yet

    def __post_init__(self) -> None:
        for values in (self.source_aets, self.modalities, self.sites, self.sop_classes):
            if len(values) > _MOST_VALUES or any(not value or len(value) > 64 or "\0" in value for value in values):
                raise InvalidInput(f"A filter has at most {_MOST_VALUES} values of 1 to 64 characters.")
        if not 0 <= self.urgency <= 9:
            raise InvalidInput("The urgency of a rule is from 0 to 9.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How a destination is doing; counts are of instances, or of studies for the method ian."""

    name: str
    peer: str
    method: Method
    paused: bool
    waiting: int
    oldest_s: float  # age of the oldest that waits, 0 when none does
    dead: int
    uncommitted: int  # sent, and not confirmed where commitment is asked for
    sent_instances: int  # ever
    sent_bytes: int
    failures: int  # in a row, of the line
    retry_at: dt.datetime
    last_error: str
    last_error_at: dt.datetime | None
    last_success_at: dt.datetime | None
    working: bool  # an exchange process works for it now


_COLUMNS: LiteralString = (
    "destination_pk, name, peer, method, parallel, windows, timezone, commitment, max_attempts, paused"
)
_ALL: LiteralString = "SELECT " + _COLUMNS + " FROM forwarding_destinations"  # noqa: S608 - constants


def put(connection: Connection, destination: Destination, actor: str) -> None:
    """Add a destination, or change the one of its name. Call it in a transaction.

    Raises:
        InvalidInput: there is no such peer, or it cannot be reached by this method.
        Conflict: the method would change.
    """
    peer = peers.by_name(connection, destination.peer)
    if peer is None:
        raise InvalidInput(f"There is no peer {destination.peer[:64]}: add it first.")
    if not (peer.dicomweb_url if destination.method == "stow" else peer.has_dimse):
        raise InvalidInput(f"The peer {peer.name} cannot be reached by {destination.method}.")
    shown = _shown(destination)
    found = connection.execute(
        "INSERT INTO forwarding_destinations AS d (name, peer, method, parallel, windows, timezone, commitment,"
        " max_attempts, paused) VALUES (%(name)s, %(peer)s, %(method)s, %(parallel)s, %(windows)s, %(timezone)s,"
        " %(commitment)s, %(max_attempts)s, %(paused)s) ON CONFLICT (name) DO UPDATE SET peer = excluded.peer,"
        " parallel = excluded.parallel, windows = excluded.windows, timezone = excluded.timezone,"
        " commitment = excluded.commitment, max_attempts = excluded.max_attempts, paused = excluded.paused,"
        " retry_at = now(), failures = 0 WHERE d.method = excluded.method RETURNING destination_pk",
        shown | {"windows": Jsonb(shown["windows"])},
    ).fetchone()
    if found is None:
        raise Conflict(f"The destination {destination.name} has another method: remove it first.")
    audit.add(connection, actor, "forwarding.destination", detail=shown)


def pause(connection: Connection, name: str, actor: str, *, paused: bool) -> None:
    """Stop sending there, or go on at once whatever the back-off says; raises `NotFound`."""
    if not connection.execute(
        "UPDATE forwarding_destinations SET paused = %s, retry_at = now(), failures = 0 WHERE name = %s", (paused, name)
    ).rowcount:
        raise NotFound(f"There is no destination {name[:64]}.")
    audit.add(connection, actor, "forwarding.paused" if paused else "forwarding.resumed", detail={"destination": name})


def remove(connection: Connection, name: str, actor: str) -> None:
    """Forget a destination with its rules and its queue; raises `NotFound`."""
    _hold_cursor(connection)
    if not connection.execute("DELETE FROM forwarding_destinations WHERE name = %s", (name,)).rowcount:
        raise NotFound(f"There is no destination {name[:64]}.")
    audit.add(connection, actor, "forwarding.removed", detail={"destination": name})


def all_destinations(connection: Connection) -> list[Destination]:
    """Every destination by name."""
    found = connection.execute(_ALL + " ORDER BY name").fetchall()
    return [_destination(row) for row in found]


def by_name(connection: Connection, name: str) -> Destination:
    """One destination; raises `NotFound`."""
    row = connection.execute(_ALL + " WHERE name = %s", (name,)).fetchone()
    if row is None:
        raise NotFound(f"There is no destination {name[:64]}.")
    return _destination(row)


def add_rule(connection: Connection, rule: Rule, actor: str, *, backfill: bool = False) -> int:
    """Add a rule; its number. Call it in a transaction.

    It holds for what is acknowledged from now on (and for some of what came in the minute before); with `backfill`
    also for everything that is there.

    Raises:
        NotFound: there is no such destination.
    """
    reached = _hold_cursor(connection)
    filters = {name: list(getattr(rule, name)) for name in _FILTERS}
    others = {"flagged_only": rule.flagged_only, "urgency": rule.urgency, "enabled": rule.enabled}
    row = connection.execute(
        "INSERT INTO forwarding_rules (destination_fk, source_aets, modalities, sites, sop_classes, flagged_only,"
        " urgency, enabled, backfill_until) VALUES (%(destination)s, %(source_aets)s, %(modalities)s, %(sites)s,"
        " %(sop_classes)s, %(flagged_only)s, %(urgency)s, %(enabled)s, %(until)s) RETURNING rule_pk",
        {
            "destination": by_name(connection, rule.destination).destination_pk,
            "until": reached if backfill else 0,
            **filters,
            **others,
        },
    ).fetchone()
    assert row is not None
    detail = {"rule": row[0], "destination": rule.destination, "backfill": backfill, **filters, **others}
    audit.add(connection, actor, "forwarding.rule_added", detail=detail)
    return int(row[0])


def remove_rule(connection: Connection, rule_pk: int, actor: str) -> None:
    """Forget a rule; what it has queued stays. Raises `NotFound`."""
    _hold_cursor(connection)
    if not connection.execute("DELETE FROM forwarding_rules WHERE rule_pk = %s", (rule_pk,)).rowcount:
        raise NotFound(f"There is no rule {rule_pk}.")
    audit.add(connection, actor, "forwarding.rule_removed", detail={"rule": rule_pk})


def all_rules(connection: Connection) -> list[Rule]:
    """Every rule, oldest first."""
    with connection.cursor(row_factory=class_row(Rule)) as cursor:
        return cursor.execute(
            "SELECT d.name AS destination, r.source_aets, r.modalities, r.sites, r.sop_classes, r.flagged_only,"
            " r.urgency, r.enabled, r.rule_pk FROM forwarding_rules AS r"
            " JOIN forwarding_destinations AS d ON d.destination_pk = r.destination_fk ORDER BY r.rule_pk"
        ).fetchall()


_STATUS: LiteralString = """
SELECT d.name, d.peer, d.method, d.paused, w.waiting, coalesce(w.oldest_s, 0) AS oldest_s,
    w.dead, w.uncommitted, d.sent_instances, d.sent_bytes, d.failures,
    d.retry_at, d.last_error, d.last_error_at, d.last_success_at, d.leased_until > now() AS working
FROM forwarding_destinations AS d
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE state = 'waiting') AS waiting, count(*) FILTER (WHERE state = 'dead') AS dead,
        count(*) FILTER (WHERE state IN ('sent', 'asked')) AS uncommitted,
        extract(epoch FROM now() - min(created_at) FILTER (WHERE state = 'waiting'))::float AS oldest_s
    FROM (
        SELECT state, created_at FROM forwarding_queue
        WHERE destination_fk = d.destination_pk AND state IN ('waiting', 'dead', 'sent', 'asked')
        UNION ALL
        SELECT state, created_at FROM availability_notices
        WHERE destination_fk = d.destination_pk AND state IN ('waiting', 'dead')
    ) AS open
) AS w
ORDER BY d.name"""


def status(connection: Connection) -> list[Status]:
    """How every destination is doing. Counts what waits, so it takes some 0.1 s for a million."""
    with connection.cursor(row_factory=class_row(Status)) as cursor:
        return cursor.execute(_STATUS).fetchall()


def notify(connection: Connection) -> None:
    """Wake the exchange process; after the transaction that changed something."""
    connection.execute("SELECT pg_notify(%s, '')", (CHANNEL,))


_FILTERS = ("source_aets", "modalities", "sites", "sop_classes")


def _hold_cursor(connection: Connection) -> int:
    """Keep rules from being applied until the transaction ends; the instance up to which they were."""
    row = connection.execute("SELECT instance_pk FROM forwarding_cursor FOR UPDATE").fetchone()
    assert row is not None
    return int(row[0])


def _destination(row: tuple[Any, ...]) -> Destination:
    values = dict(zip(_COLUMNS.split(", "), row, strict=True))
    windows = tuple(
        Window(dt.time.fromisoformat(one["from"]), dt.time.fromisoformat(one["until"]), one["bytes_per_s"])
        for one in values.pop("windows")
    )
    return Destination(windows=windows, **values)


def _window_json(window: Window) -> dict[str, Any]:
    return {
        "from": window.start.isoformat("minutes"),
        "until": window.until.isoformat("minutes"),
        "bytes_per_s": window.bytes_per_s,
    }


def _shown(destination: Destination) -> dict[str, Any]:
    values = {each.name: getattr(destination, each.name) for each in fields(destination)}
    values["windows"] = [_window_json(one) for one in destination.windows]
    del values["destination_pk"]
    return values
