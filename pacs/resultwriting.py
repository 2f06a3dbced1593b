"""From a score in the index to stored DICOM objects about it: read, made, taken in like anything else, noted as done.

Whatever stops this in between, the rows in `results` stay due; an object that is there already is not written again.
"""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

import numpy as np
import pydicom
import structlog
from pydicom import Dataset
from pydicom.config import disable_value_validation

from inference import report
from inference.gate import open_gate
from inference.marked import presentation_state, secondary_capture
from inference.overlay import picture
from inference.pixels import read_pixels
from inference.report import Analysis, Found, Region
from inference.structured import structured_report
from models import maps
from pacs.heat import heat_of
from pacs.ingest import Arrival, Ingest
from pacs.tasks import Exchange
from storage import results, workitems
from storage.database import Database
from storage.errors import InvalidInput, NotFound, NotScorable, SanglocError, Unavailable
from storage.objects import ObjectStore
from storage.results import Due, Kind

__all__ = ["write_due"]

log = structlog.get_logger()

_LEASE_S = 120.0
_BACKOFF_S = 5.0  # doubles
_MAP_S = 60.0  # a worker stores the maps soon after the score; for so long they are waited for
_LOOK_S = 3.0  # between two looks for them
_NEVER = dt.timedelta(days=365)  # a result makes nothing urgent
_OURS = "a result that sangloc wrote itself"
_SIDE = 1024  # px of the film under the map
_ABNORMAL = "Abnormal"

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Maps:
    """The stored maps of one image, and how the film that the model saw lies to the stored one."""

    stored: bytes
    found: maps.Maps
    turned: int = 0  # degrees counter-clockwise by which the stored film is turned


def write_due(exchange: Exchange, stop: threading.Event) -> int:
    """Write what is due now; for how many scores. Raises `Unavailable`; what was claimed is then due again soon."""
    done = 0
    with closing(_way_in(exchange)) as ingest:
        while not stop.is_set():
            with exchange.database.autocommit() as connection:
                due = results.claim(connection, _LEASE_S)
            if due is None:
                break
            _write(exchange, ingest, due)
            done += 1
    if done:
        with exchange.database.autocommit() as connection:
            workitems.notify(connection)
    return done


def _way_in(exchange: Exchange) -> Ingest:
    return Ingest(
        exchange.database,
        exchange.store,
        screen=lambda _: _OURS,
        arrival=lambda _h, at, _s: Arrival("routine", at + _NEVER, quiet=True),
    )


def _write(exchange: Exchange, ingest: Ingest, due: Due) -> None:
    """Write the objects of one score, or note why not."""
    database = exchange.database
    try:
        with database.autocommit() as connection:
            row = results.source_of(connection, due.score_pk)
            if row is None:
                results.skipped(connection, due.score_pk, due.kinds, "the image was removed")
                return
            if _may_get_maps(row, due):
                results.later(connection, due.score_pk, due.kinds, _LOOK_S)
                return
        with disable_value_validation():  # what a sender wrote is repeated, and names stay out of pydicom's log
            _Writer(exchange, ingest, row).write(due.kinds)
    except Unavailable:
        with database.autocommit() as connection:
            results.later(connection, due.score_pk, due.kinds, _BACKOFF_S)
        raise
    except Exception as error:  # one image must not hold up the others, whatever its header does to a library
        log.exception("results not written", score_pk=due.score_pk, expected=isinstance(error, SanglocError))
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        with database.autocommit() as connection:
            results.failed(connection, due.score_pk, due.kinds, reason, _BACKOFF_S)


def _may_get_maps(row: Row, due: Due) -> bool:
    """Whether maps are wanted that the worker has not stored yet."""
    wanted = bool({"pr", "sc"} & set(due.kinds)) and row["flagged"] and not row["map_key"]
    return wanted and (dt.datetime.now(dt.UTC) - row["scored_at"]).total_seconds() < _MAP_S


