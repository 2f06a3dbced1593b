from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from storage import audit, findings, jobs, purge, studies, worklist
from storage.database import Database
from storage.errors import NotFound
from storage.findings import Finding, Score
from storage.studies import Indexer, Received

Make = Callable[..., Received]
HOUR = dt.timedelta(hours=1)


@pytest.fixture
def claimed(database: Database, make_received: Make) -> Callable[..., list[jobs.Job]]:
    """Jobs of fresh images of one study, claimed."""

    def claimed(count: int = 1, **over: Any) -> list[jobs.Job]:
        first = make_received(**over)
        more = [make_received(study_uid=first.header.study_uid) for _ in range(count - 1)]
        Indexer(database).index([first, *more])
        with database.transaction() as connection:
            return jobs.claim(connection, "w", 100, 60)

    return claimed


def score(job: jobs.Job, probability: float, **over: Any) -> Score:
    values: dict[str, Any] = {
        "instance_pk": job.instance_pk,
        "study_pk": job.study_pk,
        "study_uid": job.study_uid,
        "model_name": "cxr",
        "model_version": "1",
        "weights_sha256": "ab" * 32,
        "engine": "openvino",
        "probability": probability,
        "threshold": 0.5,
        "flagged": probability >= 0.5,
        "findings": (Finding("Nodule", 0.2, 0.5), Finding("Effusion", probability, 0.5), Finding("Mass", 0.6, 0.6)),
        "listed": (Finding("Mass", 0.6, 0.6), Finding("Effusion", probability, 0.5)),
        "decode_ms": 12.5,
        "inference_ms": 30.0,
        "due_at": job.latest_due_at - HOUR if probability >= 0.5 else job.latest_due_at,
        "reason": f"p {probability}",
        **over,
    }
    return Score(**values)


def record(database: Database, *scores: Score) -> None:
    with database.transaction() as connection:
        findings.record_scores(connection, scores)


def listed(database: Database, study_uid: str) -> worklist.Item:
    with database.autocommit() as connection:
        return worklist.item(connection, study_uid)


def test_a_score_shows_on_the_list_with_its_source(database: Database, claimed: Callable[..., list[jobs.Job]]) -> None:
    (job,) = claimed()
    record(database, score(job, 0.9))
    item = listed(database, job.study_uid)
    assert (item.status, item.flagged, item.probability, item.model, item.reason) == (
        "scored",
        True,
        0.9,
        "cxr 1",
        "p 0.9",
    )
    assert item.due_at == job.latest_due_at - HOUR
    assert item.findings == [
        {"name": "Mass", "probability": 0.6, "threshold": 0.6},
        {"name": "Effusion", "probability": 0.9, "threshold": 0.5},
    ]
    assert item.scored_at is not None
    with database.autocommit() as connection:
        (stored,) = findings.of_study(connection, job.study_uid)
        assert studies.instance(connection, job.sop_uid).triage == "scored"
        entry = audit.page(connection, study_uid=job.study_uid)[0]
    assert (stored.engine, stored.weights_sha256, stored.decode_ms, stored.threshold) == (
        "openvino",
        "ab" * 32,
        12.5,
        0.5,
    )
    assert [found["name"] for found in stored.findings] == ["Effusion", "Mass", "Nodule"]
    assert (entry.actor, entry.action) == ("cxr 1", "study.scored")
    assert dt.datetime.fromisoformat(entry.detail["due_at"]) == item.due_at
    assert dt.datetime.fromisoformat(entry.detail["due_before"]) == job.latest_due_at


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("order", [(0.2, 0.9, 0.7), (0.9, 0.2, 0.7), (0.2, 0.7, 0.9)])
def test_the_flag_is_the_maximum_over_the_images_in_any_order(
    database: Database, claimed: Callable[..., list[jobs.Job]], order: tuple[float, ...], together: bool
) -> None:
    found = claimed(3)
    scores = [score(job, probability) for job, probability in zip(found, order, strict=True)]
    for part in [scores] if together else [[each] for each in scores]:
        record(database, *part)
    item = listed(database, found[0].study_uid)
    assert (item.flagged, item.probability, item.reason) == (True, 0.9, "p 0.9")
    assert item.due_at == found[0].latest_due_at - HOUR


