"""Which tensors hold which node, and what an in-place change does to those that share memory with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor

from marginkit.bounds.graph.call import Builder
from marginkit.bounds.graph.ops import Positive


@dataclass(eq=False)
class Entry:
    """A tensor that depends on the input, kept so that its memory is not given to another, and its node."""

    tensor: Tensor
    position: int


@dataclass(frozen=True, eq=False)
class Memory:
    """The tensors met so far; two samples each, the first axis theirs."""

    builder: Builder
    by_object: dict[int, Entry] = field(default_factory=dict)
    by_storage: dict[int, list[Entry]] = field(default_factory=dict)

    def read(self, tensor: Tensor) -> int | None:
        """The node of a tensor, None for a constant.

        Other views of the same memory, and a view of a constant into which a value was written, are found by
        their place in it.
        """
        entry = self.by_object.get(id(tensor))
        if entry is not None:
            return entry.position
        sharing = self.by_storage.get(_storage(tensor), [])
        for entry in sharing:
            if _place(entry.tensor) == _place(tensor):
                return entry.position
        if sharing:
            reason = "a constant that shares memory with a value written into it"
            return self.builder.refuse(reason, tensor)
        return None

    def keep(self, tensor: Tensor, position: int) -> None:
        """A tensor's node: a new tensor's, or one whose shape was changed in place."""
        entry = self.by_object.get(id(tensor))
        if entry is not None:
            entry.position = position
            return
        entry = Entry(tensor, position)
        self.by_object[id(tensor)] = entry
        self.by_storage.setdefault(_storage(tensor), []).append(entry)

    def write(self, tensor: Tensor, position: int) -> None:
        """The tensor's content was changed in place to that node: so was what shares its memory."""
        for entry in self.by_storage.get(_storage(tensor), []):
            if entry.tensor is not tensor:
                entry.position = self._overwritten(entry, tensor, position)
        self.keep(tensor, position)

    def _overwritten(self, entry: Entry, tensor: Tensor, position: int) -> int:
        """The node of an alias after the change: its entries that the tensor covers are the new ones."""
        if _place(entry.tensor) == _place(tensor):
            return position
        shape = tuple(entry.tensor.shape[1:])
        if entry.tensor.dtype != tensor.dtype or entry.tensor.shape[:1] != (2,) or tensor.shape[:1] != (2,):
            return self.builder.refuse("a view of a value that is changed in place", entry.tensor)
        old, new = _addresses(entry.tensor), _addresses(tensor)
        size = int(max(old.max(), new.max())) + 1
        source = torch.full((2, size), -1)
        for sample in (0, 1):
            source[sample, new[sample]] = torch.arange(new.shape[1])
        taken, crossing = source[0][old[0]], source[0][old[1]]
        if (crossing >= 0).any() or not torch.equal(taken, source[1][old[1]]):
            reason = "a view across samples of a value that is changed in place"
            return self.builder.refuse(reason, entry.tensor)
        if (taken < 0).all():
            return entry.position
        reason_before = self.builder.refused(position, *([entry.position] if (taken < 0).any() else []))
        if reason_before is not None:
            return self.builder.refuse(reason_before, entry.tensor)
        covered = (taken >= 0).nonzero().squeeze(1).to(tensor.device)
        where = taken[taken >= 0].to(tensor.device)

        def overwrite(before: Tensor, after: Tensor) -> Tensor:
            flat = before.flatten(1).index_copy(1, covered, after.flatten(1)[:, where])
            return flat.view(len(before), *shape)

        return self.builder.add(Positive(overwrite, 0), entry.position, position, shape=shape)


def tensors(arguments: object) -> Iterator[Tensor]:
    """The tensors among nested arguments."""
    if isinstance(arguments, Tensor):
        yield arguments
    elif isinstance(arguments, dict):
        yield from tensors(list(arguments.values()))
    elif isinstance(arguments, list | tuple):
        for entry in arguments:
            yield from tensors(entry)


def version(tensor: Tensor) -> int:
    """Counts the changes in place, by whatever view; -1 where nobody counts."""
    return -1 if tensor.is_inference() else tensor._version


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _place(tensor: Tensor) -> tuple[object, ...]:
    return tensor.dtype, tensor.storage_offset(), tuple(tensor.shape), tensor.stride()


def _addresses(tensor: Tensor) -> Tensor:
    """Of each entry in the storage: [2, entries]."""
    found = torch.full((1,), tensor.storage_offset())
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        found = found.unsqueeze(-1) + torch.arange(size) * stride
    return found.view(2, prod(tensor.shape[1:]))
