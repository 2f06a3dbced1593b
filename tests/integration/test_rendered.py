"""WADO-RS pictures and thumbnails over HTTP (PS3.18 10.4.1.1.3, 8.3.5)."""

from __future__ import annotations

from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from archive import Archive
from http_server import problem
from related import parts_of

RAMP = np.tile(np.arange(0, 4000, 10, dtype=np.uint16), (100, 1))
WEB = "/dicom-web"


def image_of(data: bytes) -> np.ndarray:
    found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert found is not None
    return found


def path_of(header: Any, suffix: str = "rendered") -> str:
    return f"{WEB}/studies/{header.study_uid}/series/{header.series_uid}/instances/{header.sop_uid}/{suffix}"


def test_a_picture_as_asked(archive: Archive, http: httpx.Client) -> None:
    path = path_of(archive.add(RAMP).header)
    plain = http.get(path)
    assert plain.headers["content-type"] == "image/jpeg"
    assert image_of(plain.content).shape == (100, 400)
    answer = http.get(
        path, params={"viewport": "200,200", "window": "1000,500,linear"}, headers={"Accept": "image/png"}
    )
    image = image_of(answer.content)
    assert (answer.headers["content-type"], image.shape) == ("image/png", (50, 200))
    assert (image[0, 30], image[0, 80]) == (0, 255)
    assert abs(int(image[0, 50]) - 128) < 6
    small = http.get(path, params={"quality": 5}).content
    assert len(small) < len(plain.content)
    for browser in ("image/avif,image/webp,image/*;q=0.8,*/*;q=0.5", "*/*"):
        assert http.get(path, headers={"Accept": browser}).headers["content-type"] == "image/jpeg"


def test_window_functions(archive: Archive, http: httpx.Client) -> None:
    path = path_of(archive.add(RAMP).header)
    at = (RAMP[0].astype(float) - 2000) / 1000
    wanted = {"linear-exact": np.clip(at + 0.5, 0, 1), "sigmoid": 1 / (1 + np.exp(-4 * at))}
    for function, shades in wanted.items():
        answer = http.get(path, params={"window": f"2000,1000,{function}"}, headers={"Accept": "image/png"})
        assert np.abs(image_of(answer.content)[0].astype(int) - 255 * shades).max() <= 1


def test_a_region_scaled_and_turned_over(archive: Archive, http: httpx.Client) -> None:
    path, png = path_of(archive.add(RAMP).header), {"Accept": "image/png"}
    whole = image_of(http.get(path, params={"window": "2000,4000,linear"}, headers=png).content)

    def region(viewport: str) -> np.ndarray:
        answer = http.get(path, params={"window": "2000,4000,linear", "viewport": viewport}, headers=png)
        assert answer.status_code == 200, answer.text
        return image_of(answer.content)

    assert (region("100,50,200,10,100,50") == whole[10:60, 200:300]).all()
    assert (region("100,50,200,10,-100,50") == whole[10:60, 200:300][:, ::-1]).all()
    assert region("800,800").shape == (200, 800)
    assert (region("400,100,,,,") == whole).all()


@pytest.mark.parametrize(
    "query",
    [
        "viewport=5",
        "viewport=0,5",
        "viewport=99999,5",
        "viewport=a,b",
        "viewport=5,5,1,1",
        "viewport=5,5,0,0,0,5",
        "viewport=nan,5",
        "window=1",
        "window=1,0,linear",
        "window=1,2,cubic",
        "window=1,0.5,linear",
        "window=1e999,5",
        "annotation=everything",
    ],
)
def test_what_makes_no_sense_is_refused(archive: Archive, http: httpx.Client, query: str) -> None:
    problem(http.get(f"{path_of(archive.add().header)}?{query}"), 400)


