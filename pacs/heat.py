"""The colours of a localisation map: one place, for the picture that is stored and for the one on the page."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["LEAST", "painted", "png"]

LEAST = 0.25
"""Share of the map's greatest value below which nothing is coloured."""
_OPAQUE = 0.6  # of the colour where the map is strongest

Map = npt.NDArray[np.floating]


def painted(heat: Map, rows: int, columns: int) -> npt.NDArray[np.uint8]:
    """The map (0 to 1) in the size of a film as RGBA [rows, columns, 4]: violet to yellow, nothing where it is weak."""
    smooth = cv2.resize(np.asarray(heat, np.float32), (columns, rows), interpolation=cv2.INTER_CUBIC)
    smooth = np.clip(smooth, 0, 1)
    grey = np.rint(smooth * 255).astype(np.uint8)
    rgb = cv2.cvtColor(cv2.applyColorMap(grey, cv2.COLORMAP_PLASMA), cv2.COLOR_BGR2RGB)
    alpha = np.clip((smooth - LEAST) / (1 - LEAST), 0, 1) * (255 * _OPAQUE)
    return np.dstack([rgb, np.rint(alpha).astype(np.uint8)])


def png(rgba: npt.NDArray[np.uint8]) -> bytes:
    """RGBA [rows, columns, 4] as a PNG."""
    done, packed = cv2.imencode(".png", cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGRA))
    assert done
    return packed.tobytes()
