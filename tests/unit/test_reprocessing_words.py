"""What is told of a reprocessing, and what a cluster is refused."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest

from pacs import reprocessing
from pacs.cluster import Nodes, work_off
from pacs.settings import Settings
from pacs.sources import load
from storage.errors import SettingsError
from storage.reprocessing import Reprocessing, Selection

NOW = dt.datetime(2026, 3, 2, 8, 0, tzinfo=dt.UTC)


def one(**over: Any) -> Reprocessing:
    values: dict[str, Any] = {
        "reprocessing_pk": 3, "state": "running", "problem": "", "model_name": "cxr", "model_version": "2",
        "weights_sha256": "ab", "shadow": False, "selection": {}, "images_per_s": None, "when_idle": True,
        "total": 10_000, "scored": 900, "refused": 90, "failed": 10, "pace": 2.5, "started_by": "me",
        "started_at": NOW, "changed_at": NOW, "ended_at": None,
    }  # fmt: skip
    return Reprocessing(**{**values, **over})


def test_a_line_says_how_far_how_fast_how_long_and_what_failed() -> None:
    assert reprocessing.line(one()) == (
        "reprocessing 3: running; cxr@2 over everything\n"
        "  1000 of 10000 images: 900 scored, 90 refused, 10 failed; 2.5 images/s, 1:00:00 left, 10 failed"
    )


@pytest.mark.parametrize("over", [{"state": "paused"}, {"pace": 0.0}])
def test_no_time_is_promised_while_nothing_goes_on(over: dict[str, Any]) -> None:
    assert one(**over).left_s is None
    assert "left" not in reprocessing.line(one(**over))


def test_a_problem_and_a_selection_are_told() -> None:
    asked = Selection(date_from=dt.date(2025, 1, 1), sites=("HUE", "HCM"), uids=("1.2", "1.3"), refused=True)
    text = reprocessing.line(one(state="paused", problem="no such model", selection=asked.as_json(), shadow=True))
    assert text.startswith("reprocessing 3: paused; cxr@2 in shadow over date_from 2025-01-01, sites HUE HCM, uids 2")
    assert text.endswith("\n  no such model")


def test_json_has_everything_in_plain_values() -> None:
    told = reprocessing.as_json(one(ended_at=NOW))
    assert (told["ended"], told["left_s"], told["ended_at"]) == (1000, 3600.0, "2026-03-02T08:00:00+00:00")


def settings(data: Path, **variables: str) -> Settings:
    return load(flags={"data": data}, env={f"SANGLOC_{k.upper()}": v for k, v in variables.items()}).settings


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({}, "not the embedded PostgreSQL"),
        ({"database_url": "host=/srv/data/postgres user=sangloc"}, "not the embedded PostgreSQL"),
        ({"database_url": "postgresql:///sangloc?host=/run/postgresql"}, "not the embedded PostgreSQL"),
        ({"database_url": "postgresql://db.example/sangloc"}, "objects.endpoint"),
    ],
)
def test_workers_elsewhere_are_refused_what_they_cannot_reach(
    variables: dict[str, str], told: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=told):
        work_off(settings(tmp_path, **variables), 1, Nodes(address="ray://head:10001"))
