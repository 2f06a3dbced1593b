"""From settings to the objects that do the work: the one place where adapters are chosen and wired together.

Imports stand inside the functions, so that each part loads only what it needs: there is no torch in a receiver.
"""

# ruff: noqa: PLC0415

from __future__ import annotations

import datetime as dt
import gc
import ipaddress
import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from inference.triage import Priority, TriagePolicy, Waits, requested
from pacs.settings import Settings
from storage.errors import SettingsError

if TYPE_CHECKING:
    from api.config import ApiConfig
    from inference.worker import Worker
    from pacs.dimse.policy import CallerPolicy, ReceiverPolicy
    from pacs.hl7.config import Hl7Config
    from pacs.ingest import Ingest
    from pacs.tasks import ExchangeConfig
    from storage.database import Database
    from storage.objects import ObjectStore
    from storage.removal import RejectionPolicy
    from storage.studies import InstanceHeader

__all__ = [
    "api_config",
    "bundle_folder",
    "caller_policy",
    "check",
    "cores",
    "database",
    "exchange_config",
    "hl7_config",
    "ingest",
    "object_store",
    "order_promise",
    "receiver_policy",
    "rejection_policy",
    "run_api",
    "run_exchange",
    "run_receiver",
    "run_worker",
    "site_of",
    "triage_policy",
    "worker",
]

_URGENCY: dict[Priority, int] = {"routine": 0, "urgent": 1, "stat": 2}


def check(settings: Settings) -> None:
    """Raise `SettingsError` where a part would refuse these settings: better at once than from inside that part."""
    receiver_policy(settings)
    triage_policy(settings)
    from api.config import check_safe

    check_safe(settings.http.host, api_config(settings))


def database(settings: Settings, part: str = "cli") -> Database:
    """The database that the settings name; raises `SettingsError` where they name none."""
    from storage.database import Database

    if settings.database.url is None:
        raise SettingsError(
            f"no database is given: start `sangloc up --data {settings.data}` (it runs one of its own), or set "
            "SANGLOC_DATABASE_URL"
        )
    return Database(
        settings.database.url.get_secret_value(),
        max_connections=settings.database.max_connections,
        application_name=f"sangloc {part}",
    )


def object_store(settings: Settings) -> ObjectStore:
    """The folder or the S3 bucket of the objects."""
    chosen = settings.objects
    if not chosen.endpoint:
        from storage.objects.directory import DirectoryStore

        return DirectoryStore(chosen.folder or settings.data / "objects")
    from storage.objects.minio import MinioStore

    assert chosen.access_key is not None
    assert chosen.secret_key is not None
    return MinioStore(
        chosen.endpoint,
        chosen.access_key.get_secret_value(),
        chosen.secret_key.get_secret_value(),
        chosen.bucket,
        secure=chosen.secure,
        region=chosen.region,
        part_size_bytes=chosen.part_size_mib << 20,
        timeout_s=chosen.timeout_s,
        retries=chosen.retries,
    )


def triage_policy(settings: Settings) -> TriagePolicy:
    """The due-time table, with what each site has of its own; raises `SettingsError` where numbers contradict."""
    general = settings.triage
    try:
        return TriagePolicy(
            waits=Waits(
                stat_minutes=general.stat_minutes,
                urgent_minutes=general.urgent_minutes,
                routine_minutes=general.routine_minutes,
            ),
            sites={
                site.name: Waits(
                    stat_minutes=site.stat_minutes or general.stat_minutes,
                    urgent_minutes=site.urgent_minutes or general.urgent_minutes,
                    routine_minutes=site.routine_minutes or general.routine_minutes,
                )
                for site in settings.sites
            },
            operating_point=general.operating_point,
            site_operating_points={
                site.name: site.operating_point for site in settings.sites if site.operating_point is not None
            },
            high_risk_probability=general.high_risk_probability,
            high_risk_minutes=general.high_risk_minutes,
            flagged_minutes=general.flagged_minutes,
        )
    except ValueError as error:
        raise SettingsError(f"triage: {error}") from None


