"""Where a model comes from: a folder, a file, or a URL that is fetched (http and https only, with a limit)."""

from __future__ import annotations

import contextlib
import hashlib
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx

from models.importers.archive import MAX_BYTES
from storage.errors import InvalidBundle, InvalidInput, Unavailable

__all__ = ["at_hand", "shown", "stem"]

_TIMEOUT_S = 30.0  # of silence, not of the whole download
_MAX_REDIRECTS = 5


@contextlib.contextmanager
def at_hand(source: str, sha256: str = "") -> Iterator[Path]:
    """The folder or file of a source; what was fetched is gone afterwards.

    Args:
        source: path, or a URL.
        sha256: that the file must have, in hexadecimal digits; '' takes any.

    Raises:
        InvalidInput: there is no such source, it is no http(s) URL, or too large.
        InvalidBundle: the file has another digest.
        Unavailable: the server does not answer.
    """
    with tempfile.TemporaryDirectory(prefix="sangloc-model-") as folder:
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", source):
            path = _fetch(source, Path(folder) / "fetched")
        else:
            path = Path(source)
            if not path.exists():
                raise InvalidInput(f"there is no file or folder {source}")
        if path.is_file() and path.stat().st_size > MAX_BYTES:
            raise InvalidInput(f"{source} is larger than {MAX_BYTES >> 20} MiB")
        if sha256:
            _check(path, sha256)
        yield path


def shown(source: str) -> str:
    """The source as it may be kept and shown: a URL without user, password and query."""
    if "://" not in source:
        return source
    parts = urlsplit(source)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def stem(source: str) -> str:
    """A name for what comes from there: that of the folder or file, in letters, digits, dots and dashes."""
    path = unquote(urlsplit(source).path) if "://" in source else str(Path(source).resolve())
    name = path.rstrip("/").rpartition("/")[2]
    name = re.sub(r"(\.(zip|pth|pt|ckpt|tar))+$", "", name, flags=re.IGNORECASE)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("._-")[:64] or "model"


def _fetch(url: str, file: Path) -> Path:
    if urlsplit(url).scheme not in {"http", "https"}:
        raise InvalidInput(f"a model is fetched by http or https, not from {url[:80]}")
    try:
        with (
            httpx.Client(follow_redirects=True, max_redirects=_MAX_REDIRECTS, timeout=_TIMEOUT_S) as client,
            client.stream("GET", url) as answer,
            file.open("wb") as written,
        ):
            if answer.status_code != 200:
                raise InvalidInput(f"{url} answers with HTTP status {answer.status_code}")
            size = 0
            for chunk in answer.iter_bytes():
                size += len(chunk)
                if size > MAX_BYTES:
                    raise InvalidInput(f"{url} is larger than {MAX_BYTES >> 20} MiB")
                written.write(chunk)
    except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.TooManyRedirects) as error:
        raise InvalidInput(f"{url} cannot be fetched: {error}") from error
    except httpx.HTTPError as error:
        raise Unavailable(f"{url} cannot be fetched: {error}") from error
    return file


def _check(path: Path, sha256: str) -> None:
    if not path.is_file():
        raise InvalidInput("a digest is of a file, not of a folder")
    with path.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found != sha256.lower():
        raise InvalidBundle(f"{path.name} has SHA-256 {found}, not {sha256.lower()}: nothing was imported")
