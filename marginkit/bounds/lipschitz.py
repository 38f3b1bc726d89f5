"""How far a graph's layers can stretch a displacement, from above."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor

from marginkit.bounds.graph.graph import Graph, affine, nonlinear
from marginkit.bounds.graph.ops import (
    Affine,
    Convolution,
    Dense,
    Reshape,
    Scale,
    Shape,
    TransposedConvolution,
)
from marginkit.bounds.graph.pairs import moved_by
from marginkit.bounds.graph.pooling import MaxPool
from marginkit.bounds.graph.relaxations import Rectifier, Smooth
from marginkit.bounds.reach import Secants, reach
from marginkit.bounds.spectral import ABOVE, convolution_norm, matrix_norm
from marginkit.norms import Norm

JUMP = 1e-8  # PyTorch's softplus has one of 2e-9 where it turns into a straight line
SMALL = 2**20  # entries of a matrix whose singular values are computed
LARGEST = 2**24  # entries of a matrix that is written out


def stages(graph: Graph) -> list[Tensor] | None:
    """The matrices between the activations of a chain, or None.

    None for branches, max-pooling, activations whose slope leaves [0, 1], and matrices too large to write
    out. Convolutions are written out as they are, with their padding and stride.
    """
    found, run = list[Tensor](), list[int]()
    for i, node in enumerate(graph.nodes[1:], 1):
        if node.inputs != (i - 1,):
            return None
        if nonlinear(node.op):
            slopes = secant_slopes(node.op)
            if slopes is None or slopes[0] < 0 or slopes[1] > 1:
                return None
            if not run or (matrix := _written_out(graph, run)) is None:
                return None
            found.append(matrix)
            run = []
        else:
            run.append(i)
    last = _written_out(graph, run) if run else None
    return None if last is None else [*found, last]


def _written_out(graph: Graph, run: Sequence[int]) -> Tensor | None:
    """The linear part of successive affine nodes: [outputs, inputs]."""
    out, start = graph.nodes[run[-1]].shape, graph.nodes[run[0] - 1].shape
    if max(prod(graph.nodes[i].shape) for i in (*run, run[0] - 1)) * prod(out) > LARGEST:
        return None
    a = torch.eye(prod(out), dtype=torch.float64).view(-1, *out)
    for i in reversed(run):
        op = graph.nodes[i].op
        assert affine(op)
        (a,) = op.transpose(a, [graph.nodes[i - 1].shape])
    return a.reshape(len(a), prod(start))


def metric(matrices: Sequence[Tensor], entries: int) -> Tensor:
    """M with |d (f(x) - f(z))|^2 <= (d M^-1 d) |x - z|^2 for the activations f after these matrices, in L2.

    For no matrix it is the identity of so many `entries`. The closed form of ECLipsE-Fast (Xu and
    Sivaranjani, arXiv 2404.04375): with X = W M^-1 W^T and lam = 2 / |X|, the next M is
    lam I - lam^2 / 4 X; activations have slopes in [0, 1].
    """
    m = torch.eye(entries, dtype=torch.float64)
    for i, w in enumerate(matrices):
        x = w @ w.T if i == 0 else w @ torch.linalg.solve(m, w.T)
        x = (x + x.T) / 2
        lam = 2 / (torch.linalg.eigvalsh(x)[-1].clamp(min=1e-300) * ABOVE)
        m = lam * torch.eye(len(x), dtype=torch.float64) - lam.square() / 4 * x
    return m


def stretches(graph: Graph, own: Sequence[float]) -> list[float]:
    """For each node a Lipschitz constant as a function of the input: products, and sums over branches.

    Pairs that are sorted move as their inputs do. The nodes' own are those of `own_stretches`.
    """
    found = [1.0]
    for node, mine in zip(graph.nodes[1:], own[1:], strict=True):
        found.append(mine * sum(found[j] for j in moved_by(node)))
    return found


def pulled_back(
    graph: Graph, norm: Norm, own: Sequence[float], rows: Float[Tensor, "rows classes"]
) -> Float[Tensor, "rows"]:
    """Lipschitz constants of linear functions of the scores, none above what `stretches` gives.

    Layers whose functions are few enough to be carried back have constants by `reach` too.
    """
    nodes = graph.nodes
    found, secants = [rows.new_ones(1)], dict[int, Secants]()
    widest = max(prod(node.shape) for node in nodes)
    for i, node in enumerate(nodes[1:], 1):
        found.append(own[i] * sum((found[k] for k in moved_by(node)), rows.new_zeros(1)))
        if nonlinear(node.op) and (slopes := secant_slopes(node.op)) is not None:
            (k,) = node.inputs
            entries = prod(nodes[k].shape)
            if entries * widest <= SMALL:
                every = torch.eye(entries, dtype=rows.dtype).view(1, entries, *nodes[k].shape)
                _, found[k] = reach(graph, found, secants, k, every, norm)
                found[i] = torch.minimum(found[i], own[i] * found[k])
            least, most = (rows.new_full((1, *node.shape), slope) for slope in slopes)
            secants[i] = Secants(least, most, found[k])
    each, _ = reach(graph, found, secants, len(nodes) - 1, rows.unsqueeze(0), norm)
    return each[0]


def secant_slopes(op: object) -> tuple[float, float] | None:
    """The least and the largest slope of an activation's secants, where they bound it."""
    return op.slopes if isinstance(op, Rectifier | Smooth) and not _jumps(op) else None


