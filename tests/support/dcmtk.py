"""DCMTK's programs: pynetdicom puts programs of the same names beside Python's own."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path


def find(tool: str) -> str | None:
    """The path of DCMTK's `tool`; None where it is not installed."""
    ours = Path(sys.executable).parent
    folders = (each for each in os.environ["PATH"].split(os.pathsep) if Path(each) != ours)
    return shutil.which(tool, path=os.pathsep.join(folders))
