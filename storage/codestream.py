"""What the bytes of a compressed image say about themselves, before anybody decodes them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

__all__ = ["panics_are_errors", "shape"]


@contextlib.contextmanager
def panics_are_errors() -> Iterator[None]:
    """A panic of a decoder in Rust as a RuntimeError: the class of pyo3 is no `Exception`, so it would end a thread."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ == "PanicException":
            raise RuntimeError(f"the decoder gave up: {error}") from error
        raise


def shape(frame: bytes) -> tuple[int, int] | None:
    """Rows and columns as a JPEG, JPEG-LS or JPEG 2000 code stream states them; None where none is found (RLE).

    A decoder allocates by these numbers, so they are held against the header's before it runs.
    """
    siz = frame.find(b"\xff\x4f\xff\x51", 0, 4096)  # SOC, SIZ; behind some boxes in a JP2 file
    if siz >= 0:
        right, bottom, left, top = (int.from_bytes(frame[siz + 8 + 4 * i :][:4], "big") for i in range(4))
        return bottom - top, right - left
    at = 2 if frame[:2] == b"\xff\xd8" else len(frame)
    while at + 9 <= len(frame) and frame[at] == 0xFF:
        marker = frame[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):  # SOF
            return int.from_bytes(frame[at + 5 : at + 7], "big"), int.from_bytes(frame[at + 7 : at + 9], "big")
        else:
            at += 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    return None
