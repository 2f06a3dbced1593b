"""What docs/conformance.md says of the modality worklist, MPPS and HL7 is what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydicom.datadict import dictionary_description

from pacs import modalityworklist as model
from pacs import performing
from pacs.dimse import contexts
from pacs.dimse.status import MPPS_STATUSES
from pacs.hl7 import processing

DOCUMENT = (Path(__file__).parents[2] / "docs" / "conformance.md").read_text()


def section(heading: str) -> str:
    return re.split(r"^# ", DOCUMENT.split(f"\n# {heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def table(heading: str, header: str) -> str:
    """The rows below a header line within a section."""
    found = re.search(re.escape(header) + r"\n\|[-|]+\n((?:^\|.*\n)+)", section(heading), re.MULTILINE)
    assert found, header
    return found[1]


def named(tag: int) -> str:
    return f"{dictionary_description(tag)} ({tag >> 16:04X},{tag & 0xFFFF:04X})"


def test_attributes_of_the_modality_worklist():
    empty = {0x00081110, 0x00081120}
    request = {*model._PATIENT, *model._REQUEST, *model._PROCEDURE, *empty, model.STEPS, 0x00080051, 0x00321064}
    step = {*model._STEP, model.START_DATE, model.START_TIME, 0x00400008}
    rows = []
    for tag in sorted(request):
        rows.append(f"| {named(tag)} |{' always empty' if tag in empty else ''} |\n")
        if tag == model.STEPS:
            rows += [f"| > {named(inner)} | |\n" for inner in sorted(step)]
    assert table("Modality worklist", "| Attribute | |") == "".join(rows)


def test_statuses_of_mpps():
    rows = [f"| {s.code:04X} | {s.meaning} | {s.clause} | {s.when} |\n" for s in MPPS_STATUSES]
    assert table("Modality performed procedure step", "| Status | Meaning | Clause | When |") == "".join(rows)


@pytest.mark.parametrize(
    ("title", "tags"),
    [("N-CREATE", performing._AT_BEGIN), ("final state", performing._AT_END)],
)
def test_attributes_that_mpps_needs(title: str, tags: tuple[str, ...]):
    (line,) = re.findall(
        rf"^\*\*{title} needs\*\* (.*?)\.\n", section("Modality performed procedure step"), re.MULTILINE | re.DOTALL
    )
    assert set(re.findall(r"\([0-9A-F]{4},[0-9A-F]{4}\)", line)) >= {f"({tag[:4]},{tag[4:]})" for tag in tags}


@pytest.mark.parametrize("uid", [contexts.MODALITY_WORKLIST, contexts.MPPS])
def test_sop_classes(uid: str):
    assert f"`{uid}`" in DOCUMENT


def test_hl7_messages():
    shown = re.findall(r"^\| `([A-Z]{3}\^[A-Z0-9]{3})` ", section("HL7 version 2"), re.MULTILINE)
    assert set(shown) == {"^".join(kind) for kind in processing._WORK}