def test_the_flag_shows_after_the_first_image_and_scored_at_stays(
    database: Database, claimed: Callable[..., list[jobs.Job]]
) -> None:
    first, second = claimed(2)
    record(database, score(first, 0.8))
    early = listed(database, first.study_uid)
    record(database, score(second, 0.9))
    late = listed(database, first.study_uid)
    assert (early.status, early.flagged) == ("scored", True)
    assert early.scored_at == late.scored_at
    assert late.probability == 0.9


def test_a_score_never_delays(database: Database, claimed: Callable[..., list[jobs.Job]]) -> None:
    (job,) = claimed()
    record(database, score(job, 0.1, due_at=job.latest_due_at + 100 * HOUR))
    assert listed(database, job.study_uid).due_at == job.latest_due_at


def test_a_flagged_image_outranks_a_higher_probability_below_its_threshold(
    database: Database, claimed: Callable[..., list[jobs.Job]]
) -> None:
    first, second = claimed(2)
    record(database, score(first, 0.6, threshold=0.5), score(second, 0.7, threshold=0.8, flagged=False))
    assert listed(database, first.study_uid).probability == 0.6


def test_the_same_score_twice_is_written_once(database: Database, claimed: Callable[..., list[jobs.Job]]) -> None:
    (job,) = claimed()
    record(database, score(job, 0.9))
    record(database, score(job, 0.9), score(job, 0.9))
    with database.autocommit() as connection:
        assert len(findings.of_study(connection, job.study_uid)) == 1


def test_two_models_are_kept_side_by_side(database: Database, claimed: Callable[..., list[jobs.Job]]) -> None:
    (job,) = claimed()
    record(database, score(job, 0.9), score(job, 0.95, model_version="2", weights_sha256="cd" * 32))
    with database.autocommit() as connection:
        assert len(findings.of_study(connection, job.study_uid)) == 2
    assert listed(database, job.study_uid).model == "cxr 2"


def test_an_instance_deleted_meanwhile_is_left_out(database: Database, claimed: Callable[..., list[jobs.Job]]) -> None:
    first, second = claimed(2)
    with database.autocommit() as connection:
        connection.execute("DELETE FROM instances WHERE instance_pk = %s", (first.instance_pk,))
    record(database, score(first, 0.9), score(second, 0.6))
    assert listed(database, first.study_uid).probability == 0.6


def test_no_scores_is_nothing(database: Database) -> None:
    record(database)


def test_a_reason_why_no_model_reads_it_shows_unless_another_image_is_read(
    database: Database, claimed: Callable[..., list[jobs.Job]]
) -> None:
    first, second, third = claimed(3)
    shown = []
    for job, reason in ((first, "Multi-frame."), (second, "Too small."), (third, "")):
        with database.transaction() as connection:
            if reason:
                findings.record_not_eligible(connection, job.instance_pk, reason)
        item = listed(database, job.study_uid)
        shown.append((item.status, item.reason))
    assert shown == [("waiting", "")] * 3
    with database.transaction() as connection:
        findings.record_not_eligible(connection, third.instance_pk, "Lateral.")
    item = listed(database, first.study_uid)
    assert (item.status, item.reason) == ("not_eligible", "Multi-frame.")


def test_not_eligible_after_a_score_keeps_the_score(database: Database, claimed: Callable[..., list[jobs.Job]]) -> None:
    first, second = claimed(2)
    record(database, score(first, 0.9))
    with database.transaction() as connection:
        findings.record_not_eligible(connection, second.instance_pk, "Lateral.")
    assert listed(database, first.study_uid).status == "scored"


def test_workers_that_score_the_same_studies_at_once_agree_on_the_maximum(
    database: Database, claimed: Callable[..., list[jobs.Job]]
) -> None:
    found = [claimed(8) for _ in range(4)]
    images = [job for study in found for job in study]
    scores = [score(job, (n % 8 + 1) / 10) for n, job in enumerate(images)]
    parts = [scores[n::4][:: (-1) ** n] for n in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda part: record(database, *part), parts))
    for study in found:
        item = listed(database, study[0].study_uid)
        assert (item.probability, item.due_at) == (0.8, study[0].latest_due_at - HOUR)


def test_outlier_and_notes_are_kept_with_the_score(database: Database, claimed: Callable[..., list[jobs.Job]]) -> None:
    first, second = claimed(2)
    record(database, score(first, 0.9, outlier=61.5, notes=("turned by 90°", "inverted")), score(second, 0.2))
    with database.autocommit() as connection:
        found = {one.sop_uid: one for one in findings.of_study(connection, first.study_uid)}
    assert (found[first.sop_uid].outlier, found[first.sop_uid].notes) == (61.5, ["turned by 90°", "inverted"])
    assert (found[second.sop_uid].outlier, found[second.sop_uid].notes) == (None, [])


