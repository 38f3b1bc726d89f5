"""The operations of a model as they are met, and one call among them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, TypeGuard

import torch
from torch import Tensor

from marginkit.bounds.graph.ops import Affine, Nonlinear, Positive, Shape
from marginkit.bounds.graph.unsupported import Unsupported

Op = Affine | Nonlinear


@dataclass(frozen=True, eq=False)
class Node:
    """One operation's result.

    Attributes:
        op: None for the input.
        inputs: positions of what it is computed from.
        shape: of one sample.
        mixes: 0 where each entry depends on one entry of the input, 1 where intervals are still exact, 2
            where they may not be.
        affine: nothing nonlinear lies between it and the input.
    """

    op: Op | None
    inputs: tuple[int, ...]
    shape: Shape
    mixes: int
    affine: bool


def nonlinear(op: Op | None) -> TypeGuard[Nonlinear]:
    """Whether lines are needed to go through it."""
    return hasattr(op, "lines")


def affine(op: Op | None) -> TypeGuard[Affine]:
    """Whether it has a transpose."""
    return hasattr(op, "transpose")


@dataclass(frozen=True)
class Symbol:
    """Stands for a value that depends on the input: the node at this position."""

    position: int


@dataclass(frozen=True, eq=False)
class Builder:
    """The nodes so far.

    Attributes:
        nodes: in order.
        reasons: why there are no bounds for some; it counts only where the scores depend on them.
    """

    nodes: list[Node] = field(default_factory=list)
    reasons: dict[int, str] = field(default_factory=dict)

    def add(self, op: Op | None, *inputs: int, shape: Shape | None = None) -> int:
        """One more node; its shape is that of its first input where none is given."""
        sources = [self.nodes[i] for i in inputs]
        mixes = max((source.mixes for source in sources), default=0)
        straight = op is None or (affine(op) and all(source.affine for source in sources))
        if op is not None:
            mixes = min(2, mixes + (op.mixes if affine(op) else 2))
        self.nodes.append(Node(op, inputs, sources[0].shape if shape is None else shape, mixes, straight))
        return len(self.nodes) - 1

    def refuse(self, reason: str, value: Tensor) -> int:
        """A node in the place of a value that has no bounds."""
        position = self.add(None, shape=tuple(value.shape[1:]))
        self.reasons[position] = reason
        return position

    def refused(self, *inputs: int) -> str | None:
        """Why one of these has no bounds; None where all have."""
        return next((self.reasons[i] for i in inputs if i in self.reasons), None)

    def needed(self, last: int) -> tuple[Node, ...]:
        """What node `last` depends on, in order; the others lead nowhere.

        Raises:
            Unsupported: it depends on an operation that has no bounds.
        """
        kept = {0, last}
        for i in range(last, -1, -1):
            if i in kept:
                kept.update(self.nodes[i].inputs)
        order = sorted(kept)
        if (reason := self.refused(*order)) is not None:
            raise Unsupported(reason)
        place = {old: new for new, old in enumerate(order)}
        return tuple(
            replace(self.nodes[i], inputs=tuple(place[j] for j in self.nodes[i].inputs)) for i in order
        )


@dataclass(frozen=True, eq=False)
class Call:
    """One operation of a model, as it was called.

    Attributes:
        name: of the function or method.
        where: the module that called it.
        args, kwargs: with a `Symbol` for each value that depends on the input.
        value: what it gave for two samples.
        builder: where its nodes go.
    """

    name: str
    where: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    value: Tensor
    builder: Builder

    @property
    def inputs(self) -> tuple[int, ...]:
        """Positions of the values that depend on the input, in order."""
        return tuple(symbol.position for symbol in symbols([self.args, self.kwargs]))

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Of those values, one sample each."""
        return tuple(self.builder.nodes[i].shape for i in self.inputs)

    @property
    def shape(self) -> Shape:
        """Of one sample's result."""
        return tuple(self.value.shape[1:])

    @property
    def x(self) -> int:
        """The position of the first argument, the only one that depends on the input."""
        first = self.args[0] if self.args else self.kwargs.get("input")
        if not isinstance(first, Symbol) or len(self.inputs) != 1:
            raise self.unsupported("more than its first argument depends on the input")
        return first.position

    def options(self, **defaults: Any) -> dict[str, Any]:
        """The arguments behind the first one by name, in the order of the defaults."""
        named = {k: v for k, v in self.kwargs.items() if k not in ("input", "inplace", "out")}
        rest = self.args[1:] if self.args else ()
        names = [*defaults][: len(rest)]
        found = defaults | dict(zip(names, rest, strict=False)) | named
        if len(rest) > len(defaults) + 1 or set(found) - set(defaults) or symbols(found):
            raise self.unsupported("with other options")
        return found

    def add(self, op: Op, *inputs: int, shape: Shape | None = None) -> int:
        """A node of this call."""
        return self.builder.add(op, *inputs, shape=shape)

    def last(self, op: Op, *inputs: int) -> int:
        """The node of its result."""
        return self.builder.add(op, *inputs, shape=self.shape)

    def constant(self, value: Any) -> Tensor:
        """A number or tensor that does not depend on the input, to broadcast over one sample."""
        found = torch.as_tensor(value, dtype=self.value.dtype, device=self.value.device)
        if any(len(shape) != len(self.shape) for shape in self.shapes):
            raise self.unsupported("which adds a dimension")
        if found.ndim > len(self.shape):
            if found.ndim > self.value.ndim or not bool((found == found[:1]).all()):
                raise self.unsupported("with a constant that differs between samples")
            found = found[0]
        return found

    def unsupported(self, why: str = "") -> Unsupported:
        """The finding that this operation has no bounds."""
        return Unsupported(f"{self.name} in {self.where}" + (f": {why}" if why else ""))


def symbols(arguments: Any) -> list[Symbol]:
    """The symbols among nested arguments, in order."""
    if isinstance(arguments, Symbol):
        return [arguments]
    if isinstance(arguments, dict):
        return symbols(list(arguments.values()))
    if isinstance(arguments, list | tuple):
        return [symbol for entry in arguments for symbol in symbols(entry)]
    return []


def positive(function: Callable[..., Tensor], mixes: int, call: Call) -> int:
    """An affine operation without negative weights, checked on numbers to treat samples alike and alone."""
    alone = [call.value.new_zeros(3, *shape) for shape in call.shapes]
    with torch.no_grad():
        zero = function(*alone)
        equal = function(*(torch.linspace(1, 2, prod(shape)).to(zero).view(1, *shape).expand_as(part)
                           for part, shape in zip(alone, call.shapes, strict=True)))  # fmt: skip
        for part in alone:
            part[0] = 1
        found = function(*alone)
    if tuple(found.shape) != (3, *call.shape) or not torch.equal(found[1:], zero[1:]):
        raise call.unsupported("it mixes samples")
    if not torch.equal(equal, equal[:1].expand_as(equal)):
        raise call.unsupported("it does not treat samples alike")
    return call.last(Positive(function, mixes), *call.inputs)
