"""The registry of models: versions, the thresholds that were fitted for a site, and how good they were found there.

What is at work is in `storage.activations`. Every change is in the audit log.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from storage import audit
from storage.database import Connection
from storage.errors import Conflict, InvalidInput, NotFound

__all__ = [
    "Evaluation", "Fit", "Judged", "Version", "add_evaluation", "add_fit", "add_version", "all_versions",
    "check_name", "evaluations", "find", "fits", "latest_evaluation", "latest_fit",
    "refuse_known", "used_splits",
]  # fmt: skip

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One version of a model; its bundle is an object of the object store."""

    name: str
    version: str
    weights_sha256: str
    origin: str  # monai | torchxrayvision | torchvision
    source: str  # folder, file or URL that it came from
    findings: list[str]  # Abnormal first
    card: str  # Markdown
    object_key: str  # of the zip of the bundle
    object_size: int
    sha256: bytes  # of the zip
    imported_by: str = ""
    imported_at: dt.datetime | None = None
    model_pk: int = 0

    @property
    def title(self) -> str:
        """As commands take it: NAME@VERSION."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """The labelled films that something was fitted or measured on."""

    site: str  # '' for all sites together
    manifest: str  # name of the file
    manifest_sha256: str
    splits: list[str]
    films: int
    positives: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit(Judged):
    """Calibration and thresholds of one model for one site."""

    fit_pk: int = 0
    fit: dict[str, Any]
    made_by: str = ""
    made_at: dt.datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation(Judged):
    """How good one model was found at one site."""

    evaluation_pk: int = 0
    fit_fk: int | None  # whose thresholds were judged; None: the bundle's own
    report: dict[str, Any]  # of models.evaluation
    made_by: str = ""
    made_at: dt.datetime | None = None


_VERSIONS: LiteralString = (
    "SELECT model_pk, name, version, weights_sha256, origin, source, findings, card, object_key, object_size, sha256,"
    " imported_by, imported_at FROM model_versions"
)
_FITS: LiteralString = (
    "SELECT fit_pk, site, manifest, manifest_sha256, splits, films, positives, fit, made_by, made_at FROM model_fits"
    " WHERE model_fk = %s ORDER BY fit_pk DESC"
)
_EVALUATIONS: LiteralString = (
    "SELECT evaluation_pk, site, manifest, manifest_sha256, splits, films, positives, fit_fk, report, made_by, made_at"
    " FROM model_evaluations WHERE model_fk = %s ORDER BY evaluation_pk DESC"
)


def check_name(name: str, version: str) -> None:
    """Raise `InvalidInput` unless both can be typed and shown: letters, digits, dots, dashes and underscores."""
    if not _NAME.fullmatch(name) or not _NAME.fullmatch(version):
        raise InvalidInput("A model's name and version are 1 to 64 letters, digits, dots, dashes and underscores each.")


def add_version(connection: Connection, new: Version, actor: str) -> int:
    """Register a version; its key. Raises `Conflict` where the name and version, or the weights, are known."""
    check_name(new.name, new.version)
    refuse_known(connection, new.name, new.version, new.weights_sha256)
    try:
        found = connection.execute(
            "INSERT INTO model_versions (name, version, weights_sha256, origin, source, findings, card, object_key,"
            " object_size, sha256, imported_by) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) RETURNING model_pk",
            (new.name, new.version, new.weights_sha256, new.origin, new.source, new.findings, new.card, new.object_key,
             new.object_size, new.sha256, actor),
        ).fetchone()  # fmt: skip
    except psycopg.errors.UniqueViolation as error:
        raise Conflict(f"Somebody else has just registered {new.title} or its weights.") from error
    assert found is not None, "an INSERT returns its row"
    audit.add(
        connection, actor, "model.imported", detail={"model": new.title, "weights_sha256": new.weights_sha256,
                                                     "origin": new.origin, "source": new.source},
    )  # fmt: skip
    return int(found[0])


def refuse_known(connection: Connection, name: str, version: str, weights_sha256: str) -> None:
    """Raise `Conflict` where the name and version, or the weights, are registered."""
    known = connection.execute(
        "SELECT name || '@' || version FROM model_versions WHERE weights_sha256 = %s", (weights_sha256,)
    ).fetchone()
    if known is not None:
        raise Conflict(f"These weights are registered already, as {known[0]}.")
    if connection.execute(_VERSIONS + " WHERE (name, version) = (%s, %s)", (name, version)).fetchone() is not None:
        raise Conflict(f"There is a {name}@{version} already: give the new one another version (--version).")


def all_versions(connection: Connection) -> list[Version]:
    """Every version, by name, the latest first."""
    with connection.cursor(row_factory=class_row(Version)) as cursor:
        return cursor.execute(_VERSIONS + " ORDER BY name, model_pk DESC").fetchall()


def find(connection: Connection, title: str) -> Version:
    """The version of a title: NAME@VERSION, or NAME where there is one version only.

    Raises:
        NotFound: there is no such model.
        InvalidInput: the name has several versions.
    """
    name, _, version = title.partition("@")
    with connection.cursor(row_factory=class_row(Version)) as cursor:
        found = cursor.execute(
            _VERSIONS + " WHERE name = %(name)s AND %(version)s IN ('', version) ORDER BY model_pk DESC",
            {"name": name, "version": version},
        ).fetchall()
    if not found:
        raise NotFound(f"There is no model {title[:140]}; see: sangloc models list")
    if len(found) > 1:
        raise InvalidInput(f"{name} has several versions, say which: {', '.join(one.title for one in found)}")
    return found[0]


def add_fit(connection: Connection, model: Version, new: Fit, actor: str) -> int:
    """Keep calibration and thresholds that were fitted on a site's films; the key."""
    key = _insert(connection, "model_fits", _row(model, new, actor) | {"fit": Jsonb(new.fit)})
    detail = _detail(model, new) | {"operating_points": new.fit.get("operating_points")}
    audit.add(connection, actor, "model.calibrated", detail=detail)
    return key


