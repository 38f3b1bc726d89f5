"""Scores in the same order, without a last activation that only makes bounds loose."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from marginkit.bounds.graph.graph import Graph
from marginkit.bounds.graph.ops import Dense
from marginkit.bounds.graph.relaxations import Rectifier


def in_order(graph: Graph, like: Tensor) -> Graph:
    """A graph whose label is strictly ahead exactly where it is in this one.

    A leaking ReLU behind the scores z keeps their order. Behind a ReLU z_y is strictly ahead of z_j where
    z_y > z_j and z_y > 0: z with one more score, which is always 0.

    Args:
        graph: of a classifier.
        like: a tensor where the graph's are.
    """
    last = graph.nodes[-1]
    if not isinstance(last.op, Rectifier) or len(last.shape) != 1 or last.op.negative < 0:
        return graph
    before = Graph(graph.nodes[: last.inputs[0] + 1])
    if last.op.negative > 0:
        return before
    weight = torch.eye(last.shape[0] + 1, last.shape[0], dtype=like.dtype, device=like.device)
    appended = replace(
        last, op=Dense(weight, None), inputs=(last.inputs[0],), shape=(len(weight),), mixes=Dense.mixes
    )
    return Graph((*before.nodes, appended))
