"""Max-pooling as ReLUs, which branching can split: max(a, b) = b + relu(a - b), in rounds."""

from __future__ import annotations

import operator

import torch
from torch import Tensor

from marginkit.bounds.graph.call import Builder
from marginkit.bounds.graph.graph import Graph, Node
from marginkit.bounds.graph.ops import Difference, Positive, Reshape
from marginkit.bounds.graph.pooling import MaxPool
from marginkit.bounds.graph.relaxations import Rectifier


def unpooled(graph: Graph, like: Tensor) -> Graph:
    """The same function without max-pooling: a window of k entries has k - 1 ReLUs.

    Args:
        graph: the operations; one without max-pooling is given back.
        like: a tensor where the graph's are.
    """
    if not any(isinstance(node.op, MaxPool) for node in graph.nodes):
        return graph
    builder, place = Builder(), dict[int, int]()
    for j, node in enumerate(graph.nodes):
        inputs = [place[k] for k in node.inputs]
        if isinstance(node.op, MaxPool):
            place[j] = _unpooled(builder, node, node.op, inputs[0], like)
        else:
            place[j] = builder.add(node.op, *inputs, shape=node.shape)
    return Graph(tuple(builder.nodes))


def _unpooled(builder: Builder, node: Node, pool: MaxPool, source: int, like: Tensor) -> int:
    """The entries of all windows, half of them against the others until one of each is left."""
    index = pool.entries(builder.nodes[source].shape).to(like.device)
    left, width = builder.add(_taken(index.flatten()), source, shape=(index.numel(),)), index.shape[1]
    count = len(index)
    while count > 1:
        pairs = count // 2
        halves = [torch.arange(k * width, (k + pairs) * width, device=like.device) for k in (0, pairs)]
        one, other = (builder.add(_taken(half), left, shape=(pairs * width,)) for half in halves)
        rise = builder.add(Rectifier(), builder.add(Difference(), one, other))
        larger = builder.add(Positive(operator.add, 2), other, rise)
        if count % 2:
            rest = torch.arange(2 * pairs * width, count * width, device=like.device)
            last = builder.add(_taken(rest), left, shape=(width,))
            larger = builder.add(Positive(_joined, 0), larger, last, shape=((pairs + 1) * width,))
        left, count = larger, pairs + count % 2
    return builder.add(Reshape(node.shape), left, shape=node.shape)


def _taken(index: Tensor) -> Positive:
    """Entries of one sample's value, in any order, as often as they are named."""
    return Positive(lambda x: x.flatten(1)[:, index], 0)


def _joined(one: Tensor, other: Tensor) -> Tensor:
    return torch.cat([one, other], 1)
