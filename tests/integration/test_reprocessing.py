"""Reprocessing against a real PostgreSQL: nothing lost, nothing twice, live images first, read studies left alone."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from bulk import NEW, OLD, Archive

from storage import audit, jobs, reprocessing, worklist
from storage.database import Database
from storage.errors import Conflict, InvalidInput, NotFound
from storage.reprocessing import Selection
from storage.studies import Received

NOW = dt.datetime.now(dt.UTC)
IN_TIME = {"received_at": NOW, "latest_due_at": NOW + dt.timedelta(hours=8)}
LATE = {"received_at": NOW - dt.timedelta(days=9), "latest_due_at": NOW - dt.timedelta(days=8)}


@pytest.fixture
def archive(database: Database, make_received: Callable[..., Received]) -> Archive:
    return Archive(database, make_received)


def test_every_image_gets_one_score_of_the_new_model_and_keeps_that_of_the_old(archive: Archive) -> None:
    archive.fill(40)
    begun = archive.start()
    assert (begun.state, begun.total, begun.ended) == ("running", 40, 0)
    assert len(set(archive.run())) == 40
    ended = archive.now(begun.reprocessing_pk)
    assert (ended.state, ended.scored, ended.total, ended.ended) == ("done", 40, 40, 40)
    assert ended.ended_at is not None
    assert archive.query("SELECT model_version, count(*) FROM scores GROUP BY 1 ORDER BY 1") == [("1", 40), ("2", 40)]
    assert archive.query("SELECT count(*) FROM reprocessing_items") == [(0,)]
    with archive.database.autocommit() as connection:
        entries = [one for one in audit.page(connection, limit=1000) if one.action.startswith("reprocessing.")]
    (entry,) = entries
    assert (entry.actor, entry.action, entry.detail["model"]) == ("tester", "reprocessing.started", "cxr 2")


def test_many_workers_that_die_now_and_then_lose_nothing_and_score_nothing_twice(archive: Archive) -> None:
    archive.fill(300)
    number = archive.start().reprocessing_pk
    barrier = threading.Barrier(6)

    def work(n: int) -> list[int]:
        barrier.wait(10)
        mine: list[int] = []
        for turn in range(10_000):
            found = archive.claim(7, f"w{n}", lease_s=0.05 if turn % 3 == n % 3 else 60)
            if not found.jobs:
                if archive.now(number).state == "done":
                    return mine
                continue
            if turn % 3 != n % 3:  # else it dies with them: the lease is short
                archive.record(f"w{n}", scored=found.jobs)
                mine += [job.instance_pk for job in found.jobs]
        raise AssertionError("it does not end")

    with ThreadPoolExecutor(6) as pool:
        done = [pk for each in [pool.submit(work, n) for n in range(6)] for pk in each.result(120)]
    assert archive.now(number).failed == 0 or archive.now(number).ended == 300
    assert len(done) == len(set(done)) == archive.now(number).scored
    assert archive.query("SELECT count(*) FROM scores WHERE model_version = '2'") == [(len(done),)]


def test_a_walk_in_windows_leaves_nothing_out(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.reprocessing_queue._WINDOW_KEYS", 7)
    archive.fill(50)
    archive.fill(3, modality="CT", model=None)
    begun = archive.start(selection=Selection(modalities=("DX",)), when_idle=False)
    assert begun.total == 50
    assert len(archive.run(limit=10)) == 50
    assert archive.now(begun.reprocessing_pk).state == "done"


def test_what_comes_later_and_what_is_scored_already_is_passed_over(archive: Archive) -> None:
    archive.fill(5, model=NEW)
    archive.fill(5, model=OLD)
    begun = archive.start()
    assert begun.total == 5
    archive.fill(5, model=OLD)
    assert len(archive.run()) == 5
    assert archive.start().total == 5  # those that came later


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection(date_from=dt.date(2026, 1, 2)), {"hue", "now", "cr"}),
        (Selection(date_to=dt.date(2025, 12, 31)), {"old"}),
        (Selection(date_from=dt.date(2025, 1, 1), date_to=dt.date(2025, 12, 31)), {"old"}),
        (Selection(sites=("HUE",)), {"hue"}),
        (Selection(modalities=("CR",)), {"cr"}),
        (Selection(modalities=("CR", "DX"), sites=("",)), {"cr", "now", "old"}),
        (Selection(), {"cr", "now", "old", "hue"}),
    ],
)
def test_a_selection_takes_what_fits_all_of_it(archive: Archive, selection: Selection, expected: set[str]) -> None:
    kinds = {
        "old": {"study_date": dt.date(2025, 6, 1)},
        "hue": {"site": "HUE"},
        "cr": {"modality": "CR"},
        "now": {},
    }
    made = {name: archive.fill(1, **over)[0].header.sop_uid for name, over in kinds.items()}
    assert archive.start(selection=selection).total == len(expected)
    assert {job.sop_uid for job in archive.claim().jobs} == {made[name] for name in expected}


def test_uids_name_studies_series_and_instances_and_unknown_ones_are_refused(archive: Archive) -> None:
    made = [one.header for one in archive.fill(6)]
    uids = (str(made[0].study_uid), str(made[1].series_uid), str(made[2].sop_uid), str(made[2].study_uid))
    begun = archive.start(selection=Selection(uids=uids))
    assert (begun.total, begun.selection) == (3, {"uids": 4})
    assert {job.sop_uid for job in archive.claim().jobs} == {one.sop_uid for one in made[:3]}
    with pytest.raises(InvalidInput, match=r"Not in this archive: 1\.2\.3\.4\."):
        archive.start(OLD, Selection(uids=(*uids, "1.2.3.4")))


def test_refused_images_are_taken_only_when_asked_for(archive: Archive) -> None:
    archive.fill(2)
    refused = archive.fill(1, model=None)[0]
    with archive.database.autocommit() as connection:
        connection.execute("UPDATE instances SET triage = 'not_eligible' WHERE sop_uid = %s", (refused.header.sop_uid,))
        connection.execute("DELETE FROM jobs")
    assert archive.start().total == 2
    assert archive.start(OLD, Selection(refused=True)).total == 1  # it alone lacks the old score


def test_live_images_go_first_unless_told_otherwise(archive: Archive) -> None:
    archive.fill(4)
    number = archive.start().reprocessing_pk
    archive.fill(1, model=None)  # a live image waits
    assert archive.claim().jobs == []
    with archive.database.transaction() as connection:
        (live,) = jobs.claim(connection, "live", 8, 60)
    assert archive.claim().jobs == []  # it is being read
    with archive.database.transaction() as connection:
        jobs.done(connection, [live.job_pk])
    assert len(archive.claim(2).jobs) == 2
    archive.change("cancel", number)
    archive.fill(1, model=None)
    archive.start(when_idle=False)
    assert len(archive.claim(2).jobs) == 2


def test_a_job_that_waits_for_its_next_try_holds_nothing_up(archive: Archive) -> None:
    archive.fill(4)
    archive.fill(1, model=None)
    with archive.database.transaction() as connection:
        (live,) = jobs.claim(connection, "live", 8, 60)
        jobs.fail(connection, live.job_pk, "damaged", backoff_s=1000)
    archive.start()
    assert len(archive.claim().jobs) == 5


def test_the_rate_holds_for_all_workers_together(archive: Archive) -> None:
    archive.fill(40)
    archive.start(images_per_s=4.0)
    assert len(archive.claim(100, "one").jobs) == 4  # a second's worth
    found = archive.claim(100, "two")
    assert found.jobs == []
    assert 0.5 < found.wait_s <= 1.0


def test_pause_hands_out_nothing_and_lets_what_is_in_hand_be_recorded(archive: Archive) -> None:
    archive.fill(6)
    number = archive.start().reprocessing_pk
    held = archive.claim(2).jobs
    assert archive.change("pause", number).state == "paused"
    assert archive.claim().jobs == []
    archive.record(scored=held)
    assert archive.now(number).scored == 2
    with pytest.raises(Conflict, match="is paused"):
        archive.change("pause", number)
    assert archive.change("resume", number).state == "running"
    assert len(archive.run()) == 4


def test_after_cancel_nothing_more_is_written_and_what_was_scored_stays(archive: Archive) -> None:
    archive.fill(6)
    number = archive.start().reprocessing_pk
    archive.record(scored=archive.claim(2).jobs)
    held = archive.claim(2).jobs
    assert archive.change("cancel", number).state == "cancelled"
    archive.record(scored=held)
    assert archive.now(number).scored == 2
    assert archive.query("SELECT count(*) FROM scores WHERE model_version = '2'") == [(2,)]
    assert archive.query("SELECT count(*) FROM reprocessing_items") == [(0,)]
    for change in ("resume", "pause", "cancel"):
        with pytest.raises(Conflict):
            archive.change(change, number)
    assert archive.start().total == 4  # the next one goes on where this one ended


def test_the_same_model_is_not_run_twice_at_a_time(archive: Archive) -> None:
    archive.fill(2)
    number = archive.start().reprocessing_pk
    with pytest.raises(Conflict, match="already"):
        archive.start()
    archive.change("cancel", number)
    archive.start()
    with pytest.raises(NotFound):
        archive.now(number + 1000)
    with pytest.raises(InvalidInput):
        archive.start(OLD, images_per_s=0.0)
    with pytest.raises(InvalidInput):
        Selection(date_from=dt.date(2026, 1, 2), date_to=dt.date(2026, 1, 1))


def test_a_lease_that_ended_is_somebody_elses_and_the_late_result_counts_for_nothing(archive: Archive) -> None:
    archive.fill(1)
    number = archive.start().reprocessing_pk
    late = archive.claim(1, "late", lease_s=-1).jobs
    (again,) = archive.claim(1, "next").jobs
    assert again.attempts == 2
    archive.record("late", scored=late)
    assert archive.now(number).scored == 0
    assert archive.query("SELECT count(*) FROM scores WHERE model_version = '2'") == [(0,)]
    archive.record("next", scored=[again])
    assert archive.now(number).scored == 1


def test_a_lease_can_be_made_longer(archive: Archive) -> None:
    archive.fill(1)
    archive.start()
    (job,) = archive.claim(1, lease_s=-1).jobs
    with archive.database.transaction() as connection:
        from storage import reprocessing_queue

        reprocessing_queue.extend(connection, [job.job_pk], 60)
    assert archive.claim(1, "another").jobs == []


def test_what_fails_is_tried_again_then_given_up_with_its_reason_and_can_be_tried_later(archive: Archive) -> None:
    archive.fill(2)
    number = archive.start().reprocessing_pk
    good, bad = archive.claim().jobs
    archive.record(scored=[good], failed=[(bad, "damaged\0")], max_attempts=2, backoff_s=0)
    (bad,) = archive.claim().jobs
    assert bad.attempts == 2
    archive.record(failed=[(bad, "damaged")], max_attempts=2)
    assert archive.claim().jobs == []
    ended = archive.now(number)
    assert (ended.state, ended.scored, ended.failed) == ("done", 1, 1)
    with archive.database.autocommit() as connection:
        (item,) = reprocessing.ended_items(connection, number)
        assert (item.sop_uid, item.state, item.reason, item.attempts) == (bad.sop_uid, "failed", "damaged", 2)
        assert jobs.counts(connection) == (0, 0, 0)  # the live queue knows nothing of it
    assert archive.query("SELECT triage FROM instances WHERE sop_uid = %s", bad.sop_uid) == [("scored",)]
    again = archive.change("resume", number, failed=True)
    assert (again.state, again.failed) == ("running", 0)
    assert len(archive.run()) == 1


def test_an_image_that_ends_its_workers_is_given_up(archive: Archive) -> None:
    archive.fill(1)
    number = archive.start().reprocessing_pk
    for _ in range(2):
        assert len(archive.claim(1, lease_s=-1, max_attempts=2).jobs) == 1
    assert archive.claim(1, max_attempts=2).jobs == []
    assert (archive.now(number).state, archive.now(number).failed) == ("done", 1)


def test_what_the_model_refuses_keeps_its_old_score(archive: Archive) -> None:
    (made,) = archive.fill(1, **IN_TIME)
    number = archive.start().reprocessing_pk
    (job,) = archive.claim().jobs
    before = archive.listed(made)
    archive.record(refused=[(job, "not a chest")])
    assert archive.now(number).refused == 1
    assert archive.listed(made) == before
    assert archive.query("SELECT triage FROM instances") == [("scored",)]


def test_an_unread_study_in_time_comes_forward_and_is_never_pushed_back(archive: Archive) -> None:
    (made,) = archive.fill(1, **IN_TIME)
    assert archive.listed(made).due_at == made.latest_due_at
    archive.start()
    archive.run()
    row = archive.listed(made)
    assert (row.flagged, row.due_at, row.model) == (True, made.received_at, "cxr 2")
    third = reprocessing.ModelRef("cxr", "3", "03" * 32)
    archive.start(third)
    archive.record(model=third, probability=0.01, scored=archive.claim().jobs)
    assert archive.listed(made).due_at == made.received_at


def test_a_read_study_is_left_as_it_was_read(archive: Archive) -> None:
    (made,) = archive.fill(1, **IN_TIME)
    with archive.database.transaction() as connection:
        worklist.mark_read(connection, made.header.study_uid, "dr")
    before = archive.listed(made)
    archive.start()
    assert len(archive.run()) == 1
    assert archive.listed(made) == before
    with archive.database.transaction() as connection:
        worklist.reopen(connection, made.header.study_uid, "dr")
    assert archive.listed(made).due_at == made.latest_due_at


def test_a_study_past_its_time_shows_the_flag_and_keeps_its_place(archive: Archive) -> None:
    (made,) = archive.fill(1, **LATE)
    archive.start()
    archive.run()
    row = archive.listed(made)
    assert (row.flagged, row.due_at, row.reason) == (True, made.latest_due_at, "found later: abnormal, 0.90")


def test_a_study_that_was_removed_meanwhile_does_not_stop_it(archive: Archive) -> None:
    made = archive.fill(3)
    number = archive.start().reprocessing_pk
    held = archive.claim(1).jobs
    with archive.database.autocommit() as connection:
        connection.execute("DELETE FROM scores")
        connection.execute("DELETE FROM instances WHERE sop_uid <> %s", (made[2].header.sop_uid,))
    archive.record(scored=held)
    assert len(archive.run()) == 1
    ended = archive.now(number)
    assert (ended.state, ended.scored, ended.total) == ("done", 1, 1)


def test_scores_in_shadow_count_for_a_run_in_shadow_only(archive: Archive) -> None:
    archive.fill(2)
    with archive.database.autocommit() as connection:
        connection.execute("UPDATE scores SET shadow = true")
    assert archive.start(OLD, shadow=True).total == 0
    archive.claim()
    assert archive.start(OLD, shadow=False).total == 2


def test_a_pace_and_the_time_that_is_left_are_told(archive: Archive) -> None:
    archive.fill(50)
    number = archive.start().reprocessing_pk
    assert archive.now(number).left_s is None
    for _ in range(5):
        archive.record(scored=archive.claim(5).jobs)
    now = archive.now(number)
    assert now.pace > 0
    assert now.left_s == pytest.approx(25 / now.pace)