def receiver_policy(settings: Settings) -> ReceiverPolicy:
    """The receiver's limits; raises `SettingsError` where they contradict each other."""
    from pacs.dimse.policy import Peer, ReceiverPolicy, TlsFiles

    chosen = settings.dicom
    tls = None
    if chosen.tls_certificate and chosen.tls_key:
        tls = TlsFiles(chosen.tls_certificate, chosen.tls_key, chosen.tls_client_ca)
    return ReceiverPolicy(
        ae_title=chosen.ae_title,
        aliases=chosen.aliases,
        require_called_title=chosen.require_called_title,
        peers=tuple(Peer(peer.ae_title, tuple(map(ipaddress.ip_network, peer.networks))) for peer in chosen.peers),
        open_networks=tuple(map(ipaddress.ip_network, chosen.open_networks)),
        allow_private_sop_classes=chosen.allow_private_sop_classes,
        max_associations=chosen.max_associations,
        max_connections=chosen.max_connections,
        max_pdu_bytes=chosen.max_pdu_bytes,
        max_object_bytes=chosen.max_object_bytes,
        artim_timeout_s=chosen.artim_timeout_s,
        network_timeout_s=chosen.network_timeout_s,
        idle_timeout_s=chosen.idle_timeout_s,
        drain_timeout_s=chosen.drain_timeout_s,
        find_max_results=settings.search.max_results,
        find_timeout_s=settings.search.timeout_s,
        find_connections=settings.search.connections,
        tls=tls,
        caller=caller_policy(settings),
    )


def caller_policy(settings: Settings) -> CallerPolicy:
    """How we call other application entities."""
    from pacs.dimse.policy import CallerPolicy

    chosen = settings.dicom
    return CallerPolicy(
        ae_title=chosen.ae_title,
        timeout_s=chosen.call_timeout_s,
        attempts=chosen.call_attempts,
        certificate=chosen.tls_certificate,
        key=chosen.tls_key,
        authorities=chosen.tls_peer_ca,
    )


def api_config(settings: Settings) -> ApiConfig:
    """The API's tokens and limits."""
    from api.config import ApiConfig

    chosen = settings.http
    return ApiConfig(
        tokens={name: token.get_secret_value() for name, token in chosen.tokens.items()},
        body_timeout_s=chosen.body_timeout_s,
        body_min_bytes_per_s=chosen.body_min_bytes_per_s,
        max_store_bytes=chosen.max_store_bytes,
        max_store_parts=chosen.max_store_parts,
        max_store_requests=chosen.max_store_requests,
        store_threads=chosen.store_threads,
        max_results=settings.search.max_results,
        redirect_s=settings.objects.redirect_s,
        search_timeout_s=settings.search.timeout_s,
        search_connections=settings.search.connections,
        allow_private_sop_classes=settings.dicom.allow_private_sop_classes,
        order_promise=order_promise(settings),
        rejection=rejection_policy(settings),
    )


def exchange_config(settings: Settings, listen_fd: int | None = None) -> ExchangeConfig:
    """What the background tasks are told."""
    from pacs.tasks import ExchangeConfig

    calling = caller_policy(settings)
    return ExchangeConfig(
        ae_title=calling.ae_title,
        certificate=calling.certificate,
        key=calling.key,
        authorities=calling.authorities,
        timeout_s=calling.timeout_s,
        hl7=hl7_config(settings, listen_fd),
        settle_s=settings.exchange.settle_s,
        report_objects=settings.report.objects,
        report_max_age_s=settings.report.max_age_days * 86_400,
        retrieve_url=settings.exchange.retrieve_url or "",
        rejection=rejection_policy(settings),
    )


def rejection_policy(settings: Settings) -> RejectionPolicy:
    """How long what was removed can be restored, and whose rejection notes count."""
    from storage.removal import RejectionPolicy

    chosen = settings.removal
    return RejectionPolicy(chosen.grace_days if chosen.purge else None, chosen.accept_notes_from)


def hl7_config(settings: Settings, listen_fd: int | None = None) -> Hl7Config | None:
    """Where HL7 messages are taken and from whom; None where no port is set."""
    from pacs.hl7.config import Hl7Config, Limits

    chosen = settings.hl7
    if chosen.port is None:
        return None
    limits = Limits(
        senders=tuple(map(ipaddress.ip_network, chosen.senders)),
        max_message_bytes=chosen.max_message_bytes,
        max_connections=chosen.max_connections,
        message_timeout_s=chosen.message_timeout_s,
        idle_timeout_s=chosen.idle_timeout_s,
    )
    return Hl7Config(
        promise=order_promise(settings),
        host=chosen.host,
        port=chosen.port,
        listen_fd=listen_fd,
        certificate=chosen.tls_certificate,
        key=chosen.tls_key,
        client_authorities=chosen.tls_client_ca,
        limits=limits,
    )


