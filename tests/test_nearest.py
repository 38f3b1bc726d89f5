"""`nearest` against exact distances of ReLU networks, and what its parts promise."""

from __future__ import annotations

import itertools
from dataclasses import FrozenInstanceError, asdict, replace

import numpy as np
import pytest
import torch
from closed_form import Function, linear
from scipy import optimize
from torch import nn

from marginkit.data.dataset import batches
from marginkit.data.sources import load
from marginkit.errors import UsageError
from marginkit.guard.passes import Meter
from marginkit.kinds import Status
from marginkit.methods.nearest import EFFORTS, Nearest
from marginkit.methods.search.nearing import nearing
from marginkit.methods.search.path import wander
from marginkit.methods.search.polytope import Region, least_distance
from marginkit.methods.search.refinement import Attempts, refine
from marginkit.methods.search.starts import Start
from marginkit.methods.search.verification import is_adversarial
from marginkit.norms import L1, L2, LINF, NORMS
from marginkit.types import Threat

FEATURES, HIDDEN, SAMPLES = 4, 6, 8


@pytest.fixture(scope="module", params=[0, 1])
def relu_network(request):
    """One hidden layer, so that its regions can be enumerated: 2^6.

    Seeds with which no sample is missed; docs/methods.md tells of one that is, with another seed.
    """
    return one_hidden_layer(request.param, FEATURES, SAMPLES)


def one_hidden_layer(seed: int, features: int, samples: int) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(features, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 3)).double()
    x = torch.rand(samples, features, dtype=torch.float64)
    return model, x, model(x).argmax(1)


def exact(model, x: np.ndarray, y: int, norm, box) -> float:
    """The least distance over every linear region, by a general solver: no code shared with the search."""
    w, b = (p.detach().numpy() for p in model[0].parameters())
    v, c = (p.detach().numpy() for p in model[2].parameters())
    low, high = (-np.inf, np.inf) if box is None else box
    best = np.inf
    for signs in itertools.product([-1, 1], repeat=HIDDEN):
        on = np.array(signs) > 0
        for rival in set(range(3)) - {y}:
            lead = (v[rival] - v[y]) * on
            rows = np.vstack([lead @ w, np.array(signs)[:, None] * w])
            level = np.r_[-(lead @ b + c[rival] - c[y]), -np.array(signs) * b]
            best = min(best, SOLVE[norm.name](x, rows, level, low, high))
    return best


def _lp(x, rows, level, low, high, cost, extra):
    n = len(x)
    width = extra.shape[1] - n
    bounds = [(low, high)] * n + [(0, None)] * width
    solved = optimize.linprog(
        cost, np.vstack([np.hstack([-rows, np.zeros((len(rows), width))]), extra]),
        np.r_[-level, x, -x], bounds=bounds,
    )  # fmt: skip
    return solved.fun if solved.success else np.inf


def _linf(x, rows, level, low, high):
    n, eye = len(x), np.eye(len(x))
    extra = np.vstack([np.hstack([eye, -np.ones((n, 1))]), np.hstack([-eye, -np.ones((n, 1))])])
    return _lp(x, rows, level, low, high, np.r_[np.zeros(n), 1], extra)


def _l1(x, rows, level, low, high):
    n, eye = len(x), np.eye(len(x))
    return _lp(
        x, rows, level, low, high, np.r_[np.zeros(n), np.ones(n)], np.block([[eye, -eye], [-eye, -eye]])
    )


def _l2(x, rows, level, low, high):
    feasible = optimize.linprog(np.zeros(len(x)), -rows, -level, bounds=[(low, high)] * len(x))
    if not feasible.success:
        return np.inf
    solved = optimize.minimize(
        lambda z: 0.5 * (z - x) @ (z - x), feasible.x, jac=lambda z: z - x, method="SLSQP",
        bounds=[(low, high)] * len(x), options={"ftol": 1e-15, "maxiter": 300},
        constraints={"type": "ineq", "fun": lambda z: rows @ z - level, "jac": lambda z: rows},
    )  # fmt: skip
    return float(np.linalg.norm(solved.x - x)) if (rows @ solved.x - level).min() > -1e-9 else np.inf


