"""Layers with weights, and arithmetic."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor

from marginkit.bounds.graph.call import Call, Symbol
from marginkit.bounds.graph.ops import (
    Convolution,
    Dense,
    Difference,
    Positive,
    Scale,
    Shape,
    TransposedConvolution,
)
from marginkit.bounds.graph.relaxations import Rectifier

LARGEST = 1e6  # a limit farther out costs more digits than a proof may lose


def linear(call: Call) -> int:
    """X W^T + b."""
    found = call.options(weight=None, bias=None)
    return call.last(Dense(found["weight"], found["bias"]), call.x)


def matmul(call: Call) -> int:
    """X W with a constant W."""
    weight = call.args[1]
    if isinstance(weight, Symbol) or weight.ndim != 2:
        raise call.unsupported("by anything but a constant matrix")
    return call.last(Dense(weight.T, None), call.x)


def convolution(call: Call) -> int:
    """In one to three dimensions."""
    found = call.options(weight=None, bias=None, stride=1, padding=0, dilation=1, groups=1)
    weight = found["weight"]
    axes = _axes(call, weight)
    dilation, padding = _each(found["dilation"], axes), found["padding"]
    if isinstance(padding, str):
        reach = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        if padding == "same" and any(r % 2 for r in reach):
            raise call.unsupported("padding='same' with an even kernel")
        padding = tuple(r // 2 if padding == "same" else 0 for r in reach)
    op = Convolution(
        weight, found["bias"], _each(found["stride"], axes), _each(padding, axes), dilation, found["groups"]
    )
    return call.last(op, call.x)


def transposed_convolution(call: Call) -> int:
    """In one to three dimensions."""
    found = call.options(weight=None, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1)
    axes = _axes(call, found["weight"])
    stride, padding, more, dilation = (
        _each(found[key], axes) for key in ("stride", "padding", "output_padding", "dilation")
    )
    op = TransposedConvolution(
        found["weight"], found["bias"], stride, padding, more, dilation, found["groups"]
    )
    return call.last(op, call.x)


def batch_norm(call: Call) -> int:
    """By its running statistics."""
    found = call.options(
        running_mean=None, running_var=None, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5
    )
    if found["training"] or found["running_mean"] is None or found["running_var"] is None:
        raise call.unsupported("without its running statistics samples depend on each other")
    scale = (found["running_var"] + found["eps"]).rsqrt()
    if found["weight"] is not None:
        scale = scale * found["weight"]
    shift = -found["running_mean"] * scale
    if found["bias"] is not None:
        shift = shift + found["bias"]
    size = (-1, *[1] * (len(call.shape) - 1))
    return call.last(Scale(scale.view(size), shift.view(size)), call.x)


def added(sign: int, call: Call) -> int:
    """The sum or difference of two values or of one and a constant; alpha scales the second."""
    a, b = _operands(call, "alpha")
    alpha = call.kwargs.get("alpha", 1)
    if isinstance(a, Symbol) and isinstance(b, Symbol):
        left, right = _alike(call, a.position), _alike(call, b.position)
        if alpha != 1:
            right = _scaled(call, right, float(alpha))
        return call.last(Positive(operator.add, 2) if sign > 0 else Difference(), left, right)
    if isinstance(a, Symbol):
        shift = sign * alpha * call.constant(b)
        return call.last(Scale(call.value.new_ones(()), shift), a.position)
    return call.last(Scale(call.value.new_full((), float(sign * alpha)), call.constant(a)), b.position)


def taken_from(call: Call) -> int:
    """rsub: the second minus the first."""
    a, b = _operands(call)
    return added(-1, Call(call.name, call.where, (b, a), {}, call.value, call.builder))


def multiplied(call: Call) -> int:
    """By a constant."""
    a, b = _operands(call)
    if isinstance(a, Symbol) and isinstance(b, Symbol):
        raise call.unsupported("of two values")
    value, factor = (a, b) if isinstance(a, Symbol) else (b, a)
    return call.last(Scale(call.constant(factor), call.value.new_zeros(())), value.position)


def divided(call: Call) -> int:
    """By a constant."""
    a, b = _operands(call)
    if isinstance(b, Symbol):
        raise call.unsupported("by a value")
    return call.last(Scale(1 / call.constant(b), call.value.new_zeros(())), a.position)


def negated(call: Call) -> int:
    """The other sign."""
    return _scaled(call, call.x, -1.0)


def largest(sign: int, call: Call) -> int:
    """The maximum of two (sign 1), or the minimum (-1): a + relu(b - a), a - relu(a - b)."""
    a, b = _operands(call)
    if not isinstance(a, Symbol):
        a, b = b, a
    if not isinstance(b, Symbol):
        return limited(call, a.position, **{"low" if sign > 0 else "high": b})
    left, right = _alike(call, a.position), _alike(call, b.position)
    ahead = call.last(Difference(), *((right, left) if sign > 0 else (left, right)))
    rise = call.last(Rectifier(), ahead)
    return call.last(Positive(operator.add, 2) if sign > 0 else Difference(), left, rise)


def clamped(low: str, high: str, call: Call, **defaults: Any) -> int:
    """Between two constants, of which one may be missing; the names are those of the options."""
    found = call.options(**(defaults or dict.fromkeys(filter(None, (low, high)))))
    return limited(call, call.x, found.get(low), found.get(high))


def limited(call: Call, x: int, low: Any = None, high: Any = None) -> int:
    """min(max(x, low), high) = high - relu(high - low - relu(x - low))."""
    ends = [None if end is None else call.constant(end) for end in (low, high)]
    low, high = (None if end is None or bool(end.isinf().all()) else end for end in ends)
    for end in (low, high):
        if end is not None and not bool((end.abs() <= LARGEST).all()):
            raise call.unsupported(f"a limit beyond {LARGEST:g}")
    one = call.value.new_ones(())
    if low is not None:
        x = call.last(Scale(one, -low), x)
        x = call.last(Rectifier(), x)
        if high is None:
            return call.last(Scale(one, low), x)
    if high is None:
        return x
    x = call.last(Scale(-one, high if low is None else high - low), x)
    return call.last(Scale(-one, high), call.last(Rectifier(), x))


def _scaled(call: Call, x: int, factor: float) -> int:
    scale = call.value.new_full((), factor)
    return call.add(Scale(scale, torch.zeros_like(scale)), x, shape=call.builder.nodes[x].shape)


def _operands(call: Call, *allowed: str) -> tuple[Any, Any]:
    bound = [*call.args, *(call.kwargs[key] for key in ("other",) if key in call.kwargs)]
    if len(bound) != 2 or set(call.kwargs) - {"other", "out", *allowed}:
        raise call.unsupported("with options")
    return bound[0], bound[1]


def _alike(call: Call, x: int) -> int:
    """Broadcast to the result's shape."""
    shape = call.builder.nodes[x].shape
    if shape == call.shape:
        return x
    if len(shape) != len(call.shape):
        raise call.unsupported("of two values of different dimensions")
    return call.last(Positive(lambda v: v.expand(len(v), *call.shape), 0), x)


def _axes(call: Call, weight: Tensor) -> int:
    axes = weight.ndim - 2
    if len(call.shape) != axes + 1:
        raise call.unsupported("it mixes samples")
    return axes


def _each(value: Any, axes: int) -> Shape:
    found = tuple(value) if isinstance(value, list | tuple) else (value,)
    return found * axes if len(found) == 1 else found
