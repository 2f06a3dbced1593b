"""`sangloc echo`, `sangloc send` and `sangloc peers`, as a person or a script types them."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from destinations import Faulty, data_set_of, free_port, storescp
from http_server import serving
from images import JPEG_LS, ROOT, header, image, part10, pixels
from retriever import take_in
from typer.testing import CliRunner, Result

from pacs import cli
from storage.database import Database

STUDY = f"{ROOT}.9.4"


@pytest.fixture
def sangloc(conninfo: str, tmp_path: Path, monkeypatch: Any) -> Any:
    """Run a command with the settings of this test's database and store."""
    for name, value in {
        "SANGLOC_DATABASE_URL": conninfo,
        "SANGLOC_OBJECTS_FOLDER": str(tmp_path / "objects"),
        "SANGLOC_DATA": str(tmp_path / "data"),
        "SANGLOC_DICOM_CALL_TIMEOUT_S": "2",
        "SANGLOC_DICOM_CALL_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("pacs.commandline._log_to_stderr", lambda _: None)  # the servers of this process log too

    def run(*arguments: object) -> Result:
        done = CliRunner().invoke(cli.app, list(map(str, arguments)))
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three DICOM files, one of them deep, and two that are none."""
    made = tmp_path / "files"
    (made / "deep" / "er").mkdir(parents=True)
    for number, (place, syntax) in enumerate((("a", "1.2.840.10008.1.2.1"), ("b", JPEG_LS), ("deep/er/c", JPEG_LS))):
        (made / place).write_bytes(image(pixels(), syntax, StudyInstanceUID=STUDY, InstanceNumber=number))
    (made / "readme.txt").write_text("hello")
    (made / "broken.dcm").write_bytes(bytes(128) + b"DICM" + b"garbage" * 9)
    return made


def data_of(done: Result) -> Any:
    return json.loads(done.stdout.splitlines()[-1])


# ---- echo


def test_an_echo_by_address_and_by_name(sangloc: Any, receiver: Any) -> None:
    target = f"SANGLOC@127.0.0.1:{receiver.port}"
    done = sangloc("echo", target)
    assert (done.exit_code, "answered in" in done.stdout) == (0, True)
    assert sangloc("peers", "add", "us", target).exit_code == 0
    found = data_of(sangloc("echo", "us", "--json", "-n", 3))
    assert found["peer"] == target
    assert len(found["tries"]) == 3
    assert all(one["status"] == 0 and not one["problem"] and one["answer_ms"] > 0 for one in found["tries"])
    assert receiver.receiver.counters["echoes"] == 4


def test_an_echo_that_is_not_answered_says_why(sangloc: Any, receiver: Any) -> None:
    for target, why in (
        (f"SANGLOC@127.0.0.1:{free_port()}", "does not answer"),
        (f"WRONG@127.0.0.1:{receiver.port}", "called AE title not recognized"),
    ):
        done = sangloc("echo", target)
        assert (done.exit_code, why in done.stdout) == (1, True), done.stdout
        assert data_of(sangloc("echo", target, "--json"))["tries"][0]["problem"]


def test_an_echo_by_dicomweb(sangloc: Any, database: Database, store: Any) -> None:
    with serving(database, store) as address:
        done = sangloc("echo", f"{address}/dicom-web", "--json")
        assert (done.exit_code, data_of(done)["tries"][0]["status"] in (200, 204)) == (0, True)
        assert sangloc("echo", f"{address}/nothing-here").exit_code == 1


@pytest.mark.parametrize("target", ["nobody", "NO@where", "A@b:99999", "http://", "@h:1", "A\\B@h:104"])
@pytest.mark.parametrize("command", ["echo", "send"])
def test_a_target_that_is_none_is_one_line(command: str, target: str, sangloc: Any, folder: Path) -> None:
    from storage.errors import InvalidInput

    with pytest.raises(InvalidInput):
        sangloc(command, target, *([folder] if command == "send" else []))


# ---- send


def test_files_go_out_as_they_are(sangloc: Any, folder: Path, tmp_path: Path, dcmtk: Any) -> None:
    dcmtk("storescp", "--version")
    with storescp(tmp_path / "dest", "+xa") as port:
        done = sangloc("send", f"DEST@127.0.0.1:{port}", folder, "--json")
    report = data_of(done)
    assert done.exit_code == 1  # because of broken.dcm
    assert (report["sent"], report["not_dicom"], len(report["failed"])) == (3, 1, 1)
    assert report["failed"][0]["object"].endswith("broken.dcm")
    got = {sha256(data_set_of(file)).digest() for file in (tmp_path / "dest").iterdir()}
    assert got == {sha256(data_set_of(folder / name)).digest() for name in ("a", "b", "deep/er/c")}


def test_a_receiver_of_plain_images_gets_them_plain(sangloc: Any, folder: Path, tmp_path: Path, dcmtk: Any) -> None:
    dcmtk("storescp", "--version")
    with storescp(tmp_path / "dest", "+xi") as port:
        done = sangloc("send", f"DEST@127.0.0.1:{port}", folder / "a", folder / "deep")
    assert (done.exit_code, "2 sent to DEST@127.0.0.1" in done.stdout) == (0, True), done.stdout
    assert len(list((tmp_path / "dest").iterdir())) == 2


def test_studies_of_the_archive_go_out(sangloc: Any, ingest: Any, folder: Path, tmp_path: Path, dcmtk: Any) -> None:
    dcmtk("storescp", "--version")
    stored = [take_in(ingest, folder / name) for name in ("a", "b")]
    with storescp(tmp_path / "dest", "+xa") as port:
        target = f"DEST@127.0.0.1:{port}"
        assert sangloc("peers", "add", "dest", target).exit_code == 0
        done = sangloc("send", "dest", "--study", STUDY, "--json")
        assert (done.exit_code, data_of(done)["sent"]) == (0, 2)
        done = sangloc("send", target, "--series", stored[0].series_uid, "--series", "1.2.3", "--json")
        assert (done.exit_code, data_of(done)["sent"]) == (0, 1)
        done = sangloc("send", target, "--study", "1.2.3")
        assert (done.exit_code, "not in the archive" in done.stdout) == (1, True)
    got = {sha256(data_set_of(file)).digest() for file in (tmp_path / "dest").iterdir()}
    assert got == {one.sha256 for one in stored}


def test_files_by_stow(sangloc: Any, folder: Path, ingest: Any, store: Any, stored: Any) -> None:
    with serving(ingest.database, store, ingest=ingest) as address:
        done = sangloc("send", f"{address}/dicom-web", folder / "a", folder / "deep", "--json")
        assert (done.exit_code, data_of(done)["sent"]) == (0, 2), done.output
    for name in ("a", "deep/er/c"):
        assert stored(uid_of(folder / name)) == data_set_of(folder / name)


def uid_of(path: Path) -> str:
    from pydicom import dcmread

    return str(dcmread(path, stop_before_pixels=True).SOPInstanceUID)


@pytest.mark.parametrize("mode", ["reject", "abort", "mute"])
def test_a_peer_that_fails_ends_the_command_with_an_account(mode: str, sangloc: Any, folder: Path) -> None:
    with Faulty(mode) as faulty:
        done = sangloc("send", f"DEST@127.0.0.1:{faulty.port}", folder / "a", folder / "b", "--json")
    report = data_of(done)
    assert (done.exit_code, report["sent"], len(report["failed"])) == (1, 0, 2)
    assert all(one["reason"] for one in report["failed"])


def test_send_wants_one_kind_of_thing(sangloc: Any, folder: Path) -> None:
    assert sangloc("send", "A@h:1").exit_code == 2
    assert sangloc("send", "A@h:1", folder, "--study", "1.2").exit_code == 2


def test_what_belongs_to_no_study_can_be_sent_too(sangloc: Any, receiver: Any, tmp_path: Path) -> None:
    palette = header(SOPClassUID="1.2.840.10008.5.1.4.39.1")
    del palette.StudyInstanceUID
    (tmp_path / "palette").write_bytes(part10(palette))
    done = sangloc("send", f"SANGLOC@127.0.0.1:{receiver.port}", tmp_path / "palette", "--json")
    assert "cannot be sent" in data_of(done)["failed"][0]["reason"]  # our receiver takes no palettes


# ---- peers


def test_the_registry_on_the_command_line(sangloc: Any) -> None:
    added = sangloc(
        "peers", "add", "ws", "WS1@[::1]:104", "--tls", "--url", "https://ws.example/dw", "--token", "secret"
    )
    assert (added.exit_code, added.stdout) == (0, "ws added\n")
    assert sangloc("peers", "add", "cloud", "--url", "https://c.example").exit_code == 0
    listed = sangloc("peers", "list").stdout
    assert "ws  WS1@::1:104 (TLS)  https://ws.example/dw" in listed
    found = data_of(sangloc("peers", "list", "--json"))
    assert [one["name"] for one in found] == ["cloud", "ws"]
    assert "secret" not in listed + json.dumps(found)
    assert sangloc("peers", "remove", "ws").stdout == "ws removed\n"
    assert [one["name"] for one in data_of(sangloc("peers", "list", "--json"))] == ["cloud"]
