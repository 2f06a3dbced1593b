"""What `sangloc reprocess` does around `storage.reprocessing`: which model is meant, UIDs of a file, progress."""

from __future__ import annotations

import contextlib
import re
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from pacs import parts
from pacs.settings import Settings
from pacs.terminal import progress_bars
from storage import activations, jobs, models, workers
from storage import reprocessing as stored
from storage.database import Connection, Database
from storage.errors import InvalidInput, NotFound
from storage.reprocessing import ModelRef, Reprocessing, Selection

__all__ = [
    "advice",
    "as_json",
    "line",
    "model_of",
    "read_uids",
    "start",
    "unfinished",
    "watch",
    "watched",
    "workers_alive",
]

_EVERY_S = 1.0
_UID = re.compile(r"[0-9.]{1,64}", re.ASCII)


def start(
    settings: Settings,
    database: Database,
    selection: Selection,
    actor: str,
    *,
    model: str = "active",
    images_per_s: float | None = None,
    when_idle: bool = True,
) -> Reprocessing:
    """Count what is chosen, with a bar on the terminal, and begin.

    Raises:
        InvalidInput: the model is not clear, a UID is not here, or the rate is not above 0.
        NotFound: there is no such model.
        Conflict: the same model is at work on the archive already.
    """
    with database.autocommit() as connection:
        ref, shadow = model_of(connection, settings, model, selection.sites)
        with progress_bars() as bars:
            task = bars.add_task("looking for images", total=None)
            chosen = stored.choose(
                connection, ref, selection, shadow=shadow,
                counting=lambda seen, of: bars.update(task, completed=seen, total=of),
            )  # fmt: skip
            bars.remove_task(task)
    with database.transaction() as connection:
        begun = stored.start(connection, chosen, actor, images_per_s=images_per_s, when_idle=when_idle)
    with database.autocommit() as connection:
        jobs.notify(connection)
    return begun


def model_of(
    connection: Connection, settings: Settings, title: str, sites: tuple[str, ...] = ()
) -> tuple[ModelRef, bool]:
    """The model that is meant by NAME@VERSION or `active`, and whether it only runs in shadow.

    Raises:
        InvalidInput: several models are active at these sites, or the name has several versions.
        NotFound: there is no such model.
        InvalidBundle: the bundle of the settings cannot be used.
    """
    at_work = {one.site: _ref(one) for one in activations.current(connection) if one.mode == "active"}
    if "" not in at_work:
        at_work[""] = _of_settings(settings)
    if title != "active":
        of_settings = at_work[""]
        named = title in {of_settings.name, f"{of_settings.name}@{of_settings.version}"}
        ref = of_settings if named else _ref(models.find(connection, title))
        return ref, ref not in at_work.values()
    meant = {at_work.get(site, at_work[""]) for site in sites or at_work}
    if len(meant) > 1:
        names = ", ".join(sorted(f"{one.name}@{one.version}" for one in meant))
        raise InvalidInput(f"Several models are active, {names}: say which by --model, or give --site.")
    return meant.pop(), False


def read_uids(path: Path) -> tuple[str, ...]:
    """The UIDs of a file, one a line, without repeats; `-` is standard input. Raises `InvalidInput`."""
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} cannot be read: {error}") from error
    found = dict.fromkeys(filter(None, map(str.strip, text.splitlines())))
    for uid in found:
        if not _UID.fullmatch(uid):
            raise InvalidInput(f"{path}: not a UID: {uid[:70]!r}")
    if not found:
        raise InvalidInput(f"{path} names no UID")
    return tuple(found)


def unfinished(connection: Connection, *, ended: bool = False) -> int:
    """The number of the one reprocessing that has not ended (or the latest, with `ended`).

    Raises:
        NotFound: there is none.
        InvalidInput: there are several.
    """
    found = stored.all_of_them(connection)
    still = [one for one in found if one.state in {"running", "paused"}] or (found[:1] if ended else [])
    if not still:
        raise NotFound("No reprocessing runs or is paused.")
    if len(still) > 1:
        raise InvalidInput(f"Say which: {', '.join(str(one.reprocessing_pk) for one in still)}")
    return still[0].reprocessing_pk


def watch(
    database: Database, begun: Reprocessing, every_s: float = _EVERY_S, stop: threading.Event | None = None
) -> Reprocessing:
    """A bar on standard error until it ends or is paused, or until `stop` or Ctrl-C; how it stands then."""
    now, stop = begun, stop or threading.Event()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[words]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(f"reprocessing {now.reprocessing_pk}", total=now.total, words="")
        try:
            while not stop.is_set():
                with database.autocommit() as connection:
                    now = stored.by_number(connection, now.reprocessing_pk)
                bars.update(task, completed=now.ended, total=now.total, words=_pace(now))
                if now.state != "running":
                    break
                stop.wait(every_s)
        except KeyboardInterrupt:
            bars.console.print(f"It goes on; stop it with: sangloc reprocess pause {now.reprocessing_pk}")
    return now


@contextlib.contextmanager
def watched(database: Database, begun: Reprocessing) -> Iterator[None]:
    """The bar of `watch` beside other work."""
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        shown = pool.submit(watch, database, begun, stop=stop)
        try:
            yield
        finally:
            stop.set()
            shown.result()


def line(one: Reprocessing) -> str:
    """How it stands, for a person."""
    selected = ", ".join(f"{name} {_words(value)}" for name, value in one.selection.items()) or "everything"
    model = f"{one.model_name}@{one.model_version}{' in shadow' if one.shadow else ''}"
    lines = [
        f"reprocessing {one.reprocessing_pk}: {one.state}; {model} over {selected}",
        f"  {one.ended} of {one.total} images: {one.scored} scored, {one.refused} refused, {one.failed} failed"
        + (f"; {_pace(one)}" if one.state == "running" else ""),
    ]
    return "\n".join(lines + ([f"  {one.problem}"] if one.problem else []))


def as_json(one: Reprocessing) -> dict[str, Any]:
    """All that is known of it."""
    times = {name: value.isoformat() if value else None for name, value in _times(one).items()}
    return {**asdict(one), **times, "ended": one.ended, "left_s": one.left_s}


def workers_alive(database: Database) -> bool:
    """Whether any worker is there to do it."""
    with database.autocommit() as connection:
        return any(worker.model for worker in workers.alive(connection))


def advice(database: Database, begun: Reprocessing) -> str:
    """What to do next."""
    see = f"see: sangloc reprocess status {begun.reprocessing_pk} --watch"
    if workers_alive(database):
        return see
    return f"No worker runs now: it begins with `sangloc up` or `sangloc triage`; {see}"


def _ref(one: activations.Activation | models.Version) -> ModelRef:
    return ModelRef(one.name, one.version, one.weights_sha256)


def _of_settings(settings: Settings) -> ModelRef:
    from models.bundle import load_bundle  # noqa: PLC0415  nobody else needs it

    bundle = load_bundle(parts.bundle_folder(settings))
    return ModelRef(bundle.name, bundle.version, bundle.weights_sha256)


def _times(one: Reprocessing) -> dict[str, Any]:
    return {"started_at": one.started_at, "changed_at": one.changed_at, "ended_at": one.ended_at}


def _pace(one: Reprocessing) -> str:
    words = f"{one.pace:.1f} images/s"
    if one.left_s is not None:
        minutes, seconds = divmod(round(one.left_s), 60)
        hours, minutes = divmod(minutes, 60)
        words += f", {hours}:{minutes:02}:{seconds:02} left"
    return words + (f", {one.failed} failed" if one.failed else "")


def _words(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
