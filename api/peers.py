"""The AE registry: application entities and DICOMweb servers that may be sent to."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Response
from pydantic import BaseModel, ConfigDict, Field

from api.context import Actor, Here
from api.problems import responses
from storage import peers
from storage.errors import NotFound
from storage.peers import Peer

__all__ = ["router"]

router = APIRouter(prefix="/api/peers", tags=["peers"])

Name = Annotated[
    str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="our name for the peer, for people and rules")
]
_TEXT = r"^[^\x00-\x1f\x7f]*$"


class PeerFacts(BaseModel):
    """How a peer is reached: by DIMSE (AE title, host and port), by DICOMweb, or by both."""

    model_config = ConfigDict(extra="forbid")

    aet: str = Field(default="", max_length=16, pattern=r"^[ -\[\]-~]*$", description="its AE title; empty: no DIMSE")
    host: str = Field(default="", max_length=255, pattern=r"^[A-Za-z0-9._:%-]*$", description="host name or IP address")
    port: int = Field(default=0, ge=0, le=65535)
    tls: bool = Field(default=False, description="speak TLS (PS3.15 B.12) to host and port")
    dicomweb_url: str = Field(default="", max_length=1000, pattern=_TEXT, description="base of its DICOMweb")
    comment: str = Field(default="", max_length=1000, pattern=_TEXT)


class NewPeer(PeerFacts):
    """The whole peer; the token is never given back."""

    dicomweb_token: str | None = Field(
        default=None, max_length=1000, pattern=_TEXT, description="bearer token; null keeps the one that is there"
    )


class KnownPeer(PeerFacts):
    """A peer of the registry."""

    name: str
    has_token: bool


class Peers(BaseModel):
    """All of them by name."""

    items: list[KnownPeer]


def _shown(peer: Peer) -> KnownPeer:
    return KnownPeer(
        name=peer.name,
        aet=peer.aet,
        host=peer.host,
        port=peer.port,
        tls=peer.tls,
        dicomweb_url=peer.dicomweb_url,
        comment=peer.comment,
        has_token=bool(peer.dicomweb_token),
    )


@router.get("", responses=responses(401, 422, 503))
def everyone(here: Here, _: Actor) -> Peers:
    """The registry: move destinations, and whom forwarding and `sangloc send` know by name."""
    with here.database.autocommit() as connection:
        return Peers(items=[_shown(peer) for peer in peers.all_peers(connection)])


@router.get("/{name}", responses=responses(401, 404, 422, 503))
def one(here: Here, _: Actor, name: Name) -> KnownPeer:
    """One peer."""
    with here.database.autocommit() as connection:
        found = peers.by_name(connection, name)
    if found is None:
        raise NotFound(f"There is no peer {name}.")
    return _shown(found)


@router.put("/{name}", responses={201: {"model": KnownPeer}, **responses(400, 401, 403, 422, 503)})
def put(here: Here, actor: Actor, name: Name, new: NewPeer, response: Response) -> KnownPeer:
    """Add a peer (201), or replace the one of this name (200)."""
    with here.database.transaction() as connection:
        known = peers.by_name(connection, name)
        token = new.dicomweb_token
        if token is None:
            token = known.dicomweb_token if known else ""
        peer = Peer(name=name, **new.model_dump(exclude={"dicomweb_token"}), dicomweb_token=token)
        added = peers.put(connection, peer, actor)
    response.status_code = 201 if added else 200
    return _shown(peer)


@router.delete("/{name}", status_code=204, responses=responses(401, 403, 404, 422, 503))
def remove(here: Here, actor: Actor, name: Name) -> None:
    """Forget a peer; what waits to be forwarded to it waits until it is back."""
    with here.database.transaction() as connection:
        peers.remove(connection, name, actor)
