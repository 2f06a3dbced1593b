"""The check of DICOM JSON: what pydicom writes passes, what breaks PS3.18 F.2 is refused with its place."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset

from api.dicomweb.jsonmodel import check, objects
from storage.errors import InvalidDataSet

_tags = st.sampled_from(
    ["00100010", "00100020", "00280010", "00081140", "7FE00010", "00091010", "0010001", "00000002", "x"]
)
_vrs = st.sampled_from(["PN", "LO", "US", "SQ", "OB", "OW", "UN", "DS", "IS", "AT", "FD", "XX", "", None, 5])
_leaf = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just({"Alphabetic": "An"})
_model: st.SearchStrategy[Any] = st.recursive(
    _leaf,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(_tags | st.sampled_from(["vr", "Value", "InlineBinary", "BulkDataURI"]), inner, max_size=3)
        | st.dictionaries(
            _tags, st.fixed_dictionaries({"vr": _vrs}, optional={"Value": st.lists(inner, max_size=2)}), max_size=3
        )
    ),
    max_leaves=12,
)


@given(_model, st.booleans())
@settings(deadline=None, max_examples=300)
def test_any_json_is_taken_or_refused(model: Any, bulk: bool) -> None:
    with contextlib.suppress(InvalidDataSet):
        check(model, bulk=bulk)
        Dataset.from_json(model, bulk_data_uri_handler=lambda *_: b"")


@given(st.binary(max_size=40) | _model.map(lambda one: json.dumps(one).encode()))
def test_any_body_is_a_list_or_refused(data: bytes) -> None:
    with contextlib.suppress(InvalidDataSet):
        assert isinstance(objects(data), list)


VALUES: dict[str, tuple[int, list[Any], list[Any]]] = {  # VR: tag, good values, bad values
    "AE": (0x00080054, ["SANGLOC"], ["a title that is too long", 5]),
    "AS": (0x00101010, ["052Y"], ["52", "052X"]),
    "AT": (0x00280009, ["00181063", "7fe00010"], ["0018106", 5, "(0018,1063)"]),
    "CS": (0x00080060, ["CT", ""], ["lower", "x" * 17]),
    "DA": (0x00080020, ["20260102"], ["2026-01-02", "20261301", 20260102]),
    "DS": (0x00180050, [1, 1.5, "1.5", -2e-7], ["one", {}, [1], "1" * 17]),
    "DT": (0x00404005, ["20260102101500.5+0700", "2026"], ["now"]),
    "FD": (0x00189073, [1, 0.1], ["x", {}]),
    "FL": (0x00109431, [1.5], ["x"]),
    "IS": (0x00200013, [7, "7"], [7.5, "7.5", "x"]),
    "LO": (0x00100020, ["P1", "Nội"], ["x" * 65, 5, "a\0"]),
    "PN": (0x00100010, [{"Alphabetic": "A^B"}, {"Ideographic": "阮"}, {}], ["A^B", {"Latin": "x"}, {"Alphabetic": 5}]),
    "SH": (0x00080050, ["A1"], ["x" * 17]),
    "SS": (0x00280106, [-5], [40_000, "x"]),
    "TM": (0x00080030, ["101500.25", "10"], ["25", "10:15"]),
    "UI": (0x00080018, ["1.2.3"], ["1..2", "01.2.x", "1." * 40, 12]),
    "UR": (0x00081190, ["http://x/y"], [5]),
    "US": (0x00280010, [0, 65_535, "12"], [-1, 65_536, 1.5, True, "x"]),
    "UT": (0x0040A160, ["text" * 100], [5]),
}


@pytest.mark.parametrize("vr", list(VALUES))
def test_values_by_vr(vr: str) -> None:
    tag, good, bad = VALUES[vr]
    name = f"{tag:08X}"
    check({name: {"vr": vr, "Value": good}})
    check({name: {"vr": vr}})
    check({name: {"vr": vr, "Value": [None, *good[:1]]}})
    for value in bad:
        with pytest.raises(InvalidDataSet, match=rf"{name}\[0\]: no value of VR {vr}"):
            check({name: {"vr": vr, "Value": [value]}})


def test_vrs_that_have_a_choice() -> None:
    for vr in ("US", "SS"):
        check({"00280106": {"vr": vr, "Value": [5]}})
    for vr in ("OB", "OW"):
        check({"7FE00010": {"vr": vr, "InlineBinary": "AAAA"}})
    with pytest.raises(InvalidDataSet, match="SS or US, not LO"):
        check({"00280106": {"vr": "LO", "Value": ["5"]}})
    check({"00091010": {"vr": "LO", "Value": ["private"]}, "00280106": {"vr": "UN", "InlineBinary": ""}})


def test_bulk_data_only_where_it_can_come() -> None:
    model = {"7FE00010": {"vr": "OW", "BulkDataURI": "x"}}
    check(model, bulk=True)
    with pytest.raises(InvalidDataSet, match="7FE00010"):
        check(model)
    with pytest.raises(InvalidDataSet, match="00081140"):
        check({"00081140": {"vr": "SQ", "BulkDataURI": "x"}}, bulk=True)
    with pytest.raises(InvalidDataSet, match="7FE00010"):
        check({"7FE00010": {"vr": "OW", "BulkDataURI": "x" * 1025}}, bulk=True)


def test_depth_is_bounded() -> None:
    model: dict[str, Any] = {}
    for _ in range(17):
        model = {"00081140": {"vr": "SQ", "Value": [model]}}
    with pytest.raises(InvalidDataSet, match="too deep"):
        check(model)
    check(model["00081140"]["Value"][0])


def test_what_pydicom_writes_passes() -> None:
    data = Dataset()
    data.PatientName, data.PatientID, data.StudyDate = "Nguyễn^An=阮", "P1", "20260102"
    data.PixelSpacing, data.Rows, data.ImageType = [0.5, 0.25], 5, ["ORIGINAL", "PRIMARY"]
    data.ReferencedImageSequence = [Dataset()]
    data.ReferencedImageSequence[0].ReferencedSOPInstanceUID = "1.2.3"
    data.FrameIncrementPointer = 0x00181063
    data.add_new(0x00091010, "OB", b"\0\1")
    check(json.loads(data.to_json()))
