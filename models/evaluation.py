"""`sangloc evaluate`: how good a bundle is on a manifest, by source, each figure with a 95 % bootstrap interval.

Resamples are drawn by group (patient), so that several films of one patient do not make an interval too narrow.
A source with one class only has no AUROC and no calibration error: such figures would show the source, not the disease.
This module imports torch; the figures themselves are in `models.metrics`.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from models.bundle import Bundle, load_bundle
from models.data import Film, hard_targets, read_manifest
from models.metrics import auroc, expected_calibration_error, sensitivity, specificity
from models.sampling import mixed_source_films
from models.scoring import logits_of_films
from storage.errors import InvalidInput

__all__ = ["Figure", "Report", "bootstrap", "evaluate"]

Values = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
Measure = Callable[[npt.NDArray[np.intp]], float]  # value over the films at these places
Measures = dict[str, Measure]
_SEED = 7
_FEW = 5  # films of a class, below which no figure is given
_GROUPS: dict[str, Callable[[Film], bool]] = {
    "female": lambda film: film.sex == "F",
    "male": lambda film: film.sex == "M",
    "under 40": lambda film: film.age is not None and film.age < 40,
    "40 to 60": lambda film: film.age is not None and 40 <= film.age <= 60,
    "over 60": lambda film: film.age is not None and film.age > 60,
    "view PA": lambda film: film.view == "PA",
    "view AP": lambda film: film.view == "AP",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure over some films."""

    split: str
    source: str  # 'all' or one source
    labels: str  # 'best' (radiologist's, else the data set's), 'data set' or 'radiologist'
    finding: str
    measure: str
    value: float
    low: float  # of the 95 % interval
    high: float
    films: int
    positives: int
    group: str = ""  # of patients: '' all, 'female', 'over 60', 'view AP' ...
    point: str = ""  # operating point of a sensitivity or specificity; '' the bundle's own


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All figures of one evaluation."""

    COLUMNS: ClassVar[tuple[str, ...]] = (
        "split",
        "source",
        "labels",
        "group",
        "finding",
        "measure",
        "value",
        "95 %",
        "films",
        "+",
    )

    bundle: str
    version: str
    weights_sha256: str
    manifest: str
    splits: tuple[str, ...]
    operating_point: str
    threshold: float  # of Abnormal
    resamples: int
    figures: tuple[Figure, ...]

    def rows(self) -> list[tuple[str, ...]]:
        """The figures as text, under `COLUMNS`."""
        return [
            (f.split, f.source, f.labels, f.group, f.finding, f"{f.measure} {f.point}".strip(),
             f"{f.value:.3f}", f"{f.low:.3f} to {f.high:.3f}", str(f.films), str(f.positives))
            for f in self.figures
        ]  # fmt: skip

    def to_json(self) -> str:
        """Everything, as JSON text."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Report:
        """The report that `to_json` wrote."""
        fields = json.loads(text)
        figures = tuple(Figure(**figure) for figure in fields.pop("figures"))
        return cls(**fields | {"splits": tuple(fields["splits"]), "figures": figures})


def evaluate(
    bundle: Path, manifest: Path, *, splits: Sequence[str] = ("test",), resamples: int = 2000,
    reference: Path | None = None, progress: Callable[[int, int], None] | None = None,
) -> Report:  # fmt: skip
    """Judge a bundle at its own operating point on splits of a manifest.

    `reference` is a CSV file with the columns `image` and `prob_*` of another model: both are compared on the films
    that it names. `progress` is called with (films read, films).

    Raises:
        InvalidBundle: the bundle cannot be used.
        InvalidInput: the manifest, an image or the reference cannot be read.
    """
    model = load_bundle(bundle)
    films = read_manifest(manifest, set(splits))
    others = {} if reference is None else _reference(reference)
    tell = progress or (lambda _done, _films: None)
    probabilities = model.probabilities(logits_of_films(model, films, lambda done: tell(done, len(films))))
    figures = list[Figure]()
    for split in splits:
        here = [place for place, film in enumerate(films) if film.split == split]
        judge = _Judge(model, [films[place] for place in here], probabilities[here], split, resamples)
        figures += judge.abnormal() + judge.findings() + judge.against(others) + judge.groups() + judge.points()
    return Report(
        bundle=model.name, version=model.version, weights_sha256=model.weights_sha256, manifest=manifest.name,
        splits=tuple(splits), operating_point=model.operating_point, threshold=model.thresholds[0], resamples=resamples,
        figures=tuple(figures),
    )  # fmt: skip


