"""Every setting with its unit, default and reason. `pacs.sources` reads them; docs/configuration.md shows them."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from api.config import ApiConfig, is_loopback
from inference.triage import TriagePolicy
from pacs.dimse.policy import ReceiverPolicy
from pacs.hl7.config import Limits
from storage.errors import SettingsError

__all__ = [
    "Database",
    "Dicom",
    "Exchange",
    "Hl7",
    "Http",
    "Log",
    "Objects",
    "Peer",
    "Removal",
    "Report",
    "Search",
    "Section",
    "Settings",
    "Site",
    "Triage",
    "Worker",
    "refuse_unsafe",
]

_HL7 = Limits()
_RECEIVER, _API = ReceiverPolicy(), ApiConfig()  # limits have one default, there
_TRIAGE = TriagePolicy()
_WAITS = _TRIAGE.waits
_LOOPBACK_NETWORKS = {str(network) for network in _RECEIVER.open_networks}

Port = Annotated[int, Field(ge=0, le=65535)]
AETitle = Annotated[
    str, Field(pattern=r"^[\x21-\x5B\x5D-\x7E]([\x20-\x5B\x5D-\x7E]{0,14}[\x21-\x5B\x5D-\x7E])?$")
]  # PS3.5 6.2: 16 characters, no backslash
Network = Annotated[str, AfterValidator(lambda text: str(ipaddress.ip_network(text, strict=False)))]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Minutes = Annotated[float, Field(gt=0, le=525_600)]
Count = Annotated[int, Field(ge=1)]
OperatingPoint = Literal["sensitive", "balanced", "specific"]


class Section(BaseModel):
    """A frozen group of settings that takes no unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)


class Database(Section):
    """Where the index lives."""

    url: SecretStr | None = Field(
        default=None, description="PostgreSQL connection URL; unset: a private PostgreSQL in the data folder"
    )
    max_connections: Count = Field(default=8, description="connections that one process opens at most")


class Objects(Section):
    """Where the bytes live: a folder, or an S3 bucket when an endpoint is given."""

    folder: Path | None = Field(default=None, description="folder of the objects; unset: `objects` in the data folder")
    endpoint: str = Field(default="", description="host:port of an S3 server; empty: the folder is used")
    bucket: str = Field(default="sangloc", description="S3 bucket; made on first start")
    access_key: SecretStr | None = Field(default=None, description="S3 access key")
    secret_key: SecretStr | None = Field(default=None, description="S3 secret key")
    region: str = Field(default="us-east-1", description="S3 region")
    secure: bool = Field(default=True, description="speak TLS to the S3 server")
    retries: Annotated[int, Field(ge=0, le=10)] = Field(default=1, description="tries after a refusal by the S3 server")
    part_size_mib: Annotated[int, Field(ge=5, le=5120)] = Field(default=16, description="S3 part size in MiB")
    timeout_s: Seconds = Field(default=5.0, description="longest wait for the S3 server, in seconds")
    redirect_s: Annotated[int, Field(ge=0, le=3600)] = Field(
        default=0,
        description="seconds that an address of the S3 server is good for, to which who asks for one stored object is"
        " sent; 0: nobody is sent there",
    )


class Peer(Section):
    """A modality that may associate."""

    ae_title: AETitle = Field(description="its calling AE title")
    networks: tuple[Network, ...] = Field(default=(), description="addresses or networks it may come from; empty: any")


