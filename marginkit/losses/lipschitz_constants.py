"""Lipschitz constants to train with: differentiable, and estimated where they are not known."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from marginkit.activations import evaluating
from marginkit.bounds.graph.graph import Graph, affine, trace
from marginkit.bounds.graph.ops import Affine, Dense, Shape
from marginkit.bounds.graph.pairs import moved_by
from marginkit.bounds.graph.unsupported import Unsupported
from marginkit.errors import MarginkitError
from marginkit.models.one_lipschitz import is_constrained
from marginkit.models.stages import Normalize
from marginkit.norms import Vectors

POWER_STEPS = 5
SMALLEST = 1e-12  # so that the root of 0 has a slope


def pair_constants(
    model: nn.Module, x: Vectors, classes: int, steps: int
) -> Float[Tensor, "classes classes"]:
    """L_ij: how far f_i - f_j can move with an input of length 1, in L2.

    The length of w_i - w_j, rows of the last layer, times what comes before it: in a model that `constrain`
    has seen the scale of `normalize`, elsewhere the product of spectral norms (`score_constant`).

    Raises:
        MarginkitError: as `graph_of`.
    """
    known = _known(model)
    if known is not None:
        before, weight = known
    else:
        graph = graph_of(model, x)
        found, last = constants(graph, x, steps), graph.nodes[-1]
        if isinstance(last.op, Dense) and len(last.shape) == 1:
            before, weight = found[last.inputs[0]], last.op.weight
        else:
            before, weight = found[-1], torch.eye(classes, dtype=x.dtype, device=x.device)
    apart = weight.unsqueeze(1) - weight
    return before * (apart.square().sum(2) + SMALLEST).sqrt()


def score_constant(model: nn.Module, x: Vectors, steps: int) -> Float[Tensor, ""]:
    """The product of the layers' spectral norms, each by so many steps of power iteration from a fixed start.

    Sums over branches. From below: good for training, not a proof (`lipschitz` proves). BatchNorm counts with
    its running statistics.

    Raises:
        MarginkitError: as `graph_of`.
    """
    return constants(graph_of(model, x), x, steps)[-1]


def graph_of(model: nn.Module, x: Vectors) -> Graph:
    """The model's operations, to be differentiated.

    Raises:
        MarginkitError: the model has an operation without bounds.
    """
    with evaluating(model):
        try:
            return trace(model, x.detach(), check=False)
        except Unsupported as found:
            raise MarginkitError(f"no Lipschitz constant: there are no bounds for {found}") from found


def constants(graph: Graph, x: Tensor, steps: int) -> list[Tensor]:
    """Of every node as a function of the input; activations have slopes of at most 1."""
    found = [x.new_ones(())]
    for node in graph.nodes[1:]:
        first, *others = moved_by(node)
        before = sum((found[j] for j in others), start=found[first])
        if affine(node.op) and len(node.inputs) == 1:
            before = before * _spectral_norm(node.op, graph.nodes[first].shape, x, steps)
        found.append(before)
    return found


def _known(model: nn.Module) -> tuple[Tensor, Tensor] | None:
    """What comes before the scores stretches by, and their weight, where that is known by construction."""
    if not (isinstance(model, nn.Sequential) and is_constrained(model)):
        return None
    first, last = model[0], model[-1]
    if not (isinstance(first, Normalize) and isinstance(last, nn.Linear)):
        return None
    return 1 / first.std.min(), last.weight


def _spectral_norm(op: Affine, shape: Shape, x: Tensor, steps: int) -> Tensor:
    zero = op(x.new_zeros(1, *shape))
    start = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0)).to(x)
    with torch.no_grad():
        for _ in range(steps):
            (back,) = op.transpose(op(start) - zero, [shape])
            start = back / back.norm().clamp(min=1e-30)
    length: Tensor = (op(start) - zero).norm()
    return length