class _Writer:
    """Writes the objects of one score."""

    def __init__(self, exchange: Exchange, ingest: Ingest, row: Row) -> None:
        self._database: Database = exchange.database
        self._store: ObjectStore = exchange.store
        self._ingest, self._row, self._ae_title = ingest, row, exchange.config.ae_title

    def write(self, kinds: tuple[Kind, ...]) -> None:
        """Each object is stored and then noted, one after the other."""
        seen = self._maps() if {"pr", "sc"} & set(kinds) else None
        analysis = self._analysis(seen)
        image = report.source(self._row, self._header())
        for kind in kinds:
            if self._is_known(kind, analysis):
                continue
            if kind == "sr":
                self._keep(kind, analysis, structured_report(image, analysis))
            elif seen is None or not any(found.region for found in analysis.findings):
                self._skip(kind, "there is no map of what was found")
            elif kind == "pr":
                self._keep(kind, analysis, presentation_state(image, _drawn(analysis)))
            else:
                self._capture(image, analysis, seen)

    def _capture(self, image: Dataset, analysis: Analysis, seen: _Maps) -> None:
        try:
            film, _ = self._film()
        except NotScorable as error:  # it was read once
            self._skip("sc", str(error))
            return
        drawn = _drawn(_placed(analysis, seen.found, 0))
        heat = heat_of(seen.stored, [found.name for found in drawn.findings if found.region])
        self._keep("sc", analysis, secondary_capture(image, analysis, picture(film, heat, drawn)))

    def _analysis(self, seen: _Maps | None) -> Analysis:
        row = self._row
        named = [Found(**one) for one in row["listed"] if one["name"] != _ABNORMAL]
        analysis = Analysis(
            sop_uid=row["sop_uid"],
            study_uid=row["study_uid"],
            model_name=row["model_name"],
            model_version=row["model_version"],
            weights_sha256=row["weights_sha256"],
            engine=row["engine"],
            flagged=row["flagged"],
            scored_at=row["scored_at"],
            findings=(Found(_ABNORMAL, row["probability"], row["threshold"]), *named),
            notes=tuple(row["notes"]),
            ae_title=self._ae_title,
        )
        return analysis if seen is None else _placed(analysis, seen.found, seen.turned)

    def _maps(self) -> _Maps | None:
        if not self._row["map_key"]:
            return None
        try:
            stored = self._store.read(self._row["map_key"])
            return _Maps(stored, maps.unpack(stored), self._film()[1] if self._row["notes"] else 0)
        except (InvalidInput, NotFound, NotScorable) as error:
            log.warning("maps cannot be read", sop_uid=self._row["sop_uid"], error=str(error))
            return None

    def _film(self) -> tuple[np.ndarray[Any, np.dtype[np.uint8]], int]:
        """The film as the model saw it, put right where the worker has put it right, and by how much it was turned."""
        row = self._row
        stored = self._store.read(row["object_key"]), row["dataset_offset"], row["transfer_syntax"]
        if not row["notes"]:
            return read_pixels(*stored, max_side=_SIDE), 0
        looked = open_gate().look(read_pixels(*stored))  # in the size in which the worker's gate has seen it
        return looked.film, looked.turned

    def _header(self) -> Dataset:
        with closing(self._store.open(self._row["object_key"])) as file:
            return pydicom.dcmread(BytesIO(file.read()), stop_before_pixels=True, force=True)

    def _is_known(self, kind: Kind, analysis: Analysis) -> bool:
        """Whether the object is there (it was written, and the note of that was lost), or was removed by somebody."""
        uid = report.sop_uid(kind, analysis)
        with self._database.autocommit() as connection:
            known = results.known(connection, uid)
            if known == "here":
                self._note(kind, analysis)
            elif known == "removed":
                results.skipped(connection, self._row["score_pk"], [kind], "somebody removed this object")
        return bool(known)

    def _keep(self, kind: Kind, analysis: Analysis, made: Dataset) -> None:
        with self._ingest.receive(
            sop_class=made.SOPClassUID,
            sop_uid=made.SOPInstanceUID,
            transfer_syntax=made.file_meta.TransferSyntaxUID,
            source_aet=self._ae_title,
            source_address="",
        ) as incoming:
            incoming.write([report.encoded(made)])
            incoming.commit()
        self._note(kind, analysis)
        log.info("result written", kind=kind, sop_uid=made.SOPInstanceUID, study_uid=analysis.study_uid)

    def _note(self, kind: Kind, analysis: Analysis) -> None:
        with self._database.autocommit() as connection:
            results.written(
                connection, self._row["score_pk"], kind,
                sop_uid=report.sop_uid(kind, analysis), series_uid=report.series_uid(kind, analysis),
            )  # fmt: skip

    def _skip(self, kind: Kind, reason: str) -> None:
        with self._database.autocommit() as connection:
            results.skipped(connection, self._row["score_pk"], [kind], reason)


def _placed(analysis: Analysis, found: maps.Maps, turned: int) -> Analysis:
    """With the region of each finding that has a map, on a film that is turned so."""
    regions: dict[str, Region] = {}
    for name, one in zip(found.names, found.maps, strict=True):
        seen = maps.region(one, found.frame)
        if seen is not None:
            regions[name] = Region(seen.left, seen.top, seen.right, seen.bottom).turned(turned)
    if len(regions) == 1 and len(analysis.findings) == 1:  # the greatest finding of a network without 'Abnormal'
        regions[_ABNORMAL] = next(iter(regions.values()))
    return replace(analysis, findings=[replace(one, region=regions.get(one.name)) for one in analysis.findings])


def _drawn(analysis: Analysis) -> Analysis:
    """What is drawn: the box of 'Abnormal' only where no finding has one of its own."""
    first, *named = analysis.findings
    if any(found.region for found in named):
        first = replace(first, region=None)
    return replace(analysis, findings=[first, *named])
