"""The network alone: images per second of the engine that a worker chooses, against eager torch in float32.

Both get the same prepared films, the same network and all cores, one after the other in turns; the median of the turns
counts. Runs alone, as it imports torch: `python -m bench.network`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from bench.table import Row  # noqa: E402
from models.bundle import DEFAULT_BUNDLE, Bundle, load_bundle  # noqa: E402

_GOAL = 3.5
_TURNS = 5


def run(work: Path, *, quick: bool) -> list[Row]:
    """The rows, measured in a process of their own."""
    command = [sys.executable, "-m", "bench.network", "--seconds", "0.5" if quick else "3"]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "TMPDIR": str(work)}, stdout=subprocess.PIPE, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    name, detail = found["network"], {key: found[key] for key in ("engine", "images_per_s")}
    return [
        Row("network", f"{name}, batch {one['batch']}", one["ours"], "images/s", "eager torch float32", one["torch"],
            _GOAL, detail=detail)
        for one in found["batches"]
    ]  # fmt: skip


def measure(bundle: Bundle, seconds: float) -> dict[str, Any]:
    """Images per second of both, for batches of one and of eight."""
    import torch

    from inference.engine import load_engine
    from inference.selfbench import SPEED
    from models.phantom import chest

    network = bundle.network()
    with tempfile.TemporaryDirectory() as cache:
        engine = load_engine(bundle, "auto", Path(cache))
        speeds = [json.loads(file.read_text()) for file in Path(cache).glob(f"*/{SPEED}")]
        films = np.stack([bundle.prepare(chest(seed, rows=512, columns=448)) for seed in range(8)])

        def eager(images: Any) -> None:
            with torch.inference_mode():
                network(torch.from_numpy(images))

        batches = []
        for size in (1, 8):
            images = films[:size]
            turns = [
                (_speed(lambda: engine.predict(images), size, seconds), _speed(lambda: eager(images), size, seconds))  # noqa: B023
                for _ in range(_TURNS)
            ]
            ours, plain = (statistics.median(each) for each in zip(*turns, strict=True))
            batches.append({"batch": size, "ours": round(ours, 1), "torch": round(plain, 1)})
    return {
        "network": f"{str(bundle.network_def['_target_']).rpartition('.')[2]} at {bundle.input_size} px",
        "engine": f"{engine.name} {getattr(engine, 'precision', '')}".strip(),
        "images_per_s": speeds[0]["images_per_s"] if speeds else {},
        "batches": batches,
    }


def _speed(once: Callable[[], object], images: int, seconds: float) -> float:
    once()
    runs, begun = 0, time.perf_counter()
    while (spent := time.perf_counter() - begun) < seconds:
        once()
        runs += 1
    return runs * images / spent


def main() -> None:
    """Measure and print one line of JSON."""
    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))  # errors only
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=DEFAULT_BUNDLE)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each turn")
    options = parser.parse_args()
    print(json.dumps(measure(load_bundle(options.bundle), options.seconds)))


if __name__ == "__main__":
    main()
