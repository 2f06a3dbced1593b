"""C-GET and C-MOVE: levels, keys, counts, statuses, transcoding, cancel (PS3.4 C.4.2, C.4.3)."""

from __future__ import annotations

from hashlib import sha256
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from images import CT, JPEG_LS, ROOT, image, pixels
from pydicom import dcmread
from raw_dicom import EXPLICIT, IMPLICIT
from retriever import Retriever, identifier, register, take_in

from pacs.dimse import command as dimse
from pacs.dimse.contexts import STUDY_ROOT_GET, STUDY_ROOT_MOVE
from pacs.retrieve import StoredInstance
from storage.database import Database

STUDY, PATIENT = f"{ROOT}.9.1", "BN-9"
CONTEXTS = [(CT, [EXPLICIT]), (CT, [IMPLICIT]), (CT, [JPEG_LS])]
MR = "1.2.840.10008.5.1.4.1.1.4"


@pytest.fixture
def study(ingest: Any) -> list[StoredInstance]:
    """Two series of three images, and a study of another patient beside it."""
    found = []
    for series in (2, 1):
        uids = {"StudyInstanceUID": STUDY, "SeriesInstanceUID": f"{STUDY}.{series}", "PatientID": PATIENT}
        for number in range(3):
            file = image(pixels(), **uids, SeriesNumber=series, InstanceNumber=3 - number)
            found.append(take_in(ingest, file))
    take_in(ingest, image(pixels()))
    return found


@pytest.fixture
def retriever(receiver: Any) -> Any:
    with Retriever(receiver.port, CONTEXTS) as opened:
        yield opened


@pytest.mark.parametrize(
    ("level", "keys", "count"),
    [
        ("PATIENT", {"patient": PATIENT}, 6),
        ("STUDY", {"study": STUDY}, 6),
        ("STUDY", {"study": STUDY, "patient": PATIENT}, 6),
        ("STUDY", {"study": [STUDY, "1.2.3.4"]}, 6),
        ("SERIES", {"study": STUDY, "series": f"{STUDY}.1"}, 3),
        ("SERIES", {"study": STUDY, "series": [f"{STUDY}.1", f"{STUDY}.2"]}, 6),
        ("SERIES", {"series": f"{STUDY}.2"}, 3),
        ("STUDY", {"study": "1.2.3.4"}, 0),
        ("STUDY", {"study": STUDY, "patient": "SOMEBODY"}, 0),
        ("SERIES", {"study": "1.2.3.4", "series": f"{STUDY}.2"}, 0),
    ],
)
def test_levels_and_lists_of_keys(level: str, keys: Any, count: int, study: Any, retriever: Any) -> None:
    outcome = retriever.get(level, patient_root="patient" in keys, **keys)
    assert (outcome.status, outcome.completed, outcome.failed, outcome.warnings) == (0, count, 0, 0)
    by_uid = {one.sop_uid: one for one in study}
    assert len(outcome.got) == count
    for uid, (syntax, data) in outcome.got.items():
        assert (syntax, sha256(data).digest()) == (EXPLICIT, by_uid[uid].sha256)


def test_instances_by_uid_and_in_order(study: Any, retriever: Any) -> None:
    wanted = [study[0].sop_uid, study[4].sop_uid]
    assert sorted(retriever.get("IMAGE", image=wanted).got) == sorted(wanted)
    everything = list(retriever.get("STUDY", study=STUDY).got)
    assert everything == [study[n].sop_uid for n in (5, 4, 3, 2, 1, 0)]  # by series and instance number


@pytest.mark.parametrize(
    ("level", "keys", "status"),
    [
        ("STUDY", {}, 0xA900),
        ("", {"study": STUDY}, 0xA900),
        ("PATIENT", {"patient": PATIENT}, 0xA900),  # not of the study root
        ("SERIES", {"study": STUDY}, 0xA900),
        ("IMAGE", {"series": f"{STUDY}.1"}, 0xA900),
        ("STUDY", {"study": "1.2.*"}, 0xC000),
        ("STUDY", {"study": "../../x"}, 0xC000),
        ("STUDY", {"study": ["1.2", "0" * 65]}, 0xC000),
    ],
)
def test_identifiers_that_name_nothing_right(level: str, keys: Any, status: int, retriever: Any, ingest: Any) -> None:
    register(ingest, 1)
    for outcome in (retriever.get(level, **keys), retriever.move("DEST", level, **keys)):
        assert outcome.status == status
        assert outcome.comment
        assert not outcome.got


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (None, 0xC000),
        (b"\x08", 0xC000),
        (b"\xff" * 2000, 0xC000),
        (identifier("STUDY", study=STUDY)[:-3], 0xC000),
        (b"\x08\x00\x52\x00\x06\x00\x00\x00" + b"STUDY " * 200_000, 0xC000),
    ],
    ids=["none", "cut", "garbage", "cut off", "long"],
)
def test_malformed_identifiers(data: bytes | None, status: int, retriever: Any) -> None:
    for model, field in ((STUDY_ROOT_GET, dimse.C_GET_RQ), (STUDY_ROOT_MOVE, dimse.C_MOVE_RQ)):
        outcome = retriever.raw(model, field, data, elements={0x0600: b"DEST"})
        assert outcome.status in {status, 0xA801}
    assert retriever.get("STUDY", study=STUDY).status == 0  # the association lives


def test_a_move_to_nobody_we_know(study: Any, retriever: Any) -> None:
    outcome = retriever.move("NOBODY", "STUDY", study=STUDY)
    assert (outcome.status, outcome.completed) == (0xA801, 0)
    assert "NOBODY" in outcome.comment
    assert retriever.move("", "STUDY", study=STUDY).status == 0xA801


