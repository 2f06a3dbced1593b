"""The tables of media types in docs/conformance.md are those of the code."""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path

import pytest
from pydicom.uid import UID

from api.dicomweb import bulkdata, capabilities, frames, metadata, rendered, wado
from api.dicomweb.media import EXPLICIT

DOCUMENT = (Path(__file__).parents[2] / "docs" / "conformance.md").read_text()
OFFERED = {
    "Study, series": wado.MANY_OFFERS,
    "Instance": wado.ONE_OFFERS,
    "Metadata": metadata.OFFERS,
    "Bulk data": bulkdata.OFFERS,
    "Rendered, thumbnail": rendered.OFFERS,
    "Capabilities": capabilities.OFFERS,
}


def table(start: str) -> str:
    """The table whose heading row begins so."""
    found = re.search(rf"^\| {start}.*\n\|---.*\n((?:\|.*\n)+)", DOCUMENT, re.MULTILINE)
    assert found
    return found[1]


def test_media_types() -> None:
    rows = "".join(f"| {name} | {', '.join(f'`{offer}`' for offer in offers)} |\n" for name, offers in OFFERED.items())
    assert table("Resource \\|") == rows


def test_media_types_of_frames() -> None:
    rows = ""
    for kind, syntaxes in groupby(sorted(frames.KINDS, key=lambda one: frames.KINDS[one]), key=frames.KINDS.get):
        assert kind is not None
        numbers = sorted(syntaxes, key=lambda one: [int(part) for part in one.split(".")])
        rows += f"| `{kind[0]}` | {', '.join(f'`{number}`' for number in numbers)} |\n"
    assert table("Media type of frames") == rows


@pytest.mark.parametrize("uid", [EXPLICIT, *frames.KINDS])
def test_transfer_syntaxes_are_transfer_syntaxes(uid: str) -> None:
    assert UID(uid).is_transfer_syntax
