"""What `sangloc models` does: import, calibrate, evaluate, activate and compare models of the registry.

Nothing here changes what a worker runs but `activate`, `shadow`, `withdraw` and `roll_back`, each in one transaction.
"""

# ruff: noqa: PLC0415 - torch takes seconds to import

from __future__ import annotations

import hashlib
import json
import shlex
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage import activations, models
from storage.database import Database
from storage.errors import Conflict, InvalidInput, NotFound, SanglocError
from storage.models import Evaluation, Fit, Version
from storage.objects import ObjectStore

if TYPE_CHECKING:
    from models.agreement import Agreement
    from models.bundle import Bundle
    from models.importers.adopting import Wanted
    from storage.activations import Activation

__all__ = ["BUILT_IN", "Registry", "headline"]

BUILT_IN = "built-in"  # a source: the bundle that ships with sangloc, to be fitted to a site like any other
Progress = Callable[[int, int], None]


class Registry:
    """The registry as one person uses it."""

    def __init__(self, database: Database, store: ObjectStore, cache: Path, actor: str) -> None:
        self._database = database
        self._store = store
        self._cache = cache
        self._actor = actor

    def import_(self, source: str, wanted: Wanted) -> Version:
        """Take a model in from anywhere (`models.importers.adopting`); it is not at work by that.

        Raises:
            InvalidInput, InvalidBundle: it cannot be used.
            Conflict: it is here already.
        """
        from models import stored
        from models.bundle import DEFAULT_BUNDLE
        from models.importers.adopting import adopt

        with tempfile.TemporaryDirectory(prefix="sangloc-import-") as folder:
            taken = adopt(str(DEFAULT_BUNDLE) if source == BUILT_IN else source, Path(folder) / "bundle", wanted)
            bundle = taken.bundle
            models.check_name(bundle.name, bundle.version)
            self._refuse_known(bundle)
            card = bundle.path / "docs" / "README.md"
            lies = stored.put(self._store, bundle.path)
            new = Version(
                name=bundle.name, version=bundle.version, weights_sha256=bundle.weights_sha256, origin=taken.origin,
                source=source if source == BUILT_IN else taken.source, findings=list(bundle.findings),
                card=card.read_text("utf-8", "replace") if card.is_file() else "", object_key=lies.object_key,
                object_size=lies.object_size, sha256=lies.sha256,
            )  # fmt: skip
        try:
            with self._database.transaction() as connection:
                models.add_version(connection, new, self._actor)
                return models.find(connection, new.title)
        except SanglocError:
            self._store.delete(lies.object_key)
            raise

    def calibrate(self, title: str, manifest: Path, splits: Sequence[str], site: str, tell: Progress) -> Fit:
        """Fit calibration and thresholds of a model on labelled films of a site; nothing at work changes by that.

        Raises:
            InvalidInput: the films cannot be used, or are (nearly) of one class.
            NotFound: there is no such model.
        """
        from models.sitefit import fit_site, labelled_films

        model, bundle = self._bundle(title)
        films = labelled_films(manifest, splits)
        fit = fit_site(bundle, films, lambda done: tell(done, len(films)))
        new = Fit(
            site=site, manifest=manifest.name, manifest_sha256=_digest(manifest), splits=list(splits),
            films=len(films), positives=sum(film.abnormal for film in films), fit=fit,
        )  # fmt: skip
        with self._database.transaction() as connection:
            models.add_fit(connection, model, new, self._actor)
            found = models.latest_fit(connection, model.model_pk, site)
        assert found is not None, "just written"
        return found

    def evaluate(
        self, title: str, manifest: Path, splits: Sequence[str], site: str, *, resamples: int, tell: Progress
    ) -> Evaluation:
        """Judge a model on labelled films of a site, at the thresholds that were fitted there, else at its own.

        Raises:
            InvalidInput: the films cannot be used, are (nearly) of one class, or its thresholds were fitted on them.
            NotFound: there is no such model.
        """
        from models.evaluation import evaluate
        from models.sitefit import labelled_films, write_refitted

        model, bundle = self._bundle(title)
        films, digest = labelled_films(manifest, splits), _digest(manifest)
        with self._database.autocommit() as connection:
            fit = models.latest_fit(connection, model.model_pk, site)
        if fit is not None and (seen := models.used_splits([fit], digest) & set(splits)):
            raise InvalidInput(
                f"the thresholds of {model.title} {_at(site)} were fitted on split {', '.join(sorted(seen))} of "
                f"{manifest.name}: judge it on other films"
            )
        with tempfile.TemporaryDirectory(prefix="sangloc-evaluate-") as folder:
            judged = write_refitted(bundle, fit.fit if fit else {}, Path(folder) / "bundle")
            report = evaluate(judged, manifest, splits=splits, resamples=resamples, progress=tell)
        new = Evaluation(
            site=site, manifest=manifest.name, manifest_sha256=digest, splits=list(splits), films=len(films),
            positives=sum(film.abnormal for film in films), fit_fk=fit.fit_pk if fit else None,
            report=json.loads(report.to_json(), parse_constant=lambda _: None),  # NaN is no JSON
        )  # fmt: skip
        with self._database.transaction() as connection:
            models.add_evaluation(connection, model, new, self._actor)
            found = models.latest_evaluation(connection, model.model_pk, site)
        assert found is not None, "just written"
        return found

    def activate(self, title: str, site: str, *, point: str) -> tuple[Version, Evaluation]:
        """Put a model to work at a site; `point` is the operating point that the settings ask for there.

        Raises:
            Conflict: it was not fitted and judged on films of this site, or is at work there already.
            DigestMismatch, InvalidBundle: what is stored is not what was registered, or cannot be used.
        """
        model, bundle = self._bundle(title)
        with self._database.transaction() as connection:
            fit = models.latest_fit(connection, model.model_pk, site)
            evaluation = models.latest_evaluation(connection, model.model_pk, site)
            if fit is None:
                raise Conflict(_way_out(model, site, "no thresholds were fitted for it there"))
            if evaluation is None:
                raise Conflict(_way_out(model, site, "it was not judged on films from there"))
            if evaluation.fit_fk != fit.fit_pk:
                raise Conflict(_way_out(model, site, "its thresholds were fitted after it was judged"))
            if point not in bundle.refitted(fit.fit).operating_points:
                raise Conflict(f"{model.title} has no operating point {point}, which the settings ask for")
            activations.activate(connection, model, site, self._actor, fit=fit, evaluation=evaluation)
        return model, evaluation

    def shadow(self, title: str, site: str) -> Version:
        """Let a model score at a site unseen; raises `Conflict` where it does so already."""
        model, _ = self._bundle(title)
        with self._database.transaction() as connection:
            fit = models.latest_fit(connection, model.model_pk, site)
            activations.shadow(connection, model, site, self._actor, fit=fit)
        return model

    def withdraw(self, title: str, site: str) -> Version:
        """End a shadow; raises `NotFound` where there is none."""
        with self._database.transaction() as connection:
            model = models.find(connection, title)
            activations.withdraw(connection, model, site, self._actor)
        return model

    def roll_back(self, site: str) -> Activation | None:
        """What is at work at the site after going back; None: the model of the settings."""
        with self._database.transaction() as connection:
            return activations.roll_back(connection, site, self._actor)

    def compare(self, one: str, other: str, site: str | None) -> Agreement:
        """How far two models agree on images that both have scored; NAME@VERSION, registered or not."""
        from models.agreement import Pair, agreement

        with self._database.transaction() as connection:
            pair = [self._named(connection, title) for title in (one, other)]
            rows = activations.scored_by_both(connection, pair[0], pair[1], site=site)
        return agreement([Pair(*row) for row in rows])

    def _named(self, connection: Any, title: str) -> tuple[str, str]:
        try:
            found = models.find(connection, title)
        except NotFound:
            name, at, version = title.partition("@")
            if not at:
                raise
            return name, version
        return found.name, found.version

    def _bundle(self, title: str) -> tuple[Version, Bundle]:
        from models.stored import Stored, fetch

        with self._database.autocommit() as connection:
            model = models.find(connection, title)
        lies = Stored(model.object_key, model.object_size, model.sha256)
        return model, fetch(self._store, lies, model.weights_sha256, self._cache)

    def _refuse_known(self, bundle: Bundle) -> None:
        """Before anything is stored; `add_version` makes sure."""
        with self._database.autocommit() as connection:
            models.refuse_known(connection, bundle.name, bundle.version, bundle.weights_sha256)


