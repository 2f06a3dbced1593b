"""Which films an epoch is made of, what they teach, and how much each label counts. numpy only."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.data import ABNORMAL, Film, hard_targets, soft_targets, traits
from models.recipe import FOLDS, TrainConfig

__all__ = ["Lessons", "choose_findings", "fold_of", "mixed_source_films", "split_fold"]

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Lessons:
    """What the training films teach: columns are the findings, then the traits where the settings want them."""

    targets: Floats  # [films, columns], 0 to 1; 0 where nobody looked
    weights: Floats  # [films, columns]; 0 where nobody looked
    chances: npt.NDArray[np.float64]  # [films], how likely each is drawn; sums to 1
    findings: int  # columns that the bundle keeps

    @classmethod
    def of(cls, films: Sequence[Film], findings: Sequence[str], config: TrainConfig, taught: Floats | None) -> Lessons:
        """From the labels, and from the teachers' probabilities `taught` [films, findings] where there are teachers."""
        targets = soft_targets(films, findings) if config.soften else hard_targets(films, findings)
        weights = _weights(films, targets, config.one_class_weight)
        targets = np.nan_to_num(targets)
        if taught is not None:  # where nobody looked, the teachers' answer is all there is
            share = np.where(weights > 0, config.distil, 1.0)
            targets = (share * taught + (1 - share) * targets).astype(np.float32)
            weights = np.where(weights > 0, weights, np.float32(config.distil))
        if config.traits > 0:
            side = traits(films)
            targets = np.column_stack([targets, np.nan_to_num(side)])
            weights = np.column_stack([weights, np.isfinite(side)])
        return cls(targets.astype(np.float32), weights.astype(np.float32), _chances(films, config), len(findings))


def choose_findings(films: Sequence[Film], min_positives: int) -> tuple[str, ...]:
    """Abnormal, then the mined findings with enough positive films, most frequent first.

    A finding that only single-class sources carry (tuberculosis, COVID-19) is left out: a network would learn the
    source, not the finding. Such films still count as abnormal.
    """
    counts: dict[str, int] = {}
    mixed = {film.source for film in films if not film.abnormal} & {film.source for film in films if film.abnormal}
    exhaustive = {film.source for film in films if film.source in mixed and film.basis.startswith("NIH")}
    for film in films:
        for name in film.findings:
            counts[name] = counts.get(name, 0) + (film.source in exhaustive)
    kept = [name for name, count in counts.items() if count >= min_positives]
    return (ABNORMAL, *sorted(kept, key=lambda name: (-counts[name], name)))


def mixed_source_films(films: Sequence[Film]) -> list[Film]:
    """The films of sources that have both classes; all films where no source has.

    On the others Abnormal is known from the source, so a figure or a threshold would look better than it is.
    """
    normal, abnormal = ({film.source for film in films if film.abnormal == label} for label in (0, 1))
    return [film for film in films if film.source in normal & abnormal] or list(films)


def fold_of(film: Film) -> int:
    """The part, 0 to `FOLDS` - 1, that a film and all others of its group belong to."""
    return hashlib.sha256(film.group.encode()).digest()[0] % FOLDS


def split_fold(train: Sequence[Film], val: Sequence[Film], fold: int | None) -> tuple[list[Film], list[Film]]:
    """(films to fit on, films left out): of the sources by which val judges, one fold is left out."""
    sources = {film.source for film in mixed_source_films(val)}
    held = [film for film in train if film.source in sources and fold_of(film) == fold]
    names = {film.image for film in held}
    return [film for film in train if film.image not in names], held


def _chances(films: Sequence[Film], config: TrainConfig) -> npt.NDArray[np.float64]:
    chances = np.zeros(len(films))
    named = {(source, abnormal): share for source, abnormal, share in config.shares}
    keys = [(film.source, film.abnormal) for film in films]
    for key in set(keys):
        here = np.array([k == key for k in keys])
        if key in named:
            chances[here] = named[key] / here.sum()
    rest = np.array([key not in named for key in keys])
    if rest.any():
        chances[rest] = config.other_share / rest.sum()
    return np.asarray(chances / chances.sum())


def _weights(films: Sequence[Film], targets: Floats, one_class: float) -> Floats:
    """[films, findings]: 0 where nobody looked; Abnormal counts less on a source that has abnormal films only."""
    weights = np.isfinite(targets).astype(np.float32)
    normals = {film.source for film in films if not film.abnormal}
    weights[:, 0] = [1.0 if film.source in normals else one_class for film in films]
    return weights
