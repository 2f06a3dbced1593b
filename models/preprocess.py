"""From a grey image to the network's input: the one definition, used by training, evaluation and inference.

numpy and OpenCV only. All sources are made alike on purpose: every film, whatever its size and shape, first becomes the
same small square (in the training data the source tells the label, so sharpness and aspect must not tell the source).

    film [rows, columns], brighter is denser (MONOCHROME2), any size, uint8 | uint16 | float
      -> `to_work`: area resize to 256 x 256, empty borders trimmed, window at the 0.5 and 99.5 percentile -> uint8
      -> `to_input`: resize to the network's size, mean 0 and standard deviation 1 -> float32 [1, size, size]
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from storage.errors import NotScorable

__all__ = [
    "WHOLE",
    "WORK_SIZE",
    "Frame",
    "central_square",
    "frame_and_work",
    "in_whole",
    "prepare",
    "scale",
    "standardise",
    "to_input",
    "to_square",
    "to_work",
]

WORK_SIZE = 256  # px, the smallest size among the training sources
_MIN_SIDE = 64  # px; a smaller image is an icon, not a film
_TRIM = 0.2  # of a side at most is trimmed as an empty border
_FLAT = 0.03  # of the greatest spread of a row or column: a line with less is empty
_PERCENTILES = (0.5, 99.5)

Grey = npt.NDArray[np.uint8 | np.uint16 | np.float32]


class Frame(NamedTuple):
    """The part of a film that a network sees, in shares of the film's width and height, 0 to 1."""

    left: float
    top: float
    right: float
    bottom: float


WHOLE = Frame(0.0, 0.0, 1.0, 1.0)


def prepare(film: npt.NDArray[np.generic], size: int) -> npt.NDArray[np.float32]:
    """The network's input float32 [1, size, size] for a grey image [rows, columns] of any size.

    Raises:
        NotScorable: not a two-dimensional image, too small, or without any contrast.
    """
    return to_input(to_work(film), size)


def to_work(film: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    """The film as a uint8 square [256, 256]: squeezed, trimmed and windowed; raises `NotScorable`."""
    return frame_and_work(film)[1]


def frame_and_work(film: npt.NDArray[np.generic]) -> tuple[Frame, npt.NDArray[np.uint8]]:
    """`to_work` and the part of the film that is left by its trimming."""
    if film.ndim != 2 or min(film.shape) < _MIN_SIDE:
        raise NotScorable(f"an image of shape {'x'.join(map(str, film.shape))} is no film that a model can read")
    if film.dtype not in (np.uint8, np.uint16, np.float32):
        film = film.astype(np.float32)
    small = _square(film, WORK_SIZE).astype(np.float32)  # area resize first: float work is for few pixels
    if not np.isfinite(small).all():
        raise NotScorable("the image holds values that are no numbers")
    frame, inner = _trim(small)
    return frame, _window(_square(inner, WORK_SIZE).astype(np.float32, copy=False))


def central_square(film: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """The greatest square in the middle [side, side], as some train on; anything else as it is."""
    if film.ndim != 2:
        return film
    side = min(film.shape)
    top, left = (film.shape[0] - side) // 2, (film.shape[1] - side) // 2
    return film[top : top + side, left : left + side]


def in_whole(film: npt.NDArray[np.generic], frame: Frame) -> Frame:
    """A frame in the central square of a film as a frame in the whole film."""
    rows, columns = film.shape
    side = min(rows, columns)
    wide, high = side / columns, side / rows
    left, top = ((columns - side) // 2) / columns, ((rows - side) // 2) / rows
    return Frame(left + frame.left * wide, top + frame.top * high, left + frame.right * wide, top + frame.bottom * high)


def to_input(work: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.float32]:
    """float32 [1, size, size] from the uint8 square of `to_work`."""
    return standardise(to_square(work, size))


def to_square(work: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """uint8 [size, size] from the uint8 square of `to_work`."""
    return _square(work, size).astype(np.uint8, copy=False)


def scale(grey: npt.NDArray[np.uint8], low: float, high: float) -> npt.NDArray[np.float32]:
    """Black at `low`, white at `high`: uint8 [size, size] to float32 [1, size, size]."""
    return (grey.astype(np.float32) * np.float32((high - low) / 255.0) + np.float32(low))[np.newaxis]


def standardise(grey: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Mean 0 and standard deviation 1 for one image: uint8 [size, size] to float32 [1, size, size]."""
    image = grey.astype(np.float32)
    mean, deviation = cv2.meanStdDev(image)
    return ((image - np.float32(mean[0, 0])) / np.float32(max(float(deviation[0, 0]), 1.0)))[np.newaxis]


def _square(image: npt.NDArray[np.generic], size: int) -> npt.NDArray[np.generic]:
    if image.shape == (size, size):
        return image
    method = cv2.INTER_AREA if min(image.shape) >= size else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (size, size), interpolation=method))


def _window(image: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    low, high = np.percentile(image, _PERCENTILES)
    if high - low < 1e-6:
        raise NotScorable("the image has no contrast")
    scaled: npt.NDArray[np.float32] = np.clip((image - low) * (255.0 / (high - low)), 0, 255)
    return np.rint(scaled).astype(np.uint8)


def _trim(image: npt.NDArray[np.float32]) -> tuple[Frame, npt.NDArray[np.float32]]:
    calm = np.clip(image, *np.percentile(image, _PERCENTILES))  # a marker must not make a film look empty beside it
    top, bottom = _filled(calm.std(axis=1))
    left, right = _filled(calm.std(axis=0))
    rows, columns = image.shape
    frame = Frame(left / columns, top / rows, right / columns, bottom / rows)
    return frame, np.ascontiguousarray(image[top:bottom, left:right])


def _filled(spread: npt.NDArray[np.floating]) -> tuple[int, int]:
    """First and last + 1 line that is not empty, each at most `_TRIM` of the side away from the edge.

    The line beside an empty one goes too: the area resize has mixed both.
    """
    limit, count = int(len(spread) * _TRIM), len(spread)
    filled = np.flatnonzero(spread >= _FLAT * spread.max())
    first, last = int(filled[0]), int(filled[-1]) + 1
    return min(first + (first > 0), limit), max(last - (last < count), count - limit)
