"""Debian's Orthanc as a peer in tests, with its DICOMweb plugin where it is installed."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

_DICOMWEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


@dataclass(frozen=True)
class Orthanc:
    """A running Orthanc."""

    dicom: int  # port
    api: httpx.Client

    @property
    def dicomweb(self) -> str:
        """Base address of its DICOMweb plugin."""
        return f"{str(self.api.base_url).rstrip('/')}/dicom-web"

    def uids(self) -> list[str]:
        """SOP Instance UIDs of what it holds."""
        found = self.api.get("/instances?expand").json()
        return sorted(one["MainDicomTags"]["SOPInstanceUID"] for one in found)

    def file(self, sop_uid: str) -> bytes:
        """The Part 10 file of an instance."""
        (found,) = self.api.post("/tools/lookup", content=sop_uid).json()
        return self.api.get(f"{found['Path']}/file").content


@contextlib.contextmanager
def orthanc(folder: Path, modalities: dict[str, Any] | None = None, **options: Any) -> Iterator[Orthanc]:
    """An empty Orthanc on free ports; `modalities`: name to [AE title, host, port]. Skips where none is installed."""
    if shutil.which("Orthanc") is None:
        pytest.skip("needs Debian's orthanc")
    folder.mkdir(parents=True, exist_ok=True)
    dicom, http = _free_port(), _free_port()
    settings = {
        "StorageDirectory": str(folder / "store"),
        "IndexDirectory": str(folder / "store"),
        "DicomAet": "ORTHANC",
        "DicomPort": dicom,
        "HttpPort": http,
        "AuthenticationEnabled": False,
        "DicomModalities": modalities or {},
        "Plugins": [str(_DICOMWEB)] if _DICOMWEB.exists() else [],
        **options,
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with (folder / "orthanc.log").open("wb") as log:
        process = subprocess.Popen(["Orthanc", str(folder / "orthanc.json")], stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{http}", timeout=30) as api:
            _wait(api, process)
            yield Orthanc(dicom, api)
    finally:
        process.kill()
        process.wait()


def _wait(api: httpx.Client, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while True:
        with contextlib.suppress(httpx.TransportError):
            if api.get("/system").status_code == 200:
                return
        assert process.poll() is None, "Orthanc ended"
        assert time.monotonic() < deadline, "Orthanc did not start"
        time.sleep(0.05)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
