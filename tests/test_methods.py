"""What every method must do, whatever it is: parametrised over METHODS, norms and closed forms."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from closed_form import BOXED, CURVED, FEATURES, LINEAR, Case, Function, linear, linear_distance
from torch import nn
from torch.testing import assert_close

from marginkit.errors import MarginkitError
from marginkit.kinds import Kind, Status
from marginkit.methods import METHODS
from marginkit.methods.first_order import FirstOrder
from marginkit.norms import L2
from marginkit.types import Estimate, Threat

AT_RADII = [name for name, method in METHODS.items() if hasattr(method, "eps") or hasattr(method, "radii")]
# Smoothing is about another classifier: test_smoothing.py.
ABOUT_IT = [name for name, method in METHODS.items() if method.kind is not Kind.SMOOTHED]
MEASURES = [name for name in ABOUT_IT if name not in AT_RADII]
SEARCHES = [name for name in MEASURES if METHODS[name].kind is Kind.UPPER]
PROOFS = [name for name in MEASURES if METHODS[name].kind is Kind.LOWER]
TRACED = [name for name in MEASURES if METHODS[name].kind in (Kind.LOWER, Kind.EXACT)]
methods = pytest.mark.parametrize("name", ABOUT_IT)
measures = pytest.mark.parametrize("name", MEASURES)
searches = pytest.mark.parametrize("name", SEARCHES)
proofs = pytest.mark.parametrize("name", PROOFS)
# How far from the true distance a method may end on a linear classifier: searches above it, by their last
# bisection, PGD by its rounds too; proofs below it.
LOOSENESS = {
    "first_order": 1e-9,
    "deepfool": 1e-6,
    "pgd": 1e-2,
    "nearest": 1e-3,
    "crown": 1e-6,
    "lipschitz": 1e-6,
    "exact": 1e-5,
}


def answer(name, model, x, y, threat, **options):
    patient = {"time_limit": 600.0} if name == "exact" else {}  # however busy the machine
    return METHODS[name](**patient, **options)(model, x, y, threat)


def distance(found) -> torch.Tensor:
    if isinstance(found, Estimate):
        return found.distance[:, 0]
    return found.lower if found.witness is None else found.upper


def at_input(name) -> dict[str, object]:
    return {"layers": ("input",)} if name == "first_order" else {}


def every_rival(name, count=None) -> dict[str, object]:
    """All rivals' boundaries, not only those of the largest logits."""
    if name == "nearest":
        return {"effort": "tight", "rivals": count or 1000}
    return {} if name in TRACED else {"top_k": count}


def fewer(name, samples):
    """What takes long is asked less."""
    count = {"exact": 4}.get(name, 7) if name in TRACED else len(samples[0])
    return tuple(part[:count] for part in samples)


def check_against_closed_form(name: str, case: Case, norm) -> None:
    options = at_input(name) | every_rival(name)
    found = answer(name, case.model, case.x, case.y, Threat(norm, *case.box), **options)
    true = case.distance(norm)
    reachable = true.isfinite()
    ratio = (distance(found) / true)[reachable]
    above, below = (1e-9, LOOSENESS[name]) if name in PROOFS else (LOOSENESS[name], 1e-9)
    assert (ratio >= 1 - below).all(), "no adversarial input is nearer than the boundary"
    assert (ratio <= 1 + above).all(), ratio.max()
    assert (distance(found)[~reachable].isinf()).all()
    assert (found.status.flatten()[~reachable] == Status.EXHAUSTED).all()


@pytest.mark.quick
@pytest.mark.parametrize("case", LINEAR, ids=repr)
@measures
def test_linear_classifiers_have_the_closed_form(name, case, norm):
    check_against_closed_form(name, case, norm)


@pytest.mark.parametrize("case", BOXED, ids=repr)
@searches
def test_linear_classifiers_in_the_box_have_the_solvers_distance(name, case, norm):
    check_against_closed_form(name, case, norm)


def test_the_box_binds_in_the_boxed_cases(norm):
    for boxed, free in zip(BOXED, (LINEAR[0], LINEAR[1]), strict=True):
        assert (boxed.distance(norm) > free.distance(norm) * 1.01).any()


