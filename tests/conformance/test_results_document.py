"""The objects that we write of results: valid to dciodvfy, found and retrieved like others, shown by OHIF."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pydicom
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from browser import Browser
from http_server import client, serving
from ohif import beside
from reported import Reported, film

from storage.database import Database
from storage.objects import ObjectStore

KINDS = {"sr": "Comprehensive3DSR", "pr": "GrayscaleSoftcopyPresentationState", "sc": "SCImage"}
SHOWN = """(() => {
  const canvas = document.querySelector('canvas.cornerstone-canvas');
  if (!canvas || !canvas.width) return null;
  const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  let bright = 0, coloured = 0;
  for (let at = 0; at < pixels.length; at += 4) {
    bright += pixels[at] > 40;
    coloured += Math.abs(pixels[at] - pixels[at + 2]) > 60;
  }
  return WHAT / (pixels.length / 4) > LEAST;
})()"""


@pytest.fixture
def written(database: Database, store: ObjectStore) -> Reported:
    """An archive with one film whose results were written."""
    archive = Reported(database, store)
    archive.score(archive.take(film()))
    assert archive.write() == 1
    return archive


def complaints(file: Path, kind: str) -> list[str]:
    """What dciodvfy says is wrong, after it has taken the file for this kind of object."""
    tool = shutil.which("dciodvfy")
    if tool is None:
        pytest.skip("needs dciodvfy of dicom3tools")
    done = subprocess.run([tool, str(file)], capture_output=True, text=True, timeout=60, check=False)
    lines = (done.stderr + done.stdout).splitlines()
    assert kind in lines
    return [line for line in lines if line.startswith("Error")]


VARIANTS: dict[str, dict[str, Any]] = {
    "as sent": {},
    "MONOCHROME1 with a rescale": {
        "PhotometricInterpretation": "MONOCHROME1", "RescaleSlope": "2", "RescaleIntercept": "-5", "RescaleType": "US",
    },
    "no patient": {"PatientName": "", "PatientID": "", "PatientBirthDate": "", "PatientSex": "", "StudyDate": ""},
    "one name": {"PatientName": "NGUYEN VAN AN", "StudyTime": "07", "AccessionNumber": ""},
    "without a place": {"PatientOrientation": "", "ImagerPixelSpacing": None},
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_dciodvfy_finds_no_error(database: Database, store: ObjectStore, tmp_path: Path, variant: str) -> None:
    archive = Reported(database, store)
    archive.score(archive.take(film(**VARIANTS[variant])))
    archive.write()
    for kind, name in KINDS.items():
        (made,) = archive.objects_of(kind)
        file = tmp_path / f"{kind}.dcm"
        made.save_as(file, enforce_file_format=True)
        assert complaints(file, name) == []


def test_they_are_found_and_retrieved(written: Reported) -> None:
    with serving(written.database, written.store) as address, client(address) as http:
        ((study,),) = [(one["0020000D"]["Value"][0],) for one in http.get("/dicom-web/studies").json()]
        series = http.get(f"/dicom-web/studies/{study}/series").json()
        assert sorted(one["00080060"]["Value"][0] for one in series) == ["DX", "OT", "PR", "SR"]
        found = http.get("/dicom-web/studies", params={"ModalitiesInStudy": "SR"}).json()
        assert [one["0020000D"]["Value"][0] for one in found] == [study]
        for kind in KINDS:
            (made,) = written.objects_of(kind)
            place = f"/dicom-web/studies/{study}/series/{made.SeriesInstanceUID}/instances/{made.SOPInstanceUID}"
            assert retrieved(http, place) == made
            assert http.get(f"{place}/metadata").json()[0]["00080018"]["Value"] == [made.SOPInstanceUID]
        picture = http.get(f"{place}/rendered", headers={"Accept": "image/jpeg"})
        assert (picture.status_code, picture.headers["content-type"]) == (200, "image/jpeg")


def retrieved(http: httpx.Client, place: str) -> pydicom.Dataset:
    accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
    answer = http.get(place, headers={"Accept": accept})
    assert answer.status_code == 200, answer.text
    start = answer.content.index(b"\r\n\r\n") + 4
    return pydicom.dcmread(BytesIO(answer.content[start : answer.content.rindex(b"\r\n--")]))


def test_the_report_is_read_by_dcmtk(written: Reported, tmp_path: Path) -> None:
    tool = shutil.which("dsrdump")
    if tool is None:
        pytest.skip("needs dsrdump of DCMTK")
    (made,) = written.objects_of("sr")
    made.save_as(tmp_path / "sr.dcm", enforce_file_format=True)
    done = subprocess.run(
        [tool, "+Pc", "-Ee", str(tmp_path / "sr.dcm")], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    for said in ("Pleural effusion", "Probability", '"0.77"', "POLYLINE", "chest_xray", "Tracking Unique Identifier"):
        assert said in done.stdout


def test_the_presentation_state_is_read_by_dcmtk(written: Reported, tmp_path: Path) -> None:
    tool = shutil.which("dcmp2pgm")
    if tool is None:
        pytest.skip("needs dcmp2pgm of DCMTK")
    (made,) = written.objects_of("pr")
    made.save_as(tmp_path / "pr.dcm", enforce_file_format=True)
    taken = film()
    taken.SOPInstanceUID = taken.file_meta.MediaStorageSOPInstanceUID = _referenced(made)
    taken.save_as(tmp_path / "film.dcm", enforce_file_format=True)
    done = subprocess.run(
        [tool, "-p", str(tmp_path / "pr.dcm"), str(tmp_path / "film.dcm"), str(tmp_path / "film.pgm")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "film.pgm").stat().st_size > 1000


def _referenced(made: pydicom.Dataset) -> str:
    return str(made.ReferencedSeriesSequence[0].ReferencedImageSequence[0].ReferencedSOPInstanceUID)


# ---- OHIF


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    opened = Browser(tmp_path_factory.mktemp("chromium"))
    yield opened
    opened.close()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Where screenshots go: the folder that SANGLOC_SCREENSHOTS names, to be looked at."""
    named = os.environ.get("SANGLOC_SCREENSHOTS")
    return Path(named) if named else tmp_path


