"""One operation of a traced model, as it was called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import Tensor

from marginkit.bounds.graph.ops import Affine, Nonlinear, Positive, Reshape, Shape
from marginkit.bounds.graph.unsupported import Unsupported

Op = Affine | Nonlinear


@dataclass(frozen=True)
class Symbol:
    """Stands for a value that depends on the input: the node at this position."""

    position: int


@dataclass(frozen=True, eq=False)
class Call:
    """One operation of a traced model.

    Attributes:
        name: for messages.
        args, kwargs: as it was called, with a `Symbol` for each value that depends on the input.
        shapes: of those values, one sample each.
        value: what it gave for two samples.
    """

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    shapes: tuple[Shape, ...]
    value: Tensor

    @property
    def shape(self) -> Shape:
        """Of one sample's result."""
        return tuple(self.value.shape[1:])

    def unsupported(self, why: str) -> Unsupported:
        """The finding that this operation has no bounds."""
        return Unsupported(f"{self.name} ({why})")


def symbols(arguments: Any) -> list[Symbol]:
    """The symbols among nested arguments, in order."""
    if isinstance(arguments, Symbol):
        return [arguments]
    if isinstance(arguments, dict):
        return symbols(list(arguments.values()))
    if isinstance(arguments, list | tuple):
        return [symbol for entry in arguments for symbol in symbols(entry)]
    return []


def positive(function: Callable[..., Tensor], mixes: int, call: Call) -> Positive:
    """Checked on numbers: zero at zero, and what one sample holds reaches no other."""
    alone = [call.value.new_zeros(2, *shape) for shape in call.shapes]
    zero = function(*alone)
    for part in alone:
        part[0] = 1
    found = function(*alone)
    if zero.any() or found.shape != call.value.shape or found[1].any():
        raise call.unsupported("it mixes samples, or does more than move and average")
    return Positive(function, mixes)


def reshape(function: Any, call: Call) -> Op | None:
    """The same entries in another shape; None where the shape is the same too."""
    if prod(call.shape) != prod(call.shapes[0]):
        raise call.unsupported("it moves entries between samples")
    return None if call.shape == call.shapes[0] else Reshape(call.shape)
