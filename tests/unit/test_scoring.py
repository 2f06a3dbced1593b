"""What a film's numbers become on the list: which threshold flags it, which findings are named, in which order."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.scoring import Model, check_operating_points, listed, score
from inference.triage import TriagePolicy
from models.bundle import Bundle
from models.calibration import Calibration
from models.features import Outputs
from storage.errors import InvalidBundle
from storage.findings import Finding, Score
from storage.jobs import Job

AT = dt.datetime(2026, 3, 2, 8, 0, tzinfo=dt.UTC)
NAMES = ("Abnormal", "Effusion", "Pleural_Thickening", "Hernia")
POINTS = {
    "sensitive": (0.2, 0.01, 0.01, 0.01),
    "balanced": (0.5, 0.02, 0.02, 0.02),
    "specific": (0.8, 0.4, 0.2, 0.1),
}
unit = st.floats(0, 1)
findings = st.lists(st.builds(Finding, st.text(max_size=3), unit, unit), max_size=14)


class Unused:
    """An engine that these tests never run: they begin with its logits."""

    name = "torch-cpu"
    head = None

    def predict(self, batch: npt.NDArray[np.float32]) -> Outputs:
        raise NotImplementedError


def bundle(**over: object) -> Bundle:
    values = {
        "path": Path("nowhere"), "name": "cxr", "version": "1", "weights_sha256": "ab" * 32, "outputs": NAMES,
        "input_size": 64, "channels": 1, "value_range": None, "network_def": {},
        "calibration": Calibration.identity(len(NAMES)), "operating_points": POINTS, "operating_point": "balanced",
    }  # fmt: skip
    return Bundle(**{**values, **over})  # type: ignore[arg-type]


def scored(*probabilities: float, policy: TriagePolicy | None = None, site: str = "", **over: object) -> Score:
    job = Job(
        job_pk=1, attempts=1, instance_pk=1, study_pk=1, study_uid="1.2", sop_uid="1.2.3", sop_class="",
        transfer_syntax="", object_key="", object_size=0, dataset_offset=0, sha256=b"", modality="DX", body_part="",
        view_position="", photometric="", rows=None, columns=None, bits_allocated=None, frames=None, patient_age="",
        site=site, priority="routine", arrived_at=AT, latest_due_at=AT + dt.timedelta(hours=8),
    )  # fmt: skip
    p = np.asarray(probabilities)
    logits = np.log(p / (1 - p)).astype(np.float32)
    model = Model(bundle(**over), Unused())
    return score(policy or TriagePolicy(), model, job, logits, decode_ms=1, inference_ms=1)


def names(given: Score) -> list[str]:
    return [finding.name for finding in given.listed]


def test_findings_are_named_from_the_specific_point_on_and_all_are_kept() -> None:
    film = scored(0.93, 0.41, 0.19, 0.07)
    assert (film.flagged, film.threshold) == (True, 0.5)
    assert names(film) == ["Effusion"]
    assert [(one.name, one.threshold) for one in film.findings] == [
        ("Effusion", 0.4),
        ("Pleural_Thickening", 0.2),
        ("Hernia", 0.1),
    ]
    assert film.reason.endswith(": perhaps Effusion, 0.41 (abnormal 0.93)")


def test_with_no_finding_at_its_threshold_the_reason_is_the_flag_alone() -> None:
    film = scored(0.93, 0.39, 0.19, 0.09)
    assert film.listed == ()
    assert film.reason.endswith(": abnormal, 0.93")


def test_the_strongest_evidence_stands_first_not_the_commonest_finding() -> None:
    assert names(scored(0.9, 0.45, 0.7, 0.31)) == ["Pleural_Thickening", "Hernia", "Effusion"]
    assert names(scored(0.9, 0.45, 0.7, 0.11)) == ["Pleural_Thickening", "Effusion"]  # 0.11 is above its 0.1
    assert "likely Pleural Thickening, 0.70 (" in scored(0.9, 0.45, 0.7, 0.11).reason


def test_a_bundle_without_a_specific_point_is_held_to_its_own() -> None:
    one = {"operating_points": {"balanced": (0.5, 0.3, 0.3, 0.3)}}
    assert names(scored(0.9, 0.35, 0.25, 0.01, **one)) == ["Effusion"]


@pytest.mark.parametrize(("site", "threshold", "flagged"), [("A", 0.2, True), ("B", 0.8, False), ("", 0.5, False)])
def test_the_threshold_is_that_of_the_site(site: str, threshold: float, flagged: bool) -> None:
    policy = TriagePolicy(site_operating_points={"A": "sensitive", "B": "specific"})
    film = scored(0.3, 0.5, 0.01, 0.01, policy=policy, site=site)
    assert (film.threshold, film.flagged) == (threshold, flagged)
    assert names(film) == ["Effusion"]  # held to the strict thresholds at every site


@given(findings)
def test_the_list_is_short_and_names_nothing_below_its_threshold_or_a_fifth(given: list[Finding]) -> None:
    named = listed(given)
    reached = [finding for finding in given if finding.probability >= max(finding.threshold, 0.2)]
    assert len(named) == min(5, len(reached))
    assert all(finding in reached for finding in named)


def test_a_point_that_the_bundle_lacks_is_refused_with_the_setting_to_change() -> None:
    model = bundle(operating_points={"balanced": POINTS["balanced"]})
    check_operating_points(TriagePolicy(site_operating_points={"A": "balanced"}), model)
    with pytest.raises(InvalidBundle, match=r"triage\.operating_point is specific, .* it has balanced"):
        check_operating_points(TriagePolicy(operating_point="specific"), model)
    with pytest.raises(InvalidBundle, match="operating_point of site Huyện A is sensitive"):
        check_operating_points(TriagePolicy(site_operating_points={"Huyện A": "sensitive"}), model)
