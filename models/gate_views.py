"""What the input gate learns from and is judged on: films turned, inverted and cropped, and images of other things.

Adults come from the manifest's splits. Children (split `pediatric`) are divided here, by group: half to fit, a quarter
to choose thresholds, a quarter to judge, by a digest of the group's name.
"""

from __future__ import annotations

import csv
import hashlib
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from models.gate import SIZE, put_right, square
from models.notchest import DRAWN, MADE, draw, spoil
from storage.errors import InvalidInput

__all__ = [
    "Subject",
    "View",
    "children_part",
    "crop",
    "drawings",
    "good_view",
    "of_split",
    "other_view",
    "read_subjects",
    "spoiled_view",
    "training_view",
]

ADULT = 16.0  # years; inference.eligibility.EligibilityPolicy.min_age_years
_NEEDED = ("image", "split", "source", "group", "age", "qc_flags")
_PARTS = ("fit", "fit", "val", "test")
# A film of split val that its publisher turned, by degrees counter-clockwise: found by the gate, confirmed by eye. Two
# of split train (nih 00003490_011, rsna_normal_02241) were fitted as they are, before anybody knew.
_TURNED_FILES = {"covid_rad_03063.jpg": 180}

Grey = npt.NDArray[np.uint8]
Random = np.random.Generator