def bootstrap(groups: Sequence[str], measures: Measures, resamples: int) -> dict[str, tuple[float, float, float]]:
    """(value, low, high) of each measure: over all films, and the 2.5 and 97.5 percentiles over resampled groups.

    A resample in which a measure is not defined (one class only) is left out for that measure.
    """
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    order = np.argsort(member, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(member))[:-1])
    rng = np.random.default_rng(_SEED)
    draws = {name: np.empty(resamples) for name in measures}
    for turn in range(resamples):
        drawn = rng.integers(0, len(names), len(names))
        places = np.concatenate([members[group] for group in drawn])
        for name, measure in measures.items():
            draws[name][turn] = measure(places)
    everyone = np.arange(len(member))
    return {name: (measure(everyone), *_interval(draws[name])) for name, measure in measures.items()}


def _interval(draws: Values) -> tuple[float, float]:
    known = draws[np.isfinite(draws)]
    if len(known) == 0:
        return math.nan, math.nan
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)


class _Judge:
    """Figures over the films of one split."""

    def __init__(self, model: Bundle, films: Sequence[Film], probabilities: Values, split: str, resamples: int) -> None:
        self.model, self.films, self.probabilities = model, films, probabilities
        self.split, self.resamples = split, resamples
        self.sources = sorted({film.source for film in films})

    def abnormal(self) -> list[Figure]:
        """Abnormal over all sources and by source, by the best label and, where they differ, by each kind of label."""
        best = np.array([film.abnormal for film in self.films], np.float64)
        reported = np.array([film.labelled for film in self.films], np.float64)
        expert = np.array([film.expert for film in self.films])
        figures = self._abnormal_of("all", best, "best") if len(self.sources) > 1 else []
        for source in self.sources:
            here = np.array([film.source == source for film in self.films])
            figures += self._abnormal_of(source, np.where(here, best, math.nan), "best")
            if np.any(best[here] != reported[here]):
                figures += self._abnormal_of(source, np.where(here, reported, math.nan), "data set")
                figures += self._abnormal_of(source, np.where(here, expert, math.nan), "radiologist")
        return figures

    def groups(self) -> list[Figure]:
        """Abnormal by sex, age and view in the sources that have both classes, by the best label."""
        labels = np.array([film.abnormal for film in self.films], np.float64)
        figures = list[Figure]()
        for source in sorted({film.source for film in mixed_source_films(self.films)}):
            for name, belongs in _GROUPS.items():
                here = [film.source == source and belongs(film) for film in self.films]
                if sum(here) >= _FEW:
                    figures += self._abnormal_of(source, np.where(here, labels, math.nan), "best", name)
        return figures

    def points(self) -> list[Figure]:
        """Sensitivity and specificity of Abnormal by source at every operating point, by the best label."""
        figures = list[Figure]()
        for source in self.sources:
            here = np.flatnonzero([film.source == source for film in self.films])
            p, y = self.probabilities[here, 0], np.array([self.films[int(place)].abnormal for place in here])
            for point, thresholds in self.model.operating_points.items():
                measures = _at_threshold(p, y, thresholds[0])
                figures += self._figures(
                    here, measures, source=source, kind="best", finding=self.model.findings[0], positives=int(y.sum()),
                    point=point,
                )  # fmt: skip
        return figures

    def _abnormal_of(self, source: str, labels: Values, kind: str, group: str = "") -> list[Figure]:
        known = np.flatnonzero(np.isfinite(labels))
        p, y = self.probabilities[known, 0], labels[known].astype(np.int64)
        both = min(int((y == 1).sum()), int((y == 0).sum())) >= _FEW
        measures: Measures = {"AUROC": _auroc_at(p, y)} if both else {}
        measures |= _at_threshold(p, y, self.model.thresholds[0])
        if both:
            measures["calibration error"] = lambda at: expected_calibration_error(p[at], y[at])
        return self._figures(
            known, measures, source=source, kind=kind, finding=self.model.findings[0], positives=int(y.sum()),
            group=group,
        )  # fmt: skip

    def findings(self) -> list[Figure]:
        """AUROC of each finding over the films on which somebody looked for it, in sources that have both classes."""
        classes = {source: {film.abnormal for film in self.films if film.source == source} for source in self.sources}
        figures = list[Figure]()
        for source in (source for source in self.sources if len(classes[source]) == 2):
            films = [film for film in self.films if film.source == source]
            places = np.array([place for place, film in enumerate(self.films) if film.source == source])
            table = hard_targets(films, self.model.findings)
            for column, name in enumerate(self.model.findings[1:], start=1):
                known = np.flatnonzero(np.isfinite(table[:, column]))
                y, p = table[known, column].astype(np.int64), self.probabilities[places[known], column]
                if min((y == 1).sum(), (y == 0).sum()) >= _FEW:
                    figures += self._figures(
                        places[known], {"AUROC": _auroc_at(p, y)}, source=source, kind="best", finding=name,
                        positives=int(y.sum()),
                    )  # fmt: skip
        return figures

    def against(self, others: dict[str, float]) -> list[Figure]:
        """Abnormal's AUROC beside another model's on the films that both have scored, and the paired difference."""
        scored = np.array([film.image in others for film in self.films])
        figures = list[Figure]()
        for kind in ("data set", "radiologist"):
            labels = np.array([film.labelled if kind == "data set" else film.expert for film in self.films], np.float64)
            known = np.flatnonzero(scored & np.isfinite(labels))
            y = labels[known].astype(np.int64)
            if len(known) == 0 or min((y == 1).sum(), (y == 0).sum()) < _FEW:
                continue
            theirs = np.array([others[self.films[int(place)].image] for place in known])
            mine, other = _auroc_at(self.probabilities[known, 0], y), _auroc_at(theirs, y)
            measures = {"AUROC": mine, "AUROC of reference": other, "difference": _difference(mine, other)}
            figures += self._figures(
                known, measures, source="films of reference", kind=kind, finding=self.model.findings[0],
                positives=int(y.sum()),
            )  # fmt: skip
        return figures

    def _figures(
        self, known: npt.NDArray[np.intp], measures: Measures, *, source: str, kind: str, finding: str, positives: int,
        group: str = "", point: str = "",
    ) -> list[Figure]:  # fmt: skip
        groups = [self.films[place].group for place in known]
        return [
            Figure(split=self.split, source=source, labels=kind, finding=finding, measure=name, value=value, low=low,
                   high=high, films=len(known), positives=positives, group=group, point=point)
            for name, (value, low, high) in bootstrap(groups, measures, self.resamples).items()
        ]  # fmt: skip


def _auroc_at(probabilities: Values, labels: Labels) -> Measure:
    return lambda places: auroc(probabilities[places], labels[places])


def _at_threshold(probabilities: Values, labels: Labels, threshold: float) -> Measures:
    """Sensitivity and specificity, each where there are films enough."""
    measures: Measures = {}
    if (labels == 1).sum() >= _FEW:
        measures["sensitivity"] = lambda at: sensitivity(probabilities[at], labels[at], threshold)
    if (labels == 0).sum() >= _FEW:
        measures["specificity"] = lambda at: specificity(probabilities[at], labels[at], threshold)
    return measures


def _difference(one: Measure, other: Measure) -> Measure:
    return lambda places: one(places) - other(places)


def _reference(file: Path) -> dict[str, float]:
    """By image another model's abnormal score, 1 - prod(1 - p) over its findings."""
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            return {
                row["image"]: 1 - math.prod(1 - float(value) for name, value in row.items() if name.startswith("prob_"))
                for row in csv.DictReader(lines)
            }
    except (OSError, KeyError, ValueError) as error:
        raise InvalidInput(f"the reference {file} cannot be read: {error}") from error
