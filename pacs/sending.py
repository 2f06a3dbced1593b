"""What `sangloc send` and `sangloc echo` do: one peer, one or several lines to it, an account of each object."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import httpx

from pacs import parts
from pacs.delivery import DimseLine, Item, Line, Throttle
from pacs.dimse.contexts import VERIFICATION
from pacs.dimse.policy import CallerPolicy
from pacs.dimse.proposal import Proposal
from pacs.dimse.requestor import EXPLICIT, IMPLICIT, Requestor, echo_on
from pacs.dimse.sender import Kind, Patience, in_associations
from pacs.dimse.tls import client_context
from pacs.folder import Folder, dicom_files, read_instance
from pacs.launch import database_at_hand
from pacs.retrieve import Selection, StoredInstance
from pacs.settings import Settings
from pacs.stowing import StowLine
from pacs.terminal import progress_bars
from storage.database import Connection
from storage.errors import InvalidInput, PeerUnavailable, SanglocError
from storage.objects import ObjectStore
from storage.peers import Peer, by_name

__all__ = ["Call", "Report", "Try", "dimse_address", "transaction"]

_ADDRESS = re.compile(r"(?P<aet>[^@]{1,16})@(?P<host>\[[0-9A-Fa-f:.]+\]|[^@\[\]:]+):(?P<port>[0-9]{1,5})")
_NAMED = 20  # objects that were not sent and are named on the terminal


class Try(NamedTuple):
    """One echo; `problem` is '' when it was answered."""

    connect_ms: float
    answer_ms: float
    status: int  # of the C-ECHO or of HTTP; 0 without an answer, and for success of DIMSE
    problem: str


@dataclass(slots=True)
class Report:
    """What became of what was to be sent."""

    sent: int = 0
    bytes: int = 0
    not_dicom: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)  # file or SOP Instance UID, and why
    seconds: float = 0.0

    @property
    def whole(self) -> bool:
        """Whether everything is stored there, and that is not nothing."""
        return not self.failed and self.sent > 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "sent": self.sent,
            "bytes": self.bytes,
            "not_dicom": self.not_dicom,
            "failed": [{"object": name, "reason": reason} for name, reason in self.failed],
            "seconds": round(self.seconds, 3),
        }

    def text(self, to: str) -> str:
        """For people."""
        speed = self.bytes / 1e6 / self.seconds if self.seconds else 0.0
        size = f"{self.bytes / 1e6:.1f} MB, {speed:.0f} MB/s"
        lines = [f"{self.sent} sent to {to} ({size}), {len(self.failed)} not sent, {self.not_dicom} no DICOM"]
        lines += [f"  {name}: {reason}" for name, reason in self.failed[:_NAMED]]
        if len(self.failed) > _NAMED:
            lines.append(f"  and {len(self.failed) - _NAMED} more")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Call:
    """A peer that is called from the command line, and how."""

    settings: Settings
    peer: Peer
    policy: CallerPolicy
    web: bool

    @classmethod
    def of(cls, settings: Settings, target: str, *, web: bool, tls: bool, token: str, calling: str | None) -> Self:
        """The peer that `target` names: in the registry, by AETITLE@host:port, or by URL. Raises `InvalidInput`."""
        policy = parts.caller_policy(settings)
        if calling:
            policy = replace(policy, ae_title=calling)
        if target.startswith(("http://", "https://")):
            peer = Peer(name="target", dicomweb_url=target, dicomweb_token=token)
        elif "@" in target:
            peer = Peer(name="target", **dimse_address(target), tls=tls)
        else:
            with transaction(settings) as connection:
                known = by_name(connection, target)
            if known is None:
                raise InvalidInput(f"No peer is called {target}; see `sangloc peers list`, or give AETITLE@host:port")
            peer = known
        if web and not peer.dicomweb_url:
            raise InvalidInput(f"{target} has no DICOMweb URL")
        return cls(settings, peer, policy, web or not peer.has_dimse)

    @property
    def shown(self) -> str:
        """The peer, for people."""
        if self.web:
            return self.peer.dicomweb_url
        return f"{self.peer.aet}@{self.peer.host}:{self.peer.port}"

    # ---- echo

    def echo(self) -> Try:
        """Ask once whether the peer is there; never raises for what the peer does."""
        start = time.monotonic()
        try:
            return self._echo_web(start) if self.web else self._echo_dimse(start)
        except (PeerUnavailable, httpx.HTTPError) as error:
            return Try(_ms(start), 0.0, 0, str(error) or type(error).__name__)

    def _echo_dimse(self, start: float) -> Try:
        with Requestor(self.peer, self.policy, [Proposal(VERIFICATION, (IMPLICIT, EXPLICIT))]) as association:
            connected, asked = _ms(start), time.monotonic()
            status = echo_on(association)
            return Try(connected, _ms(asked), status, "" if status == 0 else f"status {status:04X}")

    def _echo_web(self, start: float) -> Try:
        """A query that finds one study at most: every DICOMweb server understands it (PS3.18 10.6)."""
        headers = {"Accept": "application/dicom+json"}
        if self.peer.dicomweb_token:
            headers["Authorization"] = f"Bearer {self.peer.dicomweb_token}"
        policy, secure = self.policy, self.peer.dicomweb_url.startswith("https:")
        verify = client_context(policy.certificate, policy.key, policy.authorities) if secure else False
        timeout = httpx.Timeout(policy.timeout_s, connect=policy.connect_timeout_s)
        with httpx.Client(verify=verify, timeout=timeout, trust_env=False, headers=headers) as client:
            connected = _ms(start)
            answer = client.get(f"{self.peer.dicomweb_url.rstrip('/')}/studies", params={"limit": "1"})
            problem = "" if answer.status_code in {200, 204} else f"HTTP status {answer.status_code}"
            return Try(connected, _ms(start) - connected, answer.status_code, problem)

    # ---- send

    def send_files(self, paths: Sequence[Path]) -> Report:
        """Send the DICOM files at and below these paths."""
        report, found = Report(), []
        for path in (file for each in paths for file in dicom_files(each)):
            try:
                instance = read_instance(path)
            except (InvalidInput, OSError) as error:
                report.failed.append((str(path), str(error)))
                continue
            if instance is None:
                report.not_dicom += 1
            else:
                found.append(instance)
        kinds = list(dict.fromkeys((one.sop_class, one.transfer_syntax) for one in found))
        self._send(Folder(), found, len(found), kinds, report, name=lambda one: one.object_key)
        return report

    def send_archived(self, studies: Sequence[str], series: Sequence[str]) -> Report:
        """Send studies and series of our own archive. Raises `DatabaseUnavailable`."""
        report = Report()
        with database_at_hand(self.settings) as settings:
            database, store = parts.database(settings, "send"), parts.object_store(settings)
            for keys in ({"study_uid": studies}, {"series_uid": series}):
                if not next(iter(keys.values())):
                    continue
                selection = Selection(database, **keys)
                if not len(selection):
                    report.failed.append((", ".join(next(iter(keys.values()))), "not in the archive"))
                    continue
                self._send(store, selection, len(selection), selection.kinds(), report, name=lambda one: one.sop_uid)
            database.close()
        return report

    def _send(
        self,
        store: ObjectStore,
        instances: Iterable[StoredInstance],
        count: int,
        kinds: Sequence[Kind],
        report: Report,
        *,
        name: Callable[[StoredInstance], str],
    ) -> None:
        start = time.monotonic()
        with progress_bars() as bars, _Lines(self, store, kinds) as lines:
            task = bars.add_task("objects", total=count)
            for instance in instances:
                problem = lines.send(instance)
                if problem:
                    report.failed.append((name(instance), problem))
                else:
                    report.sent += 1
                    report.bytes += instance.object_size
                bars.update(task, advance=1)
        report.seconds += time.monotonic() - start


class _Lines:
    """The lines to one peer: for C-STORE one association for each group of kinds, opened when it is needed."""

    def __init__(self, call: Call, store: ObjectStore, kinds: Sequence[Kind]) -> None:
        self._call, self._store = call, store
        self._throttle = Throttle(threading.Event())
        self._groups = in_associations(kinds, spare=1)  # DimseLine proposes one more
        self._group_of = {kind: number for number, group in enumerate(self._groups) for kind in group}
        self._open: dict[int, Line] = {}
        self._patience = Patience(call.policy)
        self._problem = ""  # of the last attempt that failed

    def send(self, instance: StoredInstance) -> str:
        """'' when the peer has it, else why not. A peer that fails is asked again, see `Patience`."""
        group = 0 if self._call.web else self._group_of[instance.sop_class, instance.transfer_syntax]
        connected = False
        for _ in self._patience.attempts():
            connected = False
            try:
                line = self._line(group)
                connected = True
                problem = line.send([Item(0, instance)])[0].error
            except PeerUnavailable as error:
                self._problem = str(error)
                self._drop(group, error)
            except SanglocError as error:
                return str(error)
            else:
                self._patience.ended(success=True)
                return problem
        self._patience.ended(success=False, connected=connected or self._call.web)
        return self._problem

    def _line(self, group: int) -> Line:
        line = self._open.get(group)
        if line is None:
            call = self._call
            if call.web:
                made: Line = StowLine(call.peer, call.policy, self._store, self._throttle)
            else:
                made = DimseLine(call.peer, call.policy, self._store, self._throttle, self._groups[group])
            line = self._open[group] = made.__enter__()
        return line

    def _drop(self, group: int, error: BaseException) -> None:
        line = self._open.pop(group, None)
        if line is not None:
            line.__exit__(type(error), error, None)

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        for line in self._open.values():
            line.__exit__(kind, *rest)


def dimse_address(text: str) -> dict[str, Any]:
    """AE title, host and port of AETITLE@host:port (an IPv6 address in brackets). Raises `InvalidInput`."""
    match = _ADDRESS.fullmatch(text)
    if match is None:
        raise InvalidInput(f"{text[:100]!r} is no AETITLE@host:port")
    return {"aet": match["aet"], "host": match["host"].strip("[]"), "port": int(match["port"])}


@contextlib.contextmanager
def transaction(settings: Settings) -> Iterator[Connection]:
    """A transaction on the database of the settings."""
    with database_at_hand(settings) as at_hand:
        database = parts.database(at_hand, "peers")
        with database.transaction() as connection:
            yield connection
        database.close()


def _ms(start: float) -> float:
    return round((time.monotonic() - start) * 1000, 3)
