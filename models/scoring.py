"""Films through a bundle, read and prepared as at inference. This module imports torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from models.bundle import Bundle
from models.data import Film, read_film

__all__ = ["logits_of_films"]


def logits_of_films(
    bundle: Bundle, films: Sequence[Film], done: Callable[[int], None] | None = None, batch: int = 32, *,
    mirrored: bool = False,
) -> npt.NDArray[np.float32]:  # fmt: skip
    """Logits [films, outputs] in float32; `done` is called with the number of films finished so far.

    `mirrored` gives the mean over each film and its mirror image.

    Raises:
        InvalidBundle: the weights cannot be used.
        InvalidInput: an image cannot be read.
        NotScorable: an image is no film.
    """
    net, parts = bundle.network(), list[npt.NDArray[np.float32]]()
    for start in range(0, len(films), batch):
        images = torch.from_numpy(np.stack([bundle.prepare(read_film(film)) for film in films[start : start + batch]]))
        with torch.inference_mode():
            logits = (net(images) + net(images.flip(-1))) / 2 if mirrored else net(images)
        parts.append(logits.float().numpy())
        if done is not None:
            done(start + len(images))
    return np.concatenate(parts)
