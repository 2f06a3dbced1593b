"""`sangloc models` on a real database: from a file to an activated model, as a person types it; and the API's view."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from http_server import problem
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from archive import Archive
from tiny_bundle import write_tiny_bundle
from tiny_models import write_manifest

from pacs.cli import app
from storage import workers
from storage.errors import Conflict, InvalidInput, NotFound


@pytest.fixture
def system(archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Settings of a system with one site, which runs on the test's database and store."""
    monkeypatch.setenv("SANGLOC_DATABASE_URL", archive.database.conninfo)
    file = tmp_path / "sangloc.toml"
    file.write_text(
        f'data = "{tmp_path / "data"}"\n[objects]\nfolder = "{tmp_path / "objects"}"\n'
        '[[sites]]\nname = "A"\nae_titles = ["XRAY1"]\n'
    )
    monkeypatch.setenv("SANGLOC_CONFIG", str(file))
    return tmp_path


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["models", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_model_comes_in_is_judged_and_activated_and_rolled_back(system: Path, http: httpx.Client) -> None:
    manifest = str(write_manifest(system, {"val": 20, "test": 20}))
    assert http.get("/api/models").json() == {"items": [], "at_work": [], "workers": []}
    source = str(write_tiny_bundle(system / "bundle"))
    told = run("import", source, "--name", "new", "--version", "2")
    assert "new@2 imported (monai): Abnormal, Effusion, Pneumothorax" in told
    assert "not at work" in run("list")
    with pytest.raises(Conflict, match="sangloc models calibrate new@2 MANIFEST --split val --site A"):
        run("activate", "new", "--site", "A")
    with pytest.raises(InvalidInput, match="no site B in the settings: A"):
        run("calibrate", "new", manifest, "--site", "B")
    assert "balanced: 0." in run("calibrate", "new", manifest, "--site", "A")
    judged = json.loads(run("evaluate", "new", manifest, "--site", "A", "--resamples", "100", "--json"))
    assert (judged["site"], judged["films"], judged["positives"], judged["splits"]) == ("A", 20, 10, ["test"])
    assert "new@2 is active at site A" in run("activate", "new", "--site", "A")
    assert "new@2 (monai): active at site A" in run("list")
    listed = json.loads(run("list", "--json"))
    assert [(one["site"], one["mode"], one["model"]) for one in listed["at_work"]] == [("A", "active", "new@2")]
    shown = run("show", "new")
    assert "judged at site A on 20 films of manifest.csv" in shown
    assert "AUROC 0." in shown
    assert json.loads(run("show", "new", "--json"))["evaluations"][0]["fit_fk"] is not None

    seen = http.get("/api/models").json()
    assert [(one["name"], one["version"]) for one in seen["items"]] == [("new", "2")]
    assert [(one["site"], one["mode"], one["name"]) for one in seen["at_work"]] == [("A", "active", "new")]
    detail = http.get("/api/models/new@2").json()
    assert detail == http.get("/api/models/new").json()
    assert detail["fits"][0]["fit"]["operating_point"] == "balanced"
    assert detail["evaluations"][0]["report"]["figures"]
    assert detail["activations"][0]["action"] == "activate"
    problem(http.get("/api/models/none"), 404)
    problem(http.get("/api/models/a b"), 422)

    assert "scores in shadow for all sites" in run("activate", "new", "--shadow")
    assert "scores no longer for all sites" in run("withdraw", "new")
    assert "no model of its own, but that of all sites" in run("rollback", "--site", "A")
    assert "0 images scored by both" in run("compare", "new", "tiny@0.0.1")
    assert json.loads(run("compare", "new", "tiny@0.0.1", "--json"))["kappa"] is None
    with pytest.raises(NotFound):
        run("show", "none")
    names = [entry["action"] for entry in http.get("/api/audit").json()["items"]]
    assert names == [
        "model.rolled_back", "model.withdrawn", "model.shadowed", "model.activated", "model.evaluated",
        "model.calibrated", "model.imported",
    ]  # fmt: skip
    assert all(entry["actor"].startswith("command line") for entry in http.get("/api/audit").json()["items"])


def test_what_a_worker_cannot_load_is_seen_in_the_list(system: Path, archive: Archive, http: httpx.Client) -> None:
    with archive.database.autocommit() as connection:
        said: dict[str, Any] = {"model": "tiny 1", "engine": "openvino", "problem": "new@2 (for all sites): gone"}
        workers.beat(connection, workers.Worker(worker="host:1:1", **said))
    assert "worker host:1:1: tiny 1; new@2 (for all sites): gone" in run("list")
    assert http.get("/api/models").json()["workers"] == [{"worker": "host:1:1", **said}]


def test_every_command_says_what_it_is_for() -> None:
    assert "roll back" in CliRunner().invoke(app, ["models", "--help"]).stdout
    for name in ("import", "list", "show", "calibrate", "evaluate", "activate", "withdraw", "rollback", "compare"):
        told = CliRunner().invoke(app, ["models", name, "--help"])
        assert told.exit_code == 0
        assert f"models {name}" in told.stdout
