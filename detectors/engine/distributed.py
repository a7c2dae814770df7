"""One process or several: joins torchrun's group where there is one."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """Where this process stands.

    Attributes:
        rank: 0 to world - 1; rank 0 prints and writes.
        world: number of processes.
        device: where tensors go.
    """

    rank: int
    world: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this process prints and writes."""
        return self.rank == 0


@contextmanager
def joined() -> Iterator[Place]:
    """Joins the group that torchrun's environment describes, or stands alone.

    Uses CUDA where there is some.
    """
    cuda = torch.cuda.is_available()
    if "RANK" not in os.environ:
        yield Place(0, 1, torch.device("cuda" if cuda else "cpu"))
        return
    local = int(os.environ.get("LOCAL_RANK", 0))
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if cuda else "gloo", device_id=device if cuda else None)
    try:
        yield Place(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()


def any_rank(flag: bool, place: Place) -> bool:
    """Whether the flag is set on any process; every process must ask at the same point."""
    if place.world == 1:
        return flag
    shared = torch.tensor(float(flag), device=place.device)
    dist.all_reduce(shared, op=dist.ReduceOp.MAX)
    return bool(shared.item())


def wait(place: Place) -> None:
    """Waits until every process is here."""
    if place.world > 1:
        dist.barrier()


def led(work: Callable[[], T], place: Place) -> T:
    """What the leading process finds, given to all; every process must ask at the same point.

    Args:
        work: done by the leading process alone; what it returns can be pickled.
        place: this process.
    """
    found: list[Any] = [work() if place.leads else None]
    if place.world > 1:
        dist.broadcast_object_list(found, src=0, device=place.device)
    result: T = found[0]
    return result


def share_buffers(model: nn.Module, place: Place) -> None:
    """Gives every process the buffers of the leading one, such as running statistics.

    DistributedDataParallel does so at the start of a forward pass only, so after the last one they differ.
    """
    if place.world > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)
