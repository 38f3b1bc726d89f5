"""Distances at hidden layers, in subspaces, with frozen features and on a grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from closed_form import linear, linear_distance
from quickly import measure
from torch import nn
from torch.testing import assert_close

from marginkit.data.dataset import Source, batches
from marginkit.data.sources import load
from marginkit.errors import MarginkitError, UsageError
from marginkit.kinds import Kind, Status
from marginkit.methods import METHODS
from marginkit.methods.constraints import Limits, principal_subspace, read_mask
from marginkit.methods.first_order import FirstOrder
from marginkit.methods.nearest import Nearest
from marginkit.methods.search.views import at_layer, in_subspace, principal_directions
from marginkit.norms import L1, L2, LINF
from marginkit.types import Threat

SEARCHES = [n for n, m in METHODS.items() if m.kind is Kind.UPPER and not hasattr(m, "eps")]
searches = pytest.mark.parametrize("name", SEARCHES)
LOOSE = {"deepfool": 1e-6, "pgd": 1e-2, "nearest": 1e-3}


class Skip(nn.Module):
    """x -> head(hidden(x) + skip(x)), with an in-place ReLU right after the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.skip, self.head = nn.Linear(5, 4), nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.hidden(x) + self.skip(x))


@searches
def test_the_last_hidden_layer_has_the_linear_closed_form(name, network, samples, norm):
    """From there on the network is linear, so what a search finds is what first_order says."""
    x, y = samples
    view = at_layer(network, x, Threat(norm), "hidden2")
    options = {"effort": "tight"} if name == "nearest" else {}
    found = METHODS[name](**options)(view.model, view.x, y, view.threat)
    true = linear_distance(network(x), network.scores.weight, y, norm)
    sought = found.status == Status.OK
    assert_close(found.upper[sought], true[sought], rtol=LOOSE[name], atol=0)
    expected = FirstOrder(layers=("hidden2",), top_k=None)(network, x, y, Threat(norm)).distance[:, 0]
    assert_close(found.upper[sought], expected[sought], rtol=LOOSE[name], atol=0)


def test_skip_connections_keep_working():
    torch.manual_seed(0)
    model = Skip().double()
    x = torch.rand(6, 5, dtype=torch.float64)
    y = model(x).argmax(1)
    view = at_layer(model, x, Threat(L2), "hidden")
    assert_close(view.model(view.x), model(x))
    found = Nearest("tight")(view.model, view.x, y, view.threat)
    assert_close(found.upper, linear_distance(model(x), model.head.weight, y, L2), rtol=1e-3, atol=0)
    assert torch.equal(found.witness[:, 4:], x)


def test_the_samples_own_part_of_a_view_has_no_gradient(network, samples):
    """Or searches would spend their steps on what the mask forbids."""
    x, _ = samples
    hidden = at_layer(network, x, Threat(L2), "hidden1")
    inside = in_subspace(network, x, Threat(L2), torch.eye(64, dtype=torch.float64)[:3].view(3, *x.shape[1:]))
    for view, moving in ((hidden, 24), (inside, 3)):
        joint = view.x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(view.model(joint)[:, 0].sum(), joint)
        assert gradient[:, :moving].any()
        assert not gradient[:, moving:].any()


def test_the_input_layer_is_the_model_itself(network, samples):
    x, _ = samples
    view = at_layer(network, x, Threat(L2), "input")
    assert view.model is network
    assert view.x is x


@searches
def test_a_subspace_of_a_linear_classifier(name):
    """The distance is (f_y - f_j) / |B (w_y - w_j)|."""
    case = linear(2)
    basis = principal_directions(torch.randn(50, case.x.shape[1], dtype=torch.float64), 3)
    assert_close(basis @ basis.T, torch.eye(3, dtype=torch.float64))
    view = in_subspace(case.model, case.x, Threat(L2), basis)
    found = METHODS[name]()(view.model, view.x, case.y, view.threat)
    normal = basis @ (case.model.weight[0] - case.model.weight[1])
    scores = case.model(case.x)
    expected = (scores[:, 0] - scores[:, 1]).abs() / normal.norm()
    assert_close(found.upper, expected.detach(), rtol=LOOSE[name], atol=0)
    estimate = FirstOrder(layers=("input",))(view.model, view.x, case.y, view.threat).distance[:, 0]
    assert_close(estimate, expected.detach())
    displacement = view.restore(found.witness) - case.x
    assert_close(displacement @ basis.T @ basis, displacement)
    assert_close(L2.length(displacement), found.upper)


def test_the_whole_space_is_a_subspace(network, samples):
    x, y = samples
    whole = in_subspace(network, x, Threat(L2), torch.eye(64, dtype=torch.float64).view(64, *x.shape[1:]))
    inside = Nearest()(whole.model, whole.x, y, whole.threat).upper
    free = Nearest()(network, x, y, Threat(L2, None, None)).upper
    assert (inside / free).nan_to_num(1).sub(1).abs().median() < 1e-3


