"""What is put into an order's document, and what differs then."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pacs.merging import differences, merged, numbered, with_steps
from storage.errors import Conflict
from storage.ordered import Order


def document(*steps: str, **over: Any) -> dict[str, Any]:
    """A checked order with one procedure and these steps."""
    given_order = {
        "patient": {"id": "BN1", "name": "Lê^An"},
        "procedures": [
            {
                "procedure_id": "P1",
                "study_uid": "1.2.3",
                "steps": [
                    {"step_id": step, "modality": "CT", "start": "2026-11-22T08:00:00"} for step in steps or ("S1",)
                ],
            }
        ],
        **over,
    }
    return Order.model_validate(given_order).model_dump(mode="json")


def statuses(content: dict[str, Any]) -> list[str]:
    return [step["status"] for procedure in content["procedures"] for step in procedure["steps"]]


def test_only_what_is_given_changes():
    before = document(comments="as before")
    after = merged(before, {"priority": "STAT", "patient": {"sex": "F"}})
    assert differences(before, after) == [("patient.sex", "", "F"), ("priority", "ROUTINE", "STAT")]


def test_none_takes_away():
    after = merged(document(comments="x"), {"comments": None})
    assert "comments" not in after


def test_parts_are_found_by_identifier_or_alone():
    before = document("S1", "S2")
    given_steps = {"procedures": [{"steps": [{"step_id": "S2", "ae_title": "CT2"}]}]}
    after = merged(before, given_steps)
    assert differences(before, after) == [("procedures.0.steps.1.ae_title", "", "CT2")]
    with pytest.raises(Conflict, match="step_id"):
        merged(before, {"procedures": [{"steps": [{"ae_title": "CT2"}]}]})


def test_unknown_identifiers_are_new_parts():
    step = {"step_id": "S9", "modality": "CT", "start": "2026-11-22T09:00:00"}
    after = merged(document(), {"procedures": [{"procedure_id": "P9", "steps": [step]}]})
    assert [procedure["procedure_id"] for procedure in after["procedures"]] == ["P1", "P9"]
    after = merged(document(), {"procedures": [{"steps": [step]}]})
    assert [each["step_id"] for each in after["procedures"][0]["steps"]] == ["S1", "S9"]


def test_a_study_uid_identifies_a_procedure_too():
    after = merged(document(), {"procedures": [{"study_uid": "1.2.3", "description": "x"}]})
    assert [procedure["description"] for procedure in after["procedures"]] == ["x"]


def test_the_whole_cancels_open_steps_that_are_not_named():
    before = document("S1", "S2", "S3")
    before["procedures"][0]["steps"][2]["status"] = "COMPLETED"
    after = merged(before, {"procedures": [{"steps": [{"step_id": "S1"}]}]}, whole=True)
    assert statuses(after) == ["SCHEDULED", "CANCELLED", "COMPLETED"]
    other = {"procedure_id": "P2", "steps": [{"step_id": "S9", "modality": "MR", "start": "2026-11-22T08:00:00"}]}
    assert statuses(Order.model_validate(merged(before, {"procedures": [other]}, whole=True)).model_dump()) == [
        "CANCELLED", "CANCELLED", "COMPLETED", "SCHEDULED",
    ]  # fmt: skip
    assert merged(before, {"priority": "LOW"}, whole=True)["procedures"] == before["procedures"]


def test_filling_overwrites_nothing():
    before = document(comments="from the change")
    after = merged(
        before, {"comments": "from the new order", "admission_id": "V1", "patient": {"name": "X"}}, fill=True
    )
    assert (after["comments"], after["admission_id"], after["patient"]["name"]) == ("from the change", "V1", "Lê^An")


def test_identifiers_are_given_once():
    bare = {
        "procedures": [{"steps": [{}, {"step_id": "mine"}]}, {"procedure_id": "P", "study_uid": "1.9", "steps": [{}]}]
    }
    first = numbered(bare, 7)
    assert [step["step_id"] for step in first["procedures"][0]["steps"]] == ["S7-1-1", "mine"]
    assert first["procedures"][0]["procedure_id"] == "P7-1"
    assert first["procedures"][0]["study_uid"].startswith("2.25.")
    assert (first["procedures"][1]["procedure_id"], first["procedures"][1]["study_uid"]) == ("P", "1.9")
    assert numbered(first, 7) == first


def test_steps_move():
    after = with_steps(document("S1", "S2"), lambda key, status: "READY" if key == ("P1", "S2") else status)
    assert statuses(after) == ["SCHEDULED", "READY"]


_LEAVES = st.one_of(st.none(), st.integers(), st.text(max_size=3))
_TREES = st.recursive(
    _LEAVES, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("abc"), inner))
)
_DOCUMENTS = st.dictionaries(st.sampled_from("abc"), _TREES)


@given(_DOCUMENTS, _DOCUMENTS)
def test_differences_are_empty_for_the_same_and_mirror_each_other(one: dict[str, Any], other: dict[str, Any]):
    assert differences(one, one) == []
    forth, back = differences(one, other), differences(other, one)
    assert sorted(path for path, _, _ in forth) == sorted(path for path, _, _ in back)
    assert all((path, new, old) in back for path, old, new in forth)


_STEP = {"modality": "CT", "start": "2026-11-22T08:00"}


@pytest.mark.parametrize(
    ("over", "path"),
    [
        ({"patient": {"id": "", "name": "x"}}, "patient.id"),
        ({"patient": {"id": "a\\b", "name": "x"}}, "patient.id"),
        ({"patient": {"id": "x" * 65, "name": "x"}}, "patient.id"),
        ({"patient": {"id": "1", "name": "a=b=c=d"}}, "patient.name"),
        ({"patient": {"id": "1", "name": "a^b^c^d^e^f"}}, "patient.name"),
        ({"patient": {"id": "1", "name": "x" * 65}}, "patient.name"),
        ({"patient": {"id": "1", "name": "tab\x07"}}, "patient.name"),
        ({"patient": {"id": "1", "name": "x", "sex": "female"}}, "patient.sex"),
        ({"patient": {"id": "1", "name": "x", "nick": "y"}}, "patient.nick"),
        ({"accession_number": "x" * 17}, "accession_number"),
        ({"priority": "NOW"}, "priority"),
        ({"procedures": []}, "procedures"),
        ({"procedures": [{"steps": []}]}, "procedures.0.steps"),
        ({"procedures": [{"study_uid": "1.02", "steps": [_STEP]}]}, "procedures.0.study_uid"),
        ({"procedures": [{"steps": [_STEP | {"modality": "ct"}]}]}, "procedures.0.steps.0.modality"),
        ({"procedures": [{"steps": [_STEP | {"start": "2026-11-22T08:00Z"}]}]}, "procedures.0.steps.0.start"),
        ({"procedures": [{"steps": [_STEP | {"ae_title": "Ệ"}]}]}, "procedures.0.steps.0.ae_title"),
    ],
)  # fmt: skip
def test_what_is_no_order(over: dict[str, Any], path: str):
    with pytest.raises(ValidationError) as caught:
        document(**over)
    assert ".".join(map(str, caught.value.errors()[0]["loc"])) == path


def test_text_is_composed_and_trimmed():
    found = Order.model_validate(
        document() | {"patient": {"id": " 1 ", "name": "Nguye\u0302\u0303n^^^"}, "comments": "a\r\nb"}
    )
    assert (found.patient.id, found.patient.name, found.comments) == ("1", "Nguyễn", "a\nb")
