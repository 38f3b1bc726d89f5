"""Arithmetic and activations of ONNX, by the name of the operation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from marginkit.models.onnx.reading import Node, NotRead

Rule = Callable[..., Any]
FLOATS = (1, 10, 11, 16)  # TensorProto's float32, float16, float64 and bfloat16
INTEGERS = {2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32, 7: torch.int64, 9: torch.bool}


def _alone(function: Callable[[Tensor], Tensor]) -> Rule:
    """Of one value, without attributes."""
    return lambda node, x: function(x)


def _paired(function: Callable[[Tensor, Tensor], Tensor]) -> Rule:
    """Of two values."""
    return lambda node, a, b: function(*together(a, b))


def together(*values: Tensor) -> tuple[Tensor, ...]:
    """On one device: the first that is not the CPU, where shapes are and what is made of them."""
    device = next((value.device for value in values if value.device.type != "cpu"), values[0].device)
    return tuple(value if value.device == device else value.to(device) for value in values)


def _folded(function: Callable[[Tensor, Tensor], Tensor]) -> Rule:
    """Of any number of values."""

    def fold(node: Node, *values: Tensor) -> Tensor:
        found, *rest = together(*values)
        for value in rest:
            found = function(found, value)
        return found

    return fold


def _mean(node: Node, *values: Tensor) -> Tensor:
    total: Tensor = _folded(torch.add)(node, *values)
    return total / len(values)


def _divide(a: Tensor, b: Tensor) -> Tensor:
    whole = not a.is_floating_point() and not b.is_floating_point()
    return torch.div(a, b, rounding_mode="trunc") if whole else torch.div(a, b)


def _cast(node: Node, x: Tensor, like: Tensor | None = None) -> Tensor:
    """To whole numbers only where it is none of the network's values; floats keep the network's precision."""
    to = 1 if node.op == "CastLike" else int(node.get("to", 1))
    if node.op == "CastLike" and like is not None and not like.is_floating_point():
        return x if not x.is_floating_point() else x.to(like.dtype)
    if to in FLOATS:
        return x if x.is_floating_point() else x.to(torch.get_default_dtype())
    if to not in INTEGERS:
        raise NotRead(f"a cast to ONNX's type {to}")
    return x.to(INTEGERS[to])


def _clip(node: Node, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    ends: list[Any] = [node.get("min"), node.get("max")]
    for i, end in enumerate((low, high)):
        if end is not None:
            ends[i] = float(end) if x.is_floating_point() else int(end)
    return x if ends == [None, None] else torch.clamp(x, *ends)


def _softmax(function: Callable[..., Tensor], node: Node, x: Tensor) -> Tensor:
    if node.opset >= 13:
        return function(x, dim=int(node.get("axis", -1)))
    axis = int(node.get("axis", 1)) % x.ndim
    return function(x.flatten(axis), dim=-1).reshape(x.shape)


def _leaky(node: Node, x: Tensor) -> Tensor:
    return F.leaky_relu(x, node.get("alpha", 0.01))


def _elu(node: Node, x: Tensor) -> Tensor:
    return F.elu(x, node.get("alpha", 1.0))


def _selu(node: Node, x: Tensor) -> Tensor:
    alpha, gamma = node.get("alpha"), node.get("gamma")
    return F.selu(x) if alpha is None and gamma is None else (gamma or 1.0507) * F.elu(x, alpha or 1.67326)


def _hard_sigmoid(node: Node, x: Tensor) -> Tensor:
    return torch.clamp(x * node.get("alpha", 0.2) + node.get("beta", 0.5), 0, 1)


def _thresholded(node: Node, x: Tensor) -> Tensor:
    return F.threshold(x, node.get("alpha", 1.0), 0.0)


def _gelu(node: Node, x: Tensor) -> Tensor:
    return F.gelu(x, approximate=node.get("approximate", "none"))


def _prelu(node: Node, x: Tensor, slope: Tensor) -> Tensor:
    """max(x, 0) + slope min(x, 0), where the slope broadcasts over one sample."""
    if slope.numel() == 1 or (x.ndim > 1 and slope.numel() == x.shape[1] == slope.shape[0]):
        return F.prelu(x, slope.flatten())
    return x.relu() - slope * (-x).relu()


ELEMENTWISE: dict[str, Rule] = {
    "Abs": _alone(torch.abs),
    "Add": _paired(torch.add),
    "And": _paired(torch.logical_and),
    "Cast": _cast,
    "CastLike": _cast,
    "Ceil": _alone(torch.ceil),
    "Clip": _clip,
    "Cos": _alone(torch.cos),
    "Div": _paired(_divide),
    "Dropout": lambda node, x, *rest: x,
    "Elu": _elu,
    "Equal": _paired(torch.eq),
    "Erf": _alone(torch.erf),
    "Exp": _alone(torch.exp),
    "Floor": _alone(torch.floor),
    "Gelu": _gelu,
    "Greater": _paired(torch.gt),
    "GreaterOrEqual": _paired(torch.ge),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _alone(F.hardswish),
    "Identity": lambda node, x: x,
    "LeakyRelu": _leaky,
    "Less": _paired(torch.lt),
    "LessOrEqual": _paired(torch.le),
    "Log": _alone(torch.log),
    "LogSoftmax": partial(_softmax, torch.log_softmax),
    "Max": _folded(torch.maximum),
    "Mean": _mean,
    "Min": _folded(torch.minimum),
    "Mish": _alone(F.mish),
    "Mul": _paired(torch.mul),
    "Neg": _alone(torch.neg),
    "Not": _alone(torch.logical_not),
    "Or": _paired(torch.logical_or),
    "PRelu": _prelu,
    "Pow": _paired(torch.pow),
    "Reciprocal": _alone(torch.reciprocal),
    "Relu": _alone(torch.relu),
    "Round": _alone(torch.round),
    "Selu": _selu,
    "Sigmoid": _alone(torch.sigmoid),
    "Sign": _alone(torch.sign),
    "Sin": _alone(torch.sin),
    "Softmax": partial(_softmax, torch.softmax),
    "Softplus": _alone(F.softplus),
    "Softsign": _alone(F.softsign),
    "Sqrt": _alone(torch.sqrt),
    "Sub": _paired(torch.sub),
    "Sum": _folded(torch.add),
    "Tanh": _alone(torch.tanh),
    "ThresholdedRelu": _thresholded,
}
