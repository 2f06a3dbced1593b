"""Coverage-guided fuzzing of the multipart reader; not part of `make test`.

    .venv/bin/pip install atheris && .venv/bin/python tests/fuzz/fuzz_multipart.py -max_total_time=60

The first byte says how the rest is cut. What the reader says must not depend on the cutting, and it may raise nothing
but `InvalidMultipart`.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[2]))

with atheris.instrument_imports(include=["api.dicomweb.multipart", "python_multipart"]):
    from api.dicomweb.multipart import InvalidMultipart, MediaType, Multipart


def read(data: bytes, step: int) -> list[object] | None:
    reader, events = Multipart(b"b"), []
    try:
        for at in range(0, len(data), step):
            for event in reader.feed(data[at : at + step]):
                if isinstance(event, memoryview) and events and isinstance(events[-1], bytes):
                    events[-1] += bytes(event)
                else:
                    events.append(bytes(event) if isinstance(event, memoryview) else repr(event))
        reader.finish()
    except InvalidMultipart:
        return None
    return events


def one(data: bytes) -> None:
    step, rest = (data[0] % 7 + 1, data[1:]) if data else (1, b"")
    assert read(rest, step) == read(rest, max(1, len(rest))), (step, rest)
    with contextlib.suppress(InvalidMultipart):
        MediaType.parse(rest.decode("latin-1")).boundary()


if __name__ == "__main__":
    atheris.Setup([*sys.argv, f"-dict={Path(__file__).with_suffix('.dict')}"], one)
    atheris.Fuzz()
