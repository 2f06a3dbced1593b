"""Workitems that ask for our triage of chest radiographs: begun when their studies are here, done when they are scored.

The work itself is that of the triage jobs; a workitem only makes them more urgent, asks again for those that were
given up, and says what came out (IHE AIW-I: the performer of a requested analysis).
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import structlog

from pacs.ups import steps
from pacs.ups.attributes import PERFORMED, PRIORITY, Model, attribute, code, date_time, first, inputs, items, moment
from storage import jobs, results, workitems
from storage.database import Connection, Database
from storage.workitems import OURS, Workitem

__all__ = ["work_off"]

log = structlog.get_logger()

_URGENCY: Final = {"HIGH": 2, "MEDIUM": 1, "LOW": 0}
_CODES, _START = "00404018", "00404050"


class _Instance(NamedTuple):
    """One instance that a workitem is about, with its newest score."""

    study_uid: str
    sop_class: str
    sop_uid: str
    triage: str
    reason: str
    model: str | None
    probability: float | None
    threshold: float | None
    flagged: bool | None


def work_off(database: Database, *, retrieve_from: str = "") -> int:
    """Look at every workitem of ours once; how many changed their state.

    `retrieve_from`: the AE title that gives out the DICOM objects that are written of results, so that a workitem is
    done when they are; '' where none are written.
    """
    changed = 0
    for uid in _due(database):
        with database.transaction() as connection:
            changed += _advance(connection, uid, retrieve_from)
    if changed:
        with database.autocommit() as connection:
            workitems.notify(connection)
            jobs.notify(connection)
    return changed


def _due(database: Database) -> Iterator[str]:
    after = 0
    while True:
        with database.autocommit() as connection:
            found = workitems.due(connection, after=after)
        yield from (uid for _, uid in found)
        if not found:
            return
        after = found[-1][0]


def _advance(connection: Connection, uid: str, retrieve_from: str) -> bool:
    """Bring one workitem on by a step, where there is one to take."""
    workitem = workitems.get(connection, uid, lock=True)
    if workitem.state == "SCHEDULED":
        return _begin(connection, workitem)
    return workitem.state == "IN PROGRESS" and _finish(connection, workitem, retrieve_from)


def _begin(connection: Connection, workitem: Workitem) -> bool:
    if workitem.expired:
        steps.cancel(connection, workitem, "The studies did not come in time", OURS)
        return True
    if not workitem.study_uids:
        steps.cancel(connection, workitem, "The Input Information Sequence names no study", OURS)
        return True
    found = _instances(connection, workitem)
    if {one.study_uid for one in found} != set(workitem.study_uids):
        return False  # not here yet
    steps.change_state(connection, workitem.workitem_uid, "IN PROGRESS", f"2.25.{uuid.uuid4().int}", OURS)
    _hasten(connection, found, _URGENCY[first(workitem.attributes, PRIORITY)])
    log.info("workitem begun", workitem_uid=workitem.workitem_uid, instances=len(found))
    return True


def _hasten(connection: Connection, found: list[_Instance], urgency: int) -> None:
    """Make the waiting jobs of these instances as urgent as asked for, and try again those that were given up."""
    uids = [one.sop_uid for one in found]
    connection.execute(
        "UPDATE jobs SET urgency = GREATEST(urgency, %s) WHERE state = 'waiting'"
        " AND instance_fk = ANY(ARRAY(SELECT instance_pk FROM instances WHERE sop_uid = ANY(%s)))",
        (urgency, uids),
    )
    dead = connection.execute(
        "SELECT job_pk FROM jobs WHERE state = 'dead'"
        " AND instance_fk = ANY(ARRAY(SELECT instance_pk FROM instances WHERE sop_uid = ANY(%s)))",
        (uids,),
    ).fetchall()
    for (job_pk,) in dead:
        jobs.retry(connection, job_pk, OURS)


def _finish(connection: Connection, workitem: Workitem, retrieve_from: str) -> bool:
    found = _instances(connection, workitem)
    if any(one.triage == "waiting" for one in found):
        return False
    scored = [one for one in found if one.probability is not None]
    if retrieve_from and results.pending(connection, [one.sop_uid for one in scored]):
        return False
    if not scored:
        why = "; ".join(dict.fromkeys(one.reason for one in found if one.reason)) or "There is no image to read"
        steps.cancel(connection, workitem, why[:1000], OURS)
    else:
        assert workitem.transaction_uid is not None
        outputs = _outputs(results.written_for(connection, [one.sop_uid for one in scored]), retrieve_from)
        performed = {PERFORMED: attribute("SQ", _performed(workitem, scored, outputs))}
        steps.update(connection, workitem.workitem_uid, performed, workitem.transaction_uid, OURS)
        steps.change_state(connection, workitem.workitem_uid, "COMPLETED", workitem.transaction_uid, OURS)
    log.info("workitem finished", workitem_uid=workitem.workitem_uid, scored=len(scored), instances=len(found))
    return True


def _instances(connection: Connection, workitem: Workitem) -> list[_Instance]:
    """The instances that are meant and are here, one look-up for each study."""
    found: dict[str, _Instance] = {}
    for study, uids in inputs(workitem.attributes):
        rows = connection.execute(
            "SELECT s.study_uid, i.sop_class, i.sop_uid, i.triage, i.triage_reason,"
            " c.model_name || ' ' || c.model_version, c.probability, c.threshold, c.flagged"
            " FROM studies AS s JOIN series AS e ON e.study_fk = s.study_pk"
            " JOIN instances AS i ON i.series_fk = e.series_pk"
            " LEFT JOIN LATERAL (SELECT * FROM scores WHERE instance_fk = i.instance_pk AND NOT shadow"
            " ORDER BY score_pk DESC LIMIT 1) AS c ON true"
            " WHERE s.study_uid = %s AND NOT (s.hidden OR e.hidden OR i.hidden)"
            " AND (%s::text[] = '{}' OR i.sop_uid = ANY(%s)) ORDER BY i.sop_uid",
            (study, uids, uids),
        ).fetchall()
        found |= {row[2]: _Instance(*row) for row in rows}
    return list(found.values())


def _performed(workitem: Workitem, scored: list[_Instance], outputs: Iterator[Model]) -> Model:
    """The item of the performed procedure. Content items say what the scores are, whether objects do or not."""
    attributes: Mapping[str, Any] = workitem.attributes
    began = moment(first(attributes, "00404010"))  # when the state became IN PROGRESS
    item = {
        _START: attribute("DT", date_time(began)),
        "00404051": attribute("DT", date_time(dt.datetime.now(dt.UTC))),
        "00404019": attribute("SQ", *items(attributes, _CODES)),
        "00404028": attribute("SQ", code("SANGLOC", "99SANGLOC", "sangloc triage")),
        "00404032": attribute("SQ", code("TRIAGE-SCORE", "99SANGLOC", "Triage score")),
        "00404033": attribute("SQ", *outputs),
        "00741212": attribute("SQ", *(content for one in scored for content in _content(one))),
    }
    return dict(sorted(item.items()))


def _outputs(objects: list[results.Written], retrieve_from: str) -> Iterator[Model]:
    """The Output Information Sequence: an item for each series (PS3.3 C.30.3, table 10-3b)."""
    for study, series in dict.fromkeys((one.study_uid, one.series_uid) for one in objects):
        yield {
            "00081199": attribute(
                "SQ",
                *(
                    {"00081150": attribute("UI", one.sop_class), "00081155": attribute("UI", one.sop_uid)}
                    for one in objects
                    if one.series_uid == series
                ),
            ),
            "0020000D": attribute("UI", study),
            "0020000E": attribute("UI", series),
            "0040E020": attribute("CS", "DICOM"),
            "0040E021": attribute("SQ", {"00080054": attribute("AE", retrieve_from)}),
        }


def _content(one: _Instance) -> Iterator[Model]:
    """The score of one image as content items (PS3.3 10.2)."""
    yield _item("IMAGE", ("SOURCE-IMAGE", "Image that was read")) | {
        "00081199": attribute(
            "SQ", {"00081150": attribute("UI", one.sop_class), "00081155": attribute("UI", one.sop_uid)}
        )
    }
    yield _item("TEXT", ("MODEL", "Model and version")) | {"0040A160": attribute("UT", one.model)}
    for value, name in (
        (one.probability, ("ABNORMAL", "Probability of an abnormality")),
        (one.threshold, ("THRESHOLD", "Threshold of the flag")),
    ):
        yield _item("NUMERIC", name) | {
            "0040A30A": attribute("DS", f"{value:.6g}"),
            "004008EA": attribute("SQ", code("1", "UCUM", "no units")),
        }
    flagged = ("FLAGGED", "Flagged") if one.flagged else ("NOT-FLAGGED", "Not flagged: no negative finding")
    yield _item("CODE", ("FLAG", "Triage flag")) | {
        "0040A168": attribute("SQ", code(flagged[0], "99SANGLOC", flagged[1]))
    }


def _item(kind: str, concept: tuple[str, str]) -> Model:
    return {
        "0040A040": attribute("CS", kind),
        "0040A043": attribute("SQ", code(concept[0], "99SANGLOC", concept[1])),
    }
