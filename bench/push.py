"""Push files with DCMTK's storescu, as modalities do, and make sure that each one was answered with success."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from dcmtk import find

_ANSWER = re.compile(rb"Received Store Response \(([^)]*)\)")


@dataclass(frozen=True)
class Pushed:
    """What a push took."""

    files: int
    megabytes: float  # 10^6 bytes of files
    seconds: float  # from the first start to the last exit

    @property
    def rate(self) -> float:
        """Files per second."""
        return self.files / self.seconds


def push(port: int, aet: str, files: list[Path], *, senders: int, option: str, nagle: bool) -> Pushed:
    """One storescu process with one association a sender; a study stays in one association.

    `nagle` is how DCMTK comes; without it the variable TCP_NODELAY=1 is set. Raises RuntimeError unless every file was
    answered with status 0x0000.
    """
    size = sum(len(file.read_bytes()) for file in files)  # the clients shall not wait for the disk
    environment = {name: value for name, value in os.environ.items() if name != "TCP_NODELAY"}
    if not nagle:
        environment["TCP_NODELAY"] = "1"
    client = find("storescu") or "storescu"
    os.sync()
    with tempfile.TemporaryDirectory() as logs:
        start = time.monotonic()
        processes = []
        for number, part in enumerate(_deal(files, senders)):
            with Path(logs, str(number)).open("wb") as log:
                command = [client, "-v", "-R", option, "-aet", "BENCH", "-aec", aet, "127.0.0.1", str(port)]
                processes.append(subprocess.Popen([*command, *part], stdout=log, stderr=log, env=environment))
        codes = [process.wait(300) for process in processes]
        seconds = time.monotonic() - start
        text = b"".join(Path(logs, str(number)).read_bytes() for number in range(len(processes)))
    answers = _ANSWER.findall(text)
    good = sum(answer in {b"Success", b"0x0000: Success"} for answer in answers)
    if any(codes) or good != len(files):
        raise RuntimeError(f"{good} of {len(files)} files stored, exit codes {codes}: {text[-500:]!r}")
    return Pushed(len(files), size / 1e6, seconds)


def _deal(files: list[Path], senders: int) -> list[list[str]]:
    studies: dict[Path, list[str]] = {}
    for file in files:
        studies.setdefault(file.parent, []).append(str(file))
    hands: list[list[str]] = [[] for _ in range(senders)]
    for number, study in enumerate(studies.values()):
        hands[number % senders] += study
    return [hand for hand in hands if hand]