@pytest.mark.parametrize("case", CURVED, ids=repr)
@searches
def test_level_sets_are_reached_from_the_origin_where_the_gradient_is_zero(name, case, norm):
    found = answer(name, case.model, case.x, case.y, Threat(norm, *case.box))
    ratio = found.upper / case.distance(norm)
    assert (ratio >= 1 - 1e-9).all()
    assert (ratio <= 1.02).all(), ratio


@pytest.mark.parametrize("case", [*BOXED, *CURVED], ids=repr)
@proofs
def test_a_proof_never_claims_more_than_the_distance(name, case, norm):
    found = answer(name, case.model, case.x, case.y, Threat(norm, *case.box))
    assert (found.lower <= case.distance(norm) * (1 + 1e-9)).all()
    assert found.upper.isinf().all()


@pytest.mark.parametrize("search", SEARCHES)
@proofs
def test_what_is_proved_is_no_farther_than_what_is_found(name, search, norm, network, samples):
    x, y = samples
    proved = answer(name, network, x, y, Threat(norm)).lower
    assert (proved <= answer(search, network, x, y, Threat(norm)).upper * (1 + 1e-9)).all()


@searches
def test_witnesses_are_in_the_box_misclassified_and_at_the_distance(name, norm, network, samples):
    x, y = samples
    single = copy.deepcopy(network).float()
    found = answer(name, single, x.float(), y, Threat(norm))
    assert found.witness is not None
    ok = found.status == Status.OK
    assert ok.sum() >= 10
    witness = found.witness[ok]
    assert ((witness >= 0) & (witness <= 1)).all()
    scores = network(witness.double())  # in float64, though found in float32
    assert (scores.argmax(1) != y[ok]).all()
    assert_close(scores.argmax(1), found.rival[ok])
    assert_close(norm.length(witness.double() - x.float().double()[ok]), found.upper[ok], rtol=0, atol=0)
    assert not found.lower.any(), "a search proves nothing"


@searches
def test_what_is_found_is_no_farther_than_first_order_by_much(name, norm, network, samples):
    """A sanity check against failures that look like robustness; the digits are nearly linear."""
    x, y = samples
    predicted = FirstOrder(layers=("input",))(network, x, y, Threat(norm)).distance[:, 0]
    found = answer(name, network, x, y, Threat(norm)).upper
    right = predicted > 0
    assert (found[right] / predicted[right]).median() < 1.5


@methods
def test_a_batch_gives_what_its_samples_give_alone_in_any_order(name, norm, network, samples):
    x, y = fewer(name, samples)
    whole = distance(answer(name, network, x, y, Threat(norm)))
    alone = torch.cat(
        [
            distance(answer(name, network, x[i : i + 1], y[i : i + 1], Threat(norm)))
            for i in range(min(8, len(x)))
        ]
    )
    assert_close(alone, whole[:8], rtol=1e-6, atol=1e-9)
    order = torch.randperm(len(x))
    shuffled = distance(answer(name, network, x[order], y[order], Threat(norm)))
    assert_close(shuffled, whole[order], rtol=1e-6, atol=1e-9)


class Times(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale


@measures
def test_scaling_the_inputs_scales_the_distances(name, norm, network, samples):
    x, y = fewer(name, samples)
    scaled = nn.Sequential(Times(1 / 8), network)
    before = distance(answer(name, network, x, y, Threat(norm), **at_input(name)))
    after = distance(answer(name, scaled, 8 * x, y, Threat(norm, 0.0, 8.0), **at_input(name)))
    assert_close(after, 8 * before, rtol=2e-3 if name in PROOFS else 1e-6, atol=1e-9)


@methods
def test_the_model_is_left_as_it_was(name, norm):
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(9, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Linear(8, 3)
    )
    model[2].eval()  # a frozen BatchNorm in a model that trains
    model[1].bias.requires_grad_(False)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter) if parameter.requires_grad else None
    before = copy.deepcopy(model)
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    x = torch.rand(6, 1, 3, 3)
    with torch.no_grad():
        y = copy.deepcopy(model).eval()(x).argmax(1)
    answer(name, model, x, y, Threat(norm))
    for old, new in zip(before.modules(), model.modules(), strict=True):
        assert old.training == new.training
    for old, new in zip(before.state_dict().values(), model.state_dict().values(), strict=True):
        assert torch.equal(old, new)
    for old, new, grad in zip(before.parameters(), model.parameters(), grads, strict=True):
        assert old.requires_grad == new.requires_grad
        assert grad is new.grad is None or torch.equal(grad, new.grad)
    assert not x.requires_grad


