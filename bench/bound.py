"""The bound: the same bytes over loopback TCP into files, with SHA-256 and fsync of file and folder, without DICOM."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import socket
import struct
import time
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
