"""ONNX's operations that move, cut, join and count entries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from marginkit.models.onnx.elementwise import Rule, together
from marginkit.models.onnx.reading import Node, NotRead

LARGEST = 2**28  # entries that a constant may be filled with


def _given(node: Node, name: str, value: Tensor | None) -> list[int] | None:
    """A list that older files have as an attribute and newer ones as an input."""
    found = node.get(name) if value is None else value.flatten().tolist()
    return None if found is None else [int(entry) for entry in found]


def _reshape(node: Node, x: Tensor, shape: Tensor) -> Tensor:
    sizes = [int(size) for size in shape.tolist()]
    if not node.get("allowzero", 0):
        sizes = [x.shape[i] if size == 0 else size for i, size in enumerate(sizes)]
    if node.batch is not None and sizes and sizes[0] == node.batch:
        sizes[0] = len(x)
    return x.reshape(sizes)


def _flatten(node: Node, x: Tensor) -> Tensor:
    axis = int(node.get("axis", 1))
    if axis % max(x.ndim, 1) == 1:
        return x.flatten(1)
    first = x.shape[: axis if axis >= 0 else x.ndim + axis].numel()
    return x.reshape(first, -1)


def _transpose(node: Node, x: Tensor) -> Tensor:
    return x.permute(*node.get("perm", list(reversed(range(x.ndim)))))


def _concat(node: Node, *values: Tensor) -> Tensor:
    """Side by side; what there is only one of, such as a class token, stands beside each sample."""
    axis = int(node.get("axis"))
    parts = together(*values)
    if axis % max(parts[0].ndim, 1):
        most = max(len(part) for part in parts)
        parts = tuple(part.expand(most, *part.shape[1:]) if len(part) == 1 else part for part in parts)
    return torch.cat(parts, axis)


def _slice(node: Node, x: Tensor, *given: Tensor | None) -> Tensor:
    values = (*given, *[None] * (4 - len(given)))
    names = ("starts", "ends", "axes", "steps")
    starts, ends, axes, steps = (_given(node, n, v) for n, v in zip(names, values, strict=True))
    assert starts is not None
    assert ends is not None
    cut = [slice(None)] * x.ndim
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis = (axes[i] if axes else i) % x.ndim
        step, whole = steps[i] if steps else 1, x.shape[axis]
        if step < 0:
            chosen = range(*slice(start, None if end < -whole else end, step).indices(whole))
            x = x.index_select(axis, torch.tensor(list(chosen), device=x.device, dtype=torch.int64))
        else:
            cut[axis] = slice(max(start, -whole), end, step)
    return x[tuple(cut)]


def _gather(node: Node, x: Tensor, index: Tensor) -> Tensor:
    axis = int(node.get("axis", 0)) % x.ndim
    index = torch.where(index < 0, index + x.shape[axis], index).long()
    if index.ndim == 0:
        return x.select(axis, int(index))
    found = x.index_select(axis, index.flatten().to(x.device))
    if index.ndim == 1:
        return found
    return found.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


def _squeeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    given = _given(node, "axes", axes)
    return x.squeeze() if given is None else x.squeeze(tuple(given))


def _unsqueeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    given = _given(node, "axes", axes) or []
    for axis in sorted(axis % (x.ndim + len(given)) for axis in given):
        x = x.unsqueeze(axis)
    return x


def _split(node: Node, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    axis = int(node.get("axis", 0))
    given: Any = _given(node, "split", sizes)
    if given is None:
        parts = node.get("num_outputs", len(node.outputs))
        given = -(-x.shape[axis] // parts)
    return torch.split(x, given, axis)


def _pad(
    node: Node, x: Tensor, pads: Tensor | None = None, value: Tensor | None = None, axes: Tensor | None = None
) -> Tensor:
    given = _given(node, "pads", pads) or []
    chosen = range(x.ndim) if axes is None else [int(axis) % x.ndim for axis in axes.tolist()]
    around = [0] * (2 * x.ndim)
    for i, axis in enumerate(chosen):
        around[2 * (x.ndim - 1 - axis)] = given[i]
        around[2 * (x.ndim - 1 - axis) + 1] = given[len(chosen) + i]
    while len(around) > 2 and around[-2:] == [0, 0]:  # the other modes want no entries for whole axes
        around = around[:-2]
    mode = node.get("mode", "constant")
    if mode == "constant":
        return F.pad(x, around, value=node.get("value", 0.0) if value is None else float(value))
    return F.pad(x, around, mode={"reflect": "reflect", "edge": "replicate", "wrap": "circular"}[mode])


def _reduced(name: str) -> Rule:
    def reduce(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
        given = _given(node, "axes", axes)
        if not given and node.get("noop_with_empty_axes"):
            return x
        found: Tensor = getattr(x, name)(tuple(given or range(x.ndim)), keepdim=bool(node.get("keepdims", 1)))
        return found

    return reduce


def _l2(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    return _squares(node, x, axes).sqrt()


def _squares(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    found: Tensor = _reduced("sum")(node, x * x, axes)
    return found


def _expand(node: Node, x: Tensor, shape: Tensor) -> Tensor:
    sizes = [int(size) for size in shape.tolist()]
    return x.expand(np.broadcast_shapes(tuple(x.shape), tuple(sizes)))


def _shape(node: Node, x: Tensor) -> Tensor:
    sizes = list(x.shape)[node.get("start", 0) : node.get("end", x.ndim)]
    return torch.tensor(sizes, dtype=torch.int64)


def _filled(node: Node, shape: Tensor) -> Tensor:
    value = node.get("value", torch.zeros(1))
    sizes = [int(size) for size in shape.tolist()]
    if torch.Size(sizes).numel() > LARGEST:
        raise NotRead(f"a constant of shape {sizes}")
    return torch.full(sizes, value.item(), dtype=value.dtype)


def _range(node: Node, start: Tensor, limit: Tensor, step: Tensor) -> Tensor:
    if abs((limit - start) / step) > LARGEST:
        raise NotRead("a range of so many numbers")
    return torch.arange(start.item(), limit.item(), step.item(), dtype=start.dtype)


def _where(node: Node, chosen: Tensor, a: Tensor, b: Tensor) -> Tensor:
    a, b, chosen = together(a, b, chosen)
    return torch.where(chosen.to(a.device), a, b)


def _depth_to_space(node: Node, x: Tensor) -> Tensor:
    if node.get("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, node.get("blocksize"))
    block = node.get("blocksize")
    n, c, h, w = x.shape
    x = x.reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(n, c // block**2, h * block, w * block)


def _resize(node: Node, x: Tensor, *given: Tensor | None) -> Tensor:
    """To sizes or by factors, of images; the ways that PyTorch has."""
    mode = node.get("mode", "nearest")
    where = node.get("coordinate_transformation_mode", "half_pixel")
    if node.op == "Upsample":
        where = "asymmetric"
    sizes = given[2] if len(given) > 2 else None
    scales = given[-1] if node.op == "Upsample" else given[1] if len(given) > 1 else None
    if sizes is not None and sizes.numel():
        target = [int(size) for size in sizes.tolist()[2:]]
    else:
        factors = node.get("scales") if scales is None else scales.tolist()
        target = [int(s * f) for s, f in zip(x.shape[2:], factors[2:], strict=True)]
    whole = all(t % s == 0 for t, s in zip(target, x.shape[2:], strict=True))
    if mode == "nearest" and whole:
        return F.interpolate(x, target, mode="nearest")
    if mode == "linear" and where in ("half_pixel", "pytorch_half_pixel", "align_corners") and x.ndim == 4:
        return F.interpolate(x, target, mode="bilinear", align_corners=where == "align_corners")
    raise NotRead(f"a {node.op} with mode {mode} and {where}")


SHAPES: dict[str, Callable[..., Any]] = {
    "Concat": _concat,
    "ConstantOfShape": _filled,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Pad": _pad,
    "Range": _range,
    "ReduceL2": _l2,
    "ReduceMax": _reduced("amax"),
    "ReduceMean": _reduced("mean"),
    "ReduceMin": _reduced("amin"),
    "ReduceSum": _reduced("sum"),
    "ReduceSumSquare": _squares,
    "Reshape": _reshape,
    "Resize": _resize,
    "Shape": _shape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": lambda node, x, repeats: x.repeat(*(int(count) for count in repeats.tolist())),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Upsample": _resize,
    "Where": _where,
}
