"""How good an input gate is: what becomes of good films, and of each kind of image that is not to be scored as it came.

Films of splits `test` and `external` and the last quarter of the children are read once, at the end. Turned, inverted
and cropped films are made of them. Each share has a 95 % interval (Wilson 1927), by film.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from models.gate import Verdict, load_gate
from models.gate_views import Subject, crop, drawings, of_split, read_subjects
from models.notchest import DRAWN, MADE, spoil

__all__ = ["COUNTED", "GateReport", "Row", "evaluate_gate", "wilson"]

Grey = npt.NDArray[np.uint8]
Named = Iterable[tuple[str, Grey]]
Tell = Callable[[str], None]

COUNTED = ("images", "right", "refused", "missed", "wrong")
_DRAWN = 20  # images of each drawn kind
_SPOILED = 40  # films taken apart in each way
_SEED = 77  # of what is drawn to judge; training draws with its own
_Z = 1.959964  # of the normal distribution: 95 % lie within
_YOUNG = 10.0  # years


class Case(NamedTuple):
    """One image, and what should become of it: turned and inverted back, or refused."""

    group: str
    kind: str
    film: Grey
    turned: int = 0
    inverted: bool = False
    refuse: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What became of the images of one kind; counts."""

    group: str
    kind: str
    images: int
    right: int  # a good film scored as it came, a turned one put right, anything else refused
    refused: int
    missed: int  # scored as it came, though it should not have been
    wrong: int  # turned or inverted, and not as it should have been

    def shares(self) -> tuple[int, int, int, int]:
        """The counts of which each is a share of the images."""
        return self.right, self.refused, self.missed, self.wrong

    def share(self, count: int) -> str:
        """'99.1 % (97.4 to 99.7)'."""
        low, high = wilson(count, self.images)
        return f"{100 * count / self.images:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


@dataclass(frozen=True, slots=True, kw_only=True)
class GateReport:
    """The figures of one gate."""

    COLUMNS = ("images", "kind", "number", "as it should be", "refused", "missed", "wrongly put right")
    name: str
    version: str
    weights_sha256: str
    table: tuple[Row, ...]

    def rows(self) -> list[tuple[str, ...]]:
        """Lines of `COLUMNS`."""
        return [
            (row.group, row.kind, str(row.images), *(row.share(each) for each in row.shares())) for row in self.table
        ]

    def to_json(self) -> str:
        """As docs/evaluation.json of the bundle keeps it."""
        return json.dumps(asdict(self), indent=1)


def wilson(count: int, images: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927); (0, 1) without images."""
    if not images:
        return 0.0, 1.0
    share, square = count / images, _Z * _Z / images
    middle = share + square / 2
    reach = _Z * math.sqrt(share * (1 - share) / images + square / (4 * images))
    return max(0.0, (middle - reach) / (1 + square)), min(1.0, (middle + reach) / (1 + square))


def evaluate_gate(
    bundle: Path, manifest: Path, *, splits: Sequence[str] = ("test", "external"), others: Named = (),
    tell: Tell = lambda _: None,
) -> GateReport:  # fmt: skip
    """Judge the gate on the manifest's films of these splits, on the children, and on drawn and given other images.

    Args:
        bundle: folder of the gate.
        manifest: as for training.
        splits: of the adults; 'val' and 'test' bring a quarter of the children each.
        others: real images that are no frontal chest films, with a name of their kind.
        tell: hears the name of each group as it begins.

    Raises:
        InvalidBundle: the gate cannot be used.
        InvalidInput: the manifest or an image cannot be read.
    """
    gate, subjects = load_gate(bundle), read_subjects(manifest)
    counts: dict[tuple[str, str], dict[str, int]] = {}
    group = ""
    for case in _cases(subjects, splits, others):
        if case.group != group:
            tell(group := case.group)
        line = counts.setdefault((case.group, case.kind), dict.fromkeys(COUNTED, 0))
        line["images"] += 1
        for name in _outcome(gate.look(case.film), case):
            line[name] += 1
    table = tuple(Row(group=group, kind=kind, **line) for (group, kind), line in counts.items())
    return GateReport(name=gate.name, version=gate.version, weights_sha256=gate.weights_sha256, table=table)


def _outcome(verdict: Verdict, case: Case) -> Iterator[str]:
    if verdict.reason:
        yield "refused"
        if case.refuse:
            yield "right"
    elif not case.refuse and (verdict.turned, verdict.inverted) == (case.turned, case.inverted):
        yield "right"
    else:
        yield "wrong" if verdict.turned or verdict.inverted else "missed"


def _cases(subjects: Sequence[Subject], splits: Sequence[str], others: Named) -> Iterator[Case]:
    for split in splits:
        yield from _adults(of_split(subjects, child=False, split=split), split)
        for one in of_split(subjects, child=True, split=split):
            yield Case("children", _kind_of_child(one), one.read(), refuse=True)
    yield from _made(of_split(subjects, child=False, split=splits[0]))
    for kind, image in drawings(_DRAWN * len(DRAWN), _SEED):
        yield Case("drawn", kind, image, refuse=True)
    for kind, image in others:
        yield Case("real images of other things", kind, image, refuse=True)


def _adults(films: Sequence[Subject], split: str) -> Iterator[Case]:
    for one in films:
        yield Case(f"adults, {split}", f"good film, {one.source}", one.read())
    for place, one in enumerate(films):
        film, rng = one.read(), np.random.default_rng([_SEED, place])
        for quarter in (1, 2, 3):
            degrees = 90 * quarter
            yield Case(f"adults, {split}", f"turned {degrees}", np.ascontiguousarray(np.rot90(film, quarter)), degrees)
        yield Case(f"adults, {split}", "inverted", ~film, inverted=True)
        both = 90 * int(rng.integers(1, 4))
        yield Case(f"adults, {split}", "inverted and turned", ~np.rot90(film, both // 90), both, inverted=True)
        for low, high in ((0.1, 0.25), (0.25, 0.4)):
            part = np.ascontiguousarray(crop(film, rng.uniform(low, high), rng))
            yield Case(f"adults, {split}", f"cropped to {low:.0%} to {high:.0%} of the film", part, refuse=True)


def _kind_of_child(one: Subject) -> str:
    if one.source == "kermany":
        return "kermany, 1 to 5 years"
    return f"{one.source}, under 10 years" if one.age < _YOUNG else f"{one.source}, 10 to 15 years"


def _made(films: Sequence[Subject]) -> Iterator[Case]:
    for kind in MADE:
        for place, one in enumerate(films[:_SPOILED]):
            whole = np.asarray(one.read() / 255, np.float32)
            made = spoil(kind, whole[: min(whole.shape), : min(whole.shape)], np.random.default_rng([_SEED, place]))
            yield Case("films taken apart", kind, (np.clip(made, 0, 1) * 255).astype(np.uint8), refuse=True)
    for place, one in enumerate(films[:_SPOILED]):
        film = one.read()
        noise = np.random.default_rng([_SEED, place]).integers(0, 256, film.shape, np.uint8)
        yield Case("rules", "white: overexposed by 4 times the median", _scaled(film, 4.0), refuse=True)
        yield Case("rules", "noise", noise, refuse=True)
        yield Case("rules", "blank", (128 + noise % 3).astype(np.uint8), refuse=True)
        yield Case("rules", "two grey levels", np.where(film > np.median(film), 200, 50).astype(np.uint8), refuse=True)


def _scaled(film: Grey, times: float) -> Grey:
    bright = film.astype(np.float32) * times * 64 / max(float(np.median(film)), 1.0)
    return np.asarray(np.clip(bright, 0, 255), np.uint8)
