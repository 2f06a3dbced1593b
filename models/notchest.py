"""Images that are no frontal chest radiograph, drawn by code or made of chest films: what the input gate learns from.

There is no collection of other radiographs beside the chest films, so their rough anatomy is drawn: soft tissue, bones
with a denser cortex, gas. The others are what arrives by mistake (test patterns, text, scenes, noise), and chest films
that were taken apart, so that texture alone tells nothing. All are float32 [size, size], 0 black to 1 white.
"""

# ruff: noqa: RUF005 - points are added, not lists joined

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from models.phantom import lateral

__all__ = ["DRAWN", "MADE", "draw", "spoil"]

Plane = npt.NDArray[np.float32]
Random = np.random.Generator
_Point = tuple[float, float]


def draw(kind: str, rng: Random, size: int = 192) -> Plane:
    """One image of a kind in `DRAWN`: float32 [size, size], 0 to 1."""
    plane = DRAWN[kind](rng, size)
    low, high = float(plane.min()), float(plane.max())
    return np.asarray((plane - low) / max(high - low, 1e-6), np.float32)


def spoil(kind: str, film: Plane, rng: Random) -> Plane:
    """A chest film [size, size] made into no chest by a way in `MADE`."""
    return MADE[kind](film, rng)


# body parts


def _limb(rng: Random, size: int) -> Plane:
    """One or two long bones in soft tissue, perhaps a joint: arm, leg, knee."""
    plane, angle = _empty(size), rng.uniform(0, np.pi)
    along = np.array([np.cos(angle), np.sin(angle)])
    across, centre = np.array([-along[1], along[0]]), rng.uniform(0.4, 0.6, 2)
    width = rng.uniform(0.12, 0.32)
    _stroke(plane, centre - 0.9 * along, centre + 0.9 * along, 2 * width, rng.uniform(0.25, 0.5))
    joint = rng.uniform(-0.2, 0.2)
    for offset in rng.uniform(-0.5, 0.5, rng.integers(1, 3)) * width:
        middle, thick = centre + offset * across, width * rng.uniform(0.3, 0.6)
        for start, end in ((-0.9, joint - 0.015), (joint + 0.015, 0.9)):
            _bone(plane, middle + start * along, middle + end * along, thick, rng)
            near = middle + (end if end < 0.5 else start) * along
            _blob(plane, near, (thick * 0.8, thick * 0.6), 0.25, float(np.degrees(angle)) + 90)
    return _shown(plane, rng)


def _hand(rng: Random, size: int) -> Plane:
    """Wrist, palm and five rays of three bones; toes look alike at this size."""
    plane, base = _empty(size), np.array([0.5 + rng.normal(0, 0.04), 0.72])
    spread, reach = rng.uniform(0.12, 0.30), rng.uniform(0.36, 0.55)
    _stroke(plane, base, base + [rng.normal(0, 0.05), 0.5], 0.22, 0.35)
    _blob(plane, base - [0, 0.12], (0.17, 0.2), 0.35)
    for side in (-0.05, 0.05):
        _bone(plane, base + [side, 0.06], base + [side * 1.3, 0.5], 0.07, rng)
    for finger in range(5):
        angle = -np.pi / 2 + (finger - 2) * spread + rng.normal(0, 0.04)
        way = np.array([np.cos(angle), np.sin(angle)]) * reach * (1 - 0.06 * (finger - 2) ** 2)
        _stroke(plane, base, base + 1.05 * way, 0.08, 0.3)
        for start, end in ((0.1, 0.42), (0.45, 0.66), (0.68, 0.84), (0.86, 1.0)):
            _bone(plane, base + start * way, base + end * way, 0.045, rng)
    for _ in range(8):
        _blob(plane, base + rng.normal(0, [0.06, 0.03]), (0.03, 0.025), 0.2)
    return _shown(plane, rng)


