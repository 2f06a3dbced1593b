"""The `sangloc` command: quick help, clear errors, commands that need nothing running."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pacs import cli
from pacs.supervisor import listen
from storage.errors import SanglocError, SettingsError


def sangloc(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "pacs.cli", *arguments],
        env={k: v for k, v in os.environ.items() if not k.startswith("SANGLOC_")} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_lists_every_command_and_loads_nothing_heavy() -> None:
    """Under 0.3 s is promised; what would break it is an import, so that is what is looked at."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-P", "-m", "pacs.cli", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    for command in ("up", "down", "status", "demo", "receive", "triage", "serve", "import", "verify", "migrate"):
        assert f"\n  {command} " in done.stdout
    loaded = {line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    heavy = {"pydantic", "numpy", "rich", "torch", "psycopg", "pydicom", "pynetdicom", "fastapi", "structlog", "httpx"}
    assert not heavy & {name.split(".")[0] for name in loaded}


@pytest.mark.parametrize("command", sorted(cli.known_commands()))
def test_every_command_has_help_of_its_own(command: str) -> None:
    done = CliRunner().invoke(cli.app, [command, "--help"])
    assert done.exit_code == 0
    assert "Usage:" in done.output


@pytest.mark.parametrize(
    ("error", "status"), [(SanglocError("it went wrong"), 1), (SettingsError("set this"), 2)], ids=["error", "settings"]
)
def test_an_expected_error_is_one_line_and_an_exit_status(
    error: SanglocError, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == status
    assert capsys.readouterr().err == f"sangloc: {error}\n"


@pytest.mark.parametrize(
    ("arguments", "words", "status"),
    [
        (["receive"], "SANGLOC_DATABASE_URL", 2),
        (["triage"], "SANGLOC_DATABASE_URL", 2),
        (["serve"], "SANGLOC_DATABASE_URL", 2),
        (["healthy", "heart"], "receiver, worker, exchange, api", 1),
        (["healthy", "receiver"], "no association", 1),
        (["healthy", "api"], "does not answer", 1),
        (["up", "--config", "/no/such/file.toml"], "No such file", 2),
        (["down", "--data", "/no/such/folder"], "no sangloc runs", 1),
        (["up", "--data", "/proc/sangloc"], "cannot be used", 1),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_work_says_so_in_one_line(arguments: list[str], words: str, status: int) -> None:
    done = sangloc(*arguments, SANGLOC_DICOM_PORT="1", SANGLOC_HTTP_PORT="1", SANGLOC_CONFIG="")
    assert (done.returncode, done.stdout) == (status, "")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_settings_are_printed_with_their_sources_and_without_secrets(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text("[dicom]\nport = 104\n")
    done = sangloc(
        *("settings", "--config", str(tmp_path / "s.toml"), "--data", "/srv/x", "--json"),
        SANGLOC_DATABASE_URL="postgresql://u:hush@h/d",
    )
    shown = json.loads(done.stdout)
    assert shown["dicom.port"] == {"value": "104", "source": f"file {tmp_path}/s.toml"}
    assert shown["data"] == {"value": "/srv/x", "source": "flag"}
    assert shown["database.url"] == {"value": "********", "source": "environment SANGLOC_DATABASE_URL"}
    assert "hush" not in sangloc("settings", SANGLOC_DATABASE_URL="postgresql://u:hush@h/d").stdout


def test_settings_are_shown_even_when_they_are_unsafe() -> None:
    """One needs to see them to mend them."""
    done = sangloc("settings", SANGLOC_HTTP_HOST="0.0.0.0")
    assert done.returncode == 0
    assert "0.0.0.0" in done.stdout


def test_version_and_status_of_nothing(tmp_path: Path) -> None:
    assert sangloc("version").stdout.strip()[0].isdigit()
    done = sangloc("status", "--data", str(tmp_path), "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout) == {"status": "stopped", "data": str(tmp_path)}


def test_a_port_that_is_not_ours_to_take_says_what_to_do() -> None:
    with listen("127.0.0.1", 0, "DICOM", flag="--dicom-port") as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SanglocError, match=f"DICOM port {port} on 127.0.0.1 .* --dicom-port"):
            listen("127.0.0.1", port, "DICOM", flag="--dicom-port")
    with listen("::", 0, "DICOM", flag="--dicom-port") as everywhere:
        socket.create_connection(("127.0.0.1", everywhere.getsockname()[1]), 5).close()
    with pytest.raises(SanglocError, match=r"no\.such\.host"):
        listen("no.such.host.invalid", 0, "HTTP", flag="--http-port")


def test_import_and_verify_work_on_a_folder_that_is_not_running(tmp_path: Path) -> None:
    from pacs import samples

    films = tmp_path / "films"
    films.mkdir()
    for number in range(3):
        samples.phantom(number).payload.save_as(films / f"{number}.dcm", enforce_file_format=True)
    (films / "notes.txt").write_text("no DICOM")
    data = str(tmp_path / "data")
    first = sangloc("import", str(films), "--data", data)
    assert first.returncode == 0, first.stderr
    assert first.stdout == "4 files: 3 stored, 0 were there, 0 in conflict, 1 no DICOM, 0 not taken\n"
    again = sangloc("import", str(films), "--data", data)
    assert again.stdout == "4 files: 0 stored, 3 were there, 0 in conflict, 1 no DICOM, 0 not taken\n"
    sound = json.loads(sangloc("verify", "--data", data, "--json").stdout)
    assert (sound["checked"], sound["damaged_count"], sound["orphan_count"]) == (3, 0, 0)
    victim = next((tmp_path / "data" / "objects").rglob("*.dcm"))
    victim.write_bytes(victim.read_bytes()[:-1] + b"x")
    broken = sangloc("verify", "--data", data)
    assert broken.returncode == 1
    assert "1 damaged or missing" in broken.stdout
    assert "other bytes than were acknowledged" in broken.stdout


def test_evaluate_prints_a_table_and_json(tmp_path: Path) -> None:
    sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
    import tiny_bundle
    import tiny_models

    bundle = tiny_bundle.write_tiny_bundle(tmp_path / "bundle")
    manifest = tiny_models.write_manifest(tmp_path, {"test": 24})
    arguments: list[Any] = ["evaluate", bundle, manifest, "--split", "test", "--resamples", "100"]
    table = sangloc(*map(str, arguments))
    assert table.returncode == 0, table.stderr
    assert "AUROC" in table.stdout
    assert json.loads(sangloc(*map(str, arguments), "--json").stdout)
    wrong = sangloc("evaluate", str(tmp_path), str(manifest))
    assert (wrong.returncode, wrong.stderr.count("Traceback")) == (1, 0)
