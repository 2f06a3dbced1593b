"""The input gate: what an image is, before a model for frontal chest radiographs of adults is asked about it.

A tiny network sees the film as a square of 64 px and tells how it is turned, whether black and white are exchanged,
whether only a part of the chest is on it, whether it is a chest at all and whether it is a child's. A second opinion
that learned from chest films alone, how much of the square its principal components leave over (eigenfaces: Turk and
Pentland 1991), stands against images of kinds that nobody drew for the network. Both are numpy, without state.

    GATE/configs/metadata.json, inference.json, models/model.pt   a MONAI bundle
    GATE/models/gate.npz    the same weights with norms folded, and the principal components: what runs
    GATE/docs/README.md     the card

A film whose eight turned and inverted versions agree on what it is, is put right; one of which nothing is sure is not.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from models.plainnet import forward, needed
from storage.errors import InvalidBundle

__all__ = [
    "DEFAULT_GATE",
    "OUTPUTS",
    "Gatekeeper",
    "Reason",
    "Thresholds",
    "Verdict",
    "load_gate",
    "put_right",
    "square",
]

DEFAULT_GATE = Path(__file__).parent / "bundles" / "input_gate"
ARRAYS = Path("models/gate.npz")
OUTPUTS = ("turned 0", "turned 90", "turned 180", "turned 270", "inverted", "cropped", "not a chest", "child")
Reason = Literal[
    "", "too_small", "blank", "saturated", "underexposed", "few_levels", "noise",
    "not_chest", "turned", "inverted", "cropped", "child",
]  # fmt: skip
SIZE = 64  # px of the network's square
SMALL = 32  # px of the square that is held against the principal components

_MIN_SIDE = 64  # px; models.preprocess takes nothing smaller
# No film of the training data comes near these limits (the card tells how far they stay away).
_FLAT = 4.0  # grey levels of standard deviation
_FEW, _LEVEL = 16, 0.0005  # grey levels that hold at least this share of the pixels each
_WHITE, _BLACK = 0.45, 0.75  # share of the pixels at the very end of the scale
_MOTTLE = 0.40  # of the spread that is left when the image is looked at from afar

_CLEAR = 0.05  # less than this chance of being turned or inverted needs no second look
_PERCENTILES = (0.5, 99.5)
_EDGE = 30.0  # logits beyond this are certain

Floats = npt.NDArray[np.float32]
Grey = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Thresholds:
    """From where on (probabilities, or a share of the square's variance) the gate says what; chosen on split val."""

    upright: float  # less sure than this that it stands upright, and right in black and white: not scored
    sure: float  # as sure as this that it is turned or inverted in one way: put right
    cropped: float
    not_chest: float
    child: float
    strange: float  # share that the principal components leave over, beyond which it is no chest


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate found.

    Attributes:
        reason: why the film is not scored; '' when it is.
        turned: degrees counter-clockwise by which the film came turned: 0, 90, 180, 270.
        inverted: whether it came with black and white exchanged.
        chances: by name what each threshold was held against, for figures and logs.
    """

    reason: Reason
    turned: int
    inverted: bool
    chances: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Gatekeeper:
    """A gate that is ready; any number of threads may ask it at once."""

    name: str
    version: str
    weights_sha256: str
    thresholds: Thresholds
    arrays: Mapping[str, Floats]

    def look(self, film: Grey) -> Verdict:
        """What a grey film [rows, columns] is, whatever its size."""
        fault, share = fault_of(film)
        if fault:
            return Verdict(fault, 0, False, {fault: share})
        plain = square(film)
        first = self.logits(plain[np.newaxis])[0]
        spins = _log_softmax(first[:4])
        inverted = float(_sigmoid(first[4]))
        way, sure = 0, min(float(np.exp(spins[0])), 1 - inverted)
        if sure < 1 - _CLEAR:
            way, sure, first = self._settled(plain)
        turned, is_inverted = way % 4, way >= 4
        seen = _versions(plain)[way]
        chances = {
            "sure": sure,
            "cropped": float(_sigmoid(first[5])),
            "not_chest": float(_sigmoid(first[6])),
            "child": float(_sigmoid(first[7])),
            "strange": self.strangeness(seen),
        }
        return Verdict(self._reason(way, chances), 90 * turned, is_inverted, chances)

    def logits(self, squares: Grey) -> Floats:
        """[n, 8] in the order of `OUTPUTS`, of squares [n, 64, 64]."""
        return forward(self.arrays, np.stack([standard(one) for one in squares]))

    def strangeness(self, plain: Grey) -> float:
        """Share of the square's variance that the principal components of chest films leave over, 0 to 1."""
        return leftover(self.arrays, plain)

    def _settled(self, plain: Grey) -> tuple[int, float, Floats]:
        """The likeliest of the eight ways in which the film may have come, how sure that is, and what is seen then.

        Every version of the film votes for each way; the mean of their log-probabilities decides.
        """
        logits = self.logits(_versions(plain))
        votes = np.empty((8, 8))
        for version, row in enumerate(logits):
            spins, dark = _log_softmax(row[:4]), _log_sigmoid(np.array([-row[4], row[4]]))
            for way in range(8):  # the film came turned by `way`; this version turned it back by `version`
                left = (way - version) % 4
                votes[version, way] = spins[left] + dark[(way // 4) ^ (version // 4)]
        chances = np.exp(_log_softmax(votes.mean(axis=0)))
        way = int(chances.argmax())
        return way, float(chances[way]), logits[way]

    def _reason(self, way: int, chances: Mapping[str, float]) -> Reason:
        limits = self.thresholds
        if chances["not_chest"] >= limits.not_chest:
            return "not_chest"
        if chances["sure"] < (limits.sure if way else limits.upright):
            return "inverted" if way == 4 else "turned"
        if chances["cropped"] >= limits.cropped:
            return "cropped"
        if chances["strange"] >= limits.strange:
            return "not_chest"
        return "child" if chances["child"] >= limits.child else ""


def fault_of(film: Grey) -> tuple[Reason, float]:
    """Why an image shows nothing at all, whatever it should show, and the share that tells so; ('', 0) if it may."""
    if film.ndim != 2 or min(film.shape) < _MIN_SIDE:
        return "too_small", 0.0
    shares = cv2.calcHist([film], [0], None, [256], [0, 256]).ravel() / film.size
    afar = cv2.resize(film, (SMALL, SMALL), interpolation=cv2.INTER_AREA)
    spread, mottle = float(cv2.meanStdDev(film)[1][0, 0]), float(afar.std())
    checks: tuple[tuple[bool, Reason, float], ...] = (
        (spread < _FLAT, "blank", spread / 255),
        (float(shares[255]) > _WHITE, "saturated", float(shares[255])),
        (float(shares[0]) > _BLACK, "underexposed", float(shares[0])),
        (int((shares > _LEVEL).sum()) < _FEW, "few_levels", float((shares > _LEVEL).sum()) / 256),
        (mottle < _MOTTLE * spread, "noise", mottle / max(spread, 1e-6)),
    )
    return next(((reason, share) for fails, reason, share in checks if fails), ("", 0.0))


def put_right(film: npt.NDArray[Any], turned: int, *, inverted: bool) -> npt.NDArray[Any]:
    """The film as it should have come: turned back by `turned` degrees, black and white exchanged where `inverted`."""
    upright = np.rot90(film, -(turned // 90)) if turned else film
    return np.ascontiguousarray(~upright if inverted else upright)


def square(film: Grey, size: int = SIZE) -> Grey:
    """The film squeezed to [size, size], black at its 0.5 and white at its 99.5 percentile."""
    method = cv2.INTER_AREA if min(film.shape) >= size else cv2.INTER_LINEAR
    small = cv2.resize(film, (size, size), interpolation=method).astype(np.float32)
    low, high = np.percentile(small, _PERCENTILES)
    spread: Floats = np.clip((small - low) * (255.0 / max(float(high - low), 1.0)), 0, 255)
    return np.rint(spread).astype(np.uint8)


def standard(plain: Grey) -> Floats:
    """Mean 0 and standard deviation 1."""
    image = plain.astype(np.float32)
    return np.asarray((image - image.mean()) / np.float32(max(float(image.std()), 1.0)), np.float32)


def small(plain: Grey) -> Floats:
    """[1024]: the square at 32 px, mean 0 and length 1."""
    values = cv2.resize(plain, (SMALL, SMALL), interpolation=cv2.INTER_AREA).astype(np.float32).ravel()
    values -= values.mean()
    return np.asarray(values / np.float32(max(float(np.linalg.norm(values)), 1e-6)), np.float32)


def leftover(arrays: Mapping[str, Floats], plain: Grey) -> float:
    """Share of the square's variance beside `arrays`' mean and components, 0 to 1 and in theory a little above."""
    values = small(plain) - arrays["usual.mean"]
    return float(values @ values - np.square(arrays["usual.components"] @ values).sum())


def load_gate(folder: Path = DEFAULT_GATE) -> Gatekeeper:
    """The gate in a bundle folder.

    Raises:
        InvalidBundle: a file is missing or broken, the digest is another, or numbers are missing or not finite.
    """
    try:
        metadata = json.loads((folder / "configs" / "metadata.json").read_text("utf-8"))
        content = (folder / ARRAYS).read_bytes()
    except OSError as error:
        raise InvalidBundle(f"the input gate has no file {error.filename}") from error
    except ValueError as error:
        raise InvalidBundle(f"the metadata of the input gate in {folder} is no JSON: {error}") from error
    digest = hashlib.sha256(content).hexdigest()
    try:
        ours = metadata["sangloc"]["gate"]
        thresholds = Thresholds(**{name: float(value) for name, value in ours["thresholds"].items()})
        expected, name, version = ours["arrays_sha256"], str(metadata["name"]), str(metadata["version"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidBundle(f"{folder} is no input gate: {error!r}") from error
    if digest != expected:
        raise InvalidBundle(
            f"{folder / ARRAYS} has SHA-256 {digest[:16]}..., the metadata names {str(expected)[:16]}..."
        )
    return Gatekeeper(name, version, digest, thresholds, _arrays(content, folder / ARRAYS))


def _arrays(content: bytes, file: Path) -> dict[str, Floats]:
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            arrays = {name: archive[name].astype(np.float32) for name in archive.files}
    except Exception as error:  # zip, header or numbers: numpy raises whatever it meets first
        raise InvalidBundle(f"{file} cannot be read: {error}") from error
    missing = (needed() | {"usual.mean", "usual.components"}) - set(arrays)
    if missing:
        raise InvalidBundle(f"{file} lacks {', '.join(sorted(missing))}")
    bad = [name for name, value in arrays.items() if not np.isfinite(value).all()]
    if bad:
        raise InvalidBundle(f"{file} has numbers that are not finite, first in {bad[0]}")
    if arrays["head.bias"].shape != (len(OUTPUTS),):
        raise InvalidBundle(f"{file} has {arrays['head.bias'].size} outputs, an input gate has {len(OUTPUTS)}")
    return arrays


def _versions(plain: Grey) -> Grey:
    """[8, size, size]: the square turned back by 0, 90, 180, 270 degrees, and the same inverted."""
    turned = [np.rot90(plain, -quarter) for quarter in range(4)]
    return np.stack([*turned, *(~one for one in turned)])


def _log_softmax(logits: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    steps = logits.astype(np.float64) - logits.max()
    return np.asarray(steps - np.log(np.exp(steps).sum()))


def _log_sigmoid(logits: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    return np.asarray(-np.logaddexp(0, -np.clip(logits.astype(np.float64), -_EDGE, _EDGE)))


def _sigmoid(logit: np.floating[Any]) -> np.float64:
    return np.float64(1 / (1 + np.exp(-np.clip(np.float64(logit), -_EDGE, _EDGE))))