def test_a_score_in_shadow_is_stored_and_changes_nothing_that_is_shown(
    database: Database, claimed: Callable[..., list[jobs.Job]]
) -> None:
    (job,) = claimed()
    before = listed(database, job.study_uid)
    record(database, score(job, 0.99, shadow=True))
    assert listed(database, job.study_uid) == before
    with database.autocommit() as connection:
        assert findings.of_study(connection, job.study_uid) == []
        (stored,) = findings.of_study(connection, job.study_uid, shadow=True)
        assert studies.instance(connection, job.sop_uid).triage == "waiting"
        assert [entry.action for entry in audit.page(connection, study_uid=job.study_uid)] != ["study.scored"]
    assert (stored.shadow, stored.probability) == (True, pytest.approx(0.99))


def test_beside_a_score_in_shadow_the_active_one_is_shown(
    database: Database, claimed: Callable[..., list[jobs.Job]]
) -> None:
    (job,) = claimed()
    other = {"model_version": "2", "weights_sha256": "cd" * 32}
    record(database, score(job, 0.3), score(job, 0.99, shadow=True, **other))
    item = listed(database, job.study_uid)
    assert (item.flagged, item.probability, item.model) == (False, pytest.approx(0.3), "cxr 1")
    with database.transaction() as connection:  # and still is when a change settles the study
        connection.execute("SELECT settle_studies(%s)", ([job.study_pk],))
    assert listed(database, job.study_uid).model == "cxr 1"


def test_a_model_that_leaves_the_shadow_shows_its_score_at_the_new_threshold(
    database: Database, claimed: Callable[..., list[jobs.Job]]
) -> None:
    (job,) = claimed()
    record(database, score(job, 0.7, shadow=True, threshold=0.9, flagged=False))
    record(database, score(job, 0.7))
    item = listed(database, job.study_uid)
    assert (item.flagged, item.probability) == (True, pytest.approx(0.7))
    with database.autocommit() as connection:
        (stored,) = findings.of_study(connection, job.study_uid)
    assert (stored.shadow, stored.threshold, stored.flagged) == (False, 0.5, True)
    record(database, score(job, 0.7, shadow=True))  # and never goes back by itself
    with database.autocommit() as connection:
        assert len(findings.of_study(connection, job.study_uid)) == 1


def test_the_same_weights_calibrated_again_are_another_score(
    database: Database, claimed: Callable[..., list[jobs.Job]]
) -> None:
    (job,) = claimed()
    record(database, score(job, 0.6), score(job, 0.8, model_version="1.1"))
    with database.autocommit() as connection:
        found = findings.of_study(connection, job.study_uid)
    assert sorted((one.model_version, round(one.probability, 3)) for one in found) == [("1", 0.6), ("1.1", 0.8)]
    assert listed(database, job.study_uid).model == "cxr 1.1"


def test_a_map_is_named_once_and_purged_with_its_score(
    database: Database, claimed: Callable[..., list[jobs.Job]]
) -> None:
    (job,) = claimed()
    made = score(job, 0.9)
    with database.autocommit() as connection:
        assert not findings.name_map(connection, made, "none/yet")
    record(database, made)
    with database.autocommit() as connection:
        with pytest.raises(NotFound, match="No maps"):
            findings.map_of(connection, job.sop_uid)
        assert findings.name_map(connection, made, "first")
        assert not findings.name_map(connection, made, "second")
        assert findings.map_of(connection, job.sop_uid) == "first"
        connection.execute("DELETE FROM instances WHERE instance_pk = %s", (job.instance_pk,))
        assert purge.doomed_objects(connection) == ["first"]


def test_the_map_of_a_hidden_instance_or_a_shadow_is_not_shown(
    database: Database, claimed: Callable[..., list[jobs.Job]]
) -> None:
    hidden, shaded = claimed(2)
    record(database, score(hidden, 0.9), score(shaded, 0.9, shadow=True))
    with database.autocommit() as connection:
        for number, job in enumerate((hidden, shaded)):
            assert findings.name_map(connection, score(job, 0.9), str(number))
        connection.execute("UPDATE instances SET hidden = true WHERE instance_pk = %s", (hidden.instance_pk,))
        for job in (hidden, shaded):
            with pytest.raises(NotFound):
                findings.map_of(connection, job.sop_uid)