@methods
def test_misclassified_samples_are_at_distance_zero_or_negative(name, norm, network, samples):
    x, _ = samples
    wrong = (network(x).argmax(1) + 1) % 10
    found = answer(name, network, x, wrong, Threat(norm))
    assert (found.status == Status.MISCLASSIFIED).all()
    if isinstance(found, Estimate):
        assert (found.distance < 0).all()
    else:
        assert not found.upper.any()
        assert not found.lower.any()
        assert found.witness is None or torch.equal(found.witness, x)


@measures
def test_nan_scores_mark_their_sample_and_no_other(name, norm):
    case = linear(3)
    broken = Function(lambda z: torch.where(z[:, :1] > 2, torch.nan, case.model(z)))
    x = case.x.clone()
    x[4, 0] = 3
    found = answer(name, broken, x, case.y, Threat(norm, None, None), **at_input(name))
    status = found.status.flatten()
    assert status[4] == Status.NONFINITE
    others = Status.UNSUPPORTED if name in TRACED else Status.OK
    assert (status[torch.arange(len(x)) != 4] == others).all()


@searches
def test_a_model_without_adversarial_inputs_exhausts_the_search(name, norm):
    constant = Function(lambda z: torch.stack([1 + 0 * z.sum(1), 0 * z.sum(1)], 1))
    found = answer(name, constant, torch.rand(4, 5).double(), torch.zeros(4, dtype=torch.long), Threat(norm))
    assert (found.status == Status.EXHAUSTED).all()
    assert found.upper.isinf().all()
    assert found.witness.isnan().all()
    assert (found.rival == -1).all()


@proofs
def test_proofs_respect_the_mask(name, norm):
    case, mask = linear(2), torch.arange(FEATURES) >= 3
    proved = answer(name, case.model, case.x, case.y, Threat(norm, None, None, mask)).lower
    found = answer("deepfool", case.model, case.x, case.y, Threat(norm, None, None, mask)).upper
    assert (proved <= found * (1 + 1e-9)).all()
    assert proved.all()


@searches
def test_frozen_features_stay(name, norm):
    """With a mask, a linear classifier's distance is that of the free features alone."""
    case = linear(2)
    mask = torch.arange(FEATURES) >= 3
    found = answer(name, case.model, case.x, case.y, Threat(norm, None, None, mask))
    assert torch.equal(found.witness[:, :3], case.x[:, :3])
    weight = case.model.weight
    normal = (weight[0] - weight[1])[3:].expand(len(case.x), 3)
    scores = case.model(case.x)
    expected = (scores[:, 0] - scores[:, 1]).abs() / norm.dual.length(normal)
    assert_close(found.upper, expected, rtol=LOOSENESS[name], atol=0)


def test_first_order_respects_the_mask(norm):
    case = linear(2)
    mask = torch.arange(FEATURES) >= 3
    found = FirstOrder(layers=("input",))(case.model, case.x, case.y, Threat(norm, mask=mask)).distance[:, 0]
    searched = METHODS["deepfool"]()(case.model, case.x, case.y, Threat(norm, None, None, mask)).upper
    assert_close(found, searched, rtol=1e-6, atol=0)


@searches
def test_bounds_may_differ_by_feature(name, norm):
    case = BOXED[0]
    low, high = torch.zeros(FEATURES), torch.ones(FEATURES)
    per_feature = answer(name, case.model, case.x, case.y, Threat(norm, low, high)).upper
    assert_close(per_feature, answer(name, case.model, case.x, case.y, Threat(norm)).upper)
    high[0] = 1e3
    wider = answer(name, case.model, case.x, case.y, Threat(norm, low, high)).upper
    assert (wider <= per_feature * (1 + 1e-2)).all()


@pytest.mark.parametrize("name", SEARCHES + PROOFS)
def test_inputs_outside_the_box_are_refused(name, norm):
    case = linear(2)
    with pytest.raises(MarginkitError, match=r"outside the box.*--bounds"):
        answer(name, case.model, case.x + 1, case.y, Threat(norm))


