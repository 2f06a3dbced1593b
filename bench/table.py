"""Rows of the result table: ours, against what, the ratio and what was asked for."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One line: `value` is ours, `peer` the other's; `ratio` is taken from them where both are there."""

    bench: str
    case: str
    value: float | None
    unit: str
    against: str = ""
    peer: float | None = None
    goal: float | None = None  # of the ratio, or of the value where there is no peer
    at_most: bool = False  # the goal is an upper limit
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """Ours over the peer's."""
        return self.value / self.peer if self.value is not None and self.peer else None

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None where there is none."""
        measured = self.ratio if self.against else self.value
        if self.goal is None or measured is None:
            return None
        return measured <= self.goal if self.at_most else measured >= self.goal


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    model = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S"),
        "commit": commit.stdout.strip(),
        "cpu": model[0] if model else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "kernel": platform.release(),
    }


def keep(rows: list[Row], path: Path) -> None:
    """Append the rows to a file of JSON lines, each with the machine and the commit."""
    facts = machine()
    with path.open("a") as file:
        for row in rows:
            file.write(
                json.dumps({**asdict(row), "ratio": row.ratio, "met": row.met, **facts}, ensure_ascii=False) + "\n"
            )


def show(rows: list[Row]) -> None:
    """Print the rows as a table."""
    table = Table("bench", "case", "ours", "unit", "against", "theirs", "ratio", "goal", "met")
    for row in rows:
        sign = "≤" if row.at_most else "≥"
        met = {True: "[green]yes", False: "[red]NO", None: ""}[row.met]
        goal = f"{sign} {row.goal:g}" if row.goal is not None else ""
        table.add_row(
            row.bench,
            row.case,
            _number(row.value),
            row.unit,
            row.against,
            _number(row.peer),
            _number(row.ratio),
            goal,
            met,
        )
    Console(width=max(Console().width, 120)).print(table)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