def _skull(rng: Random, size: int) -> Plane:
    """A shell of bone with orbits or, from the side, a face and a jaw."""
    plane, centre = _empty(size), np.array([0.5, 0.42])
    wide, high = rng.uniform(0.26, 0.36), rng.uniform(0.32, 0.4)
    _blob(plane, centre, (wide + 0.03, high + 0.03), 0.4)
    _ring(plane, centre, (wide, high), rng.uniform(0.02, 0.04), 0.5)
    _blob(plane, centre + [0, 0.38], (0.16, 0.2), 0.3)
    if rng.random() < 0.5:
        for side in (-1, 1):
            _ring(plane, centre + [side * 0.12, 0.12], (0.08, 0.07), 0.015, 0.3)
            _blob(plane, centre + [side * 0.12, 0.12], (0.07, 0.06), -0.15)
        _blob(plane, centre + [0, 0.22], (0.05, 0.08), -0.2)
    else:
        _blob(plane, centre + [0.22, 0.22], (0.12, 0.14), 0.2)
        _bone(plane, centre + [0.05, 0.36], centre + [0.3, 0.38], 0.07, rng)
    for _ in range(rng.integers(0, 10)):
        _blob(plane, centre + [rng.normal(0.05, 0.08), 0.33], (0.012, 0.02), 0.35)
    _spine(plane, (centre[0] - 0.03, 0.75), (centre[0] - 0.03, 1.1), 0.09, rng)
    return _shown(plane, rng)


def _pelvis(rng: Random, size: int) -> Plane:
    """Hips, sacrum and the heads of the femurs; one hip when moved aside."""
    plane, shift = _empty(size), rng.choice([0.0, 0.0, rng.uniform(-0.5, 0.5)])
    middle = 0.5 + shift
    _blob(plane, (middle, 0.55), (0.55, 0.6), 0.45)
    _spine(plane, (middle, -0.1), (middle, 0.38), 0.13, rng)
    for side in (-1, 1):
        _blob(plane, (middle + side * 0.24, 0.34), (0.17, 0.22), 0.28, side * 25)
        _ring(plane, (middle + side * 0.24, 0.34), (0.17, 0.22), 0.015, 0.25, turn=side * 25)
        _ring(plane, (middle + side * 0.11, 0.72), (0.08, 0.07), 0.03, 0.3)
        hip = np.array([middle + side * 0.28, 0.62])
        _blob(plane, hip, (0.075, 0.075), 0.4)
        _bone(plane, hip, hip + [side * 0.1, 0.1], 0.09, rng)
        _bone(plane, hip + [side * 0.1, 0.08], hip + [side * 0.06, 0.6], 0.1, rng)
    _gas(plane, (middle, 0.4), 0.12, int(rng.integers(0, 6)), rng)
    return _shown(plane, rng)


def _abdomen(rng: Random, size: int) -> Plane:
    """Soft tissue, lumbar spine, gas in the bowel, the rims of the pelvis; perhaps the last ribs."""
    plane = _empty(size)
    _blob(plane, (0.5, 0.5), (rng.uniform(0.45, 0.6), 0.9), 0.55)
    _spine(plane, (0.5, -0.1), (0.5, 0.8), 0.14, rng)
    _gas(plane, (0.5, 0.45), 0.24, int(rng.integers(4, 18)), rng)
    for side in (-1, 1):
        _blob(plane, (0.5 + side * 0.3, 0.95), (0.2, 0.22), 0.25, side * 25)
        for rib in range(int(rng.integers(0, 4))):
            start = np.array([0.5 + side * 0.08, 0.02 + 0.08 * rib])
            _stroke(plane, start, start + [side * 0.3, 0.12], 0.03, 0.15)
    return _shown(plane, rng)


def _vertebrae(rng: Random, size: int) -> Plane:
    """A spine, neck or lumbar, from the front or bent from the side."""
    plane, x = _empty(size), rng.uniform(0.35, 0.65)
    _stroke(plane, np.array([x, -0.2]), np.array([x, 1.2]), rng.uniform(0.35, 0.9), 0.4)
    _spine(plane, (x + rng.uniform(-0.15, 0.15), -0.1), (x, 1.1), rng.uniform(0.12, 0.24), rng)
    if rng.random() < 0.4:
        _blob(plane, (x, -0.1), (0.3, 0.3), 0.35)
    return _shown(plane, rng)


def _breast(rng: Random, size: int) -> Plane:
    """Half an ellipse at one edge with strands and clouds in it, black beside it."""
    plane, side = _empty(size), float(rng.integers(0, 2))
    _blob(plane, (side, 0.5), (rng.uniform(0.4, 0.8), rng.uniform(0.35, 0.5)), 0.5)
    inside = plane > 0.1
    plane += inside * 0.35 * _clouds(rng, size, rng.uniform(1.0, 2.0))
    if rng.random() < 0.6:
        _stroke(plane, np.array([side, -0.1]), np.array([side + (0.3 if side < 0.5 else -0.3), -0.3]), 0.5, 0.4)
    return plane * inside + 0.01 * _clouds(rng, size, 0.5)


