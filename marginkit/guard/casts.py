"""Which precision a model computes in, and how to run it in a higher one whatever it casts to."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

MARK = "_marginkit_lifted"  # on our own copies only


def lower_than(dtype: torch.dtype, found: torch.dtype) -> bool:
    """Whether numbers of the type found have fewer digits."""
    return found.is_floating_point and torch.finfo(found).eps > torch.finfo(dtype).eps


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the types that operations answer with, also those inside autocast and TorchScript."""

    def __init__(self) -> None:
        """With nothing seen."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The operation itself."""
        found = func(*args, **(kwargs or {}))
        self.seen |= {leaf.dtype for leaf in tree_leaves(found) if isinstance(leaf, Tensor)}
        return found

    def below(self, dtype: torch.dtype) -> list[torch.dtype]:
        """What was seen with fewer digits, the fewest first."""
        found = [other for other in self.seen if lower_than(dtype, other)]
        return sorted(found, key=lambda other: -torch.finfo(other).eps)


class Lift(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs operations in a type: what a model casts to fewer digits, or creates with fewer, is not."""

    def __init__(self, dtype: torch.dtype) -> None:
        """In float32 or float64."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.dtype = dtype

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The operation, of lifted arguments; in-place operations keep theirs."""
        kwargs = kwargs or {}
        if not func._schema.is_mutable:
            args, kwargs = tree_map(self._lifted, (args, kwargs))
        return func(*args, **kwargs)

    def _lifted(self, value: Any) -> Any:
        if isinstance(value, torch.dtype):
            return self.dtype if lower_than(self.dtype, value) else value
        if isinstance(value, Tensor) and lower_than(self.dtype, value.dtype):
            return value.to(self.dtype)
        return value


def mark(model: nn.Module, dtype: torch.dtype, casts: bool | None = None) -> nn.Module:
    """Says of our own copy which type it is to run in, and whether it casts to a lower one, if known."""
    model.__dict__[MARK] = (dtype, casts)
    return model


def lifted_to(model: nn.Module) -> torch.dtype | None:
    """The type that a copy was marked with; None for a model of somebody else's."""
    dtype: torch.dtype | None = model.__dict__.get(MARK, (None,))[0]
    return dtype


def lift(model: nn.Module) -> Lift | None:
    """What a marked copy has to run under; None where it may run as it is."""
    dtype, casts = model.__dict__.get(MARK, (None, False))
    if casts is False:
        return None
    torch.clear_autocast_cache()  # or weights cast before would be taken from there
    return Lift(dtype)


def unknown(model: nn.Module) -> bool:
    """Whether a marked copy has to be looked at."""
    return MARK in model.__dict__ and model.__dict__[MARK][1] is None