class Dicom(Section):
    """The DICOM receiver."""

    host: str = Field(default="127.0.0.1", description="address to listen on; 0.0.0.0 or :: for all")
    port: Port = Field(default=11112, description="TCP port; 0 takes a free one")
    ae_title: AETitle = Field(default="SANGLOC", description="called AE title that senders must use")
    aliases: tuple[AETitle, ...] = Field(default=(), description="further called AE titles that are answered")
    require_called_title: bool = Field(default=True, description="reject an association to another called AE title")
    receivers: Annotated[int, Field(ge=0, le=256)] = Field(default=0, description="receiver processes; 0: one a core")
    peers: tuple[Peer, ...] = Field(default=(), description="who may associate, by AE title and network")
    open_networks: tuple[Network, ...] = Field(
        default=("127.0.0.0/8", "::1/128"), description="networks from which any calling AE title is taken"
    )
    allow_private_sop_classes: bool = Field(default=False, description="store private SOP classes as well")
    max_associations: Count = Field(
        default=_RECEIVER.max_associations, description="associations of one receiver process; one more is rejected"
    )
    max_connections: Count = Field(
        default=_RECEIVER.max_connections, description="connections of one receiver process, silent ones included"
    )
    max_pdu_bytes: Annotated[int, Field(ge=4096, lt=1 << 31)] = Field(
        default=_RECEIVER.max_pdu_bytes, description="longest PDU that senders are offered, bytes"
    )
    max_object_bytes: Count = Field(default=_RECEIVER.max_object_bytes, description="longest data set taken, bytes")
    artim_timeout_s: Seconds = Field(
        default=_RECEIVER.artim_timeout_s, description="wait for an association request, seconds"
    )
    network_timeout_s: Seconds = Field(
        default=_RECEIVER.network_timeout_s, description="longest silence within one message, seconds"
    )
    idle_timeout_s: Seconds = Field(
        default=_RECEIVER.idle_timeout_s, description="longest silence between two messages, seconds"
    )
    drain_timeout_s: Seconds = Field(
        default=_RECEIVER.drain_timeout_s, description="on stop, running associations may finish for so long, seconds"
    )
    tls_certificate: Path | None = Field(default=None, description="our certificate chain (PEM); set: TLS is spoken")
    tls_key: Path | None = Field(default=None, description="our private key (PEM)")
    tls_client_ca: Path | None = Field(
        default=None, description="authority of client certificates (PEM); set: clients need one"
    )
    tls_peer_ca: Path | None = Field(
        default=None, description="authority of the certificates of peers that we call (PEM); unset: the system's"
    )
    call_timeout_s: Seconds = Field(
        default=_RECEIVER.caller.timeout_s, description="longest silence of a peer that we call, seconds"
    )
    call_attempts: Annotated[int, Field(ge=1, le=20)] = Field(
        default=_RECEIVER.caller.attempts, description="tries for one object before a move destination is given up"
    )


class Search(Section):
    """Queries by C-FIND and QIDO-RS: no query may hold up the others, or what comes in."""

    max_results: Count = Field(default=_RECEIVER.find_max_results, description="matches that one query is given")
    timeout_s: Seconds = Field(default=_RECEIVER.find_timeout_s, description="longest statement of a query, seconds")
    connections: Count = Field(
        default=_RECEIVER.find_connections, description="database connections for queries in one process"
    )


class Http(Section):
    """The API and the worklist page."""

    host: str = Field(default="127.0.0.1", description="address to listen on; other than loopback only with tokens")
    port: Port = Field(default=8080, description="TCP port; 0 takes a free one")
    tokens: dict[str, SecretStr] = Field(
        default={}, description="bearer tokens by name of the user or machine; empty: no login"
    )
    body_timeout_s: Seconds = Field(
        default=_API.body_timeout_s, description="longest silence within a request body, seconds"
    )
    body_min_bytes_per_s: Annotated[float, Field(ge=0)] = Field(
        default=_API.body_min_bytes_per_s, description="slowest pace of a request body, bytes a second"
    )
    max_store_bytes: Count = Field(default=_API.max_store_bytes, description="longest STOW-RS request, bytes")
    max_store_parts: Count = Field(default=_API.max_store_parts, description="parts of one STOW-RS request")
    max_store_requests: Count = Field(
        default=_API.max_store_requests, description="STOW-RS requests at a time; one more hears 503"
    )
    store_threads: Annotated[int, Field(ge=1, le=64)] = Field(
        default=_API.store_threads, description="threads that write what STOW-RS brings"
    )


