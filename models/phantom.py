"""Chest radiographs that no patient ever had: drawn for the demo, the benches and the tests.

A phantom is a sum of attenuations along the beam (soft tissue, heart, spine, ribs, less the air of the lungs), brought
to twelve bits with scatter and quantum noise. It looks like a chest film to a person; it is no substitute for one, and
no model is judged on it. The input gate is shown some in training, so that it lets the demo pass.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["ABNORMALITIES", "Abnormality", "chest", "lateral"]

Abnormality = Literal["", "opacity", "nodule", "effusion", "cardiomegaly", "pneumothorax"]
ABNORMALITIES: tuple[Abnormality, ...] = get_args(Abnormality)
Image = npt.NDArray[np.uint16]
_Plane = npt.NDArray[np.float32]
_Point = tuple[float, float]

_WHITE = 4095  # 12 bits


def chest(seed: int, abnormality: Abnormality = "", *, rows: int = 1024, columns: int = 896) -> Image:
    """A frontal (PA) chest phantom.

    Args:
        seed: equal seeds give equal films.
        abnormality: what to draw into it; '' draws nothing.
        rows: height of the image in pixels.
        columns: width of the image in pixels.

    Returns:
        uint16 [rows, columns], 12 bits, MONOCHROME2 (bone is white).
    """
    rng = np.random.default_rng(seed)
    x, y = _grid(rows, columns, rng)
    lungs = _lungs(x, y, rng)
    heart = _heart(x, y, wide=abnormality == "cardiomegaly")
    air = lungs * (1 - heart)
    film = 0.62 * _body(x, y) - 0.46 * air
    film += 0.07 * heart * _soft(y - 0.55, 0.10) + _spine(x, y) + 0.08 * _band(x, 0.12) * _soft(y - 0.1, 0.2)
    film += _bones(rows, columns, rng) * (0.25 + 0.75 * air)
    film += 0.16 * _vessels(rows, columns, rng) * air
    film += _drawn(abnormality, x, y, air, rng)
    return _exposed(film, rng)


def lateral(seed: int, *, rows: int = 1024, columns: int = 896) -> Image:
    """A lateral chest phantom: uint16 [rows, columns], 12 bits, MONOCHROME2."""
    rng = np.random.default_rng(seed)
    x, y = _grid(rows, columns, rng)
    film = 0.70 * _ellipse(x, y, (0.0, 0.35), (0.80, 1.45))
    film -= 0.42 * _ellipse(x, y, (0.02, -0.05), (0.52, 0.72))
    film += 0.20 * _ellipse(x, y, (-0.22, 0.28), (0.30, 0.34)) + 0.22 * _band(x - 0.55 + 0.12 * y * y, 0.10)
    film += 0.10 * _band(y - 0.62 - 0.3 * x * x, 0.05)
    return _exposed(film, rng)


def _grid(rows: int, columns: int, rng: np.random.Generator) -> tuple[_Plane, _Plane]:
    """Coordinates with the chest at about -1..1, a little turned, shifted and scaled as patients stand."""
    vertical, horizontal = np.mgrid[-1.1 : 1.1 : rows * 1j, -1.0 : 1.0 : columns * 1j].astype(np.float32)
    turn, size = rng.normal(0, 0.02), rng.normal(1.0, 0.04)
    x = (horizontal + turn * vertical + rng.normal(0, 0.02)) * size
    y = (vertical - turn * horizontal + rng.normal(0, 0.02)) * size
    return x, y


def _soft(distance: npt.NDArray[Any], blur: float = 0.02) -> _Plane:
    """1 inside (distance < 0), 0 outside, with an edge `blur` wide."""
    return np.asarray(0.5 - 0.5 * np.tanh(distance / blur), np.float32)


def _ellipse(x: _Plane, y: _Plane, centre: _Point, radii: _Point, blur: float = 0.02) -> _Plane:
    radius = np.sqrt(((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2)
    return _soft((radius - 1) * min(radii), blur)


def _band(distance: npt.NDArray[Any], half_width: float) -> _Plane:
    return np.asarray(np.exp(-((distance / half_width) ** 2)), np.float32)


def _body(x: _Plane, y: _Plane) -> _Plane:
    shoulders = _soft(np.abs(x) - (0.42 + 0.55 * _soft(-(y + 0.82), 0.10)), 0.04)
    trunk = _ellipse(x, y, (0, 0.55), (0.98, 1.75), 0.03)
    tissue: _Plane = np.maximum(shoulders * trunk, _soft(np.abs(x) - 0.24, 0.03)) * (1 - 0.25 * x * x)
    return tissue


def _lungs(x: _Plane, y: _Plane, rng: np.random.Generator) -> _Plane:
    """Both lungs: ellipses cut by the domes of the diaphragm and by the mediastinum."""
    planes: list[_Plane] = []
    for side, base in ((-1, 0.52), (1, 0.58)):  # the patient's right lung is on the left of the film and ends higher
        inner = side * x
        field = _ellipse(inner, y, (0.45, -0.02), (0.36 + rng.normal(0, 0.01), 0.84))
        dome = base + rng.normal(0, 0.02) + 0.55 * (inner - 0.42) ** 2
        planes.append(field * _soft(y - dome) * _soft(0.12 + 0.04 * y - inner, 0.02))
    both: _Plane = np.maximum(planes[0], planes[1])
    return both


def _heart(x: _Plane, y: _Plane, *, wide: bool) -> _Plane:
    width = 0.50 if wide else 0.33
    left = _ellipse(x + 0.35 * (y - 0.3), y, (0.13, 0.30), (width, 0.36), 0.03)
    arch = _ellipse(x, y, (0.12, -0.30), (0.13, 0.13), 0.03)
    return np.maximum(left, arch)


def _spine(x: _Plane, y: _Plane) -> _Plane:
    discs = 0.85 + 0.15 * np.cos(y * 42)
    return (0.14 * _band(x, 0.09) * discs).astype(np.float32)


def _bones(rows: int, columns: int, rng: np.random.Generator) -> _Plane:
    """Ribs (thin bands with denser edges) and clavicles, as attenuation."""
    film = np.zeros((rows, columns), np.float32)
    t = np.linspace(0, 1, 40)
    for rib in range(9):
        top = -0.72 + 0.155 * rib + rng.normal(0, 0.006)
        for side in (-1, 1):
            reach = 0.50 + 0.32 * np.sin(np.pi * (rib + 2) / 12)
            posterior = np.stack([side * (0.08 + reach * np.sin(t * np.pi / 2)), top + 0.22 * t**2], axis=1)
            anterior = np.stack([side * (0.10 + reach * (1 - t**2)), top + 0.24 + 0.26 * t], axis=1)
            _stroke(film, posterior, 0.026, 0.060)
            _stroke(film, anterior, 0.022, 0.025)
    for side in (-1, 1):
        _stroke(
            film, np.stack([side * (0.06 + 0.62 * t), -0.66 - 0.16 * t + 0.05 * np.sin(6 * t)], axis=1), 0.030, 0.085
        )
    return _blurred(film, columns / 400)


def _pixels(line: npt.NDArray[np.floating], rows: int, columns: int) -> npt.NDArray[np.int32]:
    """Points in chest coordinates as pixel positions (column, row)."""
    return np.stack([(line[:, 0] + 1) / 2 * columns, (line[:, 1] + 1.1) / 2.2 * rows], axis=1).astype(np.int32)


def _stroke(film: _Plane, line: npt.NDArray[np.floating], half_width: float, weight: float) -> None:
    """Add the attenuation of one bone, a curved line in chest coordinates, to the film."""
    rows, columns = film.shape
    points = _pixels(line, rows, columns)
    top, bottom = max(0, points[:, 1].min() - 60), points[:, 1].max() + 60  # only the strip that the bone crosses
    mask = np.zeros_like(film[top:bottom], dtype=np.uint8)
    cv2.polylines(mask, [points - [0, top]], False, 255, max(1, int(half_width * columns)), cv2.LINE_AA)
    film[top:bottom] += np.float32(weight / 255) * mask


def _blurred(plane: npt.NDArray[Any], sigma_px: float) -> _Plane:
    """Gaussian blur; wide ones on a smaller copy, which looks the same and takes a tenth of the time."""
    shrink = max(1, int(sigma_px / 6))
    rows, columns = plane.shape
    small = (
        cv2.resize(plane, (columns // shrink, rows // shrink), interpolation=cv2.INTER_AREA) if shrink > 1 else plane
    )
    small = cv2.GaussianBlur(small, (0, 0), sigma_px / shrink)
    return np.asarray(cv2.resize(small, (columns, rows)), np.float32)


def _vessels(rows: int, columns: int, rng: np.random.Generator) -> _Plane:
    """Vessels that fan out from both hila, bend, and thin towards the edge: 0..1."""
    mask = np.zeros((rows, columns), np.uint8)
    t = np.linspace(0, 1, 12)
    for _ in range(44):
        side, angle, length = rng.choice([-1, 1]), rng.uniform(-1.5, 1.5), rng.uniform(0.25, 0.62)
        across = 0.12 + rng.uniform(0, 0.10) + length * t * np.cos(angle)
        along = rng.normal(0, 0.09) + length * t * np.sin(angle) + rng.normal(0, 0.15) * t**2
        points = _pixels(np.stack([side * across, along], axis=1), rows, columns)
        for part in range(3):  # thicker and denser nearer to the hilum
            thickness = max(1, int((0.003 + 0.003 * part) * columns))
            cv2.polylines(mask, [points[: 12 - 4 * part]], False, 110 + 70 * part, thickness, cv2.LINE_AA)
    return _blurred(mask.astype(np.float32) / 255, columns / 200)


def _drawn(abnormality: Abnormality, x: _Plane, y: _Plane, air: _Plane, rng: np.random.Generator) -> _Plane:
    """What the abnormality adds to the attenuation."""
    side = float(rng.choice([-1, 1]))
    cx, cy = side * rng.uniform(0.38, 0.52), rng.uniform(-0.35, 0.30)
    if abnormality == "opacity":
        cloud = _blurred(rng.standard_normal(x.shape, np.float32), x.shape[1] / 45)
        patch = _ellipse(x, y, (cx, cy), (0.24, 0.26), 0.12) * (0.8 + 0.25 * cloud / cloud.std())
        return np.asarray(0.34 * patch * air, np.float32)
    if abnormality == "nodule":
        return 0.28 * _ellipse(x, y, (cx, cy), (0.075, 0.07), 0.015) * air
    if abnormality == "effusion":
        level = 0.28 - 0.75 * np.clip(side * x - 0.25, 0, 1)  # the meniscus climbs at the outer wall
        return 0.46 * _soft(level - y, 0.03) * _soft(-side * x) * air
    if abnormality == "pneumothorax":
        return -0.16 * _soft(0.60 - side * x - 0.15 * (y + 0.5) ** 2, 0.01) * air
    return np.zeros_like(x)


def _exposed(film: _Plane, rng: np.random.Generator) -> Image:
    """From attenuation to twelve bits: scatter, noise that grows where little light came through, the film's curve."""
    scatter = _blurred(film, film.shape[1] / 12)
    noise = rng.standard_normal(film.shape, np.float32) * (0.004 + 0.008 * np.clip(film, 0, 1))
    curve = 1 / (1 + np.exp(-5.0 * (0.85 * film + 0.15 * scatter + noise - 0.45)))
    return np.clip(curve * _WHITE, 0, _WHITE).astype(np.uint16)