def _shoulder(rng: Random, size: int) -> Plane:
    """One shoulder: humerus, scapula, collar bone and the edge of a rib cage, no lung fields side by side."""
    plane, side = _empty(size), int(rng.choice([-1, 1]))
    _blob(plane, (0.5 - side * 0.3, 0.75), (0.6, 0.7), 0.45)
    head = np.array([0.5 + side * 0.15, 0.35])
    _blob(plane, head, (0.1, 0.1), 0.35)
    _bone(plane, head, head + [side * 0.2, 0.8], 0.11, rng)
    _bone(plane, head + [-side * 0.02, -0.12], head + [-side * 0.6, -0.05], 0.05, rng)
    _blob(plane, head + [-side * 0.15, 0.22], (0.1, 0.2), 0.25, side * 15)
    for rib in range(4):
        start = np.array([0.5 - side * 0.12, 0.5 + 0.13 * rib])
        _stroke(plane, start, start + [-side * 0.5, -0.08], 0.035, 0.18)
    return _shown(plane, rng)


def _slice(rng: Random, size: int) -> Plane:
    """A cross-section: body on black with organs, vertebra and perhaps two dark lungs or a skull's ring."""
    plane, radii = _empty(size), (rng.uniform(0.3, 0.46), rng.uniform(0.25, 0.42))
    _blob(plane, (0.5, 0.5), radii, 0.5)
    if rng.random() < 0.4:
        _ring(plane, (0.5, 0.5), radii, 0.03, 0.5)
    for _ in range(int(rng.integers(3, 12))):
        where = np.array([0.5, 0.5]) + rng.normal(0, 0.12, 2)
        _blob(plane, where, tuple(rng.uniform(0.03, 0.14, 2)), rng.uniform(-0.3, 0.3), rng.uniform(0, 180))
    _blob(plane, (0.5, 0.5 + 0.6 * radii[1]), (0.06, 0.05), 0.45)
    return plane + 0.05 * _clouds(rng, size, 0.5)


def _lateral(rng: Random, size: int) -> Plane:
    film = lateral(int(rng.integers(1 << 31)), rows=size, columns=size)
    return film.astype(np.float32)


# what comes by mistake


def _noise(rng: Random, size: int) -> Plane:
    return _clouds(rng, size, rng.uniform(0.0, 2.2))