def add_evaluation(connection: Connection, model: Version, new: Evaluation, actor: str) -> int:
    """Keep what was measured on a site's films; the key."""
    row = _row(model, new, actor) | {"fit_fk": new.fit_fk, "report": Jsonb(new.report)}
    key = _insert(connection, "model_evaluations", row)
    audit.add(connection, actor, "model.evaluated", detail=_detail(model, new) | {"fit": new.fit_fk})
    return key


def fits(connection: Connection, model_pk: int) -> list[Fit]:
    """All fits of a model, the latest first."""
    with connection.cursor(row_factory=class_row(Fit)) as cursor:
        return cursor.execute(_FITS, (model_pk,)).fetchall()


def evaluations(connection: Connection, model_pk: int) -> list[Evaluation]:
    """All evaluations of a model, the latest first."""
    with connection.cursor(row_factory=class_row(Evaluation)) as cursor:
        return cursor.execute(_EVALUATIONS, (model_pk,)).fetchall()


def latest_fit(connection: Connection, model_pk: int, site: str) -> Fit | None:
    """The fit that counts for a site."""
    return next((one for one in fits(connection, model_pk) if one.site == site), None)


def latest_evaluation(connection: Connection, model_pk: int, site: str) -> Evaluation | None:
    """The evaluation that counts for a site."""
    return next((one for one in evaluations(connection, model_pk) if one.site == site), None)


def _row(model: Version, new: Judged, actor: str) -> dict[str, object]:
    return {"model_fk": model.model_pk, "site": new.site, "manifest": new.manifest, "films": new.films,
            "manifest_sha256": new.manifest_sha256, "splits": new.splits, "positives": new.positives,
            "made_by": actor}  # fmt: skip


def _detail(model: Version, new: Judged) -> dict[str, object]:
    return {"model": model.title, "site": new.site, "manifest_sha256": new.manifest_sha256, "films": new.films}


def _insert(connection: Connection, table: LiteralString, row: Mapping[str, object]) -> int:
    name = psycopg.sql.Identifier
    statement = psycopg.sql.SQL("INSERT INTO {} ({}) VALUES ({}) RETURNING {}").format(
        name(table),
        psycopg.sql.SQL(", ").join(map(name, row)),
        psycopg.sql.SQL(", ").join([psycopg.sql.Placeholder()] * len(row)),
        name(f"{table.removeprefix('model_').removesuffix('s')}_pk"),
    )
    found = connection.execute(statement, list(row.values())).fetchone()
    assert found is not None, "an INSERT returns its row"
    return int(found[0])


def used_splits(found: Sequence[Judged], manifest_sha256: str) -> set[str]:
    """The splits of a manifest that were used by any of these."""
    return {split for one in found if one.manifest_sha256 == manifest_sha256 for split in one.splits}
