"""Storage (PS3.4 B) with real clients: every byte as it came, in every transfer syntax."""

from __future__ import annotations

import csv
from io import BytesIO

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pynetdicom import AE
from raw_dicom import CT, EXPLICIT, data_set

from pacs.part10 import read_head
from storage.errors import InvalidDataSet

# storescu's option for a transfer syntax, and the UID that must be kept.
SYNTAXES = {
    "-xe": "1.2.840.10008.1.2.1",
    "-xb": "1.2.840.10008.1.2.2",
    "-xi": "1.2.840.10008.1.2",
    "-xd": "1.2.840.10008.1.2.1.99",
    "-xy": "1.2.840.10008.1.2.4.50",
    "-xx": "1.2.840.10008.1.2.4.51",
    "-xs": "1.2.840.10008.1.2.4.70",
    "-xt": "1.2.840.10008.1.2.4.80",
    "-xu": "1.2.840.10008.1.2.4.81",
    "-xv": "1.2.840.10008.1.2.4.90",
    "-xw": "1.2.840.10008.1.2.4.91",
    "-xr": "1.2.840.10008.1.2.5",
}


def _files(shared):
    """Path, SOP class, SOP instance, transfer syntax and data set of every real file that says these."""
    with (shared / "dicom" / "manifest.csv").open() as table:
        names = [row["file"] for row in csv.DictReader(table)]
    for name in names:
        raw = (shared / "dicom" / name).read_bytes()
        try:
            head = read_head(BytesIO(raw))
        except InvalidDataSet:  # a broken file meta is not what this test is about
            continue
        if head and head.sop_class and head.sop_uid:
            yield name, head.sop_class, head.sop_uid, head.transfer_syntax, raw[head.dataset_offset :]


def test_every_real_file_is_kept_bit_by_bit(shared, raw, start_receiver, stored, kept_aside):
    """PS3.4 B.4.1, level 2 (full): stored as it came, or kept aside with the reason; nothing disappears."""
    receiver = start_receiver(allow_private_sop_classes=True)
    sent: dict[str, list[bytes]] = {}
    statuses: dict[str, int] = {}
    for name, sop_class, sop_uid, syntax, data in _files(shared):
        client = raw(receiver.port).associate([(sop_class, [syntax])])
        if client.results[1] != 0:  # DICOMDIR and non-patient objects
            assert sop_class in {"1.2.840.10008.1.3.10", "1.2.840.10008.5.1.4.39.1"}, name
            client.release()
            continue
        statuses[name], _ = client.store(sop_uid, data, context_id=1, sop_class=sop_class)
        sent.setdefault(sop_uid, []).append(data)
        client.release()

    assert sum(status == 0 for status in statuses.values()) > 200
    assert set(statuses.values()) <= {0x0000, 0x0117, 0xC000}
    aside = [data for _, _, data in kept_aside()]
    for sop_uid, datas in sent.items():
        served = stored(sop_uid)
        for data in datas:
            assert data == served or data in aside


@pytest.fixture
def served(database, store):
    """The only stored object, read by pydicom, and the transfer syntax that the index says."""

    def read():
        with database.transaction() as connection:
            ((key, syntax),) = connection.execute("SELECT object_key, transfer_syntax FROM instances").fetchall()
        return dcmread(BytesIO(store.read(key))), syntax

    return read


@pytest.mark.parametrize("option", SYNTAXES)
def test_storescu_in_each_transfer_syntax(option, shared, receiver, dcmtk, served):
    syntax = SYNTAXES[option]
    for name, _, _, found, data in _files(shared):
        if found != syntax or len(data) > 2_000_000:
            continue
        file = shared / "dicom" / name
        run = dcmtk("storescu", "-v", "-aec", "SANGLOC", option, "127.0.0.1", receiver.port, file)
        if receiver.receiver.counters["stored"]:  # DCMTK refuses to send some of the broken files
            assert "Received Store Response (Success)" in run.stdout + run.stderr
            kept, indexed = served()
            assert kept.file_meta.TransferSyntaxUID == indexed == syntax
            assert kept.get("PixelData") == dcmread(file).get("PixelData")
            return
    pytest.skip(f"no real file in {syntax} that DCMTK sends")


def test_dcmsend_sends_a_folder_in_one_association(shared, receiver, dcmtk):
    folder = shared / "dicom" / "robyoung_dicom-test-files"
    run = dcmtk("dcmsend", "-v", "-aec", "SANGLOC", "-dn", "+sd", "+r", "127.0.0.1", receiver.port, folder)
    counters = receiver.receiver.counters
    assert counters["stored"] + counters["duplicate"] + counters["conflict"] > 3, run.stderr
    assert counters["associations"] >= 1


def test_pynetdicom_stores(receiver, stored):
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = CT, "1.2.3.77"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3.78", "1.2.3.79"
    dataset.PatientID, dataset.Modality = "PID", "CT"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = EXPLICIT
    ae = AE("PYNETDICOM")
    ae.add_requested_context(CT, EXPLICIT)
    association = ae.associate("127.0.0.1", receiver.port, ae_title="SANGLOC")
    assert association.send_c_store(dataset).Status == 0
    association.release()
    out = BytesIO()
    dcmwrite(out, dataset, enforce_file_format=True, overwrite=True)
    assert out.getvalue().endswith(stored("1.2.3.77"))


@pytest.mark.parametrize("fragment", [1, 333, 16_378, 60_000, (1 << 20) - 6])
def test_fragments_of_any_size(raw, stored, fragment):
    data = data_set("1.2.3.5", pixels=bytes(range(256)) * (8 if fragment == 1 else 8000))
    client = raw().associate()
    assert client.max_pdu == 1 << 20
    assert client.store("1.2.3.5", data, fragment=fragment) == (0, "")
    client.release()
    assert stored("1.2.3.5") == data


def test_requests_that_do_not_wait_for_their_answers(raw, stored):
    client = raw().associate()
    for n in range(20):
        client.send_store(f"1.2.3.5.{n}", data_set(f"1.2.3.5.{n}", pixels=b"x" * 1000 * n))
    assert [client.answer()[0] for _ in range(20)] == [0] * 20
    client.release()
    assert all(stored(f"1.2.3.5.{n}") for n in range(20))


def test_a_resend_is_a_success_and_other_bytes_are_kept_aside(raw, receiver, stored, kept_aside):
    first, second = data_set("1.2.3.5", pixels=b"first."), data_set("1.2.3.5", pixels=b"second")
    client = raw().associate()
    assert client.store("1.2.3.5", first)[0] == 0
    assert client.store("1.2.3.5", first)[0] == 0
    assert client.store("1.2.3.5", second)[0] == 0
    client.release()
    assert stored("1.2.3.5") == first
    assert kept_aside() == [("conflict", "1.2.3.5", second)]
    counters = receiver.receiver.counters
    assert (counters["stored"], counters["duplicate"], counters["conflict"]) == (1, 1, 1)


def test_the_file_on_disk_is_a_part_10_file(raw, database, store):
    client = raw().associate(calling="CT-ROOM-1")
    client.store("1.2.3.5", data_set("1.2.3.5"))
    client.release()
    with database.transaction() as connection:
        (key,) = connection.execute("SELECT object_key FROM instances").fetchone()
    read = dcmread(BytesIO(store.read(key)))
    assert read.SOPInstanceUID == read.file_meta.MediaStorageSOPInstanceUID == "1.2.3.5"
    assert read.file_meta.SourceApplicationEntityTitle == "CT-ROOM-1"
