"""Bodies for STOW-RS, made by hand so that they may be wrong; and an archive with a way in."""

from __future__ import annotations

import contextlib
import datetime as dt
import secrets
from collections.abc import Iterable, Iterator
from typing import Any

import httpx
from elements import CT, EXPLICIT, ROOT, data_set
from http_server import client, serving

from api.config import ApiConfig
from pacs.ingest import Arrival, Ingest
from pacs.part10 import file_meta
from storage.database import Database
from storage.objects import ObjectStore
from storage.received import InstanceHeader

BOUNDARY = "b-0xFFd9"
RELATED = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'
JSON_RELATED = f'multipart/related; type="application/dicom+json"; boundary={BOUNDARY}'


def uid() -> str:
    """A UID that no other has."""
    return f"2.25.{secrets.randbits(120)}"


def part10(n: int | str = 1, *, syntax: str = EXPLICIT, data: bytes | None = None, **over: Any) -> bytes:
    """A small CT file, its data set as in `elements.data_set`."""
    content = data_set(n=n, **over) if data is None else data
    return file_meta(CT, f"{ROOT}.3.{n}", syntax, "TEST") + content


def part(content: bytes, kind: str = "application/dicom", location: str = "") -> bytes:
    """One part with its delimiter in front."""
    head = f"\r\n--{BOUNDARY}\r\nContent-Type: {kind}\r\n" + (f"Content-Location: {location}\r\n" if location else "")
    return f"{head}\r\n".encode() + content


def body(*contents: bytes) -> bytes:
    """A whole body of Part 10 files."""
    return b"".join(map(part, contents)) + closing()


def closing() -> bytes:
    """The closing delimiter."""
    return f"\r\n--{BOUNDARY}--\r\n".encode()


def make_ingest(database: Database, store: ObjectStore, **over: Any) -> Ingest:
    """The way in; digital radiographs are screened as eligible."""

    def screen(header: InstanceHeader) -> str:
        return "" if header.modality == "DX" else "only radiographs are read"

    def arrival(_header: InstanceHeader, at: dt.datetime, _site: str) -> Arrival:
        return Arrival("routine", at + dt.timedelta(hours=4))

    return Ingest(database, store, screen=screen, arrival=arrival, **over)


@contextlib.contextmanager
def storing(
    database: Database, store: ObjectStore, config: ApiConfig | None = None, token: str = "", **over: Any
) -> Iterator[httpx.Client]:
    """A client of a server that takes instances; `over` goes to `Ingest`."""
    ingest = make_ingest(database, store, **over)
    try:
        with serving(database, store, config, ingest) as address, client(address, token) as http:
            yield http
    finally:
        ingest.close()


def post(
    http: httpx.Client, content: bytes | Iterable[bytes], *, study: str = "", kind: str = RELATED, **headers: str
) -> httpx.Response:
    """POST to /studies or to one study."""
    path = f"/dicom-web/studies/{study}" if study else "/dicom-web/studies"
    return http.post(path, content=content, headers={"Content-Type": kind, **headers})


def failures(answer: httpx.Response) -> list[tuple[str, int]]:
    """SOP Instance UID ('' where none is told) and failure reason of each failure."""
    module = answer.json()
    return [
        (item.get("00081155", {}).get("Value", [""])[0], item["00081197"]["Value"][0])
        for tag in ("00081198", "0008119A")
        for item in module.get(tag, {}).get("Value", [])
    ]


def stored(answer: httpx.Response) -> list[str]:
    """SOP Instance UIDs of what was stored."""
    return [item["00081155"]["Value"][0] for item in answer.json().get("00081199", {}).get("Value", [])]
