"""Random changes of a film during training: what differs between sources and sites, but says nothing of the patient.

Position, size, aspect (many sources were squeezed to squares), exposure, sharpness, JPEG quality, noise, and boxes
(a quarter of one source carries white boxes). Each sample has its own generator, so that a run can be repeated.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from models.preprocess import standardise

__all__ = ["augment", "blend"]

Image = npt.NDArray[np.uint8]
_CENTRE = 0.5


def augment(work: Image, size: int, rng: np.random.Generator, *, alike: bool = True) -> npt.NDArray[np.float32]:
    """A training input float32 [1, size, size] from a uint8 work square; without `alike` it is moved only."""
    image = _move(work, size, rng)
    return standardise(_worn(image, rng) if alike else image)


def blend(
    tables: Sequence[npt.NDArray[np.float32]], strength: float, rng: np.random.Generator
) -> list[npt.NDArray[np.float32]]:
    """Mixup (Zhang 2018): each sample of a batch with its opposite, the greater share its own, in every table alike."""
    count = len(tables[0])
    share = rng.beta(strength, strength, count).astype(np.float32)
    share = np.maximum(share, 1 - share)
    mixed = list[npt.NDArray[np.float32]]()
    for table in tables:
        own = share.reshape(count, *[1] * (table.ndim - 1))
        mixed.append(own * table + (1 - own) * table[::-1])
    return mixed


def _worn(image: Image, rng: np.random.Generator) -> Image:
    """Other exposure, sharpness, noise, compression and boxes."""
    image = _expose(image, rng)
    if rng.random() < 0.5:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.2)), np.uint8)
    if rng.random() < 0.3:
        noise = rng.normal(0, rng.uniform(1, 7), image.shape).astype(np.float32)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    if rng.random() < 0.5:
        image = _jpeg(image, int(rng.integers(25, 90)))
    if rng.random() < 0.4:
        image = _boxes(image, rng)
    return image


def _move(work: Image, size: int, rng: np.random.Generator) -> Image:
    """Mirror, turn (12 degrees), zoom (0.85 to 1.2), stretch (12 % each way) and shift (6 %) in one resampling."""
    side = work.shape[0]
    mirror = -1.0 if rng.random() < 0.5 else 1.0
    angle = np.deg2rad(rng.uniform(-12, 12))
    zoom = np.exp(rng.uniform(np.log(0.85), np.log(1.2)))
    stretch = np.exp(rng.uniform(-0.12, 0.12))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = turn @ np.diag([mirror * zoom * stretch, zoom / stretch]) * (size / side)
    target = size * (_CENTRE + rng.uniform(-0.06, 0.06, 2))
    shift = target - linear @ np.full(2, side * _CENTRE)
    border = cv2.BORDER_CONSTANT if rng.random() < 0.7 else cv2.BORDER_REFLECT_101
    matrix = np.column_stack([linear, shift])
    return np.asarray(cv2.warpAffine(work, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=border), np.uint8)


def _expose(image: Image, rng: np.random.Generator) -> Image:
    """Gamma, contrast and brightness through one table of 256 entries."""
    level = np.linspace(0, 1, 256, dtype=np.float32) ** np.exp(rng.uniform(-0.4, 0.4))
    level = (level - 0.5) * rng.uniform(0.75, 1.35) + 0.5 + rng.uniform(-0.12, 0.12)
    return np.asarray(cv2.LUT(image, (np.clip(level, 0, 1) * 255).astype(np.uint8)), np.uint8)


def _jpeg(image: Image, quality: int) -> Image:
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE), np.uint8)


def _boxes(image: Image, rng: np.random.Generator) -> Image:
    """One to three boxes of white, black or grey, from a marker's size to a fifth of the side."""
    image = image.copy()
    side = image.shape[0]
    for _ in range(int(rng.integers(1, 4))):
        height, width = (rng.uniform(0.03, 0.2, 2) * side).astype(int) + 1
        top, left = int(rng.integers(0, side - height)), int(rng.integers(0, side - width))
        image[top : top + height, left : left + width] = int(rng.choice([0, 128, 255]))
    return image
