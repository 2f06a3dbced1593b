"""A small disk of its own: ext4 in a file, on a loop device; it can be filled, and its power can be cut."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import time
from pathlib import Path

import pytest

_EXT4_IOC_SHUTDOWN = 0x8004587D  # _IOR('X', 125, __u32), linux/fs/ext4/ext4.h
_NOLOGFLUSH = struct.pack("I", 2)  # drop what is not on the disk yet, the journal's running transaction included


class LoopDisk:
    """Mounted at `mount`; needs root and loop devices, else the test is skipped."""

    def __init__(self, folder: Path, megabytes: int) -> None:
        self.image, self.mount = folder / "disk.img", folder / "disk"
        self.mount.mkdir()
        with self.image.open("wb") as file:
            file.truncate(megabytes << 20)
        make = ["mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(self.image)]
        try:
            made = os.geteuid() == 0 and subprocess.run(make, check=False).returncode == 0
            self.mounted = made and self._mount()
        except FileNotFoundError as error:
            pytest.skip(f"{error.filename} is missing")
        if not self.mounted:
            pytest.skip("a disk of our own needs root and a loop device")

    def _mount(self) -> bool:
        command = ["mount", "-o", "loop", str(self.image), str(self.mount)]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0

    def cut_power(self) -> None:
        """From this instant nothing reaches the disk: page cache and running journal transaction are lost."""
        descriptor = os.open(self.mount, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _EXT4_IOC_SHUTDOWN, _NOLOGFLUSH)
        finally:
            os.close(descriptor)

    def power_on(self) -> None:
        """Mount what the disk holds, as after a boot: the journal is replayed. All users must have ended."""
        deadline = time.monotonic() + 15
        while subprocess.run(["umount", str(self.mount)], check=False, capture_output=True).returncode != 0:
            assert time.monotonic() < deadline, "the disk is still in use"
            time.sleep(0.05)  # a process that was killed a moment ago still lets go of its files
        self.mounted = self._mount()
        assert self.mounted

    def fill(self, leave_bytes: int) -> Path:
        """Take all room but `leave_bytes` away with a file, which gives it back when it is removed."""
        state = os.statvfs(self.mount)
        filler = self.mount / "filler"
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, state.f_bavail * state.f_frsize - leave_bytes)
        return filler

    def remove(self) -> None:
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.mount)], check=False)
        self.image.unlink(missing_ok=True)
