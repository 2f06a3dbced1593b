"""What stands before every route: host and origin rules, size and time limits, headers, and the last word on errors."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from api import sendfile
from api.config import ApiConfig, is_loopback
from api.problems import log_failure, problem

__all__ = ["Gate"]

Observe = Callable[[str, str, int, float], None]

_STORES = re.compile(r"/dicom-web/studies(/[^/]*)?")
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class Gate:
    """ASGI middleware; `observe(method, route, status, seconds)` is called for each answered request."""

    def __init__(self, app: ASGIApp, config: ApiConfig, observe: Observe) -> None:
        self._app = app
        self._config = config
        self._observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] == "websocket":
            await self._channel(scope, receive, send)
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        answer = _Answer(send, self._config)
        refused = self._refusal(Headers(scope=scope), scope)
        try:
            if refused is not None:
                await refused(scope, receive, answer.send)
            else:
                await self._app(scope, _limited(receive, self._config, self._max_body_bytes(scope)), answer.send)
        except Exception as error:
            if answer.stalled:
                return  # the server closes the connection of an unfinished answer
            log_failure(error, _route(scope))
            if answer.status == 0:
                await problem(500, "the server failed; the reason is in its log")(scope, receive, answer.send)
        finally:
            self._observe(scope["method"], _route(scope), answer.status, time.perf_counter() - began)

    async def _channel(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A WebSocket: browsers let any page open one, so its origin counts though nothing is changed by it."""
        headers = Headers(scope=scope)
        refused = None
        if not self._config.tokens and not self._local(headers.get("host", "")):
            refused = problem(421, "without API tokens the server answers to loopback host names only")
        elif not _same_origin(headers):
            refused = problem(403, "a page of another site may not listen here")
        if refused is None:
            await self._app(scope, receive, send)
        else:
            await WebSocket(scope, receive, send).send_denial_response(refused)

    def _refusal(self, headers: Headers, scope: Scope) -> Response | None:
        if not self._config.tokens and not self._local(headers.get("host", "")):
            # Without tokens any page of any site could reach us by pointing its own name at 127.0.0.1.
            return problem(421, "without API tokens the server answers to loopback host names only")
        if scope["method"] not in _SAFE_METHODS and not _same_origin(headers):
            return problem(403, "a page of another site may not change anything here")
        length, most = headers.get("content-length", "0"), self._max_body_bytes(scope)
        if not length.isascii() or not length.isdigit() or int(length) > most:
            return problem(413, f"a request body may have {most} bytes")
        return None

    def _max_body_bytes(self, scope: Scope) -> int:
        """Only instances are large; what brings them keeps none of its body in memory."""
        stores = scope["method"] == "POST" and _STORES.fullmatch(scope["path"])
        return self._config.max_store_bytes if stores else self._config.max_body_bytes

    def _local(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return is_loopback(name) or name in self._config.allowed_hosts


class _Answer:
    """The way out: adds headers, remembers the status and cuts off a client that takes nothing."""

    def __init__(self, send: Send, config: ApiConfig) -> None:
        self.status = 0
        self.stalled = False
        self._send = send
        self._timeout_s = config.send_timeout_s

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in _SECURITY_HEADERS.items():
                headers.setdefault(name, value)
            headers.setdefault("Cache-Control", "no-store")
        try:
            if message["type"] == sendfile.EXTENSION:  # may be gigabytes: it watches over the client's pace by itself
                await self._send({**message, "stall_s": self._timeout_s})
                return
            async with asyncio.timeout(self._timeout_s):
                await self._send(message)
        except TimeoutError:
            self.stalled = True
            raise


def _limited(receive: Receive, config: ApiConfig, max_bytes: int) -> Receive:
    """`receive` with the body's size and pace bounded; time in which nobody asks for more is not the client's."""
    taken = window_bytes = 0
    window_s = 0.0
    more = True

    async def limited() -> Message:
        nonlocal taken, more, window_bytes, window_s
        if not more:
            return await receive()  # waits for the client to go away, which may take as long as it likes
        began = time.monotonic()
        try:
            async with asyncio.timeout(config.body_timeout_s):
                message = await receive()
        except TimeoutError:
            raise _too_slow() from None
        window_s += time.monotonic() - began
        size = len(message.get("body", b""))
        taken += size
        window_bytes += size
        more = bool(message.get("more_body", False))
        if taken > max_bytes:
            raise HTTPException(413, f"a request body may have {max_bytes} bytes")
        if window_s > config.body_timeout_s:
            if more and window_bytes < config.body_min_bytes_per_s * window_s:
                raise _too_slow()
            window_s, window_bytes = 0.0, 0
        return message

    return limited


def _too_slow() -> HTTPException:
    return HTTPException(408, "the request body comes too slowly", {"Connection": "close"})


def _same_origin(headers: Headers) -> bool:
    """Whether a state change comes from our own page or from no page at all (Fetch Metadata, then Origin)."""
    if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc == headers.get("host", "")


def _route(scope: Scope) -> str:
    """The route's template, never the path itself: a label must not carry identifiers."""
    path = getattr(scope.get("route"), "path", None)
    return path if isinstance(path, str) else "(none)"
