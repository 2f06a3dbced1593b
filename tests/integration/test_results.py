"""What models said, written as DICOM objects: what is due, written once, whatever happens, and harming no worklist."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from reported import Reported, film
from running import until
from workitems import workitem

from pacs import exchange as exchange_process
from pacs import results as task
from pacs import resultwriting
from pacs.samples import wrap
from pacs.ups import steps
from pacs.ups.performing import work_off
from storage import changes, removal, results, worklist
from storage.database import Database
from storage.errors import ObjectStoreUnavailable
from storage.objects import ObjectStore

SR, PR, SC = "1.2.840.10008.5.1.4.1.1.88.34", "1.2.840.10008.5.1.4.1.1.11.1", "1.2.840.10008.5.1.4.1.1.7"
ALL = [("sr", "written"), ("pr", "written"), ("sc", "written")]


@pytest.fixture
def archive(database: Database, store: ObjectStore) -> Reported:
    return Reported(database, store)


def item(archive: Reported, study_uid: str) -> worklist.Item:
    with archive.database.autocommit() as connection:
        return worklist.item(connection, study_uid)


def test_a_flagged_film_gets_its_three_objects_once(archive: Reported) -> None:
    taken = film(PatientName="Nguyễn^Thị Ánh", AccessionNumber="PHIẾU 7")
    score = archive.score(archive.take(taken))
    assert archive.write() == 1
    assert archive.states() == ALL
    (report,), (state,), (capture,) = (archive.objects_of(kind) for kind in ("sr", "pr", "sc"))
    assert [one.SOPClassUID for one in (report, state, capture)] == [SR, PR, SC]
    for one in (report, state, capture):
        assert str(one.PatientName) == "Nguyễn^Thị Ánh"
        assert (one.StudyInstanceUID, one.AccessionNumber) == (score.study_uid, "PHIẾU 7")
        assert one.SpecificCharacterSet == "ISO_IR 192"
    assert len({one.SeriesInstanceUID for one in (report, state, capture)}) == 3
    assert archive.write() == 0, "nothing is left"
    assert archive.count("instances") == 4


def test_they_make_no_job_and_move_no_row_of_the_worklist(archive: Reported) -> None:
    score = archive.score(archive.take(film()))
    with archive.database.autocommit() as connection:
        worklist.mark_read(connection, score.study_uid, "Dr An")
    before = item(archive, score.study_uid)
    archive.write()
    after = item(archive, score.study_uid)
    assert archive.count("jobs") == 0
    assert (after.state, after.due_at, after.status, after.read_by) == ("read", before.due_at, "scored", "Dr An")
    assert archive.count("instances WHERE triage = 'not_eligible'") == 3
    archive.take(film(4, StudyInstanceUID=score.study_uid, PatientID="X"))
    assert item(archive, score.study_uid).state == "open", "another film does bring it back"


def test_what_is_not_flagged_gets_none_unless_a_workitem_asked(archive: Reported) -> None:
    archive.score(archive.take(film(1)), 0.2)
    taken = film(2)
    asked, study = archive.take(taken), str(taken.StudyInstanceUID)
    with archive.database.transaction() as connection:
        steps.create(connection, "1.2.826.9", workitem(study, analysis=True), "PACS")
    assert work_off(archive.database, retrieve_from="SANGLOC") == 1
    archive.score(asked, 0.3)
    assert work_off(archive.database, retrieve_from="SANGLOC") == 0, "it waits for what will be written"
    archive.write()
    assert archive.states() == [("sr", "written"), ("pr", "skipped"), ("sc", "skipped")]
    assert work_off(archive.database, retrieve_from="SANGLOC") == 1
    with archive.database.autocommit() as connection:
        ((attributes,),) = connection.execute("SELECT attributes FROM workitems").fetchall()
    (performed,) = attributes["00741216"]["Value"]
    (output,) = performed["00404033"]["Value"]
    (report,) = archive.objects_of("sr")
    assert output["00081199"]["Value"][0]["00081155"]["Value"] == [report.SOPInstanceUID]
    assert output["0020000D"]["Value"] == [study]


@pytest.mark.parametrize(("objects", "due"), [("none", []), ("sr", [("sr", "written")])])
def test_the_setting_says_what_is_written(database: Database, store: ObjectStore, objects: str, due: list[Any]) -> None:
    archive = Reported(database, store, objects)
    archive.score(archive.take(film()))
    archive.write()
    assert archive.states() == due
    for report in archive.objects_of("sr"):
        kinds = [group.ValueType for one in report.ContentSequence for group in one.get("ContentSequence", ())]
        assert "SCOORD" not in str(kinds)


def test_without_a_map_there_is_nothing_to_draw(archive: Reported) -> None:
    archive.score(archive.take(film()), maps=False)
    archive.look()
    with archive.database.autocommit() as connection:
        connection.execute("UPDATE scores SET scored_at = now() - interval '10 minutes'")
    archive.write()
    assert archive.states() == [("sr", "written"), ("pr", "skipped"), ("sc", "skipped")]


def test_maps_that_come_a_moment_later_are_waited_for(archive: Reported) -> None:
    score = archive.score(archive.take(film()), maps=False)
    archive.write()
    assert archive.states() == [(kind, "waiting") for kind, _ in ALL]
    archive.explain(score)
    with archive.database.autocommit() as connection:
        connection.execute("UPDATE results SET run_after = now()")
    archive.write()
    assert archive.states() == ALL


def test_old_images_and_shadows_get_none(archive: Reported) -> None:
    archive.score(archive.take(film(1)), shadow=True, maps=False)
    archive.score(archive.take(film(2)))
    with archive.database.autocommit() as connection:
        connection.execute("UPDATE instances SET received_at = now() - interval '2 days'")
    archive.write()
    assert archive.states() == []


def test_what_was_removed_gets_none_and_what_somebody_removed_stays_away(archive: Reported) -> None:
    score = archive.score(archive.take(film()))
    archive.write()
    (capture,) = archive.objects_of("sc")
    scope, by = (
        removal.Scope(study_uid=score.study_uid, sop_uids=(str(capture.SOPInstanceUID),)),
        changes.By(actor="Dr An", reason="other"),
    )
    changes.write(archive.database, lambda c: removal.remove(c, "delete", scope, by, grace=None))
    with archive.database.autocommit() as connection:
        connection.execute("UPDATE results SET state = 'waiting', run_after = now() WHERE kind = 'sc'")
    archive.write()
    assert ("sc", "skipped") in archive.states()
    assert archive.objects_of("sc") == []


def test_a_store_that_is_away_costs_no_try_and_loses_nothing(
    archive: Reported, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.score(archive.take(film()))

    def away(*_: Any) -> Any:
        raise ObjectStoreUnavailable("no answer")

    with monkeypatch.context() as broken:
        broken.setattr(type(archive.store), "read", away)
        with pytest.raises(ObjectStoreUnavailable):
            archive.write()
    assert archive.rows("state, attempts") == [("waiting", 0)] * 3
    with archive.database.autocommit() as connection:
        connection.execute("UPDATE results SET run_after = now()")
    archive.write()
    assert archive.states() == ALL


def test_what_cannot_be_made_is_given_up_with_its_reason(archive: Reported, monkeypatch: pytest.MonkeyPatch) -> None:
    archive.score(archive.take(film()))

    def broken(*_: Any) -> Any:
        raise ValueError("no such thing")

    monkeypatch.setattr(resultwriting, "structured_report", broken)
    for _ in range(8):
        archive.write()
        with archive.database.autocommit() as connection:
            connection.execute("UPDATE results SET run_after = now()")
    assert archive.rows("state, reason")[0] == ("dead", "ValueError: no such thing")


def _die_after(conninfo: str, folder: str, notes: int) -> None:
    """Write what is due in this process, which is killed in place of the `notes`-th note of what was written."""
    from storage.objects.directory import DirectoryStore

    left, note = [notes], results.written

    def noted(*args: Any, **kwargs: Any) -> None:
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        note(*args, **kwargs)

    results.written = noted
    Reported(Database(conninfo), DirectoryStore(Path(folder))).write()


@pytest.mark.parametrize("notes", [1, 2, 3])
def test_a_killed_process_writes_nothing_twice(archive: Reported, conninfo: str, tmp_path: Path, notes: int) -> None:
    archive.score(archive.take(film()))
    process = multiprocessing.get_context("spawn").Process(
        target=_die_after, args=(conninfo, str(tmp_path / "objects"), notes)
    )
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert archive.count("instances") == 1 + notes, "the last one is there, and the note of it is not"
    assert archive.states().count(("sr", "waiting")) == (notes == 1)
    assert archive.write() == 0, "it is another's until the lease ends"
    with archive.database.autocommit() as connection:
        connection.execute("UPDATE results SET run_after = now()")
    archive.write()
    assert archive.states() == ALL
    assert archive.count("instances") == 4
    assert archive.count("set_aside") == 0


def test_the_same_score_gives_the_same_bytes(archive: Reported) -> None:
    archive.score(archive.take(film()))
    archive.write()
    first = {one.SOPInstanceUID: one.to_json() for kind in ("sr", "pr", "sc") for one in archive.objects_of(kind)}
    with archive.database.autocommit() as connection:
        connection.execute("UPDATE instances SET sop_uid = sop_uid || '.1' WHERE source_aet = 'SANGLOC'")
        connection.execute("UPDATE results SET state = 'waiting', run_after = now()")
    archive.write()
    again = {one.SOPInstanceUID: one.to_json() for kind in ("sr", "pr", "sc") for one in archive.objects_of(kind)}
    assert again == first


@contextlib.contextmanager
def running(archive: Reported) -> Iterator[None]:
    """The exchange process with this task alone."""
    stop = threading.Event()
    thread = threading.Thread(target=exchange_process.run, args=(archive.exchange, stop, [("results", task.write)]))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(20)
        assert not thread.is_alive()


def test_the_task_writes_by_itself(archive: Reported) -> None:
    with running(archive):
        archive.score(archive.take(film()))
        with archive.database.autocommit() as connection:
            worklist.announce(connection)
        until(lambda: archive.states() == ALL, 60, "written")


def test_the_task_gives_up_what_the_setting_does_not_want_any_more(archive: Reported) -> None:
    archive.score(archive.take(film()))
    archive.look()
    archive.objects = "none"
    with running(archive):
        until(lambda: {state for _, state in archive.states()} == {"skipped"}, 30, "given up")
        archive.score(archive.take(film(5)))
    archive.objects = "all"
    with archive.database.autocommit() as connection:
        results.pass_over(connection)
    archive.write()
    assert archive.count("instances") == 2


def test_regions_lie_on_the_film_as_it_is_stored(archive: Reported, shared: Path) -> None:
    picture = min((shared / "cxr" / "images" / "nih").iterdir())
    grey = cv2.imread(str(picture), cv2.IMREAD_GRAYSCALE)
    assert grey is not None
    upright, turned = wrap(grey, 1, 0), wrap(np.ascontiguousarray(np.rot90(grey, 2)), 2, 0)
    archive.score(archive.take(upright))
    note = ("the image was upside down and was turned upright",)
    archive.score(archive.take(turned), notes=note)
    archive.write()
    straight, inverted = (
        np.reshape(one.GraphicAnnotationSequence[0].GraphicObjectSequence[0].GraphicData, (-1, 2))
        for one in archive.objects_of("pr")
    )
    size = np.array([upright.Columns, upright.Rows])
    assert np.allclose(np.ptp(straight, axis=0), np.ptp(inverted, axis=0), atol=0.2)
    assert np.allclose(straight.min(axis=0) + inverted.max(axis=0), size, atol=0.2)
    first, second = (one.pixel_array.astype(int)[48:-120] for one in archive.objects_of("sc"))
    assert np.abs(first - second).mean() < 12, "both pictures show the film upright"
