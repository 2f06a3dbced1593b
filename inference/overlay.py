"""The film with the map of what was found painted over it, and words that say what the picture is not for.

The words stand in bands above and below the film, in English and Vietnamese: they cover no anatomy, and no viewer can
switch them off. The fonts are OpenCV's own, which have all Vietnamese letters.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from inference.report import NOT_FOR_DIAGNOSIS, Analysis, Found, Region
from pacs.heat import painted

__all__ = ["picture"]

RGB = npt.NDArray[np.uint8]

_SIDE = 1024  # px, the longest side of the film in the picture: enough for a map of 7 to 16 places a side
_LEAST_WIDTH = 720  # px: a narrow film gets margins, so that the words have room
_LINE, _MARGIN = 34, 14  # px
_BOX, _WORDS, _WARNING = (255, 230, 60), (235, 235, 235), (255, 200, 0)


def picture(film: npt.NDArray[np.uint8], heat: npt.NDArray[np.floating], analysis: Analysis) -> RGB:
    """The picture [rows, columns, 3] in RGB.

    Args:
        film: the grey image [rows, columns] as it is shown.
        heat: the map over it [h, w], 0 to 1.
        analysis: whose findings are framed and named.
    """
    scale = _SIDE / max(film.shape)
    size = (max(1, round(film.shape[1] * scale)), max(1, round(film.shape[0] * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    grey = np.asarray(cv2.resize(film, size, interpolation=method))
    shown = _blended(grey, painted(heat, *grey.shape))
    for found in analysis.findings:
        if found.region is not None:
            _frame(shown, found, found.region)
    return _captioned(shown, analysis)


def _blended(grey: npt.NDArray[np.uint8], colour: npt.NDArray[np.uint8]) -> RGB:
    share = colour[..., 3:].astype(np.float32) / 255
    mixed = grey[..., np.newaxis] * (1 - share) + colour[..., :3] * share
    return np.rint(mixed).astype(np.uint8)


def _frame(shown: RGB, found: Found, region: Region) -> None:
    corners = np.rint(region.corners(*shown.shape[:2])).astype(np.int32)
    cv2.polylines(shown, [corners[:4]], True, _BOX, 2, cv2.LINE_AA)
    left, top = corners[0]
    words = f"{found.term.english} / {found.term.vietnamese} {found.probability:.0%}"
    width = _width(words, 22)
    left = int(min(max(left, 4), max(4, shown.shape[1] - width - 4)))
    _write(shown, words, (left, int(top) - 8 if top > _LINE else int(top) + 26), 22, _BOX)


def _captioned(shown: RGB, analysis: Analysis) -> RGB:
    below = [
        f"{found.term.english} / {found.term.vietnamese}: {found.probability:.0%} (≥ {found.threshold:.0%})"
        for found in analysis.findings
    ]
    top = _band([" – ".join(NOT_FOR_DIAGNOSIS)], max(shown.shape[1], _LEAST_WIDTH), _WARNING, 26)
    maker = f"sangloc · {analysis.model_name} {analysis.model_version} · {analysis.scored_at:%Y-%m-%d %H:%M} UTC"
    bottom = _band([*below, maker], top.shape[1], _WORDS, 22)
    margin = top.shape[1] - shown.shape[1]
    middle = cv2.copyMakeBorder(shown, 0, 0, margin // 2, margin - margin // 2, cv2.BORDER_CONSTANT, value=(0, 0, 0))
    return np.ascontiguousarray(np.vstack([top, middle, bottom]))


def _band(lines: Sequence[str], width: int, colour: tuple[int, int, int], size: int) -> RGB:
    band = np.zeros((_LINE * len(lines) + _MARGIN, width, 3), np.uint8)
    for number, line in enumerate(lines):
        fitting = max(12, min(size, int(size * (width - 2 * _MARGIN) / max(1, _width(line, size)))))
        _write(band, line, (_MARGIN, _LINE * (number + 1) - 6), fitting, colour)
    return band


def _font() -> cv2.FontFace:
    return cv2.FontFace("uni")


def _width(words: str, size: int) -> int:
    return int(cv2.getTextSize((0, 0), words, (0, 0), _font(), size)[2])


def _write(image: RGB, words: str, at: tuple[int, int], size: int, colour: tuple[int, int, int]) -> None:
    cv2.putText(image, words, (at[0] + 1, at[1] + 1), (0, 0, 0), _font(), size)  # a shadow, to be read on any film
    cv2.putText(image, words, at, colour, _font(), size)
