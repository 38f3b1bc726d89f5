"""From modules, functions and methods of PyTorch to the operations that bounds know."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from marginkit.bounds.ops import Affine, Convolution, Dense, Nonlinear, Positive, Scale, Shape
from marginkit.bounds.pooling import MaxPool
from marginkit.bounds.relaxations import GELU, GELU_TANH, SIGMOID, SILU, TANH, Rectifier
from marginkit.bounds.unsupported import Unsupported
from marginkit.models import Normalize

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


def from_module(module: nn.Module, call: Call) -> Op | None:
    """The module's operation; None where it changes nothing."""
    found = next((MODULES[kind] for kind in type(module).__mro__ if kind in MODULES), None)
    if found is None or len(symbols([call.args, call.kwargs])) != 1:
        raise Unsupported(type(module).__name__)
    return found(module, call)


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


# Modules -----------------------------------------------------------------------------------------------


def _convolution(module: Any, call: Call) -> Op:
    if module.padding_mode != "zeros":
        raise call.unsupported(f"padding_mode={module.padding_mode!r}")
    padding = module.padding
    if isinstance(padding, str):
        reach = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        if padding == "same" and any(r % 2 for r in reach):
            raise call.unsupported("padding='same' with an even kernel")
        padding = tuple(r // 2 if padding == "same" else 0 for r in reach)
    return Convolution(
        module.weight, module.bias, module.stride, padding, module.dilation, module.groups
    )  # fmt: skip


def _batch_norm(module: Any, call: Call) -> Op:
    if module.running_mean is None or module.running_var is None:
        raise call.unsupported("it has no running statistics: samples depend on each other")
    scale = (module.running_var + module.eps).rsqrt()
    if module.weight is not None:
        scale = scale * module.weight
    shift = -module.running_mean * scale
    if module.bias is not None:
        shift = shift + module.bias
    size = (-1, *[1] * (len(call.shape) - 1))
    return Scale(scale.view(size), shift.view(size))


def _pair(value: Any) -> Shape:
    return tuple(value) if isinstance(value, list | tuple) else (value, value)


def _max_pool(module: Any, call: Call) -> Op:
    stride = module.kernel_size if module.stride is None else module.stride
    pool = MaxPool(*map(_pair, (module.kernel_size, stride, module.padding, module.dilation)))
    floor = pool(call.value.new_zeros(1, *call.shapes[0])).shape[1:]
    if module.return_indices or floor != call.shape:
        raise call.unsupported("return_indices or ceil_mode")
    return pool


def _same_entries(module: Any, call: Call) -> Op | None:
    return _reshape(None, call)


def _averaging(module: nn.Module, call: Call) -> Op:
    return _positive(module, 1, call)


def _gelu(module: Any, call: Call) -> Op:
    return GELU if module.approximate == "none" else GELU_TANH


def _leaky(module: Any, call: Call) -> Op:
    if not 0 <= module.negative_slope <= 1:
        raise call.unsupported(f"negative_slope={module.negative_slope}")
    return Rectifier(module.negative_slope)


def _dropout(module: Any, call: Call) -> None:
    if module.training and module.p:
        raise call.unsupported("active in eval mode")


MODULES: dict[type[nn.Module], Callable[[Any, Call], Op | None]] = {
    nn.Linear: lambda module, call: Dense(module.weight, module.bias),
    nn.Conv1d: _convolution,
    nn.Conv2d: _convolution,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    Normalize: lambda module, call: Scale(1 / module.std, -module.mean / module.std),
    nn.ReLU: lambda module, call: Rectifier(),
    nn.LeakyReLU: _leaky,
    nn.Sigmoid: lambda module, call: SIGMOID,
    nn.Tanh: lambda module, call: TANH,
    nn.GELU: _gelu,
    nn.SiLU: lambda module, call: SILU,
    nn.MaxPool2d: _max_pool,
    nn.AvgPool1d: _averaging,
    nn.AvgPool2d: _averaging,
    nn.AdaptiveAvgPool1d: _averaging,
    nn.AdaptiveAvgPool2d: _averaging,
    nn.Flatten: _same_entries,
    nn.Unflatten: _same_entries,
    nn.Identity: lambda module, call: None,
    nn.Dropout: _dropout,
    nn.Dropout1d: _dropout,
    nn.Dropout2d: _dropout,
}

# Functions and methods ---------------------------------------------------------------------------------

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
    F.max_pool2d: nn.MaxPool2d,
    torch.max_pool2d: nn.MaxPool2d,
    F.avg_pool1d: nn.AvgPool1d,
    F.avg_pool2d: nn.AvgPool2d,
    F.adaptive_avg_pool1d: nn.AdaptiveAvgPool1d,
    F.adaptive_avg_pool2d: nn.AdaptiveAvgPool2d,
}


def _reshape(function: Any, call: Call) -> Op | None:
    if call.shape == call.shapes[0]:
        return None
    shape = call.shape
    return Positive(lambda x: x.reshape(len(x), *shape), 0)


def _rearrange(function: Any, call: Call) -> Op:
    return _positive(_as_function(function, call), 0, call)


def _average(function: Any, call: Call) -> Op:
    return _positive(_as_function(function, call), 1, call)


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


def _positive(function: Callable[..., Tensor], mixes: int, call: Call) -> Positive:
    """Checked on numbers: zero at zero, and what one sample holds reaches no other."""
    alone = [call.value.new_zeros(2, *shape) for shape in call.shapes]
    zero = function(*alone)
    for part in alone:
        part[0] = 1
    found = function(*alone)
    if zero.any() or found.shape != call.value.shape or found[1].any():
        raise call.unsupported("it mixes samples, or does more than move and average")
    return Positive(function, mixes)


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
    """a + b or a - b, of two values or of one and a constant."""
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
    a, b = _operands(call)
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


@dataclass(frozen=True, eq=False)
class Difference:
    """a - b of two values."""

    mixes: int = 2

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The value."""
        return inputs[0] - inputs[1]

    def interval(self, *inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The ends of b change places."""
        (low, high), (less, more) = inputs
        return low - more, high - less

    def transpose(self, a: Tensor, shapes: Sequence[Shape]) -> Sequence[Tensor]:
        """a and -a."""
        return a, -a


_RESHAPES: list[Any] = [torch.flatten, torch.reshape, torch.squeeze, torch.unsqueeze, "flatten", "view"]
_RESHAPES += ["reshape", "squeeze", "unsqueeze", "contiguous", "clone", "unflatten"]
_REARRANGES: list[Any] = [torch.permute, torch.transpose, torch.cat, torch.concat, operator.getitem]
_REARRANGES += ["permute", "transpose"]

FUNCTIONS: dict[Any, Callable[[Any, Call], Op | None]] = {
    **dict.fromkeys(_RESHAPES, _reshape),
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
