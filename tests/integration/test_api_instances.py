"""Studies, series, instances; the file as it came; pictures; findings with their source."""

from __future__ import annotations

import hashlib
from io import BytesIO

import cv2
import httpx
import numpy as np
import pydicom
import pytest
from archive import WEIGHTS, Archive
from http_server import problem


def test_study_series_and_instance(archive: Archive, http: httpx.Client) -> None:
    first = archive.add(patient_name="Nguyễn^Văn An=阮文安")
    header = first.header
    archive.add(study_uid=header.study_uid, series_uid=header.series_uid, patient_id=header.patient_id)
    study = http.get(f"/api/studies/{header.study_uid}").json()
    assert study["patient_name"].startswith("Nguyễn Văn An")
    assert (study["series_count"], study["instance_count"], study["modalities"]) == (1, 2, ["DX"])
    (series,) = study["series"]
    assert http.get(f"/api/studies/{header.study_uid}/series/{header.series_uid}").json() == series
    assert len(series["instances"]) == 2
    instance = http.get(f"/api/instances/{header.sop_uid}").json()
    assert instance == series["instances"][0]
    assert instance["sha256"] == first.sha256.hex()
    assert (instance["rows"], instance["study_uid"]) == (8, header.study_uid)


def test_lookup(archive: Archive, http: httpx.Client) -> None:
    one = archive.add(patient_name="Nguyễn^Văn An").header
    two = archive.add(patient_name="Trần^Văn Bình", modality="CR").header

    def found(**parameters: str) -> list[str]:
        answer = http.get("/api/studies", params=parameters)
        assert answer.status_code == 200
        return [item["study_uid"] for item in answer.json()["items"]]

    assert set(found(name="van")) == {one.study_uid, two.study_uid}
    assert found(name="an nguyen") == [one.study_uid]
    assert found(patient_id=two.patient_id) == found(accession=two.accession_number) == [two.study_uid]
    assert found(modality="CR", date_from="2026-03-02", date_to="2026-03-02") == [two.study_uid]
    assert found(date_to="2026-03-01") == []
    assert http.get("/api/studies", params={"limit": 1}).json()["more"] is True


@pytest.mark.parametrize(
    "path",
    [
        "studies/1.2.3",
        "studies/1.2.3/findings",
        "studies/1.2.3/series/1.2.3",
        "instances/1.2.3",
        "instances/1.2.3/file",
        "instances/1.2.3/rendered",
    ],
)
def test_what_is_not_there(http: httpx.Client, path: str) -> None:
    assert "1.2.3" in str(problem(http.get(f"/api/{path}"), 404)["detail"])


@pytest.mark.parametrize("uid", ["1..2", "01.2", "1.2.", "x", "1" * 65, "1.2\n", "%2e%2e", "1.2%00"])
def test_what_is_no_uid(http: httpx.Client, uid: str) -> None:
    for kind in ("studies", "studies/1.2/series", "instances"):
        problem(http.get(f"/api/{kind}/{uid.replace(chr(10), '%0A')}"), 422)