class Worker(Section):
    """The worker that reads images."""

    count: Annotated[int, Field(ge=0, le=256)] = Field(default=1, description="worker processes under `up`; 0: none")
    bundle: Path | None = Field(
        default=None, description="folder of the model bundle; unset: the one that ships with sangloc"
    )
    device: Literal["auto", "cuda", "openvino", "cpu"] = Field(default="auto", description="what runs the model")
    batch_size: Annotated[int, Field(ge=1, le=1024)] = Field(default=8, description="images in one batch at most")
    lease_s: Seconds = Field(
        default=60.0, description="a job of a worker that died is taken over after so many seconds"
    )
    max_attempts: Count = Field(default=5, description="tries before a job is set aside as dead")


class Triage(Section):
    """The numbers of the table in `inference.triage`, and what is flagged."""

    operating_point: OperatingPoint = Field(
        default="balanced", description="what is flagged, by the model's thresholds: sensitive, balanced or specific"
    )
    stat_minutes: Minutes = Field(default=_WAITS.stat_minutes, description="maximum wait of a STAT study, minutes")
    urgent_minutes: Minutes = Field(
        default=_WAITS.urgent_minutes, description="maximum wait of an urgent study, minutes"
    )
    routine_minutes: Minutes = Field(default=_WAITS.routine_minutes, description="maximum wait of any other, minutes")
    flagged_minutes: Minutes = Field(default=_TRIAGE.flagged_minutes, description="a flagged study is due in, minutes")
    high_risk_minutes: Minutes = Field(
        default=_TRIAGE.high_risk_minutes, description="a flagged study of high risk is due in, minutes"
    )
    high_risk_probability: Annotated[float, Field(gt=0, le=1)] = Field(
        default=_TRIAGE.high_risk_probability, description="calibrated probability from which a flag is high risk"
    )
    gate: bool = Field(
        default=True, description="look at each image first: refuse what is no chest film of an adult, put others right"
    )
    maps: bool = Field(
        default=True, description="store where in a flagged image its findings were seen; off: triage only, no maps"
    )


class Exchange(Section):
    """The process that forwards, notifies and clears up."""

    settle_s: Seconds = Field(
        default=60.0, description="a study is taken for complete when nothing new came to it for so many seconds"
    )
    retrieve_url: Annotated[str, Field(pattern=r"^https?://\S+$")] | None = Field(
        default=None,
        description="our DICOMweb address as others reach it, told in notices of availability; unset: not told",
    )


class Report(Section):
    """What models said, as DICOM objects in the patient's record."""

    objects: Literal["none", "sr", "all"] = Field(
        default="none",
        description="written of each flagged image: none; sr: a structured report; all: also a presentation state and"
        " a picture with the map",
    )
    max_age_days: Annotated[float, Field(gt=0, le=36_500)] = Field(
        default=7.0, description="images that came longer ago get none, whatever is scored again"
    )


class Removal(Section):
    """What was deleted or rejected: how long it can be restored, and whose rejection notes are applied."""

    grace_days: Annotated[float, Field(gt=0, le=36_500)] = Field(
        default=30.0, description="what was deleted or rejected can be restored for so many days, then it is purged"
    )
    purge: bool = Field(default=True, description="remove rows and objects after that; false: hide them for ever")
    accept_notes_from: tuple[AETitle, ...] = Field(
        default=(), description="calling AE titles whose rejection notes (IHE IOCM) are applied; empty: all"
    )


class Hl7(Section):
    """HL7 version 2 messages over MLLP: orders and patient updates."""

    host: str = Field(default="127.0.0.1", description="address to listen on; 0.0.0.0 or :: for all")
    port: Port | None = Field(default=None, description="TCP port, by custom 2575; 0 takes a free one; unset: none")
    senders: tuple[Network, ...] = Field(
        default=("127.0.0.0/8", "::1/128"), description="addresses or networks that messages are taken from"
    )
    tls_certificate: Path | None = Field(
        default=None, description="our certificate chain (PEM); set: senders must speak TLS"
    )
    tls_key: Path | None = Field(default=None, description="our private key (PEM)")
    tls_client_ca: Path | None = Field(
        default=None, description="authority of senders' certificates (PEM); set: senders need one"
    )
    max_message_bytes: Count = Field(default=_HL7.max_message_bytes, description="longest message taken, bytes")
    max_connections: Count = Field(default=_HL7.max_connections, description="connections at a time")
    message_timeout_s: Seconds = Field(
        default=_HL7.message_timeout_s, description="from the first byte of a message to its last, seconds"
    )
    idle_timeout_s: Seconds = Field(
        default=_HL7.idle_timeout_s, description="longest silence between two messages, seconds"
    )


