"""DCMTK's programs: pynetdicom puts programs of the same names, scripts in Python, into its environment's folder."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def find(tool: str) -> str | None:
    """The path of DCMTK's `tool`; None where it is not installed."""
    for folder in os.environ["PATH"].split(os.pathsep):
        path = shutil.which(tool, path=folder)
        if path is not None and not _is_script(Path(path)):
            return path
    return None


def _is_script(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"#!"
