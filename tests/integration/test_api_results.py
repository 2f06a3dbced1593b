"""The results of a study over HTTP: which objects were written, and the map of a film as a picture."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from archive import Archive
from http_server import problem
from reported import Reported, film


@pytest.fixture
def reported(archive: Archive) -> Reported:
    return Reported(archive.database, archive.store)


def alpha(answer: httpx.Response) -> np.ndarray:
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png"), answer.text
    picture = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_UNCHANGED)
    assert picture is not None
    assert picture.shape[2] == 4
    return picture[..., 3]


def test_the_objects_of_a_study_are_listed_with_what_became_of_them(http: httpx.Client, reported: Reported) -> None:
    score = reported.score(reported.take(film()))
    place = f"/api/studies/{score.study_uid}/results"
    assert http.get(place).json()["items"] == []
    reported.look()
    assert {one["state"] for one in http.get(place).json()["items"]} == {"waiting"}
    reported.write()
    found = http.get(place).json()
    assert [(one["kind"], one["state"]) for one in found["items"]] == [(kind, "written") for kind in ("sc", "pr", "sr")]
    (report,) = reported.objects_of("sr")
    assert found["items"][2]["sop_uid"] == report.SOPInstanceUID
    assert found["items"][2]["series_uid"] == report.SeriesInstanceUID
    assert found["items"][0]["model_version"] == "0.1.0"
    assert found["maps"] == [found["items"][0]["source_sop_uid"]]


def test_a_study_without_results_and_one_that_is_not_there(http: httpx.Client, reported: Reported) -> None:
    taken = film(2)
    reported.take(taken)
    assert http.get(f"/api/studies/{taken.StudyInstanceUID}/results").json() == {"items": [], "maps": []}
    problem(http.get("/api/studies/1.2.3.999/results"), 404)


def test_the_map_of_a_film_as_a_picture(http: httpx.Client, reported: Reported) -> None:
    taken = film()
    sop_uid = reported.take(taken)
    reported.score(sop_uid)
    place = f"/api/instances/{sop_uid}/map"
    whole = http.get(place, params={"size": 300})
    seen = alpha(whole)
    assert max(seen.shape) == 300
    assert seen.shape[1] / seen.shape[0] == pytest.approx(taken.Columns / taken.Rows, abs=0.01)
    one = alpha(http.get(place, params={"finding": "Effusion", "size": 300}))
    assert one[: one.shape[0] // 2].max() == 0, "the effusion lies below"
    assert seen[: seen.shape[0] // 2].max() > 0, "what is abnormal lies above, too"
    again = http.get(place, params={"size": 300}, headers={"If-None-Match": whole.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    problem(http.get(place, params={"finding": "Mass"}), 404)


def test_no_map_is_shown_that_does_not_fit_the_film(http: httpx.Client, reported: Reported) -> None:
    plain, turned = reported.take(film(1)), reported.take(film(2))
    reported.score(plain, maps=False)
    reported.score(turned, notes=("the image was upside down and was turned upright",))
    problem(http.get(f"/api/instances/{plain}/map"), 404)
    problem(http.get(f"/api/instances/{turned}/map"), 404)
    problem(http.get("/api/instances/1.2.3.999/map"), 404)
