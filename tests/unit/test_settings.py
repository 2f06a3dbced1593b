"""Settings: sources and their order, names that do not exist, secrets, doors that must not stand open."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from inference.triage import TriagePolicy
from pacs import overview, parts
from pacs.dimse.policy import ReceiverPolicy
from pacs.settings import Settings, refuse_unsafe
from pacs.sources import Sourced, entries, environment, load, masked
from storage.errors import SettingsError

TOKEN = "a-token-long-enough-0123"


def loaded(env: dict[str, str] | None = None, **flags: object) -> Settings:
    return load(env=env or {}, flags={name.replace("__", "."): value for name, value in flags.items()}).settings


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    path = tmp_path / "sangloc.toml"
    path.write_text(
        """
        data = "/srv/sangloc"
        [dicom]
        port = 104
        ae_title = "FROM_FILE"
        [[dicom.peers]]
        ae_title = "XR1"
        networks = ["10.1.0.0/16"]
        [http.tokens]
        ris = "a-token-long-enough-0123"
        [[sites]]
        name = "Huyện A"
        ae_titles = ["XR1", "XR2"]
        routine_minutes = 240
        operating_point = "sensitive"
        """
    )
    return path


def test_a_flag_beats_the_environment_beats_the_file_beats_the_default(toml: Path) -> None:
    env = {"SANGLOC_DICOM_PORT": "2000", "SANGLOC_DICOM_AE_TITLE": "FROM_ENV"}
    found = load(config=toml, env=env, flags={"dicom.port": 3000, "http.port": None})
    assert found.settings.dicom.port == 3000
    assert found.settings.dicom.ae_title == "FROM_ENV"
    assert found.settings.data == Path("/srv/sangloc")
    assert found.settings.http.port == 8080
    assert found.sources["dicom.port"] == "flag"
    assert found.sources["dicom.ae_title"] == "environment SANGLOC_DICOM_AE_TITLE"
    assert found.sources["data"] == f"file {toml}"
    assert "http.port" not in found.sources


def test_the_file_is_found_by_variable_and_an_empty_variable_means_none(
    toml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load(env={"SANGLOC_CONFIG": str(toml)}).settings.dicom.port == 104
    monkeypatch.chdir(tmp_path)
    assert load(env={}).settings.dicom.port == 104  # ./sangloc.toml
    assert load(env={"SANGLOC_CONFIG": ""}).settings.dicom.port == 11112


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"SANGLOC_DICOM_PRT": "1"}, "did you mean SANGLOC_DICOM_PORT"),
        ({"SANGLOC_QUITE_ELSE": "1"}, "sangloc settings"),
        ({"SANGLOC_DICOM_PORT": "many"}, "SANGLOC_DICOM_PORT: dicom.port"),
        ({"SANGLOC_DICOM_PORT": "70000"}, "less than or equal to 65535"),
        ({"SANGLOC_DICOM_AE_TITLE": "MORE THAN SIXTEEN"}, "dicom.ae_title"),
        ({"SANGLOC_DICOM_OPEN_NETWORKS": "10.0.0.0/40"}, "dicom.open_networks"),
        ({"SANGLOC_HTTP_TOKENS": "no json"}, "JSON"),
        ({"SANGLOC_DATABASE_URL_FILE": "/nowhere/at/all"}, "No such file"),
        ({"SANGLOC_DICOM_PORT_FILE": "/etc/hostname"}, "not a setting"),  # only secrets come from files
    ],
)
def test_a_wrong_variable_is_named_with_what_to_do(env: dict[str, str], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        loaded(env)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[dicom]\nprt = 1", "dicom.prt is not a setting; did you mean dicom.port"),
        ("[dicm]\nport = 1", "did you mean dicom.port"),
        ("dicom = 3", "not a setting"),
        ("[dicom\n", "sangloc.toml"),
        ("[[sites]]\nname = 'x'", "ae_titles"),
        ("[[sites]]\nname = 'x'\nae_titles = ['A']\nwait = 3", "wait"),
        ("[[sites]]\nname = 'x'\nae_titles = ['A']\noperating_point = 'bold'", "sensitive"),
    ],
)
def test_a_wrong_file_is_named_with_what_to_do(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "sangloc.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=words):
        load(config=path, env={})


def test_a_missing_file_is_an_error_when_it_was_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        load(config=tmp_path / "none.toml", env={})


def test_errors_never_show_a_value() -> None:
    with pytest.raises(SettingsError) as caught:
        loaded({"SANGLOC_HTTP_TOKENS": '{"ris": ["hidden-secret"]}'})
    assert "hidden-secret" not in str(caught.value)


def test_secrets_are_masked_and_come_from_files_too(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("postgresql://u:hush@db/x\n")
    sourced = load(
        env={"SANGLOC_DATABASE_URL_FILE": str(tmp_path / "url"), "SANGLOC_HTTP_TOKENS": f'{{"ris":"{TOKEN}"}}'}
    )
    assert sourced.settings.database.url is not None
    assert sourced.settings.database.url.get_secret_value() == "postgresql://u:hush@db/x"
    for as_json in (False, True):
        text = overview.settings_text(sourced, as_json)
        assert "hush" not in text
        assert TOKEN not in text
        assert "ris" in text
    assert "hush" not in repr(sourced.settings)
    shown = json.loads(overview.settings_text(sourced, as_json=True))
    assert shown["http.tokens"]["source"] == "environment SANGLOC_HTTP_TOKENS"
    assert shown["dicom.port"] == {"value": "11112", "source": "default"}


def test_the_environment_for_children_gives_the_same_settings(toml: Path) -> None:
    first = load(
        config=toml,
        env={"SANGLOC_DATABASE_URL": "postgresql://u:p@h/d"},
        flags={"worker.count": 0, "dicom.allow_private_sop_classes": True, "worker.bundle": Path("/models/x")},
    ).settings
    assert load(env=environment(first) | {"SANGLOC_CONFIG": ""}).settings == first


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        Settings().dicom.port = 1


def test_every_setting_says_what_it_is_and_has_a_printable_default() -> None:
    found = list(entries())
    assert len({entry.variable for entry in found}) == len(found)
    for entry in found:
        assert entry.info.description, entry.path
        assert isinstance(masked(Settings(), entry), str)
    assert {entry.path for entry in found if entry.secret} == {
        "database.url",
        "objects.access_key",
        "objects.secret_key",
        "http.tokens",
    }


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"SANGLOC_HTTP_HOST": "0.0.0.0"}, "http.tokens"),
        ({"SANGLOC_HTTP_HOST": "pacs.example.org"}, "http.tokens"),
        ({"SANGLOC_DICOM_HOST": "0.0.0.0"}, "dicom.open_networks"),
        ({"SANGLOC_DICOM_HOST": "::"}, "dicom.peers"),
        ({"SANGLOC_DICOM_TLS_CERTIFICATE": "/x.pem"}, "tls_key"),
        ({"SANGLOC_DICOM_TLS_CLIENT_CA": "/x.pem"}, "tls_key"),
        ({"SANGLOC_OBJECTS_ENDPOINT": "s3:9000"}, "access_key"),
        (
            {
                "SANGLOC_OBJECTS_ENDPOINT": "s3:9000",
                "SANGLOC_OBJECTS_ACCESS_KEY": "a",
                "SANGLOC_OBJECTS_SECRET_KEY": "b",
                "SANGLOC_OBJECTS_FOLDER": "/x",
            },
            "one place",
        ),
        ({"SANGLOC_SITES": '[{"name":"a","ae_titles":["X"]},{"name":"b","ae_titles":["X"]}]'}, "two sites"),
    ],
)
def test_unsafe_or_contradicting_settings_are_refused(env: dict[str, str], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        refuse_unsafe(loaded(env))


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"SANGLOC_HTTP_HOST": "localhost"},
        {"SANGLOC_HTTP_HOST": "0.0.0.0", "SANGLOC_HTTP_TOKENS": f'{{"ris":"{TOKEN}"}}'},
        {"SANGLOC_DICOM_HOST": "0.0.0.0", "SANGLOC_DICOM_OPEN_NETWORKS": "10.1.0.0/16"},
        {"SANGLOC_DICOM_HOST": "0.0.0.0", "SANGLOC_DICOM_PEERS": '[{"ae_title":"XR1"}]'},
    ],
)
def test_safe_settings_are_taken(env: dict[str, str]) -> None:
    settings = loaded(env)
    refuse_unsafe(settings)
    parts.check(settings)


def test_what_a_part_would_refuse_is_refused_before_it_starts() -> None:
    with pytest.raises(SettingsError, match="triage"):
        parts.check(loaded({"SANGLOC_TRIAGE_STAT_MINUTES": "600"}))
    with pytest.raises(SettingsError, match="16"):
        parts.check(loaded({"SANGLOC_HTTP_TOKENS": '{"ris":"short"}'}))
    with pytest.raises(SettingsError, match="max_associations"):
        parts.check(loaded({"SANGLOC_DICOM_MAX_ASSOCIATIONS": "1000"}))


def test_defaults_are_those_of_the_parts() -> None:
    assert parts.receiver_policy(Settings()) == ReceiverPolicy()
    assert parts.triage_policy(Settings()) == TriagePolicy()


def test_peers_and_sites_reach_the_policies(toml: Path) -> None:
    settings = load(config=toml, env={}).settings
    policy = parts.receiver_policy(settings)
    assert policy.knows_calling("XR1", "10.1.2.3")
    assert not policy.knows_calling("XR1", "10.2.2.3")
    assert parts.site_of(settings)("XR2", "10.1.2.3") == "Huyện A"
    assert parts.site_of(settings)("XR3", "10.1.2.3") == ""
    triage = parts.triage_policy(settings)
    assert (triage.operating_point_of("Huyện A"), triage.operating_point_of("")) == ("sensitive", "balanced")
    waits = triage.waits_of("Huyện A")
    assert (waits.stat_minutes, waits.routine_minutes) == (15, 240)


def test_a_command_without_a_database_says_how_to_get_one() -> None:
    with pytest.raises(SettingsError, match="SANGLOC_DATABASE_URL"):
        parts.database(Settings())


def test_the_source_of_a_default_is_default() -> None:
    lines = overview.settings_text(Sourced(Settings(), {}), as_json=False).splitlines()
    assert len(lines) == len(list(entries()))
    assert all(line.endswith("default") for line in lines)
