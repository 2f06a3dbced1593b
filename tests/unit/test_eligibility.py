"""Which instances a model reads, and the reason that a person is told for the others."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.eligibility import EligibilityPolicy, screen, view_of
from storage.studies import InstanceHeader
from storage.uid import InstanceUID, SeriesUID, StudyUID

CR = "1.2.840.10008.5.1.4.1.1.1"
DX = "1.2.840.10008.5.1.4.1.1.1.1"
CHEST = {
    "modality": "DX",
    "body_part": "CHEST",
    "view_position": "PA",
    "rows": 3000,
    "columns": 2500,
    "photometric": "MONOCHROME2",
    "bits_allocated": 16,
    "sop_class": DX,
}


def header(**changes: Any) -> InstanceHeader:
    fields: dict[str, Any] = {
        "sop_uid": InstanceUID("1.2.3"),
        "study_uid": StudyUID("1.2"),
        "series_uid": SeriesUID("1.2.1"),
        "transfer_syntax": "1.2.840.10008.1.2.1",
        **CHEST,
        **changes,
    }
    return InstanceHeader(**fields)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"modality": "CR", "sop_class": CR, "view_position": "AP"},
        {"modality": "", "sop_class": CR},
        {"view_position": "pa ", "body_part": "PORT CHEST"},
        {"body_part": "THORAX"},
        {"body_part": "Lung"},
        {"body_part": "NGỰC"},
        {"view_position": ""},
        {"view_position": "", "series_description": "Ngực thẳng"},
        {"view_position": "", "study_description": "CHEST AP PORTABLE"},
        {"view_position": "PA", "study_description": "Chest PA and lateral"},
        {"view_position": "", "series_description": "Chest PA", "study_description": "Chest PA and lateral"},
        {"body_part": "", "series_description": "X-quang tim phổi thẳng"},
        {"body_part": "", "protocol_name": "W033 Chest p.a."},
        {"body_part": "UNKNOWN", "study_description": "CXR"},
        {"photometric": "MONOCHROME1"},
        {"bits_allocated": 8, "rows": 256, "columns": 256},
        {"patient_age": "016Y"},
        {"patient_age": "nonsense"},
        {"frames": 1},
    ],
)
def test_a_frontal_chest_radiograph_is_read(changes: dict[str, Any]) -> None:
    assert screen(header(**changes)) == ""


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"modality": "CT", "sop_class": "1.2.840.10008.5.1.4.1.1.2"}, "CT is not read"),
        ({"modality": "MG", "sop_class": "1.2.840.10008.5.1.4.1.1.1.2"}, "MG is not read"),
        ({"modality": "", "sop_class": "1.2.3.4"}, "without modality"),
        ({"modality": "DX", "sop_class": "1.2.3.4"}, "this kind of object"),
        ({"sop_class": f"{DX}.1"}, "For Processing"),
        ({"modality": "CR", "sop_class": "1.2.840.10008.5.1.4.1.1.7"}, "secondary capture"),
        ({"modality": "CR", "sop_class": "1.2.840.10008.5.1.4.1.1.7.2"}, "secondary capture"),
        ({"rows": 0, "columns": 0}, "no image"),
        ({"rows": None}, "no image"),
        ({"rows": 100}, "too small"),
        ({"rows": 30_000, "columns": 30_000}, "30000 x 30000 pixels"),
        ({"frames": 12}, "12 frames"),
        ({"photometric": "RGB"}, "not a grey image: RGB"),
        ({"photometric": ""}, "not a grey image"),
        ({"bits_allocated": 32}, "32 bits"),
        ({"bits_allocated": 1}, "1 bits"),
        ({"patient_age": "015Y"}, "under 16 years"),
        ({"patient_age": "006M"}, "under 16 years"),
        ({"patient_age": "010D"}, "under 16 years"),
        ({"patient_birth_date": dt.date(2020, 1, 1), "study_date": dt.date(2026, 1, 1)}, "under 16 years"),
        ({"body_part": "ABDOMEN"}, "body part ABDOMEN"),
        ({"body_part": "TSPINE"}, "body part TSPINE"),
        ({"body_part": "", "series_description": "Cột sống ngực thẳng"}, "nothing in the description says chest"),
        ({"body_part": "", "series_description": "Hand"}, "nothing in the description says chest"),
        ({"body_part": ""}, "neither body part nor description"),
        ({"view_position": "LL"}, "lateral or oblique view (view position: LL)"),
        ({"view_position": "RLD"}, "lateral"),
        ({"view_position": "LATERAL"}, "lateral"),
        ({"view_position": "", "series_description": "Ngực nghiêng trái"}, "lateral"),
        ({"view_position": "", "protocol_name": "Chest Lat."}, "lateral"),
        ({"view_position": "", "study_description": "Chest PA and lateral"}, "cannot be told"),
    ],
)
def test_everything_else_is_not_read_and_the_reason_is_told(changes: dict[str, Any], told: str) -> None:
    assert told in screen(header(**changes))


def test_the_birth_date_is_believed_before_the_age() -> None:
    adult = header(patient_birth_date=dt.date(1960, 5, 1), study_date=dt.date(2026, 1, 1), patient_age="005Y")
    assert screen(adult) == ""


def test_the_limits_are_settings() -> None:
    child = header(patient_age="010Y", rows=200, columns=200)
    assert screen(child, EligibilityPolicy(min_side_px=128, min_age_years=0)) == ""


@pytest.mark.parametrize(
    ("text", "view"),
    [
        ("postero-anterior", "frontal"),
        ("left lateral", "lateral"),
        ("PA and LAT", "both"),
        ("Apical", ""),
        ("latissimus palm", ""),
        ("", ""),
    ],
)
def test_views_are_told_by_whole_words(text: str, view: str) -> None:
    assert view_of(text) == view


words = st.text(max_size=40)


@given(words, words, words, words, words, st.sampled_from(["CR", "DX", "CT", ""]), st.none() | st.integers(-5, 40_000))
def test_any_header_gets_an_answer(  # noqa: PLR0917
    view: str, body: str, series: str, study: str, age: str, modality: str, rows: int | None
) -> None:
    reason = screen(
        header(
            view_position=view,
            body_part=body,
            series_description=series,
            study_description=study,
            patient_age=age,
            modality=modality,
            rows=rows,
        )
    )
    assert reason == reason.strip()
    assert "\n" not in reason
