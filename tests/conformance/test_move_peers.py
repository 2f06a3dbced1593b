"""Orthanc as the destination of a C-MOVE and as its client; destinations over TLS."""

from __future__ import annotations

import shutil
import subprocess
import time
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from images import CT, JPEG_2000, JPEG_LS, ROOT, image, pixels
from orthanc import orthanc
from raw_dicom import EXPLICIT
from retriever import Retriever, register, take_in

from pacs.dimse.policy import CallerPolicy, TlsFiles
from pacs.part10 import read_head
from pacs.retrieve import StoredInstance

STUDY = f"{ROOT}.9.3"


@pytest.fixture
def study(ingest: Any) -> list[StoredInstance]:
    """One image in each of three transfer syntaxes."""
    return [
        take_in(ingest, image(pixels(200, 300), syntax, StudyInstanceUID=STUDY, InstanceNumber=n))
        for n, syntax in enumerate((EXPLICIT, JPEG_LS, JPEG_2000))
    ]


def digest(file: bytes) -> bytes:
    head = read_head(BytesIO(file))
    assert head is not None
    return sha256(file[head.dataset_offset :]).digest()


def test_orthanc_gets_a_study_bit_by_bit(study: Any, receiver: Any, ingest: Any, tmp_path: Path) -> None:
    with orthanc(tmp_path / "orthanc") as peer, Retriever(receiver.port) as retriever:
        register(ingest, peer.dicom, "ORTHANC")
        outcome = retriever.move("ORTHANC", "STUDY", study=STUDY)
        assert (outcome.status, outcome.completed) == (0, 3)
        assert {digest(peer.file(one.sop_uid)) for one in study} == {one.sha256 for one in study}


def test_orthanc_asks_for_a_study_and_gets_it(study: Any, receiver: Any, ingest: Any, tmp_path: Path) -> None:
    modalities = {"sangloc": ["SANGLOC", "127.0.0.1", receiver.port]}
    with orthanc(tmp_path / "orthanc", modalities) as peer:
        register(ingest, peer.dicom, "ORTHANC")
        asked = peer.api.post(
            "/modalities/sangloc/move",
            json={"Level": "Study", "Resources": [{"StudyInstanceUID": STUDY}], "TargetAet": "ORTHANC"},
        )
        assert asked.status_code == 200, asked.text
        assert peer.uids() == sorted(one.sop_uid for one in study)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: Any) -> Path:
    """An authority, a certificate that it signed, and one that nobody signed."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    folder = tmp_path_factory.mktemp("authority")

    def openssl(*args: object) -> None:
        subprocess.run(["openssl", *map(str, args)], check=True, capture_output=True)

    new = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", 2)
    for name in ("ca", "self"):
        openssl(*new, "-subj", f"/CN={name}", "-keyout", folder / f"{name}.key", "-out", folder / f"{name}.pem")
    signed = ("-CA", folder / "ca.pem", "-CAkey", folder / "ca.key")
    openssl(*new, *signed, "-subj", "/CN=dest", "-keyout", folder / "dest.key", "-out", folder / "dest.pem")
    return folder


@pytest.mark.parametrize(("certificate", "status"), [("dest", 0), ("self", 0xA702)])
@pytest.mark.usefixtures("study")
def test_a_destination_over_tls_is_trusted_by_its_certificate(
    certificate: str, status: int, authority: Path, start_receiver: Any, ingest: Any
) -> None:
    files = TlsFiles(authority / f"{certificate}.pem", authority / f"{certificate}.key")
    dest = start_receiver(tls=files)
    caller = CallerPolicy(authorities=authority / "ca.pem", attempts=1)
    register(ingest, dest.port, "SANGLOC", tls=True)
    with Retriever(start_receiver(caller=caller).port) as retriever:
        outcome = retriever.move("SANGLOC", "STUDY", study=STUDY)
    assert (outcome.status, outcome.completed) == (status, 3 if status == 0 else 0)
    assert dest.receiver.counters["duplicate"] == outcome.completed  # it is the same archive


def test_a_destination_without_tls_is_not_sent_to_in_the_clear(
    study: Any, receiver: Any, start_receiver: Any, ingest: Any, authority: Path
) -> None:
    caller = CallerPolicy(authorities=authority / "ca.pem", attempts=1, connect_timeout_s=2)
    register(ingest, receiver.port, "SANGLOC", tls=True)
    with Retriever(start_receiver(caller=caller).port) as retriever:
        began = time.monotonic()
        assert retriever.move("SANGLOC", "STUDY", study=STUDY).status == 0xA702
        assert time.monotonic() - began < 10
    assert receiver.receiver.counters["associations"] == 0


def test_a_get_over_tls(study: Any, authority: Path, start_receiver: Any) -> None:
    receiver = start_receiver(tls=TlsFiles(authority / "dest.pem", authority / "dest.key"))
    contexts = [(CT, [syntax]) for syntax in (EXPLICIT, JPEG_LS, JPEG_2000)]
    retriever = Retriever(receiver.port, contexts, authorities=authority / "ca.pem")
    object.__setattr__(retriever.association.peer, "tls", True)
    with retriever:
        got = retriever.get("STUDY", study=STUDY).got
    assert {sha256(data).digest() for _, data in got.values()} == {one.sha256 for one in study}