SOLVE = {"l1": _l1, "l2": _l2, "linf": _linf}


@pytest.mark.parametrize("box", [None, (0.0, 1.0)], ids=["free", "box"])
def test_relu_networks_distances_are_found(relu_network, norm, box):
    """The enumeration of all linear regions gives the exact distance; `tight` finds it."""
    model, x, y = relu_network
    found = Nearest("tight")(model, x, y, Threat(norm, *(box or (None, None)))).upper.numpy()
    true = np.array([exact(model, p, int(k), norm, box) for p, k in zip(x.numpy(), y, strict=True)])
    assert np.array_equal(np.isinf(found), np.isinf(true))
    ratio = (found / true)[np.isfinite(true)]
    assert len(ratio) >= 4
    assert ratio.min() >= 1 - 1e-6
    assert np.median(ratio) <= 1.002, ratio
    assert ratio.mean() <= 1.01, ratio
    assert ratio.max() <= 1.05, ratio


@pytest.mark.parametrize("seed", [1, 2])
def test_slow_steps_go_on_towards_the_nearest_input_in_l1(seed):
    """The mean excess over the exact distance falls to a quarter, nobody ends farther; in L1 alone."""
    model, x, y = one_hidden_layer(seed, 8, 4)
    plan = {"starts": ("denser:0",), "stages": ((10, 1, 1.0),), "precision": 2**-20}
    true = torch.tensor([exact(model, p, int(k), L1, (0.0, 1.0)) for p, k in zip(x.numpy(), y, strict=True)])
    usual, slow = (Nearest(slow=steps, **plan)(model, x, y, Threat(L1)).upper / true for steps in (0, 40))
    met = true.isfinite()
    assert (slow[met] <= usual[met] + 1e-6).all()
    assert (slow[met] - 1).mean() <= (usual[met] - 1).mean() / 4
    for norm in (L2, LINF):
        ends = (Nearest(slow=steps, **plan)(model, x, y, Threat(norm)).upper for steps in (0, 40))
        assert torch.equal(*ends)


@pytest.mark.parametrize("seed", [1, 2, 5])
def test_memory_leads_nearer_in_linf_where_the_boundary_kinks(seed):
    """The mean excess over the exact distance falls to a half, nobody ends farther; in Linf alone."""
    model, x, y = one_hidden_layer(seed, 8, 8)
    plan = {"starts": ("denser:0",), "stages": ((10, 1, 1.0),), "precision": 2**-20}
    true = torch.tensor(
        [exact(model, p, int(k), LINF, (0.0, 1.0)) for p, k in zip(x.numpy(), y, strict=True)]
    )
    usual, kept = (Nearest(memory=m, **plan)(model, x, y, Threat(LINF)).upper / true for m in (0.0, 0.3))
    alone = [Nearest(memory=0.3, **plan)(model, x[[i]], y[[i]], Threat(LINF)).upper for i in range(len(x))]
    torch.testing.assert_close(torch.cat(alone), kept * true, rtol=1e-9, atol=0)
    met = true.isfinite()
    assert met.any()
    assert (kept[met] <= usual[met] + 1e-6).all()
    assert (kept[met] - 1).mean() <= (usual[met] - 1).mean() / 2
    for norm in (L1, L2):
        ends = (Nearest(memory=m, **plan)(model, x, y, Threat(norm)).upper for m in (0.0, 0.3))
        assert torch.equal(*ends)


def test_memory_does_not_depend_on_the_scale_of_the_scores():
    """Gradients of other lengths have the same share: where one rival takes over from another too."""
    model, x, y = one_hidden_layer(2, 8, 8)
    search = Nearest(memory=0.3, stages=((10, 1, 1.0),))
    larger = Function(lambda z: 1024 * model(z))
    found, scaled = (search(net, x, y, Threat(LINF)).upper for net in (model, larger))
    torch.testing.assert_close(found, scaled, rtol=1e-9, atol=0)