class Site(Section):
    """A hospital or department, known by the AE titles that send for it, with waits and a threshold of its own."""

    name: str = Field(description="the site's name, shown in the worklist", min_length=1)
    ae_titles: tuple[str, ...] = Field(description="calling AE titles that belong to the site", min_length=1)
    operating_point: OperatingPoint | None = Field(default=None, description="what is flagged here")
    stat_minutes: Minutes | None = Field(default=None, description="maximum wait of a STAT study here, minutes")
    urgent_minutes: Minutes | None = Field(default=None, description="maximum wait of an urgent study here, minutes")
    routine_minutes: Minutes | None = Field(default=None, description="maximum wait of a routine study here, minutes")


class Log(Section):
    """What the parts write to standard error; never a patient's name or ID."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="least important event written"
    )
    format: Literal["console", "json"] = Field(default="console", description="lines for people or for machines")


class Settings(Section):
    """All settings."""

    data: Path = Field(default=Path("data"), description="folder of everything that sangloc keeps")
    database: Database = Database()
    objects: Objects = Objects()
    dicom: Dicom = Dicom()
    search: Search = Search()
    http: Http = Http()
    worker: Worker = Worker()
    triage: Triage = Triage()
    exchange: Exchange = Exchange()
    report: Report = Report()
    removal: Removal = Removal()
    hl7: Hl7 = Hl7()
    sites: tuple[Site, ...] = Field(default=(), description="sites with their AE titles, waits and operating points")
    log: Log = Log()


def refuse_unsafe(settings: Settings) -> None:
    """Raise `SettingsError`, saying what to do, where the settings contradict each other or open a door unguarded."""
    http, dicom, objects = settings.http, settings.dicom, settings.objects
    if not is_loopback(http.host) and not http.tokens:
        raise SettingsError(
            f"http.host is {http.host}, which others can reach, but there are no http.tokens: set SANGLOC_HTTP_TOKENS "
            'to {"name": "a long random token"}, or listen on 127.0.0.1'
        )
    if not is_loopback(dicom.host) and not dicom.peers and not set(dicom.open_networks) - _LOOPBACK_NETWORKS:
        raise SettingsError(
            f"dicom.host is {dicom.host}, which others can reach, but nothing says who may send: list them in "
            'dicom.peers, or name the networks of your modalities in dicom.open_networks, such as "10.1.0.0/16"'
        )
    if not is_loopback(settings.hl7.host) and not set(settings.hl7.senders) - _LOOPBACK_NETWORKS:
        raise SettingsError(
            f"hl7.host is {settings.hl7.host}, which others can reach, but nothing says who may send: name the "
            'networks of your systems in hl7.senders, such as "10.1.0.5/32"'
        )
    for name, part in (("dicom", dicom), ("hl7", settings.hl7)):
        if bool(part.tls_certificate) != bool(part.tls_key) or (part.tls_client_ca and not part.tls_key):
            raise SettingsError(f"TLS needs both {name}.tls_certificate and {name}.tls_key")
    if objects.endpoint and not (objects.access_key and objects.secret_key):
        raise SettingsError("objects.endpoint is set: set objects.access_key and objects.secret_key too")
    if objects.endpoint and objects.folder:
        raise SettingsError("objects.endpoint and objects.folder are both set, but objects live in one place")
    titles = [title for site in settings.sites for title in site.ae_titles]
    if twice := sorted({title for title in titles if titles.count(title) > 1}):
        raise SettingsError(f"sites: the AE title {twice[0]} belongs to two sites")
