"""DICOM over TLS (PS3.15 B.12) with real clients."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import pytest
from certificates import make_certificates
from pynetdicom import AE
from raw_dicom import Raw, data_set

from pacs.dimse.policy import TlsFiles
from pacs.dimse.tls import server_context
from storage.errors import SettingsError


@pytest.fixture(scope="module")
def pki(tmp_path_factory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def secure(pki, start_receiver):
    """A TLS receiver; with True it asks for client certificates."""

    def start(client_certificates: bool = False):
        authorities = pki / "ca.pem" if client_certificates else None
        return start_receiver(tls=TlsFiles(pki / "server.pem", pki / "server.key", authorities))

    return start


def _client_context(pki: Path, certificate: str | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=pki / "ca.pem")
    if certificate:
        context.load_cert_chain(pki / f"{certificate}.pem", pki / f"{certificate}.key")
    return context


def test_pynetdicom_over_tls(secure, pki):
    ae = AE("PYNETDICOM")
    ae.add_requested_context("1.2.840.10008.1.1")
    association = ae.associate(
        "127.0.0.1", secure().port, ae_title="SANGLOC", tls_args=(_client_context(pki), "127.0.0.1")
    )
    assert association.is_established
    assert association.send_c_echo().Status == 0
    association.release()


def test_echoscu_over_tls(secure, pki, dcmtk):
    port = secure().port
    run = dcmtk("echoscu", "-v", "-aec", "SANGLOC", "+tla", "+cf", pki / "ca.pem", "127.0.0.1", port)
    assert run.returncode == 0, run.stderr


def test_a_store_over_tls_is_kept_bit_by_bit(secure, pki, stored):
    client = Raw(secure().port)
    client.sock = _client_context(pki).wrap_socket(client.sock, server_hostname="127.0.0.1")
    data = data_set("1.2.3.5", pixels=bytes(range(256)) * 10_000)
    client.associate()
    assert client.store("1.2.3.5", data)[0] == 0
    assert client.echo() == 0
    client.release()
    assert stored("1.2.3.5") == data


@pytest.mark.parametrize(("certificate", "welcome"), [("client", True), (None, False), ("self", False)])
def test_client_certificates(secure, pki, dcmtk, certificate, welcome):
    own = ("+tls", pki / f"{certificate}.key", pki / f"{certificate}.pem") if certificate else ("+tla",)
    run = dcmtk(
        "echoscu", "-aec", "SANGLOC", *own, "+cf", pki / "ca.pem", "127.0.0.1", secure(client_certificates=True).port
    )
    assert (run.returncode == 0) is welcome, run.stderr


def test_plain_clients_and_old_protocols_get_nothing(secure, pki, dcmtk):
    port = secure().port
    assert dcmtk("echoscu", "-aec", "SANGLOC", "-ta", 3, "127.0.0.1", port).returncode != 0
    context = _client_context(pki)
    context.set_ciphers("AES128-SHA:AES256-SHA256")  # no forward secrecy
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(("127.0.0.1", port)) as sock, pytest.raises(ssl.SSLError):
        context.wrap_socket(sock, server_hostname="127.0.0.1")


def test_a_silent_connection_does_not_hold_the_handshake_for_ever(start_receiver, pki, eventually):
    receiver = start_receiver(artim_timeout_s=0.2, tls=TlsFiles(pki / "server.pem", pki / "server.key"))
    with socket.create_connection(("127.0.0.1", receiver.port)):
        eventually(lambda: receiver.receiver.counters["connections"] == 1)
        eventually(lambda: not receiver.receiver._open)


@pytest.mark.parametrize(
    "names", [("none.pem", "server.key"), ("server.pem", "client.key"), ("server.key", "server.key")]
)
def test_files_that_do_not_fit_are_a_settings_error(pki, names):
    with pytest.raises(SettingsError, match="TLS"):
        server_context(TlsFiles(*(pki / name for name in names)))
