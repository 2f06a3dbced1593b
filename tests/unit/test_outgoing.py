"""What goes out: untouched where it can be, corrected in its header and nowhere else where it must be."""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from images import DEFLATED, JPEG_LS, header, image, part10, pixels
from objects import kept
from pydicom import Dataset, dcmread
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from pacs.outgoing import ANY, open_outgoing
from storage.errors import NotFound, NotTranscodable, ObjectStoreUnavailable

EXPLICIT, IMPLICIT = str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian)
ENCODINGS = (EXPLICIT, IMPLICIT, str(ExplicitVRBigEndian), DEFLATED, JPEG_LS)


def correction(**values: Any) -> dict[str, Any]:
    """DICOM JSON of attributes by keyword."""
    data = Dataset()
    for name, value in values.items():
        setattr(data, name, value)
    return data.to_json_dict()


def corrected(file: bytes, folder: Path, corrections: dict[str, Any], accepted: tuple[str, ...] = (ANY,)) -> Dataset:
    outgoing = open_outgoing(*kept(BytesIO(file), folder, corrections=corrections), accepted)
    assert not outgoing.untouched
    return dcmread(BytesIO(b"".join(map(bytes, outgoing.part10()))))


@pytest.mark.parametrize("accepted", [[ANY], [IMPLICIT, EXPLICIT], [EXPLICIT]])
def test_the_stored_form_goes_out_untouched_wherever_it_is_accepted(accepted: list[str], tmp_path: Path) -> None:
    file = image(pixels(700, 900))  # more than one chunk
    store, instance = kept(BytesIO(file), tmp_path)
    outgoing = open_outgoing(store, instance, accepted)
    assert outgoing.untouched
    assert outgoing.size == instance.dataset_size
    assert b"".join(map(bytes, outgoing.chunks())) == file[instance.dataset_offset :]
    assert b"".join(map(bytes, outgoing.part10())) == file


@pytest.mark.parametrize("syntax", ENCODINGS)
def test_a_correction_changes_its_attributes_and_nothing_else(syntax: str, tmp_path: Path) -> None:
    array = pixels()
    file = image(array, syntax, StudyDescription="as it was", PatientBirthDate="19600101")
    got = corrected(file, tmp_path, correction(PatientID="NEW", PatientName="Le^Binh", IssuerOfPatientID="HOSPITAL"))
    assert got.file_meta.TransferSyntaxUID == syntax
    assert (got.PatientID, got.PatientName, got.IssuerOfPatientID) == ("NEW", "Le^Binh", "HOSPITAL")
    was = dcmread(BytesIO(file))
    assert sorted(got.keys()) == sorted({*was.keys(), 0x00100021})
    for element in was:
        if element.keyword not in {"PatientID", "PatientName"}:
            assert got[element.tag].value == element.value, element
    assert np.array_equal(got.pixel_array, array)


def test_what_is_not_corrected_keeps_its_bytes(tmp_path: Path) -> None:
    inner = Dataset()
    inner.CodeMeaning = "x"
    data = header(ProcedureCodeSequence=Sequence([inner]))
    data["ProcedureCodeSequence"].is_undefined_length = True
    inner.is_undefined_length_sequence_item = True
    private = data.private_block(0x0019, "ACME", create=True)
    private.add_new(1, "UN", b"\1\2\3\4")
    file = part10(data)
    store, instance = kept(BytesIO(file), tmp_path, corrections=correction(PatientID="NEW!"))
    out = b"".join(map(bytes, open_outgoing(store, instance, [ANY]).chunks()))
    old = data.PatientID.encode() + b" " * (len(data.PatientID) % 2)
    before, after = file[instance.dataset_offset :].split(old, 1)
    assert out == before[:-2] + b"\4\0NEW!" + after


@pytest.mark.parametrize("declared", ["ISO_IR 100", "ISO_IR 192", "", ["", "ISO 2022 IR 87"]])
def test_a_name_that_the_character_set_cannot_write_turns_the_text_to_utf_8(declared: Any, tmp_path: Path) -> None:
    file = part10(header(SpecificCharacterSet=declared, StudyDescription="Thorax", ReferringPhysicianName="Doe^J"))
    got = corrected(file, tmp_path, correction(PatientName="Nguyễn^Văn An"))
    assert got.PatientName == "Nguyễn^Văn An"
    assert got.SpecificCharacterSet == "ISO_IR 192"
    assert got.StudyDescription == "Thorax"


def test_text_in_the_old_character_set_is_still_right_in_the_new_one(tmp_path: Path) -> None:
    item = Dataset()
    item.CodeMeaning = "Schädel"
    file = part10(header(StudyDescription="Brüste", ProcedureCodeSequence=Sequence([item])))
    got = corrected(file, tmp_path, correction(PatientName="Đặng^Hà"))
    assert (got.StudyDescription, got.ProcedureCodeSequence[0].CodeMeaning) == ("Brüste", "Schädel")


def test_a_correction_that_fits_leaves_the_character_set(tmp_path: Path) -> None:
    got = corrected(part10(header(StudyDescription="Brüste")), tmp_path, correction(PatientName="Müller^A"))
    assert (got.SpecificCharacterSet, got.PatientName, got.StudyDescription) == ("ISO_IR 100", "Müller^A", "Brüste")


def test_corrections_and_another_transfer_syntax_at_once(tmp_path: Path) -> None:
    array = pixels(frames=3)
    got = corrected(image(array, JPEG_LS), tmp_path, correction(PatientID="NEW"), (IMPLICIT,))
    assert got.PatientID == "NEW"
    assert np.array_equal(got.pixel_array, array)


def test_an_attribute_without_a_value_becomes_empty_and_uids_can_be_corrected(tmp_path: Path) -> None:
    given = {"00100030": {"vr": "DA"}, "0020000D": {"vr": "UI", "Value": ["1.2.3.4"]}}
    got = corrected(part10(header(PatientBirthDate="19600101")), tmp_path, given)
    assert (got.PatientBirthDate, got.StudyInstanceUID) == ("", "1.2.3.4")


@pytest.mark.parametrize("bad", [{"zz": {"vr": "LO"}}, {"00280010": {"vr": "US", "Value": ["x"]}}])
def test_corrections_that_cannot_be_written_say_so(bad: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(NotTranscodable, match="corrections"):
        corrected(part10(header()), tmp_path, bad)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(
    name=st.text(st.characters(min_codepoint=32, max_codepoint=0x1EFF, exclude_characters="\\^=\x7f"), max_size=30),
    syntax=st.sampled_from(ENCODINGS),
)
def test_any_name_goes_out_as_it_was_corrected(name: str, syntax: str, tmp_path: Path) -> None:
    if not name.isprintable() or name != name.strip():
        return
    array = pixels(16, 16)
    got = corrected(image(array, syntax), tmp_path, {"00100010": {"vr": "PN", "Value": [{"Alphabetic": name}]}})
    assert str(got.PatientName) == name
    assert np.array_equal(got.pixel_array, array)


def test_an_object_that_is_short_or_gone_is_told(tmp_path: Path) -> None:
    file = image(pixels())
    store, instance = kept(BytesIO(file), tmp_path, object_size=len(file) + 10)
    with pytest.raises(ObjectStoreUnavailable, match="shorter"):
        list(open_outgoing(store, instance, [ANY]).chunks())
    store.delete(instance.object_key)
    with pytest.raises(NotFound):
        list(open_outgoing(store, instance, [ANY]).chunks())
    with pytest.raises(NotFound):
        list(open_outgoing(store, instance, [IMPLICIT]).chunks())
