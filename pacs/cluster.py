"""Reprocessing on several machines: Ray Data places workers, restarts those that die, and ends when nothing is left.

Which image is whose stays in PostgreSQL, as with the workers of `sangloc up`, and so does what came of it: any process
may be killed at any moment. Objects go straight from the object store to the worker that reads them. The worker is the
same: same pixels, same model, same records.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pacs import parts
from pacs.settings import Settings
from pacs.sources import environment, load
from storage import reprocessing
from storage.errors import SettingsError, Unavailable

__all__ = ["Node", "Nodes", "work_off"]

_LOOK_S = 1.0
Batch = dict[str, npt.NDArray[Any]]


class Nodes(NamedTuple):
    """What is asked of the cluster."""

    workers: int = 1
    cpus: float = 2.0  # of each
    gpus: float = 0.0
    address: str = "local"  # of Ray: local starts one here, auto finds the one of this machine, or ray://host:port


class Node:
    """One worker of the cluster: an actor of Ray Data. A call works until the reprocessing runs no more."""

    def __init__(self, variables: Mapping[str, str], number: int) -> None:
        self._settings = load(env=variables).settings
        self._database = parts.database(self._settings, "reprocess")
        self._number = number

    def __call__(self, batch: Batch) -> Batch:
        """Rows of turns [n] to rows of who worked; rows behind the first find nothing left."""
        stop = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(stop,), name="watch", daemon=True)
        watcher.start()
        worker = parts.worker(self._settings, live=False)
        worker.run(stop)
        watcher.join()
        return {"turn": batch["turn"], "worker": np.array([worker.name] * len(batch["turn"]))}

    def _watch(self, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                with self._database.autocommit() as connection:
                    if reprocessing.by_number(connection, self._number).state != "running":
                        stop.set()
            except Unavailable:  # the worker waits for the database, too
                pass
            stop.wait(_LOOK_S)


def work_off(settings: Settings, number: int, nodes: Nodes) -> list[str]:
    """Put workers on a Ray cluster until the reprocessing runs no more; the names of those that worked.

    Raises:
        SettingsError: Ray is not installed, or the cluster could not reach the database or the objects.
    """
    _refuse_unreachable(settings, nodes)
    try:
        import ray  # noqa: PLC0415  large, and of the extra `cluster`
        import ray.data  # noqa: PLC0415
    except ImportError as error:
        raise SettingsError(f"Ray is not installed ({error}): pip install 'sangloc[models,cluster]'") from error
    ray.init(address=nodes.address, include_dashboard=False, log_to_driver=False, logging_level="warning")
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        # Made here and not read (`ray.data.range`): the task that reads would wait for a core that the workers hold.
        turns = ray.data.from_items([{"turn": n} for n in range(nodes.workers)], override_num_blocks=nodes.workers)
        done = turns.map_batches(
            Node,
            fn_constructor_kwargs={"variables": _variables(settings), "number": number},
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=nodes.workers, max_tasks_in_flight_per_actor=1),
            num_cpus=nodes.cpus,
            num_gpus=nodes.gpus or None,
        )
        return sorted({str(row["worker"]) for row in done.iter_rows()})
    finally:
        ray.shutdown()


def _refuse_unreachable(settings: Settings, nodes: Nodes) -> None:
    """Raise `SettingsError` where workers on other machines would look for a socket or folder of this one."""
    if nodes.address == "local":
        return
    url = settings.database.url
    if url is None or "/.s.PGSQL" in url.get_secret_value() or "host=/" in url.get_secret_value().replace("'", ""):
        raise SettingsError(
            "workers on other machines need a database.url that they reach, not the embedded PostgreSQL"
        )
    if not settings.objects.endpoint and settings.objects.folder is None:
        raise SettingsError("workers on other machines need objects.endpoint (S3), or an objects.folder that all share")


def _variables(settings: Settings) -> dict[str, str]:
    """The settings for a process on another machine; secrets are among them, so the cluster must be trusted."""
    absolute = settings.model_copy(update={"data": settings.data.absolute()})
    return environment(absolute)
