"""Every method at every smallest size: one feature, two classes, one unit, one sample, none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from in_turn import in_turn
from torch import nn

from marginkit.data.dataset import Data
from marginkit.errors import MarginkitError
from marginkit.kinds import Kind, Status
from marginkit.losses import LOSSES
from marginkit.measurement.measure import measure
from marginkit.methods import METHODS
from marginkit.norms import NORMS
from marginkit.training.evaluation import accuracy
from marginkit.training.loop import train
from marginkit.types import Estimate, Threat

FEW = {
    "smoothing": {"n0": 5, "n": 20},
    "exact": {"time_limit": 2.0},
    "verify": {"radii": (0.245, 0.255), "time_limit": 2.0},
    "nearest": {"effort": "tight"},
    "pgd": {"rounds": 12},
}
AT_RADII = [name for name, method in METHODS.items() if hasattr(method, "eps")]


def unit(weight: float, bias: float) -> nn.Linear:
    """A layer of one unit."""
    layer = nn.Linear(1, 1)
    nn.init.constant_(layer.weight, weight)
    nn.init.constant_(layer.bias, bias)
    return layer


def scores() -> nn.Linear:
    """z -> (z, 1/2)."""
    layer = nn.Linear(1, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0], [0.0]]))
        layer.bias.copy_(torch.tensor([0.0, 0.5]))
    return layer


# The boundary is at 1/2 in each, for inputs above it.
NETWORKS = {
    "linear": lambda: nn.Sequential(scores()),
    "one unit": lambda: nn.Sequential(unit(1.0, 0.0), nn.ReLU(), scores()),
    "two layers of one": lambda: nn.Sequential(
        unit(2.0, 0.0), nn.ReLU(), unit(0.5, 0.0), nn.ReLU(), scores()
    ),
    "one pixel": lambda: nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.Flatten(), nn.ReLU(), scores()),
}
SHAPES = {"one pixel": (1, 1, 1)}
BOXES = {"box": (0.0, 1.0), "half a box": (0.0, None), "no box": (None, None)}


def network(name: str) -> nn.Module:
    made = NETWORKS[name]().double()
    if name == "one pixel":
        nn.init.constant_(made[0].weight, 1.0)
    return made


def options(name: str) -> dict[str, object]:
    return FEW.get(name, {}) | ({"layers": ("input",)} if name == "first_order" else {})


@pytest.mark.parametrize(("name", "box", "norm", "net"), in_turn(METHODS, BOXES, NORMS, turns=NETWORKS))
def test_one_feature_two_classes_one_unit_one_sample(name, net, box, norm):
    model, method = network(net), METHODS[name](**options(name))
    x = torch.tensor([0.75], dtype=torch.float64).view(1, *SHAPES.get(net, (1,)))
    found = method(model, x, torch.tensor([0]), Threat(NORMS[norm], *BOXES[box]))
    if isinstance(found, Estimate):
        torch.testing.assert_close(found.distance, torch.full((1, 1), 0.25, dtype=torch.float64))
        return
    assert found.status.shape == (1,)
    if method.kind is Kind.SMOOTHED:
        return
    assert found.lower.item() <= 0.25 * (1 + 1e-9)
    assert found.upper.item() >= 0.25 * (1 - 1e-9)
    if method.kind in (Kind.LOWER, Kind.EXACT):
        assert found.lower.item() >= 0.24
    if method.kind in (Kind.UPPER, Kind.EXACT) and name not in AT_RADII:
        assert found.upper.item() <= 0.255
        assert found.rival.item() == 1


@pytest.mark.parametrize(("net", "norm"), [*zip(NETWORKS, ("l1", "l2", "linf", "l1"), strict=True)])
def test_a_measurement_of_one_sample_with_its_checks(net, norm):
    x = torch.full((1, *SHAPES.get(net, (1,))), 0.75, dtype=torch.float64)
    data = Data("one", "test", lambda positions: x[positions], np.zeros(1, int), tuple(x.shape[1:]), 2, "1")
    methods = {name: METHODS[name](**options(name)) for name in METHODS}
    table = measure(network(net), data, methods, [norm], checks=1)
    assert not any((column.status == Status.FAILED).any() for column in table.columns)
    assert table[f"nearest.{norm}"].distance[0] == pytest.approx(0.25, rel=1e-3)


# No sample --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_an_empty_batch_has_an_empty_answer(name, norm):
    model, x = network("one unit"), torch.zeros(0, 1, dtype=torch.float64)
    found = METHODS[name](**options(name))(model, x, torch.zeros(0, dtype=torch.long), Threat(norm))
    assert len(found.status) == 0


@pytest.mark.parametrize("shape", [(0, 1), (0, 1, 1, 1)], ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_no_loss_takes_an_empty_batch(name, shape):
    model = network("one pixel" if len(shape) > 2 else "one unit")
    x, y = torch.zeros(shape, dtype=torch.float64), torch.zeros(0, dtype=torch.long)
    with pytest.raises(MarginkitError, match="it is empty; give at least one sample"):
        LOSSES[name]()(model, x, y)


@pytest.mark.parametrize(
    "use",
    [
        lambda data, out: measure(network("linear"), data, {"deepfool": METHODS["deepfool"]()}),
        lambda data, out: accuracy(network("linear"), data),
        lambda data, out: train(data, out),
    ],
    ids=["measure", "accuracy", "train"],
)
def test_no_data_is_one_sentence(use, tmp_path):
    none = torch.zeros(0, 1, dtype=torch.float64)
    data = Data("none", "test", lambda positions: none[positions], np.zeros(0, int), (1,), 2, "0")
    with pytest.raises(MarginkitError, match="none has no samples in its test split: give at least one"):
        use(data, tmp_path / "m.pt")