def test_the_file_is_the_one_that_was_stored_byte_for_byte(archive: Archive, http: httpx.Client) -> None:
    received = archive.add(np.random.default_rng(1).integers(0, 4096, (1500, 1200)).astype(np.uint16))
    path = f"/api/instances/{received.header.sop_uid}/file"
    answer = http.get(path)
    assert answer.content == archive.store.read(received.object_key)
    assert answer.headers["content-type"] == "application/dicom"
    assert answer.headers["content-disposition"] == f'attachment; filename="{received.header.sop_uid}.dcm"'
    digest = hashlib.sha256(answer.content[received.dataset_offset :]).hexdigest()
    assert answer.headers["etag"] == f'"{digest}"'
    assert "private" in answer.headers["cache-control"]
    assert pydicom.dcmread(BytesIO(answer.content)).SOPInstanceUID == received.header.sop_uid
    again = http.get(path, headers={"If-None-Match": f'"other", "{digest}"'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", f'"{digest}"')
    assert http.get(path, headers={"If-None-Match": '"other"'}).status_code == 200


def test_who_took_a_file_or_looked_at_a_picture_is_in_the_audit_log(archive: Archive, http: httpx.Client) -> None:
    header = archive.add().header
    http.get(f"/api/instances/{header.sop_uid}/file")
    http.get(f"/api/instances/{header.sop_uid}/rendered")
    http.get(f"/api/instances/{header.sop_uid}/rendered?window_center=3&window_width=5")
    log = http.get("/api/audit", params={"study_uid": header.study_uid, "limit": 2}).json()
    assert [entry["action"] for entry in log["items"]] == ["instance.viewed", "instance.downloaded"]
    assert log["items"][0]["detail"] == {"sop_uid": header.sop_uid}
    assert log["next"] is not None


def test_an_object_that_is_gone_is_no_404(archive: Archive, http: httpx.Client) -> None:
    received = archive.add()
    archive.store.delete(received.object_key)
    for what in ("file", "rendered"):
        body = problem(http.get(f"/api/instances/{received.header.sop_uid}/{what}"), 503)
        assert received.object_key not in str(body)


def test_a_picture_with_window_and_size(archive: Archive, http: httpx.Client) -> None:
    ramp = np.tile(np.arange(0, 4000, 10, dtype=np.uint16), (100, 1))
    path = f"/api/instances/{archive.add(ramp).header.sop_uid}/rendered"
    answer = http.get(path, params={"window_center": 1000, "window_width": 500, "size": 200})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    image = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_UNCHANGED)
    assert image.shape == (50, 200)
    assert image[0, 30] == 0
    assert image[0, 80] == 255
    assert abs(int(image[0, 50]) - 128) < 6
    assert answer.headers["x-window"] == "1000,500"
    jpeg = http.get(path, params={"format": "jpeg"})
    assert jpeg.content.startswith(b"\xff\xd8")
    assert jpeg.headers["x-values"] == "0,3990"
    tag = jpeg.headers["etag"]
    assert http.get(path, params={"format": "jpeg"}, headers={"If-None-Match": tag}).status_code == 304
    assert http.get(path, headers={"If-None-Match": tag}).status_code == 200  # another picture


def test_what_cannot_be_shown_says_why(archive: Archive, http: httpx.Client) -> None:
    cut = archive.add(part10_over={"PixelData": b"\0\0"}).header.sop_uid
    assert "cannot be decoded" in str(problem(http.get(f"/api/instances/{cut}/rendered"), 422)["detail"])
    huge = archive.add(part10_over={"Rows": 30000, "Columns": 30000}).header.sop_uid
    assert "too large" in str(problem(http.get(f"/api/instances/{huge}/rendered"), 422)["detail"])
    path = f"/api/instances/{archive.add().header.sop_uid}/rendered"
    problem(http.get(path, params={"frame": 2}), 422)
    problem(http.get(path, params={"window_center": 5}), 400)
    for wrong in ({"size": 0}, {"size": 4097}, {"format": "gif"}, {"window_width": "nan", "window_center": 1}):
        problem(http.get(path, params=wrong), 422)


def test_every_number_has_its_source(archive: Archive, http: httpx.Client) -> None:
    received = archive.add()
    path = f"/api/studies/{received.header.study_uid}/findings"
    assert http.get(path).json() == {"items": []}
    archive.score(received, 0.75, Effusion=0.6, Hernia=0.1)
    (score,) = http.get(path).json()["items"]
    assert (score["model_name"], score["model_version"], score["weights_sha256"]) == ("chest_xray", "0.1.0", WEIGHTS)
    assert (score["engine"], score["threshold"], score["flagged"]) == ("openvino", 0.5, True)
    assert (score["decode_ms"], score["inference_ms"]) == (41.5, 15.25)
    assert score["sop_uid"] == received.header.sop_uid
    assert [(one["name"], one["above"]) for one in score["findings"]] == [
        ("Abnormal", True),
        ("Effusion", True),
        ("Hernia", False),
    ]
    assert score["findings"][1]["probability"] == pytest.approx(0.6, abs=1e-6)
