"""Reprocessing on a Ray cluster: a local one of two cores. Ray is large, so it is no part of the development set."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hospital import Hospital
from tiny_bundle import write_tiny_bundle

from models.bundle import load_bundle
from pacs.cluster import Nodes, work_off
from pacs.settings import Settings
from pacs.sources import load
from storage import workers
from storage.database import Database
from storage.errors import SettingsError
from storage.objects.directory import DirectoryStore
from storage.reprocessing import ModelRef
from storage.studies import Received

pytestmark = pytest.mark.filterwarnings("ignore")  # what Ray says of its own parts


def settings_of(data: Path, **variables: str) -> Settings:
    given = {f"SANGLOC_{name.upper()}": value for name, value in variables.items()}
    return load(flags={"data": data}, env=given).settings


def test_workers_on_a_cluster_score_everything_once_and_then_end(
    database: Database,
    conninfo: str,
    store: DirectoryStore,
    tmp_path: Path,
    make_received: Callable[..., Received],
) -> None:
    ray = pytest.importorskip("ray", reason="needs Ray: pip install 'sangloc[cluster]'")
    bundle = write_tiny_bundle(tmp_path / "bundle", offset=20.0)
    loaded = load_bundle(bundle)
    hospital = Hospital(database, make_received, store, tmp_path / "cache")
    hospital.films(60)
    number = hospital.start(ModelRef(loaded.name, loaded.version, loaded.weights_sha256)).reprocessing_pk
    settings = settings_of(
        tmp_path, database_url=conninfo, objects_folder=str(tmp_path / "objects"), worker_bundle=str(bundle),
        worker_device="openvino",
    )  # fmt: skip
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    worked = work_off(settings, number, Nodes(workers=2, cpus=1.0))
    ended = hospital.now(number)
    assert (ended.state, ended.scored, ended.failed) == ("done", 60, 0)
    assert len(worked) == 2
    assert hospital.query("SELECT count(*), count(DISTINCT instance_fk) FROM scores WHERE model_name = 'tiny'") == [
        (60, 60)
    ]
    with database.autocommit() as connection:
        assert workers.alive(connection, 3600) == []  # the worklist does not take them for live triage
    assert not ray.is_initialized()


def test_without_ray_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(SettingsError, match=r"sangloc\[models,cluster\]"):
        work_off(settings_of(tmp_path), 1, Nodes())
