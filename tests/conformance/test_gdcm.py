"""GDCM's client, which is not DCMTK: echo, store, find.

Its C-MOVE is not tried: the receiver within GDCM 3.0.21 reads explicit VR as implicit and aborts.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file

# GDCM 3.0.21 aborts behind its A-RELEASE, with every peer (DCMTK's storescp as well); its work is done by then.
CRASH = "ProtocolStream as nullptr is invalid"
CT, MR = (Path(str(get_testdata_file(name))) for name in ("CT_small.dcm", "MR_small.dcm"))


@pytest.fixture
def gdcm(receiver: Any) -> Callable[..., str]:
    """Run gdcmscu against the receiver; what it printed."""
    if shutil.which("gdcmscu") is None:
        pytest.skip("needs gdcmscu")

    def run(*options: object) -> str:
        command = ["gdcmscu", "-D", "--aetitle", "GDCMSCU", "--call", "SANGLOC", "127.0.0.1", str(receiver.port)]
        done = subprocess.run([*command, *map(str, options)], capture_output=True, text=True, timeout=60, check=False)
        said = done.stdout + done.stderr
        assert done.returncode == 0 or CRASH in said, said
        return said

    return run


def test_echo(gdcm: Callable[..., str]) -> None:
    said = gdcm("--echo")
    assert "Process: Event:12, State:6" in said  # our release response; an abort would be event 16


def test_store(gdcm: Callable[..., str], stored: Callable[[str], bytes | None]) -> None:
    gdcm("--store", CT)
    body = stored(dcmread(CT, stop_before_pixels=True).SOPInstanceUID)
    assert body is not None
    assert dcmread(CT).PixelData in body  # GDCM writes the data set anew; its pixels are those of the file


def test_find(gdcm: Callable[..., str]) -> None:
    gdcm("--store", CT)
    gdcm("--store", MR)
    wanted = dcmread(CT, stop_before_pixels=True)
    for options, answers in (
        (("--study", "--key", f"10,20={wanted.PatientID}", "--key", "20,d"), 1),
        (("--study", "--key", "10,20=", "--key", "20,d"), 2),
        (("--study", "--key", "10,20=nobody", "--key", "20,d"), 0),
    ):
        said = gdcm("--find", "--studyroot", *options)
        assert "C-Find was successful." in said
        assert said.count("(0000,0900) ?? (US) 65280") == 2 * answers  # each command set is printed twice
