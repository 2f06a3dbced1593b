"""Certificates for TLS, made by openssl."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def _openssl(*args: object) -> None:
    subprocess.run(["openssl", *map(str, args)], check=True, capture_output=True)


def make_certificates(folder: Path) -> Path:
    """An authority, and certificates of a server and a client that it signed; `self` signed itself."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    new = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", 2)
    for name in ("ca", "self"):
        _openssl(*new, "-subj", f"/CN={name}", "-keyout", folder / f"{name}.key", "-out", folder / f"{name}.pem")
    for name in ("server", "client"):
        signed = ("-CA", folder / "ca.pem", "-CAkey", folder / "ca.key", "-addext", "subjectAltName=IP:127.0.0.1")
        _openssl(
            *new, *signed, "-subj", f"/CN={name}", "-keyout", folder / f"{name}.key", "-out", folder / f"{name}.pem"
        )
    return folder
