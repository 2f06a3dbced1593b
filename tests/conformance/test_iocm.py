"""Imaging object change (IHE RAD TF-1 29): rejection notes by real senders, and what real clients see afterwards."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from changed import contradictions, rows, visible
from district import ROOT, District
from http_server import client, serving
from notes import KEY_OBJECT, code, data_set, note
from pydicom import Dataset, dcmread
from raw_dicom import CT
from raw_dicom import data_set as image

from pacs import removing
from pacs.ingest import Ingest
from pacs.part10 import file_meta
from storage import changes, editing, moving, removal
from storage.changes import By
from storage.database import Database
from storage.removal import RejectionPolicy, Scope

Dcmtk = Callable[..., subprocess.CompletedProcess[str]]
STUDY = "1.2.7"
IMAGES = ("QueryRetrieveLevel=IMAGE", f"StudyInstanceUID={STUDY}", "SeriesInstanceUID=1.2.3.4", "SOPInstanceUID")
TITLES = {"113001": "quality", "113037": "patient_safety", "113038": "wrong_worklist", "113039": "retention_expired"}


@pytest.fixture
def images(ingest: Ingest) -> list[str]:
    """Two CT images of one study."""
    uids = [f"{STUDY}.3.{n}" for n in (1, 2)]
    for uid in uids:
        with ingest.receive(
            sop_class=CT, sop_uid=uid, transfer_syntax="1.2.840.10008.1.2.1", source_aet="CT1", source_address=""
        ) as incoming:
            incoming.write([image(uid, STUDY, bytes(64))])
            incoming.commit()
    return uids


@dataclass
class World:
    """An archive with two images of one study, and real clients of it."""

    database: Database
    dcmtk: Dcmtk
    port: int
    images: list[str]
    web: httpx.Client
    folder: Path

    def storescu(self, document: Dataset) -> None:
        file = self.folder / f"{document.SOPInstanceUID}.dcm"
        file.write_bytes(file_meta(KEY_OBJECT, document.SOPInstanceUID, "1.2.840.10008.1.2.1") + data_set(document))
        done = self.dcmtk("storescu", "-v", "-xe", "-R", "-aec", "SANGLOC", "127.0.0.1", self.port, file)
        assert done.returncode == 0, done.stderr
        assert "Success" in done.stdout + done.stderr

    def findscu(self, *keys: str) -> int:
        """How many answers there are."""
        arguments = [part for key in keys for part in ("-k", key)]
        done = self.dcmtk("findscu", "-v", "-S", "-aec", "SANGLOC", *arguments, "127.0.0.1", self.port)
        assert done.returncode == 0, done.stderr
        return (done.stdout + done.stderr).count("Find Response:")

    def getscu(self, study_uid: str) -> dict[str, Dataset]:
        """What comes of a study, by SOP Instance UID."""
        out = self.folder / f"got-{study_uid}"
        out.mkdir()
        keys = ("-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study_uid}")
        self.dcmtk("getscu", "-S", "-aec", "SANGLOC", "-od", out, *keys, "127.0.0.1", self.port)
        return {str(data.SOPInstanceUID): data for data in map(dcmread, out.iterdir())}


@pytest.fixture
def world(ingest: Ingest, dcmtk: Dcmtk, receiver: Any, images: list[str], tmp_path: Path) -> Iterator[World]:
    with serving(ingest.database, ingest.store) as address, client(address) as web:
        yield World(ingest.database, dcmtk, receiver.port, images, web, tmp_path)


@pytest.mark.parametrize("title", TITLES)
def test_a_rejected_study_is_gone_for_every_client(world: World, title: str) -> None:
    study = ("QueryRetrieveLevel=STUDY", f"StudyInstanceUID={STUDY}")
    assert world.findscu(*study) == 1
    assert len(world.web.get("/dicom-web/studies").json()) == 1
    world.storescu(note("1.2.7.9", STUDY, world.images, code(title)))
    assert world.findscu(*study) == 0
    assert world.findscu(*IMAGES) == 0
    found = world.web.get("/dicom-web/studies")
    assert (found.status_code in (200, 204), found.content.strip(b"[]")) == (True, b"")
    for path in ("", "/metadata", "/series/1.2.3.4", f"/series/1.2.3.4/instances/{world.images[0]}"):
        assert world.web.get(f"/dicom-web/studies/{STUDY}{path}").status_code in (404, 410), path
    assert world.getscu(STUDY) == {}
    assert rows(world.database, "SELECT reason, actor FROM changes") == [(TITLES[title], "STORESCU")]
    assert contradictions(world.database) == []


def test_a_rejected_image_takes_itself_out_of_its_series(world: World) -> None:
    world.storescu(note("1.2.7.9", STUDY, world.images[:1], code("113001")))
    assert world.findscu(*IMAGES) == 1
    found = world.web.get("/dicom-web/studies", params={"includefield": "00201208"}).json()
    assert found[0]["00201208"]["Value"] == [1]
    metadata = world.web.get(f"/dicom-web/studies/{STUDY}/metadata").json()
    assert [each["00080018"]["Value"][0] for each in metadata] == world.images[1:]
    world.storescu(note("1.2.7.10", STUDY, world.images[1:], code("113010", "Quality Issue")))
    assert set(visible(world.database)) == {world.images[1], "1.2.7.10"}, "a quality issue is no rejection"


def test_corrections_go_out_everywhere(world: World) -> None:
    by, (first, second) = By(actor="dr.minh", reason="wrong name"), world.images
    changes.write(world.database, lambda c: editing.update_study(c, STUDY, {"PatientName": "Nguyễn^Văn An"}, by))
    scope = Scope(study_uid=STUDY, sop_uids=(second,))
    new = changes.write(world.database, lambda c: moving.split(c, scope, None, by)).detail["into"]
    sent = world.getscu(STUDY) | world.getscu(new)
    assert {uid: str(data.StudyInstanceUID) for uid, data in sent.items()} == {first: STUDY, second: new}
    assert {str(data.PatientName) for data in sent.values()} == {"Nguyễn^Văn An"}
    replaced = [item.ModifiedAttributesSequence[0] for item in sent[second].OriginalAttributesSequence]
    assert [str(item.get("PatientName", "")) for item in replaced] == ["Test^Raw", ""]
    assert replaced[1].StudyInstanceUID == STUDY
    (metadata,) = world.web.get(f"/dicom-web/studies/{new}/metadata").json()
    assert metadata["00100010"]["Value"] == [{"Alphabetic": "Nguyễn^Văn An"}]
    assert metadata["0020000D"]["Value"] == [new]
    assert world.findscu("QueryRetrieveLevel=STUDY", "PatientName=nguyen*", "StudyInstanceUID") == 2


def test_a_rejection_travels_to_the_archive_that_got_the_images(
    district: District, receiver: Any, database: Database, eventually: Callable[..., None]
) -> None:
    province = database
    district.send_to(receiver.port)
    uids = district.add(3)
    district.run()
    eventually(lambda: len(visible(province)) == 3)
    by = By(actor="dr.minh", reason="wrong_worklist")
    scope = Scope(study_uid=f"{ROOT}.1.1", sop_uids=tuple(uids[:2]))
    changes.write(
        district.database,
        lambda c: removal.remove(c, "reject", scope, by, grace=None, note_uid=moving.new_uid()),
    )
    assert removing.follow_notes(district.database, district.ingest.store, "DISTRICT", RejectionPolicy()) == 1
    eventually(lambda: set(visible(province)) == set(uids[2:]))
    assert rows(province, "SELECT reason, actor FROM changes") == [("wrong_worklist", "DISTRICT")]
    assert contradictions(province) == []
