"""From PyTorch's functions and methods to the operations that bounds know."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from marginkit.bounds.graph.call import Call, Op, Symbol, positive, reshape, symbols
from marginkit.bounds.graph.modules import from_module
from marginkit.bounds.graph.ops import Dense, Difference, Positive, Scale
from marginkit.bounds.graph.unsupported import Unsupported


def from_function(function: Any, call: Call) -> Op | None:
    """The function's or method's operation; None where it changes nothing."""
    if function in AS_MODULE:
        kind, (_, *args) = AS_MODULE[function], call.args or (None,)
        kwargs = {key: value for key, value in call.kwargs.items() if key != "input"}
        if symbols([args, kwargs]) or kwargs.pop("return_indices", False):
            raise call.unsupported("its options depend on the input")
        return from_module(kind(*args, **kwargs), call)
    if function not in FUNCTIONS:
        raise Unsupported(call.name)
    return FUNCTIONS[function](function, call)


AS_MODULE: dict[Any, type[nn.Module]] = {
    F.relu: nn.ReLU,
    torch.relu: nn.ReLU,
    torch.relu_: nn.ReLU,
    "relu": nn.ReLU,
    "relu_": nn.ReLU,
    F.leaky_relu: nn.LeakyReLU,
    torch.sigmoid: nn.Sigmoid,
    F.sigmoid: nn.Sigmoid,
    "sigmoid": nn.Sigmoid,
    torch.tanh: nn.Tanh,
    F.tanh: nn.Tanh,
    "tanh": nn.Tanh,
    F.gelu: nn.GELU,
    F.silu: nn.SiLU,
    F.max_pool1d: nn.MaxPool1d,
    torch.max_pool1d: nn.MaxPool1d,
    F.max_pool2d: nn.MaxPool2d,
    torch.max_pool2d: nn.MaxPool2d,
    F.avg_pool1d: nn.AvgPool1d,
    F.avg_pool2d: nn.AvgPool2d,
    F.adaptive_avg_pool1d: nn.AdaptiveAvgPool1d,
    F.adaptive_avg_pool2d: nn.AdaptiveAvgPool2d,
}


def _rearrange(function: Any, call: Call) -> Op:
    return positive(_as_function(function, call), 0, call)


def _average(function: Any, call: Call) -> Op:
    return positive(_as_function(function, call), 1, call)


def _as_function(function: Any, call: Call) -> Callable[..., Tensor]:
    """The function of its symbols alone."""
    apply = getattr(Tensor, function) if isinstance(function, str) else function

    def fill(argument: Any, values: list[Tensor]) -> Any:
        if isinstance(argument, Symbol):
            return values.pop(0)
        if isinstance(argument, list | tuple):
            return type(argument)([fill(entry, values) for entry in argument])
        return argument

    def of_symbols(*inputs: Tensor) -> Tensor:
        values = list(inputs)
        found: Tensor = apply(*fill(call.args, values), **call.kwargs)
        return found

    if symbols(call.kwargs):
        raise call.unsupported("an input given by name")
    return of_symbols


def _dropout_call(function: Any, call: Call) -> None:
    bound = dict(zip(("input", "p", "training", "inplace"), call.args, strict=False)) | call.kwargs
    if bound.get("training", function is not F.dropout) and bound.get("p", 0.5):
        raise call.unsupported("active in eval mode")


def _linear_call(function: Any, call: Call) -> Op:
    bound = dict(zip(("input", "weight", "bias"), call.args, strict=False)) | call.kwargs
    if symbols([bound["weight"], bound.get("bias")]):
        raise call.unsupported("its weight depends on the input")
    return Dense(bound["weight"], bound.get("bias"))


def _sum(sign: int, function: Any, call: Call) -> Op:
    """The sum or difference of two values or of one and a constant."""
    a, b = _operands(call)
    if isinstance(a, Symbol) and isinstance(b, Symbol):
        if call.shapes[0] != call.shapes[1]:
            raise call.unsupported("of two values of different shapes")
        return Positive(operator.add, 2) if sign > 0 else Difference()
    if isinstance(a, Symbol):
        return Scale(call.value.new_ones(()), sign * _constant(b, call))
    return Scale(call.value.new_full((), float(sign)), _constant(a, call))


def _product(function: Any, call: Call) -> Op:
    a, b = _operands(call)
    if isinstance(a, Symbol) and isinstance(b, Symbol):
        raise call.unsupported("of two values")
    return Scale(_constant(b if isinstance(a, Symbol) else a, call), call.value.new_zeros(()))


def _quotient(function: Any, call: Call) -> Op:
    b = _operands(call)[1]
    if isinstance(b, Symbol):
        raise call.unsupported("by a value")
    return Scale(1 / _constant(b, call), call.value.new_zeros(()))


def _negative(function: Any, call: Call) -> Op:
    return Scale(call.value.new_full((), -1.0), call.value.new_zeros(()))


def _operands(call: Call) -> tuple[Any, Any]:
    bound = [*call.args, *(call.kwargs[key] for key in ("other",) if key in call.kwargs)]
    if len(bound) != 2 or set(call.kwargs) - {"other"}:
        raise call.unsupported("with options")
    return bound[0], bound[1]


def _constant(value: Any, call: Call) -> Tensor:
    """Shaped to broadcast over one sample."""
    found = torch.as_tensor(value, dtype=call.value.dtype, device=call.value.device)
    if any(len(shape) != len(call.shape) for shape in call.shapes):
        raise call.unsupported("which adds a dimension")
    if found.ndim > len(call.shape):
        if found.ndim > call.value.ndim or not bool((found == found[:1]).all()):
            raise call.unsupported("with a constant that differs between samples")
        found = found[0]
    return found


_RESHAPES: list[Any] = [torch.flatten, torch.reshape, torch.squeeze, torch.unsqueeze, "flatten", "view"]
_RESHAPES += ["reshape", "squeeze", "unsqueeze", "contiguous", "clone", "unflatten"]
_REARRANGES: list[Any] = [torch.permute, torch.transpose, torch.cat, torch.concat, operator.getitem]
_REARRANGES += ["permute", "transpose"]

FUNCTIONS: dict[Any, Callable[[Any, Call], Op | None]] = {
    **dict.fromkeys(_RESHAPES, reshape),
    **dict.fromkeys(_REARRANGES, _rearrange),
    **dict.fromkeys([torch.mean, torch.sum, "mean", "sum"], _average),
    **dict.fromkeys([F.dropout, F.dropout1d, F.dropout2d], _dropout_call),
    **dict.fromkeys([operator.add, operator.iadd, torch.add, "add", "add_"], partial(_sum, 1)),
    **dict.fromkeys([operator.sub, operator.isub, torch.sub, "sub", "sub_"], partial(_sum, -1)),
    **dict.fromkeys([operator.mul, operator.imul, torch.mul, "mul", "mul_"], _product),
    **dict.fromkeys([operator.truediv, operator.itruediv, torch.div, "div", "div_"], _quotient),
    **dict.fromkeys([operator.neg, torch.neg, "neg"], _negative),
    F.linear: _linear_call,
}
