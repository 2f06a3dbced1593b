"""The HTTP server: uvicorn in this process, with the time-outs that it lacks, stopped without a hang."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial

import structlog
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from api import sendfile
from api.app import create_app
from api.config import ApiConfig, check_safe
from pacs.ingest import Ingest
from storage.database import Database
from storage.objects import ObjectStore

__all__ = ["run"]

_HEADER_S = 10.0
_HEADER_BYTES = 64 * 1024
_LINGER_S = 30.0  # for the rest of a body that nobody wants
_CONNECTIONS = 1000
_MESSAGE_BYTES = 64 * 1024  # of a WebSocket client, which has nothing to say

log = structlog.get_logger()


def run(
    database: Database,
    store: ObjectStore,
    config: ApiConfig,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    listen_fd: int | None = None,
    on_ready: Callable[[int], None] | None = None,
    stop: threading.Event | None = None,
    drain_s: float = 5.0,
    ingest: Ingest | None = None,
) -> None:
    """Serve until SIGTERM, SIGINT (in the main thread) or `stop`, then drain and return.

    Event streams end at once, running requests get `drain_s` seconds. `listen_fd` is an inherited listening socket
    that takes the place of `host` and `port`; `on_ready` is called once with the port that is served. `ingest` is the
    way in for STOW-RS, which the caller closes.

    Raises:
        SettingsError: the address is not loopback and there are no tokens.
        OSError: the address cannot be bound.
    """
    if listen_fd is None:
        check_safe(host, config)
    with _bind(host, port) if listen_fd is None else socket.socket(fileno=listen_fd) as listener:
        address, bound = listener.getsockname()[:2]
        check_safe(address, config)
        log.info("http server starting", port=bound, tokens=len(config.tokens))
        server = _server(create_app(database, store, config, ingest=ingest), drain_s)
        if on_ready is not None:
            server.ready = partial(on_ready, bound)
        server.stop = stop or server.stop
        server.run(sockets=[listener])
    log.info("http server stopped", port=bound)


def _server(app: FastAPI, drain_s: float) -> _Server:
    settings = uvicorn.Config(
        app,
        http=_Protocol,
        ws="websockets-sansio",
        ws_max_size=_MESSAGE_BYTES,
        ws_per_message_deflate=False,  # reports are small
        loop="uvloop",
        log_config=None,
        access_log=False,  # query strings carry patients' names
        server_header=False,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=max(1, round(drain_s)),
        limit_concurrency=_CONNECTIONS,
        backlog=256,
    )
    return _Server(settings, app.state.context.events.close)


def _bind(host: str, port: int) -> socket.socket:
    name = host.strip("[]")
    family = socket.AF_INET6 if ":" in name else socket.AF_INET
    return socket.create_server((name, port), family=family, backlog=256)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, end_streams: Callable[[], None]) -> None:
        super().__init__(config)
        self._end_streams = end_streams
        self.stop = threading.Event()
        self.ready: Callable[[], None] = lambda: None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.ready()

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self.stop.is_set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._end_streams()  # uvicorn waits for open connections, and a stream would never end
        await super().shutdown(sockets=sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but a signal that was obeyed is not raised a second time."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handled = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, self.handle_exit) for number in handled}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class _Protocol(HttpToolsProtocol):
    """Cuts off a client that does not finish its request line and headers: uvicorn alone would wait for ever."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._header_bytes = 0
        self._waiting: asyncio.TimerHandle | None = None
        self._lingering: asyncio.TimerHandle | None = None
        self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._got_headers()
        self._stop_lingering()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._header_bytes += len(data)
        super().data_received(data)  # first: the body may begin in the same piece
        if self._waiting is not None and self._header_bytes > _HEADER_BYTES and not self.transport.is_closing():
            self._waiting.cancel()
            self.send_400_response("The request line and headers are too long.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if sendfile.offered(self.transport):
            self.scope["extensions"] = {sendfile.EXTENSION: {}}
        self._expect_headers()

    def on_headers_complete(self) -> None:
        self._got_headers()
        super().on_headers_complete()
        if type(self.cycle) is RequestResponseCycle:  # made a moment ago and not begun: uvicorn takes no class for it
            self.cycle.__class__ = sendfile.ZeroCopyCycle

    def on_response_complete(self) -> None:
        """A client that was answered early may send the rest of its body, which is thrown away, but not for ever."""
        super().on_response_complete()
        if self.cycle.more_body and not self.transport.is_closing():
            self._lingering = self.loop.call_later(_LINGER_S, self.timeout_keep_alive_handler)

    def on_body(self, body: bytes) -> None:
        """As uvicorn's, but a piece that comes alone is handed on as it is: for instances that saves two copies."""
        if self.cycle.body or self.cycle.response_complete or self.parser.should_upgrade():
            super().on_body(body)
            return
        self.cycle.body = body  # type: ignore[assignment]  # it is only asked for its length, added to, and made bytes
        if len(body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        self.cycle.message_event.set()

    def on_message_complete(self) -> None:
        self._stop_lingering()
        super().on_message_complete()

    def _stop_lingering(self) -> None:
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None

    def send_400_response(self, msg: str) -> None:
        body = b'{"type":"about:blank","title":"Bad Request","status":400,"detail":"%s"}' % msg.encode("ascii")
        head = b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/problem+json\r\nconnection: close\r\n"
        self.transport.write(head + b"content-length: %d\r\n\r\n" % len(body) + body)
        self.transport.close()

    def _expect_headers(self) -> None:
        if self._waiting is None:
            self._header_bytes = 0
            self._waiting = self.loop.call_later(_HEADER_S, self.timeout_keep_alive_handler)

    def _got_headers(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
