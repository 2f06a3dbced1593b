"""`sangloc demo`: studies go in by DICOM, the worklist fills on the terminal as it does on the radiologist's page."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from pynetdicom import AE, _config
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pacs import demo_view, samples
from pacs.launch import READY_FILE, running_pid
from pacs.overview import api_address
from pacs.settings import Settings
from pacs.sources import environment
from storage.errors import InvalidInput, SanglocError

__all__ = ["run"]

_PHANTOMS = 24
_START_TIMEOUT_S = 180.0
_PATIENCE_S = {"triage": 60.0, "arrival": 5.0}  # without news from the worklist; nobody reads in order of arrival
_POLL_S = 0.1
_PAGE = 200


@dataclass(slots=True)
class Demo:
    """What was sent, what came back, and when."""

    address: str
    dicom: tuple[str, int]
    settings: Settings
    answered_at: dict[str, float] = field(default_factory=dict)  # by study UID, time.monotonic()
    seen_at: dict[str, float] = field(default_factory=dict)
    items: list[dict[str, Any]] = field(default_factory=list)  # rows of the worklist, in its order
    mode: str = "triage"
    banner: str = ""
    problems: list[str] = field(default_factory=list)

    def send(self, sample: samples.Sample) -> None:
        """C-STORE one object on an association of its own, as a modality does with one exposure."""
        _config.STORE_SEND_CHUNKED_DATASET = True  # a file goes out with the bytes that it has
        modality = AE("DEMO")
        modality.add_requested_context(sample.sop_class, sample.transfer_syntax)
        association = modality.associate(*self.dicom, ae_title=self.settings.dicom.ae_title)
        if not association.is_established:
            self.problems.append("the receiver did not accept an association")
            return
        try:
            status = association.send_c_store(sample.payload)
        except (ValueError, RuntimeError, AttributeError) as error:  # pynetdicom's, for an object that it cannot send
            self.problems.append(f"{sample.study_uid}: {error}")
            return
        finally:
            association.release()
        if status.get("Status") == 0:
            self.answered_at.setdefault(sample.study_uid, time.monotonic())
        else:
            self.problems.append(f"{sample.study_uid}: status 0x{status.get('Status', 0xFFFF):04X}")

    def look(self, client: httpx.Client) -> bool:
        """Fetch our studies from the worklist; True when something changed."""
        ours, after = [], None
        while True:
            answer = client.get("/api/worklist", params={"limit": _PAGE} | ({"after": after} if after else {}))
            answer.raise_for_status()
            page = answer.json()
            ours += [item for item in page["items"] if item["study_uid"] in self.answered_at]
            after = page["next"]
            if after is None:
                break
        now = time.monotonic()
        for item in ours:
            if item["status"] != "waiting":
                self.seen_at.setdefault(item["study_uid"], now)
        changed = ours != self.items
        self.items, self.mode, self.banner = ours, page["mode"], page.get("banner") or ""
        return changed

    @property
    def waiting(self) -> int:
        """Studies that were acknowledged and are not settled on the list yet."""
        return len(self.answered_at.keys() - self.seen_at.keys())

    def seconds(self, study_uid: str) -> float | None:
        """From the answered C-STORE to the settled row on the list, as this client saw it."""
        if study_uid not in self.seen_at:
            return None
        return max(0.0, self.seen_at[study_uid] - self.answered_at[study_uid])


def run(settings: Settings, folder: Path | None, *, limit: int, once: bool) -> None:
    """Start the system unless it runs on the data folder, send, watch, and sum up.

    On a terminal it stays up until Ctrl-C; with `once`, or without a terminal, it stops what it started.

    Raises:
        SanglocError: nothing to send, or the system does not start.
    """
    once = once or not sys.stdout.isatty()
    console = Console(width=None if sys.stdout.isatty() else 140)
    found = samples.find_files(folder, limit) if folder is not None else range(min(limit, _PHANTOMS))
    with _system(settings, console) as ready:
        demo = Demo(api_address(settings, ready["http"]), (_host(settings), ready["dicom"]), settings)
        with httpx.Client(base_url=demo.address, headers=_authorization(settings), timeout=10.0) as client:
            _watch(demo, client, found, console)
        demo_view.summary(demo, console)
        console.print(f"\nOpen [bold]{demo.address}/[/bold] for the worklist.", highlight=False)
        if not once:
            console.print("Ctrl-C stops the demo.")
            with contextlib.suppress(KeyboardInterrupt):
                signal.pause()
        elif ready["started_here"]:
            console.print(f"Stopping now; to have it again: sangloc up --data {settings.data}", highlight=False)


def _watch(demo: Demo, client: httpx.Client, found: Sequence[Path | int], console: Console) -> None:
    """Send in one thread, watch in this one."""
    bars = Progress(
        TextColumn("{task.description:>6}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )
    sent, read = bars.add_task("sent", total=len(found)), bars.add_task("listed", total=len(found))
    done = threading.Event()

    def push() -> None:
        try:
            for number, one in enumerate(found):
                _send_one(demo, one, number)
                bars.advance(sent)
        finally:
            done.set()

    threading.Thread(target=push, name="modality", daemon=True).start()
    news_at = time.monotonic()
    with Live(console=console, refresh_per_second=10, vertical_overflow="ellipsis") as live:
        while not done.is_set() or (demo.waiting and time.monotonic() - news_at < _PATIENCE_S[demo.mode]):
            if demo.look(client):
                news_at = time.monotonic()
            bars.update(read, completed=len(demo.seen_at))
            live.update(Group(demo_view.table(demo, console.height - 8 if console.is_terminal else None), bars))
            time.sleep(_POLL_S)
        demo.look(client)
        bars.update(read, completed=len(demo.seen_at))
        live.update(Group(demo_view.table(demo, None), bars))


def _send_one(demo: Demo, one: Path | int, number: int) -> None:
    try:
        demo.send(samples.from_file(one, number) if isinstance(one, Path) else samples.phantom(one))
    except InvalidInput as error:
        demo.problems.append(str(error))


@contextlib.contextmanager
def _system(settings: Settings, console: Console) -> Iterator[dict[str, Any]]:
    """What ready.json says of the running system; one is started where none runs, and stopped at the end."""
    if running_pid(settings.data) is not None:
        yield {**_wait_until_ready(settings, None, console), "started_here": False}
        return
    settings.data.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-P", "-m", "pacs.cli", "up"]
    ports = {
        "SANGLOC_DICOM_PORT": str(_free_or_any(settings.dicom.host, settings.dicom.port)),
        "SANGLOC_HTTP_PORT": str(_free_or_any(settings.http.host, settings.http.port)),
    }
    with (settings.data / "up.log").open("wb") as output:
        process = subprocess.Popen(  # noqa: S603  this interpreter, this package
            command,
            env=os.environ | environment(settings) | {"SANGLOC_CONFIG": ""} | ports,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield {**_wait_until_ready(settings, process, console), "started_here": True}
    finally:
        process.terminate()
        with console.status("stopping"):
            process.wait()


def _wait_until_ready(settings: Settings, process: subprocess.Popen[bytes] | None, console: Console) -> dict[str, Any]:
    deadline = time.monotonic() + _START_TIMEOUT_S
    with console.status("starting database, receivers, worker and API"):
        while time.monotonic() < deadline:
            with contextlib.suppress(FileNotFoundError, ValueError):
                ready: dict[str, Any] = json.loads((settings.data / READY_FILE).read_text())
                return ready
            if process is not None and process.poll() is not None:
                words = (settings.data / "up.log").read_text("utf-8", "replace").strip().splitlines()
                raise SanglocError("the system does not start:\n" + "\n".join(words[-5:]))
            time.sleep(0.05)
    raise SanglocError(f"the system was not ready after {_START_TIMEOUT_S:.0f} s; see {settings.data / 'logs'}")


def _free_or_any(host: str, port: int) -> int:
    """The port, or 0 (any free one) where somebody has it: a demo should not fail on that."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return 0
    return port


def _host(settings: Settings) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.dicom.host, settings.dicom.host)  # noqa: S104  not bound


def _authorization(settings: Settings) -> dict[str, str]:
    token = next((token.get_secret_value() for token in settings.http.tokens.values()), None)
    return {"Authorization": f"Bearer {token}"} if token is not None else {}
