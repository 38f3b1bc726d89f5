"""Max-pooling as ReLUs: the same function, and one that branching closes."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from marginkit.bounds.graph.graph import doubled, trace
from marginkit.bounds.graph.pooling import MaxPool
from marginkit.bounds.graph.relaxations import Rectifier
from marginkit.bounds.graph.unpooled import unpooled
from marginkit.methods.branch_and_bound import at_radius
from marginkit.methods.branch_and_bound.attack import Sample
from marginkit.methods.exact import Exact
from marginkit.norms import L1, LINF
from marginkit.types import Threat

POOLS = {
    "halves": nn.MaxPool2d(2),
    "overlapping": nn.MaxPool2d(3, 2, 1),
    "dilated": nn.MaxPool2d(2, 1, 0, 2),
    "flat": nn.MaxPool2d((1, 3), (1, 2), (0, 1)),
    "single": nn.MaxPool2d(1, 2),
    "signal": nn.MaxPool1d(3, 2, 1),
}


@pytest.mark.quick
@pytest.mark.parametrize("name", POOLS)
def test_it_is_the_same_function(name):
    torch.manual_seed(0)
    pool, x = POOLS[name], torch.randn(5, *((3, 9) if name == "signal" else (3, 6, 6)), dtype=torch.float64)
    model = nn.Sequential(pool, nn.Flatten(), nn.LazyLinear(4)).double()
    model(x)
    graph = trace(doubled(model), x)
    apart = unpooled(graph, x)
    assert_close(apart(x), graph(x))
    assert any(isinstance(node.op, MaxPool) for node in graph.nodes)
    assert not any(isinstance(node.op, MaxPool) for node in apart.nodes)
    size = pool.kernel_size if isinstance(pool.kernel_size, tuple) else (pool.kernel_size,) * (x.ndim - 2)
    entries = torch.tensor(size).prod()
    rectified = sum(torch.tensor(n.shape).prod() for n in apart.nodes if isinstance(n.op, Rectifier))
    assert rectified == (entries - 1) * pool(x)[0].numel()


@pytest.mark.quick
def test_a_graph_without_pooling_stays_as_it_is():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    graph = trace(model.eval(), torch.zeros(1, 3).double())
    assert unpooled(graph, torch.zeros(1).double()) is graph


@pytest.mark.parametrize("norm", [L1, LINF], ids=str)
def test_balls_of_a_pooling_network_are_decided(norm, monkeypatch):
    """Those inside the distance that another search knows; not so without splits of pooling."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), nn.Conv2d(4, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(4, 3)
    ).double()
    for layer in (model[0], model[2], model[5]):
        nn.init.normal_(layer.weight, std=1.5 / layer.weight[0].numel() ** 0.5)
    x = torch.rand(1, 1, 6, 6, dtype=torch.float64)
    y, threat = model(x).argmax(1), Threat(norm)
    known = Exact(time_limit=2)(model, x, y, threat)
    graph = trace(doubled(model), x)

    @torch.no_grad()
    def proved(share: float, seconds: float) -> list[bool]:
        samples = [Sample(model, graph, x[i : i + 1], y[i : i + 1], threat) for i in range(len(x))]
        far = (share * known.lower).tolist()
        return [
            at_radius.decide(sample, radius, time.monotonic() + seconds).proved
            for sample, radius in zip(samples, far, strict=True)
        ]

    assert proved(0.97, 10) == [True] * len(x)
    assert not any(proved(1.03 * float((known.upper / known.lower).max()), 0.4))
    monkeypatch.setattr(at_radius, "unpooled", lambda graph, like: graph)
    assert not all(proved(0.97, 0.4))
