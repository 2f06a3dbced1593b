"""A small archive for the tests of the HTTP side: real files in a real store, indexed and scored as the worker does."""

from __future__ import annotations

import datetime as dt
import hashlib
import itertools
from io import BytesIO
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from storage import findings, jobs, workers
from storage.database import Database
from storage.objects import ObjectStore
from storage.objects.keys import new_key
from storage.studies import InstanceHeader, Received, index_instances
from storage.uid import InstanceUID, SeriesUID, StudyUID

ROOT = "1.2.826.0.1.3680043.9998"
WEIGHTS = hashlib.sha256(b"weights").hexdigest()
_numbers = itertools.count(1)


def part10(
    pixels: np.ndarray, *, photometric: str = "MONOCHROME2", syntax: str = ExplicitVRLittleEndian, **over: Any
) -> BytesIO:
    """A Part 10 file with these pixels; attributes by keyword."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    data.SOPInstanceUID = "1.2.3"
    colour = pixels.ndim >= 3 and pixels.shape[-1] == 3
    data.Rows, data.Columns = pixels.shape[-3:-1] if colour else pixels.shape[-2:]
    data.SamplesPerPixel = 3 if colour else 1
    if colour:
        data.PlanarConfiguration = 0
    data.PhotometricInterpretation = photometric
    data.BitsAllocated = data.BitsStored = 8 * pixels.itemsize
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    if pixels.ndim - colour == 3:
        data.NumberOfFrames = pixels.shape[0]
    data.PixelData = pixels.tobytes()
    for name, value in over.items():
        setattr(data, name, value)
    if syntax == RLELossless:
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.compress(RLELossless, generate_instance_uid=False)
    file = BytesIO()
    data.save_as(file, enforce_file_format=True)
    file.seek(0)
    return file


class Archive:
    """Adds studies of one image each."""

    def __init__(self, database: Database, store: ObjectStore) -> None:
        self.database = database
        self.store = store

    def add(
        self,
        pixels: np.ndarray | None = None,
        *,
        content: bytes | None = None,
        not_eligible: str = "",
        priority: str = "routine",
        site: str = "",
        arrived: dt.datetime | None = None,
        wait_min: float = 240,
        part10_over: dict[str, Any] | None = None,
        **over: Any,
    ) -> Received:
        """One study with one image, stored and indexed; header fields by keyword."""
        number = next(_numbers)
        pixels = np.arange(64, dtype=np.uint16).reshape(8, 8) if pixels is None else pixels
        values: dict[str, Any] = {
            "sop_class": "1.2.840.10008.5.1.4.1.1.1.1",
            "sop_uid": f"{ROOT}.3.{number}",
            "study_uid": f"{ROOT}.1.{number}",
            "series_uid": f"{ROOT}.2.{number}",
            "transfer_syntax": str(ExplicitVRLittleEndian),
            "patient_id": f"BN{number:06d}",
            "patient_name": "Nguyễn^Văn An",
            "patient_birth_date": dt.date(1961, 4, 30),
            "patient_sex": "M",
            "study_date": dt.date(2026, 3, 2),
            "accession_number": f"X{number:05d}",
            "study_description": "Ngực thẳng",
            "modality": "DX",
            "rows": pixels.shape[0],
            "columns": pixels.shape[1],
            "bits_allocated": 16,
            "photometric": "MONOCHROME2",
            "view_position": "PA",
            **over,
        }
        for key, kind in (("sop_uid", InstanceUID), ("study_uid", StudyUID), ("series_uid", SeriesUID)):
            values[key] = kind(values[key])
        if content is None:
            content = part10(pixels, SOPInstanceUID=values["sop_uid"], **(part10_over or {})).getvalue()
        offset = 144 + int.from_bytes(content[140:144], "little")  # behind the file meta (PS3.10 7.1)
        key = new_key(values["study_uid"])
        with self.store.writer(key) as writer:
            writer.write([content])
            writer.commit()
        at = arrived or dt.datetime.now(dt.UTC)
        received = Received(
            header=InstanceHeader(**values),
            object_key=key,
            object_size=len(content),
            dataset_offset=offset,
            sha256=hashlib.sha256(content[offset:]).digest(),
            source_aet="XRAY1",
            source_address="127.0.0.1",
            received_at=at,
            site=site,
            priority=priority,  # type: ignore[arg-type]
            latest_due_at=at + dt.timedelta(minutes=wait_min),
            not_eligible=not_eligible,
        )
        with self.database.transaction() as connection:
            index_instances(connection, [received])
        return received

    def score(
        self, received: Received, probability: float, *, due_min: float | None = None, **named: float
    ) -> findings.Score:
        """What a worker writes for the study's image; findings by keyword."""
        with self.database.transaction() as connection:
            row = connection.execute(
                "SELECT instance_pk, study_fk FROM instances WHERE sop_uid = %s", (received.header.sop_uid,)
            ).fetchone()
            assert row is not None
            flagged = probability >= 0.5
            due = received.latest_due_at
            if due_min is not None:
                due = min(due, received.received_at + dt.timedelta(minutes=due_min))
            found = (
                findings.Finding("Abnormal", probability, 0.5),
                *(findings.Finding(name, value, 0.4) for name, value in named.items()),
            )
            score = findings.Score(
                instance_pk=row[0],
                study_pk=row[1],
                study_uid=received.header.study_uid,
                model_name="chest_xray",
                model_version="0.1.0",
                weights_sha256=WEIGHTS,
                engine="openvino",
                probability=probability,
                threshold=0.5,
                flagged=flagged,
                findings=found,
                listed=tuple(finding for finding in found if finding.probability >= finding.threshold),
                decode_ms=41.5,
                inference_ms=15.25,
                due_at=due,
                reason="flagged" if flagged else "not flagged: due by the maximum wait",
            )
            findings.record_scores(connection, [score])
            claimed = connection.execute("SELECT job_pk FROM jobs WHERE instance_fk = %s", (row[0],)).fetchall()
            jobs.done(connection, [pk for (pk,) in claimed])
        return score

    def worker(self) -> None:
        """A worker with a model gives a sign of life."""
        with self.database.autocommit() as connection:
            workers.beat(
                connection, workers.Worker(worker="test:1:0", model="chest_xray 0.1.0", weights_sha256=WEIGHTS)
            )
