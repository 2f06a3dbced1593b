"""Triage: images per second from the store to the worklist, against a plain loop; and the time to a flag.

Ours: the real worker on an embedded PostgreSQL and a folder store, from waiting jobs to committed scores.
Plain: pydicom dcmread, pixel_array, modality and VOI LUT, MONAI transforms, eager float32 torch, one film at a time,
the same network; it keeps no index, checks no digest and writes no result.

    python bench/triage.py --images 24
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import hashlib
import json
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import pydicom
import structlog
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, generate_uid
from rich.console import Console
from rich.table import Table

from inference.triage import TriagePolicy
from inference.worker import Worker, WorkerConfig
from models.bundle import DEFAULT_BUNDLE, load_bundle
from models.phantom import chest
from storage import jobs
from storage.database import Database
from storage.embedded import EmbeddedPostgres
from storage.migrate import migrate
from storage.objects.directory import DirectoryStore
from storage.objects.keys import new_key
from storage.studies import InstanceHeader, Received, index_instances
from storage.uid import InstanceUID, SeriesUID, StudyUID

Film = tuple[bytes, int, str]
DX = "1.2.840.10008.5.1.4.1.1.1.1"
ROWS, COLUMNS = 3000, 2500
_KINDS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "raw": (ExplicitVRLittleEndian, lambda _: None),
    "jls": (JPEGLSLossless, imagecodecs.jpegls_encode),
    "j2k": (JPEG2000Lossless, partial(imagecodecs.jpeg2k_encode, codecformat="j2k", bitspersample=12, reversible=True)),
}


def film(seed: int, kind: str) -> Film:
    """A 12-bit film of 15 MB raw, as JPEG-LS (jls) or JPEG 2000 (j2k): the object, offset of its data set, syntax."""
    noise = np.random.default_rng(seed).integers(-6, 7, (ROWS, COLUMNS))
    return stored(np.clip(chest(seed, rows=ROWS, columns=COLUMNS) + noise, 0, 4095).astype(np.uint16), kind)


def stored(pixels: npt.NDArray[np.uint16], kind: str) -> Film:
    """The same of pixels of 12 bits [rows, columns]."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = DX, generate_uid()
    meta.TransferSyntaxUID, encode = _KINDS[kind]
    data = Dataset()
    data.file_meta = meta
    data.SOPClassUID, data.SOPInstanceUID, data.Modality = DX, meta.MediaStorageSOPInstanceUID, "DX"
    data.StudyInstanceUID, data.SeriesInstanceUID = generate_uid(), generate_uid()
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.WindowCenter, data.WindowWidth, data.RescaleSlope, data.RescaleIntercept = 2048, 4096, 1, 0
    frame = encode(pixels)
    data.PixelData = encapsulate([bytes(frame)]) if frame is not None else pixels.tobytes()
    data["PixelData"].VR = "OB" if frame is not None else "OW"
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, data, enforce_file_format=True)
    content = buffer.getvalue()
    return content, 144 + int.from_bytes(content[140:144], "little"), str(meta.TransferSyntaxUID)


def put(database: Database, store: DirectoryStore, made: Film) -> str:
    """Store and index a film as ingest does, and wake the worker; returns the study's UID."""
    part10, offset, syntax = made
    now, study = dt.datetime.now(dt.UTC), StudyUID(generate_uid())
    header = InstanceHeader(
        sop_class=DX, sop_uid=InstanceUID(generate_uid()), study_uid=study, series_uid=SeriesUID(generate_uid()),
        transfer_syntax=syntax, modality="DX", body_part="CHEST", view_position="PA", photometric="MONOCHROME2",
        rows=ROWS, columns=COLUMNS, bits_allocated=16,
    )  # fmt: skip
    key = new_key(study)
    with store.writer(key) as writer:
        writer.write([part10])
        writer.commit()
    received = Received(
        header=header, object_key=key, object_size=len(part10), dataset_offset=offset, received_at=now, site="",
        sha256=hashlib.sha256(memoryview(part10)[offset:]).digest(), source_aet="BENCH", source_address="127.0.0.1",
        priority="routine", latest_due_at=now + dt.timedelta(hours=8),
    )  # fmt: skip
    with database.transaction() as connection:
        index_instances(connection, [received])
    with database.autocommit() as connection:
        jobs.notify(connection)
    return study


