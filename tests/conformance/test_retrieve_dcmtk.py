"""C-GET and C-MOVE as DCMTK's clients ask for them: what comes out is, byte for byte, what went in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from destinations import data_set_of, storescp
from pydicom import dcmread
from pydicom.data import get_testdata_file

from storage.database import Database
from storage.peers import Peer, put


def register(database: Database, port: int, aet: str = "DEST") -> None:
    with database.transaction() as connection:
        put(connection, Peer(name=aet.lower(), aet=aet, host="127.0.0.1", port=port), "test")


def store(dcmtk: Callable[..., Any], port: int, *files: Path, option: str = "-xe") -> None:
    done = dcmtk("storescu", option, "-aec", "SANGLOC", "127.0.0.1", port, *files)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("tool", ["getscu", "movescu"])
@pytest.mark.parametrize("root", ["-S", "-P"])
def test_a_study_comes_back_as_it_came(
    tool: str, root: str, receiver: Any, dcmtk: Any, stored: Any, database: Database, tmp_path: Path
) -> None:
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
                register(database, port)
                done = dcmtk(
                    "movescu", "-v", root, "-aec", "SANGLOC", "-aem", "DEST", *keys, "127.0.0.1", receiver.port
                )
        assert done.returncode == 0, done.stderr
        got = next(path for path in folder.iterdir() if wanted.SOPInstanceUID in path.name)
        assert data_set_of(got) == stored(wanted.SOPInstanceUID)
