"""Who may connect, and how much one peer may cost: every limit of the receiver with its unit and its reason."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from storage.errors import SettingsError

__all__ = ["LOOPBACK", "CallerPolicy", "Network", "Peer", "ReceiverPolicy", "TlsFiles"]

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

LOOPBACK: tuple[Network, ...] = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))

_AE_TITLE = re.compile(r"[ -\[\]-~]{1,16}", re.ASCII)  # PS3.5 6.2: printable ASCII without the backslash
_LEAST_PDU_BYTES = 4096  # room for any command set in one PDU; PS3.8 D.1 allows any maximum


@dataclass(frozen=True, slots=True)
class Peer:
    """A modality that may connect: its AE title and the networks it may come from (none: any address)."""

    ae_title: str
    networks: tuple[Network, ...] = ()


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of the secure transport connection profile (PS3.15 B.12)."""

    certificate: Path
    key: Path
    client_authorities: Path | None = None  # given: a client needs a certificate signed by one of these


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerPolicy:
    """How we call others: our AE title, patience and TLS."""

    ae_title: str = "SANGLOC"
    connect_timeout_s: float = 5.0
    timeout_s: float = 30.0  # longest silence of the peer
    attempts: int = 3  # for one object, before the destination is given up
    pause_s: float = 1.0  # before the second attempt; doubled each time
    max_pdu_bytes: int = 1 << 18  # that we announce
    certificate: Path | None = None  # ours, where the peer asks for one
    key: Path | None = None
    authorities: Path | None = None  # that sign certificates of peers; None: the system's, and host names are checked


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiverPolicy:
    """All limits of one receiver process. Raises `SettingsError` when they contradict the standard or each other."""

    ae_title: str = "SANGLOC"
    aliases: tuple[str, ...] = ()  # further called AE titles that are answered
    require_called_title: bool = True  # a wrong called title is most often a wrong address
    peers: tuple[Peer, ...] = ()
    open_networks: tuple[Network, ...] = LOOPBACK  # from here any calling AE title is taken
    allow_private_sop_classes: bool = False  # they are stored, but nothing downstream understands them
    max_associations: int = 200  # a process; the next one is rejected (transient, local limit exceeded)
    max_connections: int = 400  # a process, silent ones included; beyond it the oldest silent one is closed
    max_pdu_bytes: int = 1 << 20  # announced; DCMTK never sends more than 128 KiB
    max_object_bytes: int = 4 << 30  # of one data set; a longer one is answered 0xA710
    artim_timeout_s: float = 10.0  # to send the A-ASSOCIATE-RQ, and to close after a release or an abort (PS3.8 9.1.5)
    network_timeout_s: float = 60.0  # between two segments of one message
    idle_timeout_s: float = 600.0  # between two messages
    drain_timeout_s: float = 30.0  # running associations get so long when the receiver stops
    drain_idle_s: float = 1.0  # an association without a message for so long is not running
    find_max_results: int = 5_000  # answers of one C-FIND; more are cut with a warning
    find_timeout_s: float = 10.0  # of one statement of a query; a longer one is answered 0xA700
    find_connections: int = 3  # database connections of queries in one process: those of storing are others
    tls: TlsFiles | None = None
    caller: CallerPolicy = CallerPolicy()  # towards the destinations of a C-MOVE

    def __post_init__(self) -> None:
        for title in (self.ae_title, *self.aliases, *(peer.ae_title for peer in self.peers)):
            if not _AE_TITLE.fullmatch(title) or title != title.strip():
                raise SettingsError(f"{title!r} is not an AE title: 1 to 16 printable characters (PS3.5 6.2)")
        if not _LEAST_PDU_BYTES <= self.max_pdu_bytes < 1 << 31:
            raise SettingsError(f"max_pdu_bytes must be from {_LEAST_PDU_BYTES} to 2147483647")
        if not 0 < self.max_associations <= self.max_connections:
            raise SettingsError("max_associations must be from 1 to max_connections")

    def knows_called(self, title: str) -> bool:
        """Whether an association to this called AE title is answered."""
        return not self.require_called_title or title == self.ae_title or title in self.aliases

    def knows_calling(self, title: str, address: str) -> bool:
        """Whether this calling AE title may connect from this IP address."""
        ip = _ip(address)
        if _within(ip, self.open_networks):
            return True
        return any(p.ae_title == title and (not p.networks or _within(ip, p.networks)) for p in self.peers)


def _within(ip: ipaddress.IPv4Address | ipaddress.IPv6Address, networks: Sequence[Network]) -> bool:
    return any(ip in network for network in networks)


def _ip(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    ip = ipaddress.ip_address(address.partition("%")[0])
    return getattr(ip, "ipv4_mapped", None) or ip  # ::ffff:10.0.0.1 on a dual-stack socket