def own_stretches(graph: Graph, norm: Norm) -> tuple[float, ...]:
    """For each node |its change| over the sum of the changes of those that `moved_by` names, from above."""
    found = [1.0]
    for node in graph.nodes[1:]:
        if nonlinear(node.op):
            found.append(_slope(node.op, norm))
        elif len(node.inputs) > 1:
            found.append(1.0)
        else:
            assert affine(node.op)
            found.append(_stretch(node.op, graph.nodes[node.inputs[0]].shape, norm))
    return tuple(found)


def _stretch(op: Affine, shape: Shape, norm: Norm) -> float:
    """An upper bound of the layer's operator norm; where none is known, by Riesz and Thorin.

    |W|_2^2 <= |W|_1 |W|_inf, whose largest column and row sums come from |W| applied to ones.
    """
    if isinstance(op, Scale):
        return float(op.scale.abs().max())
    if isinstance(op, Reshape):
        return 1.0
    zero, one = torch.zeros(1, *shape, dtype=torch.float64), torch.ones(1, *shape, dtype=torch.float64)
    entries = prod(op(zero).shape)
    if not entries * prod(shape):
        return 0.0
    if norm.p == 2:
        if isinstance(op, Dense):
            return float(matrix_norm(op.weight))
        if prod(shape) * entries <= SMALL:
            rows = torch.eye(entries, dtype=torch.float64).view(-1, *op(zero).shape[1:])
            return float(matrix_norm(op.transpose(rows, [shape])[0].reshape(entries, -1)))
        if isinstance(op, Convolution):
            return float(convolution_norm(op, shape))
    low, high = op.interval((-one, one))
    row = float((high - low).max()) / 2
    if norm.p == torch.inf:
        return row * ABOVE
    column = _column_sum(op, shape)
    return (column if norm.p == 1 else (row * column) ** 0.5) * ABOVE


def _column_sum(op: Affine, shape: Shape) -> float:
    positive = (
        replace(op, weight=op.weight.abs())
        if isinstance(op, Dense | Convolution | TransposedConvolution)
        else op
    )
    out = op(torch.zeros(1, *shape, dtype=torch.float64)).shape[1:]
    return float(positive.transpose(torch.ones(1, *out, dtype=torch.float64), [shape])[0].max())


def _slope(op: object, norm: Norm) -> float:
    """A Lipschitz constant of the activation or of the max-pooling."""
    if isinstance(op, MaxPool):  # an entry counts in as many windows as overlap
        sizes = zip(op.size, op.dilation, op.stride, strict=True)
        windows = prod(-(-((k - 1) * d + 1) // s) for k, d, s in sizes)
        return float(windows ** (0.0 if norm.p == torch.inf else 1 / norm.p))
    assert isinstance(op, Rectifier | Smooth)
    if _jumps(op):
        return float("inf")
    return max(-op.slopes[0], op.slopes[1])


def _jumps(op: object) -> bool:
    """Whether it leaves its slope by more than rounding."""
    return isinstance(op, Smooth) and op.jump > JUMP
