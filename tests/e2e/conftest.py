"""Whole systems: real processes, real sockets."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from loop_disk import LoopDisk
from running import Modality, System


@pytest.fixture
def system(tmp_path: Path) -> Iterator[Callable[..., System]]:
    """Starts systems; whatever was started is ended."""
    started: list[System] = []

    def start(*options: str, data: Path | None = None, **more: Any) -> System:
        started.append(System(data or tmp_path / "data", *options, **more))
        return started[-1].start()

    yield start
    for one in started:
        one.end()


@pytest.fixture
def modalities() -> Iterator[Callable[..., list[Modality]]]:
    """Starts modalities that push; all are stopped."""
    started: list[Modality] = []

    def start(port: int, count: int, **options: Any) -> list[Modality]:
        new = [Modality(port, number, **options) for number in range(count)]
        for modality in new:
            modality.start()
        started.extend(new)
        return new

    yield start
    for modality in started:
        modality.stopping.set()
    for modality in started:
        modality.join(20)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[LoopDisk]:
    """A disk of 1.5 GB for one test."""
    made = LoopDisk(tmp_path, 1500)
    yield made
    made.remove()
