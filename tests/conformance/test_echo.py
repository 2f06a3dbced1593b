"""Verification (PS3.4 A) from real clients."""

from __future__ import annotations

from pynetdicom import AE


def test_echoscu_is_answered(receiver, dcmtk):
    run = dcmtk("echoscu", "-v", "--repeat", 3, "-aec", "SANGLOC", "127.0.0.1", receiver.port)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("Received Echo Response (Success)") + run.stderr.count("Echo Response (Success)") == 3
    assert receiver.receiver.counters["echoes"] == 3


def test_echoscu_may_propose_every_transfer_syntax_and_many_contexts(receiver, dcmtk):
    run = dcmtk("echoscu", "-v", "-aec", "SANGLOC", "-pts", 36, "-ppc", 100, "127.0.0.1", receiver.port)
    assert run.returncode == 0, run.stderr


def test_pynetdicom_is_answered(receiver):
    ae = AE("PYNETDICOM")
    ae.add_requested_context("1.2.840.10008.1.1")
    association = ae.associate("127.0.0.1", receiver.port, ae_title="SANGLOC")
    assert association.is_established
    assert association.send_c_echo().Status == 0
    assert association.acceptor.implementation_version_name == "SANGLOC_0"
    association.release()


def test_many_echoes_in_one_association(raw):
    client = raw().associate()
    assert [client.echo() for _ in range(50)] == [0] * 50
    client.release()
