"""What the demo prints: the worklist as a table, and the summary."""

from __future__ import annotations

import datetime as dt
import statistics
from collections.abc import Sequence
from typing import Any, Protocol

from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["Watched", "summary", "table"]

_FINDINGS = 3  # as many fit on a line


class Watched(Protocol):
    """What the demo has seen so far."""

    items: list[dict[str, Any]]
    mode: str
    banner: str
    problems: list[str]

    def seconds(self, study_uid: str) -> float | None:
        """From the answered C-STORE to the settled row."""


def table(seen: Watched, rows: int | None) -> Table:
    """The worklist in its own order, at most `rows` of it (None: all)."""
    made = Table(title=_title(seen), title_justify="left", expand=True, header_style="bold")
    for name, options in (
        ("due", {"no_wrap": True}),
        ("flag", {"justify": "center", "no_wrap": True}),
        ("prob.", {"justify": "right", "no_wrap": True}),
        ("findings", {"ratio": 3}),
        ("reason", {"ratio": 4}),
        ("patient", {"no_wrap": True, "ratio": 2}),
        ("to flag", {"justify": "right", "no_wrap": True}),
    ):
        made.add_column(name, **options)
    for item in seen.items[:rows]:
        made.add_row(*_cells(item, seen.seconds(item["study_uid"])), style="" if item["flagged"] else "dim")
    if rows is not None and len(seen.items) > rows:
        made.caption = f"and {len(seen.items) - rows} more"
    return made


def summary(seen: Watched, console: Console) -> None:
    """How many were flagged, how long it took, with which model, and what went wrong."""
    console.print()
    flagged = [item for item in seen.items if item["flagged"]]
    scored = [item for item in seen.items if item["status"] == "scored"]
    times = sorted(t for item in scored if (t := seen.seconds(item["study_uid"])) is not None)
    console.print(
        f"{len(seen.items)} studies on the list: {len(scored)} read by the model, {len(flagged)} flagged, "
        f"{sum(item['status'] == 'not_eligible' for item in seen.items)} not for the model, "
        f"{sum(item['status'] == 'failed' for item in seen.items)} failed, "
        f"{sum(item['status'] == 'waiting' for item in seen.items)} waiting"
    )
    if times:
        console.print(
            f"from the answered C-STORE to the list: median {percentile(times, 50):.2f} s, 95th percentile "
            f"{percentile(times, 95):.2f} s (looked at every 0.1 s)"
        )
    if models := sorted({str(item["model"]) for item in scored if item.get("model")}):
        console.print(f"model: {', '.join(models)} (research use, not a medical device; no flag does not mean normal)")
    for problem in seen.problems:
        console.print(f"[yellow]not taken:[/yellow] {problem}", highlight=False)


def percentile(values: Sequence[float], percent: int) -> float:
    """The percentile of at least one value."""
    return values[0] if len(values) == 1 else statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def _title(seen: Watched) -> str:
    order = "due time" if seen.mode == "triage" else "arrival"
    return f"Worklist by {order}" + (f": {seen.banner}" if seen.banner else "")


def _cells(item: dict[str, Any], seconds: float | None) -> list[Text | str]:
    due = dt.datetime.fromisoformat(item["due_at"]).astimezone()
    probability = item["probability"]
    named = [f"{finding['name'].replace('_', ' ')} {finding['probability']:.2f}" for finding in item["findings"]]
    findings = ", ".join(named[:_FINDINGS]) + (f" +{len(named) - _FINDINGS}" if len(named) > _FINDINGS else "")
    return [
        f"{due:%H:%M:%S}",
        Text("▲", style="bold red") if item["flagged"] else "",
        f"{probability:.2f}" if probability is not None else "",
        findings,
        item["reason"] or ("" if item["status"] == "scored" else item["status"]),
        item["patient_name"] or item["patient_id"],
        f"{seconds:.2f} s" if seconds is not None and item["status"] == "scored" else "",
    ]
