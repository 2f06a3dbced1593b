"""Workers and the registry: the site's model counts, shadows are stored and never shown, changes need no restart."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from hospital import Hospital, until
from tiny_bundle import write_tiny_bundle

from inference.engine import load_engine
from models.bundle import load_bundle
from models.importers.adopting import Wanted
from pacs.registry import Registry
from storage import activations, findings, models, workers
from storage.database import Database
from storage.objects.directory import DirectoryStore
from storage.studies import Received

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

SITE = "Huyện A"
FLAGS_ALL, FLAGS_NONE = 20.0, -20.0


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def nothing_fetched(cache: Path, default: Path, others: list[Path], tmp_path: Path) -> Path:
    """The cache with networks that are converted, and no bundle from the store."""
    return Path(shutil.copytree(cache, tmp_path / "cold", ignore=shutil.ignore_patterns("bundles")))


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """The model of the settings: it flags nothing."""
    folder = write_tiny_bundle(tmp_path_factory.mktemp("default"), offset=FLAGS_NONE)
    load_engine(load_bundle(folder), "openvino", cache)
    return folder


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> list[Path]:
    folders = [write_tiny_bundle(tmp_path_factory.mktemp(f"other-{seed}"), seed=seed) for seed in (2, 3)]
    for folder in folders:
        load_engine(load_bundle(folder), "openvino", cache)
    return folders


@dataclass
class Ward(Hospital):
    """A hospital with two models in its registry: one@1 and two@1."""

    registry: Registry

    def version(self, title: str) -> models.Version:
        with self.database.autocommit() as connection:
            return models.find(connection, title)

    def put_to_work(self, title: str, site: str = "", *, offset: float = FLAGS_ALL, shadow: bool = False) -> None:
        """With a fit that a test wants, in place of one that was made on films."""
        model = self.version(title)
        points = {"balanced": [0.5] * len(model.findings)}
        lines = {"method": "platt", "slope": [1.0] * 3, "offset": [offset] * 3}
        films: dict[str, Any] = {
            "site": site, "manifest": "films.csv", "manifest_sha256": "0" * 64, "films": 20, "positives": 10,
        }  # fmt: skip
        fit = {"calibration": lines, "operating_points": points, "operating_point": "balanced"}
        with self.database.transaction() as connection:
            pk = models.add_fit(connection, model, models.Fit(**films, splits=["val"], fit=fit), "tester")
            judged = models.Evaluation(**films, splits=["test"], fit_fk=pk, report={"figures": []})
            models.add_evaluation(connection, model, judged, "tester")
            found = models.latest_fit(connection, model.model_pk, site)
            evaluation = models.latest_evaluation(connection, model.model_pk, site)
            assert found is not None
            assert evaluation is not None
            if shadow:
                activations.shadow(connection, model, site, "tester", fit=found)
            else:
                activations.activate(connection, model, site, "tester", fit=found, evaluation=evaluation)

    def sign_of_life(self) -> workers.Worker:
        with self.database.autocommit() as connection:
            return next(iter(workers.alive(connection)), workers.Worker(worker="none"))

    def runs(self, model: str) -> None:
        until(lambda: self.sign_of_life().model == model)

    def film(self, site: str = "") -> Received:
        (received,) = self.films(1, model=None, site=site)
        self.wake()
        return received

    def scored(self, site: str = "") -> tuple[str, bool]:
        """Model and flag of a new study at a site."""
        received = self.film(site)
        until(lambda: self.listed(received).status == "scored")
        row = self.listed(received)
        return row.model, row.flagged

    def shadow_scores(self) -> int:
        return int(self.query("SELECT count(*) FROM scores WHERE shadow")[0][0])

    def shadows_of(self, received: Received) -> list[str]:
        """The models that scored a study in shadow; images are scored in the order in which they came."""
        with self.database.autocommit() as connection:
            every = findings.of_study(connection, received.header.study_uid, shadow=True)
        return sorted(one.model_name for one in every if one.shadow)

    def harm(self, title: str) -> Callable[[], None]:
        """Spoil the object of a model; what mends it."""
        path = Path(str(self.store.path(self.version(title).object_key)))
        good = path.read_bytes()
        path.write_bytes(good[:-1] + b"x")
        return lambda: path.write_bytes(good) and None


@pytest.fixture
def ward(  # noqa: PLR0917
    database: Database, store: DirectoryStore, cache: Path, make_received: Callable[..., Received],
    others: list[Path], tmp_path: Path,
) -> Ward:  # fmt: skip
    registry = Registry(database, store, tmp_path / "bundles", "tester")
    for name, folder in zip(("one", "two"), others, strict=True):
        registry.import_(str(folder), Wanted(name=name, version="1"))
    return Ward(database, make_received, store, cache, registry)


def test_a_change_of_the_active_model_needs_no_restart_and_neither_does_the_way_back(ward: Ward, default: Path) -> None:
    with ward.working(default):
        assert ward.scored() == ("tiny 0.0.1", False)
        ward.put_to_work("one")
        ward.runs("one 1")
        assert ward.scored() == ("one 1", True)
        ward.put_to_work("one", offset=FLAGS_NONE)  # the same weights at other thresholds
        until(lambda: ward.scored() == ("one 1", False))
        ward.registry.roll_back("")
        until(lambda: ward.scored() == ("one 1", True))
        ward.registry.roll_back("")
        ward.runs("tiny 0.0.1")
        assert ward.scored() == ("tiny 0.0.1", False)
        assert ward.sign_of_life().problem == ""


def test_each_site_has_its_own_model_and_its_own_thresholds(ward: Ward, default: Path) -> None:
    ward.put_to_work("one", SITE)
    ward.put_to_work("two", "B", offset=FLAGS_NONE)
    ward.put_to_work("two", "C", offset=FLAGS_ALL)
    studies = {site: ward.film(site) for site in ("", SITE, "B", "C")}  # one batch
    with ward.working(default):
        until(lambda: all(ward.listed(one).status == "scored" for one in studies.values()))
        assert ward.sign_of_life().model == "tiny 0.0.1, two 1, one 1"
    rows = {site: ward.listed(one) for site, one in studies.items()}
    assert {site: (row.model, row.flagged) for site, row in rows.items()} == {
        "": ("tiny 0.0.1", False), SITE: ("one 1", True), "B": ("two 1", False), "C": ("two 1", True)
    }  # fmt: skip


def test_a_shadow_scores_and_shows_nothing_and_can_be_compared(ward: Ward, default: Path) -> None:
    ward.put_to_work("one", shadow=True)
    ward.put_to_work("two", SITE, shadow=True)
    with ward.working(default):
        while ward.shadow_scores() < 2:  # shadows are loaded behind the model that counts
            ward.scored(SITE)
        received, at_site = ward.film(), ward.film(SITE)
        until(lambda: ward.shadows_of(received) == ["one"] and ward.shadows_of(at_site) == ["one", "two"])
        assert ward.sign_of_life().model == "tiny 0.0.1"
    for one in (received, at_site):
        row = ward.listed(one)
        assert (row.model, row.flagged, row.due_at, row.status) == ("tiny 0.0.1", False, row.latest_due_at, "scored")
    with ward.database.autocommit() as connection:
        shown = findings.of_study(connection, at_site.header.study_uid)
        every = findings.of_study(connection, at_site.header.study_uid, shadow=True)
    assert [one.model_name for one in shown] == ["tiny"]
    assert {(one.model_name, one.shadow, one.flagged) for one in every} == {
        ("tiny", False, False), ("one", True, True), ("two", True, True)
    }  # fmt: skip
    found = ward.registry.compare("tiny@0.0.1", "one", None)
    assert found.images == found.only_other >= 3
    assert (found.both_flagged, found.neither_flagged, found.agreed) == (0, 0, 0)
    assert found.mean_difference > 0.9
    assert ward.registry.compare("tiny@0.0.1", "two", SITE).images == found.images - 1


class Broken:
    """An engine that loads and cannot run."""

    name, head = "openvino", None

    def predict(self, batch: Any) -> Any:  # noqa: ARG002
        raise RuntimeError("out of memory")


def test_a_shadow_that_fails_is_told_and_the_live_score_stands(
    ward: Ward, default: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = ward.version("one").weights_sha256

    def load(bundle: Any, *rest: Any) -> Any:
        return Broken() if bundle.weights_sha256 == weights else load_engine(bundle, *rest)

    monkeypatch.setattr("inference.roster.load_engine", load)
    ward.put_to_work("one", shadow=True)
    ward.put_to_work("two", shadow=True)
    with ward.working(default, reload_s=3600):
        while "one 1: in shadow, RuntimeError: out of memory" not in ward.sign_of_life().problem:
            assert ward.scored() == ("tiny 0.0.1", False)  # the first ones before any shadow is loaded
        assert ward.sign_of_life().model == "tiny 0.0.1"
        ward.scored()
        until(lambda: ward.query("SELECT count(*) FROM scores WHERE model_name = 'two' AND shadow")[0][0] >= 1)
    assert ward.query("SELECT count(*) FROM scores WHERE model_name = 'one'") == [(0,)]


def test_a_model_that_cannot_be_loaded_leaves_the_running_one_until_it_is_mended(
    ward: Ward, default: Path, nothing_fetched: Path
) -> None:
    with ward.working(default, cache_dir=nothing_fetched):
        assert ward.scored() == ("tiny 0.0.1", False)
        mend = ward.harm("one")
        ward.put_to_work("one")
        until(lambda: "one@1 (for all sites): The stored model is not the one" in ward.sign_of_life().problem)
        assert ward.sign_of_life().model == "tiny 0.0.1"
        assert ward.scored() == ("tiny 0.0.1", False)
        mend()
        ward.runs("one 1")
        assert ward.scored() == ("one 1", True)
        until(lambda: ward.sign_of_life().problem == "")


def test_at_a_start_without_its_model_a_site_waits_and_the_others_do_not(
    ward: Ward, default: Path, nothing_fetched: Path
) -> None:
    mend = ward.harm("one")
    ward.put_to_work("one", SITE)
    with ward.working(default, cache_dir=nothing_fetched):
        waiting = ward.film(SITE)
        assert ward.scored() == ("tiny 0.0.1", False)
        until(lambda: f"one@1 (for site {SITE})" in ward.sign_of_life().problem)
        assert ward.listed(waiting).status == "waiting"
        assert ward.query("SELECT max(attempts) FROM jobs")[0][0] <= 1  # never counted against the image
        mend()
        until(lambda: ward.listed(waiting).status == "scored")
        assert ward.listed(waiting).model == "one 1"


def test_a_fit_that_is_not_for_the_network_is_told_and_changes_nothing(ward: Ward, default: Path) -> None:
    with ward.working(default):
        ward.put_to_work("one")
        ward.runs("one 1")
        with ward.database.transaction() as connection:
            connection.execute("UPDATE model_fits SET fit = jsonb_set(fit, '{operating_points}', '{\"x\": [2]}')")
            connection.execute("UPDATE model_roster SET revision = revision + 1")
        ward.wake()
        until(lambda: "one@1 (for all sites): operating point 'x' does not hold" in ward.sign_of_life().problem)
        assert ward.scored() == ("one 1", True)
