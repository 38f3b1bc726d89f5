"""L0: how many features, or pixels, have to change."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from marginkit_cli.main import main
from quickly import measure
from torch import nn

from marginkit.comparison.compare import compare
from marginkit.errors import UsageError
from marginkit.kinds import DISTANCE_NAMES, NORM_NAMES, Kind, Status
from marginkit.methods import METHODS
from marginkit.methods.nearest import EFFORTS, Nearest
from marginkit.norms import COUNTS, DISTANCES, L0, L0_PIXELS, NORMS
from marginkit.table.reading import read
from marginkit.table.verdicts import KEY
from marginkit.types import Bracket, Threat

FEATURES = 12


@pytest.fixture(scope="module")
def linear():
    """A binary linear model on inputs in the box: the fewest changes are the largest gains, added up."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(FEATURES, 2)
    model.weight.data = torch.randn(2, FEATURES, generator=generator)
    model.bias.data = torch.tensor([0.3, -0.2])
    x = torch.rand(40, FEATURES, generator=generator)
    return model.eval().requires_grad_(False), x, model(x).argmax(1)


def fewest_of_linear(model, x, y):
    """By hand: each feature moved to the end of the box that helps most."""
    normal = (model.weight[y] - model.weight[1 - y]).double()
    lead = (normal * x.double()).sum(1) + (model.bias[y] - model.bias[1 - y]).double()
    gain = torch.where(normal > 0, normal * x.double(), -normal * (1 - x.double()))
    total = gain.sort(dim=1, descending=True).values.cumsum(1)
    needed = (total < lead.unsqueeze(1)).sum(1) + 1
    return torch.where(needed > x.shape[1], torch.inf, needed.double())


@pytest.mark.quick
@pytest.mark.parametrize("effort", EFFORTS)
def test_the_fewest_changes_of_a_linear_model_are_found(linear, effort):
    model, x, y = linear
    found, truth = Nearest(effort)(model, x, y, Threat("l0")), fewest_of_linear(*linear)
    assert torch.equal(found.upper, truth)
    assert torch.equal(found.status == Status.OK, truth.isfinite())


def test_every_subset_of_features_agrees_on_a_small_network():
    """Exhaustively: no smaller set of features, each at an end of the box, fools it where the answer is 1."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
    x = torch.rand(20, 5)
    y = model(x).argmax(1)
    found = Nearest("tight")(model, x, y, Threat("l0"))
    grid = torch.linspace(0, 1, 5)
    for i in range(len(x)):
        least = torch.inf
        for count in (1, 2):
            for rows in itertools.combinations(range(5), count):
                points = x[i].repeat(5**count, 1)
                points[:, list(rows)] = torch.cartesian_prod(*[grid] * count).view(-1, count)
                if (model(points).argmax(1) != y[i]).any():
                    least = min(least, count)
        assert found.upper[i] <= least
        if found.upper[i].isfinite():
            assert (found.witness[i] != x[i]).sum() == found.upper[i]


def test_witnesses_change_so_many_features_and_stay_in_the_box(model, digits):
    x, y = digits.inputs(list(range(20))), torch.from_numpy(digits.labels[:20])
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[..., 2:6, :] = True
    for threat in (Threat("l0"), Threat("l0", mask=mask), Threat("l0", None, None), Threat("l0", levels=16)):
        found = Nearest("fast")(model, x, y, threat)
        rows = (found.status == Status.OK).nonzero().squeeze(1)
        assert len(rows) > 5
        changed = found.witness[rows] != x[rows]
        assert torch.equal(changed.flatten(1).sum(1).double(), found.upper[rows])
        assert threat.contains(found.witness[rows]).all()
        assert (model(found.witness[rows]).argmax(1) != y[rows]).all()
        if threat.mask is not None:
            assert not (changed & ~mask).any()


def test_pixels_count_once_whatever_their_channels():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).eval()
    x = torch.rand(10, 3, 6, 6)
    y = model(x).argmax(1)
    features, pixels = (Nearest()(model, x, y, Threat(name)) for name in ("l0", "l0_pixels"))
    changed = (pixels.witness != x).any(1).flatten(1).sum(1)
    assert torch.equal(changed.double()[pixels.status == Status.OK], pixels.upper[pixels.status == Status.OK])
    assert (pixels.upper <= features.upper).float().mean() > 0.8
    assert pixels.upper.mean() < features.upper.mean()
    flat = torch.tensor([[0.0, 1.0, 2.0]])
    assert L0.length(flat) == L0_PIXELS.length(flat) == 2


def test_no_answer_depends_on_the_batch(model, digits):
    x, y = digits.inputs(list(range(6))), torch.from_numpy(digits.labels[:6])
    whole = Nearest("fast")(model, x, y, Threat("l0")).upper
    alone = torch.cat([Nearest("fast")(model, x[[i]], y[[i]], Threat("l0")).upper for i in range(6)])
    assert torch.equal(whole, alone)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "nearest"])
def test_other_methods_say_that_they_do_not_count(name, linear):
    model, x, y = linear
    answer = METHODS[name]()(model, x[:3], y[:3], Threat("l0"))
    assert (answer.status == Status.UNSUPPORTED).all()
    assert COUNTS in answer.note
    if isinstance(answer, Bracket):
        assert (answer.lower == 0).all()
        exact = METHODS[name].kind is Kind.EXACT  # which searches all the same
        assert torch.equal(answer.upper.isinf(), torch.full((3,), not exact))
    else:
        assert answer.distance.isinf().all()


def test_counting_has_no_geometry_and_names_are_known():
    assert tuple(DISTANCES) == DISTANCE_NAMES
    assert tuple(NORMS) == NORM_NAMES
    for use in (lambda: L0.dual, lambda: L0.steepest(torch.ones(1, 2)), lambda: L0.project(0, 0)):
        with pytest.raises(UsageError, match="from above"):
            use()


def test_tables_comparisons_and_the_command_take_l0(checkpoint_path, model, digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--norms", "l0,l2", "--first", "20", "--checks", "4", "--option", "nearest.effort=fast"]
    command = ["measure", "--model", str(checkpoint_path), *options, "--out", "a.h5"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    table = read(tmp_path / "a.h5")
    column = table["nearest.l0"]
    known = column.distance[np.isfinite(column.distance)]
    assert (known == known.round()).all()
    assert (table["first_order.l0.input"].status == Status.UNSUPPORTED).all()
    other = measure(
        model, digits, ["nearest"], ["l0", "l2"], first=20, options={"nearest": {"effort": "fast"}}
    )
    assert "l0" in {found.norm for found in compare(table, other).robust}
    shown = CliRunner().invoke(main, ["compare", "a.h5", "a.h5", "--html", "r.html", "--plots", "p"])
    assert shown.exit_code == 0, shown.output
    assert "l0" in shown.output


def test_a_measurement_in_l0_alone_is_checked_as_far_as_that_goes(model, digits):
    table = measure(model, digits, ["nearest"], ["l0"], first=8, checks=4)
    verdicts = {v["check"]: v for v in table.meta[KEY]["verdicts"]}
    assert verdicts["no-gradient"]["figure"] == 0
    assert verdicts["not-converged"]["note"] == "no search at the input was measured"
