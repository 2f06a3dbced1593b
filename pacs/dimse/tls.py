"""DICOM over TLS: the BCP 195 secure transport connection profile (PS3.15 B.12)."""

from __future__ import annotations

import ssl
from functools import lru_cache
from pathlib import Path

from pacs.dimse.policy import TlsFiles
from storage.errors import SettingsError

__all__ = ["CIPHERS", "client_context", "server_context"]

# RFC 9325 4.2: forward secrecy and authenticated encryption only. TLS 1.3 suites are all of that kind.
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM"


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """A context for TLS 1.2 and 1.3; asks for a client certificate when authorities are given.

    Raises:
        SettingsError: a file is missing or is not what it should be.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    try:
        context.load_cert_chain(files.certificate, files.key)
        if files.client_authorities is not None:
            context.load_verify_locations(files.client_authorities)
            context.verify_mode = ssl.CERT_REQUIRED
    except OSError as error:  # ssl.SSLError is one
        raise SettingsError(f"The TLS files cannot be used: {error}") from error
    return context


@lru_cache(maxsize=4)  # the files are read once: a new certificate needs a restart, as for the receiver
def client_context(certificate: Path | None, key: Path | None, authorities: Path | None) -> ssl.SSLContext:
    """A context for calls to peers over TLS 1.2 and 1.3; the peer's certificate is always checked.

    With `authorities` (PEM) only certificates that these signed are taken, under whatever host name, since peers are
    most often known by address; without, those of the system's authorities for the host name that is called.

    Raises:
        SettingsError: a file is missing or is not what it should be.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    try:
        if authorities is None:
            context.load_default_certs()
        else:
            context.check_hostname = False
            context.load_verify_locations(authorities)
        if certificate is not None:
            context.load_cert_chain(certificate, key)
    except OSError as error:
        raise SettingsError(f"The TLS files cannot be used: {error}") from error
    return context