def test_l1_has_stages_of_its_own(network, norm):
    """Those of all norms where it has none; and where an effort's others are replaced."""
    _, x, y = next(batches(load("digits"), 12))
    x, threat = x.double(), Threat(norm)
    all_, own = ((6, 1, 1.0), (15, 1, 1.0)), ((3, 2, 2.0), (5, 1, 1.0))
    found = Nearest(stages=all_, l1_stages=own)(network, x, y, threat).upper
    as_if = Nearest(stages=own if norm is L1 else all_)(network, x, y, threat).upper
    assert torch.equal(found, as_if)
    assert Nearest("thorough").l1_stages
    assert not Nearest("thorough", stages=all_).l1_stages


def test_more_effort_finds_nearer_inputs(network, norm):
    """In the mean: a single sample may keep another start."""
    _, x, y = next(batches(load("digits"), 60))
    x = x.double()
    efforts = [effort for effort in EFFORTS if effort != "exhaustive"]  # which goes on from `thorough`
    found = [Nearest(effort)(network, x, y, Threat(norm)).upper for effort in efforts]  # type: ignore[arg-type]
    assert all(part.isfinite().all() for part in found)
    for less, more in itertools.pairwise(found):
        assert more.mean() <= less.mean() * (1 + 1e-6)


@pytest.mark.parametrize(
    ("effort", "passes"), {"fast": 20, "balanced": 45, "tight": 370, "thorough": 620}.items()
)
def test_an_effort_costs_the_passes_that_it_says(network, norm, effort, passes):
    """A third more or less: without the polish, whose price are the ReLUs."""
    _, x, y = next(batches(load("digits"), 20))
    passes = {"tight": 410, "thorough": 900}.get(effort, passes) if norm is L1 else passes
    meter = Meter()
    with meter.counting(network):
        Nearest(effort, units=0)(network, x.double(), y, Threat(norm))
    assert passes / 1.34 < meter.total / len(x) < passes * 1.34


def test_hopping_brings_a_witness_nearer_that_lies_in_a_far_pocket(network, norm):
    """From a witness twice as far as need be to one of the best known; never farther; the same again."""
    _, x, y = next(batches(load("digits"), 4))
    x, threat = x.double(), Threat(norm)
    best = Nearest("tight")(network, x, y, threat)
    assert best.witness is not None
    far = threat.clip(x, x + 2 * (best.witness - x))
    far[3] = torch.nan
    near, again = (nearing(network, x, y, threat, far, 3, 2**-10) for _ in range(2))
    assert torch.equal(near[:3], again[:3])
    assert near[3].isnan().all()
    assert is_adversarial(network, near[:3], y[:3]).all()
    lengths = [norm.length(part[:3] - x[:3]) for part in (near, far, best.witness)]
    assert (lengths[0] <= lengths[1]).all()
    assert lengths[0].mean() <= 1.1 * lengths[2].mean()


def test_polish_is_what_closes_the_last_gap(network, samples, norm):
    x, y = samples
    rough = {"starts": ("linf:0",), "stages": ((5, 1, 1.0),)}
    without = Nearest(units=0, **rough)(network, x, y, Threat(norm)).upper
    polished = Nearest(units=100, **rough)(network, x, y, Threat(norm)).upper
    assert (polished <= without).all()
    assert (polished < without * (1 - 1e-3)).any()
    limited = Nearest(units=39, **rough)(network, x, y, Threat(norm)).upper
    assert torch.equal(limited, without)  # the network has 24 + 16 ReLUs


