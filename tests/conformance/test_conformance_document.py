"""docs/conformance.md says what the code does: a table that lies fails here, and the message shows the true one."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from pydicom.uid import UID
from pynetdicom import sop_class

from api.dicomweb.storeanswer import Reason
from pacs.dimse import contexts, tls
from pacs.dimse.policy import ReceiverPolicy
from pacs.dimse.status import FIND_STATUSES, STATUSES
from pacs.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from storage.attributes import ATTRIBUTES, Kind, Level

DOCUMENT = (Path(__file__).parents[2] / "docs" / "conformance.md").read_text()


def _table(heading: str) -> str:
    """The first table below a heading."""
    section = DOCUMENT.split(f"# {heading}\n", 1)[1]
    found = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)
    assert found
    return found.group()


def _names() -> dict[str, str]:
    from_pynetdicom = {
        str(uid): re.sub(r"(?<=[a-z])(?=[A-Z])", " ", k) for k, uid in sop_class._STORAGE_CLASSES.items()
    }
    names = {uid: name if (name := UID(uid).name) != uid else from_pynetdicom[uid] for uid in contexts.STORAGE_CLASSES}
    return {uid: f"{name} (retired)" if UID(uid).is_retired else name for uid, name in names.items()}


def _order(uid: str) -> tuple[int, ...]:
    return tuple(map(int, uid.split(".")))


def test_storage_sop_classes():
    names = _names()
    rows = [f"| {names[uid]} | {uid} |\n" for uid in sorted(names, key=_order)]
    assert _table("Storage SOP classes") == "| SOP class | UID |\n|---|---|\n" + "".join(rows)


def test_statuses():
    rows = [f"| {s.code:04X} | {s.meaning} | {s.clause} | {s.when} |\n" for s in STATUSES]
    assert _table("Statuses") == "| Status | Meaning | Clause | When |\n|---|---|---|---|\n" + "".join(rows)


def test_query_statuses():
    rows = [f"| {s.code:04X} | {s.meaning} | {s.clause} | {s.when} |\n" for s in FIND_STATUSES]
    assert _table("Query statuses") == "| Status | Meaning | Clause | When |\n|---|---|---|---|\n" + "".join(rows)


def test_attributes_of_queries():
    section = DOCUMENT.split("# Query\n", 1)[1].split("\n# ", 1)[0]
    told = re.findall(r"^\| (\w+) \| \((\w{4}),(\w{4})\) \| (\w+) \| ([^|]+) \|$", section, re.MULTILINE)
    levels = {Level.PATIENT: "patient", Level.STUDY: "study", Level.SERIES: "series", Level.IMAGE: "instance"}
    known = [(one.keyword, f"{one.tag >> 16:04X}", f"{one.tag & 0xFFFF:04X}", levels[one.level]) for one in ATTRIBUTES]
    assert [each[:4] for each in told] == known
    for one, (*_, how) in zip(ATTRIBUTES, told, strict=True):
        assert ("range" in how) == (one.kind in {Kind.DATE, Kind.TIME})
        assert ("fuzzy" in how) == (one.kind is Kind.NAME)
        assert ("none" in how) == (one.kind in {Kind.COUNTED, Kind.FIXED})


def test_extended_negotiation_of_queries():
    section = DOCUMENT.split("# Query\n", 1)[1].split("\n# ", 1)[0]
    told = bytes(int(answer) for answer in re.findall(r"^\| [1-7] \| [^|]+ \| ([01])", section, re.MULTILINE))
    assert {contexts.FIND_OPTIONS[uid] for uid in (contexts.PATIENT_ROOT_FIND, contexts.STUDY_ROOT_FIND)} == {told}


def test_limits():
    policy = ReceiverPolicy()
    shown = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", _table("Limits and timers"), re.MULTILINE))
    numbers = {
        field.name
        for field in dataclasses.fields(policy)
        if isinstance(getattr(policy, field.name), int | float) and not isinstance(getattr(policy, field.name), bool)
    }
    assert {name: float(value.replace(",", "")) for name, value in shown.items()} == {
        name: float(getattr(policy, name)) for name in numbers
    }


@pytest.mark.parametrize(
    "fact",
    [
        contexts.APPLICATION_CONTEXT,
        contexts.VERIFICATION,
        contexts.PATIENT_ROOT_FIND,
        contexts.STUDY_ROOT_FIND,
        IMPLEMENTATION_CLASS_UID,
        IMPLEMENTATION_VERSION_NAME,
        tls.CIPHERS,
    ],
)
def test_facts(fact: str):
    assert f"`{fact}`" in DOCUMENT


def test_failure_reasons_of_stow():
    section = DOCUMENT.split("Failure Reason (0008,1197):", 1)[1]
    told = re.findall(r"^\| ([0-9A-F]{4}) \|", section.split("\n# ", 1)[0], re.MULTILINE)
    assert told == sorted(f"{reason:04X}" for reason in Reason)
