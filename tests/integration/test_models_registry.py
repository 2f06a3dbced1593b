"""The registry of models on a real database and both object stores: what is refused, what is kept, and the way back."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from rclone_server import ACCESS, SECRET, S3Server
from tiny_bundle import write_tiny_bundle
from tiny_models import change_json, write_foreign_bundle, write_manifest, write_rows

from models import stored
from models.bundle import METADATA, WEIGHTS, load_bundle
from models.importers.adopting import Wanted
from pacs.registry import BUILT_IN, Registry, headline
from pacs.verify import verify
from storage import activations, audit, models
from storage.database import Database
from storage.errors import Conflict, DigestMismatch, InvalidBundle, InvalidInput, NotFound
from storage.objects import ObjectStore
from storage.objects.minio import MinioStore

SITE = "Huyện A"
INFERENCE = "configs/inference.json"


def quiet(_done: int, _films: int) -> None:
    """No progress bar."""


@dataclasses.dataclass
class Desk:
    """A person at the registry."""

    registry: Registry
    database: Database
    store: ObjectStore
    folder: Path
    manifest: Path

    def tiny(self, name: str = "tiny", *, seed: int = 1, **over: Any) -> models.Version:
        source = write_tiny_bundle(self.folder / f"{name}-{seed}", seed=seed, **over)
        return self.registry.import_(str(source), Wanted(name=name, version=str(seed)))

    def fitted_and_judged(self, title: str, site: str = SITE) -> None:
        self.registry.calibrate(title, self.manifest, ["val"], site, quiet)
        self.registry.evaluate(title, self.manifest, ["test"], site, resamples=20, tell=quiet)

    def activated(self, title: str, site: str = SITE) -> None:
        self.fitted_and_judged(title, site)
        self.registry.activate(title, site, point="balanced")

    def at_work(self) -> list[tuple[str, str, str]]:
        with self.database.autocommit() as connection:
            return [(one.site, one.mode, one.title) for one in activations.current(connection)]

    def entries(self) -> list[audit.Entry]:
        with self.database.autocommit() as connection:
            return audit.page(connection)

    def path_of(self, model: models.Version) -> Path:
        return Path(str(self.store.path(model.object_key)))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_manifest(tmp_path_factory.mktemp("films"), {"val": 24, "test": 24})


@pytest.fixture
def desk(database: Database, store: ObjectStore, tmp_path: Path, manifest: Path) -> Desk:
    registry = Registry(database, store, tmp_path / "cache", "command line: hoa")
    return Desk(registry, database, store, tmp_path, manifest)


@pytest.fixture(params=["folder", "S3"])
def any_store(request: pytest.FixtureRequest, store: ObjectStore, tmp_path: Path) -> Iterator[ObjectStore]:
    if request.param == "folder":
        yield store
        return
    server = S3Server(tmp_path / "s3")
    server.start()
    try:
        away = MinioStore(server.endpoint, ACCESS, SECRET, "models", secure=False)
        away.check()
        yield away
    finally:
        server.stop()


def test_an_imported_model_lies_in_the_store_and_comes_back_with_its_digests(
    database: Database, any_store: ObjectStore, tmp_path: Path
) -> None:
    registry = Registry(database, any_store, tmp_path / "cache", "command line: hoa")
    source = write_tiny_bundle(tmp_path / "source")
    model = registry.import_(str(source), Wanted())
    assert (model.title, model.origin, model.source) == ("tiny@0.0.1", "monai", str(source))
    assert model.findings == ["Abnormal", "Effusion", "Pneumothorax"]
    assert any_store.size(model.object_key) == model.object_size
    lies = stored.Stored(model.object_key, model.object_size, model.sha256)
    back = stored.fetch(any_store, lies, model.weights_sha256, tmp_path / "elsewhere")
    assert back.weights_sha256 == load_bundle(source).weights_sha256 == model.weights_sha256
    assert back.operating_points == load_bundle(source).operating_points
    with database.autocommit() as connection:
        (entry,) = audit.page(connection)
        assert activations.current(connection) == []
    assert (entry.actor, entry.action, entry.detail["model"]) == ("command line: hoa", "model.imported", "tiny@0.0.1")


def test_a_model_comes_in_once_and_a_refused_one_leaves_nothing_behind(desk: Desk) -> None:
    first = desk.tiny()
    with pytest.raises(Conflict, match=r"registered already, as tiny@1"):
        desk.registry.import_(str(desk.folder / "tiny-1"), Wanted(name="other"))
    write_tiny_bundle(desk.folder / "second", seed=2)
    with pytest.raises(Conflict, match="another version"):
        desk.registry.import_(str(desk.folder / "second"), Wanted(name="tiny", version="1"))
    with pytest.raises(InvalidInput, match="letters, digits"):
        desk.registry.import_(str(desk.folder / "second"), Wanted(name="a b"))
    assert list(desk.store.keys()) == [first.object_key]


def test_verify_reads_models_and_takes_none_for_an_orphan(desk: Desk) -> None:
    model = desk.tiny()
    report = verify(desk.database, desk.store, in_flight_s=0)
    assert (report.checked, report.sound, report.orphans) == (1, True, [])
    content = bytearray(desk.path_of(model).read_bytes())
    content[-30] ^= 1
    desk.path_of(model).write_bytes(content)
    (damage,) = verify(desk.database, desk.store, in_flight_s=0).damaged
    assert (damage.sop_uid, damage.object_key) == ("tiny@1", model.object_key)


def test_nothing_is_activated_before_it_was_fitted_and_judged_at_the_site(desk: Desk) -> None:
    desk.tiny()

    def refused(reason: str) -> str:
        with pytest.raises(Conflict, match=reason) as caught:
            desk.registry.activate("tiny", SITE, point="balanced")
        return str(caught.value)

    way_out = refused("no thresholds were fitted for it there")
    for command in ("calibrate tiny@1 MANIFEST --split val", "evaluate tiny@1 MANIFEST --split test", "--shadow"):
        assert f"sangloc models {command}" in way_out or command in way_out
    assert f"--site '{SITE}'" in way_out
    desk.registry.calibrate("tiny", desk.manifest, ["val"], "", quiet)  # of all sites: not of this one
    desk.registry.evaluate("tiny", desk.manifest, ["test"], "", resamples=20, tell=quiet)
    refused("no thresholds were fitted for it there")
    desk.registry.calibrate("tiny", desk.manifest, ["val"], SITE, quiet)
    refused("it was not judged on films from there")
    desk.registry.evaluate("tiny", desk.manifest, ["test"], SITE, resamples=20, tell=quiet)
    desk.registry.calibrate("tiny", desk.manifest, ["val"], SITE, quiet)
    refused("its thresholds were fitted after it was judged")
    assert desk.at_work() == []
    desk.registry.evaluate("tiny", desk.manifest, ["test"], SITE, resamples=20, tell=quiet)
    with pytest.raises(Conflict, match="no operating point urgent"):
        desk.registry.activate("tiny", SITE, point="urgent")
    model, judged = desk.registry.activate("tiny", SITE, point="balanced")
    assert desk.at_work() == [(SITE, "active", "tiny@1")]
    assert (model.title, judged.films, judged.positives) == ("tiny@1", 24, 12)
    assert headline(judged)[0].startswith("AUROC 0.")
    with pytest.raises(Conflict, match="already, with these thresholds"):
        desk.registry.activate("tiny", SITE, point="balanced")


def test_a_fit_of_a_site_changes_thresholds_and_calibration_there_only(desk: Desk) -> None:
    model = desk.tiny(offset=20.0)  # its own calibration flags everything
    fit = desk.registry.calibrate("tiny", desk.manifest, ["val"], SITE, quiet)
    assert (fit.films, fit.positives, fit.manifest) == (24, 12, "manifest.csv")
    assert set(fit.fit["operating_points"]) == {"sensitive", "balanced", "specific"}
    own = stored.fetch(
        desk.store, stored.Stored(model.object_key, model.object_size, model.sha256), model.weights_sha256,
        desk.folder / "cache",
    )  # fmt: skip
    logits = np.zeros((1, 3), np.float32)
    assert own.probabilities(logits)[0, 0] > 0.99
    assert own.refitted(fit.fit).probabilities(logits)[0, 0] < 0.95


def test_a_model_without_an_abnormal_of_its_own_gets_a_calibrated_one(desk: Desk) -> None:
    source = write_foreign_bundle(desk.folder / "foreign", ["Infiltration", "Mass", "No Finding"])
    model = desk.registry.import_(str(source), Wanted())
    assert model.findings == ["Abnormal", "Infiltration", "Mass", "No Finding"]
    assert "The greatest of the findings stands for it".lower() in model.card.lower()
    fit = desk.registry.calibrate(model.title, desk.manifest, ["val"], SITE, quiet)
    assert len(fit.fit["operating_points"]["balanced"]) == 4
    fitted = load_bundle(source).refitted(fit.fit)
    p = fitted.probabilities(np.array([[-4.0, 0.0, 4.0], [4.0, 0.0, -4.0]]))
    assert fitted.abnormal_calibration is not None
    assert p[0, 0] <= p[1, 0]  # a rising line of the greatest finding; 'No Finding' is none
    judged = desk.registry.evaluate(model.title, desk.manifest, ["test"], SITE, resamples=20, tell=quiet)
    assert judged.report["splits"] == ["test"]


def test_films_that_thresholds_were_fitted_on_judge_nothing(desk: Desk) -> None:
    desk.tiny()
    desk.registry.calibrate("tiny", desk.manifest, ["val"], SITE, quiet)
    with pytest.raises(InvalidInput, match="were fitted on split val"):
        desk.registry.evaluate("tiny", desk.manifest, ["test", "val"], SITE, resamples=20, tell=quiet)


@pytest.mark.parametrize("label", [0, 1])
def test_a_set_of_one_class_is_refused(desk: Desk, label: int) -> None:
    desk.tiny()
    rows = [(f"{n}.png", "site", "test", str(n), label, "", "", "") for n in range(20)]
    (desk.folder / "one").mkdir()
    one_class = write_rows(desk.folder / "one", rows)
    told = f"{20 * label} abnormal and {20 - 20 * label} normal"
    with pytest.raises(InvalidInput, match=told):
        desk.registry.calibrate("tiny", one_class, ["test"], SITE, quiet)
    with pytest.raises(InvalidInput, match=told):
        desk.registry.evaluate("tiny", one_class, ["test"], SITE, resamples=20, tell=quiet)


def test_films_of_other_bit_depths_are_refused_by_name(desk: Desk) -> None:
    desk.tiny()
    folder = desk.folder / "deep"
    folder.mkdir()
    for n in range(20):
        cv2.imwrite(str(folder / f"{n}.png"), np.full((80, 80), 300 + n, np.uint16))
    rows = [(f"{n}.png", "site", "test", str(n), n % 2, "", "", "") for n in range(20)]
    with pytest.raises(InvalidInput, match=r"0\.png has 16 bits a pixel"):
        desk.registry.evaluate("tiny", write_rows(folder, rows), ["test"], SITE, resamples=20, tell=quiet)


def test_the_way_back_goes_further_each_time_and_ends_at_the_settings(desk: Desk) -> None:
    for seed in (1, 2, 3):
        desk.tiny(seed=seed)
        desk.activated(f"tiny@{seed}")
    assert desk.at_work() == [(SITE, "active", "tiny@3")]
    with desk.database.autocommit() as connection:
        before = activations.revision(connection)
    now = desk.registry.roll_back(SITE)
    assert now is not None
    assert (now.title, now.action, now.made_by) == ("tiny@2", "rollback", "command line: hoa")
    assert now.fit is not None  # with the thresholds of then
    now = desk.registry.roll_back(SITE)
    assert now is not None
    assert now.title == "tiny@1"
    assert desk.registry.roll_back(SITE) is None
    assert desk.at_work() == []
    with pytest.raises(Conflict, match="nothing to roll back"):
        desk.registry.roll_back(SITE)
    with desk.database.autocommit() as connection:
        assert activations.revision(connection) == before + 3
        past = activations.history(connection)
    assert [(one.title, one.action) for one in reversed(past)] == [
        ("tiny@1", "activate"), ("tiny@2", "activate"), ("tiny@3", "activate"), ("tiny@2", "rollback"),
        ("tiny@1", "rollback"),
    ]  # fmt: skip
    assert all(one.ended_at for one in past)
    told = [(one.action, one.actor) for one in desk.entries()][:3]
    assert told == [("model.rolled_back", "command line: hoa")] * 3


def test_sites_have_models_of_their_own_and_shadows_beside_them(desk: Desk) -> None:
    desk.tiny(seed=1)
    desk.tiny(seed=2)
    desk.activated("tiny@1", "")
    desk.registry.shadow("tiny@2", SITE)
    with pytest.raises(Conflict, match="already"):
        desk.registry.shadow("tiny@2", SITE)
    assert desk.at_work() == [("", "active", "tiny@1"), (SITE, "shadow", "tiny@2")]
    desk.activated("tiny@2")  # steps out of the shadow
    assert desk.at_work() == [("", "active", "tiny@1"), (SITE, "active", "tiny@2")]
    with pytest.raises(NotFound, match="does not run in shadow"):
        desk.registry.withdraw("tiny@2", SITE)
    desk.registry.shadow("tiny@1", SITE)
    desk.registry.withdraw("tiny@1", SITE)
    assert (SITE, "shadow", "tiny@1") not in desk.at_work()
    assert [one.action for one in desk.entries()][:2] == ["model.withdrawn", "model.shadowed"]


def test_a_stored_model_with_other_bytes_is_refused_and_a_harmed_copy_is_fetched_again(desk: Desk) -> None:
    model = desk.tiny()
    lies = stored.Stored(model.object_key, model.object_size, model.sha256)
    cache = desk.folder / "cache-2"
    copy = stored.fetch(desk.store, lies, model.weights_sha256, cache).path
    weights = copy / "models" / "model.pt"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert stored.fetch(desk.store, lies, model.weights_sha256, cache).weights_sha256 == model.weights_sha256
    with pytest.raises(InvalidBundle, match="registered are those with"):
        stored.fetch(desk.store, lies, "0" * 64, cache)
    content = bytearray(desk.path_of(model).read_bytes())
    content[len(content) // 2] ^= 1
    desk.path_of(model).write_bytes(content)
    with pytest.raises(DigestMismatch, match="not the one that was registered"):
        stored.fetch(desk.store, lies, model.weights_sha256, desk.folder / "cache-3")
    with pytest.raises(DigestMismatch):
        Registry(desk.database, desk.store, desk.folder / "cache-3", "x").shadow("tiny", SITE)
    assert desk.at_work() == []


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda b: change_json(b / INFERENCE, network_def={"_target_": "os.system", "x": 1}), "is not one of"),
        (lambda b: change_json(b / INFERENCE, network_def="$import os"), "no network_def"),
        (lambda b: (b / WEIGHTS).write_bytes(b"no weights"), "SHA-256"),
        (lambda b: change_json(b / METADATA, sangloc={"calibration": {}}), "calibration is not of"),
        (lambda b: change_json(b / METADATA, network_data_format={}), "is not a table"),
    ],
)  # fmt: skip
def test_a_bundle_that_cannot_be_trusted_is_refused_and_leaves_nothing(desk: Desk, spoil: Any, reason: str) -> None:
    source = write_tiny_bundle(desk.folder / "bad")
    spoil(source)
    with pytest.raises(InvalidBundle, match=reason):
        desk.registry.import_(str(source), Wanted())
    assert list(desk.store.keys()) == []
    assert desk.entries() == []


def test_the_built_in_model_can_be_fitted_to_a_site_like_any_other(desk: Desk) -> None:
    model = desk.registry.import_(BUILT_IN, Wanted())
    assert (model.name, model.source) == ("chest_xray", BUILT_IN)
    assert "not a medical device" in model.card.lower()


def test_two_models_are_compared_on_what_both_have_scored(desk: Desk) -> None:
    found = desk.registry.compare("a@1", "b@1", None)
    assert found.images == 0
    with pytest.raises(NotFound, match="sangloc models list"):
        desk.registry.compare("a", "b", None)