def test_no_region_is_solved_twice(network, samples, norm, monkeypatch):
    """A round looks a hair nearer than the one before, mostly into the same region."""
    solved = []

    def counted(region, norm):
        solved.append(region.normal.round(9).tobytes())
        return region.solved(norm)[0]

    monkeypatch.setattr(Region, "shortest", counted)
    x, y = samples
    found = Nearest("balanced", units=100)(network, x, y, Threat(norm))
    assert found.upper.isfinite().all()
    assert len(x) <= len(solved) == len(set(solved)) < 2 * len(x)


def test_a_lost_sample_is_rescued():
    """A class that linearisation never points to: a small ball far from the input, in the box."""
    centre = torch.full((3,), 0.8, dtype=torch.float64)
    model = Function(
        lambda z: torch.stack(
            [torch.zeros_like(z[:, 0]), torch.relu(0.5 - (z - centre).square().sum(1)) - 0.1], 1
        )
    )
    x = torch.zeros(2, 3, dtype=torch.float64)
    found = Nearest("fast")(model, x, torch.zeros(2, dtype=torch.long), Threat(L2))
    true = L2.length(centre[None]) - 0.4**0.5
    assert (found.status == Status.OK).all()
    torch.testing.assert_close(found.upper, true.expand(2), rtol=2e-3, atol=0)


def test_a_thousand_classes_cost_no_thousand_backward_passes():
    body = nn.Linear(6, 6)
    passes = []

    def count(classes: int) -> int:
        head = nn.Linear(6, classes)
        model = nn.Sequential(body, nn.Tanh(), head)
        body.register_full_backward_hook(lambda *_: passes.append(1))
        x = torch.rand(4, 6)
        passes.clear()
        Nearest("balanced")(model, x, model(x).argmax(1), Threat(L2, None, None))
        return len(passes)

    assert count(1000) <= 2 * count(10)


def test_options_in_the_file_are_those_that_were_used():
    for effort, options in EFFORTS.items():
        assert asdict(Nearest(effort)) == asdict(options)
    assert asdict(Nearest("tight", rivals=2)) == {**asdict(EFFORTS["tight"]), "rivals": 2}
    assert asdict(replace(Nearest("tight"), units=0)) == {**asdict(EFFORTS["tight"]), "units": 0}
    assert list(asdict(Nearest())) == [
        "effort", "rivals", "starts", "stages", "l1_stages", "slow", "memory", "units", "precision",
    ]  # fmt: skip
    assert Nearest("tight") == Nearest("tight", units=512) != Nearest("fast")


def test_options_are_frozen():
    with pytest.raises(FrozenInstanceError):
        Nearest().rivals = 3


@pytest.mark.parametrize("text", ["linf:x", "ball:1", "", "l2:-1", "path:0", "path"])
def test_unknown_starts_are_refused(text):
    with pytest.raises(UsageError, match="is not a start; give l1:RANK"):
        Nearest(starts=(text,))


def waterfilled(features: int) -> tuple[Function, torch.Tensor, torch.Tensor]:
    """A model whose L1-nearest adversarial input moves a third of the features, and how far that is.

    Entry i of z >= 0 lowers the margin by a_i (z - z^2 / 2): at the least sum, a_i (1 - z_i) is equal where
    z_i > 0.
    """
    slope = torch.linspace(0.5, 1, features, dtype=torch.float64)
    most = (slope / 2).sum()
    wanted = 0.14 * most

    def margin(z):
        return wanted - (slope * (z - z.square() / 2)).sum(1)

    low, high = 0.0, 1.0
    for _ in range(100):
        level = (low + high) / 2
        moved = (1 - level / slope).clamp(min=0)
        low, high = (level, high) if margin(moved[None]) < 0 else (low, level)
    model = Function(lambda z: torch.stack([margin(z), torch.zeros_like(z[:, 0])], 1))
    return model, torch.zeros(1, features, dtype=torch.float64), moved.sum()


