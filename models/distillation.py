"""What several trained networks together say of films: the soft targets of the one network that ships (Hinton 2015).

This module imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.bundle import Bundle, load_bundle
from models.data import Film
from models.scoring import logits_of_films
from storage.errors import InvalidInput

__all__ = ["load_teachers", "taught"]

Floats = npt.NDArray[np.float32]


def load_teachers(folders: Sequence[Path], findings: Sequence[str]) -> list[Bundle]:
    """The teachers' bundles.

    Raises:
        InvalidBundle: one cannot be used.
        InvalidInput: one has other findings than the pupil is to have.
    """
    teachers = [load_bundle(folder) for folder in folders]
    for teacher in teachers:
        if teacher.outputs != tuple(findings):
            raise InvalidInput(f"the teacher {teacher.path} has other findings: {', '.join(teacher.outputs)}")
    return teachers


def taught(teachers: Sequence[Bundle], films: Sequence[Film], done: Callable[[int, int], None]) -> Floats | None:
    """Probabilities [films, findings] of the teachers' mean logit over each film and its mirror image; None without
    teachers. `done` is called with (films read by any teacher, all such films).

    The logits are taken as trained: calibration is for prevalences of val, the pupil's labels are those of train.
    """
    if not teachers:
        return None
    whole = len(teachers) * len(films)
    each = list[Floats]()
    for turn, teacher in enumerate(teachers):
        read = turn * len(films)
        each.append(logits_of_films(teacher, films, lambda n, read=read: done(read + n, whole), mirrored=True))  # type: ignore[misc]
    return np.asarray(1 / (1 + np.exp(-np.mean(each, axis=0))), np.float32)
