"""Films and their labels from a manifest (a CSV file, one row an image).

Needed columns: `image` (path relative to the manifest), `label_abnormal` (0 or 1), `split`. Used where present:
`source`, `group` (the unit of splits and of the bootstrap), `findings` (names joined by `|`), `label_radiologist`
(an expert's normal-or-abnormal, preferred over `label_abnormal`), `label_basis`, `view` (AP or PA), `sex` (F or M),
`age` (years).
"""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from storage.errors import InvalidInput

__all__ = [
    "ABNORMAL",
    "BELIEFS",
    "TRAITS",
    "Film",
    "hard_targets",
    "read_film",
    "read_manifest",
    "soft_targets",
    "traits",
]

ABNORMAL = "Abnormal"
_NEEDED = ("image", "label_abnormal", "split")
_MINED = "NIH report text mining"  # every NIH finding was looked for in the report, by a program
_WEAK = "COVID-19 positive patient"  # the film itself may look normal
# how far a label is believed: one that was read, one that was mined or guessed (30 % of mined findings fall on review)
BELIEFS = _SURE, _UNSURE = 0.97, 0.85
TRAITS = ("view AP", "female", "over 60")  # what a film shows besides disease
_OLD = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Film:
    """One row of the manifest."""

    image: str  # as written in the manifest
    path: Path
    source: str
    split: str
    group: str
    labelled: int  # label_abnormal: the data set's own label, 0 or 1
    radiologist: int | None  # label_radiologist, where one exists
    findings: frozenset[str]
    basis: str
    view: str = ""  # 'AP', 'PA' or '' where unknown
    sex: str = ""  # 'F', 'M' or ''
    age: int | None = None  # years

    @property
    def abnormal(self) -> int:
        """The best label there is: the radiologist's, else the data set's."""
        return self.labelled if self.radiologist is None else self.radiologist

    @property
    def expert(self) -> float:
        """The radiologist's label, NaN where there is none."""
        return math.nan if self.radiologist is None else self.radiologist


def read_manifest(manifest: Path, splits: Collection[str]) -> list[Film]:
    """The films of the given splits in the manifest's order.

    Raises:
        InvalidInput: no such file, a needed column is missing, a label is not 0 or 1, or a split has no film.
    """
    try:
        with manifest.open(newline="", encoding="utf-8") as lines:
            table = csv.DictReader(lines)
            missing = [name for name in _NEEDED if name not in (table.fieldnames or ())]
            if missing:
                raise InvalidInput(f"{manifest} has no column {', '.join(missing)}")
            films = [_film(row, manifest) for row in table if row["split"] in splits]
    except OSError as error:
        raise InvalidInput(f"the manifest {manifest} cannot be read: {error.strerror}") from error
    empty = set(splits) - {film.split for film in films}
    if empty:
        raise InvalidInput(f"{manifest} has no film in split {', '.join(sorted(empty))}")
    return films


def _film(row: dict[str, str], manifest: Path) -> Film:
    labels = {"0": 0, "1": 1}
    if row["label_abnormal"] not in labels:
        raise InvalidInput(f"{manifest}: label_abnormal of {row['image']} is not 0 or 1")
    names = frozenset(row.get("findings", "").split("|")) - {"", "No Finding"}
    return Film(
        image=row["image"],
        path=manifest.parent / row["image"],
        source=row.get("source", ""),
        split=row["split"],
        group=row.get("group") or row["image"],
        labelled=labels[row["label_abnormal"]],
        radiologist=labels.get(row.get("label_radiologist", "")),
        findings=names,
        basis=row.get("label_basis", ""),
        view=_one_of(row.get("view", ""), ("AP", "PA")),
        sex=_one_of(row.get("sex", ""), ("F", "M")),
        age=_years(row.get("age", "")),
    )


def _one_of(value: str, known: tuple[str, ...]) -> str:
    return value if value in known else ""


def _years(value: str) -> int | None:
    """Whole years; None for what is no age that a person reaches."""
    try:
        years = int(float(value))
    except (ValueError, OverflowError):
        return None
    return years if 0 <= years <= 120 else None


def read_film(film: Film) -> npt.NDArray[np.uint8]:
    """The grey image uint8 [rows, columns]; raises `InvalidInput` naming the file."""
    image = cv2.imread(str(film.path), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH)
    if image is None:
        raise InvalidInput(f"{film.path} is not an image that can be read")
    if image.dtype != np.uint8:  # cutting it to 8 bits would leave a film of 12 bits nearly black
        raise InvalidInput(f"{film.path} has {8 * image.itemsize} bits a pixel: window it to 8 bits first")
    return np.asarray(image, np.uint8)


def hard_targets(films: Sequence[Film], findings: Sequence[str]) -> npt.NDArray[np.float32]:
    """Labels [films, findings]: 1 present, 0 absent, NaN where nobody looked.

    A normal film has no finding. On an abnormal one the named findings are present; the others are absent only where
    the reports were mined for all of them. A finding that the radiologist's "normal" contradicts is NaN.
    """
    table = np.full((len(films), len(findings)), np.nan, np.float32)
    for row, film in zip(table, films, strict=True):
        for column, name in enumerate(findings):
            if name == ABNORMAL:
                row[column] = film.abnormal
            elif name in film.findings:
                row[column] = 1 if film.abnormal else np.nan
            elif not film.abnormal or film.basis.startswith(_MINED):
                row[column] = 0
    return table


def soft_targets(films: Sequence[Film], findings: Sequence[str]) -> npt.NDArray[np.float32]:
    """`hard_targets` softened for training by how far each label is believed."""
    labels = hard_targets(films, findings)
    doubtful = [film.radiologist is None and film.basis.startswith((_MINED, _WEAK)) for film in films]
    belief = np.where(doubtful, _UNSURE, _SURE).astype(np.float32)[:, np.newaxis]
    return np.asarray(labels * belief + (1 - labels) * (1 - belief), np.float32)


def traits(films: Sequence[Film]) -> npt.NDArray[np.float32]:
    """`TRAITS` of films [films, 3]: 1 so, 0 not so, NaN where the manifest does not say."""
    table = np.full((len(films), len(TRAITS)), np.nan, np.float32)
    for row, film in zip(table, films, strict=True):
        if film.view:
            row[0] = film.view == "AP"
        if film.sex:
            row[1] = film.sex == "F"
        if film.age is not None:
            row[2] = film.age > _OLD
    return table
