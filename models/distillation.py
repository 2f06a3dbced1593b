"""What several trained networks together say of films: the soft targets of the one network that ships (Hinton 2015).

This module imports torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.bundle import Bundle, load_bundle
from models.data import Film, read_film
from models.fitting import logits_of
from models.preprocess import to_input, to_work
from storage.errors import InvalidInput

__all__ = ["load_teachers", "taught"]

Floats = npt.NDArray[np.float32]
_BATCH = 64


def load_teachers(folders: Sequence[Path], findings: Sequence[str]) -> list[Bundle]:
    """The teachers' bundles.

    Raises:
        InvalidBundle: one cannot be used.
        InvalidInput: one has other findings than the pupil is to have, or another kind of input.
    """
    teachers = [load_bundle(folder) for folder in folders]
    for teacher in teachers:
        if teacher.outputs != tuple(findings):
            raise InvalidInput(f"the teacher {teacher.path} has other findings: {', '.join(teacher.outputs)}")
        if teacher.channels != 1 or teacher.value_range is not None:
            raise InvalidInput(f"the teacher {teacher.path} was not made by sangloc train")
    return teachers


def taught(
    teachers: Sequence[Bundle],
    films: Sequence[Film],
    keep: Path,
    done: Callable[[int, int], None] = lambda _n, _of: None,
) -> Floats | None:
    """Probabilities [films, findings] of the teachers' mean logit, bfloat16; None without teachers.

    They are kept in the file `keep`, so that a run that goes on does not ask again. The logits are taken as trained:
    calibration is for the prevalences of val, the pupil's labels are those of train.
    """
    if not teachers:
        return None
    names = [teacher.weights_sha256 for teacher in teachers] + [film.image for film in films]
    key = hashlib.sha256("\n".join(names).encode()).hexdigest()
    if keep.exists():
        with np.load(keep) as stored:
            if str(stored["key"]) == key:
                return np.asarray(stored["probabilities"], np.float32)
    nets, parts = [teacher.network() for teacher in teachers], list[Floats]()
    for start in range(0, len(films), _BATCH):
        work = [to_work(read_film(film)) for film in films[start : start + _BATCH]]
        each = [
            logits_of(net, np.stack([to_input(film, teacher.input_size) for film in work]), bf16=True)
            for net, teacher in zip(nets, teachers, strict=True)
        ]
        parts.append((1 / (1 + np.exp(-np.mean(each, axis=0)))).astype(np.float32))
        done(start + len(work), len(films))
    probabilities = np.concatenate(parts)
    keep.parent.mkdir(parents=True, exist_ok=True)
    draft = keep.with_suffix(".part.npz")
    np.savez(draft, key=np.array(key), probabilities=probabilities)
    draft.replace(keep)
    return probabilities
