"""`crown` by planes: never below what lines prove, never above the distance, and farther in the median."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from marginkit.errors import UsageError
from marginkit.kinds import Status
from marginkit.methods.certify.farther import farther
from marginkit.methods.crown import Crown
from marginkit.methods.nearest import Nearest
from marginkit.norms import L1, LINF
from marginkit.types import Threat


@pytest.mark.quick
@pytest.mark.parametrize("end", [1.0, 1.04, 1.3, 1.9, 50.0])
@pytest.mark.parametrize("tries", [0, 1, 4, 8])
def test_what_is_proved_is_found_between_the_start_and_its_end(end, tries):
    asked = []

    def proves(radius: float) -> bool:
        asked.append(radius)
        return radius <= end

    found = farther(proves, 1.0, 40.0, tries)
    assert 1.0 <= found <= max(1.0, end)
    assert len(asked) <= tries
    assert all(1.0 < radius <= 40.0 for radius in asked)
    if tries == 8 and end < 2:
        assert found >= end / 1.1


@pytest.mark.quick
def test_nothing_is_asked_where_nothing_or_everything_is_proved():
    assert farther(lambda radius: pytest.fail(str(radius)), 0.0, 1.0, 4) == 0.0
    assert farther(lambda radius: pytest.fail(str(radius)), 1.0, 1.0, 4) == 1.0
    assert farther(lambda radius: True, 0.99, 1.0, 4) == 1.0


def test_radii_by_planes_are_larger_and_hold(network, samples):
    x, y, threat = samples[0][:8], samples[1][:8], Threat(LINF, 0.0, 1.0)
    plain, planes, found = (
        method(network, x, y, threat) for method in (Crown(), Crown(planes=3), Nearest("fast"))
    )
    right = plain.status == Status.OK
    assert (planes.lower >= plain.lower).all()
    assert (planes.lower <= found.upper * (1 + 1e-9)).all()
    assert (planes.lower / plain.lower)[right].median() > 1.02
    alone = Crown(planes=3)(network, x[:1], y[:1], threat)
    torch.testing.assert_close(alone.lower, planes.lower[:1], rtol=2e-3, atol=0)


@pytest.mark.parametrize("looser", [{"bounds": "crown-ibp"}, {"slopes": "same"}], ids=str)
def test_bounds_that_were_asked_to_be_looser_stay_so(network, samples, looser):
    x, y, threat = samples[0][:4], samples[1][:4], Threat(LINF, 0.0, 1.0)
    assert torch.equal(
        Crown(planes=2, **looser)(network, x, y, threat).lower, Crown(**looser)(network, x, y, threat).lower
    )


def test_other_norms_have_none(network, samples):
    x, y, threat = samples[0][:1], samples[1][:1], Threat(L1, 0.0, 1.0)
    assert torch.equal(Crown(planes=2)(network, x, y, threat).lower, Crown()(network, x, y, threat).lower)


def test_max_pooling_and_smooth_units_gain_too():
    for layer in (nn.MaxPool2d(2), nn.GELU()):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), layer, nn.Flatten(), nn.LazyLinear(8), nn.ReLU())
        model.append(nn.Linear(8, 3))
        x = torch.rand(2, 1, 6, 6)
        y, threat = model(x).argmax(1), Threat(LINF, 0.0, 1.0)
        plain, planes = (Crown(planes=tries)(model, x, y, threat).lower for tries in (0, 2))
        assert (planes >= plain).all()
        assert (planes > 1.01 * plain).any()
        assert (planes <= Nearest("fast")(model, x, y, threat).upper).all()


def test_fewer_than_no_proofs_are_refused():
    with pytest.raises(UsageError, match="planes = -1 proofs: give 0 for none"):
        Crown(planes=-1)