@methods
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_it_works_where_gradients_are_off(name, context):
    case = linear(3)
    expected = distance(answer(name, case.model, case.x, case.y, Threat(L2), **at_input(name)))
    with context():
        x = case.x.clone()
        found = distance(answer(name, case.model, x, case.y, Threat(L2), **at_input(name)))
    assert_close(found, expected)


@methods
def test_one_score_models_are_refused(name):
    with pytest.raises(MarginkitError, match="at least 2 classes"):
        answer(
            name,
            nn.Linear(4, 1),
            torch.rand(3, 4),
            torch.zeros(3, dtype=torch.long),
            Threat(L2),
            **at_input(name),
        )


@methods
def test_labels_beyond_the_scores_are_refused(name):
    with pytest.raises(MarginkitError, match=r"labels must lie in 0\.\.2"):
        answer(name, nn.Linear(4, 3), torch.rand(2, 4), torch.tensor([0, 3]), Threat(L2), **at_input(name))


@pytest.mark.parametrize("name", ["first_order", *SEARCHES])
def test_more_rivals_than_there_are_is_all(name, norm, network, samples):
    x, y = samples
    options = [every_rival(name, count) for count in (None, 9, 50)]
    first, *others = [distance(answer(name, network, x, y, Threat(norm), **option)) for option in options]
    for other in others:
        assert_close(first, other)


def test_first_order_is_one_column_a_layer_in_order(network, samples):
    x, y = samples
    found = FirstOrder(layers=("hidden2", "input"))(network, x, y, Threat(L2))
    assert found.layers == ("hidden2", "input")
    assert_close(
        found.distance[:, 1], FirstOrder(layers=("input",))(network, x, y, Threat(L2)).distance[:, 0]
    )


def test_first_order_at_the_last_hidden_layer_is_the_linear_closed_form(network, samples, norm):
    """From there on the network is linear, and its distances at that layer are exact."""
    x, y = samples
    found = FirstOrder(layers=("hidden2",), top_k=None)(network, x, y, Threat(norm)).distance[:, 0]
    assert_close(found, linear_distance(network(x), network.scores.weight, y, norm))


def test_softmax_would_give_sinh_on_a_binary_linear_model():
    """Why distances are measured on logits."""
    case = linear(2)
    x = case.x.clone().requires_grad_()
    p = case.model(x).softmax(1).gather(1, torch.stack([case.y, 1 - case.y], 1))
    difference = p[:, 0] - p[:, 1]
    (gradient,) = torch.autograd.grad(difference.sum(), x)
    scores = case.model(case.x).gather(1, torch.stack([case.y, 1 - case.y], 1))
    margin = scores[:, 0] - scores[:, 1]
    expected = margin.sinh() / (margin / case.distance(L2))
    assert_close((difference / L2.length(gradient)).detach(), expected.detach())


def test_zero_gradients_give_no_estimate():
    flat = Function(lambda z: torch.stack([1 + 0 * z.sum(1), 0 * z.sum(1)], 1))
    found = FirstOrder(layers=("input",))(flat, torch.rand(2, 3).double(), torch.tensor([0, 1]), Threat(L2))
    assert found.distance.flatten().tolist() == [torch.inf, -torch.inf]
    assert found.status.flatten().tolist() == [Status.EXHAUSTED, Status.MISCLASSIFIED]


def test_a_tie_is_at_distance_zero_whatever_the_gradient():
    tied = Function(lambda z: torch.zeros(len(z), 2, dtype=z.dtype) + 0 * z.sum(1, keepdim=True))
    found = FirstOrder(layers=("input",))(tied, torch.rand(2, 3).double(), torch.tensor([0, 1]), Threat(L2))
    assert found.distance.flatten().tolist() == [0, 0]
    assert (found.status == Status.MISCLASSIFIED).all()


def test_pgd_starts_are_seeded():
    """From the origin of a sphere the first step is random."""
    case = CURVED[0]
    runs = [
        answer("pgd", case.model, case.x, case.y, Threat(L2, None, None), seed=seed) for seed in (0, 0, 1)
    ]
    assert torch.equal(runs[0].witness, runs[1].witness)
    assert not torch.equal(runs[0].witness, runs[2].witness)


@pytest.mark.quick
def test_methods_are_frozen_options():
    for method in METHODS.values():
        assert replace(method()) == method()
        assert hash(method()) == hash(method())