def shown(what: str, least: float) -> str:
    return SHOWN.replace("WHAT", what).replace("LEAST", str(least))


def test_ohif_shows_the_capture_in_colour(chromium: Browser, written: Reported, pictures: Path) -> None:
    (made,) = written.objects_of("sc")
    with serving(written.database, written.store) as address, beside(address) as (viewer, seen):
        chromium.open(
            f"{viewer}/viewer?StudyInstanceUIDs={made.StudyInstanceUID}"
            f"&initialSeriesInstanceUID={made.SeriesInstanceUID}"
        )
        chromium.wait_for(shown("coloured", 0.002), 90)
        chromium.screenshot(pictures / "ohif-sc.png")
        assert any(made.SOPInstanceUID in path and "/frames/1" in path for path, _ in seen)
        assert [one for one in seen if one[1] not in {200, 204, 206}] == []


OPEN_REPORT = """(() => {
  const shown = [...document.querySelectorAll('[data-cy=study-browser-thumbnail-no-image]')];
  const report = shown.find((one) => one.innerText.trim().startsWith('SR'));
  if (!report) return false;
  for (const name of ['mousedown', 'mouseup', 'click', 'mousedown', 'mouseup', 'click', 'dblclick'])
    report.dispatchEvent(new MouseEvent(name, {bubbles: true, detail: 2}));
  return true;
})()"""


def test_ohif_draws_the_report_over_the_film(chromium: Browser, written: Reported, pictures: Path) -> None:
    (made,) = written.objects_of("sr")
    with serving(written.database, written.store) as address, beside(address) as (viewer, _):
        chromium.open(f"{viewer}/viewer?StudyInstanceUIDs={made.StudyInstanceUID}")
        chromium.wait_for(shown("bright", 0.05), 90)
        skip = "[...document.querySelectorAll('button')].find((one) => one.innerText.includes('Skip all'))"
        chromium.wait_for(f"{skip} !== undefined", 60)  # OHIF's tour stands before everything else
        chromium.evaluate(f"{skip}.click()")
        chromium.wait_for(OPEN_REPORT, 60)
        chromium.wait_for("document.body.innerText.includes('Probability: 0.77')", 60)
        chromium.screenshot(pictures / "ohif-sr.png")
