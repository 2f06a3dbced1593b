"""Where in an image a finding comes from, in closed form: no gradient, no further pass through the network.

Behind the last feature map stand only a mean over places and one linear layer. So a logit is exactly a sum over places
(class activation map; Zhou et al., CVPR 2016):

    logit[k] = bias[k] + sum over (y, x) of (weights[k] . features[:, y, x]) / (h w)

The map holds these summands, the bias spread evenly: their sum is the logit, which a test proves for every engine.
Maps are coarse (one place is a thirty-second of the network's input) and say what moved the model, not what is ill.
"""

from __future__ import annotations

import zipfile
from io import BytesIO
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from models.preprocess import WHOLE, Frame
from storage.errors import InvalidInput

__all__ = ["Maps", "Region", "activation", "pack", "region", "unpack"]

Floats = npt.NDArray[np.float32]
_FINE = 96  # places a side on which an outline is drawn
_LEVEL = 0.5  # between the map's mean and its peak: what lies above belongs to the region
_FLAT = 1e-4  # logit; a map whose peak is no higher above its mean points nowhere


class Maps(NamedTuple):
    """The maps of one image as they are stored."""

    names: tuple[str, ...]  # of the findings, k
    maps: Floats  # [k, h, w], contributions to the logit
    frame: Frame  # where on the film they lie


class Region(NamedTuple):
    """Where a map peaks, in shares of the film's width and height: a box and the peak in it."""

    left: float
    top: float
    right: float
    bottom: float
    peak_x: float
    peak_y: float


def activation(features: Floats, weights: Floats, bias: Floats) -> Floats:
    """Contributions [k, h, w] to the k logits from features [c, h, w], weights [k, c] and bias [k] of the head."""
    _, h, w = features.shape
    summed = np.einsum("kc,chw->khw", weights, features) + bias[:, np.newaxis, np.newaxis]
    return np.asarray(summed / (h * w), np.float32)


def region(contributions: Floats, frame: Frame = WHOLE) -> Region | None:
    """The connected region around the peak of a map [h, w] on the film; None for a map that points nowhere."""
    fine = np.asarray(cv2.resize(contributions.astype(np.float32), (_FINE, _FINE), interpolation=cv2.INTER_LINEAR))
    peak, mean = float(fine.max()), float(fine.mean())
    if not peak - mean > _FLAT:
        return None
    y, x = np.unravel_index(int(fine.argmax()), fine.shape)
    _, parts = cv2.connectedComponents((fine >= mean + _LEVEL * (peak - mean)).astype(np.uint8))
    rows, columns = np.nonzero(parts == parts[y, x])
    wide, high = frame.right - frame.left, frame.bottom - frame.top
    return Region(
        left=frame.left + wide * int(columns.min()) / _FINE,
        top=frame.top + high * int(rows.min()) / _FINE,
        right=frame.left + wide * (int(columns.max()) + 1) / _FINE,
        bottom=frame.top + high * (int(rows.max()) + 1) / _FINE,
        peak_x=frame.left + wide * (int(x) + 0.5) / _FINE,
        peak_y=frame.top + high * (int(y) + 0.5) / _FINE,
    )


def pack(maps: Maps) -> bytes:
    """The maps as one small object: a compressed npz of names, half-precision maps and frame."""
    buffer = BytesIO()
    np.savez_compressed(
        buffer, names=np.array(maps.names), maps=maps.maps.astype(np.float16), frame=np.array(maps.frame, np.float32)
    )
    return buffer.getvalue()


def unpack(stored: bytes) -> Maps:
    """What `pack` wrote; raises `InvalidInput` for anything else."""
    try:
        with np.load(BytesIO(stored)) as parts:  # never unpickles
            names, maps, frame = parts["names"], parts["maps"], parts["frame"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError) as error:
        raise InvalidInput(f"these are no stored maps: {error}") from error
    if maps.ndim != 3 or names.shape != maps.shape[:1] or frame.shape != (4,):
        raise InvalidInput("these are no stored maps: names, maps and frame do not fit each other")
    return Maps(tuple(map(str, names)), maps.astype(np.float32), Frame(*map(float, frame)))
