"""The bounds: what the machine gives when nothing is done but what cannot be left out.

Ingest: the same bytes over loopback TCP into files, with SHA-256 and fsync of file and folder, without DICOM.
Retrieval: files by sendfile to whoever asks for anything.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

from bench.push import Pushed


def bound(files: list[Path], folder: Path, senders: int) -> Pushed:
    """One sending and one receiving process a connection; a file is answered by one byte when it is durable."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    size = sum(len(file.read_bytes()) for file in files)
    os.sync()
    fork = multiprocessing.get_context("fork")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        receivers = [fork.Process(target=_receive, args=(listener, folder, n)) for n in range(senders)]
        processes = [
            fork.Process(target=_send, args=(listener.getsockname(), files[n::senders])) for n in range(senders)
        ]
        for process in receivers:
            process.start()
        start = time.monotonic()
        for process in processes:
            process.start()
        for process in processes + receivers:
            process.join()
        seconds = time.monotonic() - start
    if any(process.exitcode for process in processes + receivers):
        raise RuntimeError("the bound failed")
    shutil.rmtree(folder)
    return Pushed(len(files), size / 1e6, seconds)


def _send(address: tuple[str, int], files: list[Path]) -> None:
    with socket.create_connection(address) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for file in files:
            with file.open("rb") as source:
                connection.sendall(struct.pack("<Q", os.fstat(source.fileno()).st_size), socket.MSG_MORE)
                connection.sendfile(source)
            if not connection.recv(1):
                raise SystemExit(1)


def _receive(listener: socket.socket, folder: Path, number: int) -> None:
    connection, _ = listener.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    buffer = memoryview(bytearray(1 << 20))
    parent = os.open(folder, os.O_RDONLY)
    count = 0
    while head := connection.recv(8, socket.MSG_WAITALL):
        left, digest, count = struct.unpack("<Q", head)[0], hashlib.sha256(), count + 1
        name = f"{number}-{count}.part"
        target = os.open(name, os.O_WRONLY | os.O_CREAT, 0o640, dir_fd=parent)
        while left:
            got = connection.recv_into(buffer, min(left, len(buffer)))
            digest.update(buffer[:got])
            os.write(target, buffer[:got])
            left -= got
        os.fsync(target)
        os.close(target)
        os.rename(name, f"{digest.hexdigest()}.{count}", src_dir_fd=parent, dst_dir_fd=parent)
        os.fsync(parent)
        connection.sendall(b"\1")


@contextmanager
def sending(files: list[Path]) -> Iterator[int]:
    """The port of a process that answers every HTTP request with the next file, a thread for each connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = multiprocessing.get_context("fork").Process(target=_serve, args=(listener, files))
        process.start()
        try:
            yield listener.getsockname()[1]
        finally:
            process.kill()
            process.join()


def _serve(listener: socket.socket, files: list[Path]) -> None:
    opened = cycle([os.open(file, os.O_RDONLY) for file in files])
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_answer, args=(connection, opened), daemon=True).start()


def _answer(connection: socket.socket, files: Iterator[int]) -> None:
    while asked := connection.recv(65536):
        assert asked.endswith(b"\r\n\r\n")
        file = next(files)
        offset, size = 0, os.fstat(file).st_size
        connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode(), socket.MSG_MORE)
        while offset < size:
            offset += os.sendfile(connection.fileno(), file, offset, size - offset)
