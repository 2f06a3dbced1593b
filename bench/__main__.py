"""The figures of docs/performance.md, ours beside the peers' in the same run: `python -m bench`, or `make bench`.

Every bench starts its own system in an empty folder. The results are printed as a table and appended to
`bench/run/results.jsonl`. Nothing else should run on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from bench import (  # noqa: E402
    flag,
    forward,
    idle,
    ingest,
    latency,
    network,
    orders,
    query,
    reprocess,
    retrieve,
    retrieve_web,
    scale,
    soak,
    startup,
    stow,
)
from bench.table import Row, keep, machine, show  # noqa: E402


def triage(work: Path, *, quick: bool) -> list[Row]:
    """The rows of bench/triage.py, which runs alone: it imports torch."""
    command = [sys.executable, "-m", "bench.triage", "--images", "8" if quick else "96", "--studies", "0"]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "TMPDIR": str(work)}, stdout=subprocess.PIPE, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    names = {"raw": "15 MB films", "jls": "the same as JPEG-LS", "j2k": "the same as JPEG 2000"}
    plain = "pydicom + MONAI + eager torch"
    return [
        Row("triage", names[kind], found[f"{kind}_per_s"], "images/s", plain, found[f"{kind}_plain_per_s"], 2.5)
        for kind in names
    ] + [Row("triage", "worker memory, peak", found["worker_peak_mib"], "MiB", goal=700 / 1.048576, at_most=True)]


def main() -> int:
    """Run the chosen benches; the exit status is 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer files, one repeat: does it run, roughly how fast")
    parser.add_argument("--only", default="", help="comma-separated: " + ",".join(_benches(argparse.Namespace())))
    parser.add_argument("--repeats", type=int, default=0, help="runs of each ingest case, the median counts (3)")
    parser.add_argument("--profiles", default=",".join(ingest.PROFILES), help="of ingest, comma-separated (all)")
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="ours alone")
    parser.add_argument("--work", type=Path, default=ROOT / "bench" / "run", help="data, states and results")
    options = parser.parse_args()
    options.work = options.work.resolve()
    options.work.mkdir(parents=True, exist_ok=True)
    benches = _benches(options)
    chosen = options.only.split(",") if options.only else list(benches)
    print(json.dumps(machine()), flush=True)
    rows: list[Row] = []
    for name in chosen:
        start = time.monotonic()
        print(f"{name} ...", flush=True)
        new = benches[name](options.work)
        keep(new, options.work / "results.jsonl")
        rows += new
        print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)
    show(rows)
    return 1 if any(row.met is False for row in rows) else 0


def _benches(options: argparse.Namespace) -> dict[str, Callable[[Path], list[Row]]]:
    quick = getattr(options, "quick", False)
    repeats = getattr(options, "repeats", 0) or (1 if quick else 3)
    peers = getattr(options, "peers", True)
    profiles = tuple(getattr(options, "profiles", "").split(","))
    return {
        "startup": partial(startup.run, quick=quick),
        "idle": partial(idle.run, quick=quick),
        "ingest": partial(ingest.run, names=profiles, quick=quick, repeats=repeats, peers=peers),
        "ingest-many": partial(ingest.run_many, names=profiles, quick=quick, repeats=repeats),
        "ingest-stock": partial(ingest.run_stock, names=profiles, quick=quick, repeats=repeats, peers=peers),
        "soak": partial(soak.run, quick=quick),
        "flag": partial(flag.run, quick=quick),
        "triage": partial(triage, quick=quick),
        "network": partial(network.run, quick=quick),
        "reprocess": partial(reprocess.run, quick=quick),
        "latency": partial(latency.run, quick=quick),
        "query": partial(query.run, quick=quick, peers=peers),
        "orders": partial(orders.run, quick=quick, peers=peers),
        "retrieve": partial(retrieve.run, quick=quick, peers=peers),
        "retrieve-web": partial(retrieve_web.run, quick=quick, peers=peers),
        "stow": partial(stow.run, quick=quick, peers=peers, repeats=repeats),
        "forward": partial(forward.run, quick=quick, peers=peers),
        "scale": partial(scale.run, quick=quick),
        "scale-ingest": partial(scale.run_ingest, quick=quick),
    }


if __name__ == "__main__":
    sys.exit(main())