@pytest.mark.parametrize("effort", ["fast", "balanced"])
@pytest.mark.parametrize("features", [16, 2048])
def test_steps_in_l1_fit_however_many_features_move(features, effort):
    """As near at little effort in two thousand dimensions as in sixteen."""
    model, x, distance = waterfilled(features)
    found = Nearest(effort)(model, x, torch.zeros(1, dtype=torch.long), Threat(L1)).upper
    assert 1 <= found / distance <= 1.01


@pytest.mark.parametrize("options", [{"starts": ()}, {"stages": ()}, {"stages": ((0, 1, 1.0),)}])
def test_an_empty_plan_is_refused(options):
    with pytest.raises(UsageError, match="at least one start and one stage"):
        Nearest(**options)


@pytest.mark.parametrize("steps", [-1, -40])
def test_slow_steps_below_none_are_refused(steps):
    with pytest.raises(UsageError, match=f"slow {steps}"):
        Nearest(slow=steps)


@pytest.mark.parametrize("memory", [-0.1, 1.0, torch.nan])
def test_memory_outside_its_range_is_refused(memory):
    with pytest.raises(UsageError, match=f"memory {memory}; give 0"):
        Nearest(memory=memory)


def test_a_start_reads_its_number():
    assert Start.parse("across:0.4", L2) == Start("across", 0.4)
    assert Start.parse("input", L2) == Start("input", 0.0)
    assert Start.parse("path:100", L2) == Start("path", 100)


def test_own_and_denser_starts_go_by_the_norm_measured():
    for norm, denser in ((L1, "l2"), (L2, "linf"), (LINF, "linf")):
        assert Start.parse("own:1", norm) == Start(norm.name, 1)
        assert Start.parse("denser:2", norm) == Start(denser, 2)


def test_survivors_are_the_best_of_each_sample():
    best = torch.tensor([3.0, 1.0, 1.1, torch.inf, 2.0, 2.5])
    owner = torch.tensor([0, 0, 0, 1, 2, 2])
    nothing = torch.zeros(6, 1)
    pool = Attempts(owner, nothing, best, best, owner > 9, best, nothing)
    assert pool.survivors(3, 2, 1e9).tolist() == [1, 2, 3, 4, 5]
    assert pool.survivors(3, 1, 1e9).tolist() == [1, 3, 4]
    assert pool.survivors(3, 9, 1.05).tolist() == [1, 3, 4]


def test_rounding_does_not_choose_among_equal_attempts():
    """The first of equal ones, wherever a length's last bit falls."""
    best = torch.tensor([1 + 2**-20, 1, 2, 2 + 2**-20, 0.5], dtype=torch.float64)
    owner, nothing = torch.tensor([0, 0, 1, 1, 2]), torch.zeros(5, 1)
    pool = Attempts(owner, nothing, best, best, owner > 9, best, nothing)
    assert pool.survivors(3, 1, 1.0).tolist() == [0, 2, 4]


