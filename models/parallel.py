"""Several processes that train one network, started by `torchrun`; without it, one. This module imports torch.

`torchrun` says by WORLD_SIZE, RANK and LOCAL_RANK who is who. Gradients are averaged by DistributedDataParallel, over
NCCL where each process has a GPU of its own and over gloo else.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

__all__ = ["Team", "joined"]


@dataclass(frozen=True, slots=True)
class Team:
    """The processes of this run, seen from one of them."""

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether it is the one that looks at val, writes and tells."""
        return self.rank == 0

    def wrap(self, net: torch.nn.Module) -> torch.nn.Module:
        """The network whose gradients are the mean over the team's."""
        if self.size == 1:
            return net
        return DistributedDataParallel(net, device_ids=[self.device] if self.device.type == "cuda" else None)


@contextmanager
def joined() -> Iterator[Team]:
    """The team that `torchrun` started, left again at the end; a team of one without it."""
    size, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cpu")
    if torch.cuda.device_count() > local:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or cuBLAS may give another result each time
        device = torch.device("cuda", local)
    if size == 1:
        yield Team(0, 1, device)
        return
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Team(distributed.get_rank(), size, device)
        distributed.barrier()  # nobody leaves before the first has written what the next step needs
    finally:
        distributed.destroy_process_group()
