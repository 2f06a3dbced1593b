"""What models said about a study: every number with its source."""

from __future__ import annotations

import datetime as dt

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, computed_field

from api.context import Actor, Here, UidPath
from api.problems import responses
from storage import findings, studies

__all__ = ["Finding", "router"]

router = APIRouter(prefix="/api/studies", tags=["findings"])


class Finding(BaseModel):
    """A calibrated probability and the threshold that it was held against."""

    name: str
    probability: float
    threshold: float


class Judged(Finding):
    """A finding as it is stored, whether the worklist names it or not."""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def above(self) -> bool:
        """At or above the threshold."""
        return self.probability >= self.threshold


class Score(BaseModel):
    """One run of one model over one instance."""

    model_config = ConfigDict(from_attributes=True)

    sop_uid: str
    model_name: str
    model_version: str
    weights_sha256: str
    engine: str
    probability: float
    threshold: float
    flagged: bool
    decode_ms: float
    inference_ms: float
    scored_at: dt.datetime
    outlier: float | None = Field(
        description="how far the image is from those that the model knows: a percentile, above 100 beyond them all"
    )
    notes: list[str] = Field(description="what was put right in the image before it was scored")
    findings: list[Judged]


class Scores(BaseModel):
    """All scores of a study, newest first; an empty list means that no model has read it, and nothing else."""

    items: list[Score]


@router.get("/{study_uid}/findings", responses=responses(401, 404, 422, 503))
def of_study(here: Here, _: Actor, study_uid: UidPath) -> Scores:
    """Everything that models said about the study's images."""
    with here.database.autocommit() as connection:
        found = findings.of_study(connection, study_uid)
        if not found:
            studies.study(connection, study_uid)  # 404 for a study that does not exist
    return Scores(items=[Score.model_validate(one) for one in found])
