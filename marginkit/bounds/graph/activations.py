"""Activations, and max-pooling."""

from __future__ import annotations

import operator
from typing import Any

from torch import Tensor

from marginkit.bounds.graph.call import Call
from marginkit.bounds.graph.ops import Positive, Scale, Shape
from marginkit.bounds.graph.pooling import MaxPool
from marginkit.bounds.graph.relaxations import GELU, GELU_TANH, Rectifier, Smooth, celu, softplus

SELU_ALPHA, SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946


def smooth(op: Smooth, call: Call) -> int:
    """Without options."""
    call.options()
    return call.last(op, call.x)


def relu(call: Call) -> int:
    """The ReLU."""
    call.options()
    return call.last(Rectifier(), call.x)


def absolute(call: Call) -> int:
    """|x|, a LeakyReLU of slope -1."""
    call.options()
    return call.last(Rectifier(-1.0), call.x)


def leaky(call: Call) -> int:
    """LeakyReLU of any slope."""
    return leaking(call, call.options(negative_slope=0.01)["negative_slope"])


def parametric(call: Call) -> int:
    """PReLU, one slope or one a channel."""
    weight = call.options(weight=None)["weight"]
    return leaking(call, weight.view(-1, *[1] * (len(call.shape) - 1)))


def randomised(call: Call) -> int:
    """RReLU at rest."""
    found = call.options(lower=1 / 8, upper=1 / 3, training=False)
    if found["training"]:
        raise call.unsupported("active in eval mode")
    return leaking(call, (found["lower"] + found["upper"]) / 2)


def leaking(call: Call, slope: float | Tensor) -> int:
    """max(x, slope x) up to slope 1; w x + (1 - w) relu(x) for any w."""
    if not isinstance(slope, Tensor) and slope <= 1:
        return call.last(Rectifier(float(slope)), call.x)
    zero, w = call.value.new_zeros(()), call.constant(slope)
    rest = call.last(Scale(1 - w, zero), call.last(Rectifier(), call.x))
    return call.last(Positive(operator.add, 2), call.last(Scale(w, zero), call.x), rest)


def hard_sigmoid(call: Call) -> int:
    """clamp(x + 3, 0, 6) / 6."""
    call.options()
    one, sixth = call.value.new_ones(()), call.value.new_full((), 1 / 6)
    on = call.last(Rectifier(), call.last(Scale(one, 3 * one), call.x))
    off = call.last(Rectifier(), call.last(Scale(-one, 6 * one), on))
    return call.last(Scale(-sixth, one), off)


def gelu(call: Call) -> int:
    """Exact, or by tanh."""
    kind = call.options(approximate="none")["approximate"]
    return call.last(GELU if kind == "none" else GELU_TANH, call.x)


def soft_plus(call: Call) -> int:
    """log(1 + exp(beta x)) / beta, above the threshold x."""
    found = call.options(beta=1.0, threshold=20.0)
    return call.last(softplus(float(found["beta"]), float(found["threshold"])), call.x)


def log_sigmoid(call: Call) -> int:
    """-softplus(-x)."""
    call.options()
    minus, zero = -call.value.new_ones(()), call.value.new_zeros(())
    x = call.last(Scale(minus, zero), call.x)
    return call.last(Scale(minus, zero), call.last(softplus(1.0, float("inf")), x))


def elu(call: Call) -> int:
    """relu(x) + alpha (exp(min(x, 0)) - 1)."""
    return _exponential(call, float(call.options(alpha=1.0)["alpha"]), 1.0)


def selu(call: Call) -> int:
    """ELU with an alpha and a scale of its own."""
    call.options()
    return _exponential(call, SELU_ALPHA, SELU_SCALE)


def celu_(call: Call) -> int:
    """relu(x) + alpha (exp(min(x, 0) / alpha) - 1)."""
    alpha = float(call.options(alpha=1.0)["alpha"])
    if alpha <= 0:
        raise call.unsupported(f"alpha={alpha:g}")
    return call.last(celu(alpha), call.x)


def _exponential(call: Call, alpha: float, scale: float) -> int:
    """Scale (alpha ELU_1(x) + (1 - alpha) relu(x)): the kink at 0 stands by itself."""
    one, zero = call.value.new_full((), scale), call.value.new_zeros(())
    curve = call.last(celu(1.0), call.x)
    if alpha == 1 and scale == 1:
        return curve
    bent = call.last(Scale(one * alpha, zero), curve)
    kink = call.last(Scale(one * (1 - alpha), zero), call.last(Rectifier(), call.x))
    return call.last(Positive(operator.add, 2), bent, kink)


def max_pool(call: Call) -> int:
    """In one or two dimensions."""
    found = call.options(
        kernel_size=None, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False
    )
    flat = len(call.shape) == 2
    stride = found["stride"] if found["stride"] not in (None, (), []) else found["kernel_size"]

    def pair(value: Any, height: int) -> Shape:
        one = tuple(value) if isinstance(value, list | tuple) else (value,)
        return (height, *one) if flat else one * (3 - len(one))

    pool = MaxPool(
        pair(found["kernel_size"], 1), pair(stride, 1), pair(found["padding"], 0), pair(found["dilation"], 1)
    )
    if len(call.shape) not in (2, 3):
        raise call.unsupported("it mixes samples")
    floor = pool(call.value.new_zeros(1, *call.shapes[0])).shape[1:]
    if found["return_indices"] or tuple(floor) != call.shape:
        raise call.unsupported("return_indices or ceil_mode")
    return call.last(pool, call.x)
