"""`sangloc reprocess`: what an administrator types, sees and is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bulk import Archive
from typer.testing import CliRunner

from pacs import cli, reprocessing
from pacs.sources import load
from storage.database import Database
from storage.errors import Conflict, InvalidInput, NotFound
from storage.reprocessing import ModelRef
from storage.studies import Received


@pytest.fixture
def archive(database: Database, make_received: Callable[..., Received]) -> Archive:
    """An archive of five studies that an older model has scored."""
    made = Archive(database, make_received)
    made.fill(5)
    return made


@pytest.fixture
def run(conninfo: str, archive: Archive) -> Callable[..., Any]:
    """Run the command; its JSON, or its text. Errors are raised."""

    def call(*arguments: str, as_json: bool = True, code: int = 0, stdin: str = "") -> Any:
        command = ["reprocess", *arguments, *(["--json"] if as_json else [])]
        done = CliRunner().invoke(cli.app, command, env={"SANGLOC_DATABASE_URL": conninfo}, input=stdin)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == code, done.output
        return json.loads(done.stdout) if as_json else done.stdout

    return call


def test_it_is_started_paused_resumed_and_cancelled(run: Callable[..., Any], archive: Archive) -> None:
    begun = run("start")
    assert (begun["state"], begun["total"], begun["shadow"], begun["when_idle"]) == ("running", 5, False, True)
    assert begun["model_name"] == "chest_xray"
    assert begun["started_by"].startswith("command line")
    assert run("pause")["state"] == "paused"
    assert run("resume", str(begun["reprocessing_pk"]))["state"] == "running"
    with pytest.raises(Conflict, match="already"):
        run("start")
    assert run("cancel")["state"] == "cancelled"
    with pytest.raises(NotFound, match="No reprocessing runs"):
        run("pause")
    actions = archive.query("SELECT action FROM audit WHERE action LIKE 'reprocessing.%%' ORDER BY audit_pk")
    assert [name for (name,) in actions] == [
        "reprocessing.started", "reprocessing.paused", "reprocessing.running", "reprocessing.cancelled",
    ]  # fmt: skip


def test_status_says_how_far_it_is(run: Callable[..., Any], archive: Archive) -> None:
    assert "nothing was reprocessed" in run("status", as_json=False)
    begun = run("start", "--rate", "2.5", "--beside-live", "--modality", "DX")
    model = ModelRef(begun["model_name"], begun["model_version"], begun["weights_sha256"])
    archive.record(model=model, scored=archive.claim(2).jobs)
    (now,) = run("status")
    assert (now["scored"], now["ended"], now["images_per_s"], now["when_idle"]) == (2, 2, 2.5, False)
    assert now["left_s"] > 0
    text = run("status", as_json=False)
    assert "2 of 5 images: 2 scored, 0 refused, 0 failed" in text
    assert "over modalities DX" in text
    assert "left" in text


def test_images_that_failed_are_listed_and_make_the_exit_status(run: Callable[..., Any], archive: Archive) -> None:
    begun = run("start")
    (job,) = archive.claim(1).jobs
    archive.record(failed=[(job, "damaged")], max_attempts=1)
    assert run("status", code=1)[0]["failed"] == 1
    (told,) = run("problems")
    assert (told["sop_uid"], told["state"], told["reason"]) == (job.sop_uid, "failed", "damaged")
    assert f"failed {job.sop_uid}: damaged" in run("problems", as_json=False)
    run("cancel", str(begun["reprocessing_pk"]))


def test_studies_are_named_by_a_file_or_on_standard_input(
    run: Callable[..., Any], archive: Archive, tmp_path: Path
) -> None:
    (made,) = archive.fill(1)
    uids = tmp_path / "uids.txt"
    uids.write_text(f"\ufeff{made.header.study_uid}\r\n\r\n{made.header.study_uid}\n", "utf-8")
    assert run("start", "--uids", str(uids))["total"] == 1
    run("cancel")
    assert run("start", "--uids", "-", stdin=f"{made.header.sop_uid}\n")["total"] == 1
    run("cancel")
    with pytest.raises(InvalidInput, match=r"Not in this archive: 1\.2\.3"):
        run("start", "--uids", "-", stdin="1.2.3\n")
    with pytest.raises(InvalidInput, match="not a UID: 'Nguyễn'"):
        run("start", "--uids", "-", stdin="Nguyễn\n")
    with pytest.raises(InvalidInput, match="names no UID"):
        run("start", "--uids", "-", stdin="\n")
    with pytest.raises(InvalidInput, match="cannot be read"):
        run("start", "--uids", str(tmp_path / "none"))


def test_days_that_contradict_and_unknown_models_are_refused(run: Callable[..., Any]) -> None:
    with pytest.raises(InvalidInput, match="No study is from"):
        run("start", "--from", "2026-02-01", "--to", "2026-01-01")
    with pytest.raises(NotFound, match="There is no model elsewhere@7"):
        run("start", "--model", "elsewhere@7")
    with pytest.raises(InvalidInput, match="above 0"):
        run("start", "--rate", "0")
    assert run("start", "--from", "2026-01-01", "--to", "2026-01-31")["total"] == 5


def test_watching_ends_with_what_is_watched(database: Database, run: Callable[..., Any], archive: Archive) -> None:
    begun = run("start")
    model = ModelRef(begun["model_name"], begun["model_version"], begun["weights_sha256"])
    assert len(archive.run(model=model)) == 5
    ended = reprocessing.watch(database, archive.now(begun["reprocessing_pk"]), every_s=0.01)
    assert (ended.state, ended.scored) == ("done", 5)
    assert "done" in reprocessing.line(ended)


def test_a_registered_model_that_is_not_active_runs_in_shadow(
    run: Callable[..., Any], archive: Archive, conninfo: str
) -> None:
    with archive.database.transaction() as connection:
        connection.execute(
            "INSERT INTO model_versions (name, version, weights_sha256, origin, source, findings, card, object_key,"
            " object_size, sha256, imported_by)"
            " VALUES ('other', '1', %s, 'monai', 'here', '{Abnormal}', '', 'k', 1, '', 'me')",
            ("ef" * 32,),
        )
    begun = run("start", "--model", "other@1")
    assert (begun["shadow"], begun["total"]) == (True, 5)
    assert "other@1 in shadow over everything" in run("status", as_json=False)
    settings = load(env={"SANGLOC_DATABASE_URL": conninfo}).settings
    with archive.database.autocommit() as connection:
        active, shadow = reprocessing.model_of(connection, settings, "active")
        assert reprocessing.model_of(connection, settings, f"{active.name}@{active.version}") == (active, False)
    assert (active.name, shadow) == ("chest_xray", False)
