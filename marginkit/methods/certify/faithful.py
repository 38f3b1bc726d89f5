"""Whether a proof about a graph is one about the model: what can be tried is tried."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from marginkit.bounds.graph.graph import Graph, require_same, trace
from marginkit.errors import MethodError
from marginkit.guard.answer import scores_of
from marginkit.logits import Labels, differences, gradients, logit_margin, rivals
from marginkit.norms import Vectors, column
from marginkit.types import Threat

POINTS = 8  # random ones, of each kind
CROSSED = 1e-9  # of the scores: by more than rounding
REPORT = "this is a fault of marginkit: please report it with the model"


def traced(model: nn.Module, x: Vectors, threat: Threat) -> Graph:
    """The model as a graph that gives the same scores at the inputs and at random points of the box.

    Args:
        model: in float64.
        x: inputs.
        threat: the box; where it has no ends, points lie around the inputs at several lengths.

    Raises:
        Unsupported: an operation has no bounds, or the scores differ.
    """
    graph = trace(model, x)
    generator = torch.Generator().manual_seed(0)
    shape = (2 * POINTS + 1, *x.shape[1:])  # not as many as were traced, nor a multiple
    around = x[torch.arange(shape[0]) % len(x)]
    lengths = column(torch.logspace(-2, 1, shape[0], dtype=x.dtype, device=x.device), around)
    moved = around + lengths * torch.randn(shape, generator=generator, dtype=torch.float64).to(x)
    low, high = threat.room(around)
    if low is not None and high is not None:
        uniform = torch.rand(shape, generator=generator, dtype=torch.float64).to(x)
        inside = around + low + uniform * (high - low)
        moved = torch.where(inside.isfinite(), inside, moved)
    require_same(graph, model, threat.clip(around, moved))
    return graph


def require_kept(
    graph: Graph, model: nn.Module, x: Vectors, y: Labels, threat: Threat, radius: Tensor
) -> None:
    """Tries the rim of each proved radius: there the scores are the graph's, and the label stays.

    Two points a sample, towards the nearest rival and at random.

    Raises:
        Unsupported: the graph gives other scores there.
        MethodError: the model answers with another class within the radius that was proved.
    """
    rows = (radius > 0).nonzero().squeeze(1)
    if not len(rows):
        return
    x, y = x[rows], y[rows]
    reach = radius[rows].clamp(max=1e3)
    with torch.enable_grad():
        inputs = x.clone().requires_grad_()
        ahead = differences(scores := graph(inputs), y, rivals(scores, y, 1))
        ((down,),) = gradients(ahead, [inputs])
    generator = torch.Generator().manual_seed(0)
    anywhere = torch.randn(x.shape[1:], generator=generator, dtype=torch.float64).to(x).expand_as(x)
    for direction in (-threat.norm.steepest(down.detach()), anywhere):
        length = threat.norm.length(direction)
        step = direction * column(torch.where(length > 0, reach / length, 0), x)
        points = threat.clip(x, x + step.nan_to_num(0, 0, 0) * (1 - 1e-9))
        require_same(graph, model, points)
        with torch.no_grad():
            found = scores_of(model(points.clone()), len(points))
        margin, _ = logit_margin(found, y)
        if bool((margin < -CROSSED * found.abs().nan_to_num(0, 0, 0).amax(1)).any()):
            raise MethodError(f"a proof does not hold at the rim of its radius: {REPORT}")
