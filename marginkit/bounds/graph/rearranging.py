"""Functions that move, copy, average and replace entries."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from torch import Tensor

from marginkit.bounds.graph.call import Call, Symbol, positive, symbols
from marginkit.bounds.graph.ops import Positive, Reshape, Scale


def same(call: Call) -> int:
    """The same entries, in another shape or the same."""
    if prod(call.shape) != prod(call.shapes[0]):
        raise call.unsupported("it moves entries between samples")
    source = call.inputs[0]
    return source if call.shape == call.shapes[0] else call.last(Reshape(call.shape), source)


def rearranged(function: Any, call: Call) -> int:
    """Each entry of the result is one of the arguments' entries, or a constant."""
    return positive(of_symbols(function, call), 0, call)


def averaged(function: Any, call: Call) -> int:
    """Sums with weights that are not negative."""
    return positive(of_symbols(function, call), 1, call)


def expanded(function: Any, call: Call) -> int:
    """Repeated along axes of length one."""
    if len(call.shapes[0]) != len(call.shape):
        raise call.unsupported("which adds a dimension")
    return call.last(Positive(lambda x: x.expand(len(x), *call.shape), 0), call.inputs[0])


def joined(function: Any, call: Call) -> int:
    """Side by side; a constant among them is the same for each sample."""
    return positive(of_symbols(function, call, spread=True), 0, call)


def interpolated(function: Any, call: Call) -> int:
    """Upsampling by weights that are not negative."""
    if call.kwargs.get("mode", "nearest") not in ("nearest", "nearest-exact", "linear", "bilinear", "area"):
        raise call.unsupported(f"mode={call.kwargs['mode']!r}")
    return averaged(function, call)


def dropped(call: Call) -> int:
    """Dropout at rest."""
    options = call.options(p=0.5, training=True)
    if options["training"] and options["p"]:
        raise call.unsupported("active in eval mode")
    return call.x


def assigned(call: Call) -> int:
    """x[index] = value, where either may be constant."""
    target, index, value = call.args
    if symbols([index]):
        raise call.unsupported("at positions that depend on the input")
    background = None if isinstance(target, Symbol) else call.constant(target).expand(call.shape)

    def assign(*inputs: Tensor) -> Tensor:
        values = list(inputs)
        whole = values.pop(0).clone() if background is None else background.repeat(len(inputs[0]), *ones)
        whole[index] = values.pop(0) if values else value
        return whole

    ones = [1] * len(call.shape)
    return positive(assign, 0, call)


def replaced(call: Call) -> int:
    """x.copy_(value), fill_ and zero_."""
    new = call.args[1] if len(call.args) > 1 else 0.0
    if not isinstance(new, Symbol):
        return call.last(Scale(call.value.new_zeros(()), call.constant(new)), call.inputs[0])
    if call.builder.nodes[new.position].shape == call.shape:
        return new.position
    return positive(lambda *inputs: inputs[-1].expand(len(inputs[-1]), *call.shape), 0, call)


def of_symbols(function: Any, call: Call, spread: bool = False) -> Callable[..., Tensor]:
    """The function of its symbols alone; with `spread`, constants have as many samples as they have."""
    if symbols(call.kwargs):
        raise call.unsupported("an input given by name")
    kwargs = {key: value for key, value in call.kwargs.items() if key != "out"}

    def fill(argument: Any, values: list[Tensor], n: int) -> Any:
        if isinstance(argument, Symbol):
            return values.pop(0)
        if isinstance(argument, list | tuple):
            return type(argument)([fill(entry, values, n) for entry in argument])
        if spread and isinstance(argument, Tensor) and argument.shape[:1] == (2,):
            return call.constant(argument).expand(n, *argument.shape[1:])
        return argument

    def of(*inputs: Tensor) -> Tensor:
        found: Tensor = function(*fill(call.args, list(inputs), len(inputs[0])), **kwargs)
        return found

    return of