def _screen(rng: Random, size: int) -> Plane:
    """Lines of text, tables and boxes on an even ground."""
    ground = int(rng.integers(0, 256))
    plane, ink = np.full((size, size), ground, np.uint8), 255 if ground < 128 else 0
    for _ in range(int(rng.integers(0, 4))):
        (x, y), (w, h) = rng.integers(0, size, 2).tolist(), rng.integers(8, size, 2).tolist()
        cv2.rectangle(plane, (x, y), (x + w, y + h), int(rng.integers(0, 256)), int(rng.choice([-1, 1, 2])))
    letters = np.array(list("ABDEGHIKLMNOPRSTUVXY0123456789:/. "))
    for row in range(int(rng.integers(4, 14))):
        words = "".join(rng.choice(letters, int(rng.integers(4, 28))))
        at = (int(rng.integers(0, size // 3)), int((row + 1) * size / 14))
        cv2.putText(plane, words, at, cv2.FONT_HERSHEY_SIMPLEX, rng.uniform(0.25, 0.6), ink, 1, cv2.LINE_AA)
    return np.asarray(plane / 255, np.float32)


def _pattern(rng: Random, size: int) -> Plane:
    """Bars, checks, steps, rings and ramps as service engineers send them."""
    y, x = np.mgrid[0 : 1 : size * 1j, 0 : 1 : size * 1j].astype(np.float32)
    count, angle = rng.integers(1, 20), rng.uniform(0, np.pi)
    along = x * np.cos(angle) + y * np.sin(angle)
    planes = (
        along,
        np.floor(along * count) / count,
        np.sin(along * np.pi * count),
        ((np.floor(x * count) + np.floor(y * count)) % 2),
        np.sin(np.hypot(x - rng.random(), y - rng.random()) * np.pi * count),
        np.hypot(x - 0.5, y - 0.5) < rng.uniform(0.1, 0.45),
    )
    plane = planes[int(rng.integers(len(planes)))].astype(np.float32)
    return np.asarray(plane + rng.uniform(0, 0.1) * _clouds(rng, size, 0.3), np.float32)


def _scene(rng: Random, size: int) -> Plane:
    """Things before a ground, as in a photograph: shaded shapes of any form, one over the other."""
    plane = _clouds(rng, size, rng.uniform(1.5, 2.5))
    for _ in range(int(rng.integers(3, 25))):
        shape = np.zeros((size, size), np.uint8)
        centre, reach = rng.uniform(0, size, 2), rng.uniform(0.05, 0.4) * size
        corners = centre + rng.normal(0, reach, (int(rng.integers(3, 9)), 2))
        if rng.random() < 0.5:
            axes = tuple(int(v) for v in rng.uniform(0.2, 1, 2) * reach + 2)
            cv2.ellipse(shape, tuple(int(v) for v in centre), axes, rng.uniform(0, 180), 0, 360, 255, -1, cv2.LINE_AA)
        else:
            cv2.fillPoly(shape, [corners.astype(np.int32)], 255, cv2.LINE_AA)
        mask = shape.astype(np.float32) / 255
        shade = rng.uniform(-0.5, 1.5) + rng.uniform(0, 0.5) * _clouds(rng, size, rng.uniform(0.5, 2))
        plane = np.asarray(plane * (1 - mask) + shade * mask, np.float32)
    return np.asarray(plane, np.float32)


# chest films taken apart


def _jigsaw(film: Plane, rng: Random) -> Plane:
    """Cut into 2 x 2 to 5 x 5 pieces, shuffled, some of them turned."""
    count, size = int(rng.integers(2, 6)), film.shape[0]
    side = size // count
    pieces = [
        film[r : r + side, c : c + side] for r in range(0, side * count, side) for c in range(0, side * count, side)
    ]
    order = rng.permutation(len(pieces))
    while np.array_equal(order, np.arange(len(pieces))):
        order = rng.permutation(len(pieces))
    moved = [np.rot90(pieces[place], int(rng.integers(0, 4))) for place in order]
    rows = [np.hstack(moved[start : start + count]) for start in range(0, len(moved), count)]
    return np.ascontiguousarray(np.vstack(rows))


def _scramble(film: Plane, rng: Random) -> Plane:
    """The film's own spectrum with the phases of noise."""
    phases = np.angle(np.fft.rfft2(rng.standard_normal(film.shape)))
    mixed = np.fft.irfft2(np.abs(np.fft.rfft2(film - film.mean())) * np.exp(1j * phases), film.shape)
    low, high = np.percentile(mixed, (1, 99))
    return np.asarray(np.clip((mixed - low) / max(high - low, 1e-6), 0, 1), np.float32)


def _swirl(film: Plane, rng: Random) -> Plane:
    """Turned about its centre the more the further out: nothing is where it belongs."""
    size = film.shape[0]
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    angle = np.hypot(x, y) * rng.uniform(1.8, 5.0) * rng.choice([-1, 1])
    u, v = x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)
    across, down = (((plane + 1) / 2 * (size - 1)).astype(np.float32) for plane in (u, v))
    return np.asarray(cv2.remap(film, across, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT), np.float32)


def _overlap(film: Plane, rng: Random) -> Plane:
    """Exposed twice: the film and itself on its side or upside down."""
    return np.asarray(0.5 * film + 0.5 * np.rot90(film, int(rng.integers(1, 4))), np.float32)


# strokes of the pencil; places and lengths are shares of the side, (across, down)


def _empty(size: int) -> Plane:
    return np.zeros((size, size), np.float32)


def _add(plane: Plane, weight: float, paint: Callable[[npt.NDArray[np.uint8]], object]) -> None:
    mask = np.zeros(plane.shape, np.uint8)
    paint(mask)
    plane += np.float32(weight / 255) * mask


def _px(point: npt.ArrayLike, size: int) -> tuple[int, int]:
    x, y = np.rint(np.asarray(point, float) * size).astype(int)
    return int(x), int(y)


def _stroke(plane: Plane, start: npt.ArrayLike, end: npt.ArrayLike, width: float, weight: float) -> None:
    size = plane.shape[0]
    thick = max(1, round(width * size))
    _add(plane, weight, lambda m: cv2.line(m, _px(start, size), _px(end, size), 255, thick, cv2.LINE_AA))


def _blob(
    plane: Plane, centre: npt.ArrayLike, radii: _Point | tuple[float, ...], weight: float, turn: float = 0
) -> None:
    size = plane.shape[0]
    axes = (max(1, round(radii[0] * size)), max(1, round(radii[1] * size)))
    _add(plane, weight, lambda m: cv2.ellipse(m, _px(centre, size), axes, turn, 0, 360, 255, -1, cv2.LINE_AA))


def _ring(plane: Plane, centre: npt.ArrayLike, radii: _Point, width: float, weight: float, *, turn: float = 0) -> None:
    size = plane.shape[0]
    axes, thick = (max(1, round(radii[0] * size)), max(1, round(radii[1] * size))), max(1, round(width * size))
    _add(plane, weight, lambda m: cv2.ellipse(m, _px(centre, size), axes, turn, 0, 360, 255, thick, cv2.LINE_AA))


def _bone(plane: Plane, start: npt.ArrayLike, end: npt.ArrayLike, width: float, rng: Random) -> None:
    """Marrow and a denser cortex."""
    _stroke(plane, start, end, width, rng.uniform(0.3, 0.45))
    _stroke(plane, start, end, 0.6 * width, -rng.uniform(0.05, 0.2))


def _spine(plane: Plane, start: _Point, end: _Point, width: float, rng: Random) -> None:
    size, count = plane.shape[0], int(rng.integers(4, 9))
    for step in np.linspace(0, 1, count):
        x, y = (1 - step) * np.array(start) + step * np.array(end)
        high = 0.36 * np.hypot(end[0] - start[0], end[1] - start[1]) / count
        corner, other = _px((x - width / 2, y - high), size), _px((x + width / 2, y + high), size)
        _add(plane, 0.3, lambda m, a=corner, b=other: cv2.rectangle(m, a, b, 255, -1))  # type: ignore[misc]
        _blob(plane, (x, y), (0.12 * width, 0.5 * high), 0.15)


def _gas(plane: Plane, centre: _Point, spread: float, count: int, rng: Random) -> None:
    for _ in range(count):
        _blob(
            plane,
            rng.normal(centre, spread),
            tuple(rng.uniform(0.015, 0.07, 2)),
            -rng.uniform(0.1, 0.3),
            rng.uniform(0, 180),
        )


def _clouds(rng: Random, size: int, steepness: float) -> Plane:
    """Noise whose amplitude falls with frequency to this power: 0 white, 1 clouds, 2 smooth; about 0 to 1."""
    rows, columns = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]
    decay = np.maximum(np.hypot(rows, columns), 1 / size) ** -steepness
    plane = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((size, size))) * decay, (size, size))
    return np.asarray(0.5 + plane / (4 * plane.std()), np.float32)


