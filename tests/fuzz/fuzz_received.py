"""Coverage-guided fuzzing of what comes to be stored: headers of data sets in pieces, and metadata as XML.

    .venv/bin/pip install atheris && .venv/bin/python tests/fuzz/fuzz_received.py -max_total_time=60

The first two bytes choose what it is, and how the bytes are cut. A header must not depend on that, and nothing but
`InvalidDataSet` may be raised.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path

import atheris
import structlog

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1] / "support")]

with atheris.instrument_imports(include=["pacs.scan", "pacs.header", "pacs.identifiers", "api.dicomweb.xmlmodel"]):
    import elements

    from api.dicomweb import jsonmodel, xmlmodel
    from pacs.header import HeaderReader
    from storage.errors import InvalidDataSet


SYNTAXES = (elements.EXPLICIT, elements.IMPLICIT, elements.BIG, elements.DEFLATED)


def header(data: bytes, syntax: str, step: int) -> object:
    """What becomes of it, in pieces of this size."""
    reader = HeaderReader(syntax)
    try:
        for start in range(0, len(data), step):
            if reader.feed(data[start : start + step]):
                break
        return reader.header()
    except InvalidDataSet as error:
        return str(error)


def read_header(data: bytes, syntax: str, step: int) -> None:
    """Any cut gives the same, for bytes alone and behind a data set that can be indexed."""
    start = elements.data_set(syntax) if syntax != elements.DEFLATED else b""
    for whole in (data, start + data):
        assert header(whole, syntax, step) == header(whole, syntax, len(whole) or 1)


def read_xml(data: bytes) -> None:
    """A document is refused, or its model can be checked."""
    try:
        jsonmodel.check(xmlmodel.data_set(data), bulk=True)
    except InvalidDataSet:
        return


def one_input(data: bytes) -> None:
    """One input of the fuzzer."""
    if len(data) < 2:
        return
    if data[0] % 5 == 4:
        read_xml(data[2:])
    else:
        read_header(data[2:], SYNTAXES[data[0] % 5], 1 + data[1])


def seeds() -> list[bytes]:
    """Something of each kind to begin with."""
    found = []
    for number, syntax in enumerate(SYNTAXES[:3]):
        item = elements.element(0x00400009, "SH", "SPS1", syntax) + elements.element(0x00401001, "SH", "RP1", syntax)
        found += [
            bytes((number, 7)) + elements.sequence(tag, item, item, undefined=undefined, syntax=syntax)
            for undefined in (True, False)
            for tag in (0x00400275, 0x00101002)
        ]
    name = '<PersonName number="1"><Alphabetic><FamilyName>A</FamilyName></Alphabetic></PersonName>'
    private = (
        '<DicomAttribute tag="00090001" vr="OB" privateCreator="X"><InlineBinary>AA==</InlineBinary></DicomAttribute>'
    )
    document = (
        f'<NativeDicomModel><DicomAttribute tag="00100010" vr="PN">{name}</DicomAttribute>'
        f'<DicomAttribute tag="00081140" vr="SQ"><Item number="1">{private}</Item></DicomAttribute>'
        '<DicomAttribute tag="7FE00010" vr="OW"><BulkData uri="a"/></DicomAttribute></NativeDicomModel>'
    )
    return [*found, b"\4\0" + document.encode()]


def main() -> None:
    """Fuzz until told to stop; arguments are those of libFuzzer."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(seeds()):
            (Path(corpus) / str(number)).write_bytes(seed)
        atheris.Setup([*sys.argv, corpus], one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
