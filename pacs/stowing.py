"""STOW-RS to another archive (PS3.18 10.5): several instances in one streamed request, a result for each."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import httpx

from pacs.delivery import Item, Result, Throttle
from pacs.dimse.tls import client_context
from pacs.outgoing import ANY, Outgoing, open_outgoing
from storage.errors import InvalidInput, NotFound, NotTranscodable, PeerUnavailable

if TYPE_CHECKING:
    from pacs.dimse.policy import CallerPolicy
    from storage.objects import Buffer, ObjectStore
    from storage.peers import Peer

__all__ = ["StowLine"]

_REFERENCED, _FAILED, _INSTANCE, _REASON = "00081199", "00081198", "00081155", "00081197"
_ALL_STORED, _CONFLICT, _TOO_LARGE = 200, 409, 413
_JUDGED = (_ALL_STORED, 202, _CONFLICT)  # statuses whose body tells of each instance (PS3.18 table 10.5.3-1)
_OF_THE_OBJECTS = (400, _TOO_LARGE, 415, 422)  # statuses that blame what was sent, not the moment
_MAX_ANSWER_BYTES = 4 << 20
_PART = b"Content-Type: application/dicom\r\n\r\n"


class StowLine:
    """One HTTP connection; see `pacs.delivery.Line`."""

    most_items = 16
    most_bytes = 32 << 20

    def __init__(self, peer: Peer, policy: CallerPolicy, store: ObjectStore, throttle: Throttle) -> None:
        self._peer, self._store, self._throttle = peer, store, throttle
        self._address = f"{peer.dicomweb_url.rstrip('/')}/studies"
        headers = {"Accept": "application/dicom+json"}
        if peer.dicomweb_token:
            headers["Authorization"] = f"Bearer {peer.dicomweb_token}"
        secure = peer.dicomweb_url.startswith("https:")
        self._client = httpx.Client(
            headers=headers,
            timeout=httpx.Timeout(policy.timeout_s, connect=policy.connect_timeout_s),
            verify=client_context(policy.certificate, policy.key, policy.authorities) if secure else False,
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._client.close()

    def send(self, items: Sequence[Item]) -> list[Result]:
        """Store them by one request; where that is refused as a whole, by one request each."""
        found = [self._open(item) for item in items]
        readable = [(item, outgoing) for item, outgoing in found if isinstance(outgoing, Outgoing)]
        failed = [Result(item, outgoing) for item, outgoing in found if isinstance(outgoing, str)]
        if not readable:
            return failed
        status, told = self._post([outgoing for _, outgoing in readable])
        sent = [item for item, _ in readable]
        if status in _OF_THE_OBJECTS:
            if len(sent) > 1:
                return failed + [result for item in sent for result in self.send([item])]
            return [*failed, Result(sent[0], f"refused with HTTP status {status}")]
        return failed + self._judge(status, told, sent)

    def _open(self, item: Item) -> tuple[Item, Outgoing | str]:
        try:
            return item, open_outgoing(self._store, item.instance, [ANY])
        except (InvalidInput, NotFound, NotTranscodable) as error:
            return item, str(error)

    def _post(self, outgoing: Sequence[Outgoing]) -> tuple[int, bytes]:
        """Status and body of the answer."""
        boundary = secrets.token_hex(16)
        headers = {"Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}'}
        if all(one.untouched for one in outgoing):
            headers["Content-Length"] = str(_length(boundary, outgoing))
        body = map(bytes, self._throttle.through(_body(boundary, outgoing)))
        try:
            with self._client.stream("POST", self._address, content=body, headers=headers) as answer:
                told = bytearray()
                for part in answer.iter_bytes():
                    told += part
                    if len(told) > _MAX_ANSWER_BYTES:
                        raise PeerUnavailable(f"{self._peer.name} answers without end")
                return answer.status_code, bytes(told)
        except httpx.HTTPError as error:
            raise PeerUnavailable(f"{self._peer.name} does not answer: {type(error).__name__} {error}") from error

    def _judge(self, status: int, told: bytes, sent: Sequence[Item]) -> list[Result]:
        """The results that the answer tells; raises `PeerUnavailable` where it tells none."""
        if status not in _JUDGED:
            raise PeerUnavailable(f"{self._peer.name} answers with HTTP status {status}")
        try:
            read = json.loads(told)
            read = read[0] if isinstance(read, list) else read
            stored = {uid for uid, _ in _instances(read, _REFERENCED)}
            refused = dict(_instances(read, _FAILED))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            if status == _ALL_STORED:  # told in XML, or not at all
                return [Result(item, "") for item in sent]
            raise PeerUnavailable(
                f"{self._peer.name} answers with HTTP status {status} and no readable list"
            ) from error
        return [Result(item, _error(item.instance.sop_uid, stored, refused)) for item in sent]


def _error(sop_uid: str, stored: set[str], refused: Mapping[str, int]) -> str:
    if sop_uid in stored:
        return ""
    return f"refused with failure reason {refused[sop_uid]:04X}" if sop_uid in refused else "not in the answer"


def _instances(told: Mapping[str, Any], sequence: str) -> Iterator[tuple[str, int]]:
    for item in told.get(sequence, {}).get("Value", []):
        yield item[_INSTANCE]["Value"][0], int(item.get(_REASON, {}).get("Value", [0])[0])


def _body(boundary: str, outgoing: Sequence[Outgoing]) -> Iterator[Buffer]:
    for one in outgoing:
        yield b"--" + boundary.encode() + b"\r\n" + _PART
        yield from one.part10()
        yield b"\r\n"
    yield b"--" + boundary.encode() + b"--\r\n"


def _length(boundary: str, outgoing: Sequence[Outgoing]) -> int:
    return (
        (len(boundary) + 6 + len(_PART)) * len(outgoing)
        + sum(one.instance.object_size for one in outgoing)
        + len(boundary)
        + 6
    )
