"""What the HTTP side is told by the settings, and when it refuses to serve."""

from __future__ import annotations

import datetime as dt
import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from storage.errors import SettingsError
from storage.removal import DEFAULT_POLICY, RejectionPolicy

__all__ = ["ApiConfig", "check_safe", "is_loopback"]

_DIGEST = re.compile(r"sha256:[0-9a-fA-F]{64}")
_MIN_SECRET_CHARACTERS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiConfig:
    """Limits and tokens of the HTTP side; every field has a default that is safe on loopback."""

    tokens: Mapping[str, str] = field(default_factory=dict)
    """Name to secret, or to 'sha256:' and the secret's digest in hex; the name is the actor in the audit log."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names accepted besides the loopback ones while there are no tokens."""
    max_body_bytes: int = 1 << 20
    """Bytes of one request body: every request that is known today is a few hundred bytes of JSON."""
    body_timeout_s: float = 20.0
    """Seconds between two parts of a request body; a slower client is cut off."""
    body_min_bytes_per_s: float = 1000.0
    """Bytes a second that a request body must bring, measured over `body_timeout_s` of waiting for it."""
    max_store_bytes: int = 64 << 30
    """Bytes of one STOW-RS request: many instances of `max_object_bytes` each."""
    max_store_parts: int = 20_000
    """Parts of one STOW-RS request: what became of each is told in one answer."""
    max_store_requests: int = 64
    """STOW-RS requests at a time; each holds about 3 MB at most. One more is told to come again."""
    store_threads: int = 8
    """Threads that write what STOW-RS brings; they share their commits."""
    allow_private_sop_classes: bool = False
    """Store private SOP classes as well, as the receiver does by the same setting."""
    max_results: int = 5_000
    """Matches that one QIDO-RS search is given; more are cut with a Warning header."""
    redirect_s: int = 0
    """Seconds that a signed address of the object store is good for, to which WADO-RS sends who asks for one object; 0:
    all goes through this process."""
    search_timeout_s: float = 10.0
    """Seconds that one statement of a search may take."""
    search_connections: int = 3
    """Database connections of searches; those of the other routes are others."""
    send_timeout_s: float = 30.0
    """Seconds a client may take nothing of an answer before it is cut off."""
    max_event_clients: int = 200
    """Open event streams; each costs a socket and a few kB."""
    keep_alive_s: float = 15.0
    """Seconds between two comments on a silent event stream: proxies close at 30 to 60."""
    events_per_s: float = 4.0
    """Most `changed` events a second on one stream; more changes are folded into the next one."""
    max_render_pixels: int = 64_000_000
    """Samples of one frame that are decoded for a picture: a 64 megapixel image is 128 MB at 16 bits."""
    render_threads: int = 2
    """Pictures decoded at a time; bounds memory together with `max_render_pixels`."""
    order_promise: Callable[[str, str], tuple[int, dt.timedelta | None]] | None = None
    """From an order's priority and station to urgency and longest wait (`pacs.ordering.Promise`); None: no promise."""
    rejection: RejectionPolicy = DEFAULT_POLICY
    """How long what was deleted or rejected can be restored."""
    picture_cache_bytes: int = 48 << 20
    """Pictures kept in memory: about a thousand radiographs of 512 px, which a viewer asks for again and again."""
    stale_worker_s: float = 15.0
    """Seconds without a sign of life after which a worker counts as gone."""


def is_loopback(host: str) -> bool:
    """Whether an address to listen on can be reached from this machine only."""
    name = host.strip("[]")
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def check_safe(host: str, config: ApiConfig) -> None:
    """Raise `SettingsError` unless it is safe to serve on `host`: patient data needs a token or stays on loopback."""
    for name, secret in config.tokens.items():
        if not name:
            raise SettingsError("an API token needs a name: it is the actor in the audit log")
        if secret.startswith("sha256:"):
            if _DIGEST.fullmatch(secret) is None:
                raise SettingsError(f"the digest of API token {name!r} is not 'sha256:' and 64 hexadecimal digits")
        elif len(secret) < _MIN_SECRET_CHARACTERS:
            raise SettingsError(f"API token {name!r} has fewer than {_MIN_SECRET_CHARACTERS} characters")
    if not config.tokens and not is_loopback(host):
        raise SettingsError(f"without API tokens the server serves on a loopback address only, not on {host!r}")
