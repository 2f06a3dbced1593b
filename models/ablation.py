"""What each step of training brought: runs of `sangloc train` beside each other, on films that none was fitted on.

Each run has left its answers in `scores.csv`. Runs that left the same fold out are compared on val and on that fold of
train, and so is the mean of the runs that taught another; others are judged on val. Differences are paired, intervals
are bootstrapped by patient. No other split is read: choosing by these figures leaves test as it was.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.bundle import METADATA
from models.data import Film, read_manifest
from models.evaluation import bootstrap
from models.metrics import auroc
from storage.errors import InvalidInput

__all__ = ["Row", "Run", "compare", "read_rows", "read_run", "write_rows"]

Interval = tuple[float, float, float]  # value, and the ends of its 95 % interval
_ROWS = Path("docs/ablation.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One folder of `sangloc train`."""

    recipe: str
    fold: int | None
    weights: str  # SHA-256
    teachers: tuple[str, ...]  # SHA-256 of theirs
    hours: float
    plain: Mapping[str, float]  # image -> logit of Abnormal
    mirrored: Mapping[str, float]  # the same, mean with the mirror image's


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One step: AUROC of Abnormal by the best label."""

    step: str
    nets: int
    hours: float  # wall time of training them
    val: Interval
    held: Interval | None  # on val and the fold left out, for a single run with such a fold
    gain: Interval  # over the first row, on `held`'s films where both rows have them, else on val


def read_run(folder: Path) -> Run:
    """What a finished run has left in its folder (one of version 0.1.0 said less of itself); raises `InvalidInput`."""
    try:
        ours = json.loads((folder / "bundle" / METADATA).read_text("utf-8"))["sangloc"]
        training = ours["training"]
        with (folder / "scores.csv").open(newline="", encoding="utf-8") as lines:
            table = list(csv.DictReader(lines))
        plain, mirrored = ({row["image"]: float(row[name]) for row in table} for name in ("logit", "logit_mirrored"))
        config = training["config"]
        return Run(recipe=config.get("recipe", "first"), fold=config.get("fold"), weights=ours["weights_sha256"],
                   teachers=tuple(config.get("teachers", ())), hours=training.get("wall_hours", math.nan),
                   plain=plain, mirrored=mirrored)  # fmt: skip
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InvalidInput(f"{folder} is no finished run of sangloc train: {error!r}") from error


def compare(runs: Sequence[Run], manifest: Path, resamples: int = 2000) -> list[Row]:
    """A row for each run; before one that had teachers, two for the mean of these: as they are, with mirror images.

    At the end one for the mean of each recipe that was run with several seeds.

    Raises:
        InvalidInput: no run, the manifest cannot be read, or it lacks a film of a run.
    """
    if not runs:
        raise InvalidInput("no run to compare")
    films = {film.image: film for film in read_manifest(manifest, {"train", "val"})}
    missing = {image for run in runs for image in run.plain} - films.keys()
    if missing:
        raise InvalidInput(f"{manifest} does not name {min(missing)}, which a run was judged on")
    judge = _Judge(films, runs[0], resamples)
    rows, told = list[Row](), set[tuple[str, ...]]()
    for run in runs:
        elders = [other for other in runs if other.weights in run.teachers]
        if elders and run.teachers not in told:
            told.add(run.teachers)
            name = f"mean of {', '.join(f'`{elder.recipe}`' for elder in elders)}"
            rows.append(judge.row(name, _mean([elder.plain for elder in elders]), elders))
            name = "the same, each film and its mirror image"
            rows.append(judge.row(name, _mean([elder.mirrored for elder in elders]), elders))
        rows.append(judge.row(f"`{run.recipe}`", run.plain, [run]))
    for kind in dict.fromkeys((run.recipe, run.fold) for run in runs):
        seeds = [run for run in runs if (run.recipe, run.fold) == kind]
        if len(seeds) > 1:
            rows.append(judge.row(f"mean of {len(seeds)} `{kind[0]}`", _mean([run.plain for run in seeds]), seeds))
    return rows


class _Judge:
    """Measures rows against the first run."""

    def __init__(self, films: Mapping[str, Film], first: Run, resamples: int) -> None:
        self.films, self.first, self.resamples = films, first.plain, resamples

    def row(self, step: str, scores: Mapping[str, float], runs: Sequence[Run]) -> Row:
        val = [image for image in scores if self.films[image].split == "val"]
        on_val = self._measure(val, scores)
        whole = len(scores) > len(val) and scores.keys() == self.first.keys()
        on_all = self._measure(list(scores), scores) if whole else on_val
        return Row(
            step=step, nets=len(runs), hours=sum(run.hours for run in runs), val=on_val["AUROC"],
            held=on_all["AUROC"] if whole else None, gain=on_all["gain"],
        )  # fmt: skip

    def _measure(self, images: Sequence[str], scores: Mapping[str, float]) -> dict[str, Interval]:
        y = np.array([self.films[image].abnormal for image in images])
        mine, base = (np.array([table[image] for image in images]) for table in (scores, self.first))
        measures = {
            "AUROC": lambda at: auroc(mine[at], y[at]),
            "gain": lambda at: auroc(mine[at], y[at]) - auroc(base[at], y[at]),
        }
        return bootstrap([self.films[image].group for image in images], measures, self.resamples)


def _mean(tables: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """By image that all tables have: the mean of what they say."""
    common = set(tables[0]).intersection(*tables[1:])
    return {image: float(np.mean([table[image] for table in tables])) for image in tables[0] if image in common}


def write_rows(rows: Iterable[Row], bundle: Path) -> None:
    """Keep the rows in the bundle, for its card."""
    file = bundle / _ROWS
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", "utf-8")


def read_rows(bundle: Path) -> list[Row]:
    """The rows that a bundle keeps; none where it has none."""
    try:
        stored: list[dict[str, Any]] = json.loads((bundle / _ROWS).read_text("utf-8"))
    except FileNotFoundError:
        return []
    for row in stored:
        row |= {name: tuple(value) for name, value in row.items() if isinstance(value, list)}
    return [Row(**row) for row in stored]