def order_promise(settings: Settings) -> Callable[[str, str], tuple[int, dt.timedelta]]:
    """From an order's priority and station to its urgency and the longest wait of the station's site."""
    policy, site = triage_policy(settings), site_of(settings)

    def promise(priority: str, ae_title: str) -> tuple[int, dt.timedelta]:
        level = requested(priority)
        return _URGENCY[level], policy.waits_of(site(ae_title, "")).of(level)

    return promise


def site_of(settings: Settings) -> Callable[[str, str], str]:
    """From calling AE title (and address, which decides nothing yet) to the name of the site, '' for an unknown one."""
    names = {title: site.name for site in settings.sites for title in site.ae_titles}
    return lambda calling, _address: names.get(calling, "")


def bundle_folder(settings: Settings) -> Path:
    """The model bundle to run: the one that the settings name, else the one in the package."""
    from models.bundle import DEFAULT_BUNDLE

    return settings.worker.bundle or DEFAULT_BUNDLE


def ingest(settings: Settings, part: str = "ingest") -> Ingest:
    """The one way in, wired to database, object store, eligibility and triage policy."""
    from inference.eligibility import screen
    from inference.triage import arrival
    from pacs.ingest import Arrival, Ingest

    policy = triage_policy(settings)

    def arrive(header: InstanceHeader, at: dt.datetime, site: str) -> Arrival:
        return Arrival(*arrival(policy, header.requested_priority, site, at))

    return Ingest(
        database(settings, part),
        object_store(settings),
        screen=screen,
        arrival=arrive,
        max_object_bytes=settings.dicom.max_object_bytes,
        site_of=site_of(settings),
        rejection=rejection_policy(settings),
    )


def _collect_seldom() -> None:
    """What stands now stands for ever, and requests leave few cycles: no look at them every 700 objects."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20)


def run_receiver(settings: Settings, listener: socket.socket, on_ready: Callable[[], None]) -> None:
    """Receive until SIGTERM or SIGINT, then drain and return."""
    from pacs.dimse.server import Receiver

    receiver = Receiver(ingest(settings, "receiver"), receiver_policy(settings), listener)
    stop = _stop_event()
    _collect_seldom()
    on_ready()
    receiver.run(stop)


def run_worker(settings: Settings, on_ready: Callable[[], None]) -> None:
    """Read images until SIGTERM or SIGINT; what was claimed and not read goes back."""
    worker(settings).run(_stop_event(), on_ready)


def worker(settings: Settings, *, live: bool = True) -> Worker:
    """A worker; not `live`: of reprocessings only, with whole batches as no live image waits for them."""
    from inference.worker import Worker, WorkerConfig

    chosen = settings.worker
    config = WorkerConfig(
        device=chosen.device,
        batch_size=chosen.batch_size,
        lease_s=chosen.lease_s,
        max_attempts=chosen.max_attempts,
        cache_dir=settings.data.absolute() / "cache",
        maps=settings.triage.maps,
        gate=settings.triage.gate,
        live=live,
        bulk_share=4 if live else 1,
    )
    return Worker(
        database(settings, "worker"), object_store(settings), bundle_folder(settings), triage_policy(settings), config
    )


def run_api(settings: Settings, listen_fd: int | None, on_ready: Callable[[int], None]) -> None:
    """Serve the API and the page until SIGTERM or SIGINT."""
    from api.server import run

    def ready(port: int) -> None:
        _collect_seldom()
        on_ready(port)

    way_in = ingest(settings, "api")
    try:
        run(
            database(settings, "api"),
            way_in.store,
            api_config(settings),
            host=settings.http.host,
            port=settings.http.port,
            listen_fd=listen_fd,
            on_ready=ready,
            ingest=way_in,
        )
    finally:
        way_in.close()


def run_exchange(settings: Settings, listen_fd: int | None, on_ready: Callable[[], None]) -> None:
    """Run the background tasks until SIGTERM or SIGINT; `listen_fd` is a socket for HL7 messages."""
    from pacs import exchange
    from pacs.tasks import Exchange

    parts = Exchange(database(settings, "exchange"), object_store(settings), exchange_config(settings, listen_fd))
    stop = _stop_event()
    on_ready()
    exchange.run(parts, stop)


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _stop_event() -> threading.Event:
    """Set by SIGTERM and SIGINT."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop
