"""The status of a STOW-RS answer says no more than what is durable; reasons by error; the module of PS3.18 I.1."""

from __future__ import annotations

import pytest

from api.dicomweb.storeanswer import Answer, Reason, Stored, Warned, reason_of
from storage import errors

OK = Stored("1.2", "1.3", "1.4", "1.5")


@pytest.mark.parametrize(
    ("stored", "reasons", "status"),
    [
        ([OK], [], 200),
        ([OK], [Reason.CANNOT_UNDERSTAND], 202),
        ([OK], [Reason.OUT_OF_RESOURCES], 202),
        ([Stored("1.2", "1.3", "1.4", "1.5", Warned.META_DISAGREES)], [], 202),
        ([], [], 400),
        ([], [Reason.CANNOT_UNDERSTAND], 400),
        ([], [Reason.CANNOT_UNDERSTAND, Reason.OTHER_STUDY], 409),
        ([], [Reason.DUPLICATE_INSTANCE], 409),
        ([], [Reason.SOP_CLASS_NOT_SUPPORTED], 409),
        ([], [Reason.TRANSFER_SYNTAX_NOT_SUPPORTED], 409),
        ([], [Reason.PROCESSING_FAILURE], 409),
        ([], [Reason.TOO_LARGE], 413),
        ([], [Reason.TOO_LARGE, Reason.CANNOT_UNDERSTAND], 409),
        ([], [Reason.CANNOT_UNDERSTAND, Reason.OUT_OF_RESOURCES], 503),
    ],
)
def test_status(stored: list[Stored], reasons: list[Reason], status: int) -> None:
    answer = Answer(stored=stored)
    for reason in reasons:
        answer.fail(reason, "why")
    assert answer.status == status
    assert answer.unavailable == (Reason.OUT_OF_RESOURCES in reasons)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (errors.ObjectTooLarge(), Reason.TOO_LARGE),
        (errors.InvalidDataSet(), Reason.CANNOT_UNDERSTAND),
        (errors.InvalidUID(), Reason.CANNOT_UNDERSTAND),
        (errors.DatabaseUnavailable(), Reason.OUT_OF_RESOURCES),
        (errors.ObjectStoreFull(), Reason.OUT_OF_RESOURCES),
        (errors.DigestMismatch(), Reason.PROCESSING_FAILURE),
    ],
)
def test_reasons(error: errors.SanglocError, reason: Reason) -> None:
    assert reason_of(error) is reason


def test_module() -> None:
    answer = Answer(stored=[OK, Stored("1.2", "1.6", "1.7", "1.8", Warned.META_DISAGREES)])
    answer.fail(Reason.DUPLICATE_INSTANCE, "first", "1.2", "1.9")
    answer.fail(Reason.OTHER_STUDY, "second", "", "1.10")
    answer.fail(Reason.CANNOT_UNDERSTAND, "third")
    assert (answer.why, answer.entries) == ("first", 5)
    module = answer.attributes("http://x/dicom-web")
    assert list(module) == sorted(module)
    assert module["00081190"] == {"vr": "UR"}  # of two studies
    first, second = module["00081199"]["Value"]
    assert first == {
        "00081150": {"vr": "UI", "Value": ["1.2"]},
        "00081155": {"vr": "UI", "Value": ["1.3"]},
        "00081190": {"vr": "UR", "Value": ["http://x/dicom-web/studies/1.4/series/1.5/instances/1.3"]},
    }
    assert second["00081196"] == {"vr": "US", "Value": [0xB007]}
    duplicate, other = module["00081198"]["Value"]
    assert duplicate["00081197"] == {"vr": "US", "Value": [0x0111]}
    assert other["00081150"] == {"vr": "UI"}
    assert module["0008119A"]["Value"] == [{"00081197": {"vr": "US", "Value": [0xC000]}}]
    assert Answer(stored=[OK]).attributes("r").keys() == {"00081190", "00081199"}
    assert Answer(stored=[OK]).attributes("r")["00081190"]["Value"] == ["r/studies/1.4"]
