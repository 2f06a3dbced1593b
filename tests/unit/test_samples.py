"""What the demo sends: valid DX films of made-up patients, with every reason for which no model reads an image."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread

from inference.eligibility import screen
from pacs import samples
from pacs.header import HeaderReader
from storage.errors import InvalidInput
from storage.studies import InstanceHeader


def header(path: Path) -> InstanceHeader:
    dataset = dcmread(path)
    reader = HeaderReader(dataset.file_meta.TransferSyntaxUID)
    reader.feed(path.read_bytes()[path.read_bytes().index(b"\x08\x00\x05\x00") :])
    return reader.header()


def saved(sample: samples.Sample, path: Path) -> Path:
    sample.payload.save_as(path, enforce_file_format=True)
    return path


def test_a_demo_has_chests_for_the_model_and_each_reason_against_it(tmp_path: Path) -> None:
    reasons = [screen(header(saved(samples.phantom(number), tmp_path / f"{number}"))) for number in range(24)]
    assert reasons.count("") == 21
    assert [reason.split()[0] for reason in reasons if reason] == ["lateral", "body", "CT"]


def test_every_patient_is_made_up_and_every_uid_is_new() -> None:
    films = [samples.phantom(number).payload for number in range(12)]
    for keyword in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "AccessionNumber"):
        assert len({film[keyword].value for film in films}) == len(films), keyword
    assert all(film.StudyInstanceUID.startswith("2.25.") for film in films)  # PS3.5 B.2
    assert all(film.PatientID.startswith("DEMO-") for film in films)
    assert samples.phantom(3).payload.StudyInstanceUID != films[3].StudyInstanceUID


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="needs dicom3tools")
@pytest.mark.parametrize("kind", ["phantom", "lateral", "picture"])
def test_a_film_is_a_valid_dx_image(kind: str, tmp_path: Path) -> None:
    """PS3.3 A.26, as dciodvfy reads it."""
    if kind == "picture":
        Image.fromarray(np.full((301, 203), 90, np.uint8)).save(tmp_path / "a.jpg")
        sample = samples.from_file(tmp_path / "a.jpg", 0)
    else:
        sample = samples.phantom(7 if kind == "lateral" else 1)
    path = saved(sample, tmp_path / "film.dcm")
    done = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
    assert "DXImageForPresentation" in done.stderr + done.stdout
    assert [line for line in (done.stderr + done.stdout).splitlines() if line.startswith("Error")] == []


def test_a_picture_keeps_its_pixels(tmp_path: Path) -> None:
    pixels = np.arange(35, dtype=np.uint8).reshape(5, 7)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    film = dcmread(saved(samples.from_file(tmp_path / "a.png", 0), tmp_path / "film"))
    assert np.array_equal(film.pixel_array, pixels)
    assert film.LossyImageCompression == "00"
    assert film.PatientName.family_name
    Image.fromarray(pixels).save(tmp_path / "b.jpeg")
    assert samples.from_file(tmp_path / "b.jpeg", 0).payload.LossyImageCompression == "01"


def test_dicom_files_are_found_without_a_suffix_and_go_as_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    sent = samples.phantom(0)
    saved(sent, folder / "IM0001")
    (folder / "notes.txt").write_text("x" * 500)
    (folder / "film.PNG").write_bytes(b"broken")
    assert samples.find_files(tmp_path, 10) == [folder / "IM0001", folder / "film.PNG"]
    assert len(samples.find_files(tmp_path, 1)) == 1
    found = samples.from_file(folder / "IM0001", 5)
    assert (found.study_uid, found.sop_class, found.payload) == (sent.study_uid, sent.sop_class, folder / "IM0001")
    with pytest.raises(InvalidInput, match=r"film\.PNG"):
        samples.from_file(folder / "film.PNG", 0)


def test_a_folder_with_nothing_in_it_and_no_folder_at_all(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no DICOM, PNG or JPEG"):
        samples.find_files(tmp_path, 5)
    with pytest.raises(InvalidInput, match="not a folder"):
        samples.find_files(tmp_path / "none", 5)
