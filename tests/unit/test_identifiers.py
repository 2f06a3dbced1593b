"""Small data sets of messages, against pydicom as reader and writer."""

from __future__ import annotations

import contextlib
import struct
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset, config
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

from pacs.identifiers import CHARACTER_SET, Element, read, require_kinds, text_of, write
from storage.errors import InvalidInput

IMPLICIT, EXPLICIT, BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
SYNTAXES = pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG])


def encoded(data: Dataset, syntax: str) -> bytes:
    out = DicomBytesIO()
    out.is_implicit_VR, out.is_little_endian = syntax == IMPLICIT, syntax != BIG
    write_dataset(out, data)
    return out.getvalue()


def decoded(data: bytes, syntax: str) -> Dataset:
    return read_dataset(BytesIO(data), syntax == IMPLICIT, syntax != BIG)


def sample() -> Dataset:
    data = Dataset()
    data.SpecificCharacterSet = "ISO_IR 192"
    data.PatientName = "Nguyễn^Văn An=阮^文安"
    data.StudyInstanceUID = ["1.2.3", "1.2.4"]
    data.StudyDate = "20260101-20260131"
    data.ModalitiesInStudy = ["CT", "MR"]
    data.StudyDescription = ""
    data.SeriesNumber = 12
    data.Rows = 512
    data.OffendingElement = [0x00100010, 0x00080020]
    data.RecommendedDisplayFrameRateInFloat = 12.5
    step = Dataset()
    step.ScheduledStationAETitle = "CT1"
    step.ScheduledProtocolCodeSequence = [Dataset()]
    step.ScheduledProtocolCodeSequence[0].CodeMeaning = "Ngực"
    data.ScheduledProcedureStepSequence = [step]
    return data


EXPECTED: dict[int, Element] = {
    CHARACTER_SET: Element("CS", ("ISO_IR 192",)),
    0x00100010: Element("PN", ("Nguyễn^Văn An=阮^文安",)),
    0x0020000D: Element("UI", ("1.2.3", "1.2.4")),
    0x00080020: Element("DA", ("20260101-20260131",)),
    0x00080061: Element("CS", ("CT", "MR")),
    0x00081030: Element("LO", ()),
    0x00200011: Element("IS", ("12",)),
    0x00280010: Element("US", (512,)),
    0x00000901: Element("AT", (0x00100010, 0x00080020)),
    0x00089459: Element("FL", (12.5,)),
    0x00400100: Element(
        "SQ",
        [
            {
                0x00400001: Element("AE", ("CT1",)),
                0x00400008: Element("SQ", [{0x00080104: Element("LO", ("Ngực",))}]),
            }
        ],
    ),
}


