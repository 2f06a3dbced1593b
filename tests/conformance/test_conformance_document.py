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
from pacs.dimse.status import STATUSES
from pacs.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

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