def test_frames(archive: Archive, http: httpx.Client) -> None:
    frames = np.stack([np.full((10, 20), shade, np.uint8) for shade in (0, 50, 100, 250)])
    over = {"WindowCenter": 128, "WindowWidth": 256, "RepresentativeFrameNumber": 3}
    header = archive.add(frames, part10_over=over).header
    png, related = {"Accept": "image/png"}, {"Accept": 'multipart/related; type="image/png"'}

    def shade(data: bytes) -> int:
        return int(image_of(data)[5, 5])

    assert shade(http.get(path_of(header), headers=png).content) == pytest.approx(100, abs=1)
    for number, wanted in enumerate((0, 50, 100, 250), start=1):
        got = http.get(path_of(header, f"frames/{number}/rendered"), headers=png).content
        assert shade(got) == pytest.approx(wanted, abs=1)
    some = parts_of(http.get(path_of(header, "frames/4,1/rendered"), headers=related))
    assert [shade(one) for _, one in some] == [pytest.approx(250, abs=1), 0]
    assert len(parts_of(http.get(path_of(header), headers=related))) == 4
    problem(http.get(path_of(header, "frames/5/rendered")), 404)
    problem(http.get(path_of(header, "frames/1,2/rendered"), headers=png), 406)
    for wrong in ("0", "x", "1,,2", "-1", "1;2"):
        problem(http.get(path_of(header, f"frames/{wrong}/rendered")), 400)


def test_pictures_of_a_series_and_thumbnails(archive: Archive, http: httpx.Client) -> None:
    first = archive.add(RAMP, instance_number=1).header
    same = {"study_uid": first.study_uid, "series_uid": first.series_uid}
    for number, factor in ((2, 0), (3, 1)):
        archive.add(RAMP * factor, instance_number=number, **same)
    archive.add(part10_over={"Rows": 0}, instance_number=4, **same)  # no image
    series = f"{WEB}/studies/{first.study_uid}/series/{first.series_uid}"
    for level in (f"{WEB}/studies/{first.study_uid}", series):
        answer = http.get(f"{level}/rendered", headers={"Accept": 'multipart/related; type="image/jpeg"'})
        assert len(parts_of(answer)) == 3
        problem(http.get(f"{level}/rendered", headers={"Accept": "image/jpeg"}), 406)
        thumbnail = http.get(f"{level}/thumbnail")
        assert image_of(thumbnail.content).shape == (64, 256)
    assert image_of(http.get(f"{series}/thumbnail?viewport=40,40").content).shape == (10, 40)
    assert image_of(http.get(path_of(first, "thumbnail")).content).shape == (64, 256)
    assert image_of(http.get(path_of(first, "frames/1/thumbnail")).content).shape == (64, 256)


def test_a_picture_is_made_once(archive: Archive, http: httpx.Client) -> None:
    received = archive.add(RAMP)
    path = path_of(received.header)
    first = http.get(path)
    assert http.get(path, headers={"If-None-Match": first.headers["etag"]}).status_code == 304
    archive.store.delete(received.object_key)
    assert http.get(path).content == first.content
    problem(http.get(path, params={"quality": 50}), 503)


def test_what_is_no_image_says_why(archive: Archive, http: httpx.Client) -> None:
    cut = archive.add(part10_over={"PixelData": b"\0\0"}).header
    assert "cut off" in str(problem(http.get(path_of(cut)), 422)["detail"])
    huge = archive.add(part10_over={"Rows": 30000, "Columns": 30000}).header
    assert "too large" in str(problem(http.get(path_of(huge)), 422)["detail"])
    problem(http.get(path_of(cut), headers={"Accept": "application/dicom"}), 406)
    for suffix in ("rendered", "thumbnail"):
        problem(http.get(f"{WEB}/studies/1.2.3/{suffix}"), 404)


def test_a_document_is_given_as_it_is(archive: Archive, http: httpx.Client) -> None:
    pdf, kind = b"%PDF-1.4 and so on", "1.2.840.10008.5.1.4.1.1.104.1"
    header = archive.add(part10_over={"EncapsulatedDocument": pdf, "SOPClassUID": kind}, sop_class=kind).header
    answer = http.get(path_of(header), headers={"Accept": "application/pdf"})
    assert (answer.headers["content-type"], answer.content) == ("application/pdf", pdf)
    problem(http.get(path_of(header), headers={"Accept": "image/jpeg"}), 406)
