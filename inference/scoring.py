"""From logits to a row of the worklist: calibrated probabilities, thresholds, due time and the reason for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt

from inference import triage
from inference.engine import Engine
from models.bundle import Bundle
from storage.findings import Finding, Score
from storage.jobs import Job

__all__ = ["Model", "Result", "score"]


class Model(NamedTuple):
    """What a worker runs."""

    bundle: Bundle
    engine: Engine


@dataclass(slots=True)
class Result:
    """What came of a batch: each job stands in one of the lists."""

    scored: list[Job] = field(default_factory=list)
    scores: list[Score] = field(default_factory=list)  # in the order of `scored`
    not_eligible: list[tuple[Job, str]] = field(default_factory=list)
    failed: list[tuple[Job, str]] = field(default_factory=list)  # to be tried again


def score(
    policy: triage.TriagePolicy,
    model: Model,
    job: Job,
    logits: npt.NDArray[np.float32],
    *,
    decode_ms: float,
    inference_ms: float,
) -> Score:
    """The score of one image from its logits [outputs]."""
    bundle = model.bundle
    probabilities = bundle.probabilities(logits[np.newaxis])[0]
    abnormal, *named = (
        Finding(name, float(probability), threshold)
        for name, probability, threshold in zip(bundle.findings, probabilities, bundle.thresholds, strict=True)
    )
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
        decode_ms=decode_ms,
        inference_ms=inference_ms,
        due_at=due,
        reason=triage.reason(due.astimezone(), band, abnormal.probability, named),
    )
