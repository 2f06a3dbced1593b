"""C-GET and C-MOVE as DCMTK's clients ask for them: what comes out is, byte for byte, what went in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from destinations import data_set_of, storescp, transfer_syntax_of
from images import JPEG_LS, ROOT, image, pixels
from pydicom import dcmread
from pydicom.data import get_testdata_file
from retriever import register, take_in


def store(dcmtk: Callable[..., Any], port: int, *files: Path, option: str = "-xe") -> None:
    done = dcmtk("storescu", option, "-aec", "SANGLOC", "127.0.0.1", port, *files)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", ["getscu -S", "getscu -P", "movescu -S", "movescu -P"])
def test_a_study_comes_back_as_it_came(command: str, receiver: Any, dcmtk: Any, stored: Any, tmp_path: Path) -> None:
    tool, root = command.split()
    files = [Path(str(get_testdata_file(name))) for name in ("CT_small.dcm", "MR_small.dcm")]
    store(dcmtk, receiver.port, *files)
    out = tmp_path / "got"
    out.mkdir()
    for file in files:
        wanted = dcmread(file, stop_before_pixels=True)
        keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={wanted.StudyInstanceUID}"]
        if root == "-P":
            keys += ["-k", f"PatientID={wanted.PatientID}"]
        if tool == "getscu":
            done = dcmtk("getscu", "-v", "+B", root, "-aec", "SANGLOC", "-od", out, *keys, "127.0.0.1", receiver.port)
            folder = out
        else:
            folder = tmp_path / "moved"
            with storescp(folder) as port:
                register(receiver.ingest, port)
                done = dcmtk(
                    "movescu", "-v", root, "-aec", "SANGLOC", "-aem", "DEST", *keys, "127.0.0.1", receiver.port
                )
        assert done.returncode == 0, done.stderr
        got = next(path for path in folder.iterdir() if wanted.SOPInstanceUID in path.name)
        assert data_set_of(got) == stored(wanted.SOPInstanceUID)


def test_a_destination_of_implicit_vr_gets_that(receiver: Any, dcmtk: Any, ingest: Any, tmp_path: Path) -> None:
    array = pixels()
    instance = take_in(ingest, image(array, JPEG_LS))
    with storescp(tmp_path / "moved", "+xi") as port:
        register(ingest, port)
        keys = ("-k", "QueryRetrieveLevel=IMAGE", "-k", f"SOPInstanceUID={instance.sop_uid}")
        done = dcmtk("movescu", "-S", "-aec", "SANGLOC", "-aem", "DEST", *keys, "127.0.0.1", receiver.port)
    assert done.returncode == 0, done.stderr
    (got,) = (tmp_path / "moved").iterdir()
    assert transfer_syntax_of(got) == "1.2.840.10008.1.2"
    assert np.array_equal(dcmread(got).pixel_array, array)


def test_series_and_lists_of_instances(receiver: Any, dcmtk: Any, ingest: Any, tmp_path: Path) -> None:
    study = f"{ROOT}.9.7"
    stored = [
        take_in(ingest, image(pixels(), StudyInstanceUID=study, SeriesInstanceUID=f"{study}.{number % 2}"))
        for number in range(4)
    ]
    wanted = "\\".join(one.sop_uid for one in stored[:3])
    for folder, keys, count in (
        ("series", ("-k", "QueryRetrieveLevel=SERIES", "-k", f"SeriesInstanceUID={study}.1"), 2),
        ("images", ("-k", "QueryRetrieveLevel=IMAGE", "-k", f"SOPInstanceUID={wanted}"), 3),
        ("nothing", ("-k", "QueryRetrieveLevel=SERIES", "-k", "SeriesInstanceUID=1.2.3"), 0),
    ):
        (tmp_path / folder).mkdir()
        more = ("-k", f"StudyInstanceUID={study}", "-od", tmp_path / folder)
        done = dcmtk("getscu", "-S", "-aec", "SANGLOC", *more, *keys, "127.0.0.1", receiver.port)
        assert done.returncode == 0, done.stderr
        assert len(list((tmp_path / folder).iterdir())) == count


def test_an_unknown_destination_is_told(receiver: Any, dcmtk: Any, ingest: Any) -> None:
    instance = take_in(ingest, image(pixels()))
    keys = ("-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={instance.study_uid}")
    done = dcmtk("movescu", "-v", "-S", "-aec", "SANGLOC", "-aem", "NOBODY", *keys, "127.0.0.1", receiver.port)
    assert "MoveDestinationUnknown" in done.stderr.replace(" ", "").replace(":", ""), done.stderr