def test_hidden_instances_are_not_there(study: Any, retriever: Any, database: Database) -> None:
    with database.transaction() as connection:
        connection.execute("UPDATE instances SET hidden = true WHERE sop_uid = %s", (study[0].sop_uid,))
        connection.execute("UPDATE series SET hidden = true WHERE series_uid = %s", (f"{STUDY}.1",))
    assert sorted(retriever.get("STUDY", study=STUDY).got) == sorted(one.sop_uid for one in study[1:3])


def test_corrections_go_out(study: Any, retriever: Any, database: Database) -> None:
    with database.transaction() as connection:
        connection.execute(
            "UPDATE studies SET corrections = %s WHERE study_uid = %s",
            ('{"00100020": {"vr": "LO", "Value": ["RIGHT"]}}', STUDY),
        )
    for syntax, data in retriever.get("STUDY", study=STUDY).got.values():
        read = dcmread(BytesIO(bytes(128) + b"DICM" + data), force=True)
        assert (syntax, read.PatientID) == (EXPLICIT, "RIGHT")


@pytest.mark.parametrize("accepted", [EXPLICIT, IMPLICIT, JPEG_LS])
@pytest.mark.parametrize("stored_in", [EXPLICIT, IMPLICIT, JPEG_LS])
def test_what_is_not_accepted_as_stored_is_transcoded(
    accepted: str, stored_in: str, receiver: Any, ingest: Any
) -> None:
    array = pixels()
    instance = take_in(ingest, image(array, stored_in))
    with Retriever(receiver.port, [(CT, [accepted])]) as retriever:
        outcome = retriever.get("STUDY", study=instance.study_uid)
    assert (outcome.status, outcome.completed) == (0, 1)
    ((syntax, data),) = outcome.got.values()
    assert syntax == accepted
    meta = image(array, accepted)
    head = meta[: 144 + int.from_bytes(meta[140:144], "little")]
    assert np.array_equal(dcmread(BytesIO(head + data)).pixel_array, array)


def test_what_the_client_does_not_take_fails_and_is_named(study: Any, receiver: Any, ingest: Any) -> None:
    other = take_in(ingest, image(pixels(), StudyInstanceUID=STUDY, SOPClassUID=MR, PatientID=PATIENT))
    with Retriever(receiver.port, CONTEXTS) as retriever:
        outcome = retriever.get("STUDY", study=STUDY)
    assert (outcome.status, outcome.completed, outcome.failed) == (0xB000, 6, 1)
    assert outcome.failed_uids == [other.sop_uid]
    with Retriever(receiver.port, [(MR, [EXPLICIT])]) as retriever:
        outcome = retriever.get("SERIES", series=f"{STUDY}.1")
    assert (outcome.status, outcome.completed, outcome.failed) == (0xA702, 0, 3)
    assert len(outcome.failed_uids) == 3


def test_a_context_without_the_role_of_scp_is_not_used(study: Any, receiver: Any) -> None:
    retriever = Retriever(receiver.port, CONTEXTS)
    retriever.association._proposals = [
        type(proposal)(proposal.abstract_syntax, proposal.transfer_syntaxes)
        for proposal in retriever.association._proposals
    ]
    with retriever:
        assert retriever.get("STUDY", study=STUDY).status == 0xA702


@pytest.mark.parametrize(("answer", "final", "counts"), [(0xB000, 0xB000, (0, 0, 6)), (0xA700, 0xA702, (0, 6, 0))])
def test_answers_of_the_client_are_counted(answer: int, final: int, counts: Any, study: Any, retriever: Any) -> None:
    retriever.answer = lambda _: answer
    outcome = retriever.get("STUDY", study=STUDY)
    assert outcome.status == final
    assert (outcome.completed, outcome.failed, outcome.warnings) == counts
    assert len(outcome.failed_uids) == counts[1]


def test_a_cancel_ends_a_retrieval(study: Any, retriever: Any) -> None:
    retriever.cancel_after = 2
    outcome = retriever.get("STUDY", study=STUDY)
    assert outcome.status == 0xFE00
    assert outcome.completed + outcome.remaining == 6
    assert outcome.completed < 6
    retriever.cancel_after = None
    assert retriever.get("STUDY", study=STUDY).completed == 6


def test_an_object_whose_file_is_gone_or_short_fails_alone(study: Any, retriever: Any, store: Any) -> None:
    store.delete(study[0].object_key)
    path = store.path(study[1].object_key)
    with open(path, "r+b") as file:  # noqa: PTH123
        file.truncate(1000)
    outcome = retriever.get("STUDY", study=STUDY)
    assert (outcome.status, outcome.completed, outcome.failed) == (0xB000, 4, 2)
    assert sorted(outcome.failed_uids) == sorted(one.sop_uid for one in study[:2])


def test_a_last_pending_answer_has_all_counts(study: Any, retriever: Any) -> None:
    outcome = retriever.get("STUDY", study=STUDY)
    assert outcome.pending[-1] == (0, 6, 0, 0)
    assert outcome.remaining is None  # only pending and cancelled answers carry it


@pytest.mark.parametrize("max_pdu", [4096, 16384, 16385, 131072, 1 << 20])
def test_the_longest_pdu_of_the_client_is_kept_to(max_pdu: int, receiver: Any, ingest: Any) -> None:
    instance = take_in(ingest, image(pixels(1000, 777)))
    with Retriever(receiver.port, CONTEXTS, max_pdu_bytes=max_pdu) as retriever:
        outcome = retriever.get("STUDY", study=instance.study_uid)  # our reader aborts at a longer one
    assert sha256(outcome.got[instance.sop_uid][1]).digest() == instance.sha256
