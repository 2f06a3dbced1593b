"""The process beside receivers, worker and API that does what nobody waits for: `sangloc exchange`.

Each background task is one line in `TASKS` and one thread here. A task that fails is started again after a pause; it
never takes the others with it. Several exchange processes may run over one database: tasks claim what they do there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import structlog

from pacs import forwarding, metadata, ordertasks, removing, reporting, results
from pacs.tasks import Exchange, Task
from pacs.ups import task
from storage.errors import Unavailable

__all__ = ["TASKS", "run"]

log = structlog.get_logger()

# Modules of tasks import what is heavy when there is something to do, so that an idle process stays small.
TASKS: tuple[tuple[str, Task], ...] = (
    ("commitment", reporting.report_commitments),
    ("forwarding", forwarding.forward),
    ("metadata", metadata.settle),
    ("removal", removing.remove),
    ("orders", ordertasks.follow_orders),
    ("hl7", ordertasks.listen),
    ("workitems", task.perform),
    ("results", results.write),
)

_PAUSE_S = (1.0, 30.0)  # before a task that failed is started again; doubles each time
_STEADY_S = 60.0  # a task that ran so long has proved itself
_DRAIN_S = 8.0  # tasks may take so long to stop; what they hold is durable, so cutting them loses nothing


def run(exchange: Exchange, stop: threading.Event, tasks: Sequence[tuple[str, Task]] = TASKS) -> None:
    """Run all tasks until `stop` is set, then let them end."""
    exchange.bells.start()
    threads = [
        threading.Thread(target=_keep_running, args=(name, task, exchange, stop), name=name, daemon=True)
        for name, task in tasks
    ]
    for thread in threads:
        thread.start()
    log.info("exchange ready", tasks=[name for name, _ in tasks])
    stop.wait()
    exchange.bells.close()
    deadline = time.monotonic() + _DRAIN_S
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            log.warning("task did not stop in time", task=thread.name)
    log.info("exchange stopped")


def _keep_running(name: str, task: Task, exchange: Exchange, stop: threading.Event) -> None:
    pause = _PAUSE_S[0]
    while not stop.is_set():
        started = time.monotonic()
        try:
            task(exchange, stop)
        except Unavailable as error:
            log.warning("task waits", task=name, error=str(error).splitlines()[0])
        except Exception:
            log.exception("task failed", task=name)
        else:
            if not stop.is_set():
                log.error("task ended by itself", task=name)
        pause = _PAUSE_S[0] if time.monotonic() - started > _STEADY_S else pause
        stop.wait(pause)
        pause = min(2 * pause, _PAUSE_S[1])
