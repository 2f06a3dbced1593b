"""The Native DICOM Model on its way in (PS3.19 A.1): what is read, and what is not taken."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.dicomweb.jsonmodel import check
from api.dicomweb.xml import native
from api.dicomweb.xmlmodel import data_set
from storage.errors import InvalidDataSet

NS = 'xmlns="http://dicom.nema.org/PS3.19/models/NativeDICOM"'


def document(inside: str, head: str = '<?xml version="1.0" encoding="UTF-8"?>') -> bytes:
    return f"{head}<NativeDicomModel {NS}>{inside}</NativeDicomModel>".encode()


def attribute(tag: str, vr: str, inside: str = "", more: str = "") -> str:
    return f'<DicomAttribute tag="{tag}" vr="{vr}"{more}>{inside}</DicomAttribute>'


def test_every_form_of_a_value() -> None:
    name = (
        '<PersonName number="1"><Alphabetic><FamilyName>Nguyễn</FamilyName><NamePrefix>BS</NamePrefix></Alphabetic>'
        "<Ideographic><FamilyName>阮</FamilyName></Ideographic></PersonName>"
    )
    model = data_set(
        document(
            "\n  "
            + attribute("00100010", "PN", name, ' keyword="PatientName"')
            + attribute("00280010", "US", '<Value number="1"> 512 </Value>')
            + attribute("00186060", "FL", '<Value number="1">1.5e1</Value>')
            + attribute("00080061", "CS", '<Value number="1">CT</Value><Value number="3">MR</Value>')
            + attribute("00081030", "LO", '<Value number="1"> A &amp; &lt;B&gt; &#x1EA1;</Value>')
            + attribute("00081140", "SQ", f'<Item number="2">{attribute("00081155", "UI")}</Item>')
            + attribute("00280009", "AT", '<Value number="1">00181063</Value>')
            + attribute("7fe00010", "OW", '<BulkData uri="../bulk?a=1&amp;b=2"/>')
            + attribute("00420011", "OB", "<InlineBinary>AA\n EC</InlineBinary>")
            + attribute("00080090", "PN")
        )
    )
    assert model == {
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": "Nguyễn^^^BS", "Ideographic": "阮"}]},
        "00280010": {"vr": "US", "Value": [512]},
        "00186060": {"vr": "FL", "Value": [15.0]},
        "00080061": {"vr": "CS", "Value": ["CT", None, "MR"]},
        "00081030": {"vr": "LO", "Value": [" A & <B> ạ"]},
        "00081140": {"vr": "SQ", "Value": [{}, {"00081155": {"vr": "UI"}}]},
        "00280009": {"vr": "AT", "Value": ["00181063"]},
        "7FE00010": {"vr": "OW", "BulkDataURI": "../bulk?a=1&b=2"},
        "00420011": {"vr": "OB", "InlineBinary": "AAEC"},
        "00080090": {"vr": "PN"},
    }
    check(model, bulk=True)


texts = st.text("aZ09 <>&'\"]ạ山\t\n\r\u0085\u2028𝄞", min_size=1, max_size=8)
values = st.one_of(
    st.tuples(st.just("LO"), st.lists(texts, min_size=1, max_size=3)),
    st.tuples(st.just("US"), st.lists(st.integers(0, 65535), min_size=1, max_size=3)),
    st.tuples(st.just("SV"), st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1)),
    st.tuples(st.just("FD"), st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1)),
)
models = st.recursive(
    st.dictionaries(
        st.integers(0x00080000, 0x7FDFFFFF).map(lambda tag: f"{tag:08X}"),
        values.map(lambda one: {"vr": one[0], "Value": one[1]}),
        max_size=4,
    ),
    lambda inner: st.dictionaries(
        st.sampled_from(["00081140", "00400275", "00081115"]),
        st.lists(inner, min_size=1, max_size=3).map(lambda items: {"vr": "SQ", "Value": items}),
        max_size=2,
    ),
    max_leaves=10,
)


@given(models)
def test_what_we_write_is_what_we_read(model: dict[str, Any]) -> None:
    assert data_set(native(model)) == model


@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16", "ISO-8859-1", "windows-1258"])
def test_encodings(encoding: str) -> None:
    text = document(attribute("00081030", "LO", '<Value number="1">Ré</Value>'), head="").decode()
    data = f'<?xml version="1.0" encoding="{encoding}"?>{text}'.encode(encoding)
    assert data_set(data)["00081030"]["Value"] == ["Ré"]


def test_private_attributes_get_a_block_of_their_creator() -> None:
    acme = ' privateCreator="ACME 1"'
    other = ' privateCreator="OTHER"'
    model = data_set(
        document(
            attribute("00090010", "LO", '<Value number="1">TAKEN</Value>')
            + attribute("00090002", "LO", '<Value number="1">a</Value>', acme)
            + attribute("00090003", "LO", '<Value number="1">b</Value>', acme)
            + attribute("00091002", "LO", '<Value number="1">c</Value>', other)  # that block is another's
            + attribute("000B2005", "LO", '<Value number="1">d</Value>', acme)
        )
    )
    assert {tag: one["Value"][0] for tag, one in model.items()} == {
        "00090010": "TAKEN", "00090011": "ACME 1", "00091102": "a", "00091103": "b", "00090012": "OTHER",
        "00091202": "c", "000B0020": "ACME 1", "000B2005": "d",
    }  # fmt: skip


BOMB = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 12))
WRONG: dict[str, bytes] = {
    "nothing": b"",
    "no xml": b"DICM",
    "cut off": document(attribute("00100020", "LO"))[:-5],
    "document type": document("", '<!DOCTYPE x SYSTEM "file:///etc/passwd">'),
    "external entity": document("", '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>'),
    "billion laughs": document("&a11;", f'<!DOCTYPE x [<!ENTITY a0 "ha">{BOMB}]>'),
    "unknown entity": document("&e;"),
    "unknown encoding": document("", '<?xml version="1.0" encoding="klingon"?>'),
    "wide encoding": document("", '<?xml version="1.0" encoding="shift_jis"?>'),
    "another document": b"<html/>",
    "another namespace": b'<NativeDicomModel xmlns="urn:x"/>',
    "attribute in attribute": document(attribute("00100020", "LO", attribute("00100020", "LO"))),
    "unknown element": document(attribute("00100020", "LO", "<Wert/>")),
    "text outside": document("Nguyen"),
    "text in an item": document(attribute("00081140", "SQ", '<Item number="1">x</Item>')),
    "no number": document(attribute("00100020", "LO", "<Value>x</Value>")),
    "number 0": document(attribute("00100020", "LO", '<Value number="0">x</Value>')),
    "number twice": document(attribute("00100020", "LO", '<Value number="1">x</Value>' * 2)),
    "a number without end": document(attribute("00100020", "LO", '<Value number="99999999">x</Value>')),
    "many gaps": document(
        "".join(attribute(f"0009{n:04X}", "LO", '<Value number="900">x</Value>') for n in range(0x1000, 0x1020))
    ),
    "tag twice": document(attribute("00100020", "LO") * 2),
    "private tag": document(attribute("0009zz01", "LO", more=' privateCreator="X"')),
    "private tag twice": document(attribute("00090001", "LO", more=' privateCreator="X"') * 2),
    "deep": document(
        '<DicomAttribute tag="00081140" vr="SQ"><Item number="1">' * 100_000,
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_not_taken(name: str) -> None:
    with pytest.raises(InvalidDataSet) as caught:
        data_set(WRONG[name])
    assert "Nguyen" not in str(caught.value)


def test_more_creators_than_blocks() -> None:
    many = "".join(attribute("00090001", "LO", more=f' privateCreator="C{n}"') for n in range(241))
    with pytest.raises(InvalidDataSet, match="more private creators"):
        data_set(document(many))


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_anything_is_read_or_refused(data: bytes) -> None:
    for content in (data, document(data.decode("latin-1"))):
        try:
            data_set(content)
        except InvalidDataSet:
            continue
