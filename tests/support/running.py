"""A whole system as a user starts it: `sangloc up` on a folder; and modalities that push and remember their answers."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import dicom_client
import psycopg

from storage.embedded import EmbeddedPostgres
from storage.objects.directory import DirectoryStore

SANGLOC = [sys.executable, "-P", "-m", "pacs.cli"]


def until(done: Callable[[], Any], timeout_s: float, what: str) -> Any:
    """What `done` gives as soon as it is true; fails after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        if found := done():
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not in {timeout_s} s: {what}")
        time.sleep(0.05)


class System:
    """`sangloc up --data FOLDER` on free ports."""

    def __init__(self, data: Path, *options: str, environment: dict[str, str] | None = None) -> None:
        self.data, self.options = data, options
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("SANGLOC_")} | (environment or {})
        self.log = data.parent / f"{data.name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, timeout_s: float = 60) -> System:
        command = [*SANGLOC, "up", "--data", str(self.data), "--dicom-port", "0", "--http-port", "0", *self.options]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment, start_new_session=True
            )
        ready = self.data / "ready.json"
        until(lambda: ready.exists() or self.process.poll() is not None, timeout_s, f"sangloc up\n{self.words()}")
        assert ready.exists(), self.words()
        return self

    def stop(self, timeout_s: float = 40) -> int:
        """Drain and stop by SIGTERM; the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)

    def end(self) -> None:
        """Leave nothing behind, whatever the state."""
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.stop(20)
            if self.process.poll() is None:
                pids = [pid for kind in self.pids().values() for pid in kind]
                self.process.kill()
                self.process.wait()
                for pid in pids:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)

    def words(self) -> str:
        return self.log.read_text("utf-8", "replace")[-3000:]

    def facts(self) -> dict[str, Any]:
        try:
            return json.loads((self.data / "ready.json").read_text())
        except FileNotFoundError:
            return {"pids": {}}

    def pids(self) -> dict[str, list[int]]:
        return self.facts()["pids"]

    @property
    def port(self) -> int:
        return int(self.facts()["dicom"])

    def get(self, path: str) -> Any:
        """JSON of the API."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.facts()['http']}{path}", timeout=10) as answer:
            return json.loads(answer.read())

    def client(self, **options: Any) -> dicom_client.Client:
        return dicom_client.Client(self.port, **options)

    @property
    def conninfo(self) -> str:
        return EmbeddedPostgres(self.data / "postgres").conninfo

    def query(self, text: str, *values: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.conninfo, autocommit=True) as connection:
            return connection.execute(text, values).fetchall()


class Modality(threading.Thread):
    """Sends made-up instances until told to stop; an instance without an answer is sent again until it has one."""

    def __init__(
        self, port: int, number: int, *, chest_every: int = 0, pixels: int = 20_000, pause_s: float = 0
    ) -> None:
        super().__init__(daemon=True)
        self.port, self.number, self.chest_every = port, number, chest_every
        self.pixels, self.pause_s = pixels, pause_s
        self.acknowledged: dict[str, str] = {}  # SOP Instance UID -> SHA-256 of the data set
        self.refused: list[int] = []
        self.stopping = threading.Event()
        self.waiting_since: float | None = None

    def run(self) -> None:
        study, pending = dicom_client.new_uid(), None
        client: dicom_client.Client | None = None
        while not self.stopping.is_set():
            if pending is None:
                if random.random() < 0.2:
                    study = dicom_client.new_uid()
                pending = self._next(study)
            try:
                client = client or dicom_client.Client(self.port, timeout_s=15)
                status = client.store(pending.sop_class, pending.sop_uid, pending.data)
            except (OSError, dicom_client.BrokenError, dicom_client.RefusedError):
                if client:
                    client.close()
                client = None
                self.stopping.wait(0.1)
                continue
            if status == 0:
                self.acknowledged[pending.sop_uid] = pending.sha256
                pending = None
                self.stopping.wait(self.pause_s)
            else:
                self.refused.append(status)
                self.stopping.wait(0.1)
        if client:
            client.close()

    def _next(self, study: str) -> dicom_client.Made:
        chest = self.chest_every and random.randrange(self.chest_every) == 0
        sop_class = dicom_client.DX if chest else dicom_client.CT
        patient = f"P{random.randrange(4)}"  # few patients, so that senders meet in their rows
        pixels = 2 * 600 * 600 if chest else self.pixels  # a smaller film is not read
        return dicom_client.make(study_uid=study, sop_class=sop_class, pixels=pixels, patient=patient)


def acknowledged(modalities: Iterable[Modality]) -> dict[str, str]:
    return {uid: digest for modality in modalities for uid, digest in list(modality.acknowledged.items())}


def check_archive(system: System, acked: dict[str, str]) -> None:
    """Every acknowledged instance is indexed once, with its bytes; rows agree with each other."""
    rows = system.query("SELECT sop_uid, object_key, object_size, dataset_offset, sha256 FROM instances")
    found = {uid: rest for uid, *rest in rows}
    lost = sorted(set(acked) - set(found))
    assert not lost, f"{len(lost)} of {len(acked)} acknowledged instances are not indexed: {lost[:3]}"
    assert len({row[1] for row in rows}) == len(rows), "an object belongs to two instances"
    store = DirectoryStore(system.data / "objects")
    for uid, (key, size, offset, sha256) in found.items():
        data = store.read(key)
        assert len(data) == size, uid
        assert hashlib.sha256(memoryview(data)[offset:]).digest() == bytes(sha256), uid
        assert acked.get(uid, bytes(sha256).hex()) == bytes(sha256).hex(), uid
    assert system.query("SELECT count(*) FROM set_aside") == [(0,)], "a resend of the same bytes is no conflict"
    lone = "SELECT count(*) FROM studies s WHERE NOT EXISTS (SELECT FROM worklist w WHERE w.study_fk = s.study_pk)"
    assert system.query(lone) == [(0,)], "a study is not on the worklist"
    empty = "SELECT count(*) FROM studies s WHERE NOT EXISTS (SELECT FROM instances i WHERE i.study_fk = s.study_pk)"
    assert system.query(empty) == [(0,)], "a study without instances"
