"""The colours of a localisation map: one place, for the picture that is stored and for the one on the page."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from io import BytesIO

import cv2
import numpy as np
import numpy.typing as npt

from storage.errors import InvalidInput

__all__ = ["LEAST", "heat_of", "painted", "png"]

LEAST = 0.25
"""Share of the map's greatest value below which nothing is coloured."""
_FINE = 256  # places a side on which maps are laid over the film
_OPAQUE = 0.6  # of the colour where the map is strongest

Map = npt.NDArray[np.floating]


def heat_of(stored: bytes, names: Sequence[str] = ()) -> Map:
    """The stored maps (`models.maps.pack`) of these findings, of all where none is named, as one map over the film.

    Each is 0 at its mean and 1 at its peak, as its outline is drawn; the strongest counts at every place.

    Raises:
        InvalidInput: these are no stored maps.
    """
    try:
        with np.load(BytesIO(stored)) as parts:  # never unpickles
            found, maps, frame = parts["names"], parts["maps"].astype(np.float32), parts["frame"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError) as error:
        raise InvalidInput(f"these are no stored maps: {error}") from error
    chosen = [one for name, one in zip(found, maps, strict=True) if not names or str(name) in names]
    left, top, right, bottom = (round(float(edge) * _FINE) for edge in frame)
    heat = np.zeros((_FINE, _FINE), np.float32)
    size = (max(1, right - left), max(1, bottom - top))
    for one in chosen:
        mean, peak = float(one.mean()), float(one.max())
        shares = np.clip((one - mean) / max(peak - mean, 1e-6), 0, 1)
        fine = np.clip(cv2.resize(shares, size, interpolation=cv2.INTER_CUBIC), 0, 1)
        place = heat[top : top + size[1], left : left + size[0]]
        np.maximum(place, fine[: place.shape[0], : place.shape[1]], out=place)
    return heat


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
