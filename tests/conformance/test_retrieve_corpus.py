"""Every file of ../shared/dicom that can be stored: got and moved bit by bit, and transcoded where that is asked."""

from __future__ import annotations

from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from destinations import data_set_of, storescp, transfer_syntax_of
from pydicom import config, dcmread
from raw_dicom import EXPLICIT
from retriever import Retriever, register, take_in

from pacs.dimse.contexts import STORAGE_CLASSES
from pacs.part10 import file_meta, read_head
from pacs.retrieve import StoredInstance
from pacs.transcoding import NATIVE, can_make
from storage.errors import SanglocError


@pytest.fixture
def stored_files(shared: Path, ingest: Any) -> dict[str, tuple[Path, StoredInstance]]:
    """What the archive takes of the folder, by SOP Instance UID; the first where a UID comes twice."""
    found: dict[str, tuple[Path, StoredInstance]] = {}
    for path in sorted((shared / "dicom").rglob("*")):
        if path.is_file():
            try:
                with path.open("rb") as file:
                    head = read_head(file)
                if head and head.sop_class in STORAGE_CLASSES and head.sop_uid not in found:
                    found[head.sop_uid] = (path, take_in(ingest, path))
            except (SanglocError, ValueError):
                continue  # it is set aside; tests of storing tell of it
    assert len({one.transfer_syntax for _, one in found.values()}) > 12
    return found


def padded(data: bytes) -> bytes:
    """Fragments are even (PS3.8 E.1): an odd data set, which is broken in itself, gets one more byte on its way."""
    return data + b"\0" * (len(data) % 2)


def test_everything_comes_back_bit_by_bit(stored_files: Any, receiver: Any) -> None:
    kinds = sorted({(one.sop_class, (one.transfer_syntax,)) for _, one in stored_files.values()})
    wanted = {uid: padded(data_set_of(path)) for uid, (path, _) in stored_files.items()}
    got: dict[str, tuple[str, bytes]] = {}
    for start in range(0, len(kinds), 100):
        with Retriever(receiver.port, kinds[start : start + 100], timeout_s=60) as retriever:
            got |= retriever.get("IMAGE", image=list(wanted)).got
    assert {uid: sha256(data).digest() for uid, (_, data) in got.items()} == {
        uid: sha256(data).digest() for uid, data in wanted.items()
    }
    assert all(syntax == stored_files[uid][1].transfer_syntax for uid, (syntax, _) in got.items())


def test_compressed_files_reach_dcmtk_bit_by_bit(
    stored_files: Any, receiver: Any, ingest: Any, tmp_path: Path, dcmtk: Any
) -> None:
    dcmtk("storescp", "--version")
    known = {f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 70, 80, 81, 90, 91)} | {"1.2.840.10008.1.2.5"}
    wanted = {uid: (p, one) for uid, (p, one) in stored_files.items() if one.transfer_syntax in known}
    with storescp(tmp_path / "dest", "+xa", "--fork") as port, Retriever(receiver.port, timeout_s=120) as retriever:
        register(ingest, port)
        outcome = retriever.move("DEST", "IMAGE", image=list(wanted))
        moved = {transfer_syntax_of(file): file for file in (tmp_path / "dest").iterdir()}
        files = {sha256(data_set_of(file)).digest() for file in (tmp_path / "dest").iterdir()}
    assert known <= moved.keys()
    refused = set(outcome.failed_uids)  # some files of the folder break the standard, and DCMTK aborts
    assert outcome.completed > 0.9 * len(wanted)
    for uid, (path, one) in wanted.items():
        if uid not in refused:
            assert sha256(padded(data_set_of(path))).digest() in files, (path, one.transfer_syntax)


@pytest.mark.filterwarnings("ignore")  # pydicom's, about files that break the standard
def test_what_pydicom_decodes_is_sent_uncompressed_with_the_same_pixels(
    stored_files: Any, receiver: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(config.settings, "reading_validation_mode", config.IGNORE)
    compressed = {
        uid: (path, one) for uid, (path, one) in stored_files.items()
        if one.transfer_syntax not in NATIVE and can_make(one.transfer_syntax, EXPLICIT)
    }  # fmt: skip
    classes = sorted({(one.sop_class, (EXPLICIT,)) for _, one in compressed.values()})
    with Retriever(receiver.port, classes, timeout_s=120) as retriever:
        outcome = retriever.get("IMAGE", image=list(compressed))
    compared = 0
    for uid, (path, one) in compressed.items():
        pixels = decoded(path.read_bytes())
        if pixels is None:  # we may still know a decoder
            continue
        assert uid in outcome.got, (path, one.transfer_syntax)
        syntax, data = outcome.got[uid]
        sent = decoded(file_meta(one.sop_class, uid, syntax) + data)
        assert sent is not None, path
        assert np.array_equal(pixels, sent), path
        compared += 1
    assert compared > 60
    assert len(outcome.failed_uids) < 10


def decoded(file: bytes) -> Any:
    """The pixels as pydicom's plug-ins decode them; None where they do not."""
    try:
        return dcmread(BytesIO(file)).pixel_array
    except Exception:
        return None
