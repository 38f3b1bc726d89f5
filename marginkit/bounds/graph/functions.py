"""From the names of PyTorch's functions and methods to the operations that bounds know."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from marginkit.bounds.graph import activations as act
from marginkit.bounds.graph import arithmetic as arith
from marginkit.bounds.graph import pairs
from marginkit.bounds.graph import rearranging as move
from marginkit.bounds.graph.call import Call
from marginkit.bounds.graph.relaxations import SIGMOID, SILU, TANH

Rule = Callable[[Any, Call], int]


def _named(rule: Callable[[Call], int]) -> Rule:
    """A rule that knows its function by name."""
    return lambda function, call: rule(call)


_SAME = """flatten reshape view squeeze unsqueeze contiguous clone unflatten detach to double float
    type_as view_as reshape_as positive requires_grad data"""
_DROPOUT = "dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout"
_MOVED = """permute transpose movedim moveaxis swapaxes swapdims flip roll getitem select narrow
    index_select chunk split unbind tensor_split pixel_shuffle pixel_unshuffle channel_shuffle
    mT pad repeat tile"""
_JOINED = "cat concat concatenate stack hstack dstack where masked_fill"
_AVERAGED = """mean sum avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d
    adaptive_avg_pool3d"""

FUNCTIONS: dict[str, Rule] = {
    **dict.fromkeys(_SAME.split(), _named(move.same)),
    **dict.fromkeys(_DROPOUT.split(), _named(move.dropped)),
    **dict.fromkeys(_MOVED.split(), move.rearranged),
    **dict.fromkeys(_JOINED.split(), move.joined),
    **dict.fromkeys(_AVERAGED.split(), move.averaged),
    **dict.fromkeys(("expand", "expand_as", "broadcast_to"), move.expanded),
    "interpolate": move.interpolated,
    "setitem": _named(move.assigned),
    **dict.fromkeys(("copy", "fill", "zero"), _named(move.replaced)),
    "linear": _named(arith.linear),
    **dict.fromkeys(("matmul", "mm"), _named(arith.matmul)),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _named(arith.convolution)),
    **dict.fromkeys(
        ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _named(arith.transposed_convolution)
    ),
    "batch_norm": _named(arith.batch_norm),
    "add": _named(partial(arith.added, 1)),
    **dict.fromkeys(("sub", "subtract"), _named(partial(arith.added, -1))),
    "rsub": _named(arith.taken_from),
    **dict.fromkeys(("mul", "multiply"), _named(arith.multiplied)),
    **dict.fromkeys(("div", "divide", "true_divide"), _named(arith.divided)),
    **dict.fromkeys(("neg", "negative"), _named(arith.negated)),
    **dict.fromkeys(("maximum", "max"), _named(partial(arith.largest, 1))),
    **dict.fromkeys(("minimum", "min"), _named(partial(arith.largest, -1))),
    **dict.fromkeys(("clamp", "clip"), _named(partial(arith.clamped, "min", "max"))),
    "clamp_min": _named(partial(arith.clamped, "min", "")),
    "clamp_max": _named(partial(arith.clamped, "", "max")),
    "hardtanh": _named(partial(arith.clamped, "min_val", "max_val", min_val=-1.0, max_val=1.0)),
    "relu6": lambda function, call: arith.limited(call, call.x, 0.0, 6.0),
    "hardsigmoid": _named(act.hard_sigmoid),
    "relu": _named(act.relu),
    **dict.fromkeys(("abs", "absolute"), _named(act.absolute)),
    "leaky_relu": _named(act.leaky),
    "prelu": _named(act.parametric),
    "rrelu": _named(act.randomised),
    "sigmoid": _named(partial(act.smooth, SIGMOID)),
    "tanh": _named(partial(act.smooth, TANH)),
    "silu": _named(partial(act.smooth, SILU)),
    "gelu": _named(act.gelu),
    "softplus": _named(act.soft_plus),
    "log_sigmoid": _named(act.log_sigmoid),
    "elu": _named(act.elu),
    "selu": _named(act.selu),
    "celu": _named(act.celu_),
    **dict.fromkeys(("max_pool1d", "max_pool2d"), _named(act.max_pool)),
    "marginkit.models.one_lipschitz.maxmin": _named(pairs.maxmin),
}
