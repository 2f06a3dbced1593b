"""What the MLLP listener is told by the settings."""

from __future__ import annotations

import ipaddress
import os
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pacs.ordering import Promise

__all__ = ["Hl7Config", "Limits", "Network"]

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_BACKLOG = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Who may send, and how much one sender may cost."""

    senders: tuple[Network, ...] = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))
    max_message_bytes: int = 1 << 20
    max_connections: int = 32
    message_timeout_s: float = 30.0  # from the first byte of a message to its last, and for an answer to be taken
    idle_timeout_s: float = 86_400.0  # between two messages: senders keep one connection for days


@dataclass(frozen=True, slots=True, kw_only=True)
class Hl7Config:
    """Where to listen, within which limits, and what an order's priority promises."""

    promise: Promise
    host: str = "127.0.0.1"
    port: int = 2575
    listen_fd: int | None = None  # a listening socket that was handed down
    certificate: Path | None = None  # ours with its key (PEM): TLS is spoken
    key: Path | None = None
    client_authorities: Path | None = None  # given: a sender needs a certificate that one of these signed
    limits: Limits = field(default_factory=Limits)

    def socket(self) -> socket.socket:
        """A listening socket that the caller closes. Raises `OSError`."""
        if self.listen_fd is not None:
            return socket.socket(fileno=os.dup(self.listen_fd))
        family, *_, address = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)[0]
        both = self.host == "::" and socket.has_dualstack_ipv6()
        return socket.create_server(address[:2], family=family, backlog=_BACKLOG, dualstack_ipv6=both)
