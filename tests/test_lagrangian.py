"""Bounds in L2 by balls and intervals together: by definition, and never looser than what they join."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from marginkit.bounds.graph.graph import trace
from marginkit.bounds.graph.ops import Convolution, Dense
from marginkit.bounds.graph.relaxations import GELU, SIGMOID, TANH, Rectifier
from marginkit.bounds.linear.ball import Ball
from marginkit.bounds.linear.crown import Propagation
from marginkit.bounds.linear.lagrangian import Layer, pieces
from marginkit.bounds.lipschitz import own_stretches, stretches
from marginkit.bounds.spectral import convolution_norm, matrix_norm, row_lengths
from marginkit.methods.crown import Crown
from marginkit.methods.nearest import Nearest
from marginkit.norms import L2
from marginkit.types import Threat

N, ROWS, UNITS = 3, 4, 7
ACTIVATIONS = {
    "relu": Rectifier(), "leaky": Rectifier(0.2), "tanh": TANH, "sigmoid": SIGMOID, "gelu": GELU
}  # fmt: skip
activations = pytest.mark.parametrize("op", ACTIVATIONS.values(), ids=list(ACTIVATIONS))


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def layer(op, wide: bool = False) -> Layer:
    centre, radius = drawn(N, UNITS), torch.rand(N, dtype=torch.float64) + 0.2
    reach = torch.full_like(centre, 1e6) if wide else radius.unsqueeze(1) * torch.rand_like(centre)
    low, high = centre - reach, centre + reach * 0.7
    return Layer(centre, radius.unsqueeze(1), pieces(op, low, high), op.lines(low, high, False))


def multipliers(c: torch.Tensor, of: Layer) -> list[torch.Tensor]:
    unit = c.norm(dim=2, keepdim=True) / of.radius.unsqueeze(1)
    return [0 * unit, 0.01 * unit, unit, 30 * unit]


@activations
def test_every_slope_and_multiplier_gives_a_lower_bound(op):
    for _ in range(10):
        of, c, g = layer(op), drawn(N, ROWS, UNITS), drawn(N, ROWS, UNITS)
        low = torch.stack([piece[0] for piece in of.pieces]).amin(0)
        high = torch.stack([piece[1] for piece in of.pieces]).amax(0)
        step = drawn(200, N, UNITS)
        step = step / step.norm(dim=2, keepdim=True) * of.radius * torch.rand(200, 1, 1)
        z = (of.centre + step).clamp(low, high)  # the centre lies in the intervals: still in the ball
        values = (op(z).unsqueeze(2) * c - z.unsqueeze(2) * g).sum(3)
        for lam in multipliers(c, of):
            assert (of.offset(c, g, lam) <= values.amin(0) + 1e-9).all()


@activations
def test_without_a_multiplier_it_is_at_least_the_offset_of_the_lines(op):
    of, c = layer(op), drawn(N, ROWS, UNITS)
    g, offset = of.lines.backward(c)
    assert (of.offset(c, g, torch.zeros(N, ROWS, 1, dtype=torch.float64)) >= offset - 1e-9).all()


def test_without_intervals_it_is_the_bound_of_sdp_crown():
    """-(lam (R^2 - |c0|^2) + |phi|^2 / lam) / 2, phi_i = min(c_i - g_i - lam c0_i, g_i + lam c0_i, 0)."""
    of, c = layer(Rectifier(), wide=True), drawn(N, ROWS, UNITS)
    g, z0 = c * torch.rand_like(c), of.centre.unsqueeze(1)
    for lam in multipliers(c, of)[1:]:
        phi = torch.minimum(c - g - lam * z0, g + lam * z0).clamp(max=0)
        room = of.radius.square() - z0.square().sum(2)
        published = -(lam.squeeze(2) * room + (phi.square() / lam).sum(2)) / 2
        torch.testing.assert_close(of.offset(c, g, lam), published, rtol=1e-9, atol=1e-9)


@activations
def test_flat_slopes_give_the_product_of_norms(op):
    """c . f(z) >= c . f(z0) - |c| R for activations with slopes in [-1, 1]."""
    if op is GELU:
        return  # steeper than 1
    of, c = layer(op), drawn(N, ROWS, UNITS)
    found = of.offset(c, torch.zeros_like(c), c.norm(dim=2, keepdim=True) / of.radius.unsqueeze(1))
    least = (c * op(of.centre).unsqueeze(1)).sum(2) - c.norm(dim=2) * of.radius
    loose = 0.0 if isinstance(op, Rectifier) else 0.1  # lines around a smooth function leave it a little
    assert (found >= least - loose * (1 + least.abs())).all()


CONVOLUTIONS = [
    (3, 16, 4, 2, 1, 1, 1, 12), (4, 6, 3, 1, 1, 1, 2, 9), (2, 4, 3, 3, 0, 2, 1, 11),
    (2, 2, 5, 2, 2, 1, 1, 7), (3, 4, 2, 2, 0, 1, 1, 8), (1, 5, 3, 1, 0, 1, 1, 6),
]  # fmt: skip


@pytest.mark.parametrize("dimensions", [1, 2])
@pytest.mark.parametrize(("into", "out", "k", "s", "p", "d", "groups", "size"), CONVOLUTIONS)
def test_norms_of_convolutions_are_no_less_than_their_singular_values(
    dimensions, into, out, k, s, p, d, groups, size
):
    each = (k,) * dimensions
    op = Convolution(drawn(out, into // groups, *each), None, *((v,) * dimensions for v in (s, p, d)), groups)
    shape = (into, *(size,) * dimensions)
    outputs = op(torch.zeros(1, *shape, dtype=torch.float64)).shape[1:]
    rows = torch.eye(outputs.numel(), dtype=torch.float64).view(-1, *outputs)
    matrix = op.transpose(rows, [shape])[0].flatten(1)
    true = torch.linalg.matrix_norm(matrix, 2)
    assert true <= convolution_norm(op, shape) <= 1.3 * true
    assert true <= matrix_norm(matrix) <= true * (1 + 1e-8)
    lengths = row_lengths(op, [shape], L2)
    torch.testing.assert_close(lengths.flatten(), matrix.norm(dim=1))


def test_row_lengths_of_a_matrix():
    weight = drawn(4, 6)
    torch.testing.assert_close(row_lengths(Dense(weight, drawn(4)), [(6,)], L2)[0], weight.norm(dim=1))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(12, 9), nn.Linear(9, 9), nn.Linear(9, 4)

    def forward(self, x):
        h = self.a(x.flatten(1)).relu()
        return self.c(h + self.b(h).tanh())


def networks():
    torch.manual_seed(3)
    image = nn.Sequential(
        nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 2), nn.LeakyReLU(0.1), nn.MaxPool2d(2, 1),
        nn.Flatten(), nn.Linear(4, 4),
    )  # fmt: skip
    dense = nn.Sequential(
        nn.Flatten(), nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 10), nn.GELU(), nn.Linear(10, 4)
    )
    return {
        "convolutions": (image.double(), torch.rand(6, 1, 6, 6).double()),
        "dense": (dense.double(), torch.rand(6, 3, 4).double()),
        "residual": (Residual().double(), torch.rand(6, 3, 4).double()),
    }


@pytest.mark.parametrize("name", list(networks()))
@pytest.mark.parametrize("box", [(None, None), (0.0, 1.0)], ids=["free", "box"])
def test_it_is_never_looser_than_crown_or_the_product_of_norms(name, box):
    model, x = networks()[name]
    threat = Threat(L2, *box)
    with torch.no_grad():
        graph = trace(model.eval(), x)
        targets = torch.eye(4).double()[[0, 1]] - torch.eye(4).double()[[2, 3]]
        rows = targets.expand(len(x), -1, -1)
        for radius in (0.01, 0.2, 1.0, 5.0):
            ball = Ball(x, torch.full((len(x),), radius).double(), L2, *threat.room(x))
            own = own_stretches(graph, L2)
            propagation = Propagation("crown", stretches=own, climbs=20)
            ours, within = propagation(graph, ball, rows), propagation.enclosure(graph, ball)
            crown = within.lowest(rows, lambda j, c, lines=within.lines: lines[j].backward(c))
            norms = graph(x) @ targets.T - stretches(graph, own)[-1] * radius * targets.norm(dim=1)
            slack = 1e-9 * (1 + ours.abs())
            assert (ours >= crown - slack).all()
            assert (ours >= norms - slack).all()
            inside = threat.clip(x, x + L2.project(drawn(*x.shape), ball.radius, None, None))
            assert (graph(inside) @ targets.T >= ours - slack).all()


@pytest.mark.parametrize("name", list(networks()))
def test_more_climbing_proves_more_and_never_what_is_false(name):
    model, x = networks()[name]
    y, threat = model(x).argmax(1), Threat(L2, None, None)
    none, some = (Crown(climbs=climbs)(model, x, y, threat).lower for climbs in (0, 40))
    found = Nearest("fast")(model, x, y, threat).upper
    assert (some >= none * (1 - 2**-9)).all()
    assert (some > none * 1.001).any()
    assert (some <= found).all()


def test_a_layer_that_nothing_reaches_spoils_no_gradient():
    """A flat start has coefficients of zero, at which lengths have no gradient."""
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    with torch.no_grad():
        model[4].weight[:, :3] = 0
        model[2].weight[2] = 0
    x = torch.rand(4, 4).double()
    with torch.no_grad():
        graph = trace(model, x)
        rows = (torch.eye(3)[[0]] - torch.eye(3)[[1]]).double().expand(4, -1, -1)
        ball = Ball(x, torch.full((4,), 3.0).double(), L2)
        found = Propagation("crown", stretches=own_stretches(graph, L2), climbs=40)(graph, ball, rows)
    assert found.isfinite().all()