class Bench:
    """A worker in this process, on an embedded PostgreSQL and a folder store."""

    def __init__(self, folder: Path, bundle: Path) -> None:
        self.folder, self.bundle = folder, bundle
        self.server = EmbeddedPostgres(folder / "postgres")
        self.database = Database(self.server.start())
        migrate(self.database)
        self.store = DirectoryStore(folder / "objects")
        config = WorkerConfig(cache_dir=folder / "cache")
        self.worker = Worker(self.database, self.store, bundle, TriagePolicy(), config)

    def scored(self, study: str = "") -> int:
        """How many images, or images of a study, stand in the worklist with a score."""
        sql = "SELECT count(*) FROM scores JOIN studies ON study_pk = study_fk WHERE %s IN (study_uid, '')"
        with self.database.autocommit() as connection:
            row = connection.execute(sql, (study,)).fetchone()
        return int(row[0]) if row else 0

    @contextlib.contextmanager
    def working(self, on_ready: Callable[[], None] = lambda: None) -> Iterator[None]:
        """The worker runs; entered when its model is loaded."""
        stop, ready = threading.Event(), threading.Event()
        thread = threading.Thread(target=self.worker.run, args=(stop, lambda: (on_ready(), ready.set())))
        thread.start()
        ready.wait()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def throughput(self, films: list[Film], images: int) -> float:
        """Images per second: all jobs wait when the worker begins; ends when the last score is committed."""
        before, begun = self.scored(), 0.0
        for n in range(images):
            put(self.database, self.store, films[n % len(films)])

        def start() -> None:
            nonlocal begun
            begun = time.perf_counter()

        with self.working(start):
            while self.scored() < before + images:
                time.sleep(0.05)  # each look is a query: not too many of them
            return images / (time.perf_counter() - begun)

    def times_to_flag(self, films: list[Film], studies: int) -> list[float]:
        """Seconds from the commit of a study's index rows to its score being visible, the worker idle before."""
        times = []
        with self.working():
            for n in range(studies):
                time.sleep(0.2)
                study = put(self.database, self.store, films[n % len(films)])
                begun = time.perf_counter()
                while not self.scored(study):
                    time.sleep(0.002)
                times.append(time.perf_counter() - begun)
        return times

    def peak_mib(self, films: list[Film], images: int) -> float:
        """The most memory, in MiB, that a worker process of its own held while it scored images of all kinds."""
        before = self.scored()
        for n in range(images):
            put(self.database, self.store, films[n % len(films)])
        context = multiprocessing.get_context("spawn")
        process = context.Process(target=work, args=(self.server.start(), self.folder, self.bundle), daemon=True)
        process.start()
        try:
            while self.scored() < before + images:
                time.sleep(0.05)
            status = Path(f"/proc/{process.pid}/status").read_text("utf-8")
        finally:
            process.terminate()
            process.join()
        peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(peak.split()[1]) / 1024

    def close(self) -> None:
        """Stop the database."""
        self.database.close()
        self.server.stop()


def work(conninfo: str, folder: Path, bundle: Path) -> None:
    """A worker alone in this process, until it is ended; `Bench.peak_mib` starts it."""
    config = WorkerConfig(cache_dir=folder / "cache")
    Worker(Database(conninfo), DirectoryStore(folder / "objects"), bundle, TriagePolicy(), config).run(
        threading.Event()
    )


def plain(films: list[Film], bundle_path: Path, images: int, folder: Path) -> float:
    """Images per second of the plain loop over the same films as files."""
    import torch
    from monai.transforms import Compose, EnsureChannelFirst, NormalizeIntensity, Resize
    from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

    bundle = load_bundle(bundle_path)
    network, size = bundle.network(), bundle.input_size
    transform = Compose(
        [EnsureChannelFirst(channel_dim="no_channel"), Resize((size, size), mode="area"), NormalizeIntensity()]
    )
    files = []
    for n, (part10, _, _) in enumerate(films):
        files.append(folder / f"{n}.dcm")
        files[-1].write_bytes(part10)

    def one(file: Path) -> Any:
        data = pydicom.dcmread(file)
        pixels = apply_voi_lut(apply_modality_lut(data.pixel_array, data), data)
        with torch.inference_mode():
            return torch.sigmoid(network(transform(pixels.astype(np.float32))[None]))

    one(files[0])
    begun = time.perf_counter()
    for n in range(images):
        one(files[n % len(files)])
    return images / (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=24, help="images per case")
    parser.add_argument("--studies", type=int, default=20, help="studies for the time to a flag; 0: not measured")
    parser.add_argument("--bundle", type=Path, default=DEFAULT_BUNDLE)
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))  # errors only
    result: dict[str, Any] = {"bench": "triage", "images": options.images, "cores": os.cpu_count()}
    table = Table("case", "sangloc", "plain", "ratio", title="triage, images per second, decode included")
    with tempfile.TemporaryDirectory(prefix="sangloc-bench-") as made:
        folder = Path(made)
        films = {kind: [film(seed, kind) for seed in range(4)] for kind in _KINDS}
        bench = Bench(folder, options.bundle)
        try:
            with bench.working():  # converts the model where that was not done yet
                pass
            fast = {kind: bench.throughput(films[kind], options.images) for kind in films}
            peak = bench.peak_mib([one for each in films.values() for one in each], options.images)
            times = sorted(bench.times_to_flag(films["raw"], options.studies))
        finally:
            bench.close()
        for kind, made_films in films.items():
            slow = plain(made_films, options.bundle, max(4, options.images // 3), folder)
            table.add_row(kind, f"{fast[kind]:.1f}", f"{slow:.1f}", f"{fast[kind] / slow:.1f} x")
            result |= {f"{kind}_per_s": round(fast[kind], 2), f"{kind}_plain_per_s": round(slow, 2)}
            result[f"{kind}_ratio"] = round(fast[kind] / slow, 2)
    console = Console()
    console.print(table)
    result["worker_peak_mib"] = round(peak)
    console.print(f"worker memory: {peak:.0f} MiB at most")
    if times:
        p95 = times[min(len(times) - 1, int(0.95 * len(times)))]
        result |= {"flag_p50_s": round(statistics.median(times), 3), "flag_p95_s": round(p95, 3)}
        console.print(f"time to flag, idle: p50 {result['flag_p50_s']} s, p95 {result['flag_p95_s']} s")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