def test_a_smaller_subspace_is_farther(network, samples):
    x, y = samples
    data = load("digits", Source(split="train"))
    found = []
    for count in (40, 10):
        view = in_subspace(network, x, Threat(L2), principal_subspace(data, count))
        found.append(Nearest("tight")(view.model, view.x, y, view.threat).upper)
    assert (found[1] >= found[0] * (1 - 1e-2)).all()
    assert found[1].mean() > 1.05 * found[0].mean()


@pytest.mark.parametrize("shape", [(30, 5), (8, 20)])
def test_principal_directions_are_those_of_the_singular_value_decomposition(shape):
    x = torch.randn(*shape, dtype=torch.float64)
    found = principal_directions(x, 3)
    expected = torch.linalg.svd(x - x.mean(0), full_matrices=False)[2][:3]
    assert_close((found @ expected.T).abs(), torch.eye(3, dtype=torch.float64))


def test_what_can_not_be_is_refused(network, samples, tmp_path):
    x, _ = samples
    with pytest.raises(UsageError, match="--norms l2"):
        in_subspace(network, x, Threat(L1), torch.eye(64)[:2].view(2, *x.shape[1:]))
    with pytest.raises(MarginkitError, match="give 1 to 17"):
        principal_directions(x, 18)
    with pytest.raises(UsageError, match="neither a mask nor a grid"):
        Limits(subspace=torch.eye(2), levels=255)
    np.save(tmp_path / "m.npy", np.zeros(3))
    with pytest.raises(MarginkitError, match="no mask for inputs of shape"):
        read_mask(tmp_path / "m.npy", (1, 8, 8))
    np.save(tmp_path / "m.npy", np.zeros((8, 8)))
    with pytest.raises(MarginkitError, match="expected true or 1"):
        read_mask(tmp_path / "m.npy", (1, 8, 8))


@searches
def test_witnesses_lie_on_the_grid_and_survive_rounding(name, network, samples, norm):
    x, y = samples
    grid = (x * 16).round() / 16  # the digits have 17 grey levels
    threat = Threat(norm, levels=16)
    found = METHODS[name]()(network, grid, y, threat)
    free = METHODS[name]()(network, grid, y, Threat(norm))
    hit = (found.status == Status.OK) & (free.status == Status.OK)
    assert hit.sum() >= len(x) // 2
    steps = found.witness[hit] * 16
    assert_close(steps, steps.round(), rtol=0, atol=1e-9)
    assert (network(found.witness[hit]).argmax(1) != y[hit]).all()
    assert (found.upper[hit] >= free.upper[hit] * 0.9).all()
    assert found.upper[hit].median() < 3 * free.upper[hit].median() + 1 / 16


def test_inputs_off_the_grid_are_refused(network, samples):
    x, y = samples
    with pytest.raises(MarginkitError, match="not on the grid of 255 steps"):
        Nearest()(network, (x * 0.987 + 0.001), y, Threat(LINF, levels=255))
    with pytest.raises(UsageError, match="needs a box of two numbers"):
        Nearest()(network, x, y, Threat(LINF, None, None, levels=255))


def test_measure_writes_a_column_a_layer(network):
    data = load("digits")
    methods = {"first_order": FirstOrder(), "nearest": Nearest("fast")}
    table = measure(network, data, methods, ("l2",), first=12, search_at=("all",), witnesses=True)
    assert [c.name for c in table.columns] == [
        "first_order.l2.input", "first_order.l2.hidden1", "first_order.l2.hidden2",
        "nearest.l2", "nearest.l2.hidden1", "nearest.l2.hidden2",
    ]  # fmt: skip
    right = table["nearest.l2"].status == Status.OK
    ratio = table["first_order.l2.hidden2"].distance[right] / table["nearest.l2.hidden2"].distance[right]
    np.testing.assert_allclose(ratio, 1, rtol=0.05)
    assert table["nearest.l2"].witness is not None
    assert table["nearest.l2.hidden1"].witness is None


def test_measure_in_a_subspace_and_with_a_mask(network):
    data = load("digits")
    methods = {"first_order": FirstOrder(), "nearest": Nearest("fast")}
    basis = principal_subspace(load("digits", Source(split="train")), 20)
    table = measure(network, data, methods, ("l2",), first=12, limits=Limits(subspace=basis), witnesses=True)
    assert [c.name for c in table.columns] == ["first_order.l2.input", "nearest.l2"]
    assert table.meta["threat"]["subspace"]["directions"] == 20
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[..., :4] = True
    x, _ = next((x, y) for _, x, y in batches(data, 12))
    masked = measure(network, data, methods, ("l2",), first=12, limits=Limits(mask=mask), witnesses=True)
    witness = masked["nearest.l2"].witness
    hit = ~np.isnan(witness).any((1, 2, 3))
    np.testing.assert_allclose(witness[hit][..., 4:], x.numpy()[hit][..., 4:], atol=1e-6)
    assert masked.meta["threat"]["mask"]["free"] == 32


def test_probabilities_are_refused(network):
    with pytest.raises(MarginkitError, match="answers with probabilities"):
        measure(nn.Sequential(network, nn.Softmax(1)), load("digits"), {"nearest": Nearest()}, first=8)
