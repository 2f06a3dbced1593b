"""Whether a decoded image is what the model knows, as far as its pixels tell: the words for what `models.gate` found.

`inference.eligibility` asks the header, this asks the image. A film that came turned or inverted is put right where that
is sure; every other image that is no upright frontal chest film of an adult is refused. A refusal costs the priority
only: the study stays on the list in arrival order, with the reason given here, so every reason is a sentence for a person.

A lateral film is not told from its pixels (there was none to learn from): the header's view decides.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from models.gate import DEFAULT_GATE, Gatekeeper, load_gate, put_right
from storage.errors import NotScorable

__all__ = ["DEFAULT_GATE", "Gate", "Looked", "open_gate"]

Grey = npt.NDArray[np.uint8]

_MIN_SIDE = 64  # px; models.preprocess takes nothing smaller
_REASONS = {
    "not_chest": "the image does not look like a chest radiograph: only frontal chest radiographs are read",
    "turned": "the image may be turned on its side or upside down: which way cannot be told",
    "inverted": "black and white may be exchanged in the image: whether they are cannot be told",
    "cropped": "the image shows only a part of the chest: the model knows whole chests only",
    "child": "the image looks like the chest of a child: the model knows adults only",
}
_TURNED = {
    90: "the image lay on its left side and was turned upright",
    180: "the image was upside down and was turned upright",
    270: "the image lay on its right side and was turned upright",
}
_INVERTED = "black and white were exchanged in the image and were changed back"

# No film of the training data comes near these limits (see the card of the gate).
_FLAT = 4.0  # grey levels of standard deviation
_FEW = 16  # grey levels that make up the image
_LEVEL = 0.0005  # share of the pixels that a grey level needs to count
_WHITE, _BLACK = 0.60, 0.85  # share of the pixels at the very end of the scale
_MOTTLE = 0.25  # of the spread that is left when the image is looked at from afar


class Looked(NamedTuple):
    """A film as the model may see it.

    Attributes:
        film: uint8 [rows, columns], put right.
        notes: what was put right, a sentence each.
        turned: degrees counter-clockwise by which the stored image is turned: 0, 90, 180, 270.
    """

    film: Grey
    notes: tuple[str, ...] = ()
    turned: int = 0


class Gate:
    """A gate at work; any number of threads may use it at once."""

    def __init__(self, keeper: Gatekeeper) -> None:
        self.keeper = keeper

    def look(self, film: Grey) -> Looked:
        """The film put right; raises `NotScorable` with the reason where it is nothing that the model knows."""
        refuse_pixels(film)
        verdict = self.keeper.look(film)
        if verdict.reason:
            raise NotScorable(_REASONS[verdict.reason])
        if not verdict.turned and not verdict.inverted:
            return Looked(film)
        notes = [_TURNED[verdict.turned]] if verdict.turned else []
        notes += [_INVERTED] if verdict.inverted else []
        return Looked(put_right(film, verdict.turned, inverted=verdict.inverted), tuple(notes), verdict.turned)


def open_gate(folder: Path | None = None) -> Gate:
    """The gate of a bundle folder, else the one that ships with sangloc; raises `InvalidBundle`."""
    return Gate(load_gate(folder or DEFAULT_GATE))


def refuse_pixels(film: Grey) -> None:
    """Raise `NotScorable` for an image that shows nothing, whatever it should show: blank, saturated, noise."""
    if film.ndim != 2 or min(film.shape) < _MIN_SIDE:
        raise NotScorable(f"the image is too small to read: {film.shape[-1]} x {film.shape[0]} pixels")
    shares = np.bincount(film.ravel(), minlength=256) / film.size
    afar = cv2.resize(film, (32, 32), interpolation=cv2.INTER_AREA)
    spread = float(film.std())
    checks = (
        (spread < _FLAT, "the image is blank: it shows one shade of grey"),
        (shares[255] > _WHITE, f"the image is saturated: {shares[255]:.0%} of it is plain white"),
        (shares[0] > _BLACK, f"the image is underexposed: {shares[0]:.0%} of it is plain black"),
        ((shares > _LEVEL).sum() < _FEW, "the image has too few grey levels to show a chest"),
        (float(afar.std()) < _MOTTLE * spread, "the image shows nothing but noise"),
    )
    for fails, reason in checks:
        if fails:
            raise NotScorable(reason)
