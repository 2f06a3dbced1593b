"""`sangloc healthy PART`: the health check of one part on the machine where it runs, for containers and monitors."""

from __future__ import annotations

import socket
from typing import Literal, get_args

import httpx

from pacs import parts
from pacs.settings import Settings
from storage import workers
from storage.errors import SanglocError, Unavailable

__all__ = ["PARTS", "probe"]

Kind = Literal["receiver", "worker", "exchange", "api"]
PARTS: tuple[Kind, ...] = get_args(Kind)

_TIMEOUT_S = 4.0
_STALE_S = 30.0


def probe(settings: Settings, kind: Kind) -> None:
    """Return when the part does its work.

    Raises:
        Unavailable: it does not; the message says what was seen.
    """
    {"receiver": _receiver, "worker": _worker, "exchange": _exchange, "api": _api}[kind](settings)


def _receiver(settings: Settings) -> None:
    """A C-ECHO to our own port and title."""
    from pynetdicom import AE  # noqa: PLC0415  only this probe needs it

    prober = AE("HEALTHCHECK")
    prober.connection_timeout = prober.acse_timeout = prober.dimse_timeout = _TIMEOUT_S
    prober.add_requested_context("1.2.840.10008.1.1")
    association = prober.associate(_local(settings.dicom.host), settings.dicom.port, ae_title=settings.dicom.ae_title)
    if not association.is_established:
        raise Unavailable(f"no association with {settings.dicom.ae_title} on port {settings.dicom.port}")
    status = association.send_c_echo().get("Status")
    association.release()
    if status != 0:
        raise Unavailable(f"C-ECHO was answered with {status}")


def _worker(settings: Settings) -> None:
    """A sign of life in the database from a worker on this machine."""
    database = parts.database(settings)
    with database.transaction() as connection:
        seen = workers.alive(connection, _STALE_S)
    database.close()
    if not any(worker.worker.startswith(f"{socket.gethostname()}:") for worker in seen):
        raise Unavailable(f"no worker on this machine was seen in the last {_STALE_S:.0f} s")


def _exchange(settings: Settings) -> None:
    """The connection by which an exchange process of this machine is woken."""
    database = parts.database(settings)
    with database.autocommit() as connection:
        found = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'sangloc exchange'"
            " AND datname = current_database() AND client_addr IS NOT DISTINCT FROM inet_client_addr()"
        ).fetchone()
    database.close()
    if found == (0,):
        raise Unavailable("no exchange process on this machine is connected to the database")


def _api(settings: Settings) -> None:
    try:
        host = _local(settings.http.host)
        address = f"http://{f'[{host}]' if ':' in host else host}:{settings.http.port}/health/ready"
        answer = httpx.get(address, timeout=_TIMEOUT_S)
    except httpx.HTTPError as error:
        raise Unavailable(f"the API does not answer: {error}") from None
    if answer.status_code != httpx.codes.OK:
        raise Unavailable(f"the API is not ready: {answer.text[:500]}")


def _local(host: str) -> str:
    """The address by which this machine reaches what listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  not bound


def check_name(name: str) -> Kind:
    """The part of that name; raises `SanglocError`."""
    for kind in PARTS:
        if name == kind:
            return kind
    raise SanglocError(f"{name} is not a part; the parts are {', '.join(PARTS)}")
