"""Which models score an image: the active one of its site, and those in shadow behind it; changed without a restart.

What shall be at work stands in the database (`storage.activations`); a site for which nothing was activated has the
model of the settings. A change is loaded in a thread of its own and takes the place of what runs when it is whole. What
cannot be loaded leaves what runs at the site untouched, is told, and is tried again and again. At a start there is
nothing to be left: then that site has no model, and its studies wait in order of arrival.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, Self

import structlog

from inference.engine import Device, Engine, load_engine
from inference.scoring import Model, check_operating_points
from inference.triage import TriagePolicy
from models.bundle import Bundle, load_bundle
from models.outlier import load_outlier
from models.stored import Stored, fetch, user_cache
from storage import activations, models
from storage.activations import Activation
from storage.database import Database
from storage.errors import InvalidBundle, NotFound, SanglocError, Unavailable
from storage.objects import ObjectStore
from storage.reprocessing import ModelRef

__all__ = ["Lineup", "Roster", "RosterConfig"]

log = structlog.get_logger()
_AWAY_S = 1.0  # before the database is asked again that was away


@dataclass(frozen=True, slots=True)
class Lineup:
    """Who is at work; a value that never changes."""

    active: Mapping[str, Model | None] = field(default_factory=dict)  # by site, '' for all others; None: cannot be had
    shadows: Mapping[str, tuple[Model, ...]] = field(default_factory=dict)  # by site, '' for all sites
    problems: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether any site has a model."""
        return any(self.active.values())

    def model_of(self, site: str) -> Model | None:
        """The model whose score counts at a site."""
        return self.active[site] if site in self.active else self.active.get("")

    def shadows_of(self, site: str) -> tuple[Model, ...]:
        """Those that score behind it; a site's own thresholds go before those of all sites."""
        seen = {_same(model): model for model in (*self.shadows.get("", ()), *self.shadows.get(site, ()))}
        live = self.model_of(site)
        return tuple(model for key, model in seen.items() if live is None or key != _same(live))

    def at_site(self, model: Model, site: str) -> Model:
        """The same model with the thresholds that it has at a site, where it is at work there."""
        there = (self.model_of(site), *self.shadows_of(site))
        return next((one for one in there if one is not None and _same(one) == _same(model)), model)

    def counts(self, model: Model, site: str) -> bool:
        """Whether the model's scores are those that are shown at a site."""
        live = self.model_of(site)
        return live is not None and _same(live) == _same(model)

    def everyone(self) -> list[Model]:
        """All models, those that count first."""
        shadows = [model for each in self.shadows.values() for model in each]
        return [model for model in self.active.values() if model is not None] + shadows


@dataclass(frozen=True, slots=True, kw_only=True)
class RosterConfig:
    """How models are loaded."""

    device: Device = "auto"
    cache_dir: Path | None = None  # of converted models and fetched bundles; None: the user's cache folder
    reload_s: float = 10.0  # what could not be loaded is tried again so often


class _Wanted(NamedTuple):
    revision: int
    activations: list[Activation]


