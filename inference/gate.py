"""Whether a decoded image is what the model knows, as far as its pixels tell: the words for what `models.gate` found.

`inference.eligibility` asks the header, this asks the image. A film that came turned or inverted is put right where
that is sure; every other image that is no upright frontal chest film of an adult is refused. A refusal costs the
priority only: the study stays on the list in arrival order with the reason given here, a sentence for a person.

A lateral film is not told from its pixels (there was none to learn from): the header's view decides.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from models.gate import DEFAULT_GATE, Gatekeeper, Reason, load_gate, put_right
from models.preprocess import Frame
from storage.errors import NotScorable

__all__ = ["DEFAULT_GATE", "SENTENCES", "Gate", "Looked", "features_as_stored", "frame_as_stored", "open_gate"]

Grey = npt.NDArray[np.uint8]

_REASONS: dict[Reason, str] = {
    "too_small": "an image of less than 64 pixels a side is no film that a model can read",
    "blank": "the image is blank: it shows one shade of grey",
    "saturated": "the image is saturated: {share:.0%} of it is plain white",
    "underexposed": "the image is underexposed: {share:.0%} of it is plain black",
    "few_levels": "the image has too few grey levels to show a chest",
    "noise": "the image shows nothing but noise",
    "not_chest": "the image does not look like a frontal chest radiograph: only frontal chest radiographs are read",
    "turned": "the image may be turned on its side or upside down: which way cannot be told",
    "inverted": "black and white may be exchanged in the image: whether they are cannot be told",
    "cropped": "the image shows only a part of the chest: the model knows whole chests only",
    "child": "the image looks like the chest of a child: the model knows adults only",
}
_TURNED = {
    90: "the image lay on its side, its top to the left, and was turned upright",
    180: "the image was upside down and was turned upright",
    270: "the image lay on its side, its top to the right, and was turned upright",
}
_INVERTED = "black and white were exchanged in the image and were changed back"

SENTENCES = (*(text.format(share=0.7) for text in _REASONS.values()), *_TURNED.values(), _INVERTED)


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
        verdict = self.keeper.look(film)
        if verdict.reason:
            raise NotScorable(_REASONS[verdict.reason].format(share=verdict.chances.get(verdict.reason, 0)))
        if not verdict.turned and not verdict.inverted:
            return Looked(film)
        notes = [_TURNED[verdict.turned]] if verdict.turned else []
        notes += [_INVERTED] if verdict.inverted else []
        return Looked(put_right(film, verdict.turned, inverted=verdict.inverted), tuple(notes), verdict.turned)


def frame_as_stored(frame: Frame, turned: int) -> Frame:
    """A frame on the film that was put upright, on the image as it is stored."""
    for _ in range(turned // 90):  # what lay on the right lies on top after a quarter turn counter-clockwise
        frame = Frame(frame.top, 1 - frame.right, frame.bottom, 1 - frame.left)
    return frame


def features_as_stored(features: npt.NDArray[np.float32], turned: int) -> npt.NDArray[np.float32]:
    """A feature map [c, h, w] of the film that was put upright, as it lies on the image as it is stored."""
    return np.ascontiguousarray(np.rot90(features, turned // 90, axes=(1, 2))) if turned else features


def open_gate(folder: Path | None = None) -> Gate:
    """The gate of a bundle folder, else the one that ships with sangloc; raises `InvalidBundle`."""
    return Gate(load_gate(folder or DEFAULT_GATE))
