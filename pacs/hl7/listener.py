"""The MLLP listener: connections in threads, bounded in number, size and time."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import ssl
import threading
import time

import structlog

from pacs.hl7.config import Limits
from pacs.hl7.framing import Framer, FramingError, framed
from pacs.hl7.processing import Processor

__all__ = ["serve"]

log = structlog.get_logger()

_TICK_S = 1.0
_RECV_BYTES = 1 << 16


def serve(
    listener: socket.socket,
    processor: Processor,
    limits: Limits,
    stop: threading.Event,
    tls: ssl.SSLContext | None = None,
) -> None:
    """Answer messages on a listening socket until `stop` is set; messages that are being answered are finished.

    With `tls` senders must speak it (IHE ITI TF-2 3.19), within `message_timeout_s` from the first byte.
    """
    slots = threading.BoundedSemaphore(limits.max_connections)
    running: dict[threading.Thread, socket.socket] = {}
    listener.settimeout(_TICK_S)
    log.info("hl7 listener ready", port=listener.getsockname()[1], tls=tls is not None)
    while not stop.is_set():
        try:
            connection, address = listener.accept()
        except TimeoutError:
            continue
        running = {thread: sock for thread, sock in running.items() if thread.is_alive()}
        if not _is_sender(address[0], limits):
            log.warning("hl7 sender is not allowed", address=address[0])
            connection.close()
        elif not slots.acquire(blocking=False):
            log.warning("too many hl7 connections", address=address[0])
            connection.close()
        else:
            if tls is not None:
                connection = tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
            thread = threading.Thread(
                target=_converse, args=(connection, address[0], processor, limits, slots), name="hl7", daemon=True
            )
            running[thread] = connection
            thread.start()
    for thread, connection in running.items():
        with contextlib.suppress(OSError):
            # A message that is whole is answered. SSLSocket.shutdown would send that answer in the clear.
            socket.socket.shutdown(connection, socket.SHUT_RD)
        thread.join(limits.message_timeout_s)
    log.info("hl7 listener stopped")


def _is_sender(address: str, limits: Limits) -> bool:
    ip = ipaddress.ip_address(address.partition("%")[0])
    plain = getattr(ip, "ipv4_mapped", None) or ip
    return any(plain in network for network in limits.senders)


def _converse(
    connection: socket.socket, address: str, processor: Processor, limits: Limits, slots: threading.BoundedSemaphore
) -> None:
    """One connection to its end."""
    framer = Framer(limits.max_message_bytes)
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if isinstance(connection, ssl.SSLSocket):
            connection.settimeout(limits.message_timeout_s)  # of the whole handshake
            connection.do_handshake()
        _exchange(connection, address, processor, limits, framer)
    except ssl.SSLError as error:
        log.warning("hl7 connection not secure", address=address, reason=error.reason or type(error).__name__)
    except FramingError as error:
        log.warning("hl7 connection closed", address=address, reason=str(error))
        if error.head:
            _send(connection, processor.too_long(error.head, address, str(error)), limits)
    except TimeoutError:
        log.warning(
            "hl7 connection closed", address=address, reason="silent for too long", within_message=framer.within
        )
    except OSError as error:
        log.info("hl7 connection lost", address=address, error=type(error).__name__)
    except Exception as error:  # its text may quote a message
        log.error("hl7 connection failed", address=address, error=type(error).__name__)
    finally:
        with contextlib.suppress(OSError):
            connection.close()
        slots.release()


def _exchange(connection: socket.socket, address: str, processor: Processor, limits: Limits, framer: Framer) -> None:
    deadline = time.monotonic() + limits.idle_timeout_s
    dropped = 0
    while True:
        connection.settimeout(max(0.001, deadline - time.monotonic()))
        data = connection.recv(_RECV_BYTES)
        if not data:
            if framer.within:
                log.warning("hl7 message cut off", address=address)
            return
        was_within = framer.within
        messages = framer.feed(data)
        if framer.dropped > dropped:
            dropped = framer.dropped
            log.warning("hl7 message without end", address=address)
        for message in messages:
            _send(connection, processor.answer(message, address), limits)
        if messages or not framer.within:
            deadline = time.monotonic() + limits.idle_timeout_s
        if framer.within and (messages or not was_within):
            deadline = time.monotonic() + limits.message_timeout_s


def _send(connection: socket.socket, answer: bytes, limits: Limits) -> None:
    if answer:
        connection.settimeout(limits.message_timeout_s)
        connection.sendall(framed(answer))
