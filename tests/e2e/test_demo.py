"""`sangloc demo`: phantoms, pictures and DICOM files go in by DICOM and come out as a worklist with reasons."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from running import SANGLOC, System

from models.phantom import chest
from pacs import samples


def demo(*arguments: str, timeout_s: float = 200) -> str:
    """What the demo prints to something that is no terminal; it must end by itself and well."""
    done = subprocess.run(
        [*SANGLOC, "demo", *arguments],
        env={k: v for k, v in os.environ.items() if not k.startswith("SANGLOC_")},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(240)
def test_phantoms_are_sent_read_listed_and_summed_up(tmp_path: Path) -> None:
    text = demo("--data", str(tmp_path / "data"), "--limit", "9")
    assert "Worklist by due time" in text
    assert "9 studies on the list: 8 read by the model" in text
    assert "1 not for the model, 0 failed, 0 waiting" in text
    assert "lateral or oblique view" in text
    assert re.search(r"median \d+\.\d\d s, 95th percentile \d+\.\d\d s", text)
    assert re.search(r"Open http://127\.0\.0\.1:\d+/ for the worklist", text)
    assert "model: " in text
    assert not (tmp_path / "data" / "ready.json").exists(), "what the demo started it stops"


@pytest.mark.timeout(240)
def test_a_folder_of_pictures_and_dicom_files_goes_to_a_running_system(system: Any, tmp_path: Path) -> None:
    folder = tmp_path / "films" / "deeper"
    folder.mkdir(parents=True)
    film = (chest(1) >> 4).astype(np.uint8)
    Image.fromarray(film).save(folder / "a.png")
    Image.fromarray(film).save(folder / "b.JPG")
    sent = samples.phantom(2).payload
    sent.save_as(folder / "c", enforce_file_format=True)
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("not for the archive")
    running: System = system("--no-worker")
    text = demo(str(tmp_path / "films"), "--data", str(running.data))
    assert "Worklist by arrival: No model is running" in text
    assert "3 studies on the list: 0 read by the model, 0 flagged, 0 not for the model, 0 failed, 3 waiting" in text
    assert "broken.png" in text
    items = running.get("/api/worklist")["items"]
    assert sent.StudyInstanceUID in [item["study_uid"] for item in items]
    assert all(item["patient_name"] and item["patient_id"].startswith("DEMO-") for item in items)
    assert (running.data / "ready.json").exists(), "a system that ran before goes on"


def test_a_folder_without_images_is_an_error(tmp_path: Path) -> None:
    done = subprocess.run([*SANGLOC, "demo", str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, f"sangloc: no DICOM, PNG or JPEG file lies in {tmp_path}\n")
