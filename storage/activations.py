"""Which model is at work where: one active model a site, any number of shadows, and the way back.

A site without an active model of its own has that of the site '' (all sites), and without that the model of the
settings (`worker.bundle`, else the bundle that ships with sangloc), which is what a fresh installation runs.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any, Literal, LiteralString

from psycopg.rows import class_row

from storage import audit, jobs
from storage.database import Connection
from storage.errors import Conflict, NotFound
from storage.models import Evaluation, Fit, Version

__all__ = [
    "Activation",
    "activate",
    "current",
    "history",
    "revision",
    "roll_back",
    "scored_by_both",
    "shadow",
    "withdraw",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation:
    """One model at work at one site, now or once."""

    activation_pk: int
    site: str  # '' for every site without one of its own
    mode: Literal["active", "shadow"]
    name: str
    version: str
    weights_sha256: str
    object_key: str
    object_size: int
    sha256: bytes  # of the object
    fit: dict[str, Any] | None  # thresholds of the site; None: the bundle's own
    action: Literal["activate", "rollback"]
    made_by: str
    made_at: dt.datetime
    ended_by: str
    ended_at: dt.datetime | None
    fit_fk: int | None
    evaluation_fk: int | None
    previous_fk: int | None
    model_fk: int

    @property
    def title(self) -> str:
        """As commands take it: NAME@VERSION."""
        return f"{self.name}@{self.version}"


_SELECT: LiteralString = (
    "SELECT a.activation_pk, a.site, a.mode, m.name, m.version, m.weights_sha256, m.object_key, m.object_size,"
    " m.sha256, f.fit, a.action, a.made_by, a.made_at, a.ended_by, a.ended_at, a.fit_fk, a.evaluation_fk,"
    " a.previous_fk, a.model_fk FROM model_activations AS a JOIN model_versions AS m ON m.model_pk = a.model_fk"
    " LEFT JOIN model_fits AS f ON f.fit_pk = a.fit_fk"
)


def current(connection: Connection) -> list[Activation]:
    """Everything that is at work now: by site, the active one first."""
    return _rows(connection, _SELECT + " WHERE a.ended_at IS NULL ORDER BY a.site, a.mode, a.activation_pk")


def history(connection: Connection, limit: int = 100) -> list[Activation]:
    """All activations, the latest first."""
    return _rows(connection, _SELECT + " ORDER BY a.activation_pk DESC LIMIT %(limit)s", {"limit": limit})


def revision(connection: Connection) -> int:
    """A number that changes with everything that `current` tells."""
    found = connection.execute("SELECT revision FROM model_roster").fetchone()
    assert found is not None, "made by the migration"
    return int(found[0])


def activate(
    connection: Connection, model: Version, site: str, actor: str, *, fit: Fit, evaluation: Evaluation
) -> None:
    """Put a model to work at a site, with the thresholds that were fitted and judged there.

    Raises:
        Conflict: it is at work there with these thresholds already, or the evaluation judged other thresholds.
    """
    if fit.site != site or evaluation.site != site or evaluation.fit_fk != fit.fit_pk:
        raise Conflict("Thresholds and evaluation are not of this site, or the evaluation judged other thresholds.")
    _lock(connection)
    before = _active(connection, site)
    if before is not None and (before.model_fk, before.fit_fk) == (model.model_pk, fit.fit_pk):
        raise Conflict(f"{model.title} is at work {_place(site)} already, with these thresholds.")
    if before is not None:
        _end(connection, before.activation_pk, actor)
    _end_shadow(connection, model.model_pk, site, actor)
    previous = before.activation_pk if before else None
    _begin(connection, site, actor, mode="active", model_pk=model.model_pk, fit=fit.fit_pk,
           evaluation=evaluation.evaluation_pk, previous=previous)  # fmt: skip
    detail = {"site": site, "model": model.title, "before": before.title if before else "", "fit": fit.fit_pk,
              "evaluation": evaluation.evaluation_pk}  # fmt: skip
    audit.add(connection, actor, "model.activated", detail=detail)


def shadow(connection: Connection, model: Version, site: str, actor: str, *, fit: Fit | None = None) -> None:
    """Let a model score beside the active one, unseen; raises `Conflict` where it does so already."""
    _lock(connection)
    if any(one.model_fk == model.model_pk and one.site == site for one in current(connection)):
        raise Conflict(f"{model.title} is at work {_place(site)} already.")
    _begin(connection, site, actor, mode="shadow", model_pk=model.model_pk, fit=fit.fit_pk if fit else None)
    audit.add(connection, actor, "model.shadowed", detail={"site": site, "model": model.title})


def withdraw(connection: Connection, model: Version, site: str, actor: str) -> None:
    """End a shadow; raises `NotFound` where there is none."""
    _lock(connection)
    if not _end_shadow(connection, model.model_pk, site, actor):
        raise NotFound(f"{model.title} does not run in shadow {_place(site)}.")
    _changed(connection)
    audit.add(connection, actor, "model.withdrawn", detail={"site": site, "model": model.title})


def roll_back(connection: Connection, site: str, actor: str) -> Activation | None:
    """Return to what was at work at a site before; what is now, None for the model of the settings.

    Several roll-backs go further and further back. Raises `Conflict` where there is nothing to go back from.
    """
    _lock(connection)
    now = _active(connection, site)
    if now is None:
        raise Conflict(f"Nothing was activated {_place(site)}: there is nothing to roll back.")
    _end(connection, now.activation_pk, actor)
    found = _rows(connection, _SELECT + " WHERE a.activation_pk = %(pk)s", {"pk": now.previous_fk})
    before = found[0] if found else None
    if before is None:
        _changed(connection)
    else:
        _begin(connection, site, actor, mode="active", model_pk=before.model_fk, fit=before.fit_fk,
               evaluation=before.evaluation_fk, previous=before.previous_fk, action="rollback")  # fmt: skip
    detail = {"site": site, "model": before.title if before else "", "before": now.title}
    audit.add(connection, actor, "model.rolled_back", detail=detail)
    return _active(connection, site)


def _place(site: str) -> str:
    return f"at site {site}" if site else "for all sites"


def _rows(connection: Connection, sql: LiteralString, values: dict[str, object] | None = None) -> list[Activation]:
    with connection.cursor(row_factory=class_row(Activation)) as cursor:
        return cursor.execute(sql, values or {}).fetchall()


def _active(connection: Connection, site: str) -> Activation | None:
    where: LiteralString = " WHERE a.site = %(site)s AND a.mode = 'active' AND a.ended_at IS NULL"
    found = _rows(connection, _SELECT + where, {"site": site})
    return found[0] if found else None


def _lock(connection: Connection) -> None:
    """One change at a time."""
    connection.execute("SELECT FROM model_roster FOR UPDATE")


def _begin(
    connection: Connection, site: str, actor: str, *, mode: str, model_pk: int, fit: int | None,
    evaluation: int | None = None, previous: int | None = None, action: str = "activate",
) -> None:  # fmt: skip
    connection.execute(
        "INSERT INTO model_activations (site, mode, model_fk, fit_fk, evaluation_fk, previous_fk, action, made_by)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
        (site, mode, model_pk, fit, evaluation, previous, action, actor),
    )
    _changed(connection)


def _end(connection: Connection, activation_pk: int, actor: str) -> None:
    connection.execute(
        "UPDATE model_activations SET ended_at = clock_timestamp(), ended_by = %s WHERE activation_pk = %s",
        (actor, activation_pk),
    )


def _end_shadow(connection: Connection, model_pk: int, site: str, actor: str) -> bool:
    done = connection.execute(
        "UPDATE model_activations SET ended_at = clock_timestamp(), ended_by = %s"
        " WHERE model_fk = %s AND site = %s AND mode = 'shadow' AND ended_at IS NULL",
        (actor, model_pk, site),
    )
    return done.rowcount > 0


def _changed(connection: Connection) -> None:
    """The workers look again; NOTIFY is heard when the transaction is committed."""
    connection.execute("UPDATE model_roster SET revision = revision + 1")
    jobs.notify(connection)


def scored_by_both(
    connection: Connection,
    one: tuple[str, str],
    other: tuple[str, str],
    *,
    site: str | None = None,
    limit: int = 50_000,
) -> list[tuple[str, str, float, bool, float, bool]]:
    """Images that two models (name, version) have scored, the latest first: study and SOP UID, and what each said."""
    return connection.execute(
        "SELECT s.study_uid, i.sop_uid, a.probability, a.flagged, b.probability, b.flagged FROM scores AS a"
        " JOIN scores AS b ON b.instance_fk = a.instance_fk AND b.model_name = %(b)s"
        " AND b.model_version = %(b_version)s"
        " JOIN instances AS i ON i.instance_pk = a.instance_fk JOIN studies AS s ON s.study_pk = i.study_fk"
        " WHERE a.model_name = %(a)s AND a.model_version = %(a_version)s AND NOT i.hidden AND NOT s.hidden"
        " AND (%(site)s::text IS NULL OR s.site = %(site)s) ORDER BY a.score_pk DESC LIMIT %(limit)s",
        {"a": one[0], "a_version": one[1], "b": other[0], "b_version": other[1], "site": site, "limit": limit},
    ).fetchall()
