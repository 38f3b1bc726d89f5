"""torchattacks under our verification."""

from __future__ import annotations

import copy

import pytest
import torch
from closed_form import BOXED
from torch import nn

from marginkit.errors import MarginkitError, UsageError
from marginkit.kinds import Status
from marginkit.methods.configure import configure_methods
from marginkit.methods.torchattacks import TorchAttack
from marginkit.norms import L2, LINF
from marginkit.types import Threat


@pytest.fixture(scope="module")
def image_network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))
    x = torch.rand(12, 1, 8, 8)
    return model, x, model(x).argmax(1)


@pytest.mark.parametrize(
    ("attack", "arguments", "norm"),
    [
        ("DeepFool", {"steps": 50}, L2),
        ("CW", {"c": 10, "steps": 100}, L2),
        ("FAB", {"norm": "Linf", "eps": 1.0, "steps": 5, "n_classes": 3}, LINF),
        ("PGD", {"eps": 0.2, "alpha": 0.02, "steps": 20}, LINF),
        ("AutoAttack", {"norm": "Linf", "eps": 0.2, "n_classes": 3}, LINF),
    ],
)
def test_what_it_finds_is_verified_and_the_rest_is_exhausted(image_network, attack, arguments, norm):
    model, x, y = image_network
    before = copy.deepcopy(model.state_dict())
    found = TorchAttack(attack, tuple(arguments.items()))(model, x, y, Threat(norm))
    ok = found.status == Status.OK
    assert ok.any()
    assert set(found.status.tolist()) <= {Status.OK, Status.EXHAUSTED}
    assert (model(found.witness[ok]).argmax(1) != y[ok]).all()
    assert found.upper[~ok].isinf().all()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_a_failed_attack_is_no_distance(image_network):
    model, x, y = image_network
    found = TorchAttack("PGD", (("eps", 1e-6), ("steps", 2)))(model, x, y, Threat(LINF))
    assert (found.status == Status.EXHAUSTED).all()


def test_another_box_is_mapped_onto_the_librarys(image_network):
    model, x, y = image_network
    plain = TorchAttack("DeepFool")(model, x, y, Threat(L2))
    wide = nn.Sequential(Halved(), model)
    scaled = TorchAttack("DeepFool")(wide, 4 * x - 2, y, Threat(L2, -2.0, 2.0))
    hit = (plain.status == Status.OK) & (scaled.status == Status.OK)
    assert hit.any()
    torch.testing.assert_close(scaled.upper[hit], 4 * plain.upper[hit], rtol=1e-3, atol=0)


class Halved(nn.Module):
    def forward(self, x):
        return (x + 2) / 4


def test_it_is_seeded(image_network):
    model, x, y = image_network
    state = torch.get_rng_state()
    attack = TorchAttack("Square", (("eps", 0.1), ("n_queries", 20)), seed=1)
    runs = [attack(model, x, y, Threat(LINF)).witness.nan_to_num() for _ in range(2)]
    assert torch.equal(*runs)
    assert torch.equal(state, torch.get_rng_state())


def test_unknown_attacks_and_options_are_refused():
    with pytest.raises(UsageError, match=r"no attack 'Nope'; choose from .*CW"):
        TorchAttack("Nope")
    with pytest.raises(UsageError, match="torchattacks:CW has no option 'stepz'; it has c, kappa, steps, lr"):
        TorchAttack("CW", (("stepz", 1),))


def test_inputs_it_cannot_take_are_one_sentence():
    case = BOXED[0]
    model = copy.deepcopy(case.model).float()
    with pytest.raises(MarginkitError, match="torchattacks:AutoAttack fails on this model"):
        TorchAttack("AutoAttack")(model, case.x.float(), case.y, Threat(L2))
    with pytest.raises(UsageError, match="needs a box of two numbers"):
        TorchAttack("CW")(model, case.x.float(), case.y, Threat(L2, None, None))


def test_columns_can_have_names_of_their_own():
    found = configure_methods(
        ["deepfool", "far=nearest", "torchattacks:CW"],
        {"far": {"effort": "tight"}, "torchattacks:CW": {"steps": "7"}},
        {"seed": 3},
    )
    assert list(found) == ["deepfool", "far", "torchattacks:CW"]
    assert found["far"].effort == "tight"
    assert found["torchattacks:CW"] == TorchAttack("CW", (("steps", 7),), seed=3)
    with pytest.raises(UsageError, match="can't name a column"):
        configure_methods(["a.b=nearest"])
