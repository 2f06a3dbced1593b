"""Which way of running a network is the fastest on this processor: measured once and kept beside the converted network.

    CACHE/<key>/speed.json    processor, cores, and images per second of each way that agrees with torch

Which precision wins depends on the processor (bf16 without the instructions for it is slow) and on the network, so it
is tried, for a second each. A copy of the folder on another machine is measured again.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from models.bundle import Bundle

__all__ = ["SPEED", "TORCH", "fastest_first", "keep_measured", "measure", "processor"]

SPEED = "speed.json"
TORCH = "torch-bf16"
_TORCH_GAIN = 1.2  # torch costs a worker 400 MB more than OpenVINO, so it must be worth it
_BATCH = 8  # images, as a busy worker takes them
_SECONDS = 0.4  # for each way
log = structlog.get_logger()


def fastest_first(bundle: Bundle, folder: Path) -> tuple[str, ...]:
    """The ways that agree with torch, fastest first: bf16 and f32 of OpenVINO, `TORCH`; measured where nobody did.

    A measurement that fails is no reason not to work: then the default order of precisions.
    """
    try:
        speeds = _kept(folder / SPEED)
        if speeds is None:
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:  # it takes torch
                speeds = pool.submit(keep_measured, bundle, folder).result()
    except Exception as error:  # a process that was killed, a folder that cannot be written, a broken copy
        log.warning("the engines could not be measured", error=repr(error))
        return ("bf16", "f32")
    log.info("the engines on this processor", images_per_s=speeds)
    worth = {way: speed / _TORCH_GAIN if way == TORCH else speed for way, speed in speeds.items()}
    return tuple(sorted(worth, key=lambda way: -worth[way]))


def keep_measured(bundle: Bundle, folder: Path) -> dict[str, float]:
    """`measure`, kept in the folder."""
    speeds = measure(bundle, folder)
    made = folder / f".{SPEED}-{os.getpid()}"
    made.write_text(json.dumps({**processor(), "images_per_s": speeds}), "utf-8")
    made.replace(folder / SPEED)
    return speeds


def measure(bundle: Bundle, folder: Path) -> dict[str, float]:
    """Images per second of each way that agrees with torch, with all cores of this process."""
    from inference.engine import TorchEngine  # noqa: PLC0415 - it imports this module
    from inference.exported import agreement, compiled  # noqa: PLC0415

    ways: dict[str, Callable[[], Any]] = {way: lambda way=way: compiled(folder, way) for way in ("bf16", "f32")}  # type: ignore[misc]
    ways[TORCH] = lambda: TorchEngine(bundle, "bf16")
    with np.load(folder / "probe.npz") as probe:
        images = np.resize(probe["inputs"], (_BATCH, *probe["inputs"].shape[1:]))
    speeds = {}
    for way, make in ways.items():
        try:
            engine = make()
            agreement(folder, engine, way.removeprefix("torch-"))
        except RuntimeError as error:
            log.info("an engine is not used", way=way, reason=str(error))
            continue
        speeds[way] = round(_speed(lambda: engine.predict(images)), 1)  # noqa: B023 - called at once
    return speeds


def processor() -> dict[str, Any]:
    """What a measurement is true for: the processor's name and how many of its cores this process may use."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass
    return {"processor": name, "cores": len(os.sched_getaffinity(0))}


def _speed(run: Callable[[], object]) -> float:
    run()
    times, begun = list[float](), time.perf_counter()
    while time.perf_counter() - begun < _SECONDS or len(times) < 3:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return _BATCH / float(np.median(times))


def _kept(file: Path) -> dict[str, float] | None:
    try:
        found = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:  # cut off
        return None
    speeds = found.pop("images_per_s", None) if isinstance(found, dict) else None
    return speeds if isinstance(speeds, dict) and speeds and found == processor() else None
