"""Who may connect, and limits that make sense."""

from __future__ import annotations

import ipaddress

import pytest

from pacs.dimse.policy import Peer, ReceiverPolicy
from storage.errors import SettingsError

WARD = ipaddress.ip_network("10.1.0.0/16")


def test_on_loopback_any_calling_title_is_taken_and_from_elsewhere_none():
    policy = ReceiverPolicy()
    assert policy.knows_calling("ANY", "127.0.0.1")
    assert policy.knows_calling("ANY", "::1")
    assert policy.knows_calling("ANY", "::ffff:127.0.0.1")
    assert not policy.knows_calling("ANY", "10.1.2.3")
    assert not policy.knows_calling("ANY", "fe80::1%eth0")


def test_a_peer_is_known_by_title_and_network():
    policy = ReceiverPolicy(peers=(Peer("CT1", (WARD,)), Peer("DX1")))
    assert policy.knows_calling("CT1", "10.1.2.3")
    assert policy.knows_calling("CT1", "::ffff:10.1.2.3")
    assert not policy.knows_calling("CT1", "10.2.2.3")
    assert not policy.knows_calling("CT2", "10.1.2.3")
    assert policy.knows_calling("DX1", "192.0.2.1")


def test_without_open_networks_loopback_is_not_special():
    policy = ReceiverPolicy(open_networks=(), peers=(Peer("CT1"),))
    assert policy.knows_calling("CT1", "127.0.0.1")
    assert not policy.knows_calling("CT2", "127.0.0.1")


def test_the_called_title_must_match_unless_told_otherwise():
    policy = ReceiverPolicy(ae_title="PACS", aliases=("ARCHIVE",))
    assert policy.knows_called("PACS")
    assert policy.knows_called("ARCHIVE")
    assert not policy.knows_called("pacs")
    assert not policy.knows_called("")
    assert ReceiverPolicy(require_called_title=False).knows_called("WHATEVER")


@pytest.mark.parametrize(
    "values",
    [
        {"ae_title": ""},
        {"ae_title": "SEVENTEEN-LETTERS"},
        {"ae_title": "BACK\\SLASH"},
        {"ae_title": " PADDED"},
        {"ae_title": "SÀNG"},
        {"aliases": ("",)},
        {"peers": (Peer("TAB\t"),)},
        {"max_pdu_bytes": 100},
        {"max_pdu_bytes": 1 << 31},
        {"max_associations": 0},
        {"max_associations": 10, "max_connections": 9},
    ],
)
def test_settings_that_cannot_work_are_refused(values):
    with pytest.raises(SettingsError):
        ReceiverPolicy(**values)
