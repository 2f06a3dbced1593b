"""Films that were taken in and scored, as a worker leaves them: what results are written of."""

from __future__ import annotations

import datetime as dt
import hashlib
import threading
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import numpy as np
import pydicom
from pydicom import Dataset, FileDataset

from models.maps import Maps, pack
from models.preprocess import Frame
from pacs import resultwriting
from pacs.ingest import Arrival, Ingest
from pacs.samples import phantom
from pacs.tasks import Exchange, ExchangeConfig
from storage import findings, jobs, results
from storage.database import Database
from storage.objects import ObjectStore
from storage.objects.keys import new_key
from storage.results import KINDS
from storage.routing import Horizon

WEIGHTS = hashlib.sha256(b"weights").hexdigest()
FRAME = Frame(0.05, 0.05, 0.95, 0.95)


def film(number: int = 3, **changes: Any) -> FileDataset:
    """A radiograph of a made-up Vietnamese patient."""
    made = phantom(number).payload
    assert isinstance(made, FileDataset)
    for keyword, value in changes.items():
        setattr(made, keyword, value)
    return made


def hot(*places: tuple[int, int]) -> np.ndarray:
    """A map [8, 8] that is strong at one place only."""
    made = np.zeros((8, 8), np.float32)
    for place in places:
        made[place] = 4.0
    return made


@dataclass
class Reported:
    """An archive whose scores are written as objects."""

    database: Database
    store: ObjectStore
    objects: str = "all"
    max_age_s: float = 86_400.0
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def exchange(self) -> Exchange:
        config = ExchangeConfig(report_objects=self.objects, report_max_age_s=self.max_age_s)  # type: ignore[arg-type]
        return Exchange(self.database, self.store, config)

    def take(self, dataset: FileDataset) -> str:
        """Take a film in as a receiver does; its SOP Instance UID."""
        ingest = Ingest(
            self.database,
            self.store,
            screen=lambda header: "" if header.modality == "DX" else "not a radiograph",
            arrival=lambda _h, at, _s: Arrival("routine", at + dt.timedelta(hours=4)),
        )
        file = BytesIO()
        dataset.save_as(file, enforce_file_format=True)
        content = file.getvalue()
        with ingest.receive(
            sop_class=dataset.SOPClassUID,
            sop_uid=dataset.SOPInstanceUID,
            transfer_syntax=dataset.file_meta.TransferSyntaxUID,
            source_aet="XRAY1",
            source_address="127.0.0.1",
        ) as incoming:
            incoming.write([content[144 + int.from_bytes(content[140:144], "little") :]])
            assert incoming.commit() == "stored"
        ingest.close()
        return str(dataset.SOPInstanceUID)

    def score(
        self, sop_uid: str, probability: float = 0.91, *, maps: bool = True, version: str = "0.1.0", **over: Any
    ) -> findings.Score:
        """What a worker writes of the film: flagged from 0.5 on, with an effusion, and maps where it is flagged."""
        with self.database.transaction() as connection:
            row = connection.execute(
                "SELECT i.instance_pk, i.study_fk, s.study_uid FROM instances AS i JOIN studies AS s"
                " ON s.study_pk = i.study_fk WHERE sop_uid = %s",
                (sop_uid,),
            ).fetchone()
            assert row is not None
            found = (findings.Finding("Effusion", 0.77, 0.5), findings.Finding("Pleural_Thickening", 0.1, 0.5))
            score = findings.Score(
                instance_pk=row[0], study_pk=row[1], study_uid=row[2], model_name="chest_xray", model_version=version,
                weights_sha256=WEIGHTS, engine="openvino", probability=probability, threshold=0.5,
                flagged=probability >= 0.5, findings=found, listed=found[:1], decode_ms=40.0, inference_ms=15.0,
                due_at=dt.datetime.now(dt.UTC), reason="flagged", **over,
            )  # fmt: skip
            findings.record_scores(connection, [score])
            claimed = connection.execute("SELECT job_pk FROM jobs WHERE instance_fk = %s", (row[0],)).fetchall()
            jobs.done(connection, [pk for (pk,) in claimed])
        if maps and score.flagged:
            self.explain(score)
        return score

    def explain(self, score: findings.Score) -> None:
        """Store maps of a score: the effusion at the lower left of the picture."""
        key = new_key(score.study_uid)
        with self.store.writer(key) as writer:
            maps = np.stack([hot((1, 5), (6, 1)), hot((6, 1), (6, 2), (5, 1))])
            writer.write([pack(Maps(("Abnormal", "Effusion"), maps, FRAME))])
            writer.commit()
        with self.database.autocommit() as connection:
            assert findings.name_map(connection, score, key)

    def look(self) -> None:
        """Note what is due, as the task does."""
        horizon, kinds = Horizon(), KINDS[self.objects]
        with self.database.autocommit() as connection:
            while (marks := horizon.look(connection)) is None:
                pass
        more = True
        while more:
            with self.database.transaction() as connection:
                more = results.enqueue(connection, marks.score_pk, kinds, self.max_age_s)

    def write(self) -> int:
        """Note what is due and write it; for how many scores."""
        self.look()
        exchange = self.exchange
        try:
            return resultwriting.write_due(exchange, self.stop)
        finally:
            exchange.bells.close()

    def states(self) -> list[tuple[str, str]]:
        return [(kind, state) for kind, state, _ in self.rows("kind, state, reason")]

    def rows(self, columns: str) -> list[tuple[Any, ...]]:
        with self.database.autocommit() as connection:
            return connection.execute(f"SELECT {columns} FROM results ORDER BY result_pk").fetchall()  # type: ignore[arg-type]

    def objects_of(self, kind: str) -> list[Dataset]:
        """The stored objects of a kind, read from the store."""
        with self.database.autocommit() as connection:
            keys = connection.execute(
                "SELECT i.object_key FROM results AS r JOIN instances AS i ON i.sop_uid = r.sop_uid"
                " WHERE r.kind = %s AND NOT i.hidden ORDER BY r.result_pk",
                (kind,),
            ).fetchall()
        return [pydicom.dcmread(BytesIO(self.store.read(key))) for (key,) in keys]

    def count(self, what: str) -> int:
        with self.database.autocommit() as connection:
            row = connection.execute(f"SELECT count(*) FROM {what}").fetchone()  # type: ignore[arg-type]
        assert row is not None
        return int(row[0])
