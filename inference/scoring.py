"""From logits to a row of the worklist: calibrated probabilities, thresholds, due time and the reason for it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt

from inference import triage
from inference.engine import Engine
from inference.explaining import Explained
from models.bundle import Bundle
from models.features import pooled
from models.outlier import Outlier
from storage.errors import InvalidBundle
from storage.findings import Finding, Score
from storage.jobs import Job

__all__ = ["Model", "Result", "check_operating_points", "listed", "score"]

_STRICT = "specific"  # findings are named beside a flag from this operating point on: few false ones on each film
_LISTED = 5
_LEAST_NAMED = 0.2  # probability; below it a name says more than the model knows, whatever its threshold
_EDGE = 1e-6  # odds stay finite


class Model(NamedTuple):
    """What a worker runs."""

    bundle: Bundle
    engine: Engine
    outlier: Outlier | None = None  # None: the bundle has no such score


@dataclass(slots=True)
class Result:
    """What came of a batch: each job stands in one of the lists."""

    scored: list[Job] = field(default_factory=list)
    scores: list[Score] = field(default_factory=list)  # in the order of `scored`
    explained: list[Explained] = field(default_factory=list)  # the flagged ones, where maps are wanted
    not_eligible: list[tuple[Job, str]] = field(default_factory=list)
    failed: list[tuple[Job, str]] = field(default_factory=list)  # to be tried again


def score(
    policy: triage.TriagePolicy,
    model: Model,
    job: Job,
    logits: npt.NDArray[np.float32],
    features: npt.NDArray[np.float32] | None = None,
    *,
    decode_ms: float,
    inference_ms: float,
    notes: tuple[str, ...] = (),
) -> Score:
    """The score of one image from its logits [outputs] and features [c, h, w]."""
    bundle = model.bundle
    probabilities = map(float, bundle.probabilities(logits[np.newaxis])[0])
    flag_at = bundle.operating_points[policy.operating_point_of(job.site)][0]
    strict = bundle.operating_points.get(_STRICT, bundle.thresholds)[1:]
    abnormal, *named = map(Finding, bundle.findings, probabilities, (flag_at, *strict))
    due = triage.due_at(
        policy,
        cast("triage.Priority", job.priority),
        job.site,
        job.arrived_at,
        probability=abnormal.probability,
        threshold=abnormal.threshold,
    )
    due = min(due, job.latest_due_at)  # the settings may have changed since the study came
    band = triage.risk(policy, abnormal.probability, abnormal.threshold)
    shown = listed(named)
    return Score(
        instance_pk=job.instance_pk,
        study_pk=job.study_pk,
        study_uid=job.study_uid,
        model_name=bundle.name,
        model_version=bundle.version,
        weights_sha256=bundle.weights_sha256,
        engine=model.engine.name,
        probability=abnormal.probability,
        threshold=abnormal.threshold,
        flagged=bool(band),
        findings=tuple(named),
        listed=shown,
        decode_ms=decode_ms,
        inference_ms=inference_ms,
        due_at=due,
        reason=triage.reason(due.astimezone(), band, abnormal.probability, shown),
        outlier=None if features is None else _outlier(model, features),
        notes=notes,
    )


def _outlier(model: Model, features: npt.NDArray[np.float32]) -> float | None:
    if model.outlier is None:
        return None
    percentile = float(model.outlier.score(pooled(features[np.newaxis]))[0])
    return percentile if math.isfinite(percentile) else None


def listed(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The findings that the worklist names: those at or above their threshold and 0.2, five at most, strongest first.

    Strongest is the greatest ratio of the odds of the probability to those of the threshold: by probability alone the
    common findings would always stand first, and the plain ratio cannot pass 1 / threshold, which holds them back.
    """
    reached = [finding for finding in findings if finding.probability >= max(finding.threshold, _LEAST_NAMED)]
    return tuple(sorted(reached, key=lambda one: _odds(one.threshold) / _odds(one.probability))[:_LISTED])


def check_operating_points(policy: triage.TriagePolicy, bundle: Bundle) -> None:
    """Raise `InvalidBundle`, naming the setting, where the bundle lacks an operating point of the policy."""
    asked = {"triage.operating_point": policy.operating_point}
    asked |= {f"operating_point of site {site}": point for site, point in policy.site_operating_points.items()}
    for setting, point in asked.items():
        if point not in bundle.operating_points:
            raise InvalidBundle(
                f"the {setting} is {point}, which {bundle.name} does not have: it has "
                f"{', '.join(sorted(bundle.operating_points))}"
            )


def _odds(probability: float) -> float:
    inside = min(max(probability, _EDGE), 1 - _EDGE)
    return inside / (1 - inside)
