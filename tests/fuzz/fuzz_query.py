"""Coverage-guided fuzzing of what a query says: identifiers of C-FIND, parameters of QIDO-RS, keys of the worklist.

    .venv/bin/pip install atheris && .venv/bin/python tests/fuzz/fuzz_query.py -max_total_time=60

The first three bytes choose transfer syntax, level and options. Nothing but `InvalidInput` may be raised, and an
identifier that is read, written and read again must stay what it is.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import logging
import sys
import tempfile
from pathlib import Path
from urllib.parse import parse_qsl

import atheris
import structlog

sys.path.insert(0, str(Path(__file__).parents[2]))

PARSERS = ["pacs.charset", "pacs.identifiers", "pacs.keymatching", "pacs.modalityworklist", "pacs.query"]
with atheris.instrument_imports(include=[*PARSERS, "pacs.query_parameters", "storage.conditions", "storage.names"]):
    from api.dicomweb.attributes import json_model
    from pacs import identifiers, keymatching, modalityworklist, query, query_parameters
    from pacs.identifiers import Element, Elements
    from storage.attributes import Level
    from storage.conditions import filters_of
    from storage.errors import InvalidInput
    from storage.planned import Planned

SYNTAXES = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
STEP = {
    0x00080060: Element("CS", ("DX",)),
    0x00400001: Element("AE", ("ROOM1",)),
    0x00400002: Element("DA", ("20260101",)),
    0x00400003: Element("TM", ("0930",)),
    0x00400006: Element("PN", ("",)),
}
FOUND: Elements = {
    0x00080050: Element("SH", ("A1",)),
    0x00100010: Element("PN", ("NGUYỄN^VĂN",)),
    0x00100020: Element("LO", ()),
    0x00101020: Element("DS", ("1.7",)),
    0x001021C0: Element("US", (4,)),
    0x00321064: Element("SQ", ()),
    0x00400100: Element("SQ", [STEP]),
}
ORDERED = {"step_id": "S1", "description": "", "modality": "DX", "ae_title": "", "protocol": []}
PROCEDURE = {"procedure_id": "P1", "description": "", "code": None, "steps": [ORDERED], "study_uid": "1.2"}
PLANNED = Planned(
    step_pk=1,
    start_at=dt.datetime(2026, 1, 1, 9, 30),
    procedure_id="P1",
    step_id="S1",
    content={"patient": {"name": "NGUYỄN^VĂN"}, "procedures": [PROCEDURE], "accession_issuer": "X"},
)
ODD: Elements = {  # every key with a VR that it has not
    0x00080060: Element("AT", (0x00100010,)),
    0x00100010: Element("SQ", [{}]),
    0x0020000D: Element("OB", (b"1.2",)),
    0x00400100: Element("US", (5,)),
}
SEEDS = (
    "PatientName=nguy*n^van&StudyDate=20260101-20261231&StudyTime=0930-&ModalitiesInStudy=DX,CR&limit=5&fuzzymatching=true",
    "StudyInstanceUID=1.2.3,1.2.4&includefield=00081030&TimezoneOffsetFromUTC=%2B0700&PatientBirthDate=-1990.01.01",
    "RequestAttributesSequence.ScheduledProcedureStepID=S?1&SeriesNumber=3&emptyvaluematching=true&AccessionNumber=%22%22",
    "ScheduledProcedureStepSequence.Modality=DX&ScheduledProcedureStepSequence.ScheduledProcedureStepStartDate=20260101",
)


def keys_of(keys: Elements, level: Level, options: query.Options) -> None:
    """From keys to the conditions of SQL, with what QUERY and the worklist make of them on the way."""
    with contextlib.suppress(InvalidInput):
        query.require_unique_keys(keys, level, Level.PATIENT)
    with contextlib.suppress(InvalidInput):
        parsed = query.parse(keys, level, options)
        for condition in parsed.query.conditions:
            filters_of(condition, level, parsed.query.zone, "c0")
    with contextlib.suppress(InvalidInput):
        modalityworklist.wanted(keys)
        worklist(keys)
    json.dumps(json_model({tag: one for tag, one in keys.items() if not holds_bytes(one)}))


def worklist(keys: Elements) -> None:
    """A scheduled step against the keys, and the answer in every transfer syntax."""
    step = modalityworklist.as_elements(PLANNED, "ROOM1", keys)
    for found in (step, FOUND):
        for tag, key in keys.items():
            with contextlib.suppress(InvalidInput):
                keymatching.matches(key, found.get(tag))
        answer, _ = keymatching.project(keys, found)
        for syntax in SYNTAXES:
            identifiers.write(answer, syntax, identifiers.UTF8)


def holds_bytes(element: Element) -> bool:
    if element.vr == "SQ":
        return any(holds_bytes(one) for item in element.values for one in item.values())
    return any(isinstance(value, bytes) for value in element.values)


def same_again(keys: Elements, syntax: str) -> None:
    once = identifiers.write(keys, syntax, identifiers.UTF8)
    again = identifiers.read(once, syntax)
    assert identifiers.write(again, syntax, identifiers.UTF8) == once, (keys, again)


def one(data: bytes) -> None:
    if len(data) < 3:
        return
    syntax, level, rest = SYNTAXES[data[0] % 3], list(Level)[data[1] % len(Level)], data[3:]
    options = query.Options.of(bytes(data[2] >> bit & 1 for bit in range(7)))
    with contextlib.suppress(InvalidInput):
        keys = identifiers.read(rest, syntax)
        same_again(keys, syntax)
        identifiers.require_kinds(keys)
        keys_of(keys, level, options)
    with contextlib.suppress(InvalidInput):
        keys_of(query_parameters.read(parse_qsl(rest.decode("utf-8", "replace"), True)).keys, level, options)


def prepare() -> Path:
    """A folder of first inputs: queries as text and as identifiers."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz_query_"))
    for number, text in enumerate(SEEDS):
        (folder / f"text{number}").write_bytes(b"\0\0\0" + text.encode())
        keys = query_parameters.read(parse_qsl(text, True)).keys
        for n, syntax in enumerate(SYNTAXES):
            (folder / f"keys{number}{n}").write_bytes(
                bytes((n, 1, 127)) + identifiers.write(keys, syntax, "ISO_IR 100")
            )
    (folder / "odd").write_bytes(b"\1\1\0" + identifiers.write(ODD, SYNTAXES[1]))
    return folder


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    atheris.Setup([*sys.argv, "-max_len=2048", str(prepare())], one)
    atheris.Fuzz()
