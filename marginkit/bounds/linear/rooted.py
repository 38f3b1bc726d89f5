"""One proof about a ball as branching begins it: each unit by lines of its own choice, in Linf by planes."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from marginkit.bounds.graph.graph import Graph
from marginkit.bounds.linear.ball import Ball
from marginkit.bounds.linear.climbing import climbed, proved
from marginkit.bounds.linear.crown import Propagation
from marginkit.bounds.linear.hidden import tightened
from marginkit.bounds.linear.relaxed import Relaxed

HIDDEN, FIRST = 10, 20  # steps of ascent: for each hidden unit, and for the whole ball


def lowest(
    graph: Graph, ball: Ball, targets: Float[Tensor, "k classes"], enough: float
) -> Float[Tensor, "k"]:
    """Lower bounds of the scores' linear functions within a ball of one sample, in float64.

    Args:
        graph: the operations.
        ball: of one sample's inputs, not in L2.
        targets: the functions.
        enough: larger bounds are no use.
    """
    intervals = Propagation("crown").intervals(graph, ball)
    network = tightened(Relaxed(graph, ball, len(graph.nodes) - 1, targets, intervals), HIDDEN)
    return proved(network.relaxed, climbed(network.single, network.single.root(), FIRST, enough)).value