def _shown(plane: Plane, rng: Random) -> Plane:
    """Blurred edges, mottle, scatter and the curve of a film."""
    size = plane.shape[0]
    soft = cv2.GaussianBlur(plane, (0, 0), size * rng.uniform(0.002, 0.012))
    soft = soft + rng.uniform(0, 0.3) * cv2.GaussianBlur(plane, (0, 0), size / 10)
    soft = soft * (1 + rng.uniform(0, 0.25) * (_clouds(rng, size, rng.uniform(0.5, 1.5)) - 0.5))
    return np.asarray(
        1 - np.exp(-rng.uniform(1, 3) * np.clip(soft, 0, None)) + rng.normal(0, 0.01, soft.shape), np.float32
    )


DRAWN: dict[str, Callable[[Random, int], Plane]] = {
    "limb": _limb, "hand": _hand, "skull": _skull, "pelvis": _pelvis, "abdomen": _abdomen, "spine": _vertebrae,
    "breast": _breast, "shoulder": _shoulder, "slice": _slice, "lateral phantom": _lateral, "noise": _noise,
    "screen": _screen, "test pattern": _pattern, "scene": _scene,
}  # fmt: skip
MADE: dict[str, Callable[[Plane, Random], Plane]] = {
    "jigsaw": _jigsaw, "scramble": _scramble, "swirl": _swirl, "double exposure": _overlap,
}  # fmt: skip
