"""The AE registry: whom we may send to, by name or AE title. Every change is in the audit log."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from typing import LiteralString
from urllib.parse import urlsplit

import psycopg
from psycopg.rows import class_row

from storage import audit
from storage.database import Connection
from storage.errors import InvalidInput, NotFound

__all__ = ["Peer", "all_peers", "by_aet", "by_name", "put", "remove"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_AET = re.compile(r"[ -\[\]-~]{1,16}", re.ASCII)  # PS3.5 6.2
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._:%-]{0,253}[A-Za-z0-9])?|::1?", re.ASCII)  # a name, IPv4 or IPv6
_MAX_TEXT = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Another archive, workstation or service that we send to: by DIMSE (aet, host, port), by DICOMweb, or by both.

    Raises:
        InvalidInput: what is given cannot be an address.
    """

    name: str
    aet: str = ""
    host: str = ""
    port: int = 0
    tls: bool = False
    dicomweb_url: str = ""
    dicomweb_token: str = field(default="", repr=False)
    comment: str = ""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InvalidInput("The name of a peer is 1 to 64 letters, digits, dots, dashes and underscores.")
        if not self.has_dimse and not self.dicomweb_url:
            raise InvalidInput("A peer needs an AE title with host and port, a DICOMweb URL, or both.")
        if self.has_dimse:
            self._check_dimse()
        if self.dicomweb_url:
            _check_url(self.dicomweb_url)
        texts = (self.dicomweb_url, self.dicomweb_token, self.comment)
        if any(len(text) > _MAX_TEXT or not text.isprintable() for text in texts):
            raise InvalidInput(f"A text of a peer has at most {_MAX_TEXT} printable characters.")

    @property
    def has_dimse(self) -> bool:
        """Whether it can be reached by DIMSE."""
        return bool(self.aet or self.host or self.port)

    def _check_dimse(self) -> None:
        if not _AET.fullmatch(self.aet) or self.aet != self.aet.strip():
            raise InvalidInput("An AE title is 1 to 16 printable characters without backslash (PS3.5 6.2).")
        if not _HOST.fullmatch(self.host):
            raise InvalidInput("The host of a peer is a host name or an IP address.")
        if not 0 < self.port < 1 << 16:
            raise InvalidInput("The port of a peer is from 1 to 65535.")


_PEERS: LiteralString = "SELECT name, aet, host, port, tls, dicomweb_url, dicomweb_token, comment FROM peers"


def all_peers(connection: Connection) -> list[Peer]:
    """Every peer by name."""
    with connection.cursor(row_factory=class_row(Peer)) as cursor:
        return cursor.execute(_PEERS + " ORDER BY name").fetchall()


def by_aet(connection: Connection, aet: str) -> Peer | None:
    """The peer with this AE title (significant spaces do not exist, PS3.5 6.2); None where nobody has it."""
    if not aet.strip():
        return None
    with connection.cursor(row_factory=class_row(Peer)) as cursor:
        return cursor.execute(_PEERS + " WHERE aet = %s", (aet.strip(),)).fetchone()


def by_name(connection: Connection, name: str) -> Peer | None:
    """The peer of this name; None where there is none."""
    with connection.cursor(row_factory=class_row(Peer)) as cursor:
        return cursor.execute(_PEERS + " WHERE name = %s", (name,)).fetchone()


def put(connection: Connection, peer: Peer, actor: str) -> bool:
    """Add the peer, or replace the one of its name; whether it is new. Call it in a transaction.

    Raises:
        InvalidInput: another peer has this AE title.
    """
    values = {each.name: getattr(peer, each.name) for each in fields(peer)}
    known = by_name(connection, peer.name)
    try:
        connection.execute(
            "INSERT INTO peers (name, aet, host, port, tls, dicomweb_url, dicomweb_token, comment) VALUES (%(name)s,"
            " %(aet)s, %(host)s, %(port)s, %(tls)s, %(dicomweb_url)s, %(dicomweb_token)s, %(comment)s)"
            " ON CONFLICT (name) DO UPDATE SET aet = excluded.aet, host = excluded.host, port = excluded.port,"
            " tls = excluded.tls, dicomweb_url = excluded.dicomweb_url, dicomweb_token = excluded.dicomweb_token,"
            " comment = excluded.comment, changed_at = now()",
            values,
        )
    except psycopg.errors.UniqueViolation:
        raise InvalidInput(f"Another peer has the AE title {peer.aet}.") from None
    shown = {name: value for name, value in values.items() if name != "dicomweb_token"}
    audit.add(connection, actor, "peer.added" if known is None else "peer.changed", detail=shown)
    return known is None


def remove(connection: Connection, name: str, actor: str) -> None:
    """Forget a peer; raises `NotFound`. Call it in a transaction."""
    if connection.execute("DELETE FROM peers WHERE name = %s", (name,)).rowcount == 0:
        raise NotFound(f"There is no peer {name[:64]}.")
    audit.add(connection, actor, "peer.removed", detail={"name": name})


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        plain = not parts.query and not parts.fragment and parts.username is None and parts.port != 0
        good = plain and parts.scheme in {"http", "https"} and bool(parts.hostname)
    except ValueError:
        good = False
    if not good:
        raise InvalidInput("A DICOMweb URL looks like https://host:port/path, without user, query and fragment.")