@dataclass(frozen=True, slots=True)
class Subject:
    """One chest film and what is known of it."""

    image: str
    path: Path
    source: str
    group: str
    split: str  # of the manifest; of children: fit, val or test
    age: float  # years, NaN where unknown
    child: float  # 1, 0, or NaN for the young of 16 and 17 among the children's films
    inverted: bool  # the publisher's file has black and white exchanged

    def read(self, side: int = 512) -> Grey:
        """The film [rows, columns], upright and in its right black and white, longest side at most `side` px."""
        film = cv2.imread(str(self.path), cv2.IMREAD_GRAYSCALE)
        if film is None:
            raise InvalidInput(f"{self.path} is not an image that can be read")
        scale = side / max(film.shape)
        if scale < 1:
            film = cv2.resize(film, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        return np.asarray(put_right(film, _TURNED_FILES.get(self.path.name, 0), inverted=self.inverted), np.uint8)


@dataclass(frozen=True, slots=True)
class View:
    """A square [64, 64] and its labels: turned 0 to 3 (-1 unknown); the others 1, 0, or NaN for unknown."""

    plain: Grey
    turned: int
    labels: tuple[float, float, float, float]  # inverted, cropped, not a chest, child


def read_subjects(manifest: Path) -> list[Subject]:
    """Every film of the manifest.

    Raises:
        InvalidInput: no such file, or a needed column is missing.
    """
    try:
        with manifest.open(newline="", encoding="utf-8") as lines:
            table = csv.DictReader(lines)
            missing = [name for name in _NEEDED if name not in (table.fieldnames or ())]
            if missing:
                raise InvalidInput(f"{manifest} has no column {', '.join(missing)}")
            return [_subject(row, manifest.parent) for row in table]
    except OSError as error:
        raise InvalidInput(f"the manifest {manifest} cannot be read: {error.strerror}") from error


def children_part(group: str) -> str:
    """'fit', 'val' or 'test' for a group of children's films."""
    return _PARTS[hashlib.sha256(group.encode()).digest()[0] % len(_PARTS)]


def _subject(row: dict[str, str], folder: Path) -> Subject:
    age = _age(row["age"])
    young = row["split"] == "pediatric"
    return Subject(
        image=row["image"],
        path=folder / row["image"],
        source=row["source"],
        group=row["group"] or row["image"],
        split=children_part(row["group"] or row["image"]) if young else row["split"],
        age=age,
        child=float(young) if not young or not age >= ADULT else math.nan,
        inverted="inverted" in row["qc_flags"].split("|"),
    )


def _age(text: str) -> float:
    """Years: '54', '1-5' (the youngest), '67+'; NaN for anything else."""
    match = re.match(r"\d+", text)
    return float(match[0]) if match else math.nan


def training_view(film: Grey, *, child: float, rng: Random) -> View:
    """A chest film as it might come: whole or heavily cropped, turned, inverted, well or badly exposed."""
    chance = rng.random()
    if chance < 0.22:
        share, cropped = rng.uniform(0.08, 0.42), 1.0
        part = crop(film, share, rng)
    elif chance < 0.32:
        share, cropped = rng.uniform(0.42, 0.72), math.nan
        part = crop(film, share, rng)
    else:
        share, cropped = 1.0, 0.0
        part = _placed(film, rng)
    quarter = int(rng.choice(4, p=(0.46, 0.18, 0.18, 0.18)))
    inverted = rng.random() < 0.3
    if rng.random() < 0.5:
        part = part[:, ::-1]
    seen = _expose(np.rot90(part, quarter), rng)
    return View(
        ~seen if inverted else seen, quarter, (float(inverted), cropped, 0.0 if share > 0.2 else math.nan, child)
    )


def spoiled_view(film: Grey, rng: Random) -> View:
    """A chest film taken apart: no chest."""
    whole = cv2.resize(film, (160, 160), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    made = spoil(str(rng.choice(list(MADE))), whole, rng)
    return other_view((np.clip(made, 0, 1) * 255).astype(np.uint8), rng)


def other_view(image: Grey, rng: Random) -> View:
    """Any other image [rows, columns], in any position."""
    part = crop(image, rng.uniform(0.3, 1), rng) if rng.random() < 0.3 else image
    seen = _expose(np.rot90(part, int(rng.integers(0, 4))), rng)
    return View(~seen if rng.random() < 0.4 else seen, -1, (math.nan, math.nan, 1.0, math.nan))


def good_view(film: Grey, rng: Random) -> Grey:
    """A film as good ones differ: a little moved, turned by some degrees, exposed otherwise. [64, 64]."""
    return _expose(_placed(film, rng), rng)


def drawings(count: int, seed: int, size: int = 160) -> Iterator[tuple[str, Grey]]:
    """`count` drawn images of every kind in turn, with the name of the kind."""
    kinds = list(DRAWN)
    for number in range(count):
        kind = kinds[number % len(kinds)]
        yield kind, (draw(kind, np.random.default_rng([seed, number]), size) * 255).astype(np.uint8)


def crop(film: Grey, share: float, rng: Random) -> Grey:
    """A rectangle with this share of the film's area, of sides 1:2 to 2:1, from anywhere in it."""
    aspect = math.exp(rng.uniform(-0.69, 0.69))
    wide, high = min(1.0, math.sqrt(share * aspect)), min(1.0, math.sqrt(share / aspect))
    wide, high = min(1.0, share / high), min(1.0, share / wide)
    rows, columns = film.shape
    height, width = max(8, round(high * rows)), max(8, round(wide * columns))
    top, left = int(rng.integers(0, rows - height + 1)), int(rng.integers(0, columns - width + 1))
    return film[top : top + height, left : left + width]


def _placed(film: Grey, rng: Random) -> Grey:
    """Up to 8 % cut from each edge, or a border of black, white or grey added; turned by some degrees."""
    rows, columns = film.shape
    if rng.random() < 0.6:
        top, bottom = (rng.uniform(0, 0.08, 2) * rows).astype(int)
        left, right = (rng.uniform(0, 0.08, 2) * columns).astype(int)
        film = film[top : rows - bottom, left : columns - right]
    elif rng.random() < 0.5:
        top, bottom, left, right = (rng.uniform(0, 0.2, 4) * (rows, rows, columns, columns)).astype(int).tolist()
        shade = int(rng.choice([0, 0, 0, 255, 128]))
        film = cv2.copyMakeBorder(film, top, bottom, left, right, cv2.BORDER_CONSTANT, value=shade)
    if rng.random() < 0.5:
        rows, columns = film.shape
        matrix = cv2.getRotationMatrix2D((columns / 2, rows / 2), rng.normal(0, 6), 1)
        border = cv2.BORDER_CONSTANT if rng.random() < 0.5 else cv2.BORDER_REPLICATE
        film = cv2.warpAffine(film, matrix, (columns, rows), flags=cv2.INTER_LINEAR, borderMode=border)
    return np.asarray(film, np.uint8)


def _expose(part: Grey, rng: Random) -> Grey:
    """The square [64, 64] of a film that was exposed, sharpened, compressed and marked in one of many ways."""
    plain = square(np.ascontiguousarray(part))
    level = np.linspace(0, 1, 256) ** math.exp(rng.uniform(-0.6, 0.6))
    level = (level - 0.5) * rng.uniform(0.8, 1.5) + 0.5 + rng.uniform(-0.12, 0.12)
    plain = np.asarray(cv2.LUT(plain, (np.clip(level, 0, 1) * 255).astype(np.uint8)), np.uint8)
    if rng.random() < 0.4:
        plain = np.asarray(cv2.GaussianBlur(plain, (0, 0), rng.uniform(0.3, 1.1)), np.uint8)
    if rng.random() < 0.3:
        plain = np.clip(plain + rng.normal(0, rng.uniform(1, 10), plain.shape), 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        plain = plain.copy()
        for _ in range(int(rng.integers(1, 4))):
            height, width = (rng.uniform(0.03, 0.2, 2) * SIZE).astype(int) + 1
            top, left = int(rng.integers(0, SIZE - height)), int(rng.integers(0, SIZE - width))
            plain[top : top + height, left : left + width] = int(rng.choice([0, 128, 255]))
    return square(plain)


def of_split(subjects: Sequence[Subject], *, child: bool, split: str) -> list[Subject]:
    """The adults or the children of a split; the young of 16 and 17 are neither."""
    return [one for one in subjects if one.split == split and one.child == float(child)]
