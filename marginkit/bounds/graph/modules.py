"""From PyTorch's modules to the operations that bounds know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from marginkit.bounds.graph.call import Call, Op, positive, reshape, symbols
from marginkit.bounds.graph.ops import Convolution, Dense, Scale, Shape
from marginkit.bounds.graph.pooling import MaxPool
from marginkit.bounds.graph.relaxations import GELU, GELU_TANH, SIGMOID, SILU, TANH, Rectifier
from marginkit.bounds.graph.unsupported import Unsupported
from marginkit.models.architectures import Normalize


def from_module(module: nn.Module, call: Call) -> Op | None:
    """The module's operation; None where it changes nothing."""
    found = next((MODULES[kind] for kind in type(module).__mro__ if kind in MODULES), None)
    if found is None or len(symbols([call.args, call.kwargs])) != 1:
        raise Unsupported(type(module).__name__)
    return found(module, call)


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


def _max_pool(module: Any, call: Call) -> Op:
    stride = module.kernel_size if module.stride is None else module.stride
    flat = isinstance(module, nn.MaxPool1d)

    def pair(value: Any, height: int) -> Shape:
        one = tuple(value) if isinstance(value, list | tuple) else (value,)
        return (height, *one) if flat else one * (3 - len(one))

    pool = MaxPool(
        pair(module.kernel_size, 1), pair(stride, 1), pair(module.padding, 0), pair(module.dilation, 1)
    )
    floor = pool(call.value.new_zeros(1, *call.shapes[0])).shape[1:]
    if module.return_indices or floor != call.shape:
        raise call.unsupported("return_indices or ceil_mode")
    return pool


def _same_entries(module: Any, call: Call) -> Op | None:
    return reshape(None, call)


def _averaging(module: nn.Module, call: Call) -> Op:
    return positive(module, 1, call)


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
    nn.MaxPool1d: _max_pool,
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
