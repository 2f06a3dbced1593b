"""The OHIF viewer as published, and a server that gives it out beside DICOMweb, as a hospital's proxy does."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import mimetypes
import os
import tarfile
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

VERSION = "3.12.10"
_PACKAGE = f"https://registry.npmjs.org/@ohif/app/-/app-{VERSION}.tgz"
_SHA512 = "0kuF66Mq9c9dMD++bUsTjMrJpXJwaZhz9B4uS244DawAjSkTwIYFU93pxPuRUQixaRi7QAHlF3Fe1qudBlZrmA=="
_CONFIG = b"""window.config = {
  routerBasename: '/', extensions: [], modes: [], showStudyList: true, investigationalUseDialog: {option: 'never'},
  showWarningMessageForCrossOrigin: false, showCPUFallbackMessage: false, defaultDataSourceName: 'sangloc',
  dataSources: [{
    namespace: '@ohif/extension-default.dataSourcesModule.dicomweb', sourceName: 'sangloc',
    configuration: {
      friendlyName: 'sangloc', name: 'sangloc', wadoUriRoot: '/dicom-web', qidoRoot: '/dicom-web',
      wadoRoot: '/dicom-web', qidoSupportsIncludeField: true, supportsFuzzyMatching: true, supportsWildcard: true,
      imageRendering: 'wadors', thumbnailRendering: 'thumbnail', enableStudyLazyLoad: true,
      bulkDataURI: {enabled: true},
    },
  }],
};"""


def dist() -> Path:
    """The folder of the viewer's files, fetched once (48 MB) and kept in the user's cache; skips without a network."""
    kept = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sangloc-tests" / f"ohif-{VERSION}"
    if not (kept / "package/dist/index.html").exists():
        kept.mkdir(parents=True, exist_ok=True)
        archive = kept / f"download-{os.getpid()}.tgz"
        try:
            with urllib.request.urlopen(_PACKAGE, timeout=120) as answer:
                archive.write_bytes(answer.read())
        except OSError as error:
            pytest.skip(f"OHIF cannot be fetched: {error}")
        assert base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode() == _SHA512
        with tarfile.open(archive) as packed:
            packed.extractall(kept, filter="data")
        archive.unlink()
    return kept / "package/dist"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder: Path
    archive: str  # host:port
    seen: list[tuple[str, int]]

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path.startswith("/dicom-web"):
            self._pass_on()
        elif path == "/app-config.js":
            self._answer(200, {"Content-Type": "text/javascript"}, _CONFIG)
        else:
            file = self.folder / path.lstrip("/")
            file = file if file.is_file() else self.folder / "index.html"
            kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
            self._answer(200, {"Content-Type": kind}, file.read_bytes())

    def _pass_on(self) -> None:
        onward = http.client.HTTPConnection(self.archive, timeout=30)
        with contextlib.closing(onward):
            accepted = {name: self.headers[name] for name in ("Accept", "Range") if name in self.headers}
            onward.request("GET", self.path, headers=accepted)
            answer = onward.getresponse()
            body = answer.read()
            self.seen.append((self.path, answer.status))
            kept = {name: value for name, value in answer.getheaders() if name.lower() == "content-type"}
            self._answer(answer.status, kept, body)

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if status != 204:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def beside(archive_url: str) -> Iterator[tuple[str, list[tuple[str, int]]]]:
    """The viewer's address, and what it asked the archive for (path, status) so far."""
    seen: list[tuple[str, int]] = []
    scope = {"folder": dist(), "archive": urlsplit(archive_url).netloc, "seen": seen}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), scope))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", seen
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()