def headline(evaluation: Evaluation) -> list[str]:
    """Abnormal over all films at the operating point, a line for each measure."""
    figures = [
        figure
        for figure in evaluation.report["figures"]
        if figure["labels"] == "best" and not figure.get("group") and not figure.get("point")
        and figure["finding"].lower() == "abnormal" and figure["value"] is not None
    ]  # fmt: skip
    whole = [figure for figure in figures if figure["source"] == "all"] or figures
    return [
        f"{figure['measure']} {figure['value']:.3f} ({_edge(figure['low'])} to {_edge(figure['high'])})"
        f" on {figure['films']} films, {figure['positives']} abnormal"
        for figure in whole
    ]


def _edge(value: float | None) -> str:
    return "?" if value is None else f"{value:.3f}"


def _way_out(model: Version, site: str, reason: str) -> str:
    where = f" --site {shlex.quote(site)}" if site else ""
    command = "sangloc models"
    return (
        f"{model.title} is not activated {_at(site)}: {reason}. A threshold of another version or another place may do"
        " harm however good the model is. Judge it on labelled films of the site first (a CSV file, docs/models.md;"
        " fit on one split, judge on another), then activate it:\n"
        f"  {command} calibrate {model.title} MANIFEST --split val{where}\n"
        f"  {command} evaluate {model.title} MANIFEST --split test{where}\n"
        f"  {command} activate {model.title}{where}\n"
        "Until then it can score unseen beside what is at work:\n"
        f"  {command} activate {model.title}{where} --shadow"
    )


def _at(site: str) -> str:
    return f"at site {site}" if site else "for all sites"


def _digest(manifest: Path) -> str:
    with manifest.open("rb") as lines:
        return hashlib.file_digest(lines, "sha256").hexdigest()
