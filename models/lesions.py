"""Lesions drawn by code on real normal films: an abnormality that no source can be told by.

Every abnormal film of a single-class source teaches the source as well as the disease. A drawn lesion makes a film of
any source abnormal, at a place and of a kind that are known. Crude on purpose; blur, noise and JPEG come after it.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["LESIONS", "draw_lesion"]

Image = npt.NDArray[np.uint8]
_Plane = npt.NDArray[np.float32]

LESIONS: Final = ("Nodule", "Mass", "Infiltration", "Effusion")  # names of the findings that they stand for
_RADIUS = {"Nodule": (0.015, 0.035), "Mass": (0.035, 0.08), "Infiltration": (0.08, 0.2)}  # of the side
_STRENGTH = {"Nodule": (0.25, 0.6), "Mass": (0.2, 0.55), "Infiltration": (0.2, 0.6), "Effusion": (0.4, 0.8)}
_AIR = 20.0  # grey of what is no body; at twice this much a lesion shows in full
_DENSE = 200.0  # grey of soft tissue, towards which a lesion brings what it covers


def draw_lesion(work: Image, kind: str, rng: np.random.Generator) -> Image:
    """The uint8 square of `to_work` with one lesion of a kind in `LESIONS`; the given array stays as it is."""
    side = work.shape[0]
    y, x = np.mgrid[0 : 1 : side * 1j, 0 : 1 : side * 1j].astype(np.float32)
    calm = cv2.GaussianBlur(work, (0, 0), side / 40).astype(np.float32)
    mask = _fluid(x, y, rng) if kind == "Effusion" else _patch(calm, x, y, kind, rng)
    mask *= rng.uniform(*_STRENGTH[kind]) * np.clip((calm - _AIR) / _AIR, 0, 1)
    film = work.astype(np.float32)
    return np.asarray(np.rint(film + mask * np.maximum(_DENSE - film, 12.0)).clip(0, 255), np.uint8)


def _patch(calm: _Plane, x: _Plane, y: _Plane, kind: str, rng: np.random.Generator) -> _Plane:
    """An irregular, soft-edged ellipse at the darkest of some places in the middle: in a lung, mostly."""
    side = calm.shape[0]
    places = np.column_stack([rng.uniform(0.15, 0.75, 6), rng.uniform(0.12, 0.88, 6)])
    at = (places * side).astype(int)
    grey = calm[at[:, 0], at[:, 1]]
    down, right = places[int(np.argmin(np.where(grey < 2 * _AIR, 255 - grey, grey)))]
    radius, aspect, turn = rng.uniform(*_RADIUS[kind]), np.exp(rng.uniform(-0.3, 0.3)), rng.uniform(0, np.pi)
    along = ((x - right) * np.cos(turn) + (y - down) * np.sin(turn)) / (radius * aspect)
    across = ((y - down) * np.cos(turn) - (x - right) * np.sin(turn)) / (radius / aspect)
    distance = np.sqrt(along**2 + across**2) + 0.35 * _clouds(side, 9, rng)
    mask = _inside(1 - distance, rng.uniform(0.08, 0.3))
    return np.asarray(mask * (1 + 0.6 * _clouds(side, 24, rng) * (kind == "Infiltration")), np.float32)


def _fluid(x: _Plane, y: _Plane, rng: np.random.Generator) -> _Plane:
    """One side of the film from a meniscus down: higher at the chest wall."""
    wall = x if rng.random() < 0.5 else 1 - x
    level = rng.uniform(0.55, 0.85) - 0.12 * (1 - wall / 0.45) ** 2
    return _inside(y - level, 0.015) * _inside(0.43 - wall, 0.02)


def _inside(depth: npt.NDArray[np.floating], edge: float) -> _Plane:
    """1 well inside (depth > 0), 0 outside, with an edge about this wide."""
    return np.asarray(1 / (1 + np.exp(-np.clip(depth / edge, -40, 40))), np.float32)


def _clouds(side: int, cells: int, rng: np.random.Generator) -> _Plane:
    """Smooth noise, about -1 to 1."""
    coarse = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC), np.float32)
