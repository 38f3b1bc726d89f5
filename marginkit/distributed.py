"""Several processes that torchrun started, or just this one."""

from __future__ import annotations

import gc
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed
from torch.distributed.distributed_c10d import _get_default_store
from torch.distributed.rendezvous import rendezvous

from marginkit.errors import MarginkitError, UsageError

T = TypeVar("T")
PATIENCE = timedelta(days=7)  # the slowest batch may take long; a process that dies is noticed at once


@dataclass(frozen=True)
class Ranks:
    """This process among its likes.

    Attributes:
        rank: its number; 0 does what only one may do.
        world: how many there are.
        store: torch.distributed's Store, which counts what is handed out; None for a process by itself.
    """

    rank: int = 0
    world: int = 1
    store: Any | None = None

    @property
    def first(self) -> bool:
        """Whether this one writes and speaks for all."""
        return self.rank == 0

    def share(self, items: Sequence[T], name: str = "batches") -> Iterator[T]:
        """Items that no other process gets: each takes the next one when it is ready for it."""
        if self.store is None:
            yield from items
            return
        key = f"marginkit/{name}/{next(_SHARED)}"  # the store outlives a measurement: never the same again
        while (taken := self.store.add(key, 1) - 1) < len(items):
            yield items[taken]

    def agree(self, act: Callable[[], T]) -> T:
        """What rank 0's `act` gives, or the error that it raises, in every process."""
        if self.store is None:
            return act()
        answer: list[Any] = [None, None]
        if self.first:
            try:
                answer[0] = act()
            except MarginkitError as error:
                answer[1] = error
        distributed.broadcast_object_list(answer)
        if answer[1] is not None:
            raise answer[1]
        return answer[0]  # type: ignore[no-any-return]

    def wait(self) -> None:
        """Until every process is here."""
        if self.store is not None:
            distributed.barrier()

    def total(self, value: float, device: torch.device | str = "cpu") -> float:
        """The sum over processes, in float64."""
        if self.store is None:
            return value
        summed: Tensor = torch.tensor(value, dtype=torch.float64, device=device)
        distributed.all_reduce(summed)
        return float(summed)

    def device(self, name: str) -> str:
        """`cuda` is this process's own GPU, in the order of torchrun's local ranks."""
        if self.store is None or name != "cuda":
            return name
        return f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count()}"


ALONE = Ranks()
_SHARED, _GROUPS = itertools.count(), itertools.count()  # the same in every process, all do the same in turn


_SHARES_A_BATCH: ContextVar[bool] = ContextVar("shares_a_batch", default=False)


@contextmanager
def sharing_a_batch(shared: bool = True) -> Iterator[None]:
    """Within it this process's batch is its share of one that all processes compute at the same time.

    A loss in somebody's own loop is called by one process and not by another, so that nothing may wait for
    the others unless it is told that they come.
    """
    before = _SHARES_A_BATCH.set(shared)
    try:
        yield
    finally:
        _SHARES_A_BATCH.reset(before)


def find_device(name: torch.device | str) -> str:
    """The device of that name; `auto` is the GPU where there is one.

    Raises:
        UsageError: PyTorch has no such device here.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"no device {str(name)!r} here: {str(error).splitlines()[0]}") from error
    return str(name)


def gathered(rows: Tensor) -> Tensor:
    """The rows of all processes that share a batch, one process after the other; else these alone.

    [n, ...] of each, n as it may differ.
    """
    if not _SHARES_A_BATCH.get():
        return rows
    world = distributed.get_world_size()
    sizes = [torch.tensor(0, device=rows.device) for _ in range(world)]
    distributed.all_gather(sizes, torch.tensor(len(rows), device=rows.device))
    most = max(map(int, sizes))
    padded = torch.cat([rows, rows.new_zeros(most - len(rows), *rows.shape[1:])])
    found = [torch.empty_like(padded) for _ in range(world)]
    distributed.all_gather(found, padded)
    return torch.cat([part[: int(size)] for part, size in zip(found, sizes, strict=True)])


@contextmanager
def processes(backend: str = "gloo") -> Iterator[Ranks]:
    """All that torchrun started, joined in a process group; or this one alone.

    A group that is there already, the caller's own, is taken as it is and left.

    Args:
        backend: `gloo`, or `nccl` where tensors on GPUs are exchanged.
    """
    if not distributed.is_available() or int(os.environ.get("WORLD_SIZE", 1)) < 2:
        yield ALONE
        return
    if distributed.is_initialized():
        yield Ranks(distributed.get_rank(), distributed.get_world_size(), _get_default_store())
        return
    store, rank, world = next(iter(rendezvous("env://")))
    store = distributed.PrefixStore(f"marginkit/{next(_GROUPS)}", store)  # type: ignore[attr-defined]
    distributed.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=PATIENCE)
    try:
        yield Ranks(rank, world, store)
    finally:
        gc.collect()  # DistributedDataParallel, in cycles, has threads that must end before their group does
        distributed.destroy_process_group()
