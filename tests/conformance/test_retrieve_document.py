"""What docs/conformance.md says of C-MOVE and C-GET is what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from pydicom.uid import UID

from pacs.codecs import DECODED, LOSSLESS
from pacs.dimse.contexts import RETRIEVE
from pacs.dimse.status import RETRIEVE_STATUSES
from pacs.transcoding import NATIVE, can_make

DOCUMENT = (Path(__file__).parents[2] / "docs" / "conformance.md").read_text()


def table(heading: str, number: int = 0) -> str:
    """A table below a heading."""
    section = DOCUMENT.split(f"# {heading}\n", 1)[1]
    return re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE)[number]


def test_sop_classes() -> None:
    assert set(re.findall(r"\| ([0-9.]+) \|", table("Retrieve"))) == set(RETRIEVE)


def test_transfer_syntaxes() -> None:
    def row(syntax: str) -> str:
        leaves = "yes" if can_make(syntax, "1.2.840.10008.1.2.1") else "no"
        made = "yes" if can_make("1.2.840.10008.1.2.1", syntax) else "no"
        return f"| {UID(syntax).name} | {syntax} | {leaves} | {made} |\n"

    order = sorted(DECODED | LOSSLESS | NATIVE, key=lambda uid: tuple(map(int, uid.split("."))))
    assert table("Retrieve", 1).split("\n", 2)[2] == "".join(map(row, order))


def test_statuses() -> None:
    rows = [f"| {s.code:04X} | {s.meaning} | {s.clause} | {s.when} |\n" for s in RETRIEVE_STATUSES]
    assert table("Statuses of C-MOVE and C-GET").split("\n", 2)[2] == "".join(rows)
