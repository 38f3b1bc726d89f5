"""ONNX's operations with weights, its pooling and its normalisations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from marginkit.models.onnx.elementwise import Rule, together
from marginkit.models.onnx.reading import Node, NotRead

Pads = list[int]  # what F.pad takes: the last axis first, before and after

CONVOLUTIONS: list[Callable[..., Tensor]] = [F.conv1d, F.conv2d, F.conv3d]
TRANSPOSED: list[Callable[..., Tensor]] = [F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d]
MAXIMA: list[Callable[..., Tensor]] = [F.max_pool1d, F.max_pool2d, F.max_pool3d]
MEANS: list[Callable[..., Tensor]] = [F.avg_pool1d, F.avg_pool2d, F.avg_pool3d]


def _gemm(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A layer: alpha A B + beta C."""
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    x = x.T if node.get("transA") else x
    weight = weight if node.get("transB") else weight.T
    if bias is not None and beta != 1:
        bias = bias * beta
    if alpha != 1:
        scaled: Tensor = F.linear(x, weight) * alpha
        return scaled if bias is None else scaled + bias
    if bias is None or bias.numel() == len(weight):
        return F.linear(x, weight, None if bias is None else bias.flatten())
    return F.linear(x, weight) + bias


def _matmul(node: Node, a: Tensor, b: Tensor) -> Tensor:
    """A product with a matrix of weights is a layer, from either side."""
    a, b = together(a, b)
    if isinstance(b, torch.nn.Parameter) and b.ndim == 2:
        return F.linear(a, b.T)
    if isinstance(a, torch.nn.Parameter) and a.ndim == 2 and b.ndim > 1:
        return F.linear(b.mT, a).mT
    return torch.matmul(a, b)


def _window(node: Node, x: Tensor, size: Sequence[int]) -> tuple[Pads, dict[str, Any]]:
    """What is put around x, and the options of PyTorch's function."""
    axes = len(size)
    stride = list(node.get("strides", [1] * axes))
    dilation = list(node.get("dilations", [1] * axes))
    pads = list(node.get("pads", [0] * (2 * axes)))
    auto = node.get("auto_pad", "NOTSET")
    if auto.startswith("SAME"):
        for i in range(axes):
            whole = x.shape[2 + i]
            reach = dilation[i] * (size[i] - 1) + 1
            more = max((-(-whole // stride[i]) - 1) * stride[i] + reach - whole, 0)
            first = more // 2 if auto == "SAME_UPPER" else more - more // 2
            pads[i], pads[axes + i] = first, more - first
    elif auto == "VALID":
        pads = [0] * (2 * axes)
    around = [entry for i in reversed(range(axes)) for entry in (pads[i], pads[axes + i])]
    return around, {"stride": stride, "dilation": dilation, "padding": pads[:axes]}


def _padded(x: Tensor, around: Pads, options: dict[str, Any], value: float = 0.0) -> Tensor:
    """x, padded here where the two sides differ; else PyTorch's function does."""
    if around[::2] == around[1::2]:
        return x
    if options.get("ceil_mode"):
        raise NotRead("pooling with ceil_mode and other pads before than after")
    options["padding"] = [0] * len(options["padding"])
    return F.pad(x, around, value=value)


def _conv(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    around, options = _window(node, x, weight.shape[2:])
    x = _padded(x, around, options)
    return CONVOLUTIONS[weight.ndim - 3](x, weight, bias, groups=node.get("group", 1), **options)


def _conv_transpose(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if node.get("output_shape") is not None or node.get("auto_pad", "NOTSET").startswith("SAME"):
        raise NotRead("a ConvTranspose that gives its output's shape in place of pads")
    around, options = _window(node, x, weight.shape[2:])
    more = list(node.get("output_padding", [0] * (weight.ndim - 2)))
    cut = around[::2] != around[1::2]
    if cut:
        options["padding"] = [0] * len(more)
    run = TRANSPOSED[weight.ndim - 3]
    found = run(x, weight, bias, output_padding=more, groups=node.get("group", 1), **options)
    return F.pad(found, [-entry for entry in around]) if cut else found


def _max_pool(node: Node, x: Tensor) -> Tensor:
    if len(node.outputs) > 1 and node.outputs[1]:
        raise NotRead("a MaxPool that gives indices")
    size = list(node.get("kernel_shape"))
    around, options = _window(node, x, size)
    options["ceil_mode"] = bool(node.get("ceil_mode", 0))
    x = _padded(x, around, options, -torch.inf)
    return MAXIMA[len(size) - 1](x, size, **options)


def _average_pool(node: Node, x: Tensor) -> Tensor:
    size = list(node.get("kernel_shape"))
    around, options = _window(node, x, size)
    if any(entry != 1 for entry in options.pop("dilation")):
        raise NotRead("an AveragePool with dilations")
    run, options["ceil_mode"] = MEANS[len(size) - 1], bool(node.get("ceil_mode", 0))
    everywhere = bool(node.get("count_include_pad", 0))
    moved = _padded(x, around, options)
    if moved is x or everywhere:
        return run(moved, size, count_include_pad=everywhere, **options)
    inside = _padded(torch.ones_like(x[:1]), around, dict(options))
    return run(moved, size, **options) / run(inside, size, **options)


def _global_max(node: Node, x: Tensor) -> Tensor:
    return MAXIMA[x.ndim - 3](x, tuple(x.shape[2:]))


def _batch_norm(
    node: Node, x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor
) -> Tensor:
    if node.get("training_mode"):
        raise NotRead("a BatchNormalization in training mode, which mixes samples")
    return F.batch_norm(x, mean, variance, scale, shift, False, 0.0, node.get("epsilon", 1e-5))


def _layer_norm(node: Node, x: Tensor, scale: Tensor, shift: Tensor | None = None) -> Tensor:
    axis = int(node.get("axis", -1)) % x.ndim
    shape = list(x.shape[axis:])
    if list(scale.shape) == shape and (shift is None or list(shift.shape) == shape):
        return F.layer_norm(x, shape, scale, shift, node.get("epsilon", 1e-5))
    found = F.layer_norm(x, shape, eps=node.get("epsilon", 1e-5)) * scale
    return found if shift is None else found + shift


def _instance_norm(node: Node, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return F.instance_norm(x, weight=scale, bias=shift, eps=node.get("epsilon", 1e-5))


def _response_norm(node: Node, x: Tensor) -> Tensor:
    return F.local_response_norm(
        x, node.get("size"), node.get("alpha", 1e-4), node.get("beta", 0.75), node.get("bias", 1.0)
    )


LAYERS: dict[str, Rule] = {
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda node, x: x.mean(tuple(range(2, x.ndim)), keepdim=True),
    "GlobalMaxPool": _global_max,
    "InstanceNormalization": _instance_norm,
    "LRN": _response_norm,
    "LayerNormalization": _layer_norm,
    "MatMul": _matmul,
    "MaxPool": _max_pool,
}