class Roster:
    """The models of one worker. `look` and `lineup` are for the worker's own thread."""

    def __init__(
        self, database: Database, store: ObjectStore, default: Path, policy: TriagePolicy, *, config: RosterConfig,
        on_change: Callable[[Lineup], None] = lambda _: None,
    ) -> None:  # fmt: skip
        self._database, self._store, self._default = database, store, default
        self._policy, self._config, self._on_change = policy, config, on_change
        self._bundles = (config.cache_dir or user_cache()) / "bundles"
        self.lineup = Lineup()
        self._engines: dict[str, Engine] = {}  # by digest of the weights
        self._lock = threading.Lock()  # of `lineup` and `_engines`
        self._revision = -1
        self._again_at = 0.0  # when what failed is tried again
        self._guest: ModelRef | None = None  # of a reprocessing: neither active nor in shadow
        self._guest_model: Model | InvalidBundle | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="roster")
        self._running: Future[bool] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def load(self) -> None:
        """Load what counts, now and in this thread; shadows begin to be loaded, and nobody waits for them."""
        if self._refresh(live_only=True):
            self._running = self._pool.submit(self._refresh)

    def look(self, revision: int | None = None) -> None:
        """Begin to load anew where the database names another revision, or where it is time to try again."""
        changed = revision is not None and revision != self._revision
        due = bool(self.lineup.problems) and time.monotonic() >= self._again_at
        if (changed or due) and (self._running is None or self._running.done()):
            self._running = self._pool.submit(self._refresh)

    def drop(self, model: Model, reason: str) -> None:
        """A model's engine failed: it is out until it is loaded again."""
        with self._lock:
            self._engines.pop(model.bundle.weights_sha256, None)
            gone = model.engine
            now = self.lineup
            self.lineup = Lineup(
                {site: None if one and one.engine is gone else one for site, one in now.active.items()},
                {site: tuple(one for one in each if one.engine is not gone) for site, each in now.shadows.items()},
                (*now.problems, f"{_title(model.bundle)}: {reason}"),
            )
            self._again_at = time.monotonic() + self._config.reload_s
        self._on_change(self.lineup)

    def named(self, ref: ModelRef) -> Model:
        """The model of a reference, at work or not.

        Raises:
            InvalidBundle: it cannot be used.
            Unavailable: it is being loaded; ask again.
        """
        wanted = (ref.weights_sha256, ref.version)
        found = next((model for model in self.lineup.everyone() if _same(model) == wanted), None)
        if found is not None:
            return found
        if ref != self._guest:
            self._guest, self._guest_model = ref, None
            self._pool.submit(self._invite, ref)
        guest = self._guest_model
        if guest is None:
            raise Unavailable(f"The model {ref.name} {ref.version} is being loaded.")
        if isinstance(guest, InvalidBundle):
            self._guest = None  # the next one who asks has it tried again
            raise guest
        return guest

    def dismiss(self) -> None:
        """No reprocessing needs a model that is not at work: its memory is free again."""
        if self._guest is None:
            return
        self._guest = self._guest_model = None
        used = {model.bundle.weights_sha256 for model in self.lineup.everyone()}
        with self._lock:
            self._engines = {digest: engine for digest, engine in self._engines.items() if digest in used}

    # in the thread

    def _refresh(self, *, live_only: bool = False) -> bool:
        """Load what shall be at work; whether shadows are left for later."""
        try:
            wanted = self._wanted()
        except Unavailable as error:
            self._again_at = time.monotonic() + min(_AWAY_S, self._config.reload_s)
            if not self.lineup.problems:
                self._publish(replace(self.lineup, problems=(f"the list of models cannot be read: {error}",)))
            return False
        problems: list[str] = []
        shown = self.lineup
        active = dict(self._active(wanted.activations, problems))
        self._publish(Lineup(active, shown.shadows, tuple(problems)))  # a shadow that loads slowly delays nobody
        if live_only and any(one.mode == "shadow" for one in wanted.activations):
            return True
        shadows = self._shadows(wanted.activations, problems)
        self._revision = wanted.revision
        self._again_at = time.monotonic() + self._config.reload_s
        self._publish(Lineup(active, shadows, tuple(problems)))
        used = {model.bundle.weights_sha256 for model in self.lineup.everyone()}
        with self._lock:
            self._engines = {digest: engine for digest, engine in self._engines.items() if digest in used}
        return False

    def _wanted(self) -> _Wanted:
        with self._database.transaction() as connection:
            revision = activations.revision(connection)
            return _Wanted(revision, activations.current(connection))

    def _active(self, wanted: list[Activation], problems: list[str]) -> dict[str, Model | None]:
        found: dict[str, Model | None] = {}
        chosen = {one.site: one for one in wanted if one.mode == "active"}
        for site in ("", *sorted(set(chosen) - {""})):
            try:
                found[site] = self._of_settings() if site not in chosen else self._registered(chosen[site])
            except Exception as error:  # whatever a broken model leads into: it must not end the worker
                title = f"{chosen[site].title} ({_place(site)})" if site in chosen else "the model of the settings"
                problems.append(_problem(title, error))
                found[site] = self.lineup.model_of(site)
        return found

    def _shadows(self, wanted: list[Activation], problems: list[str]) -> dict[str, tuple[Model, ...]]:
        found: dict[str, tuple[Model, ...]] = {}
        for one in wanted:
            if one.mode == "shadow":
                try:
                    found[one.site] = (*found.get(one.site, ()), self._registered(one))
                except Exception as error:
                    problems.append(_problem(f"{one.title} (shadow {_place(one.site)})", error))
        return found

    def _of_settings(self) -> Model:
        bundle = load_bundle(self._default)
        check_operating_points(self._policy, bundle)
        return self._model(bundle)

    def _registered(self, wanted: Activation) -> Model:
        stored = Stored(wanted.object_key, wanted.object_size, wanted.sha256)
        bundle = fetch(self._store, stored, wanted.weights_sha256, self._bundles)
        bundle = replace(bundle, name=wanted.name, version=wanted.version)
        bundle = bundle if wanted.fit is None else bundle.refitted(wanted.fit)
        point = self._policy.operating_point_of(wanted.site)
        if wanted.mode == "shadow":  # it shows nothing: its own point stands for those that it lacks
            bundle = _with_every_point(bundle, self._policy)
        elif point not in bundle.operating_points:
            raise InvalidBundle(f"it has no operating point {point}: it has {', '.join(bundle.operating_points)}")
        return self._model(bundle)

    def _model(self, bundle: Bundle) -> Model:
        engine = self._engines.get(bundle.weights_sha256)
        if engine is None:
            engine = load_engine(bundle, self._config.device, self._config.cache_dir)
            with self._lock:
                self._engines[bundle.weights_sha256] = engine
            log.info("model loaded", model=bundle.name, version=bundle.version, engine=engine.name)
        return Model(bundle, engine, load_outlier(bundle))

    def _invite(self, ref: ModelRef) -> None:
        try:
            with self._database.autocommit() as connection:
                found = models.find(connection, f"{ref.name}@{ref.version}")
            if found.weights_sha256 != ref.weights_sha256:
                raise InvalidBundle(f"{found.title} has other weights than the ones that were asked for")
            stored = Stored(found.object_key, found.object_size, found.sha256)
            bundle = fetch(self._store, stored, found.weights_sha256, self._bundles)
            bundle = replace(bundle, name=found.name, version=found.version)
            self._seat(ref, self._model(_with_every_point(bundle, self._policy)))
        except Unavailable:
            self._guest = None
        except NotFound:
            self._seat(ref, InvalidBundle(f"{ref.name} {ref.version} is not the model of this worker"))
        except Exception as error:
            self._seat(ref, InvalidBundle(_problem(f"{ref.name} {ref.version}", error)))

    def _seat(self, ref: ModelRef, guest: Model | InvalidBundle) -> None:
        if ref == self._guest:  # else another one was asked for meanwhile
            self._guest_model = guest

    def _publish(self, lineup: Lineup) -> None:
        with self._lock:
            before, self.lineup = self.lineup, lineup
        for problem in lineup.problems:
            if problem not in before.problems:
                log.error("a model cannot be used", reason=problem)
        self._on_change(lineup)


def _same(model: Model) -> tuple[str, str]:
    return model.bundle.weights_sha256, model.bundle.version


def _with_every_point(bundle: Bundle, policy: TriagePolicy) -> Bundle:
    asked = {policy.operating_point, *policy.site_operating_points.values()}
    own = dict.fromkeys(asked, bundle.thresholds)
    return replace(bundle, operating_points={**own, **bundle.operating_points})


def _title(bundle: Bundle) -> str:
    return f"{bundle.name} {bundle.version}"


def _place(site: str) -> str:
    return f"for site {site}" if site else "for all sites"


def _problem(title: str, error: Exception) -> str:
    words = str(error) if isinstance(error, SanglocError) else f"{type(error).__name__}: {error}"
    return f"{title}: {words}"