@pytest.mark.parametrize("seed", [3, 4, 7])
def test_l1_on_a_convolution_is_found_alike_in_any_batch(seed):
    """Sparse displacements of equal length abound there, and convolutions round by the size of the batch."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, stride=2), nn.ReLU(), nn.Flatten(),
        nn.Linear(36, 5),
    ).eval()  # fmt: skip
    x = torch.rand(8, 1, 8, 8)
    y = model(x).argmax(1)
    search, threat = Nearest(starts=("l1:0", "input:1")), Threat(L1, None, None)
    together = search(model, x, y, threat).upper
    alone = [search(model, x[i : i + 1], y[i : i + 1], threat).upper for i in range(len(x))]
    torch.testing.assert_close(torch.cat(alone), together, rtol=1e-4, atol=0)


@pytest.mark.parametrize("seed", range(5))
def test_least_distance_is_the_quadratic_programmes(seed):
    rng = np.random.default_rng(seed)
    normal, level = rng.normal(size=(5, 8)), rng.normal(size=5)
    found = least_distance(normal, level)
    solved = optimize.minimize(
        lambda z: 0.5 * z @ z, np.zeros(8), jac=lambda z: z, method="SLSQP", options={"ftol": 1e-15},
        constraints={"type": "ineq", "fun": lambda z: normal @ z - level, "jac": lambda z: normal},
    )  # fmt: skip
    np.testing.assert_allclose(found, solved.x, atol=1e-6)


def test_an_empty_region_has_no_shortest_point():
    rows = np.array([[1.0, 0.0], [-1.0, 0.0]])
    for norm in NORMS.values():
        empty = Region(rows, np.array([1.0, 1.0]), np.full(2, -np.inf), np.full(2, np.inf))
        assert empty.shortest(norm) is None
        out_of_reach = Region(rows[:1], np.array([2.0]), np.full(2, -1.0), np.full(2, 1.0))
        assert out_of_reach.shortest(norm) is None


def test_the_box_binds_in_a_region():
    region = Region(np.array([[1.0, 1.0]]), np.array([1.0]), np.array([-1.0, -1.0]), np.array([0.2, 5.0]))
    for norm, expected in ((L2, [0.2, 0.8]), (LINF, [0.2, 0.8])):
        np.testing.assert_allclose(region.shortest(norm), expected, atol=1e-9)


def test_an_attempt_grows_until_it_meets_the_boundary(norm):
    """From a radius 500 times too small, in twenty steps: growth does not cool down before that."""
    case = linear(2)
    distance = case.distance(norm)
    nothing, few = torch.zeros_like(case.x), distance / 500
    owner, unmet = torch.arange(len(case.x)), torch.full_like(distance, torch.inf)
    pool = Attempts(owner, nothing, few, torch.ones_like(few), owner < 0, unmet, nothing)
    found = refine(case.model, case.x, case.y, Threat(norm, None, None), pool, 20)
    assert found.best.isfinite().all()
    assert (found.best >= distance).all()


def test_a_path_ends_near_the_boundary_whatever_the_scales():
    """Of the inputs and of the scores: the same points, as neither enters into a step."""
    case = linear(3)
    distance, threat = case.distance(L2), Threat(L2, None, None)
    found = wander(case.model, case.x, case.y, threat, 3 * distance, 100)
    assert (L2.length(found - case.x) / distance <= 1.1).all()
    assert (case.model(found).argmax(1) != case.y).all()
    far = Function(lambda z: 1e4 * case.model(z / 255))
    scaled = wander(far, 255 * case.x, case.y, threat, 3 * 255 * distance, 100)
    torch.testing.assert_close(scaled / 255, found, rtol=1e-6, atol=1e-9)


def test_a_path_stays_in_the_box_and_moves_no_frozen_feature():
    case = linear(3)
    x, threat = case.x.clamp(0.2, 0.8), Threat(L2, 0.0, 1.0, [True, False, *[True] * (case.x.shape[1] - 2)])
    y = case.model(x).argmax(1)
    found = wander(case.model, x, y, threat, torch.full((len(x),), 0.5, dtype=x.dtype), 60)
    met = ~found.isnan().any(1)
    assert met.any()
    assert threat.contains(found[met]).all()
    assert torch.equal(found[met, 1], x[met, 1])


@pytest.mark.parametrize("effort", [effort for effort in EFFORTS if effort != "fast"])
def test_the_nearest_boundary_may_be_the_fourth_rivals_by_logit(effort, norm):
    """Three rivals have larger logits, and one that is steeper the nearest boundary."""
    model = nn.Linear(4, 5).double()
    slopes = torch.tensor([0.0, 1.0, 1.1, 1.2, 30.0], dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(torch.diag(slopes)[:, 1:])
        model.bias.copy_(torch.tensor([0.0, -1, -2, -3, -4]))
    x, y = torch.zeros(1, 4, dtype=torch.float64), torch.zeros(1, dtype=torch.long)
    found = Nearest(effort=effort)(model, x, y, Threat(norm, None, None)).upper
    torch.testing.assert_close(found, torch.tensor([4 / 30], dtype=torch.float64), rtol=1e-3, atol=0)
