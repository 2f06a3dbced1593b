"""`sangloc studies`: what a person at the keyboard deletes, corrects and takes back."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from changed import contradictions, rows, visible
from typer.testing import CliRunner

from pacs import cli
from storage.database import Database
from storage.errors import Conflict, InvalidInput, NotFound
from storage.studies import Indexer, Received


@pytest.fixture
def run(conninfo: str, database: Database, make_received: Callable[..., Received]) -> Callable[..., Any]:
    """Run the command over an archive with two studies; its JSON, or its text."""
    Indexer(database).index(
        [make_received(study_uid=uid, series_uid=f"{uid}.1", sop_uid=f"{uid}.1.1") for uid in ("1.1", "1.2")]
    )

    def call(*arguments: str, as_json: bool = True) -> Any:
        command = ["studies", *arguments, *(["--json"] if as_json else [])]
        done = CliRunner().invoke(cli.app, command, env={"SANGLOC_DATABASE_URL": conninfo})
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout) if as_json else done.stdout

    return call


def test_a_study_is_deleted_and_restored(run: Callable[..., Any], database: Database) -> None:
    (tried,) = run("delete", "1.1", "--reason", "sent twice", "--dry-run")
    assert (tried["kind"], tried["detail"]["instances"]) == ("delete", 1)
    assert len(visible(database)) == 2
    run("delete", "1.1", "--reason", "sent twice")
    assert set(visible(database)) == {"1.2.1.1"}
    run("restore", "1.1", "--reason", "not twice")
    assert len(visible(database)) == 2
    lines = run("history", "1.1", as_json=False).splitlines()
    assert "restore" in lines[0]
    assert "delete (restored)" in lines[1]
    assert "sent twice" in lines[1]
    assert rows(database, "SELECT DISTINCT left(actor, 12) FROM changes") == [("command line",)]
    assert contradictions(database) == []


def test_a_study_is_rejected_corrected_merged_and_undone(run: Callable[..., Any], database: Database) -> None:
    run("reject", "1.1", "--instance", "1.1.1.1", "--reason", "quality", "--comment", "moved")
    assert len(rows(database, "SELECT FROM rejection_notes WHERE state = 'due'")) == 1
    run("restore", "1.1", "--reason", "good enough")
    run("update", "1.1", "--set", "PatientName=Lê^An", "--set", "StudyID=7", "--reason", "typing error")
    run("update", "1.1", "--set", "SeriesDescription=PA", "--series", "1.1.1", "--reason", "typing error")
    assert rows(database, "SELECT patient_name, study_id FROM studies WHERE study_uid = '1.1'") == [("Lê^An", "7")]
    (merged,) = run("merge", "1.1", "1.2", "--reason", "one examination")
    assert {study for study, _ in visible(database).values()} == {"1.2"}
    run("undo", str(merged["change_pk"]), "--reason", "two after all")
    assert {study for study, _ in visible(database).values()} == {"1.1", "1.2"}
    assert contradictions(database) == []


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("delete", "9.9", "--reason", "x"), NotFound),
        (("delete", "1.1", "--reason", " "), InvalidInput),
        (("reject", "1.1", "--reason", "ugly"), InvalidInput),
        (("update", "1.1", "--set", "PatientName", "--reason", "x"), InvalidInput),
        (("update", "1.1", "--set", "PatientID=1", "--reason", "x"), InvalidInput),
        (("merge", "1.1", "1.1", "--reason", "x"), Conflict),
        (("undo", "99", "--reason", "x"), NotFound),
    ],
)
def test_what_cannot_be_done_is_said(
    run: Callable[..., Any], database: Database, arguments: tuple[str, ...], error: type[Exception]
) -> None:
    with pytest.raises(error):
        run(*arguments)
    assert rows(database, "SELECT FROM changes") == []