@SYNTAXES
def test_what_pydicom_writes_is_read(syntax: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(config.settings, "writing_validation_mode", config.IGNORE)
    data = sample()
    del data[0x00000901]
    wanted = {tag: element for tag, element in EXPECTED.items() if tag != 0x00000901}
    assert read(encoded(data, syntax), syntax) == wanted
    data.ScheduledProcedureStepSequence.is_undefined_length = True
    data.ScheduledProcedureStepSequence[0].is_undefined_length_sequence_item = True
    data[0x00400100].is_undefined_length = True
    assert read(encoded(data, syntax), syntax) == wanted


@SYNTAXES
def test_what_is_written_is_read_back_here_and_by_pydicom(syntax: str):
    wanted = {tag: element for tag, element in EXPECTED.items() if tag > 0xFFFF}
    data = write(wanted, syntax, "ISO_IR 192")
    assert read(data, syntax) == wanted
    found = decoded(data, syntax)
    assert found.PatientName == "Nguyễn^Văn An=阮^文安"
    assert found.StudyInstanceUID == ["1.2.3", "1.2.4"]
    assert (found.Rows, found.SeriesNumber, found.StudyDescription) == (512, 12, "")
    assert found.ScheduledProcedureStepSequence[0].ScheduledProtocolCodeSequence[0].CodeMeaning == "Ngực"


@pytest.mark.parametrize(
    ("name", "asked", "answered", "raw"),
    [
        ("An^Le", "", None, b"An^Le "),
        ("An^Le", "ISO_IR 100", "ISO_IR 100", b"An^Le "),
        ("Müller", "ISO_IR 100", "ISO_IR 100", b"M\xfcller"),
        ("Müller", "ISO_IR 192", "ISO_IR 192", b"M\xc3\xbcller "),
        ("Müller", "", "ISO_IR 192", b"M\xc3\xbcller "),
        ("Nguyễn", "ISO_IR 100", "ISO_IR 192", "Nguyễn".encode()),
        ("Иванов", "ISO_IR 144", "ISO_IR 144", "Иванов".encode("iso8859-5")),
        ("山田", "ISO 2022 IR 6\\ISO 2022 IR 87", "ISO_IR 192", "山田".encode()),
        ("山田", "\\ISO 2022 IR 87", "ISO_IR 192", "山田".encode()),
        ("Yamada", "\\ISO 2022 IR 87", "\\ISO 2022 IR 87", b"Yamada"),
        ("王", "GB18030", "GB18030", "王".encode("gb18030")),
        ("Müller", "ISO_IR 6", "ISO_IR 192", b"M\xc3\xbcller "),
    ],
)
def test_the_character_set_is_the_one_asked_for_or_utf8(name: str, asked: str, answered: str | None, raw: bytes):
    data = write({0x00100010: Element("PN", (name,))}, IMPLICIT, asked)
    found = decoded(data, IMPLICIT)
    assert found.get_item(0x00100010).value == raw
    if answered is None:
        assert CHARACTER_SET not in found
    else:
        assert found.get_item(CHARACTER_SET).value.decode().rstrip() == answered


def test_text_is_read_by_the_character_set_of_the_data_set():
    data = encoded(Dataset(), IMPLICIT)
    data += (
        struct.pack("<HHI", 8, 5, 10)
        + b"ISO_IR 144"
        + struct.pack("<HHI", 0x10, 0x10, 6)
        + "Иванов".encode("iso8859-5")
    )
    assert text_of(read(data, IMPLICIT), 0x00100010) == "Иванов"
    assert text_of({}, 0x00100010) == ""


def head(group: int, number: int, length: int) -> bytes:
    return struct.pack("<HHI", group, number, length)


OPEN_ITEM = head(0x10, 0x1002, 0xFFFFFFFF) + head(0xFFFE, 0xE000, 0xFFFFFFFF)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\x08\0\x05\0", "ends within"),
        (head(8, 0x20, 8) + b"2026", "longer than"),
        (head(8, 0x20, 0) + head(8, 0x18, 0), "out of order"),
        (head(8, 0x20, 0) * 2, "out of order"),
        (head(0x10, 0x1002, 8) + head(0x10, 0x20, 0), "else than items"),
        (head(0x10, 0x1002, 12) + head(0xFFFE, 0xE000, 9) + bytes(4), "longer than|ends within"),
        (head(0xFFFE, 0xFF07, 0xFFFFFFFF), "no data element"),  # found by fuzzing
        (head(0xFFFE, 0xE000, 0), "no data element"),
        (head(0x28, 0x10, 3) + b"abc", "ends within"),
        (OPEN_ITEM * 9, "too deeply"),
        (b"".join(head(0x0009, n, 0) for n in range(4001)), "one element too many"),
    ],
    ids=range(11),
)
def test_malformed_data_is_refused(data: bytes, why: str):
    with pytest.raises(InvalidInput, match=why):
        read(data, IMPLICIT)


def test_an_unknown_vr_is_refused_and_an_unknown_element_left_out():
    with pytest.raises(InvalidInput, match="VR"):
        read(struct.pack("<HH2sH", 8, 0x20, b"ZZ", 0), EXPLICIT)
    assert read(struct.pack("<HHI", 9, 0x1001, 2) + b"ab", IMPLICIT) == {}


def test_a_known_attribute_has_the_kind_of_value_that_it_is_known_for():
    private, step = Element("OB", (b"x",)), Element("SQ", [{0x00400002: Element("DA", ("20260101",))}])
    require_kinds(
        {0x00100020: Element("SH", ("1",)), 0x001021C0: Element("SS", (4,)), 0x00400100: step, 0x00091001: private}
    )
    odd = {0x00400002: Element("SQ", [])}
    for tag, element in (
        (0x0020000D, Element("US", (5,))),
        (0x00100010, Element("SQ", [{}])),
        (0x00400100, Element("LO", ("x",))),
        (0x00400100, Element("SQ", [odd])),
    ):
        with pytest.raises(InvalidInput, match="has VR"):
            require_kinds({tag: element})


@given(st.binary(max_size=120), st.sampled_from([IMPLICIT, EXPLICIT, BIG]))
def test_any_bytes_are_read_or_refused(data: bytes, syntax: str):
    with contextlib.suppress(InvalidInput):
        assert all(isinstance(element, Element) for element in read(data, syntax).values())


texts = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="\\"), max_size=12)
elements = st.recursive(
    st.dictionaries(
        st.sampled_from([0x00100010, 0x00100020, 0x00081030]),
        st.lists(texts.filter(bool), max_size=3).map(tuple),
        max_size=3,
    ).map(lambda found: {tag: Element("PN" if tag == 0x00100010 else "LO", values) for tag, values in found.items()}),
    lambda inner: st.lists(inner, max_size=2).map(lambda items: {0x00101002: Element("SQ", items)}),
    max_leaves=5,
)


@given(elements, st.sampled_from([IMPLICIT, EXPLICIT, BIG]), st.sampled_from(["", "ISO_IR 100", "ISO_IR 192", "GBK"]))
def test_a_round_trip_loses_nothing(wanted: dict[int, Any], syntax: str, character_set: str):
    found = read(write(wanted, syntax, character_set), syntax)
    found.pop(CHARACTER_SET, None)
    assert found == wanted
